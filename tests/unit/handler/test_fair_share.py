"""How processor time is shared out: with a stand-in for the decoder, whose clock is a number."""

from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from handler.decoder import Decoded, Decoder, OutOfPixels, OutOfTime
from handler.errors import ErrorCode, RequestError
from handler.fair_share import Task, batch_seconds, decode_all
from handler.settings import Settings

DECODED = Decoded(bytearray(), (1, 1), None, pixels=1)
SETTINGS = Settings()


@dataclass
class Clockwork:
    """Decodes b"SECONDS" or b"SECONDS PIXELS" in so many seconds, of which it keeps count."""

    cpu_seconds: float = 0.0
    tries: list[float] = field(default_factory=list)

    def decode(self, content: bytes, *, seconds: float, pixels_left: int, **_: Any) -> Decoded:
        needed, pixels = (float(word) for word in (content + b" 1").split()[:2])
        if pixels > pixels_left:
            raise OutOfPixels(pixels_left)
        self.tries.append(seconds)
        self.cpu_seconds += min(needed, seconds)
        if needed > seconds:
            raise OutOfTime(seconds)
        return Decoded(bytearray(), (1, 1), None, int(pixels))


def share(
    *requests: list[float | str], settings: Settings = SETTINGS, batch: float = 24.0
) -> tuple[Clockwork, list[Task]]:
    """Decode requests of images that need so many seconds each."""
    decoder = Clockwork()
    tasks = [Task(i, str(image).encode()) for i, images in enumerate(requests) for image in images]
    decode_all(cast(Decoder, decoder), tasks, settings, batch)
    return decoder, tasks


def codes(tasks: list[Task]) -> list[ErrorCode | None]:
    assert all(task.result is not None for task in tasks)
    return [task.result.code if isinstance(task.result, RequestError) else None for task in tasks]


def test_an_image_alone_has_all_that_one_image_may_have() -> None:
    decoder, tasks = share([4.9])
    assert (decoder.tries, codes(tasks)) == ([5.0], [None])


def test_and_no_more() -> None:
    decoder, tasks = share([1000])
    assert (decoder.tries, codes(tasks)) == ([5.0], [ErrorCode.TOO_COSTLY])
    assert "5 s of processor time" in str(tasks[0].result)


@pytest.mark.parametrize("place", range(16))
def test_fifteen_that_are_never_done_leave_the_sixteenth_its_answer(place: int) -> None:
    images: list[float | str] = [1000.0] * 15
    images.insert(place, 0.4)
    decoder, tasks = share(images)
    assert codes(tasks) == [ErrorCode.TOO_COSTLY if i != place else None for i in range(16)]
    assert decoder.cpu_seconds <= 10


def test_fifteen_ordinary_ones_leave_a_slow_one_nearly_all() -> None:
    decoder, tasks = share([4.5, *[0.05] * 15])
    assert codes(tasks) == [None] * 16
    assert decoder.tries[-1] == 5.0


@pytest.mark.parametrize("count", range(1, 17))
@pytest.mark.parametrize("costly", range(1, 17))
def test_a_request_takes_two_thirds_of_its_seconds_at_most(count: int, costly: int) -> None:
    decoder, tasks = share([1000.0] * min(costly, count) + [0.01] * max(0, count - costly))
    assert decoder.cpu_seconds <= SETTINGS.request_seconds * 2 / 3
    assert codes(tasks).count(None) == max(0, count - costly)


def test_one_request_does_not_use_up_anothers_seconds() -> None:
    _, tasks = share([1000.0] * 16, [0.4], [3.0])
    assert codes(tasks) == [ErrorCode.TOO_COSTLY] * 16 + [None, None]


def test_a_batch_has_its_own_bound() -> None:
    decoder, tasks = share(*[[1000.0] * 16] * 32, [0.02], batch=24)
    assert decoder.cpu_seconds <= 24
    assert codes(tasks)[-1] is None


def test_what_is_refused_for_the_requests_seconds_says_so() -> None:
    _, tasks = share([1000.0] * 16)
    assert "15 s of processor time" in str(tasks[0].result)


def test_the_pixels_of_a_request_are_counted_together() -> None:
    _, tasks = share(["0.1 60000000", "0.1 60000000", "0.1 60000000", "0.1 8000000", "0.1 1"], ["0.1 60000000"])
    assert codes(tasks) == [None, None, ErrorCode.TOO_COSTLY, None, ErrorCode.TOO_COSTLY, None]
    assert "128000000 pixels in total" in str(tasks[2].result)


def test_a_defect_is_kept_for_its_own_image() -> None:
    class Broken(Clockwork):
        def decode(self, content: bytes, **options: Any) -> Decoded:
            if content == b"defect":
                raise ZeroDivisionError
            return super().decode(content, **options)

    tasks = [Task(0, b"0.1"), Task(0, b"defect"), Task(0, b"0.1")]
    decode_all(cast(Decoder, Broken()), tasks, SETTINGS, 24)
    assert [type(task.result) for task in tasks] == [Decoded, ZeroDivisionError, Decoded]


@pytest.mark.parametrize(
    ("config", "seconds"),
    [(None, 24), ({}, 24), ({"responseTimeout": 60}, 12), ({"responseTimeout": "x"}, 24), ({"responseTimeout": 0}, 24)],
)
def test_a_batchs_bound_is_a_fifth_of_torchserves_timeout(config: dict[str, object] | None, seconds: float) -> None:
    assert batch_seconds(config) == pytest.approx(seconds)
