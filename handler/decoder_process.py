"""Run the decoder process: read encoded images from a socket and write back crops, one image at a time.

Decoders are C libraries that parse untrusted files. This process isolates them: the kernel enforces a limit of
processor time, memory is limited, it cannot open files or connections, and it holds only one image at a time. If it
crashes, one image fails. It imports Pillow but not torch, so it starts in 0.1 s and takes 20 MB.

Messages in both directions consist of a JSON document and binary data: see send().
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

from handler import cropping, decoding
from handler.errors import RequestError

# Pillow would import each plugin at the first file of its format, when this process can no longer open files.
_PLUGINS = (
    *(AvifImagePlugin, BmpImagePlugin, GifImagePlugin, JpegImagePlugin, MpoImagePlugin),
    *(PngImagePlugin, TiffImagePlugin, WebPImagePlugin),
)
_LENGTHS = struct.Struct("<II")  # bytes of the JSON, bytes of the binary data
_NO_NEW_PRIVILEGES = 38  # PR_SET_NO_NEW_PRIVS, see prctl(2)


def send(connection: socket.socket, document: Mapping[str, object], *blobs: bytes) -> None:
    """Send one message: a JSON document and binary data.

    Raises:
        OSError: the other side has closed the connection.
    """
    text = json.dumps(document).encode()
    parts = [_LENGTHS.pack(len(text), sum(map(len, blobs))), text, *blobs]
    sent = connection.sendmsg(parts)  # usually sends everything without a copy
    if sent < sum(map(len, parts)):
        connection.sendall(b"".join(parts)[sent:])


def receive(connection: socket.socket) -> tuple[dict[str, Any], bytearray] | None:
    """Return the next message, or None if the other side has closed the connection.

    Raises:
        TimeoutError: the connection has a timeout and it expired.
    """
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


def decode(limits: Mapping[str, Any], content: bytes) -> tuple[dict[str, object], tuple[bytes, ...]]:
    """Decode and crop one image. limits: the arguments of Decoder.decode.

    Return the JSON part of the answer and the pixels as uint8 RGB: of the crop and, if `shown` is set, of the
    scaled-down whole image. Never raises because of the content.
    """
    try:
        opened = decoding.open_image(content, max_pixels=limits["max_pixels"])
        if opened.pixels > limits["pixels_left"]:
            return {"out_of_pixels": True}, ()
        image = decoding.to_rgb(opened, min_side=limits["min_side"], colour_profiles=limits["colour_profiles"])
        shown = _scaled_down(image, limits["shown"]) if limits["shown"] else None
        begun = time.perf_counter()
        crop = cropping.crop(image).tobytes()
        answer = {
            "pixels": opened.pixels,
            "size": image.size,
            "shown": shown and shown.size,
            "crop_seconds": time.perf_counter() - begun,
        }
        return answer, (crop, shown.tobytes() if shown else b"")
    except RequestError as error:
        return {"rejected": error.code.value, "message": error.message}, ()
    except MemoryError:
        return {"out_of_memory": True}, ()
    except Exception:  # a bug in this code; the worker logs the traceback
        return {"defect": traceback.format_exc()}, ()


def _scaled_down(image: Image.Image, longest: int) -> Image.Image:
    scale = min(1, longest / max(image.size))
    width, height = (max(1, round(side * scale)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2)


def main(descriptor: int, memory: int) -> None:
    """Serve the worker at the other end of a socket until it closes the connection.

    descriptor: file descriptor of the socket. memory: limit of the address space in bytes.
    """
    connection = socket.socket(fileno=descriptor)
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # so that the limit of processor time also bounds the duration
    if decoding.HAS_HEIC:
        decoding.register_heic()
    _warm_up()
    _drop_privileges(descriptor, memory)
    send(connection, {"ready": True})
    while message := receive(connection):
        limits, content = message
        signal.setitimer(signal.ITIMER_PROF, limits["seconds"])
        answer, pixels = decode(limits, bytes(content))
        signal.setitimer(signal.ITIMER_PROF, 0)
        send(connection, answer | {"cpu": time.process_time()}, *pixels)


def _warm_up() -> None:
    """Decode a small image of each kind so that Pillow imports and allocates everything it needs."""
    for mode, form in (("RGB", "JPEG"), ("CMYK", "JPEG"), ("P", "GIF"), ("I;16", "PNG"), ("RGBA", "WEBP")):
        file = BytesIO()
        Image.new(mode, (8, 8)).save(file, form)
        limits = {"max_pixels": 64, "pixels_left": 64, "min_side": None, "colour_profiles": False, "shown": 4}
        answer, _ = decode(limits, file.getvalue())
        if "size" not in answer:
            raise RuntimeError(f"Pillow cannot decode {form} files on this machine: {answer}")


def _drop_privileges(descriptor: int, memory: int) -> None:
    """Deny this process files, connections, child processes and core dumps, and limit its memory."""
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # default action: the timer's signal kills the process
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C in a terminal reaches this process, but only the worker reacts
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):  # libtiff prints text from files, and TorchServe parses the output
        os.dup2(null, stream)
    os.close(null)
    with suppress(OSError):  # if memory runs out, the kernel kills this process rather than the worker
        Path("/proc/self/oom_score_adj").write_text("1000")
    for limit, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_NOFILE, descriptor + 1),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        with suppress(ValueError, OSError):  # a lower hard limit is set, or the system lacks this limit
            resource.setrlimit(limit, (value, value))
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
