"""The labelled set: from a folder or a CSV file to image files, each with the class id that is right for it."""

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

from export.console import Problem

Layout = Literal["folders", "names"]
# Column names that make a CSV's first line a header; of several labels the one that tells classes apart best.
_PATHS = ("path", "file", "filename", "file_name", "image")
_LABELS = ("class_id", "label", "class", "index", "class_name")
_ILSVRC = re.compile(r"ILSVRC2012_.*_(n\d{8})")
_HOW = "label images by folder (n02123045/1.jpg), by file name (n02123045_1.jpg), or with --labels FILE.csv"


@dataclass(frozen=True)
class Classes:
    """The classes that the model knows, id → name, and the file that says at which position each one is."""

    names: Mapping[str, str]
    index: Path

    def resolve(self, text: str) -> str | None:
        """The class id of an id, a name or a position; None where the model has no such class.

        Raises Problem for a name that several classes have, and for positions where the index is of other classes.
        """
        if text in self.names:
            return text
        if ids := self._ids.get(text):
            if len(ids) > 1:
                raise Problem(f"{text!r} is the name of {len(ids)} classes ({', '.join(ids)}); label with their ids")
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
            raise Problem(
                f"{self.index.name} has other classes than the service, and so says nothing about labels that are "
                "positions; name the service's: --class-index FILE"
            )
        return order


@dataclass(frozen=True)
class LabelledSet:
    """Image files by their path below root, in the order they are asked about, and the class id of each."""

    source: Path
    root: Path
    layout: Layout | Literal["csv"]
    files: tuple[str, ...]
    labels: tuple[str, ...]

    def identity(self) -> dict[str, object]:
        """What an answers file says of the set it is about; the same after the whole set has moved elsewhere."""
        digest = hashlib.sha256()
        for file, label in zip(self.files, self.labels, strict=True):
            size = (self.root / file).stat().st_size
            digest.update(f"{file}\0{label}\0{size}\n".encode("utf-8", "surrogateescape"))
        return {"images": len(self.files), "sha256": digest.hexdigest()}


def read(source: Path, classes: Classes, *, labels: Path | None = None, layout: Layout | None = None) -> LabelledSet:
    """Finds images and labels. source: a folder, or a CSV file, whose paths then begin at its own folder.

    labels: a CSV file whose paths begin at source. layout: None where it is to be found out.
    Raises Problem when there are no images, no labels, or labels that the model does not know.
    """
    if not source.exists():
        raise Problem(f"there is no {source}")
    if source.is_dir() and labels is None:
        return _from_folder(source, classes, layout)
    if layout or (labels and source.is_file()):
        raise Problem("labels come from one place: the CSV file, or the layout of a folder")
    root = source if source.is_dir() else source.parent
    pairs = _read_csv(labels or source, root)
    return _checked(source, root, "csv", [(file, classes.resolve(text), text) for file, text in pairs])


def read_class_index(path: Path) -> Mapping[str, str]:
    """Class ids → names by position. Raises Problem."""
    from handler.labels import load_class_index  # it brings torch, seconds that most evaluations need not wait for

    try:
        index = load_class_index(path)
    except ValueError as error:
        raise Problem(str(error)) from error
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
        raise Problem(f"there are no labels in {root}: {files[0]} names no class of the model; {_HOW}")
    pairs = by_folder if layout == "folders" else by_name
    rows = [(file, text if text in classes.names else None, text) for file, text in pairs]
    return _checked(root, root, layout, rows)


def _image_files(root: Path) -> list[str]:
    """Paths below root, folder by folder."""
    # Class folders may be links (a part of ImageNet often is), which rglob alone would not enter.
    tops = sorted(root.iterdir())
    paths = [path for top in tops for path in (sorted(top.rglob("*")) if top.is_dir() else [top])]
    images = [path for path in paths if path.suffix.lower() in EXTENSIONS and path.is_file()]
    # Names that begin with a dot are what other systems leave beside a file.
    files = [path.relative_to(root).as_posix() for path in images if not path.name.startswith(".")]
    if not files:
        raise Problem(f"there are no images in {root}; files count by their extension, such as .JPEG")
    return files


def _id_in_name(stem: str, known: Mapping[str, str]) -> str:
    """The longest class id that a file's name begins with; where there is none, what stands in its place."""
    if match := _ILSVRC.fullmatch(stem):
        return match[1]
    heads = [stem[: match.start()] for match in re.finditer(r"[\W_]", stem)] + [stem]
    return next((head for head in reversed(heads) if head in known), heads[0])


def _read_csv(path: Path, root: Path) -> list[tuple[str, str]]:
    """(path below root, label as written) for every line with something on it."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        delimiter = max(",;\t", key=text.partition("\n")[0].count)
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter, strict=True) if any(row)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise Problem(f"{path} is no CSV file: {error}") from error
    file_column, label_column = 0, 1
    head = [cell.strip().lower() for cell in rows[0]] if rows else []
    if columns := _columns(head):
        file_column, label_column = columns
        rows = rows[1:]
    if not rows:
        raise Problem(f"{path} lists no images")
    short = next((row for row in rows if len(row) <= max(file_column, label_column)), None)
    if short:
        raise Problem(f"{path} has a line without a path and a label: {delimiter.join(short)}")
    pairs = [(Path(row[file_column].strip()).as_posix(), row[label_column].strip()) for row in rows]
    _check_files([file for file, _ in pairs], path, root)
    return pairs


def _columns(head: Sequence[str]) -> tuple[int, int] | None:
    """The columns of path and label by a header; None where the line is none."""
    file = next((head.index(name) for name in _PATHS if name in head), None)
    label = next((head.index(name) for name in _LABELS if name in head), None)
    return None if file is None or label is None else (file, label)


def _check_files(files: Sequence[str], path: Path, root: Path) -> None:
    twice = next((file for file, count in Counter(files).items() if count > 1), None)
    if twice:
        raise Problem(f"{path} lists {twice} more than once; an image has one label")
    missing = [file for file in files if not (root / file).is_file()]
    if missing:
        raise Problem(
            f"{path} lists {len(missing)} files that are not below {root}, such as {missing[0]}; "
            "a header names its columns path and label"
        )


def _checked(
    source: Path, root: Path, layout: Layout | Literal["csv"], rows: Sequence[tuple[str, str | None, str]]
) -> LabelledSet:
    """rows: file, class id or None, the label as it was found."""
    known = [(file, class_id) for file, class_id, _ in rows if class_id is not None]
    unknown = [(file, text) for file, class_id, text in rows if class_id is None]
    if unknown:
        file, text = unknown[0]
        example = f"{file} is labelled {text!r}" if text else f"{file} has none"
        raise Problem(
            f"{len(unknown)} of {len(rows)} images have no label that is a class of the model; {example}, for one"
        )
    return LabelledSet(source, root, layout, tuple(file for file, _ in known), tuple(label for _, label in known))
