"""scripts/workers, rollout, probe and stop as an operator runs them, under a load that must not notice."""

import contextlib
import copy
import json
import os
import re
import shutil
import signal
import subprocess
import time
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import requests
import torch
from PIL import Image
from torch import nn

from densenet.chaos.load import Load
from densenet.polling import wait_until
from densenet.service import management, quiesce, tokens, torchserve
from densenet.service.workers import scale
from export import archive as archiving
from export import bundle, weights
from export.archive import read_version
from export.console import CliError
from handler import worker_control
from tests.integration.conftest import Server, Starter
from tests.integration.gateways import Gateway, gateway, wants_nginx
from tests.integration.load import PAUSE, PHOTOS, best_classes, loading
from tests.integration.test_scripts import ONE_WORKER, Checkout, one_line
from tests.integration.truth import CLASSES, preprocessed
from tests.photos import encode

# Six times 64 megapixels, in 200 kB: seconds of work.
# As many pixels as a request may have.
SLOW = {str(i): encode(Image.new("RGB", (4600, 4600), "navy"), "PNG") for i in range(6)}


class Live(Checkout):
    """A checkout whose service takes new versions, and asks for tokens for that."""

    @property
    def folder(self) -> Path:
        return self.root / ".run" / str(self.port)

    @property
    def authorized(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {tokens.current(self.folder, 'inference')}"}

    def versions(self) -> set[str]:
        headers = {"Authorization": f"Bearer {tokens.current(self.folder, 'management')}"}
        address = f"http://127.0.0.1:{self.port + 1}/models/densenet/all"
        return {model["modelVersion"] for model in requests.get(address, headers=headers, timeout=60).json()}

    def kept(self) -> set[str]:
        """The versions whose archives the service has kept."""
        return {read_version(path) for path in (self.folder / "archives").iterdir()}

    def workers(self) -> list[int]:
        (service,) = torchserve.running(self.root / ".run")
        return [process.pid for process in torchserve.worker_processes(service)]

    def begin_slowly(self, clients: ThreadPoolExecutor, **headers: str) -> Future[requests.Response]:
        """A request that the only worker is working on."""
        slow = clients.submit(requests.post, self.url, files=SLOW, headers=headers, timeout=60)
        (pid,) = self.workers()
        folder = Path(json.loads((self.folder / "service.json").read_text())["temp"], "control")
        wait_until_working(folder, [pid], [slow])
        return slow

    def load(
        self, before: Gateway | None = None, others: Mapping[str, Sequence[str]] | None = None, pause: float = PAUSE
    ) -> contextlib.AbstractContextManager[Load[str]]:
        """before: a gateway to send the requests to, on new connections, since a reload closes those that are idle."""
        known = best_classes(self.url, **self.authorized)
        if before:
            return loading(before.url, known, others=others, pause=pause, Connection="close")
        return loading(self.url, known, keys=self.folder, pause=pause)


def ask_by_name(live: Live, version: str) -> Counter[int]:
    """What a client sees who names a version, until there is none of this name."""
    seen = Counter[int]()

    def is_gone() -> bool:
        answer = requests.put(f"{live.url}/{version}", data=PHOTOS[0], headers=live.authorized, timeout=60)
        seen[answer.status_code] += 1
        if answer.status_code == 503:
            assert (answer.json()["error"]["code"], answer.headers["Retry-After"]) == ("draining", "1")
            time.sleep(1)
        return seen[404] > 0

    wait_until(is_gone, 120, PAUSE)
    return seen


def wait_until_working(folder: Path, pids: Iterable[int], asked: Iterable[Future[requests.Response]]) -> None:
    """Until each worker works on one of the requests, none of which may have ended before."""

    def all_work() -> bool:
        assert not any(answer.done() for answer in asked)
        return all(worker_control.read_record(folder, pid)[1] for pid in pids)

    assert wait_until(all_work, 60, 0.005)


@contextlib.contextmanager
def standing_still(pids: Iterable[int]) -> Iterator[None]:
    processes = [psutil.Process(pid) for pid in pids]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


@pytest.fixture(scope="module")
def other(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Weights with another best class for every photo, and these classes by the eager network."""
    network = copy.deepcopy(network)
    with torch.no_grad():
        network.classifier.weight.mul_(-1)
        positions = network(torch.stack([preprocessed(photo) for photo in PHOTOS])).argmax(dim=1)
    path = tmp_path_factory.mktemp("other") / "other.pth"
    torch.save(network.state_dict(), path)
    return path, [CLASSES.ids[position] for position in positions]


@pytest.fixture(scope="module")
def archives(
    exported: Path, other: tuple[Path, list[str]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The same network as versions 1.0, 2.0 and 2.1, another one as 3.0, and one that cannot be loaded as 4.0."""
    folder = tmp_path_factory.mktemp("archives")
    paths = {version: folder / version / "densenet.mar" for version in ("1.0", "2.0", "2.1", "3.0", "4.0")}
    for version in ("1.0", "2.0", "2.1"):
        archiving.build(exported, paths[version], version=version, workers=2)
    bundle.make(weights.load(str(other[0])), None).write(folder / "other")
    archiving.build(folder / "other", paths["3.0"], version="3.0", workers=1)
    paths["4.0"].parent.mkdir()
    archiving.build(exported, folder / "whole.mar", version="4.0", workers=1)
    with zipfile.ZipFile(folder / "whole.mar") as whole, zipfile.ZipFile(paths["4.0"], "w") as broken:
        for name in whole.namelist():
            extra = b"\nraise RuntimeError('version 4.0 is broken')\n" if name == "handler/ranking.py" else b""
            broken.writestr(name, whole.read(name) + extra)
    return paths


@pytest.fixture(scope="module")
def live(archives: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    checkout = Live(tmp_path_factory.mktemp("live") / "repository")
    (checkout.root / "model_store" / "densenet.mar").write_bytes(archives["1.0"].read_bytes())
    done = checkout.serve("--model-api", "--log-format", "json")
    assert done.returncode == 0, done.stderr
    yield checkout
    checkout.run("stop", "--all")


@pytest.fixture(scope="module")
def before(live: Live, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway before it."""
    options, upstream = ("--no-keys", "--rate", "1000", "--burst", "1000"), f"127.0.0.1:{live.port},{live.folder}"
    with gateway(tmp_path_factory.mktemp("gateway"), *options, upstreams=(upstream,), tls=False) as opened:
        yield opened


def test_nobody_notices_when_workers_come_and_go(live: Live) -> None:
    with live.load(pause=0) as load:
        for arguments, count in (((3,), 3), ((1,), 1), (("--min", 2), 2), (("--max", 1), 1), ((2,), 2)):
            done = live.run("workers", *arguments)
            assert done.returncode == 0, done.stderr
            assert f"{count} of {count} ready, version 1.0" in done.stdout
            assert len(live.workers()) == count
            load.wait_for_answers(10, "afterwards")
    assert set(load.outcomes) == {"1.0"}


def test_workers_are_shown_as_the_system_sees_them(live: Live) -> None:
    before = live.run("workers").stdout.splitlines()
    for photo in PHOTOS:
        assert requests.put(live.url, data=photo, headers=live.authorized, timeout=60).ok
    after = live.run("workers").stdout.splitlines()
    assert before[0].split() == ["worker", "pid", "state", "memory", "age", "requests", "working"]
    rows = [line.split() for line in after[1:-1]]
    assert sorted(int(row[1]) for row in rows) == sorted(live.workers())
    assert {(row[2], row[4], row[-1]) for row in rows} == {("ready", "MB", "no")}
    counts = [sum(int(line.split()[-2]) for line in table[1:-1]) for table in (before, after)]
    assert counts[1] - counts[0] == len(PHOTOS)
    assert after[-1] == "2 of 2 ready, version 1.0; queue: 0 waiting, room for 100 more"


def test_numbers_that_cannot_be_are_refused(live: Live) -> None:
    assert "--min 3 is more than --max 2" in one_line(live.run("workers", "--min", 3, "--max", 2), "workers")
    assert "give a number, or --min and --max" in one_line(live.run("workers", 2, "--max", 2), "workers")
    assert live.run("workers", 0).returncode == 2
    assert "no service of this checkout is up on port 1" in one_line(live.run("workers", "--port", 1), "workers")
    assert len(live.workers()) == 2


def test_a_probe_tells_ready_and_live_apart(live: Live) -> None:
    management = f"http://127.0.0.1:{live.port + 1}"
    for question, words in (("ready", f"ready: {live.url}"), ("live", f"live: 2 worker(s) ready: {management}")):
        done = live.run("probe", question)
        assert (done.returncode, done.stdout.partition(",")[0]) == (0, words)
        assert ", weights " in done.stdout
    for pid in live.workers():
        os.kill(pid, signal.SIGKILL)
    # TorchServe takes a moment to notice.
    asked = wait_until(lambda: (done := live.run("probe", "ready", "--timeout", 1)).returncode and done, 10)
    assert asked
    assert asked.stderr.startswith("not ready: ")
    assert live.run("probe", "live").returncode == 0
    gone = live.run("probe", "live", "--patience", 0)
    assert (gone.returncode, "not live: no worker is ready" in gone.stderr) in ((1, True), (0, False))
    assert wait_until(lambda: live.run("probe", "ready").returncode == 0, 120)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_command_that_is_ended_lets_the_workers_go(live: Live, number: signal.Signals) -> None:
    (service,) = torchserve.running(live.root / ".run")
    with standing_still(live.workers()):
        command = subprocess.Popen(
            [live.root / "scripts" / "workers", "1"],
            env=live.environment,
            # Whoever runs the tests may have had it ignored, as nohup has.
            preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
        )
        assert wait_until(lambda: list(service.control.glob("hold-*")), 60)
        command.send_signal(number)
        assert command.wait(60) == 128 + number
        assert list(service.control.glob("hold-*")) == []
    assert requests.put(live.url, data=PHOTOS[0], headers=live.authorized, timeout=60).ok
    assert len(live.workers()) == 2


def test_rollouts_and_rollbacks_are_not_noticed(live: Live, archives: dict[str, Path]) -> None:
    home = live.root / "model_store"
    with live.load() as load, ThreadPoolExecutor(1) as clients:
        naming = clients.submit(ask_by_name, live, "1.0")
        done = live.run("rollout", archives["2.0"])
        assert done.returncode == 0, done.stderr
        assert "4 of 4 photos have the same best class" in done.stderr
        assert live.versions() == {"2.0"}
        load.wait_for_answers(10, "afterwards")
        seen = naming.result()
        assert (seen[404], seen[500] <= 1, seen.keys() <= {200, 503, 404, 500}) == (1, True, True)
    assert set(load.outcomes) == {"1.0", "2.0"}
    assert (home / "densenet.mar").read_bytes() == archives["2.0"].read_bytes()
    assert live.kept() == {"1.0", "2.0"}
    with live.load() as load:
        assert live.run("rollout", archives["2.1"]).returncode == 0
        assert live.versions() == {"2.1"}
        for version in ("2.0", "1.0"):
            done = live.run("rollout", "--rollback")
            assert done.returncode == 0, done.stderr
            assert live.versions() == {version}
            assert (home / "densenet.mar").read_bytes() == archives[version].read_bytes()
        line = one_line(live.run("rollout", "--rollback"), "rollout")
        assert f"the history of the service on port {live.port} has nothing before version 1.0" in line
        load.wait_for_answers(10, "afterwards")
    assert set(load.outcomes) == {"1.0", "2.0", "2.1"}
    assert live.versions() == {"1.0"}
    assert live.kept() == {"1.0", "2.0", "2.1"}
    rows = [line.split() for line in live.run("rollout", "--history").stdout.splitlines() if "fp32" in line]
    assert [(row[0], " ".join(row[6:])) for row in rows] == [
        ("1.0", "in service"),
        ("2.0", "withdrawn"),
        ("2.1", "withdrawn"),
    ]


@pytest.fixture(scope="module")
def one_worker(live: Live) -> None:
    """One worker from here on: further tests need no second one, which every version would take seconds to start."""
    done = live.run("workers", 1)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("one_worker")
def test_a_trial_without_a_gateway_is_refused(live: Live, archives: dict[str, Path]) -> None:
    line = one_line(live.run("rollout", archives["2.0"], "--shadow", "--for", "10m"), "rollout")
    assert "a trial needs a gateway" in line
    assert f"--upstream http://127.0.0.1:{live.port},{live.folder}" in line
    assert live.versions() == {"1.0"}


@wants_nginx
@pytest.mark.usefixtures("one_worker")
def test_other_weights_are_tried_on_clients_requests_and_rolled_out(
    live: Live, archives: dict[str, Path], other: tuple[Path, list[str]], before: Gateway
) -> None:
    weights_file, classes = other
    with live.load(before, {"1.1": classes}) as load:
        canary = ("--canary", "50%", "--for", "3s")
        line = one_line(live.run("rollout", archives["2.0"], *canary, "--min-requests", 100000), "rollout")
        assert re.search(r"version 2\.0 got \d+ requests, too few to judge it by.*; version 1\.0 stays", line)
        assert live.versions() == {"1.0"}
        tried = len(load.outcomes)
        shadow = ("--shadow", "--for", "4s", "--min-requests", 1)
        done = live.run("rollout", "--weights", weights_file, "--min-agreement", 0, *shadow)
        assert done.returncode == 0, done.stderr
        assert live.versions() == {"1.1"}
        rows = {line[:22].strip(): line[22:].split() for line in done.stdout.splitlines()}
        assert rows["errors (5xx)"] == ["0", "0"]
        assert int(rows["requests"][1]) > 0
        compared = int(rows["same answer"][2])
        assert (rows["same answer"][0], compared > 0) == ("0", True)  # of so many
        assert "weights other.pth" in done.stdout
        load.wait_for_answers(10, "afterwards")
        assert live.run("rollout", "--rollback").returncode == 0
        load.wait_for_answers(10, "afterwards")
    assert load.sent == len(load.outcomes)
    assert set(load.outcomes) == {"1.0", "1.1", "2.0"}
    assert set(load.outcomes[tried:]) == {"1.0", "1.1"}  # none went to the version that was withdrawn
    assert not (live.root / "build").exists()
    assert before.said().count("the trial is over") == 2


@pytest.mark.parametrize(
    ("moment", "stays"),
    [
        ("starting version", "1.0"),
        ("draining version", "2.0"),
        pytest.param("answers 50% of the requests", "1.0", marks=wants_nginx),
    ],
)
@pytest.mark.usefixtures("one_worker")
def test_a_rollout_that_is_killed_is_shown_and_cleaned_up(
    live: Live, archives: dict[str, Path], moment: str, stays: str, request: pytest.FixtureRequest
) -> None:
    canary = ["--canary", "50%", "--for", "10m"] if "answers" in moment else []
    opened: Gateway | None = request.getfixturevalue("before") if canary else None
    with live.load(opened) as load:
        command = [live.root / "scripts" / "rollout", archives["2.0"], *canary]
        rollout = subprocess.Popen(command, env=live.environment, stderr=subprocess.PIPE, text=True)
        assert rollout.stderr
        assert any(moment in line for line in rollout.stderr)
        assert wait_until(lambda: live.versions() >= {"2.0"}, 60, 0.01)
        assert not canary or wait_until(lambda: "2.0" in load.outcomes, 60)
        rollout.kill()
        rollout.wait()
        rollout.stderr.close()
        left = live.versions()
        assert left == {"1.0", "2.0"} or moment == "draining version"
        if left == {"1.0", "2.0"}:
            seen = live.run("workers")
            assert all(f"version {version}" in seen.stdout for version in ("1.0", "2.0"))
            assert ", not the default" in seen.stdout
            assert f"scripts/rollout --port {live.port} --history" in seen.stderr
            assert ("registered for a trial" in seen.stderr) == bool(canary)
            line = one_line(live.run("rollout", archives["2.1"]), "rollout")
            assert f"scripts/rollout --port {live.port} --abort" in line
        if opened:
            opened.wait(lambda: opened.said().rstrip().endswith("no request goes to a new version"))
            assert "a trial whose command was killed" in live.run("workers").stderr
        done = live.run("rollout", "--abort")
        assert done.returncode == 0, done.stderr
        assert f"version {stays}" in done.stdout
        assert not (live.folder / "trial.json").exists()
        assert live.versions() == {stays}
        assert len(live.workers()) == 1
        if stays == "1.0" and not canary:
            done = live.run("rollout", archives["2.0"])
            assert done.returncode == 0, done.stderr
            assert live.versions() == {"2.0"}
        assert canary or live.run("rollout", "--rollback").returncode == 0
        assert live.versions() == {"1.0"}
        load.wait_for_answers(10, "afterwards")
    assert set(load.outcomes) == {"1.0", "2.0"}
    assert not (live.root / "model_store" / "densenet-rollout.mar").exists()


@pytest.mark.parametrize(
    ("version", "reason"),
    [
        ("3.0", "of 4 photos agree, fewer than --min-agreement 0.9 requires; version 1.0 stays in service"),
        ("4.0", "version 4.0 is broken"),
        ("1.0", "version 1.0 is already in service"),
    ],
)
@pytest.mark.usefixtures("one_worker")
def test_a_version_that_is_not_fit_leaves_the_old_one_serving(
    live: Live, archives: dict[str, Path], version: str, reason: str
) -> None:
    with live.load() as load:
        assert reason in one_line(live.run("rollout", archives[version]), "rollout")
        load.wait_for_answers(10, "afterwards")
    assert set(load.outcomes) == {"1.0"}
    assert live.versions() == {"1.0"}
    assert len(live.workers()) == 1
    assert (live.root / "model_store" / "densenet.mar").read_bytes() == archives["1.0"].read_bytes()


@pytest.mark.parametrize(
    "url",
    [
        *(
            "http://127.0.0.1:1/evil.mar",
            "https://models.example/evil.mar",
            "file:///etc/passwd",
            "ftp://127.0.0.1/x.mar",
        ),
        *("s3://bucket/evil.mar", "../../evil.mar", "..%2F..%2Fevil.mar", "/etc/passwd", "https:evil.mar", ""),
    ],
)
def test_a_model_from_elsewhere_is_not_registered(live: Live, url: str) -> None:
    headers = {"Authorization": f"Bearer {tokens.current(live.folder, 'management')}"}
    address = f"http://127.0.0.1:{live.port + 1}/models"
    answer = requests.post(address, params={"url": url}, headers=headers, timeout=60)
    assert answer.status_code in (400, 404)
    assert live.versions() == {"1.0"}


def register_beside(live: Live, archive: Path, workers: int) -> None:
    """A second version, as for a canary."""
    shutil.copyfile(archive, live.root / "model_store" / "beside.mar")
    headers = {"Authorization": f"Bearer {tokens.current(live.folder, 'management')}"}
    wanted = {"url": "beside.mar", "model_name": "densenet", "initial_workers": workers, "synchronous": "true"}
    address = f"http://127.0.0.1:{live.port + 1}/models"
    assert requests.post(address, params=wanted, headers=headers, timeout=360).ok


@pytest.mark.usefixtures("one_worker")
def test_stop_answers_what_has_begun_and_refuses_the_rest(live: Live, archives: dict[str, Path]) -> None:
    register_beside(live, archives["3.0"], workers=1)
    (service,) = torchserve.running(live.root / ".run")
    with ThreadPoolExecutor(2) as clients:
        # The version that is not the default one has longer to work.
        pictures = {live.url: dict(list(SLOW.items())[:3]), f"{live.url}/3.0": SLOW}
        asked = [
            clients.submit(requests.post, url, files=files, headers=live.authorized, timeout=60)
            for url, files in pictures.items()
        ]
        wait_until_working(service.control, live.workers(), asked)
        stopping = subprocess.Popen([live.root / "scripts" / "stop"], env=live.environment, stdout=subprocess.PIPE)
        later = []
        while stopping.poll() is None:
            try:
                later.append(requests.put(live.url, data=PHOTOS[0], headers=live.authorized, timeout=60))
            except requests.ConnectionError:
                time.sleep(0.05)
        stopping.communicate()
        for slow, files in zip(asked, pictures.values(), strict=True):
            assert [result["success"] for result in slow.result().json()["results"]] == [True] * len(files)
    assert stopping.returncode == 0
    refused = [answer for answer in later if not answer.ok]
    assert {(answer.status_code, answer.headers.get("Retry-After")) for answer in refused} <= {(503, "1")}
    assert {answer.json()["error"]["code"] for answer in refused} <= {"draining"}
    assert "no service of this checkout is up" in live.run("probe", "ready").stderr
    assert live.run("probe", "live").returncode == 1


def test_a_foreground_service_drains_when_it_is_told_to_end(live: Live) -> None:
    live.run("stop")
    command = [live.root / "scripts" / "serve", "--foreground", "--port", str(live.port), *ONE_WORKER]
    process = subprocess.Popen(command, env=live.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert wait_until(lambda: live.run("probe", "ready").returncode == 0, 300)
        assert live.run("workers").returncode == 0  # which waits until serve has asked about its own photo
        with ThreadPoolExecutor(1) as clients:
            slow = live.begin_slowly(clients)
            with standing_still(live.workers()):
                assert "for" in live.run("workers").stdout.splitlines()[1]
            process.send_signal(signal.SIGTERM)
            assert [result["success"] for result in slow.result().json()["results"]] == [True] * 6
    finally:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert [process for process in live.processes() if "gateway" not in process.cmdline()] == []


def test_without_the_model_api_there_is_no_rollout(live: Live, archives: dict[str, Path]) -> None:
    live.run("stop")
    assert live.serve(*ONE_WORKER).returncode == 0
    try:
        line = one_line(live.run("rollout", archives["2.0"]), "rollout")
        assert line == "rollout: the service does not accept new versions; start it with scripts/serve --model-api"
        assert "already up" in one_line(live.serve("--model-api"), "serve")
        assert "there is no rollout to roll back" not in live.run("workers").stdout
    finally:
        live.run("stop")


def test_a_rollout_keeps_the_batch_size_and_no_archive_gets_it(live: Live, archives: dict[str, Path]) -> None:
    live.run("stop")
    options = ("--model-api", "--archive", archives["1.0"], "--workers", 1, "--batch-size")
    assert live.serve(*options, 4).returncode == 0
    try:
        assert "already up" in one_line(live.serve(*options, 2), "serve")
        for archive in ("2.0", "2.1"):
            assert live.run("rollout", archives[archive]).returncode == 0
            (service,) = torchserve.running(live.root / ".run")
            served = management.describe_default(service)
            assert (served.version, served.batch_size, served.max_workers) == (archive, 4, 1)
        kept = (live.folder / "archives").iterdir()
        assert {archiving.read_config(path).get("batchSize") for path in kept} == {None}
    finally:
        live.run("stop")


def test_workers_that_take_batches_end_between_them(start: Starter) -> None:
    server = start(workers=2, batchSize=8, maxBatchDelay=20)
    with loading(server.url, best_classes(server.url), clients=20, pause=0) as load:
        for _ in range(5):
            with quiesce.paused(server.service, 60):
                pass
            load.wait_for_answers(12, "afterwards")
        scale(server.service, 1, 1, 60)
        load.wait_for_answers(20, "afterwards")
    assert set(load.outcomes) == {"1.0"}
    assert len(server.workers()) == 1


def test_a_request_that_takes_too_long_keeps_its_worker(server: Server) -> None:
    with ThreadPoolExecutor(2) as clients:
        slow = [clients.submit(server.post, files=SLOW) for _ in range(2)]
        pids = server.workers()
        wait_until_working(server.service.control, pids, slow)
        with (
            standing_still(pids),
            pytest.raises(CliError, match=r"has not finished its request within 0\.2 seconds"),
        ):
            scale(server.service, 1, 1, 0.2)
        assert len(server.workers()) == 2
        for answer in slow:
            assert [result["success"] for result in answer.result().json()["results"]] == [True] * 6
