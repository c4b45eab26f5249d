"""Serve: untrained weights stand in for missing ones at a plain first start only, and a service keeps its archive."""

import json
import shutil
import socket
import subprocess
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from densenet.paths import CONFIG, PHOTO
from densenet.service import archive, history, java, management, serve, temporary_instance, torchserve
from densenet.service.archive import ArchiveOptions
from densenet.service.management import Model
from densenet.service.properties import Properties
from densenet.service.torchserve import LogFormat, Service
from export import ROOT, Precision, processor
from export.archive import build, read_config, start_settings
from export.console import CliError
from tests.integration.gateways import standing_in
from tests.unit.export.test_archive import make_export


@pytest.mark.parametrize(
    ("options", "trained_before", "allowed"),
    [
        ({}, False, True),
        ({"workers": 1, "port": 9000, "log_format": LogFormat.JSON}, False, True),
        ({}, True, False),
        ({"foreground": True}, False, False),
        ({"config": CONFIG}, False, False),
        ({"tokens": True}, False, False),
        ({"model_api": True}, False, False),
        ({"rebuild": True}, False, False),
        ({"weights": "imagenet"}, False, False),
        ({"precision": Precision.BF16}, False, False),
        ({"class_index": Path("classes.json")}, False, False),
    ],
)
def test_only_a_plain_first_serve_may_fall_back(
    options: dict[str, Any], trained_before: bool, allowed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []

    def ensure(*_: object, fall_back: bool, **__: object) -> None:
        asked.append(fall_back)
        raise SystemExit

    monkeypatch.setattr(serve.console, "end_on", lambda _: None)
    monkeypatch.setattr(archive, "ensure", ensure)
    monkeypatch.setattr(serve, "_check_start", lambda *_: None)
    monkeypatch.setattr(torchserve, "lock", nullcontext)
    monkeypatch.setattr(torchserve, "running", list)
    monkeypatch.setattr(torchserve, "has_served_trained", lambda: trained_before)
    with pytest.raises(SystemExit):
        serve.main(**options)
    assert asked == [allowed]


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No service runs, and nothing may be exported."""
    monkeypatch.setattr(serve.console, "end_on", lambda _: None)
    monkeypatch.setattr(archive, "ensure", lambda *_, **__: pytest.fail("exports"))
    monkeypatch.setattr(torchserve, "lock", nullcontext)
    monkeypatch.setattr(torchserve, "running", list)
    monkeypatch.setattr(java, "find", lambda: Path("java"))


@pytest.mark.usefixtures("alone")
def test_a_configuration_copied_elsewhere_is_refused_before_any_export(tmp_path: Path) -> None:
    copied = Path(shutil.copyfile(CONFIG, tmp_path / "config.properties"))
    with pytest.raises(CliError, match=rf"model_store names {tmp_path}/model_store, .* paths begin at {tmp_path}$"):
        serve.main(config=copied, port=free_port())
    assert list(tmp_path.iterdir()) == [copied]


@pytest.mark.usefixtures("alone")
def test_a_port_that_is_taken_is_told_before_any_export() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port := free_port()))
        taken.listen()
        with pytest.raises(CliError, match=f"port {port} is taken"):
            serve.main(port=port)


@pytest.mark.usefixtures("alone")
def test_a_missing_java_is_told_before_any_export(monkeypatch: pytest.MonkeyPatch) -> None:
    def find() -> Path:
        raise CliError("Java 17 or newer was not found")

    monkeypatch.setattr(java, "find", find)
    with pytest.raises(CliError, match="Java 17"):
        serve.main(port=free_port())


def free_port() -> int:
    """The first of five free ports."""
    return temporary_instance.on_free_ports(Path("any.mar")).port


@pytest.mark.parametrize("weights", ["untrained", "mine.pth"])
def test_the_last_lines_say_how_to_get_real_answers(
    weights: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    card = {"weights": {"name": weights}, "precision": "fp32"}
    service = Service(1, 5.0, 9000, "http://127.0.0.1:9000", "", "densenet", "", "", card, folder=str(tmp_path))
    serve._report_in_background(service, 1, "up")
    errors = capsys.readouterr().err
    assert ("are untrained" in errors) == (weights == "untrained")
    commands = ("scripts/stop --port 9000", "serve --port 9000 --weights imagenet", "serve --port 9000 --weights FILE")
    assert all((command in errors) == (weights == "untrained") for command in commands)


@pytest.mark.parametrize(
    ("precision", "flags", "told"),
    [
        ("fp32", "avx512_bf16 amx_tile amx_bf16", True),
        ("bf16", "avx512_bf16 amx_tile amx_bf16", False),
        ("int8", "avx512_bf16 amx_tile amx_bf16", False),
        ("fp32", "avx512_vnni avx512_bf16", False),
    ],
)
def test_what_amx_would_gain_is_told_where_it_is_not_used(
    precision: str,
    flags: str,
    told: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(processor, "cpuinfo", lambda: f"flags : {flags}")
    card = {"weights": {"name": "mine.pth"}, "precision": precision}
    service = Service(1, 5.0, 9000, "http://127.0.0.1:9000", "", "densenet", "", "", card, folder=str(tmp_path))
    serve._report(service, 1, "up", "stop")
    output, errors = capsys.readouterr()
    assert "AMX" not in output
    assert len(errors.splitlines()) == told
    assert ("16 in bf16 (--precision auto) and 9.4 in int8" in errors) == told


@pytest.mark.parametrize("here", [True, False])
@pytest.mark.parametrize("token", [None, "se'cret"])
def test_the_line_to_try_works_in_a_shell(
    here: bool, token: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "it's a folder"
    folder.mkdir()
    if token:
        (folder / "key_file.json").write_text(json.dumps({"inference": {"key": token}}))
    monkeypatch.chdir(ROOT if here else folder)
    with standing_in(lambda _: (200, {}, b"fine")) as server:
        card = {"weights": {"name": "mine.pth"}, "precision": "fp32"}
        service = Service(1, 5.0, 9000, f"http://{server.address}", "", "densenet", "", "", card, folder=str(folder))
        serve._report(service, 1, "up", "stop")
        (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("  try"))
        done = subprocess.run(["sh", "-c", line.removeprefix("  try")], capture_output=True, text=True, check=True)
    ((method, path, headers, body),) = server.seen
    assert (method, path, done.stdout) == ("PUT", "/predictions/densenet", "fine")
    assert headers.get("authorization") == (token and f"Bearer {token}")
    assert body == PHOTO.read_bytes()
    assert ("curl -T export/photos/cat.jpg " in line) == (here and not token)


def test_the_line_to_try_trusts_the_services_own_certificate(tmp_path: Path) -> None:
    address = "https://127.0.0.1:9"
    service = Service(1, 5.0, 9, address, "", "densenet", "", "", {}, folder=str(tmp_path), ca=str(tmp_path / "ca.pem"))
    assert f" --cacert {tmp_path}/ca.pem -T " in serve._example(service)


class Store:
    """A model store, and the folder of a service on port 9000 that uses it; an archive is its card, as JSON."""

    def __init__(self, root: Path) -> None:
        self.folder, self.common = root / "run" / "9000", root / "model_store" / "densenet.mar"
        self.common.parent.mkdir()
        addresses = {f"{name}_address": f"http://127.0.0.1:{9000 + i}" for i, name in enumerate(NAMES)}
        self.properties = Properties(
            {**addresses, "model_store": str(self.common.parent), "load_models": self.common.name}
        )
        self.asked: list[tuple[ArchiveOptions, bool]] = []

    def pack(self, weights: str, handler: str = "") -> None:
        content = {"weights": {"name": weights, "sha256": weights}, "precision": "fp32"}
        self.common.write_text(json.dumps(content) + "\n" + handler)

    def start(self, *, up: bool = True) -> None:
        entry = history.keep(self.folder, self.common)
        if up:
            serve._record(self.folder, entry)

    def chosen(self, *, rebuild: bool = False, **requested: Any) -> tuple[str, str]:
        """The weights and the handler of what a start would serve."""
        path = serve._choose(self.properties, ArchiveOptions(**requested), rebuild=rebuild, fall_back=False)
        card, _, code = path.read_text().partition("\n")
        return json.loads(card)["weights"]["name"], code


NAMES = ("inference", "management", "metrics")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    made = Store(tmp_path)

    def read_card(path: Path) -> Any:
        try:
            return json.loads(path.read_text().partition("\n")[0])
        except ValueError as error:
            raise CliError("damaged") from error

    def ensure(path: Path, requested: ArchiveOptions, *, rebuild: bool, **_: object) -> None:
        assert path == made.common
        made.asked.append((requested, rebuild))
        if requested.weights:
            made.pack(requested.weights)

    for module in (history, serve):
        monkeypatch.setattr(module, "read_card", read_card)
        monkeypatch.setattr(module, "read_version", lambda path: "1.0")
    monkeypatch.setattr(serve, "RUN", tmp_path / "run")
    monkeypatch.setattr(archive, "ensure", ensure)
    return made


def test_a_first_start_serves_the_model_stores_archive(store: Store) -> None:
    store.pack("untrained")
    assert store.chosen() == ("untrained", "")
    assert store.asked == [(ArchiveOptions(), False)]


def test_a_service_keeps_its_weights_when_another_packs_its_own(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    store.pack("untrained")
    store.start()
    store.pack("mine.pth")
    assert store.chosen() == ("untrained", "")
    assert store.asked == []
    said = " ".join(capsys.readouterr().err.split())
    assert "the service on port 9000 keeps version 1.0 (weights untrained, fp32, sha256" in said
    assert "densenet.mar is version 1.0, weights mine.pth: scripts/serve --port 9000 --archive" in said


@pytest.mark.parametrize("spoil", [Path.unlink, lambda path: path.write_text("no archive")])
def test_a_service_keeps_its_weights_when_the_model_store_has_none(store: Store, spoil: Any) -> None:
    store.pack("mine.pth")
    store.start()
    spoil(store.common)
    assert store.chosen() == ("mine.pth", "")


def test_other_weights_are_served_when_they_are_named(store: Store) -> None:
    store.pack("untrained")
    store.start()
    store.pack("mine.pth")
    assert store.chosen(weights="mine.pth") == ("mine.pth", "")
    store.start()
    store.pack("untrained")
    assert store.chosen() == ("mine.pth", "")


@pytest.mark.parametrize("options", [{"rebuild": True}, {"precision": Precision.BF16}])
def test_options_that_do_not_name_the_weights_do_not_change_them(store: Store, options: dict[str, Any]) -> None:
    store.pack("untrained")
    store.start()
    store.pack("mine.pth")
    assert store.chosen(**options) == ("untrained", "")
    store.pack("mine.pth")
    store.start()
    store.pack("untrained")
    with pytest.raises(CliError, match=r"with the weights file mine\.pth; name it again: --weights FILE"):
        store.chosen(**options)


def test_a_handler_that_is_mended_after_a_start_that_failed_is_served(store: Store) -> None:
    store.pack("mine.pth", handler="good")
    store.start()
    store.pack("mine.pth", handler="bad")
    store.start(up=False)
    assert store.chosen() == ("mine.pth", "bad")  # and `ensure`, which packs the mended one, was asked
    assert store.asked == [(ArchiveOptions(version="1.1"), False)]  # the first name is that of the version in service
    store.pack("other.pth", handler="bad")
    store.start(up=False)
    assert store.chosen() == ("mine.pth", "good")


def test_an_archive_and_options_for_another_contradict_each_other(tmp_path: Path) -> None:
    for options in ({"rebuild": True}, {"weights": "imagenet"}, {"precision": Precision.BF16}):
        with pytest.raises(CliError, match="give --archive, or options for an archive to make"):
            serve.main(given=tmp_path / "densenet.mar", **options)


def test_options_that_a_restart_leaves_out_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "9000"

    def said(*options: str) -> str:
        serve.name_missing_options(folder, options)
        return " ".join(capsys.readouterr().err.split())

    assert said("--tokens", "--model-api", "--log-format json") == ""
    assert said("--tokens") == "the last start on this port had --model-api --log-format json; this one does not"
    assert said("--tokens", "--model-api") == ""
    (folder / "options.json").write_text("no JSON")
    assert said() == ""


def test_settings_of_a_start_are_in_the_copy_that_it_serves_and_not_in_the_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "RUN", tmp_path / "run")
    build(make_export(tmp_path / "build"), path := tmp_path / "densenet.mar", version="1.0", workers=1)
    before, properties = path.read_bytes(), temporary_instance.on_free_ports(path)
    assert serve._with_archive(properties, path, {}) == properties
    served = serve._with_archive(properties, path, start_settings(3, 4)).archive
    config = read_config(served)
    assert (config["minWorkers"], config["maxWorkers"], config["batchSize"]) == (3, 3, 4)
    assert (served.name, path.read_bytes()) == (path.name, before)


@pytest.mark.usefixtures("alone")
def test_a_running_service_with_another_batch_size_is_to_be_stopped_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = {"weights": {"name": "mine.pth"}, "precision": "fp32"}
    shutil.copyfile(CONFIG, tmp_path / "config.properties")
    service = Service(1, 5.0, port := free_port(), "", "", "densenet", "", "", card, folder=str(tmp_path))
    monkeypatch.setattr(torchserve, "running", lambda: [service])
    monkeypatch.setattr(management, "describe_default", lambda _: Model("1.0", 1, 1, 4, (), 0, 100))
    reached: list[Service] = []
    monkeypatch.setattr(serve, "_report_in_background", lambda service, *_: reached.append(service))
    monkeypatch.setattr(serve, "_scaled", lambda *_: 1)
    monkeypatch.setattr(serve, "warn_of", lambda *_: None)
    monkeypatch.setattr(serve, "others", lambda *_: None)
    serve.main(port=port, batch_size=4)
    assert reached == [service]
    with pytest.raises(CliError, match="already up on port"):
        serve.main(port=port, batch_size=2)
