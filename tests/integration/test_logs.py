"""What is written to the logs: nothing of what clients send, and every line JSON where that is asked for."""

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from densenet.service import readiness, temporary_instance, torchserve
from densenet.service.torchserve import LogFormat
from export import ROOT
from export.console import CliError
from tests.integration.conftest import Server, build_archive
from tests.photos import cutouts, encode

PHOTOS = [encode(image) for image in cutouts(3)]
# In a photo's own bytes, in names and in headers: what must be in no log.
SECRETS = [
    b"Zebra-Token-31",
    b"Zebra-Picture-32",
    b"Zebra-Part-33",
    b"Zebra-Text-34",
    b"Zebra-File-35",
    b"Zebra-Key-36",
]
PHOTO = PHOTOS[0] + SECRETS[1]


def provoke(server: Server) -> list[requests.Response]:
    """Requests of every kind, with something recognisable in each place."""
    headers = {"Authorization": f"Bearer {SECRETS[0].decode()}", "X-Api-Key": SECRETS[5].decode()}
    part = SECRETS[2].decode()
    return [
        server.send(PHOTO, **headers, **{"X-Request-Id": "known-7"}),
        server.post(files={part: (SECRETS[4].decode(), PHOTO), "b": SECRETS[3]}, headers=headers),
        server.send(SECRETS[3], **headers),
        server.post(data=b'{"instances": ["' + SECRETS[3], headers={"Content-Type": "application/json"} | headers),
        server.send(PHOTO, **{"X-Top-K": SECRETS[3].decode()} | headers),
        requests.get(server.url, timeout=60, headers=headers),
    ]


def logs(server: Server) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(server.service.logs).iterdir()}


@pytest.fixture(scope="module")
def archive(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_archive(exported, tmp_path_factory.mktemp("archive"), workers=1)


@pytest.fixture(scope="module")
def speaking(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service that writes JSON."""
    with temporary_instance.serving(archive, tmp_path_factory.mktemp("speaking"), log_format=LogFormat.JSON) as service:
        yield Server(service)


@pytest.fixture(scope="module")
def answers(speaking: Server) -> list[requests.Response]:
    return provoke(speaking)


def journal(server: Server) -> dict[str, dict[str, Any]]:
    """The line of each request, by TorchServe's id."""
    lines = [json.loads(line) for line in (Path(server.service.logs) / "requests.log").read_text().splitlines()]
    assert len({line["request"] for line in lines}) == len(lines)
    return {line["request"]: line for line in lines}


def test_by_default_logs_hold_nothing_of_a_request(server: Server) -> None:
    statuses = [answer.status_code for answer in provoke(server)]
    assert statuses == [200, 200, 415, 400, 400, 400]
    written = logs(server)
    assert b"/predictions/densenet" in written["access_log.log"]
    assert "requests.log" not in written
    assert not [(name, secret) for name, text in written.items() for secret in SECRETS if secret in text]
    assert not [name for name, text in written.items() if b"Exif" in text or b"JFIF" in text]


def test_an_address_is_logged_with_its_query(server: Server) -> None:
    address = "/models/densenet/invoke?top_k=1"
    assert requests.post(server.service.inference + address, data=PHOTO, timeout=60).status_code == 200
    assert address.encode() in logs(server)["access_log.log"]


def test_every_line_of_every_log_is_json(speaking: Server, answers: list[requests.Response]) -> None:
    written = logs(speaking)
    assert {"access_log.log", "ts_log.log", "model_log.log", "requests.log"} <= written.keys()
    for name, text in written.items():
        if name != "console.log":  # what Java itself says there is not the logs'
            assert text
            assert all(isinstance(json.loads(line), dict) for line in text.splitlines()), name


def test_json_logs_hold_nothing_of_a_request_either(speaking: Server, answers: list[requests.Response]) -> None:
    assert not [(name, secret) for name, text in logs(speaking).items() for secret in SECRETS if secret in text]


def test_a_request_has_one_line_under_torchserves_id(speaking: Server, answers: list[requests.Response]) -> None:
    lines = journal(speaking)
    told = [lines[answer.headers["x-request-id"]] for answer in answers]
    assert [line["status"] for line in told] == [answer.status_code for answer in answers]
    assert [line["codes"] for line in told] == [
        [],
        ["not_an_image"],
        ["not_an_image"],
        ["bad_json"],
        ["bad_option"],
        ["no_image"],
    ]
    assert [line["images"] for line in told] == [1, 2, 1, 0, 0, 0]
    assert told[0]["caller"] == "known-7"
    assert {line["protocol"] for line in told} == {"native"}
    assert told[0]["score_ms"] > 0
    assert told[0]["decode_ms"] + told[0]["transform_ms"] + told[0]["score_ms"] <= told[0]["handle_ms"]
    # scripts/serve has asked for one photo before it called the service ready.
    assert len(lines) >= len(answers) + 1


def test_request_lines_are_not_in_the_models_log_too(speaking: Server, answers: list[requests.Response]) -> None:
    text = (Path(speaking.service.logs) / "model_log.log").read_text()
    assert answers[0].headers["x-request-id"] not in text
    assert "ready: " in text


def test_a_traceback_is_one_line(archive: Path, tmp_path: Path) -> None:
    """A worker that cannot start: what it prints, what Java throws, and that scripts/serve still finds the reason."""
    with pytest.raises(CliError, match=r"cannot load the model: ValueError: model-config.yaml: handler\.threads"):
        _serve_badly(archive, tmp_path)
    (folder,) = (tmp_path / "logs").iterdir()
    lines = [json.loads(line) for line in (folder / "model_log.log").read_text().splitlines()]
    assert any("Traceback" in line["message"] for line in lines)
    for line in (folder / "ts_log.log").read_text().splitlines():
        json.loads(line)


def _serve_badly(archive: Path, folder: Path) -> None:
    bad = folder / "densenet.mar"
    _with_setting(archive, bad)
    properties = temporary_instance.on_free_ports(bad)
    watch = readiness.Watch(folder / "logs" / str(properties.port))
    service = torchserve.start(properties, run=folder, logs=folder / "logs", log_format=LogFormat.JSON)
    try:
        readiness.wait(service, watch)
    finally:
        torchserve.stop(service, run=folder)


def _with_setting(source: Path, target: Path) -> None:
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "model-config.yaml":
                content = content.replace(b"threads: auto", b"threads: none")
            new.writestr(name, content)


def test_scripts_serve_knows_two_formats() -> None:
    command = [sys.executable, "-P", "-m", "densenet", "serve", "--log-format", "xml"]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode != 0
    assert "'text', 'json'" in done.stderr
