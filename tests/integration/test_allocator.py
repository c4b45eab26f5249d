"""Workers run with mimalloc, what surrounds them does not, and memory of large requests is given back."""

from pathlib import Path

import psutil
import pytest
from PIL import Image

from densenet.polling import wait_until
from densenet.service import allocator, torchserve
from tests.integration.conftest import Server
from tests.photos import cutouts, encode

pytestmark = pytest.mark.skipif(allocator.find() is None, reason="mimalloc's wheels are for Linux")
ALLOWANCE = 80_000_000  # bytes that a worker may keep after large requests


def has_mimalloc(pid: int) -> bool:
    return "mimalloc" in Path(f"/proc/{pid}/maps").read_text()


def test_only_workers_have_it(server: Server) -> None:
    workers = torchserve.worker_processes(server.service)
    assert all(has_mimalloc(worker.pid) for worker in workers)
    decoders = [decoder for worker in workers for decoder in torchserve.decoder_processes(worker)]
    assert decoders
    assert not any(has_mimalloc(pid) for pid in (server.service.pid, *(decoder.pid for decoder in decoders)))


def test_a_worker_gives_back_what_large_requests_took(server: Server) -> None:
    small = encode(cutouts(1)[0])
    large = encode(Image.new("RGB", (6000, 6000)), "PNG")
    many = {f"photo{i}": small for i in range(16)}

    def memory() -> int:
        return sum(torchserve.private_memory(psutil.Process(pid)) for pid in server.workers())

    def settled(limit: int) -> bool:
        assert server.send(small).ok  # mimalloc gives memory back while it allocates
        return memory() <= limit

    for _ in range(4):
        assert server.send(small).ok
    before = memory()
    for _ in range(3):
        assert server.send(large).ok
        assert server.post(files=many).ok
    allowed = before + len(server.workers()) * ALLOWANCE
    assert wait_until(lambda: settled(allowed), 30, 0.5), f"{before} bytes before, {memory()} after"
