"""densenet-predict's files, how it continues them, and the duplicates that it lists."""

import base64
import csv
import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from densenet_client.answers import WIDTH
from densenet_client.predict import main
from pyarrow import parquet
from typer import Typer
from typer.testing import CliRunner

from densenet import polling
from tests.unit.client.test_client import Asked, Fake, Reply, answer, serving
from tests.unit.client.test_embeddings import embedded, vector

REJECTION = Reply(415, '{"error": {"code": "not_an_image", "message": "this is \\"text\\", not an image"}}')
TOOLS = [sys.executable, "-P", "-m", "densenet_client.predict"]
APP = Typer()
APP.command()(main)


def by_content(asked: Asked) -> Reply:
    """Name the class after the image, and reject those that are text."""
    return REJECTION if asked.body == b"text" else Reply(body=answer(asked.body.decode()))


@pytest.fixture
def server() -> Iterator[Fake]:
    with serving(by_content) as server:
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five images; a name has what CSV and JSON must quote, and one is not UTF-8."""
    contents = {
        "a.jpg": "0",
        'b "1",\n.jpg': "1",
        "c/d.PNG": "text",
        "c/e.jpg": "3",
        os.fsdecode(b"f\xff.jpg"): "4",
        "notes.txt": "no image",
    }
    for name, content in contents.items():
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return tmp_path / "images"


def predict(*arguments: object, status: int | None = None) -> Result:
    done = CliRunner().invoke(APP, list(map(str, arguments)), catch_exceptions=False)
    assert status in (None, done.exit_code), done.output
    return done


def names(folder: Path) -> list[str]:
    return [f"{folder}/{name}" for name in ("a.jpg", 'b "1",\n.jpg', "c/d.PNG", "c/e.jpg", "f\\xff.jpg")]


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV or Parquet file, each value as text, an absent one as nothing."""
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            return list(csv.DictReader(file))
    rows: list[dict[str, Any]] = parquet.read_table(path).to_pylist()
    return [{name: "" if value is None else str(value) for name, value in row.items()} for row in rows]


def test_json_lines_csv_and_parquet_have_the_same_rows(folder: Path, server: Fake, tmp_path: Path) -> None:
    for extension in ("jsonl", "csv", "parquet"):
        done = predict("--url", server.url, "--output", tmp_path / f"out.{extension}", "--top-k", 2, folder, status=1)
        assert done.stdout == ""
        assert done.stderr.splitlines()[-1] == "predict: 1 of 5 images could not be classified"
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == names(folder)
    assert [line.get("predictions", [{}])[0].get("label") for line in lines] == ["0", "1", None, "3", "4"]
    assert lines[2]["error"] == {"code": "not_an_image", "message": 'not_an_image: this is "text", not an image'}
    model = {"name": "densenet", "version": "1.0", "weights": "untrained", "precision": "fp32"}
    assert (lines[0]["model"], lines[0]["options"]) == (model, {"top_k": 2})
    rows = read(tmp_path / "out.csv")
    assert [(row["file"], row["rank"], row["label"], row["error"]) for row in rows] == [
        (line["file"], str(rank) if rank else "", label, line.get("error", {}).get("message", ""))
        for line in lines
        for rank, label in ([(1, line["predictions"][0]["label"]), (2, "rest")] if "model" in line else [(0, "")])
    ]
    assert {(row["model"], row["weights"], row["top_k"]) for row in rows if row["rank"]} == {
        ("densenet", "untrained", "2")
    }
    assert read(tmp_path / "out.parquet") == rows
    assert parquet.read_schema(tmp_path / "out.parquet").field("probability").type == "double"
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.csv", "out.jsonl", "out.parquet"]


@pytest.mark.parametrize("extension", ["jsonl", "csv"])
def test_a_file_cut_off_anywhere_is_completed(extension: str, folder: Path, server: Fake, tmp_path: Path) -> None:
    whole, part = tmp_path / f"whole.{extension}", tmp_path / f"part.{extension}"
    predict("--url", server.url, "--output", whole, folder, status=1)
    complete = whole.read_bytes()
    for end in {*range(0, len(complete), 29), *(i for i in range(len(complete)) if complete[:i].endswith(b"\n"))}:
        part.write_bytes(complete[:end])
        server.asked.clear()
        predict("--url", server.url, "--output", part, "--resume", folder, status=1)
        assert part.read_bytes() == complete
        there = sum(complete[:end].count(content) for content in (b"not_an_image: ", b"rest"))
        assert 5 - there <= len(server.asked) <= 6 - there  # perhaps the first image once more
    server.asked.clear()
    assert "1 of 5 images" in predict("--url", server.url, "--output", part, "--resume", folder, status=1).stderr
    assert server.asked == []
    assert part.read_bytes() == complete


def test_what_was_killed_goes_on_and_asks_about_no_image_again(folder: Path, tmp_path: Path) -> None:
    """Parquet too, whose rows are in a CSV file until then."""
    stuck, path = True, tmp_path / "out.parquet"

    def script(asked: Asked) -> Reply | None:
        polling.wait_until(lambda: not (stuck and asked.body == b"text"), 60, 0.01)
        return by_content(asked)

    with serving(script) as server:
        arguments = ["--url", server.url, "--parallel", "1", "--output", path, "--resume", folder]
        with subprocess.Popen([*TOOLS, *map(str, arguments)], stderr=subprocess.DEVNULL) as process:
            assert polling.wait_until(lambda: len(server.asked) == 3, 60, 0.01)
            process.kill()
        stuck = False
        assert not path.exists()
        server.asked.clear()
        predict(*arguments, status=1)
        assert [asked.body for asked in server.asked] == [b"text", b"3", b"4"]
    assert list(dict.fromkeys(row["file"] for row in read(path))) == names(folder)


def test_ctrl_c_leaves_a_valid_file_and_reports_how_to_go_on(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.csv"

    def script(asked: Asked) -> Reply | None:
        if asked.body == b"text" and asked.number == 2:
            process.send_signal(signal.SIGINT)
        return by_content(asked)

    with serving(script) as server:
        arguments = ["--url", server.url, "--parallel", "1", "--output", path, folder]
        process = subprocess.Popen([*TOOLS, *map(str, arguments)], stderr=subprocess.PIPE, text=True)
        _, errors = process.communicate(timeout=60)
        count = len({row["file"] for row in read(path)})
        assert process.returncode == 130, errors
        assert errors.splitlines()[1:] == [
            f"predict: stopped; {path} has {count} images; the same command with --resume adds the others"
        ]
        assert 1 <= count < 5
        predict(*arguments, "--resume", status=1)
    assert list(dict.fromkeys(row["file"] for row in read(path))) == names(folder)


@pytest.mark.parametrize("extension", ["jsonl", "csv"])
def test_another_model_or_other_options_are_refused(extension: str, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / f"out.{extension}"
    with serving(by_content) as server:
        predict("--url", server.url, "--output", path, "--top-k", 2, folder / "a.jpg", folder / "c", status=1)
        before = path.read_bytes()
        again = ("--url", server.url, "--output", path, folder)
        assert "exists; continue it with --resume" in predict(*again, "--top-k", 2, status=1).stderr
        for options in ((), ("--top-k", 3), ("--top-k", 2, "--min-probability", 0.5)):
            assert "it was made with --top-k 2, not with" in predict(*again, "--resume", *options, status=1).stderr
    with serving(lambda _: Reply(body=answer().replace('"untrained"', '"better.pth"'))) as server:
        done = predict("--url", server.url, "--output", path, "--resume", "--top-k", 2, folder, status=1)
        had, answers = (f"densenet 1.0, weights {weights}, fp32" for weights in ("untrained", "better.pth"))
        assert f"{path} has answers of {had}; now {answers} answers" in done.stderr
    assert path.read_bytes() == before


def test_what_it_did_not_write_is_refused_and_kept(folder: Path, server: Fake, tmp_path: Path) -> None:
    for name, content in (
        ("a.csv", "path,label\nx,1\n"),
        ("b.csv", "path"),
        ("c.jsonl", '{"image": 1}'),
        ("c.jsonl", '{"file": "x", "class": 1}\n'),
    ):
        path = tmp_path / name
        path.write_text(content)
        done = predict("--url", server.url, "--output", path, "--resume", folder, status=1)
        assert f"predict: cannot continue {path}: " in done.stderr
        assert path.read_text() == content
    (tmp_path / "d.parquet").touch()
    for name, words in (("d.parquet", "is complete"), ("e.txt", "must end in .csv, .jsonl or .parquet")):
        assert words in predict("--url", server.url, "--output", tmp_path / name, "--resume", folder, status=1).stderr
    assert server.asked == []


def test_a_run_without_any_answer_leaves_no_file(folder: Path, tmp_path: Path) -> None:
    with serving(lambda _: Reply(404, "")) as server:
        predict("--url", server.url, "--output", tmp_path / "out.csv", folder, status=1)
    assert not list(tmp_path.glob("out*"))


def test_options_that_exclude_each_other_and_a_missing_pyarrow(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "numpy", None)
    for arguments, words in (
        (
            ("--csv", "--output", tmp_path / "a.csv"),
            "--csv, --output, --embeddings and --duplicates exclude each other",
        ),
        (("--csv", "--duplicates"), "exclude each other"),
        (("--json", "--embeddings", tmp_path / "a.npz"), "exclude each other"),
        (("--output", tmp_path / "a.csv", "--embeddings", tmp_path / "a.npz"), "exclude each other"),
        (("--resume",), "name it with --output or --embeddings"),
        (("--resume", "--duplicates"), "name it with --output or --embeddings"),
        (("--top-k", 3, "--duplicates"), "leave them out for embeddings and duplicates"),
        (("--embeddings", tmp_path / "a.csv"), "--embeddings must end in .npz or .parquet, not a.csv"),
        (("--embeddings", tmp_path / "a.npz"), "pip install 'densenet-client[embeddings]'"),
        (("--embeddings", tmp_path / "a.parquet"), "pip install 'densenet-client[parquet]'"),
        (("--duplicates",), "pip install 'densenet-client[embeddings]'"),
        (("--url", "http://localhost", "--port", 1), "--port chooses"),
        (("--output", tmp_path / "a.parquet"), "pip install 'densenet-client[parquet]'"),
        (("--output", tmp_path / "none" / "a.csv"), "a.csv: No such file or directory"),
    ):
        done = predict(*arguments, folder, status=1)
        assert words in done.stderr
        assert done.stderr.count("\n") == 1


def embeddings(path: Path) -> tuple[list[str], Any]:
    """The files' names and their embeddings."""
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            assert str(arrays["model"]) == "densenet 1.0, weights untrained, fp32"
            return arrays["files"].tolist(), arrays["embeddings"]
    table = parquet.read_table(path)
    assert table.column_names == ["file", "embedding", "model", "version", "weights", "precision"]
    assert {tuple(row) for row in zip(*(table[name].to_pylist() for name in table.column_names[2:]), strict=True)} == {
        ("densenet", "1.0", "untrained", "fp32")
    }
    return table["file"].to_pylist(), np.array(table["embedding"].to_pylist(), dtype=np.float32)


@pytest.mark.parametrize("option", [("--embeddings", "out.npz"), ("--embeddings", "out.parquet"), ("--duplicates",)])
def test_a_service_without_embeddings_is_told(option: tuple[str, ...], folder: Path, tmp_path: Path) -> None:
    first, *files = option
    with serving(by_content) as server:
        done = predict("--url", server.url, first, *(tmp_path / file for file in files), folder, status=1)
    assert "the service is older than this client" in done.stderr


@pytest.mark.parametrize("extension", ["npz", "parquet"])
def test_a_file_of_embeddings_has_those_of_all_images_that_were_answered(
    extension: str, folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / f"out.{extension}"
    expected = np.stack([vector(number) for number in (0, 1, 3, 4)])
    with serving(embedded) as server:
        done = predict("--url", server.url, "--embeddings", path, folder, status=1)
        assert {asked.headers["X-Embedding-Norm"] for asked in server.asked} == {"raw"}
        assert done.stderr.splitlines()[1:] == [
            f"{folder}/c/d.PNG: not_an_image: this is text",
            "predict: 1 of 5 images could not be classified",
        ]
        files, rows = embeddings(path)
        assert files == [name for name in names(folder) if name != f"{folder}/c/d.PNG"]
        assert np.array_equal(rows, expected)
        assert [entry.name for entry in tmp_path.glob("out*")] == [path.name]
        assert "is complete" in predict("--url", server.url, "--embeddings", path, "--resume", folder, status=1).stderr


def test_embeddings_go_on_where_the_last_run_was_ended(folder: Path, tmp_path: Path) -> None:
    path, rows = tmp_path / "out.npz", tmp_path / "out.npz.jsonl"
    text = base64.b64encode(vector(0).tobytes()).decode()
    model = json.loads(answer())["model"]
    first = json.dumps({"file": names(folder)[0], "embedding": text, "model": model, "options": {}})
    rows.write_text(f'{first}\n{{"file": "cut o')
    with serving(embedded) as server:
        arguments = ("--url", server.url, "--parallel", 1, "--embeddings", path, folder)
        assert "exists; continue it with --resume" in predict(*arguments, status=1).stderr
        predict(*arguments, "--resume", status=1)
        assert [asked.body for asked in server.asked] == [b"1", b"text", b"3", b"4"]
    files, found = embeddings(path)
    assert files == [name for name in names(folder) if name != f"{folder}/c/d.PNG"]
    assert np.array_equal(found, np.stack([vector(number) for number in (0, 1, 3, 4)]))


def test_a_file_of_answers_does_not_become_one_of_embeddings(folder: Path, server: Fake, tmp_path: Path) -> None:
    predict("--url", server.url, "--output", tmp_path / "out.npz.jsonl", folder, status=1)
    arguments = ("--url", server.url, "--embeddings", tmp_path / "out.npz", "--resume", folder)
    assert "it has answers, not embeddings; give another --embeddings" in predict(*arguments, status=1).stderr


def test_no_image_with_an_embedding_makes_an_empty_file(folder: Path, tmp_path: Path) -> None:
    with serving(embedded) as server:
        for extension in ("npz", "parquet"):
            path = tmp_path / f"out.{extension}"
            predict("--url", server.url, "--embeddings", path, folder / "c" / "d.PNG", status=1)
            if extension == "npz":
                with np.load(path) as arrays:
                    assert (arrays["files"].tolist(), arrays["embeddings"].shape) == ([], (0, WIDTH))
            else:
                assert parquet.read_table(path).num_rows == 0


@pytest.mark.parametrize("as_json", [True, False])
def test_duplicates_are_listed_in_groups(as_json: bool, folder: Path) -> None:
    (folder / "c" / "copy of 3.jpg").write_text("3")
    (folder / "copy of 0.jpg").write_text("0")
    expected = [
        (1, [f"{folder}/a.jpg", f"{folder}/copy of 0.jpg"]),
        (2, [f"{folder}/c/copy of 3.jpg", f"{folder}/c/e.jpg"]),
    ]
    with serving(unit_embedded) as server:
        arguments = ["--json"] if as_json else []
        done = predict("--url", server.url, "--duplicates", *arguments, folder, status=1)
        assert {asked.headers["X-Embedding-Norm"] for asked in server.asked} == {"l2"}
    assert f"{folder}/c/d.PNG: not_an_image: this is text" in done.stderr.splitlines()
    if as_json:
        groups = [json.loads(line) for line in done.stdout.splitlines()]
        assert [(group["group"], [row["file"] for row in group["files"]]) for group in groups] == expected
        assert all(row["similarity"] == pytest.approx(1) for group in groups for row in group["files"])
    else:
        header, *rows = [line.strip().split(maxsplit=2) for line in done.stdout.splitlines()]
        assert header == ["group", "similarity", "file"]
        assert rows == [[str(number), "1.0000", name] for number, group in expected for name in group]


def test_how_similar_they_must_be_is_an_option(folder: Path) -> None:
    with serving(unit_embedded) as server:
        arguments = ("--url", server.url, "--duplicates", "--json", folder)
        assert predict(*arguments, status=1).stdout == ""
        (group,) = predict(*arguments, "--min-similarity", 0.5, status=1).stdout.splitlines()
    assert len(json.loads(group)["files"]) == 4


def unit_embedded(asked: Asked) -> Reply:
    """The same embedding, of length 1; those of different numbers have cosines of about 0.75."""
    reply = embedded(asked)
    if reply.status != 200:
        return reply
    document = json.loads(reply.body)
    numbers = np.frombuffer(base64.b64decode(document["embedding"]), "<f4")
    document["embedding"] = base64.b64encode((numbers / np.linalg.norm(numbers)).tobytes()).decode()
    return Reply(body=json.dumps(document))


def test_the_progress_bar_shows_images_a_second_and_the_time_that_remains(folder: Path, server: Fake) -> None:
    reader, terminal = pty.openpty()
    command = [*TOOLS, "--json", "--url", server.url, *[str(folder)] * 40]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=terminal, env=os.environ | {"TERM": "xterm"}):
        os.close(terminal)
        shown = b""
        try:
            while piece := os.read(reader, 65536):
                shown += piece
        except OSError:  # the terminal's other end is closed
            os.close(reader)
    assert b"/200" in shown
    assert b"images/s" in shown
