"""Every layout of a labelled set is found out, and what is wrong with one is told in one line."""

import json
from pathlib import Path

import pytest

from densenet.evaluation import dataset
from densenet.evaluation.dataset import Classes, LabelledSet
from densenet.paths import IMAGENET_CLASSES
from export.console import CliError

TENCH, GOLDFISH, CRANES = "n01440764", "n01443537", ("n02012849", "n03126707")


@pytest.fixture(scope="module")
def imagenet() -> Classes:
    return Classes(dataset.read_class_index(IMAGENET_CLASSES), IMAGENET_CLASSES)


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def table(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def pairs(found: LabelledSet) -> list[tuple[str, str]]:
    return list(zip(found.files, found.labels, strict=True))


def test_one_folder_a_class(tmp_path: Path, imagenet: Classes) -> None:
    make(tmp_path, f"{TENCH}/b.JPEG", f"{TENCH}/deep/a.png", f"{GOLDFISH}/{TENCH}_1.jpg", f"{TENCH}/._b.JPEG", "x.txt")
    found = dataset.read(tmp_path, imagenet)
    assert found.layout == "folders"
    assert pairs(found) == [
        (f"{TENCH}/b.JPEG", TENCH),
        (f"{TENCH}/deep/a.png", TENCH),
        (f"{GOLDFISH}/{TENCH}_1.jpg", GOLDFISH),
    ]


def test_class_folders_that_are_links_are_entered(tmp_path: Path, imagenet: Classes) -> None:
    make(tmp_path / "elsewhere", "a.jpg")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / TENCH).symlink_to(tmp_path / "elsewhere")
    assert pairs(dataset.read(tmp_path / "set", imagenet)) == [(f"{TENCH}/a.jpg", TENCH)]


def test_file_names_that_begin_with_the_class(tmp_path: Path, imagenet: Classes) -> None:
    names = (f"{TENCH}.png", f"{TENCH}-tench.jpg", f"{TENCH}_123.JPEG", "ILSVRC2012_val_00000001_n01443537.JPEG")
    make(tmp_path, *names)
    found = dataset.read(tmp_path, imagenet)
    assert found.layout == "names"
    assert dict(pairs(found)) == dict(zip(names, (TENCH, TENCH, TENCH, GOLDFISH), strict=True))


def test_of_class_ids_that_begin_alike_the_longest_counts(tmp_path: Path) -> None:
    classes = Classes({"cat": "cat", "cat-big": "lion", "cat-big-1": "tiger"}, IMAGENET_CLASSES)
    make(tmp_path, "cat-7.jpg", "cat-big-2.jpg", "cat-big-1.jpg")
    found = dict(pairs(dataset.read(tmp_path, classes)))
    assert found == {"cat-7.jpg": "cat", "cat-big-2.jpg": "cat-big", "cat-big-1.jpg": "cat-big-1"}


def test_the_layout_can_be_said(tmp_path: Path, imagenet: Classes) -> None:
    make(tmp_path, f"{TENCH}/{GOLDFISH}_1.jpg")
    assert dataset.read(tmp_path, imagenet, layout="folders").labels == (TENCH,)
    assert dataset.read(tmp_path, imagenet, layout="names").labels == (GOLDFISH,)


@pytest.mark.parametrize(
    "lines",
    [
        [f"a.jpg,{TENCH}", f"deep/b.jpg,{GOLDFISH}"],
        ["path,label", f"a.jpg,{TENCH}", f"deep/b.jpg,{GOLDFISH}"],
        ["Label, Path", f"{TENCH},a.jpg", f"{GOLDFISH},deep/b.jpg"],
        ["split,file,label,class_id", f"val,a.jpg,crane,{TENCH}", f"val,deep/b.jpg,?,{GOLDFISH}"],
    ],
)
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_csv_with_or_without_header(tmp_path: Path, imagenet: Classes, lines: list[str], delimiter: str) -> None:
    make(tmp_path, "a.jpg", "deep/b.jpg", "not listed.jpg")
    path = table(tmp_path / "labels.csv", *(line.replace(",", delimiter) for line in lines))
    for found in (dataset.read(path, imagenet), dataset.read(tmp_path, imagenet, labels=path)):
        assert found.layout == "csv"
        assert pairs(found) == [("a.jpg", TENCH), ("deep/b.jpg", GOLDFISH)]


def test_a_csv_labels_by_id_name_or_position(tmp_path: Path, imagenet: Classes) -> None:
    make(tmp_path, "a.jpg", "b.jpg", "c.jpg", "d,é.jpg")
    path = table(tmp_path / "labels.csv", f"a.jpg,{TENCH}", "./b.jpg,tench", "c.jpg, 1", "", '"d,é.jpg",cardigan')
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [label for _, label in pairs(dataset.read(path, imagenet))] == [TENCH, TENCH, GOLDFISH, "n02963159"]


def test_an_id_that_looks_like_a_position_is_an_id(tmp_path: Path) -> None:
    index = tmp_path / "index.json"
    index.write_text(json.dumps({"0": ["1", "one"], "1": ["0", "zero"], "2": "two"}))
    classes = Classes(dataset.read_class_index(index), index)
    assert [classes.resolve(text) for text in ("0", "1", "2", "3", "two", "²")] == ["0", "1", "two", None, "two", None]


def test_positions_of_an_index_that_is_not_the_services_are_refused(tmp_path: Path) -> None:
    make(tmp_path, "a.jpg")
    classes = Classes({"cat": "cat", "dog": "dog"}, IMAGENET_CLASSES)
    with pytest.raises(CliError, match=r"other classes than the service.*--class-index FILE"):
        dataset.read(table(tmp_path / "labels.csv", "a.jpg,0"), classes)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "no images in"),
        (["readme.txt", f"{TENCH}/notes.md"], "no images in"),
        (["holiday.jpg"], "no labels in .*holiday.jpg contains no class id"),
        (["cats/1.jpg", "dogs/1.jpg"], "no labels in .*cats/1.jpg"),
        (
            [f"{TENCH}/1.jpg", "n99999999/1.jpg", "n99999999/2.jpg"],
            "2 of 3 images.*n99999999/1.jpg is labelled 'n99999999'",
        ),
        ([f"{TENCH}/1.jpg", "loose.jpg"], "1 of 2 images.*loose.jpg has none"),
        ([f"{TENCH}_1.jpg", "holiday 1.jpg"], "1 of 2 images.*holiday 1.jpg is labelled 'holiday'"),
    ],
)
def test_a_folder_without_what_is_needed(tmp_path: Path, imagenet: Classes, names: list[str], message: str) -> None:
    make(tmp_path, *names)
    with pytest.raises(CliError, match=message) as problem:
        dataset.read(tmp_path, imagenet)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "lists no images"),
        (["path,label"], "lists no images"),
        (["a.jpg"], "a line that lacks a path or a label: a.jpg"),
        (
            ["picture,kind", f"a.jpg,{TENCH}"],
            "1 files that are not below .*such as picture; if the file has a header, name",
        ),
        (["a.jpg,unicorn"], "1 of 1 images have no label.*a.jpg is labelled 'unicorn'"),
        (["a.jpg,1000"], "a.jpg is labelled '1000'"),
        (["a.jpg,crane"], f"'crane' is the name of 2 classes \\({CRANES[0]}, {CRANES[1]}\\); label with their ids"),
        (["a.jpg,0", "./a.jpg,1"], "lists a.jpg more than once"),
        (['a.jpg,"0'], "is not a CSV file"),
    ],
)
def test_a_csv_without_what_is_needed(tmp_path: Path, imagenet: Classes, lines: list[str], message: str) -> None:
    make(tmp_path, "a.jpg")
    with pytest.raises(CliError, match=message) as problem:
        dataset.read(table(tmp_path / "labels.csv", *lines), imagenet)
    assert "\n" not in str(problem.value)


def test_a_photo_is_no_csv(tmp_path: Path, imagenet: Classes) -> None:
    (tmp_path / "cat.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(CliError, match=r"cat\.jpg is not a CSV file"):
        dataset.read(tmp_path / "cat.jpg", imagenet)


def test_labels_come_from_one_place(tmp_path: Path, imagenet: Classes) -> None:
    path = table(make(tmp_path, "a.jpg") / "labels.csv", "a.jpg,0")
    for source, labels, layout in ((path, path, None), (path, None, "folders"), (tmp_path, path, "names")):
        with pytest.raises(CliError, match="labels have two sources"):
            dataset.read(source, imagenet, labels=labels, layout=layout)
    with pytest.raises(CliError, match="no such file or folder"):
        dataset.read(tmp_path / "nowhere", imagenet)


def test_a_set_is_the_same_elsewhere_but_not_with_other_images_or_labels(tmp_path: Path, imagenet: Classes) -> None:
    names = (f"{TENCH}/a.jpg", f"{GOLDFISH}/b.jpg")
    first, moved = (dataset.read(make(tmp_path / name, *names), imagenet) for name in ("first", "moved"))
    assert first.identity() == moved.identity()
    (moved.root / names[0]).write_bytes(b"longer than it was before")
    assert first.identity() != moved.identity()
    more = dataset.read(make(tmp_path / "first", f"{TENCH}/c.jpg"), imagenet)
    relabelled = LabelledSet(first.source, first.root, "csv", first.files, first.labels[::-1])
    assert len({one.identity()["sha256"] for one in (first, more, relabelled)}) == 3
