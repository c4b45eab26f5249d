"""scripts/stop: one service, the chosen one, or all; and what only TorchServe's own command stops."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from densenet.service import lookup, stop, torchserve
from densenet.service.torchserve import Service
from export.console import CliError
from tests.unit.densenet.service.test_lookup import ours


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ports of the services that were ended."""
    ports: list[int] = []
    monkeypatch.setattr(torchserve, "lock", nullcontext)
    monkeypatch.setattr(stop, "end", lambda service, _: ports.append(service.port))
    monkeypatch.setattr(lookup, "started_without_us", list)
    return ports


def up(monkeypatch: pytest.MonkeyPatch, folder: Path, *ports: int) -> None:
    monkeypatch.setattr(torchserve, "running", lambda: [ours(port, folder) for port in ports])


@pytest.mark.parametrize(
    ("ports", "options", "expected"),
    [
        ((9000,), {}, [9000]),
        ((9000, 9100), {"port": 9100}, [9100]),
        ((9000, 9100), {"everything": True}, [9000, 9100]),
        ((9000,), {"port": 9100}, []),
        ((), {"everything": True}, []),
    ],
)
def test_it_ends_what_it_was_told_to(
    ports: tuple[int, ...],
    options: dict[str, Any],
    expected: list[int],
    ended: list[int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    up(monkeypatch, tmp_path, *ports)
    stop.main(**options)
    assert ended == expected
    assert ("nothing to stop" in capsys.readouterr().out) == (not expected)


def test_of_several_none_is_ended_until_one_is_chosen(
    ended: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    up(monkeypatch, tmp_path, 9000, 9100)
    with pytest.raises(CliError, match="on ports 9000, 9100; choose one with --port, or stop them with --all"):
        stop.main()
    with pytest.raises(CliError, match="give one of them"):
        stop.main(port=9000, everything=True)
    assert ended == []


def test_how_to_stop_what_torchserve_started_is_told(
    ended: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain: list[Service] = [ours(8080, tmp_path, temp="")]
    monkeypatch.setattr(lookup, "started_without_us", lambda: plain)
    up(monkeypatch, tmp_path)
    with pytest.raises(CliError, match=r"port 8080 was started by torchserve --start; .*&& torchserve --stop"):
        stop.main()
    stop.main(port=9000)  # which is not its port
    up(monkeypatch, tmp_path, 9000)
    with pytest.raises(CliError, match="torchserve --stop"):
        stop.main(everything=True)
    assert ended == [9000]
