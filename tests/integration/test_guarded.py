"""A service as deploy/config.properties has it: tokens on every route, TLS, and our own commands with both."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from densenet_client import Client

from densenet.polling import wait_until
from densenet.service import authenticated_session, management, temporary_instance, tokens
from densenet.service.torchserve import CA, Service
from densenet.service.workers import scale
from export import ROOT
from export.console import CliError
from tests import certificates
from tests.integration.conftest import build_archive
from tests.photos import cutouts, encode

CONFIG = ROOT / "deploy" / "config.properties"
PHOTO = encode(cutouts(1)[0])
REFUSED = (400, "InvalidKeyException")
# What TorchServe answers to anybody: the descriptions of its routes.
OPEN = {("options", "/"), ("get", "/api-description")}


@pytest.fixture(scope="module")
def service(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("guarded-tls")
    ca, certificate, key = certificates.make(folder)
    addresses = {f"{name}_address": "https://127.0.0.1:0" for name in ("inference", "management")}
    files = {"certificate_file": str(certificate), "private_key_file": str(key)}
    archive = build_archive(exported, folder, workers=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(CA, str(ca))
        with temporary_instance.serving(archive, folder, CONFIG, **addresses, **files) as service:
            yield service


def token(service: Service, kind: tokens.Kind) -> str:
    found = tokens.current(Path(service.folder), kind)
    assert found
    return found


def ask(service: Service, method: str, url: str, key: str | None, **options: Any) -> requests.Response:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with requests.Session() as session:
        session.trust_env = False
        return session.request(
            method, url, headers=headers | options.pop("headers", {}), verify=service.ca, timeout=60, **options
        )


def told(response: requests.Response) -> tuple[int, str]:
    return response.status_code, response.json().get("type", "") if response.content else ""


def routes(service: Service) -> list[tuple[str, str, str]]:
    """Every method and address that TorchServe says it has, and those that it does not mention."""
    found = []
    for base in (service.inference, service.management):
        described = ask(service, "options", f"{base}/", None).json()["paths"]
        found += [(method, base, path) for path, methods in described.items() for method in methods]
    silent = ("/v1/models/densenet:predict", "/v1/models/densenet:explain", "/v2/models/densenet/infer")
    silent += ("/v2/health/live", "/explanations/densenet", "/models/densenet/invoke", "/densenet/predict")
    found += [("post", service.inference, path) for path in silent]
    found += [("get", service.management, path) for path in ("/v1/models/densenet", "/v2/models/densenet", "/token")]
    for placeholder in ("{model_name}", "{model_version}", "{default_model_version}"):
        value = "densenet" if "name" in placeholder else "1.0"
        found = [(method, base, path.replace(placeholder, value)) for method, base, path in found]
    return [(method, base, path) for method, base, path in found if (method, path) not in OPEN]


def test_no_route_answers_without_its_token(service: Service) -> None:
    asked = routes(service)
    paths = {path for _, _, path in asked}
    assert {"/predictions/densenet", "/ping", "/models", "/models/densenet", "/models/densenet/1.0"} <= paths
    wrong = ("nonsense", token(service, "inference")[:-1], "")
    answers = {
        (method, base, path, key): told(ask(service, method, base + path, key))
        for method, base, path in asked
        for key in (None, *wrong)
    }
    assert {route: answer for route, answer in answers.items() if answer != REFUSED} == {}
    crossed = ask(service, "get", f"{service.management}/models", token(service, "inference"))
    assert told(crossed) == REFUSED
    crossed = ask(service, "post", service.url, token(service, "management"), data=PHOTO)
    assert told(crossed) == REFUSED
    # With the right ones they do.
    assert ask(service, "get", f"{service.management}/models", token(service, "management")).ok
    assert ask(service, "put", service.url, token(service, "inference"), data=PHOTO).json()["success"] is True


def test_nobody_registers_or_ends_a_model_over_the_network(service: Service) -> None:
    key = token(service, "management")
    for method, path in (("post", "/models?url=densenet.mar"), ("delete", "/models/densenet"), ("delete", "/models/x")):
        answer = ask(service, method, service.management + path, key)
        assert told(answer) == (405, "MethodNotAllowedException")
    assert ask(service, "put", service.url, token(service, "inference"), data=PHOTO).ok


def test_a_header_of_ours_holds_no_worker(service: Service) -> None:
    headers = {"X-Densenet-Hold": "0" * 32}
    begun = time.monotonic()
    answer = ask(service, "put", service.url, token(service, "inference"), data=PHOTO, headers=headers)
    assert (answer.json()["success"], time.monotonic() - begun < 60) == (True, True)


def test_the_key_file_is_for_its_owner_alone(service: Service) -> None:
    path = Path(service.folder, tokens.KEY_FILE)
    assert path.stat().st_mode & 0o777 == 0o600
    for log in Path(service.logs).iterdir():
        text = log.read_text(errors="replace")
        assert not any(entry["key"] in text for entry in json.loads(path.read_text()).values())


def run(module: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-P", "-m", module, *arguments],
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_predict_takes_the_token_and_the_ca(service: Service, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(PHOTO)
    key_file = str(Path(service.folder, tokens.KEY_FILE))
    arguments = [str(tmp_path / "photo.jpg"), "--url", service.url, "--ca", str(service.ca)]
    done = run("densenet_client.predict", *arguments, "--key-file", key_file)
    assert done.returncode == 0, done.stderr
    assert "--key-file" in run("densenet_client.predict", *arguments).stderr
    assert "no inference key in" in run("densenet_client.predict", *arguments, "--key-file", str(service.ca)).stderr
    untrusting = run("densenet_client.predict", *arguments[:3], "--key-file", key_file)
    assert (untrusting.returncode, "Traceback" in untrusting.stderr) == (1, False)
    assert "CERTIFICATE_VERIFY_FAILED" in untrusting.stdout
    with Client(service.url, token=token(service, "inference"), verify=str(service.ca)) as client:
        assert len(client.classify(PHOTO).predictions) == 5


def test_scaling_works_with_tokens_and_tls(service: Service) -> None:
    for count in (2, 1):
        scale(service, count, count, 60)
        described = management.describe(service)
        assert described is not None
        assert (described.ready, described.min_workers) == (count, count)
    with pytest.raises(CliError, match=r"refused the archive densenet\.mar: "):
        management.register(service, "densenet.mar")


def test_expired_tokens_are_renewed(exported: Path, tmp_path: Path) -> None:
    archive = build_archive(exported, tmp_path, workers=1)
    minutes = "0.05"  # three seconds
    with temporary_instance.serving(
        archive, tmp_path, disable_token_authorization="false", token_expiration_min=minutes
    ) as service:
        stale = token(service, "inference"), token(service, "management")
        outlive_the_tokens(service)
        assert ask(service, "put", service.url, stale[0], data=PHOTO).status_code == 400
        described = management.describe(service)
        assert described is not None
        assert described.ready == 1
        with authenticated_session.session(service) as http:
            assert http.put(service.url, data=PHOTO, timeout=60).json()["success"] is True
        assert stale != (token(service, "inference"), token(service, "management"))
        with authenticated_session.session(service) as http:
            outlive_the_tokens(service)
            assert http.put(service.url, data=PHOTO, timeout=60).json()["success"] is True
            outlive_the_tokens(service)
            assert http.get(f"{service.management}/models", timeout=60).ok


def outlive_the_tokens(service: Service) -> None:
    wait_until(lambda: tokens.has_expired(Path(service.folder), "management"), 30)
    time.sleep(0.5)
