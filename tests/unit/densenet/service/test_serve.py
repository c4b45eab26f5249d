"""Serve: untrained weights stand in for missing ones at a plain first start, and nowhere else."""

import json
import shutil
import socket
import subprocess
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from densenet.paths import CONFIG, PHOTO
from densenet.service import archive, java, serve, temporary_instance, torchserve
from densenet.service.torchserve import LogFormat, Service
from export import ROOT, Precision
from export.console import CliError
from tests.integration.gateways import standing_in


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
    monkeypatch.setattr(serve, "_check_start", lambda *_: None)
    monkeypatch.setattr(torchserve, "lock", nullcontext)
    monkeypatch.setattr(torchserve, "running", list)
    monkeypatch.setattr(torchserve, "has_served_trained", lambda: trained_before)
    with pytest.raises(SystemExit):
        serve.main(**options)
    assert asked == [allowed]


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No service runs, and nothing may be exported."""
    monkeypatch.setattr(serve.signal, "signal", lambda *_: None)
    monkeypatch.setattr(archive, "ensure", lambda *_, **__: pytest.fail("exports"))
    monkeypatch.setattr(torchserve, "lock", nullcontext)
    monkeypatch.setattr(torchserve, "running", list)
    monkeypatch.setattr(java, "find", lambda: Path("java"))


@pytest.mark.usefixtures("alone")
def test_a_configuration_copied_elsewhere_is_refused_before_any_export(tmp_path: Path) -> None:
    copied = Path(shutil.copyfile(CONFIG, tmp_path / "config.properties"))
    with pytest.raises(CliError, match=rf"model_store names {tmp_path}/model_store, .* paths begin at {tmp_path}$"):
        serve.main(config=copied, port=free_port())
    assert list(tmp_path.iterdir()) == [copied]


@pytest.mark.usefixtures("alone")
def test_a_port_that_is_taken_is_told_before_any_export() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port := free_port()))
        taken.listen()
        with pytest.raises(CliError, match=f"port {port} is taken"):
            serve.main(port=port)


@pytest.mark.usefixtures("alone")
def test_a_missing_java_is_told_before_any_export(monkeypatch: pytest.MonkeyPatch) -> None:
    def find() -> Path:
        raise CliError("Java 17 or newer was not found")

    monkeypatch.setattr(java, "find", find)
    with pytest.raises(CliError, match="Java 17"):
        serve.main(port=free_port())


def free_port() -> int:
    """The first of five free ports."""
    return temporary_instance.on_free_ports(Path("any.mar")).port


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


@pytest.mark.parametrize("here", [True, False])
@pytest.mark.parametrize("token", [None, "se'cret"])
def test_the_line_to_try_works_in_a_shell(
    here: bool, token: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "it's a folder"
    folder.mkdir()
    if token:
        (folder / "key_file.json").write_text(json.dumps({"inference": {"key": token}}))
    monkeypatch.chdir(ROOT if here else folder)
    with standing_in(lambda _: (200, {}, b"fine")) as server:
        card = {"weights": {"name": "mine.pth"}, "precision": "fp32"}
        service = Service(1, 5.0, 9000, f"http://{server.address}", "", "densenet", "", "", card, folder=str(folder))
        serve._report(service, 1, "up", "stop")
        (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("  try"))
        done = subprocess.run(["sh", "-c", line.removeprefix("  try")], capture_output=True, text=True, check=True)
    ((method, path, headers, body),) = server.seen
    assert (method, path, done.stdout) == ("PUT", "/predictions/densenet", "fine")
    assert headers.get("authorization") == (token and f"Bearer {token}")
    assert body == PHOTO.read_bytes()
    assert ("curl -T export/photos/cat.jpg " in line) == (here and not token)


def test_the_line_to_try_trusts_the_services_own_certificate(tmp_path: Path) -> None:
    address = "https://127.0.0.1:9"
    service = Service(1, 5.0, 9, address, "", "densenet", "", "", {}, folder=str(tmp_path), ca=str(tmp_path / "ca.pem"))
    assert f" --cacert {tmp_path}/ca.pem -T " in serve._example(service)
