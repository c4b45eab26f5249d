"""Workers of a real TorchServe share the memory of a fork server, and are replaced with it and without it."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from densenet.polling import wait_until
from densenet.service import management, temporary_instance, torchserve, worker_launcher
from densenet.service.torchserve import Service
from tests.integration.conftest import Server, build_archive
from tests.photos import cutouts, encode

pytestmark = pytest.mark.skipif(not worker_launcher.command("/"), reason="workers are forked on Linux only")
PHOTO = encode(cutouts(1)[0])


@pytest.fixture(scope="module")
def archive(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_archive(exported, tmp_path_factory.mktemp("archive"), workers=1)


@pytest.fixture(scope="module")
def forked(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose workers come from a fork server. The last test ends it."""
    with temporary_instance.serving(archive, tmp_path_factory.mktemp("forked")) as service:
        yield service


def memory(service: Service) -> int:
    """Private bytes of the only worker after some answers."""
    for _ in range(5):
        assert Server(service).send(PHOTO).ok
    (worker,) = torchserve.worker_processes(service)
    return torchserve.private_memory(worker)


def scale(service: Service, count: int) -> set[int]:
    """The parents of so many workers, once all of them are ready."""
    management.scale(service, count, count)

    def workers() -> list[psutil.Process] | None:
        state, found = management.describe(service), torchserve.worker_processes(service)
        return found if state and state.ready == len(found) == count else None

    ready = wait_until(workers, 60)
    assert ready
    return {worker.ppid() for worker in ready}


def test_workers_share_most_of_their_memory(
    archive: Path, forked: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = memory(forked)
    monkeypatch.setenv(worker_launcher.VARIABLE, "none")
    with temporary_instance.serving(archive, tmp_path) as service:
        (worker,) = torchserve.worker_processes(service)
        assert worker.ppid() == service.pid
        assert shared < memory(service) * 0.6


def test_a_service_outlives_its_fork_server_gets_another_and_leaves_nothing_behind(forked: Service) -> None:
    (first,) = scale(forked, 2)
    assert psutil.Process(first).ppid() == forked.pid
    psutil.Process(first).kill()
    assert Server(forked).send(PHOTO).ok
    assert len(torchserve.worker_processes(forked)) == 2
    (second,) = {pid for pid in scale(forked, 3) if psutil.Process(pid).ppid() == forked.pid}
    processes = psutil.Process(forked.pid).children(recursive=True)
    processes += torchserve.worker_processes(forked)
    assert second in {process.pid for process in processes}
    (victim, *_) = torchserve.worker_processes(forked)
    victim.kill()  # whether it is the first fork server's or the second's
    assert wait_until(lambda: scale(forked, 3) and victim not in torchserve.worker_processes(forked), 60)
    assert Server(forked).send(PHOTO).ok
    torchserve.stop(forked, run=Path(forked.folder).parent)
    assert psutil.wait_procs(processes, timeout=20)[1] == []
    assert not Path(forked.temp).exists()
