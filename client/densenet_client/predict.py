"""densenet-predict: classify files, folders or standard input with the running service."""

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from densenet_client.answers import Answer, Model
from densenet_client.client import Result
from densenet_client.errors import NotTheService, RequestRejected, ServiceError, ServiceUnavailable, Unauthorized
from densenet_client.exchange import DEFAULT_URL
from densenet_client.terminal import (
    EXTENSIONS,
    TOKEN,
    CaOption,
    KeyFileOption,
    Parallel,
    Timeout,
    TokenOption,
    connect,
    describe,
)

STDIN = "-"
# Without a terminal, tables are as wide as their content.
_out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 10_000)
_err = Console(stderr=True, highlight=False, soft_wrap=True)
Row = tuple[str, Result]

# The options, which scripts/predict shares.
Files = Annotated[list[str], typer.Argument(help="Files, folders to search for images, or - for standard input.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object per line, as results arrive.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print one line per image and class.")]
TopK = Annotated[
    int | None, typer.Option(min=1, max=1000, help="Classes to list for each image. [default: the service's]")
]
MinProbability = Annotated[
    float | None, typer.Option(min=0, max=1, help="Minimum probability for an image to count as recognized.")
]


def main(
    files: Files,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
    top_k: TopK = None,
    min_probability: MinProbability = None,
    url: Annotated[str, typer.Option(help="URL of the service.")] = DEFAULT_URL,
    parallel: Parallel = 4,
    token: TokenOption = None,
    key_file: KeyFileOption = None,
    ca: CaOption = None,
    timeout: Timeout = 60,
) -> None:
    """Classify images with the running service. Exits 1 if any of them was rejected."""
    if as_json and as_csv:
        _fail("--json and --csv exclude each other; use one of them")
    names = list(_expand(files))
    if not names:
        _fail("no images found; folders are searched for files with an image extension, such as .jpg")
    show = _print_json if as_json else _print_csv if as_csv else _print_table
    images = (sys.stdin.buffer.read() if name == STDIN else name for name in names)
    try:
        with (
            connect(url, token=token, key_file=key_file, ca=ca, timeout=timeout, parallel=parallel) as client,
            closing(client.classify_many(images, top_k=top_k, min_probability=min_probability)) as results,
        ):
            failed = show(_tracked(_introduced(zip(names, results, strict=True), url), len(names)))
    except (ServiceUnavailable, Unauthorized, NotTheService) as error:
        hint = f" (--token, --key-file, or {TOKEN} in the environment)" if isinstance(error, Unauthorized) else ""
        _fail(f"{error}{hint}")
    except ValueError as error:  # an option out of its range
        _fail(str(error))
    if failed:
        _fail(f"{failed} of {len(names)} images could not be classified")


def _introduced(rows: Iterable[Row], url: str) -> Iterator[Row]:
    """Say which service, model and weights answer: at the first answer, and again if another model answers."""
    known: set[Model] = set()
    for name, result in rows:
        if isinstance(result, Answer) and result.model not in known:
            known.add(result.model)
            _err.print(describe(url, result.model), markup=False)
        yield name, result


def _tracked(rows: Iterable[Row], count: int) -> Iterable[Row]:
    """Add a progress bar if stderr is a terminal."""
    return track(rows, "classifying", count, console=_err, transient=True, disable=not sys.stderr.isatty())


def _expand(files: Iterable[str]) -> Iterator[str]:
    for name in files:
        path = Path(name)
        if name != STDIN and path.is_dir():
            images = (p for p in path.rglob("*") if p.suffix.lower() in EXTENSIONS and p.is_file())
            yield from map(str, sorted(images))
        else:
            yield name


def _print_table(rows: Iterable[Row]) -> int:
    table = Table("file", "class", "id", "probability", "", box=None, pad_edge=False)
    table.columns[3].justify = "right"
    failed, untrained = 0, False
    for name, result in rows:
        if isinstance(result, Answer):
            untrained |= result.model.weights == "untrained"
            for i, row in enumerate(result):
                note = "not recognized" if i == 0 and not result.recognized else ""
                first = escape(name) if i == 0 else ""
                table.add_row(first, row.label, row.class_id, f"{row.probability:.2%}", note)
        else:
            failed += 1
            table.add_row(escape(name), f"[red]{escape(_reason(result))}[/red]")
    _out.print(table)
    if untrained:
        _err.print("WARNING: the service runs on untrained weights; these answers are meaningless")
    return failed


def _print_json(rows: Iterable[Row]) -> int:
    failed = 0
    for name, result in rows:
        line: dict[str, object] = {"file": name}
        if isinstance(result, Answer):
            line["predictions"] = [asdict(row) for row in result]
            line |= {"recognized": result.recognized, "weights": result.model.weights}
        else:
            failed += 1
            line["error"] = {"code": _code(result), "message": _reason(result)}
        print(json.dumps(line), flush=True)
    return failed


def _print_csv(rows: Iterable[Row]) -> int:
    failed = 0
    writer = csv.writer(sys.stdout)
    writer.writerow(["file", "rank", "class_id", "label", "probability", "recognized", "error"])
    for name, result in rows:
        if isinstance(result, Answer):
            for rank, row in enumerate(result, start=1):
                writer.writerow([name, rank, row.class_id, row.label, row.probability, result.recognized, ""])
        else:
            failed += 1
            writer.writerow([name, "", "", "", "", "", _reason(result)])
    return failed


def _code(error: RequestRejected | ServiceError | OSError) -> str:
    if isinstance(error, RequestRejected):
        return error.code
    return "unreadable_file" if isinstance(error, OSError) else "no_answer"


def _reason(error: RequestRejected | ServiceError | OSError) -> str:
    return str(error.strerror or error) if isinstance(error, OSError) else str(error)


def _fail(reason: str) -> NoReturn:
    """Print one line and exit with status 1."""
    _err.print(f"predict: {reason}", markup=False)
    raise typer.Exit(1)


def run() -> None:
    """Run densenet-predict."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(main)
    app()


if __name__ == "__main__":
    run()
