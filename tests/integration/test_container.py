"""The image's entry point, probes, neighbours and end, as plain processes over its files, which are read-only."""

import json
import secrets
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from urllib3.exceptions import InsecureRequestWarning

from tests import manifests
from tests.integration.conftest import build_archive
from tests.integration.pods import Container, container, wants_namespaces
from tests.photos import cutouts, encode

pytestmark = wants_namespaces
PHOTO = encode(cutouts(1)[0])
# Run inside: a request with a token of the key file, its status and body.
ASK = """
import json, sys, urllib.error, urllib.request
method, address, token = sys.argv[1:]
keys = json.load(open(".run/8080/key_file.json"))
headers = {"Content-Type": "application/octet-stream"}
if token in keys:
    headers["Authorization"] = "Bearer " + keys[token]["key"]
request = urllib.request.Request(address, method=method, headers=headers, data=sys.stdin.buffer.read() or None)
try:
    with urllib.request.urlopen(request, timeout=60) as answer:
        print(answer.status, answer.read().decode())
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
"""
READY, LIVE = (["python", "-P", "-m", "densenet.service.probe", question] for question in ("ready", "live"))


@pytest.fixture(scope="module")
def archive(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_archive(exported, tmp_path_factory.mktemp("archive"), workers=2)


@pytest.fixture(scope="module")
def running(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    with container(1, archive, tmp_path_factory.mktemp("pod"), "--workers", "1", "--drain-seconds", "10") as made:
        made.start()
        made.wait_ready()
        yield made


def ask(made: Container, method: str, address: str, token: str, body: bytes = b"") -> tuple[int, str]:
    done = made.run(["python", "-c", ASK, method, address, token], stdin=body)
    status, _, text = done.stdout.partition(" ")
    assert status, done.stderr
    return int(status), text


def listening(made: Container) -> set[tuple[str, int]]:
    rows = made.run(["ss", "-Hltn"]).stdout.splitlines()
    local = [row.split()[3].rpartition(":") for row in rows]
    return {(address.strip("[]").removeprefix("::ffff:"), int(port)) for address, _, port in local}


def test_probes_say_so_with_tokens_on(running: Container) -> None:
    assert [running.run(command).returncode for command in (READY, LIVE)] == [0, 0]


def test_only_loopback_listens(running: Container) -> None:
    found = listening(running)
    assert {port for _, port in found} == {8080, 8081, 8082, 7070, 7071}
    assert {address for address, _ in found} == {"127.0.0.1"}
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((running.address, 8080), timeout=5)


def test_predictions_want_the_token(running: Container) -> None:
    url = "http://127.0.0.1:8080/predictions/densenet"
    assert ask(running, "PUT", url, "none", PHOTO)[0] == 400
    status, text = ask(running, "PUT", url, "inference", PHOTO)
    assert (status, len(json.loads(text)["predictions"])) == (200, 5)
    keys = running.place(".run") / "8080" / "key_file.json"
    assert keys.stat().st_mode & 0o777 == 0o600


def test_no_model_can_be_registered(running: Container) -> None:
    for url in ("densenet.mar", "http://127.0.0.1:9/x.mar", "file:///srv/x.mar"):
        address = f"http://127.0.0.1:8081/models?url={url}"
        assert ask(running, "POST", address, "management")[0] == 405


def test_nothing_can_be_written_but_where_it_may(running: Container) -> None:
    write = "from pathlib import Path; import sys; Path(sys.argv[1], 'x').touch(); Path(sys.argv[1], 'x').unlink()"
    outcome = {
        place: running.run(["python", "-c", write, place]).returncode for place in (".", "densenet", ".run", "logs")
    }
    assert outcome == {".": 1, "densenet": 1, ".run": 0, "logs": 0}
    assert "Read-only" not in running.output()
    assert "Read-only" not in "".join(path.read_text() for path in running.place("logs").glob("8080/*.log"))


def test_metrics_are_handed_out_and_nothing_else_is(running: Container) -> None:
    assert ask(running, "PUT", "http://127.0.0.1:8080/predictions/densenet", "inference", PHOTO)[0] == 200
    configuration = manifests.BASE / "metrics.conf"
    with running.beside(["/usr/sbin/nginx", "-e", "stderr", "-c", str(configuration)]):
        base = wait_for(f"http://{running.address}:8083", "/metrics")
        assert "ts_queue_latency_microseconds" in requests.get(f"{base}/metrics", timeout=30).text
        assert requests.post(f"{base}/metrics", timeout=30).status_code == 403
        for path in ("/", "/models", "/metrics/", "/predictions/densenet", "/metrics/../models"):
            assert requests.get(base + path, timeout=30).status_code == 404


@pytest.mark.filterwarnings(f"ignore::{InsecureRequestWarning.__module__}.{InsecureRequestWarning.__name__}")
def test_the_gateway_of_the_pod_is_what_clients_reach(running: Container, tmp_path: Path) -> None:
    (pod,) = manifests.pods(manifests.in_base())
    gateway, key = manifests.named(pod["containers"], "gateway"), secrets.token_hex(24)
    certify(tmp_path)
    (tmp_path / "keys").write_text(f"somebody {key}\n")
    places = {"/run/tls": str(tmp_path), "/run/callers": str(tmp_path), "/srv/densenet": "."}
    command = [replaced(word, places) for word in [*gateway["command"], *gateway["args"]]]
    with running.beside(command):
        base = wait_for(f"https://{running.address}:8443", gateway["livenessProbe"]["httpGet"]["path"])
        ready = base + gateway["readinessProbe"]["httpGet"]["path"]
        assert requests.get(ready, verify=False, timeout=30).json() == {"status": "pass"}
        url = f"{base}/predictions/densenet"
        assert requests.put(url, data=PHOTO, verify=False, timeout=30).status_code == 401
        answer = requests.put(url, data=PHOTO, headers={"X-API-Key": key}, verify=False, timeout=30)
        assert (answer.status_code, len(answer.json()["predictions"])) == (200, 5)
        for path in ("/models", "/metrics", "/ping", "/token?type=inference"):
            assert requests.get(base + path, verify=False, timeout=30).status_code == 404


@pytest.fixture(scope="module")
def open_to_models(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """One whose model API is on. Its tests end with its end."""
    folder = tmp_path_factory.mktemp("pod")
    with container(2, archive, folder, "--workers", "1", "--drain-seconds", "5") as made:
        properties = folder / "tree" / "deploy" / "config.properties"
        text = properties.read_text()
        assert "enable_model_api=false" in text
        properties.write_text(text.replace("enable_model_api=false", "enable_model_api=true"))
        made.start()
        made.wait_ready()
        yield made


def test_no_model_comes_from_elsewhere_even_with_the_model_api(open_to_models: Container, archive: Path) -> None:
    models = "http://127.0.0.1:8081/models"
    for url in ("http://127.0.0.1:9/x.mar", "https://example.org/x.mar", f"file://{archive}"):
        status, said = ask(open_to_models, "POST", f"{models}?url={url}", "management")
        assert (status, "allowed" in said) == (404, True), said
    status, said = ask(open_to_models, "POST", f"{models}?url=densenet.mar&model_name=again", "management")
    assert status == 200, said


def test_sigterm_ends_it_well_and_leaves_nothing(open_to_models: Container) -> None:
    assert open_to_models.stop() == 0
    assert open_to_models.processes() == []
    assert not [*open_to_models.temporary.iterdir()]


def test_with_tls_of_its_own(archive: Path, tmp_path: Path) -> None:
    """The lines that stand in the configuration as comments, with a key made as it says."""
    with container(3, archive, tmp_path, "--workers", "1", "--drain-seconds", "5") as made:
        properties = tmp_path / "tree" / "deploy" / "config.properties"
        text = (
            properties.read_text()
            .replace("address=http:", "address=https:")
            .replace("#private_key_file", "private_key_file")
        )
        properties.write_text(text.replace("#certificate_file", "certificate_file"))
        certify(properties.parent / "tls", "key.pem", "certificate.pem")
        made.start()
        made.wait_ready()
        assert made.run(LIVE).returncode == 0
        made.signal_all(signal.SIGKILL)


def certify(folder: Path, key: str = "tls.key", certificate: str = "tls.crt") -> None:
    folder.mkdir(exist_ok=True)
    made = ["openssl", "genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072", "-out", key]
    subprocess.run(made, cwd=folder, check=True)
    signed = ["openssl", "req", "-x509", "-key", key, "-out", certificate, "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*signed, *names], cwd=folder, check=True)


def replaced(word: str, places: dict[str, str]) -> str:
    for inside, here in places.items():
        word = word.replace(inside, here)
    return word


def wait_for(base: str, path: str) -> str:
    """The base, once it answers."""
    session: Any = requests.Session()
    retries = requests.adapters.Retry(total=30, backoff_factor=0.1, backoff_max=0.5)
    session.mount(base, requests.adapters.HTTPAdapter(max_retries=retries))
    with session:
        assert session.get(base + path, verify=False, timeout=30).ok
    return base
