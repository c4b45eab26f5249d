"""Serve: untrained weights stand in for missing ones at a plain first start, and nowhere else."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from densenet.paths import CONFIG
from densenet.service import archive, serve, torchserve
from densenet.service.torchserve import LogFormat, Service
from export import Precision


@pytest.mark.parametrize(
    ("options", "trained_before", "allowed"),
    [
        ({}, False, True),
        ({"workers": 1, "port": 9000, "log_format": LogFormat.JSON}, False, True),
        ({}, True, False),
        ({"foreground": True}, False, False),
        ({"config": CONFIG}, False, False),
        ({"tokens": True}, False, False),
        ({"model_api": True}, False, False),
        ({"rebuild": True}, False, False),
        ({"weights": "imagenet"}, False, False),
        ({"precision": Precision.BF16}, False, False),
        ({"class_index": Path("classes.json")}, False, False),
    ],
)
def test_only_a_plain_first_serve_may_fall_back(
    options: dict[str, Any], trained_before: bool, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def ensure(*_: object, fall_back: bool, **__: object) -> None:
        asked.append(fall_back)
        raise SystemExit

    monkeypatch.setattr(serve.signal, "signal", lambda *_: None)
    monkeypatch.setattr(archive, "ensure", ensure)
    monkeypatch.setattr(torchserve, "lock", nullcontext)
    monkeypatch.setattr(torchserve, "running", list)
    monkeypatch.setattr(torchserve, "has_served_trained", lambda: trained_before)
    with pytest.raises(SystemExit):
        serve.main(**options)
    assert asked == [allowed]


@pytest.mark.parametrize("weights", ["untrained", "mine.pth"])
def test_the_last_lines_say_how_to_get_real_answers(
    weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = {"weights": {"name": weights}, "precision": "fp32"}
    service = Service(1, 5.0, 9000, "http://127.0.0.1:9000", "", "densenet", "", "", card, folder=str(tmp_path))
    serve._report_in_background(service, 1, "up")
    errors = capsys.readouterr().err
    assert ("are untrained" in errors) == (weights == "untrained")
    commands = ("scripts/stop --port 9000", "serve --port 9000 --weights imagenet", "serve --port 9000 --weights FILE")
    assert all((command in errors) == (weights == "untrained") for command in commands)
