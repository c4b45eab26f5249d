"""The program of the process that decodes: encoded images in, crops out, one after the other.

Decoders are C libraries that run over files from strangers. Here they have a limit of processor time, enforced by the
kernel, which no loop of theirs can evade; a limit of memory; no way to open a file or a connection; and nobody's
request but the one at hand. What ends this process costs one image. Pillow is all that it imports: it starts in a tenth
of a second and takes 20 MB.

Messages have, both ways, a line of JSON and bytes behind it: see send().
"""

import json
import os
import resource
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    JpegImagePlugin,
    MpoImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from handler import cropping, imaging
from handler.failures import Failure

# Loaded before files can no longer be opened; Pillow would import each when the first file of its kind arrives.
_PLUGINS = (
    *(AvifImagePlugin, BmpImagePlugin, GifImagePlugin, JpegImagePlugin, MpoImagePlugin),
    *(PngImagePlugin, TiffImagePlugin, WebPImagePlugin),
)
_LENGTHS = struct.Struct("<II")  # of the JSON and of the bytes behind it
_NO_NEW_PRIVILEGES = 38  # of prctl(2)


def send(connection: socket.socket, head: Mapping[str, object], *blobs: bytes) -> None:
    """Send one message. Raises OSError where the other side is gone."""
    text = json.dumps(head).encode()
    parts = [_LENGTHS.pack(len(text), sum(map(len, blobs))), text, *blobs]
    sent = connection.sendmsg(parts)  # as a rule all of it, without a copy
    if sent < sum(map(len, parts)):
        connection.sendall(b"".join(parts)[sent:])


def receive(connection: socket.socket) -> tuple[dict[str, Any], bytearray] | None:
    """Return the next message, None where the other side has closed. Raises TimeoutError where one is set."""
    lengths = _read(connection, _LENGTHS.size)
    if lengths is None:
        return None
    text_length, blob_length = _LENGTHS.unpack(lengths)
    text, blob = _read(connection, text_length), _read(connection, blob_length)
    return None if text is None or blob is None else (json.loads(text), blob)


def _read(connection: socket.socket, count: int) -> bytearray | None:
    content = bytearray(count)
    view, at = memoryview(content), 0
    while at < count:
        read = connection.recv_into(view[at:])
        if not read:
            return None
        at += read
    return content


def decode(head: Mapping[str, Any], content: bytes) -> tuple[dict[str, object], tuple[bytes, ...]]:
    """Decode and crop one image, as the worker's message says: max_pixels, pixels_left, min_side, shown.

    Returns the answer's head and the pixels: of the crop and, where `shown` gives the longer side of one, of the whole
    image made smaller. Never raises for what the content holds.
    """
    try:
        opened = imaging.open_image(content, max_pixels=head["max_pixels"])
        if opened.pixels > head["pixels_left"]:
            return {"out_of_pixels": True}, ()
        image = imaging.to_rgb(opened, enough=head["min_side"])
        shown = _smaller(image, head["shown"]) if head["shown"] else None
        begun = time.perf_counter()
        crop = cropping.crop(image).tobytes()
        answer = {
            "pixels": opened.pixels,
            "size": image.size,
            "shown": shown and shown.size,
            "crop_seconds": time.perf_counter() - begun,
        }
        return answer, (crop, shown.tobytes() if shown else b"")
    except Failure as failure:
        return {"refused": failure.code.value, "message": failure.message}, ()
    except MemoryError:
        return {"out_of_memory": True}, ()
    except Exception:  # a defect of ours, which the worker logs
        return {"defect": traceback.format_exc()}, ()


def _smaller(image: Image.Image, longest: int) -> Image.Image:
    scale = min(1, longest / max(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2)


def main(descriptor: int, memory: int) -> None:
    """Serve the worker at the other end of a socket until it closes. memory: bytes of address space."""
    connection = socket.socket(fileno=descriptor)
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # processor time is one thread's
    if not imaging.has_heic():
        sys.modules["pillow_heif"] = None  # type: ignore[assignment]  # not looked for again, since it could not be read
    _warm_up()
    _give_up_rights(descriptor, memory)
    send(connection, {"ready": True})
    while message := receive(connection):
        head, content = message
        signal.setitimer(signal.ITIMER_PROF, head["seconds"])
        answer, pixels = decode(head, bytes(content))
        signal.setitimer(signal.ITIMER_PROF, 0)
        send(connection, answer | {"cpu": time.process_time()}, *pixels)


def _warm_up() -> None:
    """Run what is imported or allocated at first use, once."""
    for mode, form in (("RGB", "JPEG"), ("CMYK", "JPEG"), ("P", "GIF"), ("I;16", "PNG"), ("RGBA", "WEBP")):
        file = BytesIO()
        Image.new(mode, (8, 8)).save(file, form)
        answer, _ = decode({"max_pixels": 64, "pixels_left": 64, "min_side": None, "shown": 4}, file.getvalue())
        if "size" not in answer:
            raise RuntimeError(f"{form} files cannot be decoded here: {answer}")


def _give_up_rights(descriptor: int, memory: int) -> None:
    """From here on: no files, no connections, no processes, no core dump, and this much memory."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # the timer's, which ends the process
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is the worker's business
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # libtiff writes what a file says to where TorchServe reads commands
        os.dup2(null, stream)
    os.close(null)
    with suppress(OSError):  # where the machine's memory runs out, this process is to go rather than the worker
        Path("/proc/self/oom_score_adj").write_text("1000")
    for limit, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_NOFILE, descriptor + 1),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        with suppress(ValueError, OSError):  # an administrator's limit is lower, or the system has none of this kind
            resource.setrlimit(limit, (value, value))
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
