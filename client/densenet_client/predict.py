"""densenet-predict: classify or embed files, folders or standard input with the running service."""

import json
import os
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import tee
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from densenet_client.answers import Answer, Model
from densenet_client.client import Result
from densenet_client.embeddings import Collector, near_duplicates
from densenet_client.errors import NotTheService, ServiceUnavailable, Unauthorized
from densenet_client.exchange import DEFAULT_URL
from densenet_client.images import Source
from densenet_client.output import CSV, JSON_LINES, Options, OutputFile, Printer, Writer, reason
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
MIN_SIMILARITY = 0.9
# Without a terminal, tables are as wide as their content.
_out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 10_000)
_err = Console(stderr=True, highlight=False, soft_wrap=True)

Locate = Callable[[int | None, str | None, str | None, Path | None, Path | None], tuple[str, Path | None, Path | None]]
"""From --port, --url, --token, --key-file and --ca to a service's URL, key file and CA."""
Classify = Callable[[Iterable[Source]], Generator[Result, None, None]]

Files = Annotated[list[str], typer.Argument(help="Files, folders to search for images, or - for standard input.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object per line, as results arrive.")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Print one line per image and class.")]
Output = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write to a new file: FILE.csv, FILE.jsonl or FILE.parquet.")
]
Resume = Annotated[bool, typer.Option("--resume", help="If the file exists, add the images that it lacks.")]
TopK = Annotated[
    int | None, typer.Option(min=1, max=1000, help="Classes to list for each image. [default: the service's]")
]
MinProbability = Annotated[
    float | None, typer.Option(min=0, max=1, help="Minimum probability for an image to count as recognized.")
]
Embeddings = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Write embeddings to a new file: FILE.npz or FILE.parquet.")
]
Duplicates = Annotated[
    bool, typer.Option("--duplicates", help="List images that are nearly the same; with --json, a group per line.")
]
MinSimilarity = Annotated[
    float, typer.Option(min=0, max=1, help="Minimum cosine of two images to count as nearly the same.")
]
Url = Annotated[str | None, typer.Option(help="URL of the service. [default: the one on this machine]")]
Port = Annotated[int | None, typer.Option(help="Port of the service on this machine, if there are several.")]


def command(locate: Locate) -> Callable[..., None]:
    """Return the command for services that `locate` finds."""

    def main(
        files: Files,
        as_json: AsJson = False,
        as_csv: AsCsv = False,
        output: Output = None,
        embeddings: Embeddings = None,
        resume: Resume = False,
        duplicates: Duplicates = False,
        min_similarity: MinSimilarity = MIN_SIMILARITY,
        top_k: TopK = None,
        min_probability: MinProbability = None,
        url: Url = None,
        port: Port = None,
        parallel: Parallel = 4,
        token: TokenOption = None,
        key_file: KeyFileOption = None,
        ca: CaOption = None,
        timeout: Timeout = 60,
    ) -> None:
        """Classify images with the running service. Exits 1 if any of them was rejected."""
        files_named = (output is not None) + (embeddings is not None)
        if (as_json and not duplicates) + as_csv + files_named + duplicates > 1:
            _fail("--json, --csv, --output, --embeddings and --duplicates exclude each other; use one of them")
        if resume and not files_named:
            _fail("--resume continues a file; name it with --output or --embeddings")
        embeds = duplicates or embeddings is not None
        if embeds and (top_k is not None or min_probability is not None):
            _fail("--top-k and --min-probability are for classes; leave them out for embeddings and duplicates")
        try:
            if next(_expand(files), None) is None:
                _fail("no images found; folders are searched for files with an image extension, such as .jpg")
            url, key_file, ca = locate(port, url, token, key_file, ca)
            given = {"top_k": top_k, "min_probability": min_probability}
            options = {name: value for name, value in given.items() if value is not None}
            if duplicates:
                new_writer: Callable[[], Writer] = partial(_DuplicatePrinter, min_similarity, as_json=as_json)
            elif embeddings:
                new_writer = partial(OutputFile, embeddings, options, resume=resume, option="--embeddings")
            else:
                new_writer = partial(_writer, output, options, as_json=as_json, as_csv=as_csv, resume=resume)
            with (
                connect(url, token=token, key_file=key_file, ca=ca, timeout=timeout, parallel=parallel) as client,
                closing(new_writer()) as writer,
            ):
                if embeds:
                    classify = partial(client.classify_many, top_k=1, embedding="l2" if duplicates else "raw")
                else:
                    classify = partial(client.classify_many, top_k=top_k, min_probability=min_probability)
                _classify(classify, files, writer, url)
        except (ServiceUnavailable, Unauthorized, NotTheService) as error:
            hint = f" (--token, --key-file, or {TOKEN} in the environment)" if isinstance(error, Unauthorized) else ""
            _fail(f"{error}{hint}")
        except (ValueError, ImportError) as error:  # an option out of its range, a file that cannot be continued
            _fail(str(error))
        except OSError as error:
            _fail(f"{error.filename or output or embeddings or 'standard output'}: {error.strerror}")
        if writer.failed:
            _fail(f"{writer.failed} of {writer.count} images could not be classified")

    return main


def _writer(output: Path | None, options: Options, *, as_json: bool, as_csv: bool, resume: bool) -> Writer:
    if output:
        return OutputFile(output, options, resume=resume)
    return Printer(JSON_LINES if as_json else CSV, options) if as_json or as_csv else _TablePrinter()


def _classify(classify: Classify, files: Sequence[str], writer: Writer, url: str) -> None:
    """Classify the images that the writer lacks, a few at a time; names of files are all that is kept of the others.

    Say which service, model and weights answer: at the first answer, and again if another model answers.
    """
    total = sum(1 for _ in _lacking(writer, files))
    names, again = tee(_lacking(writer, files))
    images = (sys.stdin.buffer.read() if name == STDIN else name for name in again)
    known: set[Model] = set()
    try:
        with closing(classify(images)) as results, _progress() as progress:
            for name, result in progress.track(zip(names, results, strict=True), total):
                if isinstance(result, Answer) and result.model not in known:
                    known.add(result.model)
                    _err.print(describe(url, result.model), markup=False)
                if not (isinstance(result, Answer) or writer.shows_errors):
                    _err.print(f"{_printable(name)}: {reason(result)}", markup=False)
                writer.write(_printable(name), result)
        writer.finish()
    except KeyboardInterrupt:
        _fail(writer.how_to_go_on(), 130)


def _lacking(writer: Writer, files: Iterable[str]) -> Iterator[str]:
    return (name for name in _expand(files) if _printable(name) not in writer.files)


def _expand(files: Iterable[str]) -> Iterator[str]:
    for name in files:
        if name != STDIN and Path(name).is_dir():
            yield from _images(Path(name))
        else:
            yield name


def _images(folder: Path) -> Iterator[str]:
    """Walk through a folder in order, with no more in memory than the names in it and in the folders above."""
    for path in (folder / name for name in sorted(os.listdir(folder))):  # noqa: PTH208 Path.iterdir() yields paths
        if path.suffix.lower() in EXTENSIONS and path.is_file():
            yield str(path)
        elif path.is_dir() and not path.is_symlink():
            yield from _images(path)


def _printable(name: str) -> str:
    """Return a file's name as text; bytes that are not UTF-8 become escapes."""
    return os.fsencode(name).decode(errors="backslashreplace")


class _Throughput(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} images/s" if task.speed else "")


def _progress() -> Progress:
    """Return a progress bar, which is shown if stderr is a terminal."""
    columns = ("classifying", BarColumn(), MofNCompleteColumn(), _Throughput(), TimeRemainingColumn())
    return Progress(*columns, console=_err, transient=True, disable=not sys.stderr.isatty())


class _TablePrinter(Writer):
    """Prints a table of all images."""

    def __init__(self) -> None:
        super().__init__()
        self._table = Table("file", "class", "id", "probability", "", box=None, pad_edge=False)
        self._table.columns[3].justify = "right"
        self._untrained = False

    def write(self, file: str, result: Result) -> None:
        super().write(file, result)
        if not isinstance(result, Answer):
            self._table.add_row(escape(file), f"[red]{escape(reason(result))}[/red]")
            return
        self._untrained |= result.model.weights == "untrained"
        for i, row in enumerate(result):
            note = "not recognized" if i == 0 and not result.recognized else ""
            first = escape(file) if i == 0 else ""
            self._table.add_row(first, row.label, row.class_id, f"{row.probability:.2%}", note)

    def finish(self) -> None:
        _out.print(self._table)
        if self._untrained:
            _err.print("WARNING: the service runs on untrained weights; these answers are meaningless")


class _DuplicatePrinter(Writer):
    """Prints groups of images that are nearly the same, as a table or as a JSON object per line."""

    shows_errors = False

    def __init__(self, min_similarity: float, *, as_json: bool) -> None:
        super().__init__()
        self._min_similarity = min_similarity
        self._as_json = as_json
        self._embeddings = Collector()
        self._names: list[str] = []

    def write(self, file: str, result: Result) -> None:
        super().write(file, result)
        if isinstance(result, Answer):
            self._names.append(file)
            self._embeddings.add(result)

    def finish(self) -> None:
        table = Table("group", "similarity", "file", box=None, pad_edge=False)
        for number, group in enumerate(near_duplicates(self._embeddings.array(), self._min_similarity), 1):
            rows = [(self._names[position], similarity) for position, similarity in group]
            if self._as_json:
                files = [{"file": name, "similarity": similarity} for name, similarity in rows]
                print(json.dumps({"group": number, "files": files}))
            for name, similarity in rows:
                table.add_row(str(number), f"{similarity:.4f}", escape(name))
        if not self._as_json:
            _out.print(table)


def _fail(reason: str, status: int = 1) -> NoReturn:
    """Print one line and exit."""
    _err.print(f"predict: {reason}", markup=False)
    raise typer.Exit(status)


def _on_this_machine(
    port: int | None, url: str | None, _token: str | None, key_file: Path | None, ca: Path | None
) -> tuple[str, Path | None, Path | None]:
    if port and url is not None:
        raise ValueError("--port chooses among this machine's services and --url names any; give one of them")
    return url or (DEFAULT_URL.replace("8080", str(port)) if port else DEFAULT_URL), key_file, ca


main = command(_on_this_machine)


def run() -> None:
    """Run densenet-predict."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(main)
    app()


if __name__ == "__main__":
    run()
