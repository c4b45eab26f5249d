"""What a rollout makes of answers, of options that contradict each other, and of versions beside the one in service."""

import json
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests

from densenet.service import comparison, drain, history, management, rollout, torchserve
from densenet.service.archive import ArchiveOptions
from densenet.service.comparison import Bounds
from densenet.service.history import Entry, History
from densenet.service.management import Model
from densenet.service.torchserve import Service
from export.archive import build
from export.console import CliError
from tests.integration.gateways import standing_in
from tests.unit.export.test_archive import make_export

FULL = {"code": 503, "type": "ServiceUnavailableException", "message": "no worker to serve inference request"}
DIED = {"code": 500, "type": "InternalServerException", "message": "Worker died."}
GONE = {"code": 404, "type": "ModelVersionNotFoundException", "message": "Model version: 1.0 does not exist"}
RIGHT = {"success": True, "class_id": "n02123045"}
REFUSED = {"success": False, "error": {"code": "internal_error", "message": "the service failed"}}


def ask(answers: Sequence[tuple[int, dict[str, Any]]], folder: Path) -> tuple[Any, int]:
    """The answer that is taken, and how often was asked; after the last one it is given for ever."""
    (folder / "photo.jpg").write_bytes(b"photo")

    def answer(number: int) -> tuple[int, dict[str, str], bytes]:
        status, told = answers[min(number, len(answers)) - 1]
        return status, {}, json.dumps(told).encode()

    with standing_in(answer) as server, requests.Session() as http:
        taken = comparison.predict(http, f"http://{server.address}/predictions/densenet", folder / "photo.jpg")
        assert {body for *_, body in server.seen} == {b"photo"}
        return taken, len(server.seen)


def test_a_full_queue_and_a_dead_worker_are_no_answer(tmp_path: Path) -> None:
    assert ask([(503, FULL), (500, DIED), (200, RIGHT)], tmp_path) == (RIGHT, 3)


def test_a_refusal_of_the_model_is_one(tmp_path: Path) -> None:
    assert ask([(500, REFUSED), (200, RIGHT)], tmp_path) == (REFUSED, 1)


def test_a_version_that_is_gone_is_not_asked_again(tmp_path: Path) -> None:
    with pytest.raises(CliError, match=r"did not answer .*photo\.jpg: Model version: 1\.0 does not exist"):
        ask([(404, GONE), (200, RIGHT)], tmp_path)


def test_a_queue_that_stays_full_ends_the_rollout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparison, "_RETRY_SECONDS", 0.5)
    with pytest.raises(CliError, match="no worker to serve"):
        ask([(503, FULL)], tmp_path)


REFUSES: dict[str, Any] = {"success": False, "error": {"code": "internal_error"}}
SAME, OTHER = ({"success": True, "class_id": name} for name in ("cat", "dog"))


@pytest.mark.parametrize(
    ("old", "agreement", "reason"),
    [
        ([SAME] * 4, 0.9, None),
        ([SAME] * 3 + [OTHER], 0.75, None),
        ([SAME] * 3 + [OTHER], 0.9, "only 3 of 4 photos agree, fewer than --min-agreement 0.9 requires"),
        ([REFUSES] * 4, 0.9, r"only 0 of 4 photos agree \(version 1.0 refused 4\)"),
        ([REFUSES] * 4, 0.01, r"only 0 of 4 photos agree \(version 1.0 refused 4\)"),
        ([REFUSES] * 3 + [SAME], 0.9, r"only 1 of 4 photos agree \(version 1.0 refused 3\)"),
        ([CliError("no answer")] * 4, 0.0, None),
    ],
)
def test_photos_that_the_old_version_refuses_do_not_agree(
    old: list[Any], agreement: float, reason: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predict(_: object, url: str, photo: Path) -> Any:
        answer = SAME if url.endswith("/2.0") else old[int(photo.name)]
        if isinstance(answer, CliError):
            raise answer
        return answer

    monkeypatch.setattr(comparison, "predict", predict)
    monkeypatch.setattr(comparison.authenticated_session, "session", lambda service: nullcontext())
    photos = [Path(str(number)) for number in range(4)]
    with nullcontext() if reason is None else pytest.raises(CliError, match=reason):
        comparison.check_answers(SERVICE, "1.0", "2.0", photos, agreement)


@pytest.mark.parametrize(
    ("bounds", "same_classes", "required"),
    [
        (Bounds(), True, 0.9),
        (Bounds(), False, 0.0),
        (Bounds(labelled=Path("labelled")), True, 0.0),  # which decide
        (Bounds(labelled=Path("labelled"), min_agreement=0.7), True, 0.7),
        (Bounds(labelled=Path("labelled"), min_accuracy=0.7), False, 0.0),
        (Bounds(labelled=Path("labelled")), False, "different classes, so --labelled needs --min-accuracy"),
        (Bounds(min_agreement=0.7), False, "different classes, .* leave out --min-agreement"),
        (Bounds(min_agreement=0.0), False, 0.0),
    ],
)
def test_what_is_required_depends_on_the_classes_and_on_labelled_photos(
    bounds: Bounds, same_classes: bool, required: float | str
) -> None:
    if isinstance(required, str):
        with pytest.raises(CliError, match=required):
            bounds.agreement(same_classes=same_classes)
    else:
        assert bounds.agreement(same_classes=same_classes) == required


@pytest.mark.parametrize(
    ("right", "same_classes", "minimum", "reason"),
    [
        ((8, 8), True, None, None),
        ((8, 7), True, None, "version 2.0 is right on 70.00% of the labelled photos; 79.00% are required"),
        ((2, 7), True, 0.8, "70.00% of the labelled photos; 80.00% are required"),
        ((9, 7), True, 0.7, None),
        ((None, 7), False, 0.7, None),  # the old version is not asked
        ((None, 6), False, 0.7, "60.00% of the labelled photos; 70.00% are required"),
    ],
)
def test_a_new_version_may_not_be_right_on_fewer_labelled_photos(
    right: tuple[int | None, int],
    same_classes: bool,
    minimum: float | None,
    reason: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for number in range(10):
        (tmp_path / ("cat", "dog")[number % 2]).mkdir(exist_ok=True)
        (tmp_path / ("cat", "dog")[number % 2] / f"{number}.jpg").touch()

    def predict(_: object, url: str, photo: Path) -> Any:
        limit = right[url.endswith("/2.0")]
        assert limit is not None
        return {"success": True, "class_id": photo.parent.name} if int(photo.stem) < limit else REFUSES

    monkeypatch.setattr(comparison, "predict", predict)
    monkeypatch.setattr(comparison.authenticated_session, "session", lambda service: nullcontext())
    monkeypatch.setattr(comparison, "have_same_classes", lambda *_: same_classes)
    monkeypatch.setattr(comparison, "read_classes", lambda path: b'{"0": ["cat", "a cat"], "1": ["dog", "a dog"]}')
    bounds = Bounds(labelled=tmp_path, min_accuracy=minimum)
    with nullcontext() if reason is None else pytest.raises(CliError, match=reason):
        comparison.check_accuracy(SERVICE, "1.0", "2.0", (Path("old.mar"), Path("new.mar")), bounds)
    shown = "accuracy on 10 labelled photos: version 1.0 " if same_classes else "labelled photos: version 2.0 "
    assert shown in capsys.readouterr().err


SERVICE = Service(1, 5.0, 9000, "http://127.0.0.1:9000", "", "densenet", "", "", {"old": "card"})


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "give an archive, --weights, --rollback, --history or --abort"),
        (
            {"archive": Path("new.mar"), "rollback": True},
            "give an archive, --weights, --rollback, --history or --abort",
        ),
        ({"show_history": True, "abort": True}, "give an archive, --weights, --rollback, --history or --abort"),
        ({"abort": True, "min_agreement": 0.5}, "--min-agreement, .* are for rollouts"),
        ({"show_history": True, "min_agreement": 0.0}, "--min-agreement, .* are for rollouts"),
        ({"abort": True, "shadow": True, "duration": "10m"}, "--canary and --shadow are for rollouts"),
        ({"archive": Path("new.mar"), "weights": "imagenet"}, "give an archive, --weights,"),
        ({"archive": Path("new.mar"), "version": "2.0"}, "--version belong to --weights"),
        ({"rollback": True, "class_index": Path("classes.json")}, "--version belong to --weights"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(CliError, match=reason):
        rollout.main(**options)


@pytest.mark.parametrize(
    ("options", "required"),
    [
        ({"archive": Path("new.mar")}, 0.9),
        ({"archive": Path("new.mar"), "min_agreement": 0.0}, 0.0),
        ({"rollback": True}, 0.0),
        ({"rollback": True, "min_agreement": 0.7}, 0.7),
    ],
)
def test_a_rollback_requires_the_agreement_that_is_asked_for(
    options: dict[str, Any], required: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[float] = []
    monkeypatch.setattr(torchserve, "lock", nullcontext)
    monkeypatch.setattr(torchserve, "find", lambda port: SERVICE)
    monkeypatch.setattr(rollout, "introduce", lambda service: None)
    monkeypatch.setattr(rollout, "_previous_archive", lambda service: Path("old.mar"))
    monkeypatch.setattr(
        rollout, "roll", lambda service, archive, bounds, *_: asked.append(bounds.agreement(same_classes=True))
    )
    rollout.main(**options)
    assert asked == [required]


class Registered:
    """What TorchServe has, in place of one."""

    def __init__(self, folder: Path, versions: Sequence[str], default: str) -> None:
        self.versions, self.default = list(versions), default
        (folder / "config.properties").write_text(
            "inference_address=http://127.0.0.1:9000\nmanagement_address=http://127.0.0.1:9001\n"
            f"metrics_address=http://127.0.0.1:9002\nmodel_store={folder}\nload_models=densenet.mar\n"
            "enable_model_api=true\n"
        )
        self.service = Service(
            1, 5.0, 9000, "", "", "densenet", str(folder), "", {"card": "of the last state"}, folder=str(folder)
        )


@pytest.fixture
def having(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A service with these versions, whose history says that the last of `served` is in service."""

    def having(versions: Sequence[str], default: str, served: Sequence[str]) -> Registered:
        made = Registered(tmp_path, versions, default)
        entries = [Entry(f"{name}-{'0' * 20}", name, "mine.pth", "fp32", 0.0) for name in served]
        if served:
            history.save(tmp_path, History(tuple(entries)))

        def unregister(_: Service, version: str) -> None:
            assert version != made.default  # which TorchServe refuses
            made.versions.remove(version)

        monkeypatch.setattr(management, "versions", lambda service: list(made.versions))
        monkeypatch.setattr(management, "unregister", unregister)
        monkeypatch.setattr(management, "set_default", lambda service, version: setattr(made, "default", version))
        monkeypatch.setattr(drain, "drained_version", lambda *_: nullcontext())
        monkeypatch.setattr(history, "file", lambda folder, entry: Path(entry.version))
        monkeypatch.setattr(rollout, "read_card", lambda path: {"weights": {"name": "mine.pth"}, "card": path.name})
        monkeypatch.setattr(rollout, "read_version", lambda path: path.stem)
        monkeypatch.setattr(rollout, "is_servable", lambda card: True)
        return made

    return having


@pytest.mark.parametrize(
    ("default", "served", "stays"),
    [
        ("1.0", ["1.0"], "1.0"),  # killed while the new version loads
        ("2.0", ["1.0"], "1.0"),  # killed after the switch, before the history was written
        ("2.0", ["1.0", "2.0"], "2.0"),  # killed while the old version drains
    ],
)
def test_an_interrupted_rollout_is_refused_by_the_next_and_cleaned_up(
    default: str, served: list[str], stays: str, having: Any, tmp_path: Path
) -> None:
    made = having(["1.0", "2.0"], default, served)
    (tmp_path / "control").mkdir()
    (tmp_path / "control" / f"hold-{'0' * 32}").mkdir()
    (tmp_path / "densenet-rollout.mar").touch()
    with pytest.raises(CliError, match=r"is registered beside .* scripts/rollout --port 9000 --abort"):
        rollout.roll(made.service, Path("3.0.mar"), Bounds(), 1)
    rollout.clean_up(made.service, 1)
    assert (made.versions, made.default) == ([stays], stays)
    assert json.loads((tmp_path / "service.json").read_text())["card"]["card"] == stays
    assert not (tmp_path / "densenet-rollout.mar").exists()
    assert list((tmp_path / "control").glob("hold-*")) == []


def test_to_abort_nothing_changes_nothing(having: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = having(["1.0"], "1.0", ["1.0"])
    rollout.clean_up(made.service, 1)
    assert (made.versions, made.default) == (["1.0"], "1.0")
    assert not (tmp_path / "service.json").exists()
    assert "version 1.0 (weights mine.pth, fp32, sha256 1.0-00000000) is in service" in capsys.readouterr().out


@pytest.mark.parametrize("served", [[], ["3.0"]])
def test_a_history_that_does_not_tell_what_is_served_is_refused(served: list[str], having: Any) -> None:
    made = having(["1.0"], "1.0", served)
    for command in (rollout.clean_up, lambda service, _: rollout._previous_archive(service)):
        with pytest.raises(CliError, match=r"does not tell what it serves; .* scripts/stop --port 9000"):
            command(made.service, 1)


def test_a_service_that_serves_another_network_than_its_history_says_is_refused(having: Any) -> None:
    made = having(["1.0"], "1.0", ["1.0"])
    with pytest.raises(CliError, match="does not tell what it serves"):
        rollout.roll(made.service, Path("2.0.mar"), Bounds(), 1)


def test_weights_are_packed_as_the_next_version_in_a_folder_of_their_own(
    having: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = having(["1.0"], "1.0", ["0.9", "1.0"])
    asked: list[tuple[Path, ArchiveOptions, Path, Path]] = []
    monkeypatch.setattr(rollout, "make_again", lambda *arguments: asked.append(arguments))
    options = ArchiveOptions("new.pth")
    with torchserve.lock(tmp_path) as lock:
        for version in (None, "7"):
            with rollout._packed(made.service, options, version, None, lock) as packed:
                present, named, archive, folder = asked[-1]
                assert (present, archive) == (Path("1.0"), packed)
                assert named == replace(options, version=version or "1.1")
                assert packed.name == "densenet.mar"
                assert packed.parent in folder.parents
            assert not packed.parent.exists()
        made.versions.append("2.0")
        with pytest.raises(CliError, match="--abort"), rollout._packed(made.service, options, None, None, lock):
            pytest.fail("exports")
    assert len(asked) == 2


def test_the_first_version_has_nothing_to_return_to(having: Any) -> None:
    made = having(["1.0"], "1.0", ["1.0"])
    with pytest.raises(CliError, match=r"history of the service on port 9000 has nothing before version 1\.0"):
        rollout._previous_archive(made.service)


def test_the_history_shows_what_serves_and_what_is_registered_beside(
    having: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    made = having(["1.0", "2.0", "3.0"], "2.0", ["1.0", "2.0"])
    rollout.show(made.service)
    shown = capsys.readouterr()
    assert "service on port 9000" in shown.out
    rows = [line.split() for line in shown.out.splitlines() if "mine.pth" in line]
    assert [(row[0], row[1], row[2], " ".join(row[6:])) for row in rows] == [
        ("1.0", "mine.pth", "fp32", ""),
        ("2.0", "mine.pth", "fp32", "in service"),
    ]
    assert "version 1.0, 3.0 is registered beside version 2.0" in shown.err


@pytest.mark.parametrize("same", [True, False])
def test_a_name_that_is_taken_is_refused_with_a_way_out(same: bool, having: Any) -> None:
    made = having(["1.0"], "1.0", ["1.0"])
    (serving,) = history.load(Path(made.service.folder)).entries
    entry = Entry(serving.digest if same else "f" * 20, "1.0", "other.pth", "fp32", 0.0)
    reason = (
        "already in service"
        if same
        else "two versions of one name.* --version, or restart: .*--port 9000 --archive kept.mar"
    )
    with pytest.raises(CliError, match=reason):
        rollout._check_name(made.service, serving, entry, Path("kept.mar"))


def test_a_new_version_has_the_old_ones_workers_and_batch_size_unless_another_is_named(tmp_path: Path) -> None:
    folder, old = make_export(tmp_path / "build"), Model("1.0", 3, 3, 4, (), 0, 100)
    for name, own, option, size in (("a", None, None, 4), ("b", 1, None, 1), ("c", 8, None, 8), ("d", 8, 2, 2)):
        build(folder, path := tmp_path / f"{name}.mar", version="2.0", workers=1, batch_size=own)
        assert rollout._settings(path, old, option) == {"minWorkers": 3, "maxWorkers": 3, "batchSize": size}
