"""What a rollout makes of answers that are none of the model's."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import requests

from densenet.service import rollout
from export.console import CliError
from tests.integration.gateways import standing_in

FULL = {"code": 503, "type": "ServiceUnavailableException", "message": "no worker to serve inference request"}
DIED = {"code": 500, "type": "InternalServerException", "message": "Worker died."}
GONE = {"code": 404, "type": "ModelVersionNotFoundException", "message": "Model version: 1.0 does not exist"}
RIGHT = {"success": True, "class_id": "n02123045"}
REFUSED = {"success": False, "error": {"code": "internal_error", "message": "the service failed"}}


def ask(answers: Sequence[tuple[int, dict[str, Any]]], folder: Path) -> tuple[Any, int]:
    """The answer that is taken, and how often was asked; after the last one it is given for ever."""
    (folder / "photo.jpg").write_bytes(b"photo")

    def answer(number: int) -> tuple[int, dict[str, str], bytes]:
        status, told = answers[min(number, len(answers)) - 1]
        return status, {}, json.dumps(told).encode()

    with standing_in(answer) as server, requests.Session() as http:
        taken = rollout._predict(http, f"http://{server.address}/predictions/densenet", folder / "photo.jpg")
        assert {body for *_, body in server.seen} == {b"photo"}
        return taken, len(server.seen)


def test_a_full_queue_and_a_dead_worker_are_no_answer(tmp_path: Path) -> None:
    assert ask([(503, FULL), (500, DIED), (200, RIGHT)], tmp_path) == (RIGHT, 3)


def test_a_refusal_of_the_model_is_one(tmp_path: Path) -> None:
    assert ask([(500, REFUSED), (200, RIGHT)], tmp_path) == (REFUSED, 1)


def test_a_version_that_is_gone_is_not_asked_again(tmp_path: Path) -> None:
    with pytest.raises(CliError, match=r"did not answer .*photo\.jpg: Model version: 1\.0 does not exist"):
        ask([(404, GONE), (200, RIGHT)], tmp_path)


def test_a_queue_that_stays_full_ends_the_rollout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "_RETRY_SECONDS", 0.5)
    with pytest.raises(CliError, match="no worker to serve"):
        ask([(503, FULL)], tmp_path)
