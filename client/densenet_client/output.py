"""The rows that densenet-predict writes, and its files, which another run can continue."""

import base64
import csv
import importlib.util
import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from densenet_client.answers import WIDTH, Answer, Model
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
    "unknown_score": "float64",
    "error": "string",
    "model": "string",
    "version": "string",
    "weights": "string",
    "precision": "string",
    "calibrated": "bool",
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


@dataclass(frozen=True)
class Final:
    """A kind of file that cannot grow. suffix: of the file with its rows until they are complete. write: makes it of
    that file. needs, extra: the package that it takes, and this distribution's extra for it."""

    suffix: str
    write: Callable[[Path, Path], None]
    needs: str
    extra: str


@dataclass(frozen=True)
class Kind:
    """A kind of file: the format of its rows, and what becomes of them if that is another file."""

    format: Format
    final: Final | None = None


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
        return _csv_line([file, *[""] * 6, reason(result), *[""] * 5, *given])
    rest = [result.recognized, result.unknown_score, "", *asdict(result.model).values(), *given]
    return "".join(
        _csv_line([file, rank, row.class_id, row.label, row.probability, *rest]) for rank, row in enumerate(result, 1)
    )


def _read_csv(lines: Iterator[str]) -> Iterator[Row]:
    for row in csv.DictReader(lines, strict=True):
        rank = int(row["rank"] or 0)
        calibrated = row["calibrated"] == "True"
        model = Model(row["model"], row["version"], row["weights"], row["precision"], calibrated) if rank else None
        options = {name: float(row[name]) for name in ("top_k", "min_probability") if row[name]}
        yield Row(row["file"], rank, model, options)


def _json_line(file: str, result: Result, options: Options) -> str:
    line: dict[str, object] = {"file": file}
    if isinstance(result, Answer):
        line["predictions"] = [_without_none(asdict(row)) for row in result]
        line |= _without_none({"unknown_score": result.unknown_score})
        line |= {"recognized": result.recognized, "weights": result.model.weights, "model": result.model.facts()}
    else:
        line["error"] = {"code": _code(result), "message": reason(result)}
    return json.dumps(line | {"options": options}) + "\n"


def _without_none(values: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in values.items() if value is not None}


def _code(error: Exception) -> str:
    if isinstance(error, RequestRejected):
        return error.code
    return "unreadable_file" if isinstance(error, OSError) else "no_answer"


def _embedding_line(file: str, result: Result, _: Options) -> str:
    line: dict[str, object] = {"file": file}
    if isinstance(result, Answer):
        numbers = struct.pack(f"<{len(result.embedding)}f", *result.embedding)
        line |= {"embedding": base64.b64encode(numbers).decode("ascii"), "model": result.model.facts()}
    return json.dumps(line | {"options": {}}) + "\n"


def _json_row(row: Mapping[str, Any]) -> Row:
    return Row(row["file"], 0, Model(**row["model"]) if "model" in row else None, row["options"])


def _read_json(lines: Iterator[str]) -> Iterator[Row]:
    return map(_json_row, map(json.loads, lines))


def _read_embeddings(lines: Iterator[str]) -> Iterator[Row]:
    for row in map(json.loads, lines):
        if "predictions" in row:
            raise ValueError("it has answers, not embeddings")
        yield _json_row(row)


_HEADER = _csv_line(_TYPES)
CSV = Format(_HEADER, _HEADER, _csv_rows, _read_csv)
JSON_LINES = Format("", '{"file": ', _json_line, _read_json)
_EMBEDDING_LINES = Format("", '{"file": ', _embedding_line, _read_embeddings)


def _words(options: Options) -> str:
    return " ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in options.items()) or "no options"


class Writer:
    """Where results go. count, failed: images, and those of them without an answer."""

    shows_errors = True
    """Whether an image without an answer has a row."""

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

    A Parquet file has its index at its end and cannot grow, nor can NumPy's. Until all images are there, the rows are
    in another file.
    """

    def __init__(self, path: Path, options: Options, *, resume: bool, option: str = "--output") -> None:
        """Create the file, or continue it after the last image that is complete. option: what names the file.

        Raises: ValueError if its name has another extension, a package is missing, or the file exists and cannot be
        continued; OSError.
        """
        super().__init__()
        kinds = _KINDS[option]
        if path.suffix not in kinds:
            *first, last = kinds
            raise ValueError(f"{option} must end in {', '.join(first)} or {last}, not {path.name}")
        self._format, self._final = kinds[path.suffix].format, kinds[path.suffix].final
        self.shows_errors = self._format is not _EMBEDDING_LINES
        self._options = options
        self._option = option
        self._model: Model | None = None
        self._complete = path
        self._path = path.with_name(path.name + self._final.suffix) if self._final else path
        self.name = str(self._path)
        if self._final and importlib.util.find_spec(self._final.needs) is None:
            raise ValueError(
                f"{path.suffix} needs {self._final.needs}; install it with: "
                f"pip install 'densenet-client[{self._final.extra}]'"
            )
        if self._final and path.exists():
            raise ValueError(f"{path} is complete, and such a file cannot grow; give another {option}")
        exists = self._path.exists()
        if exists and not resume:
            raise ValueError(f"{self.name} exists; continue it with --resume, or give another {option}")
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
                    f"{self.name} has answers of {self._model}; now {result.model} answers; give another {self._option}"
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
        if self._final:
            unfinished = self._complete.with_name(f"{self._complete.name}.tmp")
            self._final.write(self._path, unfinished)
            unfinished.replace(self._complete)
            self._path.unlink()
            self.name = str(self._complete)

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
                raise ValueError(f"cannot continue {self.name}: {error}; give another {self._option}") from error
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
    with (
        csv.open_csv(rows, parse_options=csv.ParseOptions(newlines_in_values=True), convert_options=text) as batches,
        parquet.ParquetWriter(path, batches.schema) as writer,
    ):
        for batch in batches:
            writer.write_batch(batch)


def _embedded(rows: Path) -> Iterator[Mapping[str, Any]]:
    """Read the rows of the images that have an embedding, which is then bytes."""
    with rows.open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            if "embedding" in row:
                yield {**row, "embedding": base64.b64decode(row["embedding"])}


def _embeddings_to_npz(rows: Path, path: Path) -> None:
    """Write the arrays files (N,) and model (), text, and embeddings, float32 (N, 1024), as numpy.savez() does."""
    import numpy as np

    files = [row["file"] for row in _embedded(rows)]
    model = next((str(Model(**row["model"])) for row in _embedded(rows)), "")
    header = {"descr": "<f4", "fortran_order": False, "shape": (len(files), WIDTH)}
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in (("files", np.array(files, dtype=np.str_)), ("model", np.array(model))):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, array)
        # A row at a time, so that memory does not limit their number.
        with archive.open("embeddings.npy", "w", force_zip64=True) as stream:
            np.lib.format.write_array_header_1_0(stream, header)
            for row in _embedded(rows):
                stream.write(row["embedding"])


def _embeddings_to_parquet(rows: Path, path: Path) -> None:
    """Write the columns file, embedding (a list of 1024 float32), model, version, weights and precision."""
    import pyarrow
    from pyarrow import parquet

    texts = ("model", "version", "weights", "precision")
    vector = pyarrow.list_(pyarrow.float32(), WIDTH)
    schema = pyarrow.schema(
        [("file", pyarrow.string()), ("embedding", vector), *((name, pyarrow.string()) for name in texts)]
    )
    remaining = _embedded(rows)
    with parquet.ParquetWriter(path, schema) as writer:
        while some := list(islice(remaining, 1000)):
            numbers = pyarrow.py_buffer(b"".join(row["embedding"] for row in some))
            flat = pyarrow.Array.from_buffers(pyarrow.float32(), len(some) * WIDTH, [None, numbers])
            models = [Model(**row["model"]) for row in some]
            columns = [[getattr(model, name) for model in models] for name in ("name", *texts[1:])]
            embeddings = pyarrow.FixedSizeListArray.from_arrays(flat, WIDTH)
            writer.write_batch(
                pyarrow.record_batch([[row["file"] for row in some], embeddings, *columns], schema=schema)
            )


_KINDS = {
    "--output": {
        ".csv": Kind(CSV),
        ".jsonl": Kind(JSON_LINES),
        ".parquet": Kind(CSV, Final(".csv", _to_parquet, "pyarrow", "parquet")),
    },
    "--embeddings": {
        ".npz": Kind(_EMBEDDING_LINES, Final(".jsonl", _embeddings_to_npz, "numpy", "embeddings")),
        ".parquet": Kind(_EMBEDDING_LINES, Final(".jsonl", _embeddings_to_parquet, "pyarrow", "parquet")),
    },
}
