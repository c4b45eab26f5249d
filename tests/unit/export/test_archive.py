"""Archive: self-contained, the same whenever its inputs are, and what TorchServe expects."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from export import ROOT, archive
from export.console import CliError
from handler.page.negotiation import LANGUAGES

NETWORK, CLASSES = bytes(range(256)) * 40, b'{"0": ["a", "one"], "1": ["b", "two"]}'
CARD: dict[str, Any] = {
    "architecture": "DenseNet-121",
    "weights": {"name": "mine.pth", "source": "mine.pth", "sha256": "d1"},
    "precision": "fp32",
    "network": {"file": "model.pt", "parts": ["trunk", "head"], "sha256": hashlib.sha256(NETWORK).hexdigest()},
    "input": {"resize": 255, "crop": 224, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
    "classes": {"count": 2, "sha256": hashlib.sha256(CLASSES).hexdigest()},
    "agreement": {"tolerance": 1e-4},
    "exported_with": {"torch": "2.15.0"},
}


def make_export(folder: Path) -> Path:
    """The three files of an export; the archive step looks into none but the card."""
    folder.mkdir(parents=True)
    (folder / "model.pt").write_bytes(NETWORK)
    (folder / "model_card.json").write_text(json.dumps(CARD))
    (folder / "index_to_name.json").write_bytes(CLASSES)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_export(tmp_path_factory.mktemp("export") / "build")


@pytest.fixture(scope="module")
def packed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "not" / "yet" / "densenet.mar"
    archive.build(folder, path, version="2.5", workers=3)
    return path


@pytest.fixture(scope="module")
def unpacked(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(packed) as file:
        file.extractall(target)
    return target


def move_temporary_files(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    assert tempfile.gettempdir() == str(folder)
    return folder


def expected_entries() -> list[str]:
    names = [str(path.relative_to(ROOT)) for path in (ROOT / "handler").rglob("*.py")]
    page = ["page.html", "card.html", "class.html", "page.css"]
    page += [f"{name}.js" for name in ("common", "service", "images", "cards", "tiles", "downloads", "page")]
    page += [f"translations/{language}.yaml" for language in LANGUAGES]
    handler = [name for name in names if name != "handler/entry.py"] + ["handler/openapi.yaml"]
    handler += [f"handler/page/{name}" for name in page]
    export = ["model.pt", "model_card.json", "index_to_name.json"]
    generated = ["MAR-INF/MANIFEST.json", "MODEL_CARD.md", "model-config.yaml"]
    return sorted([*handler, "entry.py", *export, *generated])


def test_an_archive_holds_what_serving_needs_and_nothing_else(packed: Path) -> None:
    with zipfile.ZipFile(packed) as file:
        assert file.testzip() is None
        assert sorted(file.namelist()) == expected_entries()


def test_files_are_in_the_archive_as_they_are_on_disk(unpacked: Path, folder: Path) -> None:
    assert (unpacked / "model.pt").read_bytes() == (folder / "model.pt").read_bytes()
    assert (unpacked / "entry.py").read_bytes() == (ROOT / "handler" / "entry.py").read_bytes()
    assert (unpacked / "handler" / "ranking.py").read_bytes() == (ROOT / "handler" / "ranking.py").read_bytes()


def test_the_manifest_names_handler_network_version_and_config(unpacked: Path) -> None:
    manifest = json.loads((unpacked / "MAR-INF" / "MANIFEST.json").read_text())
    assert manifest["model"] == {
        "modelName": "densenet",
        "modelVersion": "2.5",
        "handler": "entry.py",
        "serializedFile": "model.pt",
        "configFile": "model-config.yaml",
    }
    assert manifest["runtime"] == "python"
    assert manifest["archiverVersion"] == "0.12.0"


def test_the_config_has_the_workers_asked_for_and_both_timeouts(unpacked: Path) -> None:
    config = yaml.safe_load((unpacked / "model-config.yaml").read_text())
    assert (config["minWorkers"], config["maxWorkers"]) == (3, 3)
    assert config["responseTimeout"] > 0
    assert config["startupTimeout"] > 0
    assert config["handler"] == yaml.safe_load((ROOT / "handler" / "model-config.yaml").read_text())["handler"]


def test_the_same_inputs_give_the_same_bytes(
    folder: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = tmp_path / "elsewhere"
    copied.mkdir()
    for path in sorted(folder.iterdir(), reverse=True):
        shutil.copyfile(path, copied / path.name)
        os.utime(copied / path.name, (1_000_000_000, 1_000_000_000))
    move_temporary_files(monkeypatch, tmp_path / "tmp")
    archive.build(copied, tmp_path / "densenet.mar", version="2.5", workers=3)
    assert (tmp_path / "densenet.mar").read_bytes() == packed.read_bytes()


def test_nothing_else_is_left_behind(packed: Path) -> None:
    assert list(packed.parent.iterdir()) == [packed]


def test_a_temporary_folder_of_the_models_name_is_not_emptied(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = move_temporary_files(monkeypatch, tmp_path / "tmp")
    (temporary / "densenet").mkdir()
    (temporary / "densenet" / "thesis.txt").write_text("years of work")
    archive.build(folder, tmp_path / "densenet.mar", version="1.0", workers=1)
    assert [path.relative_to(temporary).as_posix() for path in temporary.rglob("*")] == [
        "densenet",
        "densenet/thesis.txt",
    ]


@pytest.mark.parametrize("name", ["a b", "a,b", "a[1]", "a?"])
def test_any_temporary_folder_will_do(
    name: str, folder: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    move_temporary_files(monkeypatch, tmp_path / name)
    archive.build(folder, tmp_path / "densenet.mar", version="2.5", workers=3)
    assert (tmp_path / "densenet.mar").read_bytes() == packed.read_bytes()


@pytest.mark.parametrize("missing", ["model.pt", "model_card.json", "index_to_name.json"])
def test_an_incomplete_export_is_named(missing: str, tmp_path: Path) -> None:
    folder = make_export(tmp_path / "build")
    (folder / missing).unlink()
    with pytest.raises(CliError, match=f"{missing} is missing"):
        archive.build(folder, tmp_path / "store" / "densenet.mar", version="1.0", workers=1)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("replaced", ["model.pt", "index_to_name.json"])
def test_files_of_different_exports_are_not_packed(replaced: str, tmp_path: Path) -> None:
    folder = make_export(tmp_path / "build")
    (folder / replaced).write_bytes(b"of another export")
    with pytest.raises(CliError, match=rf"different exports \({replaced}, model_card\.json\)"):
        archive.build(folder, tmp_path / "densenet.mar", version="1.0", workers=1)
    assert not (tmp_path / "densenet.mar").exists()


def with_threshold(folder: Path, value: float) -> Path:
    config = folder / "mine.yaml"
    config.write_text(
        (ROOT / "handler" / "model-config.yaml").read_text() + f"  min_probability: {value}\n", encoding="utf-8"
    )
    return config


def test_a_threshold_below_chance_is_not_packed(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CliError, match=r"mine\.yaml: handler\.min_probability must be above 0\.5") as caught:
        archive.build(folder, tmp_path / "densenet.mar", version="1.0", workers=1, config=with_threshold(tmp_path, 0.2))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "densenet.mar").exists()


def test_an_archive_whose_settings_are_refused_by_now_is_named_with_the_way_out(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "densenet.mar"
    archive.build(folder, tmp_path / "new.mar", version="1.0", workers=1)
    config = yaml.safe_load((ROOT / "handler" / "model-config.yaml").read_text())
    archive.copy_with_settings(tmp_path / "new.mar", path, {"handler": config["handler"] | {"min_probability": 0.2}})
    before = path.read_bytes()
    with pytest.raises(CliError, match=r"densenet\.mar again: it keeps its model-config\.yaml: .* not 0\.2;") as caught:
        archive.refresh(path, folder)
    assert str(caught.value).endswith("scripts/archive packs it with new settings")
    assert path.read_bytes() == before


def test_an_interruption_leaves_no_part_of_an_archive(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    def interrupt(packed: zipfile.ZipFile, entry: zipfile.ZipInfo, content: bytes) -> None:
        written.append(entry.filename)
        if len(written) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(zipfile.ZipFile, "writestr", interrupt)
    with pytest.raises(KeyboardInterrupt):
        archive.build(folder, tmp_path / "densenet.mar", version="1.0", workers=1)
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_torchserve_cannot_serve_is_a_problem_of_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CliError, match="archiver") as caught:
        archive.build(folder, tmp_path / "dense net.mar", version="1.0", workers=1)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def handler_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copied = tmp_path / "handler"
    shutil.copytree(ROOT / "handler", copied, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(archive, "HANDLER", copied)
    return copied


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def test_an_archive_of_the_same_files_is_current(handler_copy: Path, folder: Path, packed: Path) -> None:
    assert archive.is_current(packed, folder)


@pytest.mark.parametrize(
    "change",
    [
        lambda handler: append(handler / "ranking.py"),
        lambda handler: append(handler / "entry.py"),
        lambda handler: (handler / "new.py").touch(),
        lambda handler: (handler / "reply.py").unlink(),
    ],
    ids=["module", "entry", "new module", "removed module"],
)
def test_an_archive_of_another_handler_is_not_current(
    change: Callable[[Path], object], handler_copy: Path, folder: Path, packed: Path
) -> None:
    change(handler_copy)
    assert not archive.is_current(packed, folder)


@pytest.mark.parametrize("name", ["model.pt", "model_card.json", "index_to_name.json"])
@pytest.mark.parametrize("change", [append, Path.unlink])
def test_an_archive_of_another_export_is_not_current(
    change: Callable[[Path], object], name: str, packed: Path, tmp_path: Path
) -> None:
    other = make_export(tmp_path / "build")
    assert archive.is_current(packed, other)
    change(other / name)
    assert not archive.is_current(packed, other)


def test_a_refreshed_archive_has_the_new_handler_and_keeps_its_version_workers_and_settings(
    handler_copy: Path, folder: Path, tmp_path: Path
) -> None:
    settings = tmp_path / "mine.yaml"
    settings.write_text((handler_copy / "model-config.yaml").read_text().replace("top_k: 5", "top_k: 3"))
    target = tmp_path / "densenet.mar"
    archive.build(folder, target, version="4.2", workers=7, config=settings)
    append(handler_copy / "ranking.py")
    archive.refresh(target, folder)
    assert archive.is_current(target, folder)
    with zipfile.ZipFile(target) as content:
        config = yaml.safe_load(content.read("model-config.yaml"))
        manifest = json.loads(content.read("MAR-INF/MANIFEST.json"))
    assert (config["handler"]["top_k"], config["minWorkers"], config["maxWorkers"]) == (3, 7, 7)
    assert manifest["model"]["modelVersion"] == "4.2"


def test_a_network_for_gpus_is_batched_there_unless_another_config_is_given(tmp_path: Path) -> None:
    folder = make_export(tmp_path / "build")
    (folder / "model_card.json").write_text(json.dumps(CARD | {"precision": "fp16"}))
    mine = tmp_path / "mine.yaml"
    shutil.copyfile(archive.HANDLER / "model-config.yaml", mine)
    configs = []
    for name, options in (("a", {}), ("b", {"config": mine})):
        archive.build(folder, tmp_path / f"{name}.mar", version="1.0", workers=2, **options)
        with zipfile.ZipFile(tmp_path / f"{name}.mar") as content:
            configs.append(yaml.safe_load(content.read("model-config.yaml")))
    ours, theirs = configs
    assert (ours["deviceType"], ours["batchSize"], ours["handler"]["network_batch"]) == ("gpu", 32, 32)
    assert ours["handler"]["top_k"] == theirs["handler"]["top_k"]
    assert (theirs["deviceType"], "batchSize" in theirs) == ("cpu", False)


def test_a_batch_size_is_in_the_archive_only_if_somebody_names_it(folder: Path, tmp_path: Path) -> None:
    small = tmp_path / "small.yaml"
    small.write_text("handler: {top_k: 3}\n")
    for name, options, size in (("a", {}, None), ("b", {"batch_size": 4}, 4), ("c", {"config": small}, None)):
        archive.build(folder, path := tmp_path / f"{name}.mar", version="1.0", workers=2, **options)
        config = archive.read_config(path)
        # Without a delay in the file, TorchServe would let a request wait 100 ms for others.
        assert (config.get("batchSize"), config["maxBatchDelay"]) == (size, 1)


def test_settings_of_a_start_are_those_that_are_given() -> None:
    assert archive.start_settings() == {}
    assert archive.start_settings(3) == {"minWorkers": 3, "maxWorkers": 3}
    assert archive.start_settings(batch_size=4) == {"batchSize": 4}


def test_an_older_export_is_not_packed(tmp_path: Path) -> None:
    folder = make_export(tmp_path / "build")
    (folder / "model_card.json").write_text(json.dumps(CARD | {"network": {"format": "TorchScript"}}))
    with pytest.raises(CliError, match="older version"):
        archive.build(folder, tmp_path / "densenet.mar", version="1.0", workers=2)
    assert not (tmp_path / "densenet.mar").exists()


def test_workers_are_one_a_core_and_two_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert [archive.default_workers(precision) for precision in ("fp32", "int8", "fp16")] == [3, 3, 8]


def test_where_the_system_does_not_tell_which_cores_are_ours_all_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert archive.default_workers("fp32") == 5


def test_a_copy_with_other_workers_differs_in_nothing_else(packed: Path, tmp_path: Path) -> None:
    archive.copy_with_settings(packed, tmp_path / "copy" / "densenet.mar", archive.start_settings(9))
    with zipfile.ZipFile(packed) as one, zipfile.ZipFile(tmp_path / "copy" / "densenet.mar") as other:
        differing = [name for name in one.namelist() if one.read(name) != other.read(name)]
        config = yaml.safe_load(other.read("model-config.yaml"))
        assert one.namelist() == other.namelist()
    assert differing == ["model-config.yaml"]
    assert (config["minWorkers"], config["maxWorkers"]) == (9, 9)


def test_no_archive_is_not_current(folder: Path, tmp_path: Path) -> None:
    assert not archive.is_current(tmp_path / "densenet.mar", folder)
    (tmp_path / "densenet.mar").write_bytes(b"PK but no zip")
    assert not archive.is_current(tmp_path / "densenet.mar", folder)


def test_the_card_is_read_from_the_archive(packed: Path) -> None:
    assert archive.read_card(packed) == CARD


def flipped(path: Path, where: bytes, offset: int) -> None:
    """Turns one bit, `offset` bytes after the last place of `where`."""
    content = bytearray(path.read_bytes())
    content[content.rindex(where) + offset] ^= 1
    path.write_bytes(content)


def zip_with(path: Path, entries: Iterable[tuple[str, str]]) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in entries:
            file.writestr(name, content)


DAMAGE: dict[str, Callable[[Path], Any]] = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-200]),
    "no zip": lambda path: path.write_text("hello"),
    "another zip": lambda path: zip_with(path, [("readme.txt", "hello")]),
    "card is no JSON": lambda path: zip_with(path, [("model_card.json", "{")]),
    "card is no object": lambda path: zip_with(path, [("model_card.json", "[]")]),
    "card's content": lambda path: flipped(path, b"DenseNet-121", 3),
    "network's content": lambda path: flipped(path, bytes(range(256)), 3),
    "an entry's offset": lambda path: flipped(path, b"PK\x01\x02", 42),
    "an entry's flags: encrypted": lambda path: flipped(path, b"PK\x01\x02", 8),
    "an entry's method: unknown": lambda path: flipped(path, b"PK\x01\x02", 10),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_or_foreign_archive_is_a_problem_that_names_it(
    damage: Callable[[Path], Any], packed: Path, tmp_path: Path
) -> None:
    path = tmp_path / "densenet.mar"
    shutil.copyfile(packed, path)
    damage(path)
    with pytest.raises(CliError, match=r"densenet\.mar") as caught:
        archive.read_card(path)
    assert "--rebuild" in str(caught.value)
    assert "\n" not in str(caught.value)


IMPORTED = """
import json, sys
import entry, handler
print(json.dumps({"handler": handler.__file__, "entry": entry.__file__, "modules": sorted(sys.modules)}))
"""


def test_the_handler_runs_from_the_archive_alone(unpacked: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, "-B", "-c", IMPORTED],
        cwd=unpacked,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert Path(found["handler"]) == unpacked / "handler" / "__init__.py"
    assert Path(found["entry"]) == unpacked / "entry.py"
    foreign = {name.partition(".")[0] for name in found["modules"]} & {"torchvision", "ts", "export", "densenet"}
    assert foreign == set()
    assert "handler.scoring" in found["modules"]


def test_markupsafe_which_the_handler_imports_comes_with_torch() -> None:
    assert any(re.match(r"jinja2\b(?!.*extra)", line, re.IGNORECASE) for line in metadata.requires("torch") or ())
    assert any(re.match(r"markupsafe\b(?!.*extra)", line, re.IGNORECASE) for line in metadata.requires("jinja2") or ())


def test_the_command_tells_the_digest_of_what_it_wrote(folder: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "export.archive", "--model", folder, "--output", "here.mar", "--workers", "2"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert hashlib.sha256((tmp_path / "here.mar").read_bytes()).hexdigest() in done.stdout
    with zipfile.ZipFile(tmp_path / "here.mar") as file:
        assert json.loads(file.read("MAR-INF/MANIFEST.json"))["model"]["modelName"] == "here"
        assert yaml.safe_load(file.read("model-config.yaml"))["maxWorkers"] == 2
