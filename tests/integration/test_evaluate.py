"""scripts/evaluate against real TorchServes, on photos of which the eager network's answers are known beforehand."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import torch
from PIL import Image
from torch import nn

from densenet.evaluation import command as command
from densenet.evaluation import dataset
from densenet.paths import IMAGENET_CLASSES
from densenet.polling import wait_until
from tests.conftest import tutorial_transform
from tests.integration.conftest import Server, free_port
from tests.integration.gateways import StandIn, serving
from tests.photos import encode, small_cutouts

PHOTOS = [encode(image) for image in small_cutouts(24)]
EVALUATE = (Path(sys.executable).with_name("densenet"), "evaluate")
KEPT = 5  # classes of an answer


@dataclass(frozen=True)
class Labelled:
    """A folder of photos, and what the eager network makes of them."""

    folder: Path
    top1: int
    top5: int
    confidences: tuple[float, ...]
    confusions: Counter[tuple[str, str]]


@pytest.fixture(scope="session")
def labelled(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    """Of eight photos six are labelled with the network's best class, one with its third, one with none of its five;
    and one file is no image."""
    folder = tmp_path_factory.mktemp("photos")
    ids = list(dataset.read_class_index(IMAGENET_CLASSES))
    confidences: list[float] = []
    confusions: Counter[tuple[str, str]] = Counter()
    ranks: list[int] = []
    for i, photo in enumerate(PHOTOS):
        with torch.no_grad():
            logits = network(tutorial_transform()(Image.open(io.BytesIO(photo))).unsqueeze(0))
        values, positions = torch.softmax(logits[0], dim=0).topk(10)
        rank = {3: 2, 7: 9}.get(i % 8, 0)
        label, best = ids[positions[rank]], ids[positions[0]]
        (folder / label).mkdir(exist_ok=True)
        (folder / label / f"{i:02}.JPEG").write_bytes(photo)
        confidences.append(values[0].item())
        ranks.append(rank)
        confusions.update([(label, best)] if rank else [])
    (folder / label / "no photo.jpg").write_text("no photo")
    right, among_five = (sum(rank < k for rank in ranks) for k in (1, KEPT))
    return Labelled(folder, right, among_five, tuple(confidences), confusions)


def start(*arguments: object, cwd: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*EVALUATE, *map(str, arguments)],
        cwd=cwd,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs tests in the background would have Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def run(*arguments: object, cwd: Path) -> "subprocess.CompletedProcess[str]":
    process = start(*arguments, cwd=cwd)
    output, errors = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


@contextlib.contextmanager
def before(server: Server, count: int) -> Iterator[tuple[str, threading.Event]]:
    """An address that passes so many requests on to the service, and the others once the event is set."""
    rest = threading.Event()

    def answer(number: int) -> tuple[int, dict[str, str], bytes]:
        method, path, headers, body = between.seen[number - 1]
        if number > count:
            rest.wait(120)
        passed = requests.request(method, server.service.inference + path, headers=headers, data=body, timeout=60)
        return passed.status_code, {"Content-Type": passed.headers["Content-Type"]}, passed.content

    between = StandIn(answer)
    with serving(between):
        yield f"http://{between.address}/predictions/densenet", rest


def end_half_way(sent: signal.Signals, *arguments: object, cwd: Path) -> tuple[int, str, int]:
    """Ends the command after some answers: its exit status, its words, and how many answers were complete."""
    process = start(*arguments, "--output", "out", cwd=cwd)
    results_log = cwd / "out" / "answers.jsonl"

    def some_answered() -> bool:
        assert process.poll() is None, process.communicate()[1]
        return results_log.exists() and results_log.read_bytes().count(b"\n") > 5

    assert wait_until(some_answered, 120, 0.005)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors, results_log.read_bytes().count(b"\n") - 1


def report(folder: Path) -> Any:
    return json.loads((folder / "report.json").read_text())


def check(found: Any, labelled: Labelled) -> None:
    """The numbers are those that the eager network's answers make."""
    assert (found["top1"]["right"], found["top5"]["right"]) == (labelled.top1, labelled.top5)
    assert (found["set"]["images"], found["answered"]) == (len(PHOTOS) + 1, len(PHOTOS))
    assert found["top1"]["share"] == labelled.top1 / (len(PHOTOS) + 1)
    assert [(Path(one["file"]).name, one["code"]) for one in found["failed"]] == [("no photo.jpg", "not_an_image")]
    expected = sum(labelled.confidences) / len(PHOTOS)
    assert found["calibration"]["mean_confidence"] == pytest.approx(expected, abs=1e-4)
    pairs = {(one["class_id"], one["predicted_class_id"]): one["images"] for one in found["confusions"]}
    assert pairs == labelled.confusions


def test_the_numbers_are_known_beforehand_and_the_eager_network_agrees(
    server: Server, labelled: Labelled, checkpoint: Path, tmp_path: Path
) -> None:
    assert (labelled.top1, labelled.top5) == (18, 21)
    done = run(labelled.folder, "--url", server.url, "--against", "eager", "--weights", checkpoint, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = report(tmp_path / f"evaluation-{labelled.folder.name}")
    check(found, labelled)
    assert "72.00% (95% interval" in done.stdout
    first, second, *_ = done.stderr.splitlines()
    assert first.startswith(f"{server.url}: densenet 1.0, weights ")
    assert second.startswith("not answered: ")
    assert "<title>Evaluation of densenet on photos" in (
        tmp_path / f"evaluation-{labelled.folder.name}" / "report.html"
    ).read_text(encoding="utf-8")
    agreement = found["agreement"]
    assert (agreement["compared"], agreement["same_top1"], agreement["same_top5_order"]) == (len(PHOTOS), 1, 1)
    assert agreement["largest_difference"] < 1e-4
    assert agreement["answered_by_one"] == []


@pytest.mark.parametrize(
    ("sent", "status", "words"),
    [
        (signal.SIGKILL, -signal.SIGKILL, ""),
        (signal.SIGINT, 130, "evaluate: interrupted; {} of 25 images are done; run the same command to continue\n"),
    ],
)
def test_a_run_that_was_ended_half_way_goes_on(
    server: Server, labelled: Labelled, tmp_path: Path, sent: signal.Signals, status: int, words: str
) -> None:
    with before(server, 12) as (url, rest):
        arguments = (labelled.folder, "--url", url, "--parallel", 1)
        ended, errors, done = end_half_way(sent, *arguments, cwd=tmp_path)
        asked, _, rest_of_errors = errors.partition("\n")
        assert asked.startswith(f"{url}: densenet 1.0, weights ")
        assert (ended, rest_of_errors) == (status, words.format(done))
        assert done < len(PHOTOS)
        rest.set()
        again = run(*arguments, "--output", "out", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stderr.splitlines()[1] == f"resuming: {done} of 25 images are done"
    check(report(tmp_path / "out"), labelled)
    assert len((tmp_path / "out" / "answers.jsonl").read_text().splitlines()) == 1 + len(PHOTOS) + 1


def test_a_second_service_agrees(server: Server, batching: Server, labelled: Labelled, tmp_path: Path) -> None:
    command.main(labelled.folder, url=server.url, against=batching.url, output=tmp_path, parallel=8)
    check(report(tmp_path), labelled)
    agreement = report(tmp_path)["agreement"]
    assert (agreement["compared"], agreement["same_top1"]) == (len(PHOTOS), 1)
    assert agreement["largest_difference"] < 1e-4


def test_positions_in_a_csv_are_imagenets(server: Server, labelled: Labelled, tmp_path: Path) -> None:
    ids = list(dataset.read_class_index(IMAGENET_CLASSES))
    paths = sorted(labelled.folder.rglob("*.jp*g")) + sorted(labelled.folder.rglob("*.JPEG"))
    lines = [f"{path.relative_to(labelled.folder)},{ids.index(path.parent.name)}" for path in paths]
    (tmp_path / "labels.csv").write_text("\n".join(["path,index", *lines]))
    command.main(labelled.folder, labels=tmp_path / "labels.csv", url=server.url, output=tmp_path / "out")
    check(report(tmp_path / "out"), labelled)


def test_a_service_that_is_not_there_is_told_in_one_line(labelled: Labelled, tmp_path: Path) -> None:
    done = run(labelled.folder, "--url", f"http://127.0.0.1:{free_port()}/predictions/densenet", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("evaluate: nothing answers at http://127.0.0.1:")
    assert done.stderr.endswith("start the service with scripts/serve\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("body", [b"<html>Welcome</html>", b'{"tabby": 0.5}'])
def test_another_program_is_told_before_the_first_image(labelled: Labelled, tmp_path: Path, body: bytes) -> None:
    with serving(StandIn(lambda _: (200, {}, body))) as stranger:
        done = run(labelled.folder, "--url", f"http://{stranger.address}/predictions/densenet", cwd=tmp_path)
        assert len(stranger.seen) == 1
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_it_has_help(tmp_path: Path) -> None:
    done = run("--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: densenet evaluate" in done.stdout
