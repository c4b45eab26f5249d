"""Which service a command speaks of: one of this checkout, or the one that is named; never what listens on a port."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from densenet.gateway import upstreams
from densenet.polling import wait_until
from densenet.service import authenticated_session, lookup, torchserve
from densenet.service.torchserve import Service
from export import ROOT
from export.console import CliError

URL = "http://127.0.0.1:9/predictions/densenet"


def ours(port: int, folder: Path, **changes: Any) -> Service:
    address = f"http://127.0.0.1:{port}"
    values: dict[str, Any] = {"pid": 1, "started": 0, "logs": "", "temp": "t", "card": {}, "folder": str(folder)}
    return Service(port=port, inference=address, management="", model="densenet", **values | changes)


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> list[Service]:
    """The services that scripts/serve started."""
    services: list[Service] = []
    monkeypatch.setattr(torchserve, "running", lambda: services)
    return services


@contextmanager
def java(folder: Path, *words: str) -> Iterator[int]:
    """A process that looks like the Java which `torchserve --start` leaves behind in a folder."""
    command = [sys.executable, "-c", "import time; time.sleep(600)", "org.pytorch.serve.ModelServer", *words]
    process = subprocess.Popen(command, cwd=folder)
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def test_a_checkout_without_services_refuses_whatever_listens_on_the_usual_port(running: list[Service]) -> None:
    with pytest.raises(CliError, match="no service of this checkout is up; start scripts/serve"):
        lookup.address_for_client(None, None, None, None, None)


def test_the_only_service_is_meant_and_of_several_one_must_be_chosen(running: list[Service], tmp_path: Path) -> None:
    running += [ours(9000, tmp_path)]
    assert lookup.find() == running[0]
    assert upstreams.of_this_checkout() == (upstreams.parse(f"127.0.0.1:9000,{tmp_path}"),)
    assert lookup.address_for_client(None, None, None, None, None) == (running[0].url, None, None)
    running += [ours(9100, tmp_path)]
    assert lookup.find(9100) == running[1]
    with pytest.raises(CliError, match="on ports 9000, 9100; choose one with --port"):
        lookup.address_for_client(None, None, None, None, None)
    with pytest.raises(CliError, match="on ports 9000, 9100; name those that the gateway stands before: --upstream"):
        upstreams.of_this_checkout()
    with pytest.raises(CliError, match="no service of this checkout is up on port 8080"):
        lookup.address_for_client(8080, None, None, None, None)


def test_clients_get_the_services_key_file_and_certificate_unless_they_name_others(
    running: list[Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renewed = []

    class Session:
        def close(self) -> None:
            renewed.append(self)

    monkeypatch.setattr(authenticated_session, "session", lambda _: Session())
    keys, certificate, other = (tmp_path / name for name in ("key_file.json", "ca.pem", "other.pem"))
    keys.write_text("{}")
    running += [ours(9000, tmp_path, ca=str(certificate))]
    assert lookup.address_for_client(None, None, None, None, None) == (running[0].url, keys, certificate)
    assert len(renewed) == 1
    assert lookup.address_for_client(None, None, "token", None, other) == (running[0].url, None, other)
    assert lookup.address_for_client(None, URL, None, None, None) == (URL, None, None)


def test_a_torchserve_that_was_started_in_this_folder_is_found_where_its_configuration_says(
    running: list[Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, elsewhere = tmp_path / "here", tmp_path / "elsewhere"
    text = (ROOT / "config.properties").read_text()
    for folder in (here, elsewhere):
        folder.mkdir()
        (folder / "mine.properties").write_text(text.replace(":8080", ":9400").replace(":8081", ":9401"))
    monkeypatch.setattr(lookup, "ROOT", here)
    with java(elsewhere, "-f", "mine.properties"):
        with java(here, "-f", "mine.properties") as pid:
            assert wait_until(lookup.started_without_us, 60)
            found = lookup.find()
            assert (found.pid, found.port, found.is_ours) == (pid, 9400, False)
            assert (found.url, found.management) == (
                "http://127.0.0.1:9400/predictions/densenet",
                "http://127.0.0.1:9401",
            )
            assert found.folder == str(here)
            running += [ours(9000, tmp_path)]
            with pytest.raises(CliError, match="on ports 9000, 9400; choose one with --port"):
                lookup.find()
        running.clear()
        with pytest.raises(CliError, match="no service of this checkout is up"):
            lookup.find()


def test_any_service_can_be_named(running: list[Service], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "key_file.json").write_text("{}")
    monkeypatch.chdir(tmp_path)  # its key file belongs to another service
    running += [ours(9000, tmp_path)]
    found = lookup.find(url="https://host:8443/predictions/other", management="https://host:8444/")
    assert (found.inference, found.model, found.management) == ("https://host:8443", "other", "https://host:8444")
    assert (found.is_ours, Path(found.folder, "key_file.json").exists()) == (False, False)
    named = lookup.find(url=URL, key_file=Path("key_file.json"))
    assert named.folder == str(tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"port": 9000, "url": URL}, "--port chooses among this checkout's services and --url names any"),
        ({"url": "http://127.0.0.1:8080"}, "--url must be an address that takes images, such as"),
        ({"url": "http://127.0.0.1:8080/predictions/densenet/1.0"}, "--url must be"),
        ({"url": "127.0.0.1:8080/predictions/densenet"}, "--url must be"),
        ({"url": URL, "management": "127.0.0.1:8081"}, "--management must be an address such as http://127.0.0.1:8081"),
        ({"url": URL, "key_file": Path("/nowhere/key_file.json")}, "--key-file must be the key_file.json"),
        ({"management": "http://127.0.0.1:8081"}, "belong to a service that --url names"),
        ({"key_file": Path("key_file.json")}, "belong to a service that --url names"),
    ],
)
def test_what_contradicts_itself_or_is_no_address_is_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(CliError, match=message):
        lookup.find(**options)
    if options.keys() == {"port", "url"}:
        with pytest.raises(CliError, match=message):
            lookup.address_for_client(options["port"], options["url"], None, None, None)
