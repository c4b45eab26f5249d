"""scripts/serve, stop and predict as a person runs them, in a copy of the repository."""

import csv
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests
import safetensors.torch
import torch

from densenet.service import java
from export import ROOT
from tests import environments
from tests.conftest import make_network
from tests.integration.conftest import free_port, wait_for_answer
from tests.photos import cutouts, encode

LEFT_OUT = (".git", ".venv*", ".run", "build", "logs", "*.mar", "__pycache__", ".*_cache", ".hypothesis")
# One worker, without measuring batches, which takes seconds.
ONE_WORKER = ("--workers", "1", "--batch-size", "1")
UNREACHABLE = {"https_proxy": "http://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}


class Checkout:
    """A copy of the repository that shares this one's packages."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port = free_port()
        shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(*LEFT_OUT))
        environments.make(root)
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self.environment = (
            environment
            | UNREACHABLE
            | {
                "TORCH_HOME": str(root / "torch-home"),
                "HF_HOME": str(root / "hf-home"),
            }
        )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/predictions/densenet"

    def run(
        self, script: str, *arguments: object, prefix: str = "", **options: object
    ) -> "subprocess.CompletedProcess[str]":
        words = " ".join([prefix, str(self.root / "scripts" / script), *map(str, arguments)])
        # From another folder: every command works from any.
        return subprocess.run(
            ["bash", "-c", words],
            cwd="/",
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )

    def serve(self, *arguments: object, prefix: str = "") -> "subprocess.CompletedProcess[str]":
        return self.run("serve", "--port", self.port, *arguments, prefix=prefix)

    def processes(self) -> list[psutil.Process]:
        """What runs with this checkout's paths."""
        found = []
        for process in psutil.process_iter():
            try:
                found += [process] if str(self.root / ".run") in " ".join(process.cmdline()) else []
            except psutil.Error:
                continue
        return found


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    checkout = Checkout(tmp_path_factory.mktemp("checkout") / "repository")
    yield checkout
    checkout.run("stop", "--all")


@pytest.fixture(scope="module")
def fine_tuned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint of three classes, with the dotted key names of old, and its class index."""
    folder = tmp_path_factory.mktemp("fine tuned".replace(" ", "-"))
    state = make_network(classes=3).state_dict()
    pattern = re.compile(r"(denselayer\d+\.(?:norm|conv))([12])\.")
    torch.save(
        {"state_dict": {pattern.sub(r"\1.\2.", name): value for name, value in state.items()}}, folder / "mine.pth"
    )
    (folder / "classes.json").write_text(json.dumps({"0": "cat", "1": "dog", "2": ["bird-1", "bird"]}))
    return folder / "mine.pth", folder / "classes.json"


def one_line(done: "subprocess.CompletedProcess[str]", name: str) -> str:
    """The last line of what went wrong, after checking that it is told as it should be."""
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith(f"{name}: ")
    return line


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photos and a file that is none."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "deep").mkdir()
    (folder / "deep" / "one.jpg").write_bytes(encode(cutouts(1)[0]))
    (folder / "two.png").write_bytes(encode(cutouts(2)[1], "PNG"))
    (folder / "bad.jpg").write_bytes(b"no photo")
    return folder


class TestServePredictAndStop:
    """One service's life, in the order of the tests."""

    def test_serve_exports_archives_starts_and_says_where(
        self, checkout: Checkout, fine_tuned: tuple[Path, Path], folder: Path
    ) -> None:
        weights, classes = fine_tuned
        done = checkout.serve("--weights", weights, "--class-index", classes, *ONE_WORKER)
        assert done.returncode == 0, done.stderr
        assert "DenseNet-121 is up: 1 worker(s), weights mine.pth" in done.stdout
        assert f"curl -T {checkout.root}/export/photos/cat.jpg {checkout.url}" in done.stdout
        with (folder / "two.png").open("rb") as photo:
            rows = requests.put(checkout.url, data=photo, timeout=60).json()["predictions"]
        labels = {row["class_id"]: row["label"] for row in rows}
        assert labels == {"cat": "cat", "dog": "dog", "bird-1": "bird"}

    def test_a_second_serve_finds_it_up_and_passes_nothing_over(
        self, checkout: Checkout, fine_tuned: tuple[Path, Path]
    ) -> None:
        again = checkout.serve()
        assert (again.returncode, "already up: 1 worker(s)" in again.stdout) == (0, True)
        assert "already up" in one_line(checkout.serve("--weights", "untrained"), "serve")
        assert "already up" in one_line(checkout.serve("--rebuild"), "serve")
        assert "already up" in one_line(checkout.serve("--log-format", "json"), "serve")
        more = checkout.serve("--workers", 2, "--weights", fine_tuned[0], "--class-index", fine_tuned[1])
        assert "already up: 2 worker(s)" in more.stdout

    def test_predict_takes_files_folders_and_standard_input(self, checkout: Checkout, folder: Path) -> None:
        names = (folder / "deep", folder / "two.png", "-")
        done = checkout.run("predict", *names, prefix=f"< {folder}/two.png")
        assert done.returncode == 0, done.stderr
        assert done.stderr.splitlines()[-1] == f"{checkout.url}: densenet 1.0, weights mine.pth, fp32"
        files = [line.split()[0] for line in done.stdout.splitlines() if not line.startswith(" ")]
        assert files == ["file", str(folder / "deep" / "one.jpg"), str(folder / "two.png"), "-"]

    def test_predict_shows_a_bad_file_as_a_row_and_in_its_exit_status(self, checkout: Checkout, folder: Path) -> None:
        done = checkout.run("predict", "--url", checkout.url, folder)
        assert "1 of 3 images" in one_line(done, "predict")
        assert "not_an_image" in done.stdout

    def test_predict_prints_json_and_csv(self, checkout: Checkout, folder: Path) -> None:
        lines = checkout.run("predict", "--json", "--url", checkout.url, folder).stdout.splitlines()
        rows = [json.loads(line) for line in lines]
        assert [Path(row["file"]).name for row in rows] == ["bad.jpg", "one.jpg", "two.png"]
        assert rows[0]["error"]["code"] == "not_an_image"
        answer = requests.put(checkout.url, data=encode(cutouts(1)[0]), timeout=60).json()
        assert rows[1]["predictions"] == answer["predictions"]
        table = io.StringIO(checkout.run("predict", "--csv", "--url", checkout.url, folder).stdout)
        assert [row["rank"] for row in csv.DictReader(table)] == ["", "1", "2", "3", "1", "2", "3"]

    def test_stop_ends_it_and_leaves_nothing(self, checkout: Checkout, folder: Path) -> None:
        record = checkout.root / ".run" / str(checkout.port) / "service.json"
        temp = json.loads(record.read_text())["temp"]
        stopped = checkout.run("stop")
        assert (stopped.returncode, stopped.stdout.strip()) == (0, f"stopped the service on port {checkout.port}")
        assert checkout.processes() == []
        assert not Path(temp).exists()
        assert "nothing to stop" in checkout.run("stop").stdout
        assert "no service of this checkout is up" in one_line(checkout.run("predict", folder), "predict")
        done = checkout.run("predict", "--url", checkout.url, folder)
        assert "start the service with scripts/serve" in one_line(done, "predict")

    def test_a_rebuild_does_not_swap_the_model_for_another(self, checkout: Checkout) -> None:
        line = one_line(checkout.serve("--rebuild"), "serve")
        assert line.endswith("densenet.mar was made from the weights file mine.pth; name it again: --weights FILE")


def keep_in_the_hubs_cache(weights: Path, hub: Path) -> Path:
    """Put a checkpoint where Hugging Face's library would have kept its download; that folder."""
    folder = hub / "hub" / "models--timm--densenet121.tv_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    (folder / "snapshots" / ("0" * 40)).mkdir(parents=True)
    state = torch.load(weights, weights_only=True)
    safetensors.torch.save_file(state, folder / "snapshots" / ("0" * 40) / "model.safetensors")
    return folder


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """A checkout in which nothing has been served yet."""
    offline = Checkout(tmp_path_factory.mktemp("offline") / "repository")
    yield offline
    offline.run("stop", "--all")


class TestWithoutANetwork:
    """One checkout's life, in the order of the tests."""

    def test_what_prepares_production_never_falls_back(self, offline: Checkout) -> None:
        line = one_line(offline.serve("--foreground"), "export")
        assert re.search(r"cannot download .*download\.pytorch\.org.*; Hugging Face's .*; put .*--weights FILE", line)
        assert not list((offline.root / "model_store").glob("*.mar"))

    def test_a_plain_first_serve_has_untrained_weights_and_says_how_to_get_others(self, offline: Checkout) -> None:
        done = offline.serve("--workers", 1)
        assert done.returncode == 0, done.stderr
        assert "DenseNet-121 is up" in done.stdout
        assert "UNTRAINED" in done.stderr
        assert "first start: " in done.stderr
        assert re.search(r"batches: [\d.]+ ms an image alone, .*; batchSize \d", done.stderr)
        last = done.stderr.splitlines()[-4:]
        assert "the weights are untrained; every answer is meaningless" in last[0]
        assert f"scripts/stop --port {offline.port}" in last[1]
        assert f"scripts/serve --port {offline.port} --weights imagenet" in last[2]
        assert f"scripts/serve --port {offline.port} --weights FILE" in last[3]
        answer = requests.put(offline.url, data=encode(cutouts(1)[0]), timeout=60)
        assert answer.json()["model"]["weights"] == "untrained"

    def test_the_way_that_it_says_leads_to_real_answers(self, offline: Checkout, checkpoint: Path) -> None:
        hub = keep_in_the_hubs_cache(checkpoint, offline.root / "hf-home")
        assert offline.run("stop", "--port", offline.port).returncode == 0
        options = ("--foreground", "--port", str(offline.port), "--weights", "imagenet", *ONE_WORKER)
        process = subprocess.Popen(
            [offline.root / "scripts" / "serve", *options],
            env=offline.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            answer = wait_for_answer(offline.url, encode(cutouts(1)[0]), 600)
            assert answer.json()["model"]["weights"] == "IMAGENET1K_V1"
            assert offline.processes() != []
            assert offline.run("workers").returncode == 0  # which waits until serve has said that it is up
        finally:
            process.send_signal(signal.SIGTERM)
            output, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert "untrained" not in errors.lower()
        assert "first start: " not in errors
        assert "DenseNet-121 is up" in output
        assert offline.processes() == []
        shutil.rmtree(hub)

    def test_a_service_keeps_its_weights_when_another_one_is_started_with_others(self, offline: Checkout) -> None:
        other = offline.run("serve", "--port", free_port(), "--weights", "untrained", *ONE_WORKER)
        try:
            assert "weights untrained" in other.stdout, other.stderr
            again = offline.serve(*ONE_WORKER)
            assert "weights IMAGENET1K_V1" in again.stdout, again.stderr
            assert f"the service on port {offline.port} keeps version 1.1 (weights IMAGENET1K_V1" in again.stderr
            assert f"scripts/serve --port {offline.port} --archive" in again.stderr
            answer = requests.put(offline.url, data=encode(cutouts(1)[0]), timeout=60)
            assert answer.json()["model"]["weights"] == "IMAGENET1K_V1"
        finally:
            offline.run("stop")

    def test_after_trained_weights_nothing_falls_back(self, offline: Checkout) -> None:
        (offline.root / "model_store" / "densenet.mar").unlink()
        shutil.rmtree(offline.root / "build")
        assert "cannot download" in one_line(offline.run("serve", "--port", free_port()), "export")


def test_a_port_that_is_taken_is_told_in_one_line(checkout: Checkout) -> None:
    for offset in range(5):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", checkout.port + offset))
            taken.listen()
            assert f"port {checkout.port + offset} is taken" in one_line(checkout.serve(), "serve")
    assert checkout.processes() == []


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("handler/ranking.py", "raise RuntimeError('the labels are broken')\n", "RuntimeError: the labels are broken"),
        ("handler/scoring.py", "import nonsense_that_is_missing\n", "No module named 'nonsense_that_is_missing'"),
    ],
)
def test_a_broken_model_is_told_in_one_line_and_nothing_is_left_running(
    checkout: Checkout, file: str, content: str, reason: str
) -> None:
    path = checkout.root / file
    original = path.read_text()
    path.write_text(original + content)
    try:
        assert reason in one_line(checkout.serve(*ONE_WORKER), "serve")
    finally:
        path.write_text(original)
    assert checkout.processes() == []


def test_a_damaged_archive_is_told_in_one_line(checkout: Checkout) -> None:
    archive = checkout.root / "model_store" / "densenet.mar"
    whole = archive.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:1000] + b"\0" * 5000 + whole[6000:]):
        archive.write_bytes(damaged)
        assert "--rebuild" in one_line(checkout.serve("--weights", "untrained"), "serve")
    archive.write_bytes(whole)
    assert checkout.processes() == []


def test_a_full_disk_is_told_in_one_line(checkout: Checkout) -> None:
    # Files of at most 10 MB stand in for a disk that fills up while the network is written.
    done = checkout.serve("--rebuild", "--weights", "untrained", prefix="ulimit -f 10000;")
    assert "File too large" in one_line(done, "export")
    assert checkout.processes() == []


def assert_commands_work_with_what_serve_did_not_start(checkout: Checkout) -> None:
    management = f"http://127.0.0.1:{checkout.port + 1}"
    for where in ((), ("--url", checkout.url, "--management", management)):
        assert checkout.run("probe", "ready", *where).stdout.startswith(f"ready: {checkout.url}")
        assert checkout.run("probe", "live", *where).stdout.startswith(f"live: 1 worker(s) ready: {management}")
        shown = checkout.run("workers", *where)
        assert shown.returncode == 0, shown.stderr
        assert f"{checkout.url}: weights mine.pth, fp32" in shown.stderr
        assert "1 of 1 ready, version 1.0" in shown.stdout
    more = checkout.run("workers", 2)
    assert "2 of 2 ready, version 1.0" in more.stdout, more.stderr
    assert "cannot be paused" in one_line(checkout.run("workers", 1), "workers")
    assert "2 of 2 ready" in checkout.run("workers").stdout
    photo = checkout.root / "export" / "photos" / "cat.jpg"
    assert f"{checkout.url}: densenet 1.0, weights mine.pth" in checkout.run("predict", photo).stderr
    assert "torchserve --stop" in one_line(checkout.run("stop"), "stop")


def test_plain_torchserve_works_from_the_repository_root(checkout: Checkout, tmp_path: Path) -> None:
    assert checkout.run("archive", "--workers", 1).returncode == 0
    config = checkout.root / "config.properties"
    original = config.read_text()
    ports = {"8080": 0, "8081": 1, "8082": 2, "7070": 3, "7071": 4}
    config.write_text(re.sub("|".join(ports), lambda match: str(checkout.port + ports[match[0]]), original))
    (tmp_path / "t").mkdir()
    path = f"{Path(sys.executable).parent}:{java.find().parent}:{os.environ['PATH']}"
    environment = checkout.environment | {"TEMP": str(tmp_path / "t"), "TMPDIR": str(tmp_path), "PATH": path}
    options = {"cwd": checkout.root, "env": environment, "timeout": 90, "check": True}
    try:
        command = ["torchserve", "--start", "--ncs", "--ts-config", "config.properties"]
        subprocess.run(command, stdout=subprocess.DEVNULL, **options)  # type: ignore[call-overload]
        assert wait_for_answer(checkout.url, encode(cutouts(1)[0]), 300).status_code == 200
        metrics = requests.get(f"http://127.0.0.1:{checkout.port + 2}/metrics", timeout=20).text
        assert 'densenet_images_total{model_name="densenet"' in metrics
        assert {log.name for log in (checkout.root / "logs").glob("*.log")} == {
            "access_log.log",
            "model_log.log",
            "ts_log.log",
        }
        assert_commands_work_with_what_serve_did_not_start(checkout)
    finally:
        subprocess.run(["torchserve", "--stop", "--foreground"], **options)  # type: ignore[call-overload]
        config.write_text(original)


@pytest.mark.parametrize(
    "script",
    ["serve", "stop", "workers", "rollout", "probe", "gateway", "chaos", "predict", "evaluate", "export", "archive"],
)
def test_every_command_has_help(checkout: Checkout, script: str) -> None:
    done = checkout.run(script, "--help")
    assert (done.returncode, "usage:" in done.stdout.lower()) == (0, True)
