"""What systemd is told, and the units in deploy/systemd."""

import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from densenet.service import systemd
from export import ROOT

UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))


@pytest.mark.parametrize("abstract", [False, True])
def test_systemd_is_notified(abstract: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "notify")
    address = f"@{path}" if abstract else path
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(f"\0{path}" if abstract else path)
        receiver.settimeout(10)
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        systemd.notify(systemd.READY)
        assert receiver.recv(100) == b"READY=1"


def test_without_systemd_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    systemd.notify(systemd.READY)


def test_the_units_are_valid_and_hardened(tmp_path: Path) -> None:
    if not (analyze := shutil.which("systemd-analyze")):
        pytest.skip("systemd-analyze is not there")
    # The programs that they run must exist.
    program = tmp_path / "checkout" / ".venv" / "bin" / "densenet"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    units = []
    for unit in UNITS:
        text = unit.read_text().replace("/srv/densenet", str(tmp_path / "checkout"))
        (tmp_path / unit.name).write_text(text)
        units.append(tmp_path / unit.name)
    done = subprocess.run([analyze, "verify", "--man=no", *units], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for unit in units:
        # The exposure level in tenths; above 25 fails.
        command = [analyze, "security", "--offline=true", "--threshold=25", unit]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-500:]


def test_the_units_call_options_that_exist() -> None:
    assert [unit.name for unit in UNITS] == ["densenet-gateway.service", "densenet.service"]
    for unit in UNITS:
        (line,) = (line for line in unit.read_text().splitlines() if line.startswith("ExecStart="))
        _, command, *words = line.split()
        module = {"serve": "densenet/service/serve.py", "gateway": "densenet/gateway/command.py"}[command]
        text = (ROOT / module).read_text()
        for option in (word for word in words if word.startswith("--")):
            assert option in text or f"{option[2:].replace('-', '_')}: " in text
