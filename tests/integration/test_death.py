"""A worker that is killed is replaced; those who wait in the queue are answered."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from densenet.service import temporary_instance, torchserve, worker_launcher
from tests.integration.conftest import Server, Starter, build_archive
from tests.photos import cutouts, encode

PHOTO = encode(cutouts(1)[0])


@pytest.fixture(scope="module")
def mortal(start: Starter) -> Server:
    """A service whose workers are killed here, and in the end itself."""
    return start(workers=1)


def test_a_killed_worker_costs_only_the_request_it_was_working_on(mortal: Server) -> None:
    (victim,) = mortal.workers()
    with ThreadPoolExecutor(8) as clients:
        jobs = [clients.submit(mortal.send, PHOTO) for _ in range(8)]
        os.kill(victim, signal.SIGKILL)
        statuses = [job.result().status_code for job in jobs]
    assert statuses.count(200) >= 7
    assert set(statuses) <= {200, 500, 507}
    assert victim not in mortal.workers()
    assert mortal.send(PHOTO).status_code == 200


def test_the_largest_picture_is_answered_within_the_time_limit(mortal: Server) -> None:
    # 60 megapixels of one colour: 40 kB to send, the most that a request may make a worker decode.
    from PIL import Image

    assert mortal.send(encode(Image.new("RGB", (8000, 8000)), "PNG")).json()["success"] is True
    response = mortal.send(encode(Image.new("1", (8001, 8000)), "PNG"))
    assert (response.status_code, response.json()["error"]["code"]) == (413, "too_many_pixels")


# Without native sockets, as on Apple's processors, TorchServe's workers listen on TCP ports.
@pytest.mark.parametrize("native", ["true", "false"])
def test_a_hung_worker_that_outlived_the_front_end_ends_with_the_service(
    exported: Path, tmp_path: Path, native: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(worker_launcher.VARIABLE, "none")
    archive = build_archive(exported, tmp_path, workers=1)
    with temporary_instance.serving(archive, tmp_path, use_native_io=native) as service:
        (number,) = Server(service).workers()
        worker, java = psutil.Process(number), psutil.Process(service.pid)
        worker.suspend()
        java.kill()
        java.wait(20)
        assert worker.status() == psutil.STATUS_STOPPED
        torchserve.stop(service, run=tmp_path)
        worker.wait(20)
        assert not Path(service.temp).exists()


@pytest.mark.skipif(not worker_launcher.command("/"), reason="workers are forked on Linux only")
def test_a_hung_worker_ends_with_the_front_end(mortal: Server) -> None:
    (number,) = mortal.workers()
    everything = psutil.Process(mortal.service.pid).children(recursive=True)
    psutil.Process(number).suspend()
    psutil.Process(mortal.service.pid).kill()
    assert psutil.wait_procs(everything, timeout=20)[1] == []
