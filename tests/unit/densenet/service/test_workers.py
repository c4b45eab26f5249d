"""Workers of a TorchServe that scripts/serve did not start: what can be shown, and what is refused."""

import json
from collections.abc import Iterator

import pytest

from densenet import cli
from densenet.service import readiness, workers
from export.console import CliError
from tests.integration.gateways import StandIn, serving

CARD = {"weights": {"name": "mine.pth"}, "precision": "fp32"}
UNKNOWN = {"code": 404, "type": "ModelNotFoundException", "message": "Model not found: other"}


class TorchServe:
    """A TorchServe with two workers."""

    def __init__(self) -> None:
        self.card: object = CARD
        self.server = StandIn(self.answer)

    def answer(self, _: int) -> tuple[int, dict[str, str], bytes]:
        _, path, *_ = self.server.seen[-1]
        if not path.startswith("/models/densenet"):
            return 404, {}, json.dumps(UNKNOWN).encode()
        worker = {"id": "9000", "pid": 1, "status": "READY", "startTime": "2026-01-01T00:00:00.000Z"}
        described = {
            "modelVersion": "1.0",
            "minWorkers": 2,
            "maxWorkers": 2,
            "batchSize": 1,
            "workers": [worker, worker | {"id": "9001", "status": "UNLOADING"}],
            "jobQueueStatus": {"remainingCapacity": 100, "pendingRequests": 0},
        }
        return 200, {}, json.dumps([described | {"customizedMetadata": self.card}]).encode()

    @property
    def changes(self) -> list[str]:
        return [path for method, path, *_ in self.server.seen if method != "GET"]

    def run(self, count: int | None = None, model: str = "densenet") -> None:
        address = f"http://{self.server.address}"
        workers.main(count, url=f"http://127.0.0.1:9/predictions/{model}", management_url=address, seconds=1)


@pytest.fixture
def torchserve() -> Iterator[TorchServe]:
    torchserve = TorchServe()
    with serving(torchserve.server):
        yield torchserve


def test_what_torchserve_knows_is_shown_and_the_rest_is_left_out(
    torchserve: TorchServe, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"http://{torchserve.server.address}"
    with pytest.raises(SystemExit, match="0"):
        cli.main(["workers", "--url", "http://127.0.0.1:9/predictions/densenet", "--management", address])
    output, errors = capsys.readouterr()
    rows = [line.split() for line in output.splitlines()]
    # Process 1 may be another machine's: nothing is said of the one that has this id here.
    assert [(row[0], row[1], row[2], row[3], *row[-2:]) for row in rows[1:3]] == [
        ("9000", "1", "ready", "-", "-", "-"),
        ("9001", "1", "loading", "-", "-", "-"),
    ]
    assert rows[3][:4] == ["1", "of", "2", "ready,"]
    assert errors.splitlines()[0] == "http://127.0.0.1:9/predictions/densenet: weights mine.pth, fp32"
    assert "- means unknown, because scripts/serve did not start this service" in errors


@pytest.mark.parametrize("card", [None, "a page", {"weights": "x"}, []])
def test_weights_that_nobody_names_are_unknown(
    torchserve: TorchServe, card: object, capsys: pytest.CaptureFixture[str]
) -> None:
    torchserve.card = card
    torchserve.run()
    assert "densenet: weights unknown\n" in capsys.readouterr().err


def test_scaling_down_would_lose_requests_and_is_refused(torchserve: TorchServe) -> None:
    with pytest.raises(CliError, match=r"workers cannot be paused.*curl -X PUT 'http://.*/models/densenet\?min_worker"):
        torchserve.run(1)
    assert torchserve.changes == []


def test_scaling_up_loses_nothing(torchserve: TorchServe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "wait", lambda *_: 3)
    torchserve.run(3)
    assert torchserve.changes == ["/models/densenet?min_worker=3&max_worker=3"]


def test_a_model_that_it_does_not_have_is_told(torchserve: TorchServe) -> None:
    with pytest.raises(CliError, match="TorchServe has no model other"):
        torchserve.run(model="other")


@pytest.mark.parametrize(
    ("status", "body"), [(200, b"<html>"), (200, b"{}"), (200, b"[]"), (404, b"<html>"), (404, b'{"detail": "x"}')]
)
def test_another_program_is_told(status: int, body: bytes) -> None:
    server = StandIn(lambda _: (status, {}, body))
    with serving(server), pytest.raises(CliError, match=r"answers at http://\S+ is not TorchServe's management API"):
        workers.main(
            url="http://127.0.0.1:9/predictions/densenet", management_url=f"http://{server.address}", seconds=1
        )


def test_nobody_there_and_half_an_address_are_told() -> None:
    url = "http://127.0.0.1:9/predictions/densenet"
    with pytest.raises(CliError, match=r"management API does not answer at http://127\.0\.0\.1:9$"):
        workers.main(url=url, management_url="http://127.0.0.1:9", seconds=1)
    with pytest.raises(CliError, match="--url needs --management"):
        workers.main(url=url, seconds=1)


@pytest.mark.parametrize(
    ("evaluation", "ending"), [({"fp32": {}}, "fp32, calibrated"), ({"int8": {}}, "fp32"), ([], "fp32")]
)
def test_a_calibrated_model_is_introduced_as_one(
    evaluation: object, ending: str, torchserve: TorchServe, capsys: pytest.CaptureFixture[str]
) -> None:
    torchserve.card = CARD | {"evaluation": evaluation}
    torchserve.run()
    assert capsys.readouterr().err.splitlines()[0].endswith(f": weights mine.pth, {ending}")
