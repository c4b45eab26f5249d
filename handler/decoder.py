"""Manage the decoder process from the worker: start it, send it images, kill it past a limit, and replace it."""

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
from handler.errors import ErrorCode, RequestError

log = logging.getLogger(__name__)

_START_SECONDS = 60.0  # it usually takes 0.1 s; a machine that starts many workers at once is slower
_SOCKET_BYTES = 1 << 19  # large enough for a whole crop (150,528 bytes)
# Wall-clock limit for one image: _WAITS × its limit of processor time + _WAIT_SECONDS. The rest is waiting for a core.
_WAITS, _WAIT_SECONDS = 2.0, 1.0
_ENVIRONMENT = (
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
    "PYTHONDONTWRITEBYTECODE",
)  # leaves out secrets and torch's settings
RESAVE_HINT = "save the image again as a baseline JPEG or a PNG, or send a smaller one"


class OutOfTime(RequestError):
    """Decoding an image exceeded its limit of processor time (code too_costly)."""

    def __init__(self, seconds: float) -> None:
        super().__init__(
            ErrorCode.TOO_COSTLY, f"decoding takes more than {seconds:g} s of processor time; {RESAVE_HINT}"
        )


class OutOfPixels(RequestError):
    """An image has more pixels than remain in its request's budget (code too_costly)."""

    def __init__(self, pixels_left: int) -> None:
        super().__init__(ErrorCode.TOO_COSTLY, f"the image has more than {pixels_left} pixels; {RESAVE_HINT}")


@dataclass(frozen=True)
class Decoded:
    """One decoded image."""

    crop: bytearray
    """The network's input as uint8 RGB: 224 × 224 pixels in row-major order, 3 bytes each."""
    size: tuple[int, int]
    """Width and height in pixels of the upright image that the crop comes from."""
    shown: Image.Image | None
    """The whole upright image, RGB, scaled down; None unless requested."""
    pixels: int
    """The number of pixels that the decoder produced."""
    crop_seconds: float = 0.0
    """Seconds spent on cropping."""

    @property
    def box(self) -> Box:
        """Return the crop's box in fractions of the image's width and height."""
        width, height = self.size
        left, top, right, bottom = crop_box(width, height)
        return left / width, top / height, right / width, bottom / height


class Decoder:
    """A process that decodes one image at a time.

    memory: limit of its address space in bytes.
    """

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._ended_seconds = 0.0
        self._reported_seconds = 0.0
        self._start()

    def __del__(self) -> None:
        # TorchServe kills workers without notice. If a worker fails to start, this ends its decoder, too.
        with suppress(Exception):
            self.close()

    @property
    def pid(self) -> int:
        """Return the process id of the current decoder."""
        return self._process.pid

    @property
    def cpu_seconds(self) -> float:
        """Return the processor time in seconds that all decoder processes have used so far."""
        return self._ended_seconds + self._reported_seconds

    def decode(
        self,
        content: bytes,
        *,
        seconds: float,
        max_pixels: int,
        pixels_left: int | None = None,
        min_side: int | None = None,
        colour_profiles: bool = False,
        shown: int | None = None,
    ) -> Decoded:
        """Decode and crop one image.

        seconds: limit of processor time.
        max_pixels: limit for one image; pixels_left: what remains for all images of the request.
        min_side: a JPEG may be scaled down during decoding until its shorter side has this many pixels.
        colour_profiles: colours are converted to sRGB from what the file says that they are.
        shown: longer side in pixels of the scaled-down whole image to return beside the crop.

        Raises:
            RequestError: not_an_image, unsupported_format, broken_image, too_many_pixels, too_costly. The subclasses
                OutOfTime and OutOfPixels mean that a higher limit could help.
            RuntimeError: with the decoder's traceback, for a bug in the decoder process.
        """
        if self._has_ended():  # it ended between two images, so this image is not the cause
            self._replace()
        self.wait_until_ready()
        pixels_left = max_pixels if pixels_left is None else pixels_left
        limits = {
            "seconds": seconds,
            "max_pixels": max_pixels,
            "pixels_left": pixels_left,
            "min_side": min_side,
            "colour_profiles": colour_profiles,
            "shown": shown,
        }
        self._connection.settimeout(_WAITS * seconds + _WAIT_SECONDS)
        try:
            decoder_process.send(self._connection, limits, content)
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
        """Kill the decoder process."""
        self._end()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
                with suppress(OSError):  # a system with a lower limit refuses, and a crop then takes more turns
                    end.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BYTES)
        with theirs:
            # The child imports from the same folders as this process, but -S skips the .pth files of site-packages.
            path = [str(Path(__file__).resolve().parent.parent), *filter(None, sys.path)]
            environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
            self._process = subprocess.Popen(
                [sys.executable, "-S", "-P", "-m", DECODER_PROGRAM, str(theirs.fileno()), str(self._memory)],
                env={**environment, "PYTHONPATH": os.pathsep.join(path)},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                # TorchServe parses a worker's standard output, so the child must not write there.
                stdout=subprocess.DEVNULL,
            )
        self._connection = ours
        self._ready = False
        self._reported_seconds = 0.0

    def wait_until_ready(self) -> None:
        """Wait until the decoder process can take images.

        Raises:
            RuntimeError: the process does not start.
        """
        if self._ready:
            return
        self._connection.settimeout(_START_SECONDS)
        try:
            message = decoder_process.receive(self._connection)
        except OSError:
            message = None
        if message is None:
            self._replace()
            raise RuntimeError("the decoder process does not start; see its error in the worker's log")
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
        """Kill the process and start another one. Return the first one's exit code, negative for a signal."""
        code = self._end()
        self._start()
        return code

    def _end(self) -> int:
        self._connection.close()
        if self._process.returncode is not None:
            return self._process.returncode
        # Popen.kill() would reap a process that has ended, and its processor time would be lost.
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGKILL)
        _, status, usage = os.wait4(self._process.pid, 0)
        self._process.returncode = os.waitstatus_to_exitcode(status)
        self._ended_seconds += usage.ru_utime + usage.ru_stime
        self._reported_seconds = 0.0
        return self._process.returncode

    def _failure_of_ended(self, seconds: float) -> RequestError:
        """Replace a process that ended by itself, and return the error for its image."""
        code = self._replace()
        if code == -signal.SIGPROF:
            return OutOfTime(seconds)
        if code == -signal.SIGKILL:  # the kernel's out-of-memory killer
            return self._out_of_memory()
        log.warning("the decoder process exited with code %d and was replaced", code)
        return RequestError(
            ErrorCode.BROKEN_IMAGE, "the file crashes the decoder of its format; send the whole file, or a PNG"
        )

    def _out_of_memory(self) -> RequestError:
        return RequestError(
            ErrorCode.TOO_COSTLY, f"decoding takes more than {self._memory} bytes of memory; {RESAVE_HINT}"
        )


def read_answer(answer: Mapping[str, Any], pixels: bytearray) -> Decoded:
    """Convert the decoder process's answer.

    Raises:
        RequestError: the image was rejected.
        RuntimeError: with a traceback, for a bug in the decoder process.
    """
    match answer:
        case {"defect": trace}:
            raise RuntimeError(trace)
        case {"rejected": code, "message": message}:
            raise RequestError(ErrorCode(code), message)
    end = 3 * CROP * CROP
    shown = Image.frombytes("RGB", tuple(answer["shown"]), bytes(pixels[end:])) if answer["shown"] else None
    crop = pixels[:end] if shown else pixels
    return Decoded(crop, tuple(answer["size"]), shown, answer["pixels"], answer["crop_seconds"])
