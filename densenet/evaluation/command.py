"""scripts/evaluate: asks the running service about labelled images, and reports how good its answers are."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from densenet_client import DEFAULT_URL
from densenet_client.terminal import CaOption, KeyFileOption, TokenOption
from densenet_client.terminal import connect as connect_client

from densenet.evaluation import agreement, dataset, metrics, predict, report
from densenet.evaluation.dataset import Classes, Layout
from densenet.evaluation.predict import TOP_K, Interrupted, Source
from densenet.evaluation.report import Asked, Second
from densenet.paths import IMAGENET_CLASSES
from export import console
from export.console import Problem

EAGER = "eager"
_SHOWN = 10  # failed files on the terminal; the report has all

Set = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of labelled images, or a CSV file of path,label.")]
Labels = Annotated[
    Path | None, typer.Option(metavar="FILE.csv", help="Labels of the images in DIR: lines of path,label.")
]
Where = Annotated[Layout | None, typer.Option(help="Where the labels are. [default: found out]")]
Index = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Class ids and names by position. [default: ImageNet's 1000]")
]
Against = Annotated[
    str | None, typer.Option(metavar="URL|eager", help="Compare with a second service, or the eager network.")
]
Weights = Annotated[
    str | None, typer.Option(metavar="NAME|FILE", help="The eager network's: imagenet, untrained, or a checkpoint.")
]
Output = Annotated[
    Path | None, typer.Option(metavar="DIR", help="For answers and report. [default: ./evaluation-NAME_OF_THE_SET]")
]
Restart = Annotated[bool, typer.Option("--restart", help="Forget earlier answers and ask everything again.")]
Url = Annotated[str, typer.Option(help="Where the service answers.")]
AgainstToken = Annotated[
    str | None, typer.Option(envvar="DENSENET_AGAINST_TOKEN", help="For a second service that asks for one.")
]
Timeout = Annotated[float, typer.Option(help="Seconds, for each of connecting and waiting for an answer.")]
Parallel = Annotated[int, typer.Option(min=1, max=64, help="Requests in flight at once.")]


def main(
    source: Set,
    labels: Labels = None,
    layout: Where = None,
    class_index: Index = None,
    against: Against = None,
    weights: Weights = None,
    output: Output = None,
    restart: Restart = False,
    url: Url = DEFAULT_URL,
    token: TokenOption = None,
    key_file: KeyFileOption = None,
    ca: CaOption = None,
    against_token: AgainstToken = None,
    timeout: Timeout = 60,
    parallel: Parallel = 4,
) -> None:
    """Tells how good the running service is on labelled images: top-1, top-5, calibration, confusions.

    Run again after an interruption, it goes on where it was. Images that are refused count as wrong and are listed.
    """
    _check_options(against, weights)
    folder = _output_folder(source, output)
    try:
        with ExitStack() as clients:

            def connect(address: str, secret: str | None, keys: Path | None = None) -> Source:
                try:
                    client = connect_client(
                        address, token=secret, key_file=keys, ca=ca, timeout=timeout, parallel=parallel
                    )
                except ValueError as error:
                    raise Problem(str(error)) from error
                return predict.service(clients.enter_context(client))

            service = connect(url, token, key_file)
            classes = _classes(service, class_index)
            images = dataset.read(source, classes, labels=labels, layout=layout)
            # Made before the long run, so that what is wrong with it is told at once.
            other = _eager(weights, class_index) if weights else connect(against, against_token) if against else None
            _check_names(against, other, classes)
            ours = predict.collect(service, images, folder / "answers.jsonl", restart=restart, doing="service")
            second = None
            if other and against:
                theirs = predict.collect(other, images, folder / "against.jsonl", restart=restart, doing=against)
                second = Second(against, other.model, agreement.compare(images.files, ours.outcomes, theirs.outcomes))
        outcomes = [ours.outcomes[file] for file in images.files]
        asked = Asked(images, url, service.model, classes.names, outcomes, ours.seconds, ours.lines)
        _report(folder, asked, second)
    except KeyboardInterrupt as error:
        raise Interrupted("interrupted") from error


def _check_names(against: str | None, other: Source | None, classes: Classes) -> None:
    if other and not set(other.names) <= set(classes.names):
        raise Problem(f"{against} has other classes than the service; their answers cannot be compared")


def _check_options(against: str | None, weights: str | None) -> None:
    if (against == EAGER) != (weights is not None):
        raise Problem("--against eager and --weights imagenet|untrained|FILE go together")


def _output_folder(source: Path, output: Path | None) -> Path:
    """Where answers and report go: never into the set, or a later run would take them for a part of it."""
    if not source.exists():
        raise Problem(f"there is no {source}")
    source = source.resolve()
    inside = source if source.is_dir() else None
    if output is None:
        base = inside.parent if inside and Path.cwd().is_relative_to(inside) else Path()
        return base / f"evaluation-{source.stem if source.is_file() else source.name}"
    if inside and output.resolve().is_relative_to(inside):
        raise Problem(f"--output {output} lies in the set itself; name a folder outside of {source}")
    return output


def _classes(service: Source, class_index: Path | None) -> Classes:
    """The service's classes by its own word; by the file's where one is given, which must have them all."""
    if class_index is None:
        return Classes(service.names, IMAGENET_CLASSES)
    names = dataset.read_class_index(class_index)
    if unknown := next((class_id for class_id in service.names if class_id not in names), None):
        raise Problem(f"{class_index} lacks classes that the service has, {unknown!r} for one")
    return Classes(names, class_index)


def _eager(weights: str, class_index: Path | None) -> Source:
    from densenet.evaluation import eager  # it brings torch, which asking a service does without

    return eager.source(weights, class_index)


def _report(folder: Path, asked: Asked, second: Second | None) -> None:
    from densenet.evaluation import page  # it brings matplotlib

    seen = {class_id: class_id for outcome in asked.outcomes for class_id in outcome.classes}
    # A service lists 1000 classes at most; one that is not among them has its id for a name.
    asked = replace(asked, names=seen | dict(asked.names))
    scores = metrics.score(asked.images.labels, asked.outcomes, list(asked.names), TOP_K)
    document = report.document(asked, scores, second)
    (folder / "report.json").write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    html = page.render(document, scores, asked.names)
    # File names that are no UTF-8 become character references.
    (folder / "report.html").write_text(html, encoding="utf-8", errors="xmlcharrefreplace")
    _show(document, folder)


def _show(document: Mapping[str, Any], folder: Path) -> None:
    for failed in document["failed"][:_SHOWN]:
        console.err.print(f"not answered: {failed['file']}: {failed['code']}: {failed['message']}", markup=False)
    if len(document["failed"]) > _SHOWN:
        console.err.print(f"not answered: {len(document['failed']) - _SHOWN} more, all of them in the report")
    console.out.print(*report.lines(document), sep="\n", markup=False)
    console.out.print(f"report: {folder / 'report.html'}, and all numbers in {folder / 'report.json'}", markup=False)
    if document["model"]["weights"] == "untrained":
        console.err.rule("WARNING")
        console.err.print("The service runs on UNTRAINED weights: every number above is meaningless.")
        console.err.rule()
