"""The worker's side of the process that decodes: starts it, feeds it, ends it past a limit, and replaces it."""

import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from handler import DECODER_PROGRAM, decoder_process
from handler.cropping import CROP, Box, crop_box
from handler.failures import Code, Failure

log = logging.getLogger(__name__)

_START_SECONDS = 60.0  # for a process that takes a tenth of one, on a machine that starts many at once
_SOCKET_BYTES = 1 << 19  # a crop goes through in one piece
# Beyond its processor time a decoder may wait for a core, and no longer: this often and this much.
_WAITS, _WAIT_SECONDS = 2.0, 1.0
_ENVIRONMENT = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONDONTWRITEBYTECODE")  # no secrets, no settings of torch
INSTEAD = "save the image again in the usual way, as a baseline JPEG or a PNG, or send it smaller"


class OutOfTime(Failure):
    """An image took more processor time than it was given: too_costly."""

    def __init__(self, seconds: float) -> None:
        super().__init__(Code.TOO_COSTLY, f"decoding takes more than {seconds:g} s of processor time; {INSTEAD}")


class OutOfPixels(Failure):
    """An image has more pixels than are left to its request: too_costly."""

    def __init__(self, pixels_left: int) -> None:
        super().__init__(Code.TOO_COSTLY, f"the image has more than {pixels_left} pixels; {INSTEAD}")


@dataclass(frozen=True)
class Decoded:
    """One decoded image."""

    crop: bytearray
    """What the network sees: 224 × 224 pixels from the upper left corner, a byte each of red, green and blue."""
    size: tuple[int, int]
    """Width and height of the upright image that the crop was cut from."""
    shown: Image.Image | None
    """That image, RGB, made smaller, if it was asked for."""
    pixels: int
    """How many the decoder produced."""
    crop_seconds: float = 0.0
    """What cropping took of the time."""

    @property
    def box(self) -> Box:
        """Where the crop was, in fractions of the image's width and height."""
        width, height = self.size
        left, top, right, bottom = crop_box(width, height)
        return left / width, top / height, right / width, bottom / height


class Decoder:
    """A process that decodes, one image at a time. memory: bytes of its address space."""

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._ended_seconds = 0.0
        self._reported_seconds = 0.0
        self._start()

    def __del__(self) -> None:
        # TorchServe ends workers without a word to them; where a worker fails to start, its decoder goes with it.
        with suppress(Exception):
            self.close()

    @property
    def pid(self) -> int:
        """The process that decodes the next image."""
        return self._process.pid

    @property
    def cpu_seconds(self) -> float:
        """Processor time of all processes so far."""
        return self._ended_seconds + self._reported_seconds

    def decode(
        self,
        content: bytes,
        *,
        seconds: float,
        max_pixels: int,
        pixels_left: int | None = None,
        min_side: int | None = None,
        shown: int | None = None,
    ) -> Decoded:
        """Decode and crop one image.

        seconds: of processor time. max_pixels: of an image; pixels_left: of it and those after it. min_side: pixels of
        the shorter side that a JPEG may be scaled down to. shown: pixels of the longer side of the whole image, to be
        kept beside the crop.
        Raises Failure: not_an_image, unsupported_format, broken_image, too_many_pixels, too_costly (OutOfTime and
        OutOfPixels where more of that would do); and RuntimeError with a traceback for a defect of ours.
        """
        if self._has_ended():  # between two images: no fault of this one
            self._replace()
        self.wait_until_ready()
        pixels_left = max_pixels if pixels_left is None else pixels_left
        head = {
            "seconds": seconds,
            "max_pixels": max_pixels,
            "pixels_left": pixels_left,
            "min_side": min_side,
            "shown": shown,
        }
        self._connection.settimeout(_WAITS * seconds + _WAIT_SECONDS)
        try:
            decoder_process.send(self._connection, head, content)
            message = decoder_process.receive(self._connection)
        except TimeoutError:
            self._replace()
            raise OutOfTime(seconds) from None
        except OSError:
            message = None
        if message is None:
            raise self._failure_of_ended(seconds)
        answer, pixels = message
        self._reported_seconds = answer["cpu"]
        if "out_of_memory" in answer:
            raise self._out_of_memory()
        if "out_of_pixels" in answer:
            raise OutOfPixels(pixels_left)
        return read_answer(answer, pixels)

    def close(self) -> None:
        """End the process."""
        self._end()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                end.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BYTES)
        with theirs:
            # It imports what this process would, from the same places; without site-packages' start-up files.
            path = [str(Path(__file__).resolve().parent.parent), *filter(None, sys.path)]
            kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-P", "-m", DECODER_PROGRAM, str(theirs.fileno()), str(self._memory)],
                env={**kept, "PYTHONPATH": os.pathsep.join(path)},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # TorchServe reads commands off a worker's output.
                stdout=subprocess.DEVNULL,
            )
        self._connection = ours
        self._ready = False
        self._reported_seconds = 0.0

    def wait_until_ready(self) -> None:
        """Raises RuntimeError where the process does not start."""
        if self._ready:
            return
        self._connection.settimeout(_START_SECONDS)
        try:
            message = decoder_process.receive(self._connection)
        except OSError:
            message = None
        if message is None:
            self._replace()
            raise RuntimeError("the process that decodes images does not start; the worker's log has its words")
        self._ready = True

    def _has_ended(self) -> bool:
        self._connection.settimeout(0)
        try:
            return not self._connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _replace(self) -> int:
        """End the process and start another one. Returns the exit code of the first, negative for a signal."""
        code = self._end()
        self._start()
        return code

    def _end(self) -> int:
        self._connection.close()
        if self._process.returncode is not None:
            return self._process.returncode
        # Not Popen's kill(), which would take the exit code, and with it the processor time, of one that has ended.
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGKILL)
        _, status, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self._ended_seconds += usage.ru_utime + usage.ru_stime
        self._reported_seconds = 0.0
        return self._process.returncode

    def _failure_of_ended(self, seconds: float) -> Failure:
        """Why a process has ended by itself."""
        code = self._replace()
        if code == -signal.SIGPROF:
            return OutOfTime(seconds)
        if code == -signal.SIGKILL:  # the system's, where its memory runs out
            return self._out_of_memory()
        log.warning("the process that decodes images ended with code %d and was replaced", code)
        return Failure(Code.BROKEN_IMAGE, "the file makes the decoder of its format fail; send it whole, or as a PNG")

    def _out_of_memory(self) -> Failure:
        return Failure(Code.TOO_COSTLY, f"decoding takes more than {self._memory} bytes of memory; {INSTEAD}")


def read_answer(answer: Mapping[str, Any], pixels: bytearray) -> Decoded:
    """The process' answer to decode(). Raises Failure for a refusal, RuntimeError for a defect."""
    match answer:
        case {"defect": trace}:
            raise RuntimeError(trace)
        case {"refused": code, "message": message}:
            raise Failure(Code(code), message)
    end = 3 * CROP * CROP
    shown = Image.frombytes("RGB", tuple(answer["shown"]), bytes(pixels[end:])) if answer["shown"] else None
    crop = pixels[:end] if shown else pixels
    return Decoded(crop, tuple(answer["size"]), shown, answer["pixels"], answer["crop_seconds"])
