"""The image as it was built, in containers of a real engine: DENSENET_IMAGE=densenet:1.0.0 scripts/test tests/image

Not among the tests that run by default: building an image takes a registry that has one with Python.
"""

import itertools
import json
import os
import secrets
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from densenet.service import temporary_instance
from tests import certificates, dockerfile, manifests
from tests.integration.conftest import same
from tests.photos import cutouts, encode

PHOTOS = [encode(image) for image in cutouts(4)]
# As docs/deployment.md has it, and as Compose and Kubernetes do; /tmp as it is by Docker's default and not by podman's.
HARDENED = ["--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--tmpfs", "/tmp:noexec"]
PLACES = ["--volume", "/srv/densenet/.run", "--volume", "/srv/densenet/logs"]
# What runs inside. Of names of modules, those that can be imported; of places, those that can be written to.
IMPORTABLE = "import importlib.util as u, sys; print(*[name for name in sys.argv[1:] if u.find_spec(name)])"
WRITABLE = "import os, sys; print(*[place for place in sys.argv[1:] if os.access(place, os.W_OK)])"
LISTENING = """
import psutil
found = {one.laddr for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN}
print(*sorted(f"{ip.removeprefix('::ffff:')}:{port}" for ip, port in found))
"""
KILL = """
import psutil
for one in psutil.process_iter(["cmdline"]):
    if any(word.endswith("model_service_worker.py") for word in one.info["cmdline"] or ()):
        one.kill()
        break
"""


@dataclass(frozen=True)
class Engine:
    """podman or docker."""

    program: str

    def run(self, *words: str, timeout: float = 120) -> str:
        """A command's output. It fails the test where the engine does."""
        done = subprocess.run([self.program, *words], capture_output=True, text=True, timeout=timeout, check=False)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
        return done.stdout.strip()

    def logs(self, name: str) -> str:
        """What a container has said, on both streams."""
        done = subprocess.run([self.program, "logs", name], capture_output=True, text=True, timeout=60, check=True)
        return done.stdout + done.stderr


@dataclass(frozen=True)
class Pod:
    """A container of the service, one of the gateway that shares its network, and a caller's key."""

    engine: Engine
    service: str
    gateway: str
    url: str
    ca: Path
    key: str

    def inside(self, *words: str) -> str:
        return self.engine.run("exec", self.service, *words)

    def predict(self, photo: bytes, key: str | None = None) -> requests.Response:
        headers = {"X-API-Key": key or self.key}
        return requests.put(self.url, data=photo, headers=headers, verify=str(self.ca), timeout=60)


@pytest.fixture(scope="module")
def image() -> str:
    name = os.environ.get("DENSENET_IMAGE", "")
    assert name, "say which image: DENSENET_IMAGE=densenet:1.0.0 scripts/test tests/image"
    return name


@pytest.fixture(scope="module")
def engine(image: str) -> Engine:
    found = [program for program in map(shutil.which, ("docker", "podman")) if program and has(program, image)]
    assert found, f"neither docker nor podman has {image}"
    return Engine(found[0])


def has(program: str, image: str) -> bool:
    return subprocess.run([program, "image", "inspect", image], capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def running() -> Iterator[ExitStack]:
    """What ends the containers."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def pod(engine: Engine, image: str, running: ExitStack, tmp_path_factory: pytest.TempPathFactory) -> Pod:
    return open_pod(engine, image, running, tmp_path_factory.mktemp("pod"))


def open_pod(engine: Engine, image: str, running: ExitStack, folder: Path) -> Pod:
    mark = secrets.token_hex(4)
    pod, service, gateway = (f"densenet-{part}-{mark}" for part in ("pod", "service", "gateway"))

    def start(name: str, *words: str) -> None:
        remove = [engine.program, "rm", "--force", "--volumes", name]
        running.callback(subprocess.run, remove, capture_output=True, check=False)
        engine.run("run", "--detach", "--name", name, *HARDENED, *words)

    # As in Compose: one that only holds the network's namespace, which outlives the others.
    start(pod, "--publish", "127.0.0.1::8443", "--entrypoint", "sleep", image, "infinity")
    shared = ["--network", f"container:{pod}"]
    (wanted,) = manifests.pods(manifests.in_base())
    memory = manifests.named(wanted["containers"], "service")["resources"]["limits"]["memory"].removesuffix("i").lower()
    limits = ["--memory", memory, "--memory-swap", memory]
    start(service, *shared, *limits, *PLACES, image, "--workers", "2", "--drain-seconds", "30")
    ca, key = secure(folder)
    mounts = ["--volumes-from", f"{service}:ro", "--volume", f"{folder}:/run/own:ro"]
    files = [f"--{name}=/run/own/{file}" for name, file in (("certificate", "certificate.pem"), ("key", "key.pem"))]
    words = ["-P", "-m", "densenet", "gateway", "--listen=0.0.0.0:8443", *files, "--keys=/run/own/callers"]
    words.append("--upstream=127.0.0.1:8080,/srv/densenet/.run/8080")
    start(gateway, *shared, *mounts, "--entrypoint", "python", image, *words)
    port = engine.run("port", pod, "8443").rpartition(":")[2]
    opened = Pod(engine, service, gateway, f"https://127.0.0.1:{port}/predictions/densenet", ca, key)
    wait_ready(opened)
    return opened


def secure(folder: Path) -> tuple[Path, str]:
    """The certificate's CA, and the key of the only caller; what the gateway reads lies in the folder."""
    key = secrets.token_hex(24)
    ca, _, _ = certificates.make(folder)
    (folder / "callers").write_text(f"somebody {key}\n")
    folder.chmod(0o755)
    for path in folder.iterdir():
        path.chmod(0o644)  # for the image's user
    return ca, key


def wait_ready(pod: Pod, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if requests.get(f"{pod.url.partition('/pred')[0]}/readyz", verify=str(pod.ca), timeout=30).ok:
                return
        except requests.ConnectionError:
            pass
        time.sleep(0.5)
    raise AssertionError(pod.engine.logs(pod.service) + pod.engine.logs(pod.gateway))


def expected(pod: Pod, folder: Path) -> list[dict[str, Any]]:
    """What the image's own archive answers in a service of this machine."""
    archive = folder / "densenet.mar"
    pod.engine.run("cp", f"{pod.service}:/srv/densenet/model_store/densenet.mar", str(archive))
    with temporary_instance.serving(archive, folder) as service:
        return [requests.put(service.url, data=photo, timeout=60).json() for photo in PHOTOS]


def test_it_answers_as_its_archive_does_elsewhere(pod: Pod, tmp_path: Path) -> None:
    for photo, known in zip(PHOTOS, expected(pod, tmp_path), strict=True):
        assert same(pod.predict(photo).json(), known)


def test_the_gateway_wants_a_key(pod: Pod) -> None:
    answer = pod.predict(PHOTOS[0], key=secrets.token_hex(24))
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized")


def test_probes_pass_and_the_image_has_its_health_check(pod: Pod, image: str) -> None:
    for question in ("ready", "live"):
        pod.inside("python", "-P", "-m", "densenet.service.probe", question)
    (described,) = json.loads(pod.engine.run("image", "inspect", image))
    check = described.get("Healthcheck") or described["Config"].get("Healthcheck")  # podman's place and docker's
    assert check["Test"] == ["CMD", *dockerfile.health_check()]


def test_it_holds_what_serving_needs_and_no_more(pod: Pod) -> None:
    present = pod.inside("python", "-c", IMPORTABLE, "torch", "ts", "PIL", "torchvision", "model_archiver", "captum")
    assert present.split() == ["torch", "ts", "PIL"]
    for program in ("gcc", "cc", "git", "uv", "curl"):
        assert pod.inside("python", "-c", f"import shutil; print(shutil.which({program!r}))") == "None"
    assert pod.inside("find", "/srv/densenet", "-name", "*.pem", "-o", "-name", "*.pth", "-o", "-name", ".git") == ""


def test_it_runs_as_nobody_special_and_writes_where_it_may(pod: Pod) -> None:
    assert pod.inside("id", "-u") == "10001"
    places = ("/", "/srv/densenet", "/srv/densenet/densenet", "/opt/venv", "/srv/densenet/.run", "/srv/densenet/logs")
    assert pod.inside("python", "-c", WRITABLE, *places).split() == ["/srv/densenet/.run", "/srv/densenet/logs"]
    assert pod.inside("stat", "-c", "%a %u", ".run/8080/key_file.json") == "600 10001"


def test_only_the_gateway_listens_to_others(pod: Pod) -> None:
    own = [f"127.0.0.1:{port}" for port in (7070, 7071, 8080, 8081, 8082)]
    assert pod.inside("python", "-c", LISTENING).split() == ["0.0.0.0:8443", *own]


def test_workers_are_scaled_and_killed_inside_and_callers_do_not_notice(pod: Pod) -> None:
    known = [pod.predict(photo).json() for photo in PHOTOS]
    probabilities = {answer["predictions"][0]["probability"] for answer in known}
    assert len(probabilities) == len(PHOTOS), "an answer to another photo would not be noticed"
    over, right = threading.Event(), [0]

    def ask() -> None:
        for number in itertools.cycle(range(len(PHOTOS))):
            if over.is_set():
                return
            assert same(pod.predict(PHOTOS[number]).json(), known[number])
            right[0] += 1

    def some_more() -> None:
        aim, deadline = right[0] + 10, time.monotonic() + 60
        while right[0] < aim:
            assert time.monotonic() < deadline
            time.sleep(0.05)

    with ThreadPoolExecutor(3) as clients:
        asking = [clients.submit(ask) for _ in range(3)]
        try:
            some_more()
            assert "3 of 3 ready" in pod.inside("python", "-P", "-m", "densenet", "workers", "3")
            some_more()
            pod.inside("python", "-c", KILL)
            some_more()
            assert "2 of 2 ready" in pod.inside("python", "-P", "-m", "densenet", "workers", "2")
            some_more()
        finally:
            over.set()
        for client in asking:
            client.result()


def test_a_killed_container_comes_back(pod: Pod) -> None:
    """What it left in its volume is of processes that are no more, with numbers that others have by now."""
    pod.engine.run("kill", pod.service)
    assert pod.predict(PHOTOS[0]).json()["error"]["code"] == "unavailable"
    pod.engine.run("start", pod.service)
    wait_ready(pod)
    assert pod.predict(PHOTOS[0]).ok


def test_it_drains_when_it_is_stopped(engine: Engine, image: str, running: ExitStack, tmp_path: Path) -> None:
    own = open_pod(engine, image, running, tmp_path)
    known = own.predict(PHOTOS[0]).json()
    seen: list[tuple[float, str]] = []  # when a request began, and what came of it

    def ask(until: float) -> None:
        while (began := time.monotonic()) < until:
            answer = own.predict(PHOTOS[0])
            right = answer.ok and same(answer.json(), known)
            seen.append((began, "right" if right else answer.json()["error"]["code"]))
            time.sleep(0 if right else 0.2)

    with ThreadPoolExecutor(4) as clients:
        asked = [clients.submit(ask, time.monotonic() + 15) for _ in range(4)]
        time.sleep(3)
        told = time.monotonic()
        engine.run("stop", "-t", "60", own.service)
        for one in asked:
            one.result()
    assert {outcome for began, outcome in seen if began < told} <= {"right", "draining"}
    assert sum(began < told and outcome == "right" for began, outcome in seen) > 5
    assert {outcome for began, outcome in seen if began >= told} <= {"right", "draining", "unavailable"}
    assert "draining" in {outcome for _, outcome in seen}
    assert engine.run("inspect", "--format", "{{.State.ExitCode}}", own.service) == "0"
