"""The gateway over time: keys change, workers and replicas die, it is reloaded, stopped; clients see nothing of it."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import requests
from densenet_client import Client

from densenet.chaos.load import Load
from densenet.gateway import nginx
from densenet.polling import wait_until
from densenet.service import management, torchserve, trial
from densenet.service.properties import Properties
from densenet.service.trial import Trial
from export.console import CliError
from tests.integration.conftest import Server, Starter, build_archive, free_properties, same
from tests.integration.gateways import (
    Gateway,
    Opener,
    StandIn,
    error,
    gateway,
    make_certificate,
    new_key,
    open_gateway,
    standing_in,
    wants_nginx,
)
from tests.photos import cutouts, encode

__all__ = ["open_gateway"]
pytestmark = wants_nginx

PHOTO = encode(cutouts(1)[0])
MANY = ("--rate", "1000", "--burst", "1000", "--body-seconds", "60")
CLIENTS = 4


class SteadyLoad(Load[str | None]):
    """What steady clients were answered: each asks again as soon as it has an answer, on a connection of its own.

    An outcome is None, or what was wrong.
    """

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(self._problem)
        self.gateway, self.key, self._pause = gateway, "", 0.0
        self.expected = gateway.predict(PHOTO).json()

    def _problem(self, _session: requests.Session, _number: int) -> str | None:
        time.sleep(self._pause)
        try:
            answer = self.gateway.predict(PHOTO, key=self.key)
        except requests.RequestException as failure:
            return repr(failure)
        if answer.status_code != 200:
            return f"{answer.status_code} {answer.text}"
        return None if same(answer.json(), self.expected) else f"wrong: {answer.text}"

    @contextlib.contextmanager
    def slower(self) -> Iterator[None]:
        """Clients pause during the block, so that what starts meanwhile gets processor time."""
        self._pause = 0.3
        try:
            yield
        finally:
            self._pause = 0.0

    def some(self, count: int = 30) -> None:
        """Returns when that many more were answered rightly."""
        wanted = len(self.outcomes) + count
        self.gateway.wait(lambda: len(self.outcomes) >= wanted or any(self.outcomes), seconds=90)
        self.check()

    def check(self) -> None:
        assert [problem for problem in self.outcomes if problem] == []


@contextlib.contextmanager
def load(opened: Gateway) -> Iterator[SteadyLoad]:
    with SteadyLoad(opened).running(CLIENTS) as running:
        running.some()
        yield running
        running.some()
    running.check()


def at_once(count: int, ask: Callable[[], requests.Response]) -> list[requests.Response]:
    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(ask) for _ in range(count)]]


def half_sent(opened: Gateway) -> socket.socket:
    connection = opened.connect()
    lines = ["POST /predict HTTP/1.1", "Host: x", f"X-API-Key: {opened.key}", f"Content-Length: {len(PHOTO)}"]
    connection.sendall("\r\n".join((*lines, "", "")).encode() + PHOTO[:1000])
    return connection


def finish(connection: socket.socket) -> bytes:
    connection.sendall(PHOTO[1000:])
    return connection.recv(65536)


@pytest.fixture(scope="module")
def mortal(start: Starter) -> Server:
    """A service whose workers are killed here, and in the end itself."""
    return start(workers=2)


def test_too_many_in_a_second_are_told_when_to_come_back(open_gateway: Opener, server: Server) -> None:
    opened = open_gateway("--rate", "1", "--burst", "2", upstreams=(server.service.inference,))
    answers = at_once(8, lambda: opened.predict(PHOTO))
    refused = [answer for answer in answers if answer.status_code != 200]
    assert 0 < len(refused) < 8
    assert {error(answer) for answer in refused} == {(429, "rate_limited")}
    assert {answer.headers["retry-after"] for answer in refused} == {"1"}
    with Client(opened.url, token=opened.key, verify=str(opened.ca)) as client:
        assert [len(client.classify(PHOTO)) for _ in range(4)] == [5] * 4  # it comes back when told to
    second = new_key()
    with opened.taking_up():
        opened.keys.write_text(f"first {opened.key}\nsecond {second}\n")
    assert opened.predict(PHOTO, key=second).ok  # another one's rate is its own
    assert {opened.ask("GET", "/healthz", key=None).status_code for _ in range(9)} == {200}


def test_too_many_at_a_time_are_told_when_to_come_back(open_gateway: Opener, server: Server) -> None:
    opened = open_gateway(*MANY, "--concurrent", "1", upstreams=(server.service.inference,))
    answers = at_once(16, lambda: opened.predict(PHOTO))
    refused = [answer for answer in answers if answer.status_code != 200]
    assert 0 < len(refused) < 16
    assert {(error(answer), answer.headers["retry-after"]) for answer in refused} == {((503, "overloaded"), "2")}


def test_a_full_queue_is_told_in_our_shape(open_gateway: Opener, start: Starter) -> None:
    full = start(workers=1, jobQueueSize=1)
    opened = open_gateway(*MANY, upstreams=(full.service.inference,))
    answers = at_once(16, lambda: opened.predict(PHOTO))
    refused = [answer for answer in answers if answer.status_code != 200]
    assert 0 < len(refused) < 16
    assert {(error(answer), answer.headers["retry-after"]) for answer in refused} == {((503, "overloaded"), "2")}
    assert all("503" in line["upstream_status"] for line in opened.log() if line["status"] == 503)


def test_keys_change_under_load_without_a_failed_request(open_gateway: Opener, server: Server) -> None:
    opened = open_gateway(*MANY, upstreams=(server.service.inference,))
    old, new = opened.key, new_key()
    with load(opened) as running:
        with opened.taking_up():
            opened.keys.write_text(f"first {old}\nfirst {new}\n")
        running.key = new
        running.some(3 * CLIENTS)
        with opened.taking_up():
            opened.keys.write_text(f"first {new}\n")
        assert opened.predict(PHOTO, key=old).status_code == 401
    assert opened.predict(PHOTO, key=new).ok


def test_a_bad_file_of_keys_changes_nothing_and_is_told(open_gateway: Opener, server: Server) -> None:
    opened = open_gateway(*MANY, upstreams=(server.service.inference,))
    for text in ("first short\n", "", 'first "; } # \n'):
        before = opened.said().count("the previous configuration stays in use")
        opened.keys.write_text(text)
        opened.wait(lambda before=before: opened.said().count("the previous configuration stays in use") > before)
        assert opened.predict(PHOTO).ok
    opened.keys.unlink()
    opened.wait(lambda: f"cannot read --keys {opened.keys}: No such file" in opened.said())
    assert opened.predict(PHOTO).ok
    new = new_key()
    with opened.taking_up():
        opened.keys.write_text(f"first {new}\n")
    assert opened.predict(PHOTO, key=new).ok
    assert opened.predict(PHOTO).status_code == 401


def test_a_new_certificate_is_taken_up(open_gateway: Opener, server: Server) -> None:
    opened = open_gateway(*MANY, upstreams=(server.service.inference,))
    with opened.taking_up():
        make_certificate(opened.folder)
    assert [opened.predict(PHOTO).status_code for _ in range(8)] == [200] * 8  # the old one is not trusted here


def test_what_nginx_is_slow_to_take_up_is_known_to_be_unsettled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listens = f"events {{}} http {{ server {{ listen unix:{tmp_path}/socket; }} }}"
    process = nginx.Nginx("some", tmp_path)
    process.run(f"daemon off; pid {tmp_path}/pid; {listens}")
    try:
        changed = f"daemon off; pid {tmp_path}/pid; worker_processes 2; {listens}"
        wait_for(lambda: answers(tmp_path / "socket"))  # a worker is there to be replaced
        with monkeypatch.context() as patched:
            patched.setattr(nginx, "_RELOAD", 0.1)
            master = psutil.Process(int((tmp_path / "pid").read_text()))
            master.suspend()
            try:
                with pytest.raises(CliError, match="has not reloaded within"):
                    process.run(changed)
            finally:
                master.resume()
        assert process.reload_pending
        with pytest.raises(CliError, match="rejected"):
            process.run("nonsense")
        assert not process.reload_pending  # that is not to be tried again by itself
        process.run(changed)
        assert not process.reload_pending
    finally:
        process.kill()


def answers(path: Path) -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(path))
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return bool(connection.recv(1))
    return False


def wait_for(holds: Callable[[], object]) -> None:
    assert wait_until(holds, 30)


def test_what_the_gateway_has_told_to_be_taken_up_holds_for_every_connection(open_gateway: Opener) -> None:
    with standing_in(lambda _: (200, {}, b"{}")) as stand_in:
        opened = open_gateway(*MANY, upstreams=(stand_in.address,))
        for _ in range(8):
            new = new_key()
            with opened.taking_up():
                opened.keys.write_text(f"first {new}\n")
            assert {opened.predict(b"x", key=new).status_code for _ in range(12)} == {200}


def test_what_is_being_sent_outlives_a_reload(open_gateway: Opener, server: Server) -> None:
    opened = open_gateway(*MANY, upstreams=(server.service.inference,))
    uploads = [half_sent(opened) for _ in range(8)]
    before = {process.pid for process in opened.processes()}
    opened.process.send_signal(signal.SIGHUP)
    opened.wait(lambda: len({process.pid for process in opened.processes()} - before) >= 4)
    assert all(finish(upload).startswith(b"HTTP/1.1 200 ") for upload in uploads)
    for upload in uploads:
        upload.close()
    assert opened.predict(PHOTO).ok


def test_what_is_being_sent_outlives_the_end(server: Server, tmp_path: Path) -> None:
    with gateway(tmp_path, *MANY, upstreams=(server.service.inference,)) as opened:
        uploads = [half_sent(opened) for _ in range(8)]
        assert opened.predict(PHOTO).ok
        folder = opened.run_folder()
        opened.process.send_signal(signal.SIGTERM)
        opened.wait(lambda: refuses(opened.port))
        assert all(finish(upload).startswith(b"HTTP/1.1 200 ") for upload in uploads)
        for upload in uploads:
            upload.close()
        assert opened.process.wait(timeout=30) == 0
        assert not folder.exists()


def refuses(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    except ConnectionResetError:  # its port was closed at that moment
        return False
    return False


def test_it_ends_where_nginx_ends(server: Server, tmp_path: Path) -> None:
    with gateway(tmp_path, upstreams=(server.service.inference,)) as opened:
        masters = psutil.Process(opened.process.pid).children()
        everything = opened.processes()
        assert len(masters) == 2
        assert len(everything) > len(masters)
        masters[-1].kill()
        assert opened.process.wait(timeout=30) == 1
        assert psutil.wait_procs(everything, timeout=10)[1] == []
        assert refuses(opened.port)
        assert "nginx exited unexpectedly" in opened.said()
        assert psutil.wait_procs(masters, timeout=30)[1] == []


def test_workers_that_are_killed_under_load_cost_no_request(open_gateway: Opener, mortal: Server) -> None:
    opened = open_gateway(*MANY, upstreams=(mortal.service.inference,))
    with load(opened) as running:
        for _ in range(3):
            victim = min(mortal.workers())
            os.kill(victim, signal.SIGKILL)
            with running.slower():
                opened.wait(lambda victim=victim: all_ready(mortal) and not psutil.pid_exists(victim), seconds=90)
            running.some(10)
    statuses = [line["upstream_status"] for line in opened.log()]
    assert any(", " in status for status in statuses)  # some were asked again


def all_ready(server: Server) -> bool:
    state = management.describe(server.service)
    return state is not None and state.ready == state.min_workers == 2


def test_scaling_down_under_load_costs_no_request(open_gateway: Opener, mortal: Server) -> None:
    opened = open_gateway(*MANY, upstreams=(mortal.service.inference,))
    with load(opened) as running:
        for _ in range(2):
            management.scale(mortal.service, 1, 1)
            running.some(10)
            management.scale(mortal.service, 2, 2)
            with running.slower():
                opened.wait(lambda: all_ready(mortal), seconds=90)
            running.some(10)


def test_a_replica_that_is_killed_under_load_costs_no_request(
    open_gateway: Opener, server: Server, mortal: Server
) -> None:
    opened = open_gateway(*MANY, upstreams=(server.service.inference, mortal.service.inference))
    with load(opened) as running:
        assert {line["upstream"].split("/")[-1][:2] for line in opened.log()} == {"0-", "1-"}
        os.kill(mortal.service.pid, signal.SIGKILL)
        running.some(60)


def test_nothing_behind_is_told_in_our_shape(open_gateway: Opener) -> None:
    opened = open_gateway(upstreams=("127.0.0.1:1",))
    for path in ("/predict", "/readyz"):
        answer = opened.ask("GET", path)
        assert (error(answer), answer.headers["retry-after"]) == ((503, "unavailable"), "2")
        assert answer.headers["connection"] == "close"  # a new one may reach another gateway
    health, unknown = opened.ask("GET", "/healthz"), opened.ask("GET", "/nowhere")
    assert health.ok
    assert error(unknown) == (404, "not_found")
    assert {health.headers["connection"], unknown.headers["connection"]} == {"keep-alive"}


INTERNAL = b'{"success": false, "error": {"code": "internal_error", "message": "x"}}'
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize("status", [500, 502, 504, 507])
def test_what_fails_once_is_asked_once_more_with_its_whole_body(open_gateway: Opener, status: int) -> None:
    with standing_in(lambda count: (status, JSON, INTERNAL) if count % 2 else (200, JSON, b"{}")) as behind:
        opened = open_gateway(*MANY, upstreams=(behind.address,))
        for _ in range(5):
            assert opened.predict(PHOTO).json() == {}
        assert [body for *_, body in behind.seen] == [PHOTO] * 10


def test_the_handlers_own_failure_arrives_unchanged(open_gateway: Opener) -> None:
    with standing_in(lambda _: (500, JSON, INTERNAL)) as behind:
        opened = open_gateway(*MANY, upstreams=(behind.address,))
        answer = opened.predict(PHOTO)
        assert (answer.status_code, answer.content) == (500, INTERNAL)
        assert len(behind.seen) == 2


def test_a_draining_replica_is_passed_over_and_told_where_it_is_the_only_one(open_gateway: Opener) -> None:
    draining = (503, {**JSON, "Retry-After": "9"}, b'{"success": false, "error": {"code": "draining", "message": "x"}}')
    with standing_in(lambda _: draining) as behind, standing_in(lambda _: (200, JSON, b"{}")) as other:
        opened = open_gateway(*MANY, upstreams=(behind.address, other.address))
        assert {opened.predict(PHOTO).status_code for _ in range(10)} == {200}
        assert behind.seen
        alone = open_gateway(*MANY, upstreams=(behind.address,))
        answer = alone.predict(PHOTO)
        assert (error(answer), answer.headers["retry-after"]) == ((503, "draining"), "9")
        assert answer.headers["connection"] == "close"
        assert alone.ask("GET", "/readyz", key=None).status_code == 503


def test_where_no_worker_answers_is_asked_after_all_others_until_one_does(open_gateway: Opener) -> None:
    answers = {"late": (503, JSON, b"{}")}
    with standing_in(lambda _: answers["late"]) as late, standing_in(lambda _: (200, JSON, b"{}")) as other:
        opened = open_gateway(*MANY, upstreams=(late.address, other.address))

        def reached(late: StandIn = late) -> bool:
            before = len(late.seen)
            assert [opened.predict(PHOTO).status_code for _ in range(20)] == [200] * 20
            return any("health" not in headers["accept"] for _, _, headers, _ in late.seen[before:])

        opened.wait(lambda: "no worker answers there" in opened.said())
        assert not reached()
        answers["late"] = (200, JSON, b"{}")
        opened.wait(lambda: "all replicas are healthy" in opened.said())
        assert reached()


def test_one_that_is_back_before_the_gateway_knows_it_answers_for_the_last_of_the_others(open_gateway: Opener) -> None:
    """As in a rolling update without a pause."""
    draining = {"other": False}

    def back(_: int) -> tuple[int, dict[str, str], bytes]:
        asked = back_again.seen[-1][2]["accept"]
        return (503 if "health" in asked else 200), JSON, b"{}"

    def other(_: int) -> tuple[int, dict[str, str], bytes]:
        health = "health" in other_one.seen[-1][2]["accept"]
        return (503 if draining["other"] and not health else 200), JSON, b"{}"

    with standing_in(back) as back_again, standing_in(other) as other_one:
        opened = open_gateway(*MANY, upstreams=(back_again.address, other_one.address))
        opened.wait(lambda: "no worker answers there" in opened.said())
        draining["other"] = True
        assert [opened.predict(PHOTO).status_code for _ in range(20)] == [200] * 20


def test_no_answer_in_time_is_told(open_gateway: Opener) -> None:
    over = threading.Event()
    with standing_in(lambda _: ((over.wait(60) and 200) or 200, JSON, b"{}")) as behind:
        opened = open_gateway(*MANY, "--answer-seconds", "1", upstreams=(behind.address,))
        assert error(opened.predict(PHOTO)) == (504, "timeout")
        over.set()


def test_readiness_asks_a_worker(open_gateway: Opener) -> None:
    with standing_in(lambda _: (200, {"Content-Type": "application/health+json"}, b'{"status": "pass"}')) as behind:
        opened = open_gateway(*MANY, upstreams=(behind.address,))
        answer = opened.ask("GET", "/readyz", key=None, headers={"Accept": "text/html", "X-Top-K": "7"})
        assert (answer.status_code, answer.json()) == (200, {"status": "pass"})
        ((method, path, headers, body),) = behind.seen
        assert (method, path, headers["accept"], body) == (
            "GET",
            "/predictions/densenet",
            "application/health+json",
            b"",
        )
        assert "x-top-k" not in headers


def test_readiness_is_the_handlers(open_gateway: Opener, server: Server) -> None:
    opened = open_gateway(*MANY, upstreams=(server.service.inference,))
    answer = opened.ask("GET", "/readyz", key=None)
    assert (answer.status_code, answer.json()["status"]) == (200, "pass")


def test_keys_and_cookies_are_not_passed_on(open_gateway: Opener) -> None:
    with standing_in(lambda _: (200, JSON, b"{}")) as behind:
        opened = open_gateway(*MANY, upstreams=(behind.address,))
        secret = {
            "Authorization": f"Bearer {opened.key}",
            "Cookie": "a=b",
            "Describe": "True",
            "X-Forwarded-For": "1.2.3.4",
        }
        assert opened.predict(PHOTO, headers={**secret, "Connection": "close, X-Top-K", "X-Request-Id": "a"}).ok
        ((_, _, headers, _),) = behind.seen
        assert headers.keys() == {"host", "accept", "content-length", "x-request-id"}
        assert headers["x-request-id"] == "a"


@contextlib.contextmanager
def trying(opened: Gateway, folder: Path, made: Trial) -> Iterator[None]:
    """A trial for the time of the block; whoever makes it stays alive."""
    over = threading.Event()

    def renew() -> None:
        while not over.wait(1):
            os.utime(folder / "trial.json")

    with trial._offered(folder, made, 30), ThreadPoolExecutor(1) as pool:
        assert str(made) in opened.said()
        renewing = pool.submit(renew)
        try:
            yield
        finally:
            over.set()
            renewing.result()


def test_a_canary_takes_its_share(open_gateway: Opener, tmp_path: Path) -> None:
    with standing_in(lambda _: (200, JSON, b"{}")) as other, standing_in(lambda _: (200, JSON, b"{}")) as behind:
        upstreams = (other.address, f"{behind.address},{tmp_path}")
        opened = open_gateway("--rate", "10000", "--burst", "5000", upstreams=upstreams)
        with trying(opened, tmp_path, Trial("a", "2.0", 30)):
            with requests.Session() as session:
                session.headers["X-API-Key"] = opened.key
                for _ in range(500):
                    session.put(opened.url, data=b"x", verify=str(opened.ca), timeout=60)
            asked = [path for server in (other, behind) for method, path, *_ in server.seen if method == "PUT"]
            share = sum(path == "/predictions/densenet/2.0" for path in asked) / 500
            assert 0.15 < share < 0.45
            assert {*asked} == {"/predictions/densenet", "/predictions/densenet/2.0"}
            assert "/predictions/densenet/2.0" not in {path for _, path, *_ in other.seen}  # which does not have it
            behind.seen.clear()
            for _ in range(20):
                opened.ask("PUT", "/predictions/densenet/1.0", data=b"x")
            assert "/predictions/densenet/2.0" not in {path for _, path, *_ in behind.seen}
        other.seen.clear()
        behind.seen.clear()
        for _ in range(50):
            assert opened.predict(b"x").ok
        assert {path for server in (other, behind) for _, path, *_ in server.seen} == {"/predictions/densenet"}


def test_a_shadow_gets_copies_and_whatever_it_does_clients_see_nothing(open_gateway: Opener, tmp_path: Path) -> None:
    over = threading.Event()
    with (
        standing_in(lambda _: (200, JSON, b"{}")) as behind,
        standing_in(lambda count: (204, {}, b"" if count <= 3 else str(over.wait(60)).encode())) as slow,
    ):
        opened = open_gateway(*MANY, upstreams=(f"{behind.address},{tmp_path}",))
        copied = Trial("a", "2.0", 0, f"{slow.address}/secret")
        with trying(opened, tmp_path, copied), requests.Session() as session:
            session.headers["X-API-Key"] = opened.key
            for number in range(40):  # on one connection, whose next request waits for the copy of the one before
                answer = session.put(
                    opened.url, data=PHOTO, headers={"X-Request-Id": f"id-{number}"}, verify=str(opened.ca)
                )
                assert (answer.status_code, answer.headers["x-request-id"]) == (200, f"id-{number}")
            assert opened.predict(b"x", key="wrong").status_code == 401
            assert opened.ask("PUT", "/predictions/densenet/1.0", data=b"x").ok
            assert opened.ask("GET", "/readyz").ok
            copies = slow.seen[:]
            assert [(method, path, body) for method, path, _, body in copies] == [("PUT", "/secret", PHOTO)] * len(
                copies
            )
            assert [headers["x-request-id"] for *_, headers, _ in copies[:3]] == ["id-0", "id-1", "id-2"]
            assert 3 < len(copies) < 20  # it was left alone once it did not answer
            over.set()
        assert len([1 for method, *_ in behind.seen if method == "PUT"]) == 41
        with trying(opened, tmp_path, Trial("b", "2.0", 0, "127.0.0.1:1/secret")):
            assert [opened.predict(PHOTO).status_code for _ in range(8)] == [200] * 8


@pytest.fixture(scope="module")
def guarded(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[torchserve.Service, Path]]:
    """A TorchServe that wants tokens and speaks TLS, and the folder with its keys and its certificate."""
    folder = tmp_path_factory.mktemp("guarded")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    subprocess.run([*command, *names, *files], check=True, capture_output=True)
    build_archive(exported, folder, 1)
    values = {**free_properties(folder).values, "disable_token_authorization": "false"}
    values["inference_address"] = values["inference_address"].replace("http:", "https:")
    values |= {"private_key_file": str(folder / "key.pem"), "certificate_file": str(folder / "certificate.pem")}
    service = torchserve.start(Properties(values), run=folder, logs=folder / "logs")
    try:
        yield service, folder / str(service.port)
    finally:
        torchserve.stop(service, run=folder)


def test_tokens_and_tls_of_torchserve_itself(open_gateway: Opener, guarded: tuple[torchserve.Service, Path]) -> None:
    service, folder = guarded
    ca = folder.parent / "certificate.pem"
    opened = open_gateway(*MANY, "--upstream-ca", str(ca), upstreams=(f"https://localhost:{service.port},{folder}",))
    opened.wait(lambda: opened.predict(PHOTO).ok, seconds=120)
    url = service.url.replace("127.0.0.1", "localhost")
    bearer = {"Authorization": f"Bearer {opened.key}"}
    answer = requests.put(url, data=PHOTO, verify=str(ca), headers=bearer, timeout=60)
    assert answer.status_code == 400  # the gateway's keys are not TorchServe's
    keys = json.loads((folder / "key_file.json").read_text())
    wanted = requests.get(
        f"{service.management}/token",
        params={"type": "inference"},
        headers={"Authorization": f"Bearer {keys['API']['key']}"},
        timeout=60,
    )
    assert wanted.ok
    assert json.loads((folder / "key_file.json").read_text())["inference"]["key"] != keys["inference"]["key"]
    opened.wait(lambda: opened.predict(PHOTO).ok)


def test_a_certificate_of_somebody_else_is_not_trusted(
    open_gateway: Opener, guarded: tuple[torchserve.Service, Path]
) -> None:
    service, folder = guarded
    stranger = folder.parent / "stranger"
    stranger.mkdir()
    certificate, _ = make_certificate(stranger)
    opened = open_gateway(
        *MANY, "--upstream-ca", str(certificate), upstreams=(f"https://localhost:{service.port},{folder}",)
    )
    assert error(opened.predict(PHOTO)) == (503, "unavailable")
