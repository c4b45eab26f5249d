"""ImageNet: caches, torchvision's address and the Hugging Face hub, each of them missing, broken or out of reach."""

import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import pytest
import safetensors.torch
import torch
from torch import Tensor
from torchvision.models import DenseNet121_Weights, densenet121

from export import ROOT, imagenet
from export.console import CliError, Unreachable

REFUSED = "http://127.0.0.1:9"
TENSORS = {"a.weight": torch.tensor([[1.0, -2.0], [3.5, 0.0]]), "a.bias": torch.tensor([0.25, -1.0])}
COMMIT = "0123456789abcdef0123456789abcdef01234567"
RESOLVED = "/timm/densenet121.tv_in1k/resolve/main/model.safetensors"
OF_HUB = f"hf://timm/densenet121.tv_in1k@{COMMIT}/model.safetensors"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler] | partial[SimpleHTTPRequestHandler]) -> Iterator[str]:
    """The address of a server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@dataclass
class Hub:
    """A stand-in for the hub, with one large file, which it names by a digest and sends from another host."""

    content: bytes
    digest: str
    address: str = ""
    requests: list[str] = field(default_factory=list)

    def handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                hub.requests.append(f"{self.command} {self.path}")
                if self.path == RESOLVED:
                    self.send_response(302)
                    self.send_header("Location", f"{hub.address.replace('127.0.0.1', 'localhost')}/blob")
                    self.send_header("X-Repo-Commit", COMMIT)
                    self.send_header("X-Linked-ETag", f'"{hub.digest}"')
                    self.send_header("X-Linked-Size", str(len(hub.content)))
                    self.send_header("Content-Length", "0")
                elif self.path == "/blob":
                    self.send_response(200)
                    self.send_header("ETag", '"of-the-storage"')
                    self.send_header("Content-Length", str(len(hub.content)))
                else:
                    self.send_response(404)
                    self.send_header("Content-Length", "0")
                self.end_headers()

            def do_GET(self) -> None:
                self.do_HEAD()
                if self.path == "/blob":
                    self.wfile.write(hub.content)

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler


@pytest.fixture(scope="module")
def network_file() -> bytes:
    """A DenseNet-121 as the hub has it: safetensors with modern key names."""
    torch.manual_seed(5)
    return safetensors.torch.save(densenet121().state_dict())


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of Torch Hub's checkpoints; it and the hub's are this test's own, and the hub is out of reach."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")
    for name in imagenet._HUB_DEFAULTS:
        monkeypatch.setenv(name, imagenet._HUB_DEFAULTS[name])
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    at(monkeypatch, REFUSED)
    assert Path(torch.hub.get_dir()) == tmp_path / "torch_home" / "hub"
    yield tmp_path / "torch_home" / "hub" / "checkpoints"
    huggingface_hub.close_session()


def at(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """Do what HF_ENDPOINT does before the library is imported."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    template = f"{endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def hub(network_file: bytes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    stand_in = Hub(network_file, sha256(network_file))
    with serving(stand_in.handler()) as stand_in.address:
        at(monkeypatch, stand_in.address)
        yield stand_in


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A checkpoint under the kind of name that torchvision publishes."""
    (tmp_path / "published").mkdir()
    path = tmp_path / "published" / "weights.pth"
    torch.save(TENSORS, path)
    return path.rename(path.with_name(f"densenet121-{sha256(path.read_bytes())[:8]}.pth"))


@pytest.fixture
def host(published: Path) -> Iterator[str]:
    """The address of a server of the published file."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with serving(partial(Quiet, directory=str(published.parent))) as address:
        yield address


def assert_same(state: object, expected: dict[str, Tensor]) -> None:
    assert isinstance(state, dict)
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_imagenet_means_the_file_that_torchvision_publishes() -> None:
    published = DenseNet121_Weights.IMAGENET1K_V1
    assert (published.name, published.url) == (imagenet.NAME, imagenet.URL)
    assert imagenet.load.__defaults__ == (imagenet.URL,)


class TestTorchHubsCache:
    def test_it_needs_no_network(self, cache: Path, published: Path, hub: Hub) -> None:
        cache.mkdir(parents=True)
        url = f"{REFUSED}/{published.name}"
        (cache / published.name).write_bytes(published.read_bytes())
        loaded = imagenet.load(url)
        assert (loaded.name, loaded.source) == ("IMAGENET1K_V1", url)
        assert loaded.sha256 == sha256(published.read_bytes())
        assert_same(loaded.state, TENSORS)
        assert hub.requests == []

    def test_a_damaged_file_is_named(self, cache: Path, published: Path) -> None:
        cache.mkdir(parents=True)
        damaged = cache / published.name
        damaged.write_bytes(published.read_bytes()[:-1])
        with pytest.raises(CliError, match=re.escape(str(damaged))) as caught:
            imagenet.load(f"{REFUSED}/{published.name}")
        assert not isinstance(caught.value, Unreachable)
        assert "delete it" in str(caught.value)


class TestTorchvisionsAddress:
    def test_a_download_is_checked_and_kept(self, cache: Path, published: Path, host: str, hub: Hub) -> None:
        loaded = imagenet.load(f"{host}/{published.name}")
        assert_same(loaded.state, TENSORS)
        assert (loaded.source, loaded.sha256) == (f"{host}/{published.name}", sha256(published.read_bytes()))
        assert files_in(cache) == [published.name]
        assert (cache / published.name).read_bytes() == published.read_bytes()
        assert_same(imagenet.load(f"{REFUSED}/{published.name}").state, TENSORS)
        assert hub.requests == []

    def test_a_download_with_another_digest_is_refused_and_not_kept(
        self, cache: Path, published: Path, host: str
    ) -> None:
        published.rename(published.with_name("densenet121-00000000.pth"))
        with pytest.raises(CliError, match=r"densenet121-00000000\.pth: the download is damaged") as caught:
            imagenet.load(f"{host}/densenet121-00000000.pth")
        assert not isinstance(caught.value, Unreachable)
        assert "\n" not in str(caught.value)
        assert files_in(cache) == []

    def test_a_host_without_the_file_counts_as_unreachable(self, cache: Path, host: str) -> None:
        with pytest.raises(Unreachable):
            imagenet.load(f"{host}/densenet121-11111111.pth")
        assert files_in(cache) == []

    def test_a_host_that_does_not_speak_http_counts_as_unreachable(self, cache: Path) -> None:
        def answer(server: socket.socket) -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

        with socket.create_server(("127.0.0.1", 0)) as server:
            thread = threading.Thread(target=answer, args=(server,))
            thread.start()
            try:
                with pytest.raises(Unreachable):
                    imagenet.load(f"http://127.0.0.1:{server.getsockname()[1]}/densenet121-22222222.pth")
            finally:
                thread.join()
        assert files_in(cache) == []


class TestHuggingFacesHub:
    @pytest.mark.parametrize("torchvision", ["unreachable", "damaged"])
    def test_it_is_asked_when_torchvision_has_no_good_file(
        self, torchvision: str, hub: Hub, host: str, published: Path, cache: Path
    ) -> None:
        published.rename(published.with_name("densenet121-00000000.pth"))
        loaded = imagenet.load(f"{REFUSED if torchvision == 'unreachable' else host}/densenet121-00000000.pth")
        assert (loaded.name, loaded.source, loaded.sha256) == ("IMAGENET1K_V1", OF_HUB, sha256(hub.content))
        assert_same(loaded.state, safetensors.torch.load(hub.content))
        assert files_in(cache) == []

    def test_its_cache_needs_no_network(
        self, hub: Hub, host: str, published: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = imagenet.load(f"{REFUSED}/{published.name}")
        asked = list(hub.requests)
        assert f"HEAD {RESOLVED}" in asked
        again = imagenet.load(f"{host}/{published.name}")  # nor torchvision's
        assert (again.source, again.sha256) == (first.source, first.sha256)
        assert hub.requests == asked
        at(monkeypatch, REFUSED)
        assert imagenet.load(f"{REFUSED}/{published.name}").source == OF_HUB

    @pytest.mark.parametrize("last", [b"!", b"!" * 1000])
    def test_a_damaged_file_is_refused_and_named(self, last: bytes, hub: Hub, tmp_path: Path) -> None:
        hub.content = hub.content[: -len(last)] + last
        for _ in range(2):  # downloaded, then from the cache
            with pytest.raises(CliError, match=r"is damaged: .*; delete it and try again") as caught:
                imagenet.load(f"{REFUSED}/densenet121-00000000.pth")
            assert str(tmp_path / "hub") in str(caught.value)
            assert not isinstance(caught.value, Unreachable)
            assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("tensors", "reason"),
        [
            (TENSORS, "not a DenseNet-121: classifier.weight"),
            (densenet121(num_classes=3).state_dict(), "it has 3 classes, not 1000"),
        ],
        ids=["another network", "other classes"],
    )
    def test_another_network_is_refused_and_named(self, tensors: dict[str, Tensor], reason: str, hub: Hub) -> None:
        hub.content = safetensors.torch.save(tensors)
        hub.digest = sha256(hub.content)
        with pytest.raises(CliError, match=rf"model\.safetensors: {reason}.*delete it") as caught:
            imagenet.load(f"{REFUSED}/densenet121-00000000.pth")
        assert not isinstance(caught.value, Unreachable)
        assert "\n" not in str(caught.value)

    def test_offline_mode_is_a_reason(self, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(Unreachable, match=r"Hugging Face's .*offline"):
            imagenet.load(f"{REFUSED}/densenet121-00000000.pth")
        assert hub.requests == []

    def test_a_hub_without_the_repository_counts_as_unreachable(
        self, host: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        at(monkeypatch, host)
        with pytest.raises(Unreachable, match=r"Hugging Face's .*404"):
            imagenet.load(f"{REFUSED}/densenet121-00000000.pth")


def test_without_caches_and_network_one_line_names_each_source_and_says_what_to_do(
    cache: Path, published: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    url = f"{REFUSED}/{published.name}"
    with pytest.raises(Unreachable) as caught:
        imagenet.load(url)
    message = str(caught.value)
    assert re.search(rf"{re.escape(url)}: .*refused.*; Hugging Face's timm/densenet121\.tv_in1k: .*refused", message)
    assert all(part in message for part in (published.name, str(cache), "--weights FILE", "--weights untrained"))
    assert "\n" not in message
    assert files_in(cache) == []
    assert capfd.readouterr() == ("", "")


def export(output: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    own = {"PYTHONPATH": str(ROOT), "TORCH_HOME": str(output / "torch"), "HF_HOME": str(output / "hf")}
    cleared = {name: value for name, value in os.environ.items() if name not in imagenet._HUB_DEFAULTS}
    return subprocess.run(
        [sys.executable, "-m", "export", "--output", str(output / "export")],
        env=cleared | own | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_an_export_of_the_hubs_file_names_it_in_the_model_card(hub: Hub, tmp_path: Path) -> None:
    done = export(tmp_path, HF_ENDPOINT=hub.address, https_proxy=REFUSED)
    assert (done.returncode, done.stderr) == (0, "")
    card = json.loads((tmp_path / "export" / "model_card.json").read_text())
    assert card["weights"] == {"name": "IMAGENET1K_V1", "source": OF_HUB, "sha256": sha256(hub.content)}
    assert "model.safetensors" in files_in(tmp_path / "hf")


@pytest.mark.slow
def test_a_network_that_drops_packets_is_told_in_less_than_a_minute(tmp_path: Path) -> None:
    with ExitStack() as silent:
        ports = [silent.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(2)]
        started = time.monotonic()
        done = export(tmp_path, HF_ENDPOINT=f"http://127.0.0.1:{ports[0]}", https_proxy=f"http://127.0.0.1:{ports[1]}")
        assert time.monotonic() - started < 60
    assert done.returncode == Unreachable.status
    assert re.fullmatch(r"export: cannot download .*timed out; Hugging Face's .*timed out; put .*\n", done.stderr)
