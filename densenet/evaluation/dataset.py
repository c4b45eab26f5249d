"""The labelled set: read image files and their class ids from a folder or a CSV file."""

import csv
import hashlib
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from densenet_client.terminal import EXTENSIONS

from export.console import CliError

Layout = Literal["folders", "names"]
# Column names that identify a CSV's header. If several label columns exist, the first in this order is used.
_PATHS = ("path", "file", "filename", "file_name", "image")
_LABELS = ("class_id", "label", "class", "index", "class_name")
_ILSVRC = re.compile(r"ILSVRC2012_.*_(n\d{8})")
_HOW = "label images by folder (n02123045/1.jpg), by file name (n02123045_1.jpg), or with --labels FILE.csv"


@dataclass(frozen=True)
class Classes:
    """The classes of the model (id → name) and the file that lists them by position."""

    names: Mapping[str, str]
    index: Path

    def resolve(self, text: str) -> str | None:
        """Return the class id for an id, a name or a position; None if the model has no such class.

        Raises: CliError for an ambiguous name, or for a position if the index lists other classes.
        """
        if text in self.names:
            return text
        if ids := self._ids.get(text):
            if len(ids) > 1:
                raise CliError(f"{text!r} is the name of {len(ids)} classes ({', '.join(ids)}); label with their ids")
            return ids[0]
        if text.isascii() and text.isdigit():
            return self._order[int(text)] if int(text) < len(self._order) else None
        return None

    @cached_property
    def _ids(self) -> Mapping[str, Sequence[str]]:
        ids: dict[str, list[str]] = {}
        for class_id, name in self.names.items():
            ids.setdefault(name, []).append(class_id)
        return ids

    @cached_property
    def _order(self) -> Sequence[str]:
        order = list(read_class_index(self.index))
        if set(order) != set(self.names):
            raise CliError(
                f"{self.index.name} has other classes than the service, so labels cannot be positions; "
                "give the service's index with --class-index FILE"
            )
        return order


@dataclass(frozen=True)
class LabelledSet:
    """Image files by path below root, in the order in which they are sent, and their class ids."""

    source: Path
    root: Path
    layout: Layout | Literal["csv"]
    files: tuple[str, ...]
    labels: tuple[str, ...]

    def identity(self) -> dict[str, object]:
        """Return the number of images and a digest that does not depend on the location of the set."""
        digest = hashlib.sha256()
        for file, label in zip(self.files, self.labels, strict=True):
            size = (self.root / file).stat().st_size
            digest.update(f"{file}\0{label}\0{size}\n".encode("utf-8", "surrogateescape"))
        return {"images": len(self.files), "sha256": digest.hexdigest()}


def read(source: Path, classes: Classes, *, labels: Path | None = None, layout: Layout | None = None) -> LabelledSet:
    """Read images and labels. source: a folder, or a CSV file with paths relative to its own folder.

    labels: a CSV file with paths relative to source. layout: None to detect it.

    Raises: CliError if there are no images, no labels, or labels that the model does not have.
    """
    if not source.exists():
        raise CliError(f"no such file or folder: {source}")
    if source.is_dir() and labels is None:
        return _from_folder(source, classes, layout)
    if layout or (labels and source.is_file()):
        raise CliError("labels have two sources; use either a CSV file or the layout of a folder")
    root = source if source.is_dir() else source.parent
    pairs = _read_csv(labels or source, root)
    return _checked(source, root, "csv", [(file, classes.resolve(text), text) for file, text in pairs])


def read_class_index(path: Path) -> Mapping[str, str]:
    """Return class ids → names, in order of position.

    Raises: CliError if the file is not a class index.
    """
    from handler.ranking import load_class_index  # imports torch, which takes seconds and is rarely needed

    try:
        index = load_class_index(path)
    except ValueError as error:
        raise CliError(str(error)) from error
    return dict(zip(index.ids, index.names, strict=True))


def _from_folder(root: Path, classes: Classes, layout: Layout | None) -> LabelledSet:
    files = _image_files(root)
    by_folder = [(file, Path(file).parts[0] if "/" in file else "") for file in files]
    by_name = [(file, _id_in_name(Path(file).stem, classes.names)) for file in files]
    if layout is None and any(text in classes.names for _, text in by_folder):
        layout = "folders"
    elif layout is None and any(text in classes.names for _, text in by_name):
        layout = "names"
    if layout is None:
        raise CliError(f"no labels in {root}: {files[0]} contains no class id of the model; {_HOW}")
    pairs = by_folder if layout == "folders" else by_name
    rows = [(file, text if text in classes.names else None, text) for file, text in pairs]
    return _checked(root, root, layout, rows)


def _image_files(root: Path) -> list[str]:
    """Return the image paths below root, folder by folder."""
    # Class folders may be symbolic links, as in many subsets of ImageNet, and rglob does not follow them.
    tops = sorted(root.iterdir())
    paths = [path for top in tops for path in (sorted(top.rglob("*")) if top.is_dir() else [top])]
    images = [path for path in paths if path.suffix.lower() in EXTENSIONS and path.is_file()]
    # Other systems create hidden files such as "._name" next to a file.
    files = [path.relative_to(root).as_posix() for path in images if not path.name.startswith(".")]
    if not files:
        raise CliError(f"no images in {root}; image files need an extension such as .JPEG")
    return files


def _id_in_name(stem: str, names: Mapping[str, str]) -> str:
    """Return the longest class id that a file name begins with, or the first part of the name if there is none."""
    if match := _ILSVRC.fullmatch(stem):
        return match[1]
    heads = [stem[: match.start()] for match in re.finditer(r"[\W_]", stem)] + [stem]
    return next((head for head in reversed(heads) if head in names), heads[0])


def _read_csv(path: Path, root: Path) -> list[tuple[str, str]]:
    """Return (path below root, label as written) for every line that is not empty."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter, strict=True) if any(row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise CliError(f"{path} is not a CSV file: {error}") from error
    file_column, label_column = 0, 1
    head = [cell.strip().lower() for cell in rows[0]] if rows else []
    if columns := _columns(head):
        file_column, label_column = columns
        rows = rows[1:]
    if not rows:
        raise CliError(f"{path} lists no images; add a line path,label for each image")
    short = next((row for row in rows if len(row) <= max(file_column, label_column)), None)
    if short:
        raise CliError(f"{path} has a line that lacks a path or a label: {delimiter.join(short)}")
    pairs = [(Path(row[file_column].strip()).as_posix(), row[label_column].strip()) for row in rows]
    _check_files([file for file, _ in pairs], path, root)
    return pairs


def _columns(head: Sequence[str]) -> tuple[int, int] | None:
    """Return the columns of path and label, or None if the line is not a header."""
    file = next((head.index(name) for name in _PATHS if name in head), None)
    label = next((head.index(name) for name in _LABELS if name in head), None)
    return None if file is None or label is None else (file, label)


def _check_files(files: Sequence[str], path: Path, root: Path) -> None:
    duplicate = next((file for file, count in Counter(files).items() if count > 1), None)
    if duplicate:
        raise CliError(f"{path} lists {duplicate} more than once; give each image one label")
    missing = [file for file in files if not (root / file).is_file()]
    if missing:
        raise CliError(
            f"{path} lists {len(missing)} files that are not below {root}, such as {missing[0]}; "
            "if the file has a header, name its columns path and label"
        )


def _checked(
    source: Path, root: Path, layout: Layout | Literal["csv"], rows: Sequence[tuple[str, str | None, str]]
) -> LabelledSet:
    """Check that all labels are classes of the model. rows: file, class id or None, label as written."""
    labelled = [(file, class_id) for file, class_id, _ in rows if class_id is not None]
    unknown = [(file, text) for file, class_id, text in rows if class_id is None]
    if unknown:
        file, text = unknown[0]
        example = f"{file} is labelled {text!r}" if text else f"{file} has none"
        raise CliError(
            f"{len(unknown)} of {len(rows)} images have no label that is a class of the model; for example, {example}"
        )
    return LabelledSet(source, root, layout, tuple(file for file, _ in labelled), tuple(label for _, label in labelled))
