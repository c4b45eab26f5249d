"""Share processor time among a batch's images, so that slow images do not make the others fail.

An image that exceeds its share is stopped, and tried again in the next round after the faster ones are done:

    round    share of each image that is not done
    1        an even share of half the request's seconds
    2, 3 …   an even share of half of the remaining seconds, while the shares grow

A single image gets the whole limit of one image at once. Images that exceed every limit take at most two thirds of
their request's seconds: 16 such images take 7.5 of 15 s in one round; one among 15 good ones takes 5.5 s in two.
"""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from handler.decoder import RESAVE_HINT, Decoded, Decoder, OutOfPixels, OutOfTime
from handler.errors import ErrorCode, RequestError
from handler.settings import Settings

_SHARED_OUT = 0.5  # fraction of the remaining seconds that each round shares out
_WORTH_IT = 1.25  # minimum ratio of a try's limit to the previous try's
_OF_RESPONSE_TIMEOUT = 0.2  # fraction of TorchServe's responseTimeout for decoding a batch
_RESPONSE_TIMEOUT = 120  # seconds, TorchServe's default
_WAITING = 3.0  # wall-clock seconds that count as one second of processor time, so that a stalled image ends, too


@dataclass
class Task:
    """One image to decode.

    request: identifies the request that the image belongs to. shown: see Decoder.decode.
    """

    request: int
    content: bytes
    shown: int | None = None
    result: Decoded | Exception | None = None
    """The decoded image, a RequestError, or another exception for a bug."""
    _tried: float = 0.0

    def get(self) -> Decoded:
        """Return the decoded image.

        Raises:
            Exception: the error that decoding ended with.
        """
        if isinstance(self.result, Decoded):
            return self.result
        assert self.result is not None
        raise self.result


def batch_seconds(config: Mapping[str, object] | None) -> float:
    """Return the seconds of processor time for decoding a batch, however many requests it has.

    config: the content of model-config.yaml. A decoder may wait for a core as long again, and scoring takes time, too;
    everything must end before TorchServe's responseTimeout, at which it kills the worker.
    """
    timeout = (config or {}).get("responseTimeout")
    return _OF_RESPONSE_TIMEOUT * (timeout if isinstance(timeout, int) and timeout > 0 else _RESPONSE_TIMEOUT)


def decode_all(decoder: Decoder, tasks: Sequence[Task], settings: Settings, batch_seconds: float) -> None:
    """Decode a batch's images and store each result in its task. Never raises because of an image's content.

    batch_seconds: limit of processor time for all images; those of one request share settings.request_seconds.
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
    """Try to decode one image within a limit in seconds. Return the seconds that it took."""
    begun, cpu_begun = time.monotonic(), decoder.cpu_seconds
    try:
        task.result = decoder.decode(
            task.content,
            seconds=limit,
            max_pixels=settings.max_image_pixels,
            pixels_left=pixels[task.request],
            min_side=settings.min_side,
            colour_profiles=settings.apply_colour_profiles,
            shown=task.shown,
        )
        pixels[task.request] -= task.result.pixels
    except OutOfTime as error:
        task._tried = limit
        if limit >= settings.decode_seconds:
            task.result = error
    except OutOfPixels:
        task.result = _out_of_pixels(settings)
    except Exception as error:  # a RequestError, or a bug; Task.get() raises either
        task.result = error
    return max(decoder.cpu_seconds - cpu_begun, (time.monotonic() - begun) / _WAITING)


def _out_of_seconds(settings: Settings) -> RequestError:
    return RequestError(
        ErrorCode.TOO_COSTLY,
        f"decoding the images of this request takes more than {settings.request_seconds:g} s of processor time, and "
        f"this image takes much of it; send it in a separate request, or {RESAVE_HINT}",
    )


def _out_of_pixels(settings: Settings) -> RequestError:
    return RequestError(
        ErrorCode.TOO_COSTLY,
        f"the images of this request have more than {settings.max_request_pixels} pixels in total; send this image in "
        "a separate request, or send a smaller one",
    )
