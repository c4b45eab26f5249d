"""scripts/evaluate: send labelled images to the running service and report the quality of its answers."""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from densenet_client.terminal import CaOption, KeyFileOption, Parallel, Timeout, TokenOption
from densenet_client.terminal import connect as connect_client

from densenet.evaluation import agreement, answers, calibration, dataset, metrics, predict, report
from densenet.evaluation.calibration import Wanted
from densenet.evaluation.dataset import Classes, LabelledSet, Layout
from densenet.evaluation.predict import TOP_K, Source
from densenet.evaluation.report import Evaluation, Reference
from densenet.interruption import Interrupted
from densenet.paths import IMAGENET_CLASSES
from densenet.service import lookup
from densenet.service.lookup import ClientUrl, PortOption
from export import console
from export import evaluation as evaluation_file
from export.console import CliError

EAGER = "eager"
_REJECT_AT = "1%"
_SHOWN = 10  # files on the terminal that were not answered, or answered wrongly; the report lists all

Set = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of labelled images, or a CSV file of path,label.")]
Labels = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.csv", help="Labels of the images in DIR, one path,label per line.", callback=console.existing_file
    ),
]
Where = Annotated[Layout | None, typer.Option(help="Source of the labels. [default: detected]")]
Index = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Class ids and names by position. [default: ImageNet's 1000]",
        callback=console.existing_file,
    ),
]
Against = Annotated[
    str | None,
    typer.Option(metavar="URL|eager", help="Reference to compare with: a second service or the eager network."),
]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        help="Weights of the eager network: imagenet, untrained, or a checkpoint.",
        callback=console.named_weights,
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder for answers and report. [default: ./evaluation-NAME_OF_THE_SET]"),
]
Restart = Annotated[bool, typer.Option("--restart", help="Discard earlier answers and start over.")]
Calibrate = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Fit probabilities and thresholds to the labels; write them to FILE, for scripts/archive --calibration.",
    ),
]
RejectAt = Annotated[
    str, typer.Option(metavar="SHARE", help="Share of the labelled images that --calibrate lets be not recognized.")
]
MinPrecision = Annotated[
    str | None,
    typer.Option(
        metavar="SHARE", help="Share of the recognized images that must be right, for thresholds of the probability."
    ),
]
AgainstToken = Annotated[
    str | None, typer.Option(envvar="DENSENET_AGAINST_TOKEN", help="Token for the second service.")
]


def main(
    source: Set,
    labels: Labels = None,
    layout: Where = None,
    class_index: Index = None,
    against: Against = None,
    weights: Weights = None,
    output: Output = None,
    calibrate: Calibrate = None,
    reject_at: RejectAt = _REJECT_AT,
    min_precision: MinPrecision = None,
    restart: Restart = False,
    url: ClientUrl = None,
    port: PortOption = None,
    token: TokenOption = None,
    key_file: KeyFileOption = None,
    ca: CaOption = None,
    against_token: AgainstToken = None,
    timeout: Timeout = 60,
    parallel: Parallel = 4,
) -> None:
    """Measure the quality of the running service on labelled images: top-1, top-5, calibration, confusions.

    An interrupted run continues when started again. Rejected images count as wrong and are listed.
    """
    _check_options(against, weights)
    wanted = _wanted(calibrate, reject_at, min_precision)
    folder = _output_folder(source, output)
    try:
        with ExitStack() as clients:

            def connect(
                address: str, secret: str | None, keys: Path | None, authority: Path | None, *, logits: bool = False
            ) -> Source:
                try:
                    client = connect_client(
                        address, token=secret, key_file=keys, ca=authority, timeout=timeout, parallel=parallel
                    )
                except ValueError as error:
                    raise CliError(str(error)) from error
                return predict.service(clients.enter_context(client), address, logits=logits)

            url, key_file, own_ca = lookup.address_for_client(port, url, token, key_file, ca)
            service = connect(url, token, key_file, own_ca, logits=calibrate is not None)
            classes = _classes(service, class_index)
            images = dataset.read(source, classes, labels=labels, layout=layout)
            # Created before the long run, so that its errors show at once.
            other = _eager(weights, class_index) if weights else None
            if against and not other:
                other = connect(against, against_token, None, ca)
            _check_names(against, other, classes)
            if calibrate:
                _check_calibratable(service, images, calibrate)
            name = "answers.jsonl" if calibrate is None else "logits.jsonl"
            ours = predict.collect(service, images, folder / name, restart=restart, doing="service")
            reference = None
            if other and against:
                theirs = predict.collect(other, images, folder / "against.jsonl", restart=restart, doing=against)
                reference = Reference(
                    against, other.model, agreement.compare(images.files, ours.outcomes, theirs.outcomes)
                )
        outcomes = [ours.outcomes[file] for file in images.files]
        evaluation = Evaluation(images, url, service.model, classes.names, outcomes, ours.seconds, ours.lines)
        _report(folder, evaluation, reference)
        if calibrate and wanted:
            _calibrate(service, evaluation, wanted, calibrate)
    except KeyboardInterrupt as error:
        raise Interrupted("interrupted") from error


def _wanted(calibrate: Path | None, reject_at: str, min_precision: str | None) -> Wanted | None:
    """Return what --calibrate's thresholds should achieve.

    Raises: CliError if an option is not a share, or if --calibrate is missing.
    """
    wanted = Wanted(
        _share("--reject-at", reject_at), _share("--min-precision", min_precision) if min_precision else None
    )
    if calibrate is None and wanted != Wanted(_share("--reject-at", _REJECT_AT)):
        raise CliError("--reject-at and --min-precision need --calibrate FILE")
    return wanted if calibrate else None


def _share(option: str, text: str) -> float:
    number = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)(%?)", text)
    share = float(number[1]) / (100 if number[2] else 1) if number else 0
    if not 0 < share < 1:
        raise CliError(f"{option} must be a share between 0% and 100%, such as 5% or 0.05, not {text}")
    return share


def _check_calibratable(service: Source, images: LabelledSet, path: Path) -> None:
    """Check before the long run that it can end in an evaluation file.

    Raises: CliError.
    """
    if service.card["classes"]["count"] > len(service.names):
        raise CliError(f"the service lists {len(service.names)} of its classes; --calibrate needs all of them")
    if len(images.files) < calibration.MIN_IMAGES:
        raise CliError(
            f"--calibrate needs at least {calibration.MIN_IMAGES} labelled images, and better 1000; these are "
            f"{len(images.files)}"
        )
    if path.exists():
        evaluation_file.check_weights(path, evaluation_file.read(path), service.card["weights"])


def _calibrate(service: Source, evaluation: Evaluation, wanted: Wanted, path: Path) -> None:
    ids = sorted(service.names)
    scores = metrics.score(evaluation.images.labels, evaluation.outcomes, ids, TOP_K)
    if scores.answered.sum() < calibration.MIN_IMAGES:
        raise CliError(f"only {scores.answered.sum()} images were answered; --calibrate needs {calibration.MIN_IMAGES}")
    digest = str(evaluation.images.identity()["sha256"])
    try:
        entry = calibration.entry(scores, answers.logits(evaluation.outcomes), wanted, digest)
    except ValueError as error:
        raise CliError(f"{error}; give a lower --min-precision") from error
    evaluation_file.write(path, service.card["weights"], service.model["precision"], entry)
    before, after = (entry["calibration_error"][when] for when in ("before", "after"))
    console.out.print(f"temperature        {entry['temperature']:.3f}", markup=False)
    console.out.print(f"calibration error  {_interval(before)} before, {_interval(after)} after")
    console.out.print(f"wrote {path}; scripts/archive --calibration {path} packs it", markup=False)


def _interval(error: Mapping[str, float]) -> str:
    low, high = report.percent(error["low"]), report.percent(error["high"])
    return f"{report.percent(error['error'])} ({low} to {high})"


def _check_names(against: str | None, other: Source | None, classes: Classes) -> None:
    if other and not set(other.names) <= set(classes.names):
        raise CliError(f"{against} has classes that the service lacks; compare services with the same classes")


def _check_options(against: str | None, weights: str | None) -> None:
    if (against == EAGER) != (weights is not None):
        raise CliError("--against eager and --weights imagenet|untrained|FILE require each other")


def _output_folder(source: Path, output: Path | None) -> Path:
    """Return the output folder. It must be outside the set, or a later run would read it as part of the set.

    Raises: CliError if source does not exist or output is inside it.
    """
    if not source.exists():
        raise CliError(f"no such file or folder: {source}")
    source = source.resolve()
    inside = source if source.is_dir() else None
    if output is None:
        base = inside.parent if inside and Path.cwd().is_relative_to(inside) else Path()
        return base / f"evaluation-{source.stem if source.is_file() else source.name}"
    if inside and output.resolve().is_relative_to(inside):
        raise CliError(f"--output {output} is inside the set; use a folder outside {source}")
    return output


def _classes(service: Source, class_index: Path | None) -> Classes:
    """Return the service's classes, or those of the class index file, which must include all of the service's.

    Raises: CliError if the file lacks a class.
    """
    if class_index is None:
        return Classes(service.names, IMAGENET_CLASSES)
    names = dataset.read_class_index(class_index)
    if unknown := next((class_id for class_id in service.names if class_id not in names), None):
        raise CliError(f"{class_index} lacks classes of the service, such as {unknown!r}; use the service's own file")
    return Classes(names, class_index)


def _eager(weights: str, class_index: Path | None) -> Source:
    from densenet.evaluation import eager  # imports torch, which is needed only here

    return eager.source(weights, class_index)


def _report(folder: Path, evaluation: Evaluation, reference: Reference | None) -> None:
    from densenet.evaluation import page  # imports matplotlib, which is slow

    ids = {class_id: class_id for outcome in evaluation.outcomes for class_id in outcome.classes}
    # A service lists at most 1000 classes; the name of any other class is its id.
    evaluation = replace(evaluation, names=ids | dict(evaluation.names))
    scores = metrics.score(evaluation.images.labels, evaluation.outcomes, list(evaluation.names), TOP_K)
    document = report.document(evaluation, scores, reference)
    (folder / "report.json").write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    html = page.render(document, scores, evaluation.names)
    # Characters of file names that are not valid UTF-8 become character references.
    (folder / "report.html").write_text(html, encoding="utf-8", errors="xmlcharrefreplace")
    _show(document, folder)


def _show_files(what: str, lines: Sequence[str]) -> None:
    for line in lines[:_SHOWN]:
        console.err.print(f"{what}: {line}", markup=False)
    if len(lines) > _SHOWN:
        console.err.print(f"{what}: {len(lines) - _SHOWN} more; the report lists all")


def _show(document: Mapping[str, Any], folder: Path) -> None:
    _show_files("not answered", [f"{row['file']}: {row['code']}: {row['message']}" for row in document["failed"]])
    wrong = [
        f"{row['file']}: {row['label']}, answered {row['predicted_label']} ({report.percent(row['confidence'])})"
        for row in document["wrong"]
    ]
    _show_files("wrong", wrong)
    console.out.print(*report.lines(document), sep="\n", markup=False)
    console.out.print(f"report: {folder / 'report.html'}, all numbers in {folder / 'report.json'}", markup=False)
    if document["model"]["weights"] == "untrained":
        console.err.rule("WARNING")
        console.err.print("The service runs on UNTRAINED weights: every number above is meaningless.")
        console.err.rule()
