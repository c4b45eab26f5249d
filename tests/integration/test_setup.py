"""scripts/setup.sh on machines unlike this one: other interpreters, none, PyTorch's index out of reach, no network."""

import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from export import ROOT
from tests import certificates

SCRIPTS = sorted(path.name for path in (ROOT / "scripts").iterdir() if path.name != "setup.sh")
SPEAK_TO_A_SERVICE = ("stop", "workers", "probe", "rollout")
COPIED = ("scripts", "client", "densenet", "export", "handler", "constraints.txt", "pyproject.toml", "README.md")
# What the scripts themselves call; a machine has these.
TOOLS = ("bash", "sed", "dirname", "basename", "readlink", "cmp", "cat", "uname", "rm", "tail", "ln", "flock", "env")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the repository without an environment, in a folder whose name has a space."""
    folder = tmp_path / "a checkout"
    folder.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copyfile(ROOT / name, folder / name)
    return folder


def run(checkout: Path, *command: object, **environment: str) -> "subprocess.CompletedProcess[str]":
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    words = [str(word) for word in command]
    return subprocess.run(
        words, cwd="/", env=inherited | environment, capture_output=True, text=True, timeout=300, check=False
    )


def sourced(checkout: Path, commands: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run some of setup.sh's functions, as scripts/serve would."""
    return run(checkout, "bash", "-c", f'. "{checkout}/scripts/setup.sh"; {commands}', "serve", **environment)


def one_line(done: "subprocess.CompletedProcess[str]") -> str:
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    return done.stderr.strip().splitlines()[-1]


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """A PATH with nothing but what the scripts call: neither Python nor uv."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in TOOLS:
        if program := shutil.which(name):
            (folder / name).symlink_to(program)
    return folder


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_installs_nothing(checkout: Path, script: str) -> None:
    done = run(checkout, checkout / "scripts" / script, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    about = (ROOT / "scripts" / script).read_text().splitlines()[1].removeprefix("# ")
    assert about in done.stdout
    assert script == "test" or "scripts/serve" in done.stdout
    assert not list(checkout.glob(".venv*"))


@pytest.mark.parametrize("script", SPEAK_TO_A_SERVICE)
def test_commands_for_a_service_install_nothing(checkout: Path, script: str) -> None:
    done = run(checkout, checkout / "scripts" / script)
    if script == "stop":
        assert (done.returncode, done.stdout) == (0, "nothing to stop: nothing was started from this checkout\n")
    else:
        told = f"{script}: nothing is installed yet; scripts/serve installs everything and starts a service"
        assert one_line(done) == told
    assert not list(checkout.glob(".venv*"))


def test_a_linked_script_finds_its_checkout(checkout: Path, tmp_path: Path) -> None:
    (tmp_path / "stop-it").symlink_to(checkout / "scripts" / "stop")
    assert run(checkout, tmp_path / "stop-it").stdout.startswith("nothing to stop")


@cache
def interpreters() -> dict[str, Path]:
    """The suitable interpreters of this machine by version, those of pyenv as well."""
    folders = [Path(folder) for folder in os.environ["PATH"].split(os.pathsep)]
    if pyenv := shutil.which("pyenv"):
        root = subprocess.run([pyenv, "root"], capture_output=True, text=True, check=True).stdout.strip()
        folders += Path(root, "versions").glob("*/bin")
    found: dict[str, Path] = {}
    for version in ("3.11", "3.12", "3.13", "3.14"):
        for candidate in (folder / f"python{version}" for folder in folders):
            command = [candidate, "-c", "import ensurepip, sys; print(sys.version_info[:2])"]
            try:
                done = subprocess.run(command, capture_output=True, text=True, check=False)
            except OSError:
                continue
            if done.returncode == 0:
                found.setdefault(version, candidate)
    return found


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13", "3.14"])
def test_the_pinned_packages_exist_for_every_python(checkout: Path, version: str) -> None:
    if version not in interpreters():
        pytest.skip(f"this machine has no Python {version}")
    done = sourced(
        checkout,
        "find_python; make_environment; use_configured_index; "
        '"$python" -m pip install --quiet --disable-pip-version-check "uv==$uv_version"; '
        "uv_install --dry-run torch torchvision pillow-heif -r pyproject.toml -r client/pyproject.toml "
        "--group build --group java --group evaluate --group benchmark --group test",
        PYTHON=str(interpreters()[version]),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{interpreters()[version]}\n"
    made = run(checkout, checkout / ".venv" / "bin" / "python", "--version").stdout
    assert made.startswith(f"Python {version}.")


def test_the_newest_suitable_interpreter_is_taken(tools: Path, checkout: Path) -> None:
    for version in ("3.11", "3.13", "3.14"):
        suitable = version != "3.14"  # as pyenv's links to versions that are not switched on
        (tools / f"python{version}").write_text(f"#!/bin/sh\nexit {int(not suitable)}\n")
        (tools / f"python{version}").chmod(0o755)
    assert sourced(checkout, "find_python", PATH=str(tools)).stdout == f"{tools}/python3.13\n"
    assert sourced(checkout, "find_python", PATH=str(tools), PYTHON="/bin/false").returncode == 1


def test_an_unsuitable_python_is_named(checkout: Path) -> None:
    line = one_line(sourced(checkout, "setup", PYTHON="/bin/false"))
    assert line == "serve: PYTHON=/bin/false is not CPython 3.11 to 3.14"


def test_without_any_python_it_says_which_to_install(tools: Path, checkout: Path) -> None:
    line = one_line(sourced(checkout, "setup", PATH=str(tools)))
    assert line == (
        "serve: no CPython 3.11 to 3.14 was found; install one, or name it: PYTHON=/path/to/python3 scripts/serve"
    )


@pytest.fixture
def without_venv(tools: Path) -> Path:
    """A PATH with a Python as Debian has it without python3-venv."""
    program = tools / "python3.11"
    program.write_text(f'#!/bin/sh\ncase "$*" in "-m venv"*|*ensurepip*) exit 1;; esac\nexec "{sys.executable}" "$@"\n')
    program.chmod(0o755)
    return tools


def test_without_pythons_venv_it_says_what_to_install(without_venv: Path, checkout: Path) -> None:
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    line = one_line(sourced(checkout, "setup", PATH=str(without_venv)))
    advice = f"run: apt-get install {version}-venv (or install uv)"
    assert line == f"serve: {without_venv}/python3.11 cannot make environments; {advice}"


def test_without_pythons_venv_uv_makes_the_environment(without_venv: Path, checkout: Path) -> None:
    (without_venv / "uv").symlink_to(Path(sys.executable).with_name("uv"))
    done = sourced(checkout, 'make_environment; "$python" -m pip --version', PATH=str(without_venv))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("pip ")


def wheel(name: str, version: str, folder: Path) -> Path:
    """A package without content."""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")
    return path


class Index(BaseHTTPRequestHandler):
    """A package index of some wheels, below any path; as a proxy it answers for whatever host is asked for."""

    wheels: list[Path]
    certificate: ssl.SSLContext | None
    hosts: list[str]

    def do_CONNECT(self) -> None:
        self.hosts.append(self.path.rpartition(":")[0])
        if self.certificate is None:
            self.send_error(403)
            return
        self.send_response(200)
        self.end_headers()
        try:
            self.connection = self.certificate.wrap_socket(self.connection, server_side=True)
        except ssl.SSLError:  # the client does not trust the certificate
            self.close_connection = True
            return
        self.rfile, self.wfile = self.connection.makefile("rb", -1), self.connection.makefile("wb", 0)
        self.close_connection = False

    def do_GET(self) -> None:
        name = self.path.rstrip("/").rpartition("/")[2]
        if match := next((path for path in self.wheels if path.name.replace("+", "%2B") == name), None):
            body, kind = match.read_bytes(), "application/octet-stream"
        else:
            links = [path.name for path in self.wheels if path.name.startswith(f"{name}-")]
            if not links:
                self.send_error(404)
                return
            body, kind = (
                "".join(f'<a href="{link.replace("+", "%2B")}">{link}</a>' for link in links).encode(),
                "text/html",
            )
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815

    def finish(self) -> None:
        super().finish()
        self.connection.close()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def index(
    wheels: list[Path], certificate: ssl.SSLContext | None = None, hosts: list[str] | None = None
) -> Iterator[str]:
    """hosts: receives the names of the hosts that were asked for through it."""
    settings = {"wheels": wheels, "certificate": certificate, "hosts": [] if hosts is None else hosts}
    handler = type("Handler", (Index,), settings | {"protocol_version": "HTTP/1.1"})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class TestBuildOfTorch:
    """Two indexes stand in on loopback: PyTorch's own, whose CPU build is +cpu, and the default one."""

    @pytest.fixture
    def empty(self, checkout: Path) -> Path:
        """A checkout whose environment has uv and nothing else."""
        uv = Path(sys.executable).with_name("uv")
        subprocess.run([uv, "venv", "--quiet", checkout / ".venv", "--python", sys.executable], check=True)
        (checkout / ".venv" / "bin" / "uv").symlink_to(uv)
        (checkout / "constraints.txt").write_text("torch==2.15.0\ntorchvision==0.29.2\n")
        return checkout

    def install(self, checkout: Path, proxy: str, default: str, **environment: str) -> tuple[str, str]:
        done = sourced(
            checkout,
            'torch_backend() { echo cpu; }; "$venv/bin/uv" -q pip uninstall --python "$python" '
            'torch torchvision 2>/dev/null; install_torch; "$venv/bin/uv" -q pip freeze --python "$python"',
            HTTPS_PROXY=proxy,
            https_proxy=proxy,
            NO_PROXY="127.0.0.1",
            no_proxy="127.0.0.1",
            UV_DEFAULT_INDEX=f"{default}/simple",
            UV_CACHE_DIR=str(checkout / "cache"),
            UV_NO_CONFIG="1",
            UV_HTTP_RETRIES="0",
            **environment,
        )
        return done.stdout, done.stderr

    @pytest.fixture
    def default(self, tmp_path: Path) -> Iterator[str]:
        folder = tmp_path / "default"
        folder.mkdir()
        with index([wheel("torch", "2.15.0", folder), wheel("torchvision", "0.29.2", folder)]) as url:
            yield url

    @pytest.fixture
    def pytorchs(self, empty: Path, default: str, tmp_path: Path) -> Iterator[tuple[str, Path]]:
        """PyTorch's index behind a company's proxy, which shows a certificate of its own; and the CA's file."""
        folder = tmp_path / "pytorch"
        folder.mkdir()
        hosts: list[str] = []
        with index([], hosts=hosts) as refusing:
            self.install(empty, refusing, default)
        ca, certificate, key = certificates.make(folder, *set(hosts))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        with index([wheel("torch", "2.15.0+cpu", folder), wheel("torchvision", "0.29.2+cpu", folder)], context) as url:
            yield url, ca

    def test_without_a_gpu_it_is_the_cpu_build(self, empty: Path, pytorchs: tuple[str, Path], default: str) -> None:
        proxy, ca = pytorchs
        assert self.install(empty, proxy, default)[0].startswith("torch==2.15.0\n")
        frozen, said = self.install(empty, proxy, default, SSL_CERT_FILE=str(ca))
        assert frozen == "torch==2.15.0+cpu\ntorchvision==0.29.2+cpu\n", said
        assert said == ""

    def test_where_its_index_is_out_of_reach_it_is_the_default_ones(self, empty: Path, default: str) -> None:
        with index([]) as refusing:
            frozen, said = self.install(empty, refusing, default)
        assert frozen == "torch==2.15.0\ntorchvision==0.29.2\n", said
        assert said.startswith("PyTorch's package index cannot be reached; taking the default index's build")
        assert said.count("\n") == 1

    def test_a_build_that_was_asked_for_is_never_replaced(self, empty: Path, default: str) -> None:
        with index([]) as refusing:
            frozen, said = self.install(empty, refusing, default, UV_TORCH_BACKEND="cpu")
        assert frozen == ""
        assert said == "serve: UV_TORCH_BACKEND=cpu: PyTorch's package index cannot be reached\n"

    def test_a_gpu_decides_which_it_is(self, empty: Path) -> None:
        assert sourced(empty, "torch_backend", UV_TORCH_BACKEND="cu130").stdout == "cu130\n"
        has_gpu = Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists()
        assert sourced(empty, "torch_backend").stdout == ("" if has_gpu else "cpu\n")


def test_ctrl_c_ends_in_one_line_and_the_next_run_goes_on(checkout: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts connections and never answers
        environment = os.environ | {"PIP_INDEX_URL": f"http://127.0.0.1:{silent.getsockname()[1]}/simple"}
        process = subprocess.Popen(
            [checkout / "scripts" / "serve"],
            env=environment | {"PYTHON": sys.executable, "PIP_NO_CACHE_DIR": "1"},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        silent.settimeout(120)
        with silent.accept()[0]:
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process
            _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Traceback" not in errors
    assert errors.strip().splitlines()[-1] == "serve: interrupted; the next run goes on from here"
    assert sourced(checkout, '"$python" -m pip --version').returncode == 0


def test_two_set_ups_take_turns(checkout: Path, tmp_path: Path) -> None:
    code = f'(lock 9; echo begin; sleep 1; echo end) 9>"{tmp_path}/lock"'
    processes = [
        subprocess.Popen(
            ["bash", "-c", f'. "{checkout}/scripts/setup.sh"; {code} >> "{tmp_path}/order"', "serve"],
            env=os.environ | {"PATH": path},
        )
        # The second one has no flock, as on macOS.
        for path in (os.environ["PATH"], str(without_flock(tmp_path)))
    ]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert (tmp_path / "order").read_text().split() == ["begin", "end", "begin", "end"]


def without_flock(folder: Path) -> Path:
    (folder / "no-flock").mkdir()
    for name in (*TOOLS, "sleep"):
        if name != "flock" and (program := shutil.which(name)):
            (folder / "no-flock" / name).symlink_to(program)
    (folder / "no-flock" / "python3").symlink_to(sys.executable)
    return folder / "no-flock"
