"""Measure the CPU time and memory that a decoder process takes for one file, from outside the process."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from densenet.background import repeating
from handler.decoder import Decoder
from handler.errors import RequestError
from handler.settings import Settings

_INTERVAL = 0.01  # seconds between two samples of the decoder process
_LIMITS = Settings()
_RESET_PEAK = "5"  # written to /proc/PID/clear_refs, resets the peak memory


@dataclass(frozen=True)
class Cost:
    """The cost and the outcome of decoding one file."""

    cpu: float
    """CPU seconds of the decoder process and of its replacement, if there was one."""
    memory: int
    """Peak memory of the decoder process in bytes; the last sample for a process that was ended."""
    outcome: str
    """`decoded`, an error code, or an unexpected error."""
    fine: bool
    """Whether the file was decoded, or rejected with a 4xx error."""


def cost(decoder: Decoder, content: bytes) -> Cost:
    """Decode one file and return its cost."""
    before = _processor_time(decoder)
    with _sampling(decoder) as peaks:
        outcome, fine = _outcome(decoder, content)
    return Cost(_processor_time(decoder) - before, max(peaks), outcome, fine)


def _outcome(decoder: Decoder, content: bytes) -> tuple[str, bool]:
    try:
        decoder.decode(
            content,
            seconds=_LIMITS.decode_seconds,
            max_pixels=_LIMITS.max_image_pixels,
            min_side=_LIMITS.min_side,
            colour_profiles=True,  # off by default, and it only adds to the cost
        )
    except RequestError as failure:
        return failure.code.value, 400 <= failure.code.status < 500
    except Exception as error:  # the search looks for these errors
        return f"{type(error).__name__}: {error}", False
    return "decoded", True


def _processor_time(decoder: Decoder) -> float:
    """Return the CPU seconds of the decoder process and of all children of this process that ended."""
    ended = psutil.Process().cpu_times()
    now = psutil.Process(decoder.pid).cpu_times()
    return float(ended.children_user + ended.children_system + now.user + now.system)


@contextmanager
def _sampling(decoder: Decoder) -> Iterator[list[int]]:
    """Collect samples of the decoder process's peak memory, in bytes."""
    with suppress(OSError):  # if the peak cannot be reset, it includes all previous files
        Path(f"/proc/{decoder.pid}/clear_refs").write_text(_RESET_PEAK)
    peaks = [_peak(decoder)]
    with repeating(lambda: peaks.append(_peak(decoder)), _INTERVAL):
        yield peaks
    peaks.append(_peak(decoder))


def _peak(decoder: Decoder) -> int:
    """Return the decoder process's peak memory in bytes, or its current memory on systems without VmHWM."""
    try:
        for line in Path(f"/proc/{decoder.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
        return int(psutil.Process(decoder.pid).memory_info().rss)
    except (OSError, psutil.NoSuchProcess):  # the process ended and its replacement has not started yet
        return 0
