"""The process that decodes: the same pixels as in this process, and an end to whatever passes a limit."""

import errno
import io
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from handler import cropping, decoding
from handler.decoder import Decoder, OutOfPixels, OutOfTime
from handler.errors import ErrorCode, RequestError
from tests.photos import cutouts, encode, photos

MEMORY = 1_500_000_000
PHOTO = cutouts(1)[0]


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    decoder = Decoder(MEMORY)
    decoder.wait_until_ready()
    yield decoder
    decoder.close()


def refusal(decoder: Decoder, content: bytes, seconds: float = 5.0, max_pixels: int = 64_000_000) -> RequestError:
    with pytest.raises(RequestError) as refused:
        decoder.decode(content, seconds=seconds, max_pixels=max_pixels)
    return refused.value


def still_decodes(decoder: Decoder) -> None:
    decoded = decoder.decode(encode(PHOTO, "PNG"), seconds=5, max_pixels=64_000_000)
    assert decoded.crop == cropping.crop(PHOTO).tobytes()


def slow() -> bytes:
    """A file that is sound and takes a second and more: lossless WebP of 64 million pixels, a few bytes long."""
    buffer = io.BytesIO()
    Image.new("RGB", (8000, 8000)).save(buffer, "WEBP", lossless=True, method=0)
    return buffer.getvalue()


@contextmanager
def soon(pid: int, number: signal.Signals) -> Iterator[None]:
    """Sends a process a signal while it is busy."""
    begun = psutil.Process(pid).cpu_times().user

    def strike() -> None:
        until(lambda: psutil.Process(pid).cpu_times().user > begun)
        os.kill(pid, number)

    thread = threading.Thread(target=strike)
    thread.start()
    yield
    thread.join()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class TestPixels:
    @pytest.mark.parametrize(
        "content",
        [
            *(encode(PHOTO, form) for form in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF")),
            encode(PHOTO.convert("CMYK"), "JPEG"),
            encode(PHOTO.convert("P"), "PNG"),
            encode(PHOTO.convert("L"), "TIFF", compression="tiff_lzw"),
            encode(PHOTO.convert("1"), "TIFF", compression="group4"),
            encode(PHOTO, "GIF", save_all=True, append_images=[PHOTO.rotate(90)]),
            encode(Image.fromarray(np.full((9, 400), 40_000, np.uint16)), "PNG"),
            encode(Image.new("RGBA", (300, 300), (10, 200, 30, 128)), "WEBP"),
            encode(photos()[0].resize((2100, 1500)), "JPEG"),
        ],
    )
    def test_they_are_those_of_this_process(self, decoder: Decoder, content: bytes) -> None:
        image = decoding.decode(content, max_pixels=64_000_000, min_side=cropping.MIN_SIDE)
        decoded = decoder.decode(content, seconds=5, max_pixels=64_000_000, min_side=cropping.MIN_SIDE, shown=200)
        assert decoded.crop == cropping.crop(image).tobytes()
        assert decoded.size == image.size
        assert decoded.shown is not None
        assert max(decoded.shown.size) == 200 if max(image.size) > 200 else image.size

    def test_the_whole_image_is_kept_only_if_it_is_asked_for(self, decoder: Decoder) -> None:
        assert decoder.decode(encode(PHOTO), seconds=5, max_pixels=10**6).shown is None

    def test_a_file_of_ten_megabytes_goes_through(self, decoder: Decoder) -> None:
        noise = np.random.default_rng(1).integers(0, 256, (1800, 1800, 3), np.uint8)
        content = encode(Image.fromarray(noise), "PNG")
        assert len(content) > 9_000_000
        decoded = decoder.decode(content, seconds=5, max_pixels=64_000_000)
        assert decoded.crop == cropping.crop(Image.fromarray(noise)).tobytes()


class TestRefusals:
    @pytest.mark.parametrize(
        ("content", "code"),
        [
            (b"hello", ErrorCode.NOT_AN_IMAGE),
            (b"%PDF-1.7", ErrorCode.UNSUPPORTED_FORMAT),
            (encode(PHOTO)[:3000], ErrorCode.BROKEN_IMAGE),
            (encode(Image.new("L", (1001, 1000))), ErrorCode.TOO_MANY_PIXELS),
        ],
    )
    def test_a_refusal_is_the_steps_own_and_costs_no_process(
        self, decoder: Decoder, content: bytes, code: ErrorCode
    ) -> None:
        before = decoder.pid
        failure = refusal(decoder, content, max_pixels=1_000_000)
        assert failure.code is code
        with pytest.raises(RequestError) as alone:
            decoding.decode(content, max_pixels=1_000_000)
        assert failure.message == alone.value.message
        assert decoder.pid == before

    def test_pixels_that_are_no_longer_left_to_a_request(self, decoder: Decoder) -> None:
        content = encode(Image.new("L", (100, 100)))
        assert decoder.decode(content, seconds=5, max_pixels=10**6, pixels_left=10_000).pixels == 10_000
        with pytest.raises(OutOfPixels) as refused:
            decoder.decode(content, seconds=5, max_pixels=10**6, pixels_left=9_999)
        assert refused.value.code is ErrorCode.TOO_COSTLY


class TestLimits:
    def test_processor_time(self, decoder: Decoder) -> None:
        before, used = decoder.pid, decoder.cpu_seconds
        with pytest.raises(OutOfTime) as refused:
            decoder.decode(slow(), seconds=0.3, max_pixels=64_000_000)
        assert refused.value.code is ErrorCode.TOO_COSTLY
        assert "0.3 s of processor time" in refused.value.message
        # A kernel's clock ticks a hundred times a second or more; a replaced process has not reported its start yet.
        assert 0.25 < decoder.cpu_seconds - used < 0.6
        assert not psutil.pid_exists(before)
        still_decodes(decoder)

    def test_a_process_that_waits_for_ever_is_ended_too(self, decoder: Decoder) -> None:
        os.kill(decoder.pid, signal.SIGSTOP)
        begun = time.monotonic()
        with pytest.raises(OutOfTime):
            decoder.decode(encode(PHOTO), seconds=0.5, max_pixels=10**6)
        assert time.monotonic() - begun >= 2
        still_decodes(decoder)

    def test_memory(self) -> None:
        decoder = Decoder(memory=300_000_000)
        failure = refusal(decoder, encode(Image.new("RGB", (8000, 8000)), "PNG"))
        assert failure.code is ErrorCode.TOO_COSTLY
        assert "300000000 bytes of memory" in failure.message
        still_decodes(decoder)
        decoder.close()

    @pytest.mark.parametrize("ended_by", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
    def test_a_decoder_that_crashes_costs_one_image(self, decoder: Decoder, ended_by: signal.Signals) -> None:
        with soon(decoder.pid, ended_by):
            failure = refusal(decoder, slow())
        assert (failure.code, failure.code.status) == (ErrorCode.BROKEN_IMAGE, 422)
        still_decodes(decoder)

    def test_one_that_the_system_ends_for_want_of_memory(self, decoder: Decoder) -> None:
        with soon(decoder.pid, signal.SIGKILL):
            assert refusal(decoder, slow()).code is ErrorCode.TOO_COSTLY
        still_decodes(decoder)

    def test_one_that_ended_between_two_images_costs_none(self, decoder: Decoder) -> None:
        process = psutil.Process(decoder.pid)
        process.kill()
        until(lambda: process.status() == psutil.STATUS_ZOMBIE)
        still_decodes(decoder)

    def test_a_defect_of_ours_comes_with_its_traceback(self, decoder: Decoder) -> None:
        with pytest.raises(RuntimeError, match=r"(?s)Traceback.*TypeError"):
            decoder.decode(encode(PHOTO), seconds=5, max_pixels=10**6, shown="large")  # type: ignore[arg-type]
        still_decodes(decoder)


class TestRights:
    @pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
    def test_what_it_may_use(self, decoder: Decoder) -> None:
        process = psutil.Process(decoder.pid)
        assert process.rlimit(resource.RLIMIT_AS) == (MEMORY, MEMORY)
        assert process.rlimit(resource.RLIMIT_FSIZE) == (0, 0)
        assert process.rlimit(resource.RLIMIT_NPROC) == (0, 0)
        assert process.rlimit(resource.RLIMIT_CORE) == (0, 0)
        status = Path(f"/proc/{decoder.pid}/status").read_text()
        assert "NoNewPrivs:\t1" in status
        assert Path(f"/proc/{decoder.pid}/oom_score_adj").read_text() == "1000\n"

    @pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
    def test_it_has_the_socket_alone_and_can_open_nothing_more(self, decoder: Decoder) -> None:
        opened = {str(path.readlink()) for path in Path(f"/proc/{decoder.pid}/fd").iterdir()}
        assert [name for name in opened if name.startswith("socket:")]
        assert {name for name in opened if not name.startswith("socket:")} == {"/dev/null"}
        highest = max(int(path.name) for path in Path(f"/proc/{decoder.pid}/fd").iterdir())
        assert psutil.Process(decoder.pid).rlimit(resource.RLIMIT_NOFILE) == (highest + 1, highest + 1)

    def test_the_workers_environment_is_not_handed_on(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
        decoder = Decoder(MEMORY)
        still_decodes(decoder)
        assert "AWS_SECRET_ACCESS_KEY" not in psutil.Process(decoder.pid).environ()
        decoder.close()

    def test_nothing_but_pillow_is_imported(self) -> None:
        code = (
            "import sys, handler.decoder_process;"
            "assert not {'torch', 'numpy', 'yaml'} & sys.modules.keys(), sorted(sys.modules)"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


def test_it_ends_with_the_worker() -> None:
    code = (
        "import os, signal; from handler.decoder import Decoder; d = Decoder(1_500_000_000); d.wait_until_ready();"
        "print(d.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    until(lambda: not psutil.pid_exists(int(output)))


def test_a_system_that_refuses_large_buffers_is_served_with_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    class Small(socket.socket):
        def setsockopt(self, *_: object) -> None:  # type: ignore[override]
            raise OSError(errno.ENOBUFS, "No buffer space available")

    pair = socket.socketpair
    monkeypatch.setattr(socket, "socketpair", lambda: [Small(fileno=end.detach()) for end in pair()])
    decoder = Decoder(MEMORY)
    still_decodes(decoder)
    decoder.close()


def test_one_that_cannot_start_says_so() -> None:
    decoder = Decoder(memory=1)
    with pytest.raises(RuntimeError, match="does not start"):
        decoder.wait_until_ready()
    decoder.close()
