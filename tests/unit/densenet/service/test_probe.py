"""The probe of a service that is named by its addresses."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from densenet.service import probe
from tests.integration.gateways import StandIn, serving

Answer = tuple[int, dict[str, str], bytes]
WORKERS = [{"workers": [{"status": "READY"}, {"status": "UNLOADING"}]}]


@pytest.fixture
def server() -> Iterator[StandIn]:
    """Passes for a TorchServe with one ready worker, on one port."""

    def answer(_: int) -> Answer:
        health = stand_in.seen[-1][1] == "/predictions/densenet"
        return 200, {}, json.dumps({"status": "pass"} if health else WORKERS).encode()

    stand_in = StandIn(answer)
    with serving(stand_in):
        yield stand_in


def run(server: StandIn, question: str, *more: str) -> None:
    address = f"http://{server.address}"
    probe.main([question, "--url", f"{address}/predictions/densenet", "--management", address, *more])


def test_a_named_service_is_asked_and_named(server: StandIn, capsys: pytest.CaptureFixture[str]) -> None:
    run(server, "ready")
    run(server, "live")
    assert capsys.readouterr().out.splitlines() == [
        f"ready: http://{server.address}/predictions/densenet",
        f"live: 1 worker(s) ready: http://{server.address}",
    ]


def test_its_key_file_is_used_and_no_other(server: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {kind: {"key": kind} for kind in ("inference", "management")}
    (tmp_path / "key_file.json").write_text(json.dumps(keys))
    monkeypatch.chdir(tmp_path)
    run(server, "ready")
    run(server, "ready", "--key-file", "key_file.json")
    run(server, "live", "--key-file", "key_file.json")
    sent = [headers.get("authorization") for _, _, headers, _ in server.seen]
    assert sent == [None, "Bearer inference", "Bearer management"]


def test_without_a_ready_worker_it_is_not_live_since_nobody_remembers_one(server: StandIn) -> None:
    server.answer = lambda _: (200, {}, b'[{"workers": []}]')
    with pytest.raises(SystemExit, match="not live: no worker is ready"):
        run(server, "live")


@pytest.mark.parametrize("body", [b"<html>", b"{}", b'{"detail": "x"}', b"[]", b"[7]", b'[{"workers": 7}]', b"null"])
@pytest.mark.parametrize("question", ["ready", "live"])
def test_another_program_is_told(server: StandIn, question: str, body: bytes) -> None:
    server.answer = lambda _: (200, {}, body)
    with pytest.raises(SystemExit, match=rf"not {question}: .*http://{server.address}"):
        run(server, question)


def test_a_redirect_gets_no_token(server: StandIn, tmp_path: Path) -> None:
    (tmp_path / "key_file.json").write_text(json.dumps({"inference": {"key": "secret"}}))
    server.answer = lambda count: (302, {"Location": "/elsewhere"}, b"") if count == 1 else (200, {}, b"")
    with pytest.raises(SystemExit):
        run(server, "ready", "--key-file", str(tmp_path / "key_file.json"))
    assert [headers.get("authorization") for _, _, headers, _ in server.seen] == ["Bearer secret", None]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["live", "--url", "http://127.0.0.1:9/predictions/densenet"], "give its address with --management"),
        (["ready", "--management", "http://127.0.0.1:9"], "belong to a service that --url names"),
        (["ready", "--url", "http://127.0.0.1:9"], "--url must be an address"),
    ],
)
def test_half_an_address_is_told(arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        probe.main(arguments)
