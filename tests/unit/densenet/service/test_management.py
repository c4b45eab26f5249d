"""What is asked again of a TorchServe that stumbles over a worker it ends, as its BatchAggregator.sendError does."""

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from densenet.service import management
from densenet.service.torchserve import Service
from export.console import CliError
from tests.integration.gateways import StandIn, serving

STUMBLED = {
    "code": 500,
    "type": "NullPointerException",
    "message": 'Cannot invoke "org.pytorch.serve.job.Job.isControlCmd()" because "job" is null',
}
NO_ROOM = {"code": 500, "type": "IllegalStateException", "message": "Deque full"}
REFUSED = {"code": 500, "type": "InternalServerException", "message": "Interrupted while executing the command"}
GONE = {"code": 404, "type": "ModelVersionNotFoundException", "message": "Model version: 1.0 does not exist"}


class Stumbler:
    """One version of a model, as TorchServe 0.12 keeps it, stumbling over the next `stumbles` workers that it ends."""

    def __init__(self, workers: int, stumbles: int, refusal: dict[str, object]) -> None:
        self.running, self.known, self.stumbles, self.refusal = workers, workers, stumbles, refusal
        self.server = StandIn(self.answer)

    @property
    def asked(self) -> list[str]:
        return [method for method, *_ in self.server.seen if method != "GET"]

    def answer(self, _: int) -> tuple[int, dict[str, str], bytes]:
        method, path, *_ = self.server.seen[-1]
        if method == "PUT":
            status, words = self.end(int(parse_qs(urlsplit(path).query)["max_worker"][0]))
        elif method == "DELETE":
            status, words = self.end(0)
            self.known = 0  # what is still running then runs on: nothing names it any more
        else:
            status, words = (200, self.describe()) if self.known else (404, GONE)
        return status, {}, json.dumps(words).encode()

    def end(self, most: int) -> tuple[int, object]:
        while self.known > most:
            self.known -= 1
            self.running -= 1
            if self.stumbles:
                self.stumbles -= 1
                return 500, self.refusal
        return 200, {"status": "done"}

    def describe(self) -> object:
        worker = {"id": "9000", "pid": 1, "status": "READY", "startTime": "2026-01-01T00:00:00.000Z"}
        queue = {"remainingCapacity": 100, "pendingRequests": 0}
        return [
            {"modelVersion": "1.0", "minWorkers": 1, "maxWorkers": 4, "batchSize": 1}
            | {"workers": [worker] * self.known, "jobQueueStatus": queue}
        ]


@pytest.fixture
def stumbler(request: pytest.FixtureRequest) -> Iterator[Stumbler]:
    stumbler = Stumbler(*request.param)
    with serving(stumbler.server):
        yield stumbler


def service(stumbler: Stumbler, folder: Path) -> Service:
    address = f"http://{stumbler.server.address}"
    return Service(
        pid=1, started=0, port=1, inference=address, management=address, model="densenet", logs="", temp="",
        folder=str(folder), card={}, archive="",
    )  # fmt: skip


@pytest.mark.parametrize(
    "stumbler", [(4, stumbles, words) for stumbles in range(4) for words in (STUMBLED, NO_ROOM)], indirect=True
)
def test_as_many_workers_are_left_as_were_asked_for(stumbler: Stumbler, tmp_path: Path) -> None:
    stumbles = stumbler.stumbles
    management.scale(service(stumbler, tmp_path), 1, 1)
    assert (stumbler.running, stumbler.asked) == (1, ["PUT"] * (stumbles + 1))


@pytest.mark.parametrize("stumbler", [(4, stumbles, STUMBLED) for stumbles in range(5)], indirect=True)
def test_no_worker_outlives_its_version(stumbler: Stumbler, tmp_path: Path) -> None:
    management.unregister(service(stumbler, tmp_path), "1.0")
    assert (stumbler.running, stumbler.known) == (0, 0)


@pytest.mark.parametrize("stumbler", [(1, 1, STUMBLED)], indirect=True)
def test_a_single_worker_ends_with_its_version(stumbler: Stumbler, tmp_path: Path) -> None:
    management.unregister(service(stumbler, tmp_path), "1.0")
    assert (stumbler.running, stumbler.asked) == (0, ["DELETE"])


@pytest.mark.parametrize("stumbler", [(4, 4, REFUSED)], indirect=True)
def test_what_is_no_stumbling_is_not_asked_again(stumbler: Stumbler, tmp_path: Path) -> None:
    with pytest.raises(CliError, match="TorchServe refused 1 to 1 workers: Interrupted"):
        management.scale(service(stumbler, tmp_path), 1, 1)
    assert stumbler.asked == ["PUT"]


@pytest.mark.parametrize("stumbler", [(4, 99, STUMBLED)], indirect=True)
def test_it_is_not_asked_for_ever(stumbler: Stumbler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stumbler, "end", lambda most: (500, STUMBLED))
    with pytest.raises(CliError, match="TorchServe refused 1 to 1 workers: Cannot invoke"):
        management.scale(service(stumbler, tmp_path), 1, 1)
    assert len(stumbler.asked) == 5


@pytest.mark.parametrize("stumbler", [(1, 0, STUMBLED)], indirect=True)
def test_where_nothing_listens_it_is_said_so(stumbler: Stumbler, tmp_path: Path) -> None:
    nobody = service(stumbler, tmp_path)
    stumbler.server.shutdown()
    stumbler.server.server_close()
    for ask in (lambda: management.scale(nobody, 1, 1), lambda: management.unregister(nobody, "1.0")):
        with pytest.raises(CliError, match="TorchServe's management API does not answer at http://127"):
            ask()
