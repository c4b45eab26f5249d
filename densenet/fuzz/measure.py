"""What one file costs a decoder: processor time and memory, seen from outside of the process that decodes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from handler.decoder import Decoder
from handler.failures import Failure

_INTERVAL = 0.01  # seconds between two looks at a process that decodes
_SECONDS, _MAX_PIXELS, _MIN_SIDE = 5.0, 64_000_000, 510  # the service's defaults
_FORGET_PEAK = "5"  # to clear_refs of Linux' /proc


@dataclass(frozen=True)
class Cost:
    """What decoding one file took, and what came of it."""

    cpu: float
    """Seconds of processor time, of the process that decoded and of the one that took its place."""
    memory: int
    """Bytes at the peak of the process that decodes, as far as was seen of one that was ended."""
    outcome: str
    """`decoded`, a refusal's code, or what went wrong."""
    fine: bool
    """Whether it was decoded, or refused as a client's mistake."""


def cost(decoder: Decoder, content: bytes) -> Cost:
    """Has one file decoded."""
    before = _processor_time(decoder)
    with _watching(decoder) as peaks:
        outcome, fine = _outcome(decoder, content)
    return Cost(_processor_time(decoder) - before, max(peaks), outcome, fine)


def _outcome(decoder: Decoder, content: bytes) -> tuple[str, bool]:
    try:
        decoder.decode(content, seconds=_SECONDS, max_pixels=_MAX_PIXELS, min_side=_MIN_SIDE)
    except Failure as failure:
        return failure.code.value, 400 <= failure.code.status < 500
    except Exception as error:  # what a search is for
        return f"{type(error).__name__}: {error}", False
    return "decoded", True


def _processor_time(decoder: Decoder) -> float:
    """Seconds of the process that decodes, and of all processes of this one that have ended."""
    ended = psutil.Process().cpu_times()
    now = psutil.Process(decoder.pid).cpu_times()
    return float(ended.children_user + ended.children_system + now.user + now.system)


@contextmanager
def _watching(decoder: Decoder) -> Iterator[list[int]]:
    """Collects the peaks of the memory of the process that decodes."""
    with suppress(OSError):  # where a process may not be asked to, the peak is that of all files so far
        Path(f"/proc/{decoder.pid}/clear_refs").write_text(_FORGET_PEAK)
    peaks = [_peak(decoder)]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(_INTERVAL):
            peaks.append(_peak(decoder))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        done.set()
        thread.join()
        peaks.append(_peak(decoder))


def _peak(decoder: Decoder) -> int:
    """Bytes of the decoder's process at its peak; where the system does not tell, as it is now."""
    try:
        for line in Path(f"/proc/{decoder.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return 1024 * int(line.split()[1])
        return int(psutil.Process(decoder.pid).memory_info().rss)
    except (OSError, psutil.NoSuchProcess):  # it has ended, and the next one is not yet there
        return 0
