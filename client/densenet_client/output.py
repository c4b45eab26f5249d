"""The rows that densenet-predict writes, and its files, which another run can continue."""

import csv
import importlib.util
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from densenet_client.answers import Answer, Model
from densenet_client.client import Result
from densenet_client.errors import RequestRejected

Options = dict[str, float]
"""The options that were given: top_k, min_probability."""

# The columns of CSV and Parquet, with their types in Parquet.
_TYPES = {
    "file": "string",
    "rank": "int16",
    "class_id": "string",
    "label": "string",
    "probability": "float64",
    "recognized": "bool",
    "error": "string",
    "model": "string",
    "version": "string",
    "weights": "string",
    "precision": "string",
    "top_k": "int16",
    "min_probability": "float64",
}


@dataclass(frozen=True)
class Row:
    """What the next run needs of a row. rank: of the class, in CSV; 0 for an error, and in JSON. model: None for an
    error."""

    file: str
    rank: int
    model: Model | None
    options: Options


@dataclass(frozen=True)
class Format:
    """A text format. beginning: of every file. rows: returns the rows of one image. read: reads the rows of a file's
    lines, the header included; raises ValueError, KeyError, TypeError or csv.Error for lines of another kind."""

    header: str
    beginning: str
    rows: Callable[[str, Result, Options], str]
    read: Callable[[Iterator[str]], Iterator[Row]]


def reason(error: Exception) -> str:
    """Return an error's message."""
    return str(error.strerror or error) if isinstance(error, OSError) else str(error)


def _csv_line(values: Iterable[object]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(values)
    return line.getvalue()


def _csv_rows(file: str, result: Result, options: Options) -> str:
    given = [options.get("top_k"), options.get("min_probability")]
    if not isinstance(result, Answer):
        return _csv_line([file, *[""] * 5, reason(result), *[""] * 4, *given])
    rest = [result.recognized, "", *asdict(result.model).values(), *given]
    return "".join(
        _csv_line([file, rank, row.class_id, row.label, row.probability, *rest]) for rank, row in enumerate(result, 1)
    )


def _read_csv(lines: Iterator[str]) -> Iterator[Row]:
    for row in csv.DictReader(lines, strict=True):
        rank = int(row["rank"] or 0)
        model = Model(row["model"], row["version"], row["weights"], row["precision"]) if rank else None
        options = {name: float(row[name]) for name in ("top_k", "min_probability") if row[name]}
        yield Row(row["file"], rank, model, options)


def _json_line(file: str, result: Result, options: Options) -> str:
    line: dict[str, object] = {"file": file}
    if isinstance(result, Answer):
        line["predictions"] = [asdict(row) for row in result]
        line |= {"recognized": result.recognized, "weights": result.model.weights, "model": asdict(result.model)}
    else:
        line["error"] = {"code": _code(result), "message": reason(result)}
    return json.dumps(line | {"options": options}) + "\n"


def _code(error: Exception) -> str:
    if isinstance(error, RequestRejected):
        return error.code
    return "unreadable_file" if isinstance(error, OSError) else "no_answer"


def _read_json(lines: Iterator[str]) -> Iterator[Row]:
    for row in map(json.loads, lines):
        yield Row(row["file"], 0, Model(**row["model"]) if "model" in row else None, row["options"])


_HEADER = _csv_line(_TYPES)
CSV = Format(_HEADER, _HEADER, _csv_rows, _read_csv)
JSON_LINES = Format("", '{"file": ', _json_line, _read_json)
_FORMATS = {".csv": CSV, ".jsonl": JSON_LINES, ".parquet": CSV}


def _words(options: Options) -> str:
    return " ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in options.items()) or "no options"


class Writer:
    """Where results go. count, failed: images, and those of them without an answer."""

    def __init__(self) -> None:
        self.files: set[str] = set()  # those that an earlier run has written
        self.count = self.failed = 0
        self.name = "standard output"

    def write(self, file: str, result: Result) -> None:
        """Add an image."""
        self.count += 1
        self.failed += not isinstance(result, Answer)

    def how_to_go_on(self) -> str:
        """Return what to tell somebody who ends the run early."""
        return "stopped"

    def finish(self) -> None:
        """Complete what was written."""

    def close(self) -> None:
        """Close it, complete or not."""


class Printer(Writer):
    """Prints each image's rows at once."""

    def __init__(self, format: Format, options: Options) -> None:
        super().__init__()
        self._format = format
        self._options = options
        print(format.header, end="", flush=True)

    def write(self, file: str, result: Result) -> None:
        """Add an image."""
        print(self._format.rows(file, result, self._options), end="", flush=True)
        super().write(file, result)


class OutputFile(Writer):
    """A file that grows by an image at a time. All its answers have the same model and options.

    A Parquet file has its index at its end and cannot grow. Until all images are there, its rows are in a CSV file.
    """

    def __init__(self, path: Path, options: Options, *, resume: bool) -> None:
        """Create the file, or continue it after the last image that is complete.

        Raises: ValueError if its name has another extension, pyarrow is missing, or the file exists and cannot be
        continued; OSError.
        """
        super().__init__()
        if path.suffix not in _FORMATS:
            raise ValueError(f"--output must end in .csv, .jsonl or .parquet, not {path.name}")
        self._format = _FORMATS[path.suffix]
        self._options = options
        self._model: Model | None = None
        self._parquet = path if path.suffix == ".parquet" else None
        self._path = path.with_name(f"{path.name}.csv") if self._parquet else path
        self.name = str(self._path)
        if self._parquet and importlib.util.find_spec("pyarrow") is None:
            raise ValueError("Parquet needs pyarrow; install it with: pip install 'densenet-client[parquet]'")
        if self._parquet and path.exists():
            raise ValueError(f"{path} is complete, and a Parquet file cannot grow; give another --output")
        exists = self._path.exists()
        if exists and not resume:
            raise ValueError(f"{self.name} exists; continue it with --resume, or give another --output")
        self._stream: BinaryIO = self._path.open("r+b" if exists else "xb")
        self._stream.truncate(self._read() if exists else 0)
        if not self._stream.seek(0, io.SEEK_END):
            self._stream.write(self._format.header.encode())

    def write(self, file: str, result: Result) -> None:
        """Add an image.

        Raises: ValueError for an answer of another model; OSError.
        """
        if isinstance(result, Answer):
            self._model = self._model or result.model
            if result.model != self._model:
                raise ValueError(
                    f"{self.name} has answers of {self._model}; now {result.model} answers; give another --output"
                )
        self._stream.write(self._format.rows(file, result, self._options).encode())
        self._stream.flush()
        super().write(file, result)

    def how_to_go_on(self) -> str:
        """Return what to tell somebody who ends the run early."""
        return f"stopped; {self.name} has {self.count} images; the same command with --resume adds the others"

    def finish(self) -> None:
        """Complete the file. Raises: OSError."""
        self._stream.close()
        if self._parquet:
            _to_parquet(self._path, self._parquet)
            self._path.unlink()
            self.name = str(self._parquet)

    def close(self) -> None:
        """Close the file; remove it if it has no image."""
        self._stream.close()
        if not self.count:
            self._path.unlink()

    def _add(self, row: Row) -> None:
        self.files.add(row.file)
        self.count += 1
        self.failed += row.model is None
        self._model = self._model or row.model

    def _read(self) -> int:
        """Read the images that the file has; return the offset of its end without an image that was cut off."""
        lines = _Lines(self._stream)
        last: Row | None = None
        start = end = 0  # offsets of the last image
        size = usual = 0  # rows of the last image, and of every other one that has an answer
        try:
            beginning = self._format.beginning.encode()
            if not beginning.startswith(self._stream.read(len(beginning))):
                raise ValueError("another program has written it")
            self._stream.seek(0)
            for row in self._format.read(lines):
                if row.options != self._options:
                    raise ValueError(f"it was made with {_words(row.options)}, not with {_words(self._options)}")
                if row.rank < 2:
                    if last:
                        self._add(last)
                    usual = usual or size
                    start, size = end, 0
                size += row.rank > 0
                last, end = row, lines.end
        except (ValueError, KeyError, TypeError, csv.Error) as error:
            # A file that was cut off within quotes has no more lines.
            if not (isinstance(error, csv.Error) and lines.at_end()):
                self._stream.close()
                raise ValueError(f"cannot continue {self.name}: {error}; give another --output") from error
        # Nothing shows whether the first answer is complete, so it counts only if there is another one.
        if last and (last.rank == 0 or size == usual):
            self._add(last)
            return end
        return start


class _Lines:
    """The complete lines of a file. end: offset after the last one that was returned."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.end = 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        line = self._stream.readline()
        if not line.endswith(b"\n"):
            raise StopIteration
        self.end += len(line)
        return line.decode()

    def at_end(self) -> bool:
        return not self._stream.read(1)


def _to_parquet(rows: Path, path: Path) -> None:
    from pyarrow import csv, parquet

    text = csv.ConvertOptions(
        column_types=_TYPES, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=True
    )
    unfinished = path.with_name(f"{path.name}.tmp")
    with (
        csv.open_csv(rows, parse_options=csv.ParseOptions(newlines_in_values=True), convert_options=text) as batches,
        parquet.ParquetWriter(unfinished, batches.schema) as writer,
    ):
        for batch in batches:
            writer.write_batch(batch)
    unfinished.replace(path)
