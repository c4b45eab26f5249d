"""The command against a stand-in for the client: what it says, where it writes, and how it goes on after an end."""

import json
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from densenet_client import (
    Answer,
    Model,
    NotTheService,
    Prediction,
    RequestRejected,
    ServiceError,
    ServiceUnavailable,
    Unauthorized,
    terminal,
)

from densenet.evaluation import command
from densenet.interruption import Interrupted
from densenet.service import lookup
from densenet.service.torchserve import Service as Found
from export.console import CliError

NAMES = {"cat": "cat", "dog": "dog", "bird": "bird"}
ADDRESS = "http://127.0.0.1:9400"  # where this checkout's only service is
URL = f"{ADDRESS}/predictions/densenet"


class Service:
    """Takes every image for a cat, and counts what it was asked about; at image `fails_at`, `failure` comes instead."""

    def __init__(self, weights: str = "mine.pth") -> None:
        self.model = Model("densenet", "1.0", weights, "fp32")
        self.asked: list[str] = []
        self.urls: list[str] = []
        self.fails_at = -1
        self.failure: BaseException | Answer = RequestRejected("broken_image", "cut short", 422)
        self.names = NAMES

    def __call__(self, url: str, **_: object) -> "Service":
        self.urls.append(url)
        return self

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def answer(self) -> Answer:
        values = (0.7, 0.2, 0.1)
        rows = [Prediction(*row, value, math.log(value)) for row, value in zip(self.names.items(), values, strict=True)]
        return Answer(tuple(rows), True, self.model)

    def classify(self, image: object, *, top_k: int) -> Answer:
        return self.answer()

    def model_card(self) -> dict[str, Any]:
        weights = {"name": "mine.pth", "sha256": "d1", "source": "mine.pth"}
        return {"weights": weights, "classes": {"count": len(self.names)}}

    def classify_many(self, images: Iterable[Path], *, top_k: int, logits: bool) -> Iterator[object]:
        assert top_k == (1000 if logits else 5)
        for image in images:
            failing = len(self.asked) == self.fails_at
            self.asked.append(image.name)
            if failing and isinstance(
                self.failure, ServiceUnavailable | Unauthorized | NotTheService | KeyboardInterrupt
            ):
                raise self.failure
            yield self.failure if failing else self.answer()


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Service:
    service = Service()
    monkeypatch.setattr(terminal, "Client", service)
    found = Found(1, 0, 9400, ADDRESS, "", "densenet", "temp", "", {}, folder="/nowhere")
    monkeypatch.setattr(lookup.torchserve, "running", lambda: [found])
    monkeypatch.setattr(lookup, "started_without_us", list)
    return service


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three cats and two dogs; the command runs from beside it."""
    root = tmp_path / "animals"
    for name in ("cat/1.jpg", "cat/2.jpg", "cat/3.jpg", "dog/4.jpg", "dog/5.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"image")
    monkeypatch.chdir(tmp_path)
    return root


def result(folder: Path) -> Any:
    return json.loads((folder / "report.json").read_text())


def test_an_evaluation_from_start_to_end(service: Service, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.main(images)
    assert service.asked == ["1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg"]
    found = result(images.parent / "evaluation-animals")
    assert (found["top1"]["share"], found["top5"]["share"], found["url"]) == (0.6, 1.0, URL)
    assert found["confusions"][0]["images"] == 2
    output, errors = capsys.readouterr()
    assert "60.00%" in output
    assert "evaluation-animals/report.html" in output
    # What was asked, and what it took for something else.
    assert service.urls == [URL]
    lines = [line.split(maxsplit=1) for line in output.splitlines()]
    assert lines[:2] == [["service", URL], ["model", "densenet 1.0, weights mine.pth, fp32"]]
    assert errors.splitlines() == [
        f"{URL}: densenet 1.0, weights mine.pth, fp32",
        "wrong: dog/4.jpg: dog, answered cat (70.00%)",
        "wrong: dog/5.jpg: dog, answered cat (70.00%)",
    ]


def test_a_service_is_never_guessed(service: Service, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = lookup.torchserve.running()
    monkeypatch.setattr(lookup.torchserve, "running", lambda: [found, replace(found, port=9500)])
    with pytest.raises(CliError, match="on ports 9400, 9500; choose one with --port"):
        command.main(images)
    command.main(images, port=9400)
    command.main(images, url="http://other/predictions/densenet", restart=True)
    assert service.urls == [URL, "http://other/predictions/densenet"]
    monkeypatch.setattr(lookup.torchserve, "running", list)
    with pytest.raises(CliError, match="no service of this checkout is up"):
        command.main(images)
    assert len(service.urls) == 2


def test_wrong_answers_are_listed_the_most_confident_first_and_not_without_end(
    service: Service, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(12):
        (images / "bird" / f"{number:02}.jpg").parent.mkdir(exist_ok=True)
        (images / "bird" / f"{number:02}.jpg").write_bytes(b"image")
    service.fails_at = 7
    service.failure = Answer((Prediction("dog", "dog", 0.99),), True, service.model)
    command.main(images)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("wrong: ")]
    assert (lines[0], len(lines)) == ("wrong: bird/07.jpg: bird, answered dog (99.00%)", 11)
    assert lines[-1] == "wrong: 4 more; the report lists all"
    wrong = result(Path("evaluation-animals"))["wrong"]
    assert (len(wrong), wrong[0]["file"], wrong[0]["confidence"]) == (14, "bird/07.jpg", 0.99)
    assert "Answered wrongly" in Path("evaluation-animals/report.html").read_text()


@pytest.mark.parametrize(
    "failure",
    [KeyboardInterrupt(), ServiceUnavailable("nothing answers"), Unauthorized("expired"), NotTheService("a page")],
)
def test_a_run_that_ended_early_goes_on(
    service: Service, images: Path, failure: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    service.fails_at, service.failure = 2, failure
    with pytest.raises(CliError, match="; 2 of 5 images are done; run the same command to continue") as problem:
        command.main(images)
    assert problem.value.status == (130 if isinstance(failure, KeyboardInterrupt) else 1)
    service.fails_at, service.asked = -1, []
    command.main(images)
    assert service.asked == ["3.jpg", "4.jpg", "5.jpg"]
    assert "resuming: 2 of 5 images are done" in capsys.readouterr().err
    assert result(Path("evaluation-animals"))["top1"]["right"] == 3


def test_a_restart_that_ended_early_goes_on_without_the_option(service: Service, images: Path) -> None:
    service.fails_at, service.failure = 2, KeyboardInterrupt()
    with pytest.raises(Interrupted, match="2 of 5 images are done; run the same command without --restart to continue"):
        command.main(images, restart=True)


def test_ctrl_c_before_the_first_question_is_one_line_too(
    service: Service, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("densenet.evaluation.dataset.read", interrupted)
    with pytest.raises(Interrupted):
        command.main(images)


def test_refused_images_are_wrong_and_named_and_lost_ones_are_asked_again(
    service: Service, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.fails_at = 0
    command.main(images)
    assert result(Path("evaluation-animals"))["top1"]["right"] == 2
    assert "not answered: cat/1.jpg: broken_image: cut short" in capsys.readouterr().err
    service.asked = []
    command.main(images)
    assert service.asked == []
    service.failure = ServiceError("the connection was lost")
    command.main(images, restart=True)
    assert result(Path("evaluation-animals"))["failed"][0]["code"] == "no_answer"
    service.asked, service.fails_at = [], -1
    command.main(images)
    assert service.asked == ["1.jpg"]
    assert result(Path("evaluation-animals"))["failed"] == []


def test_answers_of_another_model_or_set_are_not_mixed(service: Service, images: Path) -> None:
    command.main(images)
    service.model = Model("densenet", "1.1", "better.pth", "fp32")
    with pytest.raises(CliError, match=r"another model \(name densenet, version 1\.0, weights mine\.pth.*--restart"):
        command.main(images)
    command.main(images, restart=True)
    (images / "cat" / "6.jpg").write_bytes(b"image")
    with pytest.raises(CliError, match=r"other images or labels.*--restart"):
        command.main(images)
    command.main(images, output=Path("other"))
    assert result(Path("other"))["set"]["images"] == 6


def test_a_model_that_changes_on_the_way_is_noticed(service: Service, images: Path) -> None:
    service.fails_at, service.failure = 3, Service("other.pth").answer()
    with pytest.raises(CliError, match=r"the service.s model changed during the run"):
        command.main(images)


def test_untrained_weights_are_said_loudly(service: Service, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    service.model = Model("densenet", "1.0", "untrained", "fp32")
    command.main(images)
    assert "UNTRAINED weights: every number above is meaningless" in capsys.readouterr().err


def test_a_second_service_is_compared_and_its_answers_are_kept(
    service: Service, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command.main(images, against="http://127.0.0.1:9000/predictions/densenet")
    found = result(Path("evaluation-animals"))["agreement"]
    assert (found["compared"], found["same_top1"], found["largest_difference"]) == (5, 1, 0)
    assert "same top-5 in order" in capsys.readouterr().out
    command.main(images, against="http://127.0.0.1:9000/predictions/densenet")
    assert len(service.asked) == 10


def test_what_is_asked_for_must_make_sense(service: Service, images: Path, tmp_path: Path) -> None:
    index = tmp_path / "index.json"
    index.write_text('["cat", "dog"]')
    options: list[tuple[dict[str, Any], str]] = [
        ({"against": "eager"}, "--against eager and --weights"),
        ({"weights": "imagenet"}, "--against eager and --weights"),
        ({"output": images / "cat" / "report"}, "is inside the set"),
        ({"class_index": index}, "lacks classes of the service, such as 'bird'"),
        ({"class_index": images / "cat" / "1.jpg"}, "is not JSON"),
    ]
    for values, message in options:
        with pytest.raises(CliError, match=message):
            command.main(images, **values)
    with pytest.raises(CliError, match="no such file or folder"):
        command.main(images / "nowhere")
    assert service.asked == []


def test_an_address_that_is_none_is_told(images: Path) -> None:
    with pytest.raises(CliError, match="url must be an address such as"):
        command.main(images, url="127.0.0.1:8080")


@pytest.mark.parametrize("inside", ["", "cat"])
def test_run_from_within_the_set_the_report_lands_beside_it(
    service: Service, images: Path, monkeypatch: pytest.MonkeyPatch, inside: str
) -> None:
    monkeypatch.chdir(images / inside)
    command.main(images)
    assert (images.parent / "evaluation-animals" / "report.html").is_file()
    assert sorted(path.name for path in images.iterdir()) == ["cat", "dog"]


def test_classes_that_the_service_did_not_list_have_their_id_for_a_name(service: Service, images: Path) -> None:
    service.fails_at = 0
    service.failure = Answer((Prediction("yeti", "yeti", 1.0),), True, service.model)
    command.main(images)
    assert [one["predicted_label"] for one in result(Path("evaluation-animals"))["confusions"]] == ["cat", "yeti"]


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Seventy cats and thirty dogs, which are taken for cats with 0.7."""
    root = tmp_path / "many"
    for i in range(100):
        path = root / ("cat" if i < 70 else "dog") / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"image")
    monkeypatch.chdir(tmp_path)
    return root


def test_a_calibration_is_written_and_goes_on_in_the_same_file(
    service: Service, many: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command.main(many, calibrate=Path("found.json"), reject_at="5%", min_precision="0.6")
    written = json.loads(Path("found.json").read_text())
    assert written["weights"] == {"name": "mine.pth", "sha256": "d1"}
    found = written["precisions"]["fp32"]
    # 0.7 of what is given 0.7 is right, so there is nothing to mend.
    assert found["temperature"] == pytest.approx(1, abs=0.35)
    assert (found["images"], found["top1"]["share"], found["unknown"]["bound"]) == (100, 0.7, 0.95)
    assert found["min_probability"] > 0.5
    assert "wrote found.json; scripts/archive --calibration found.json packs it" in capsys.readouterr().out
    service.model = replace(service.model, precision="int8")
    command.main(many, calibrate=Path("found.json"), output=Path("second"))
    again = json.loads(Path("found.json").read_text())["precisions"]
    assert (again["fp32"], again["int8"]["unknown"]["bound"]) == (found, 0.99)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reject_at": "120%"}, "--reject-at must be a share between 0% and 100%, such as 5% or 0.05, not 120%"),
        ({"reject_at": "none"}, "--reject-at must be a share"),
        ({"min_precision": "0"}, "--min-precision must be a share"),
        ({"min_precision": "99%"}, "no threshold makes 99.0% of the recognized images right; give a lower"),
    ],
)
def test_shares_that_are_none_and_precisions_out_of_reach_are_refused(
    service: Service, many: Path, options: dict[str, str], message: str
) -> None:
    with pytest.raises(CliError, match=re.escape(message)):
        command.main(many, calibrate=Path("found.json"), **options)  # type: ignore[arg-type]
    assert not Path("found.json").exists()


def test_options_of_a_calibration_need_one(service: Service, many: Path) -> None:
    with pytest.raises(CliError, match="--reject-at and --min-precision need --calibrate FILE"):
        command.main(many, reject_at="5%")


def test_a_calibration_needs_images_and_its_own_file_before_anything_is_sent(
    service: Service, images: Path, many: Path
) -> None:
    with pytest.raises(CliError, match="needs at least 100 labelled images, and better 1000; these are 5"):
        command.main(images, calibrate=Path("found.json"))
    command.main(many, calibrate=Path("found.json"))
    found = Path("found.json").read_text()
    Path("found.json").write_text(found.replace('"d1"', '"d2"'))
    service.asked.clear()
    with pytest.raises(CliError, match=r"found\.json is of other weights, mine\.pth \(d2\), than mine\.pth \(d1\)"):
        command.main(many, calibrate=Path("found.json"), restart=True)
    Path("found.json").write_text("{}")
    with pytest.raises(CliError, match=r"found\.json is not a file of scripts/evaluate --calibrate"):
        command.main(many, calibrate=Path("found.json"), restart=True)
    assert service.asked == []
