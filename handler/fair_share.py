"""Shares processor time out among a batch's images, so that those which take too long cost the others nothing.

Who needs more than a share is stopped and comes again in the next round, when those that needed less are done:

    round    each image still waiting gets
    1        an even share of half the request's seconds
    2, 3 …   an even share of half of what is left, as long as that grows

An image alone gets all that one image may have, at once. However many images of a request pass every limit, they take
two thirds of its seconds at most: 16 of them 7.5 of 15 in one round, one beside 15 good ones 5.5 in two.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from handler.decoder import INSTEAD, Decoded, Decoder, OutOfPixels, OutOfTime
from handler.failures import Code, Failure
from handler.settings import Settings

_SHARED_OUT = 0.5  # of what is left, in each round
_WORTH_IT = 1.25  # how much longer another try has to be than the last one
_OF_RESPONSE_TIMEOUT = 0.2
_RESPONSE_TIMEOUT = 120  # seconds, TorchServe's default
_WAITING = 3.0  # seconds off the processor that count as one on it: who is never done must not wait forever


@dataclass
class Task:
    """One image to decode. request: which of the batch's it belongs to. shown: see Decoder.decode."""

    request: int
    content: bytes
    shown: int | None = None
    result: Decoded | Exception | None = None
    """What became of it: a Failure, or another exception for a defect of ours."""
    _tried: float = 0.0

    def get(self) -> Decoded:
        """The decoded image. Raises what stood in its way."""
        if isinstance(self.result, Decoded):
            return self.result
        assert self.result is not None
        raise self.result


def batch_seconds(config: Mapping[str, object] | None) -> float:
    """Return the processor time that a whole batch's decoding may take, whatever many requests are in it.

    config: model-config.yaml. A decoder may wait for a core as long again, and the network needs its time, too; all
    of it has to end before TorchServe's responseTimeout ends the worker.
    """
    timeout = (config or {}).get("responseTimeout")
    return _OF_RESPONSE_TIMEOUT * (timeout if isinstance(timeout, int) and timeout > 0 else _RESPONSE_TIMEOUT)


def decode_all(decoder: Decoder, tasks: Sequence[Task], settings: Settings, batch_seconds: float) -> None:
    """Decode a batch's images, and put the result of each into its task. Never raises for what an image holds.

    batch_seconds: of processor time for all of them; those of one request have settings.request_seconds.
    """
    seconds = dict.fromkeys({task.request for task in tasks}, settings.request_seconds)
    pixels = dict.fromkeys(seconds, settings.max_request_pixels)
    waiting = list(tasks)
    while waiting:
        in_request = Counter(task.request for task in waiting)
        even = batch_seconds / len(in_request)
        share = {request: _SHARED_OUT * min(seconds[request], even) / count for request, count in in_request.items()}
        for task in waiting:
            limit = min(settings.decode_seconds, share[task.request])
            if limit < _WORTH_IT * task._tried:
                task.result = _out_of_seconds(settings)
                continue
            used = _decode(decoder, task, limit, pixels, settings)
            seconds[task.request] -= used
            batch_seconds -= used
        waiting = [task for task in waiting if task.result is None]


def _decode(decoder: Decoder, task: Task, limit: float, pixels: dict[int, int], settings: Settings) -> float:
    """Try one image for so long. Returns the seconds that it took."""
    begun, cpu_begun = time.monotonic(), decoder.cpu_seconds
    try:
        task.result = decoder.decode(
            task.content,
            seconds=limit,
            max_pixels=settings.max_image_pixels,
            pixels_left=pixels[task.request],
            min_side=settings.min_side,
            shown=task.shown,
        )
        pixels[task.request] -= task.result.pixels
    except OutOfTime as failure:
        task._tried = limit
        if limit >= settings.decode_seconds:
            task.result = failure
    except OutOfPixels:
        task.result = _out_of_pixels(settings)
    except Failure as failure:
        task.result = failure
    except Exception as defect:
        task.result = defect
    return max(decoder.cpu_seconds - cpu_begun, (time.monotonic() - begun) / _WAITING)


def _out_of_seconds(settings: Settings) -> Failure:
    return Failure(
        Code.TOO_COSTLY,
        f"decoding the images of this request takes more than its {settings.request_seconds:g} s of processor time, "
        f"and this one takes much of it; send it in a request of its own, or {INSTEAD}",
    )


def _out_of_pixels(settings: Settings) -> Failure:
    return Failure(
        Code.TOO_COSTLY,
        f"the images of this request have more than {settings.max_request_pixels} pixels together; send this one in "
        "a request of its own, or send it smaller",
    )
