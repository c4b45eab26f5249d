"""Targets, report and plot, from a record that is written here."""

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from densenet.benchmark import plan, plot, report, targets
from densenet.benchmark.plan import Part
from densenet.benchmark.record import OVERHEAD, Record
from densenet.benchmark.targets import Verdict

ROUNDS = 3
RATES = {"flask-fp32-1": 10.0, "torchserve-fp32-2": 12.0, "openvino-fp32-2": 30.0, "openvino-int8-2": 100.0}
RATES |= {"ours-fp32-2": 36.0, "ours-int8-2": 90.0, "ours-fp32-1": 18.0, "ours-int8-1": 50.0}
TIMES = {"ours fp32": 50, "openvino fp32": 55, "ours int8": 20, "openvino int8": 19}
MACHINE = {"processor": "A|B", "family": "25 / 17", "flags": ["avx2"], "cores": 2, "memory_gib": 24, "system": "Linux"}
MACHINE |= {"load_before": 0.1, "python": "3.11.7", "versions": {"torch": "2.15.0"}}
ABOUT = {"made": "2026-11-21", "weights": "untrained", "quick": False, "rounds": ROUNDS, "seconds": 4}


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    record = Record(tmp_path_factory.mktemp("record") / "performance.json", ABOUT | {"machine": MACHINE})
    for turn in range(ROUNDS):
        speed = 1 - 0.1 * turn  # of the machine, in this round
        for served, rate in RATES.items():
            for load in plan.QUICK_LOADS:
                latency = 1000 * load.clients / rate / speed
                numbers = {"throughput": rate * speed, "p50": latency, "p95": 2 * latency, "answers": 9}
                row = numbers | {"others": {}, "generator_ms": 0.4, "elsewhere": 0.01 * turn}
                record.add(Part.HTTP, round=turn, contender=served, load=str(load), **row)
        for engine, milliseconds in TIMES.items():
            for threads in (1, 2):
                times = {"threads": threads, "milliseconds": milliseconds / threads / speed, "elsewhere": 0.01}
                record.add(Part.NETWORK, round=turn, engine=engine, **times)
        for precision, outside in (("fp32", 1.0), ("int8", 3.4)):
            times = {"cpu_ms": 20.0, "kernels_ms": 20.0 - outside, "outside_ms": outside + 0.1 * turn}
            record.add(OVERHEAD, round=turn, precision=precision, operator_calls=640, **times)
        for way in ("tutorial", "ours"):
            record.add(Part.DECODING, round=turn, size="500×335", way=way, milliseconds=6.5)
        for batch in (1, 32):
            record.add(Part.GPU, round=turn, way="ours fp16", batch=batch, throughput=100.0 * batch)
        for precision, megabytes in (("fp32", 431 + turn), ("int8", 300)):
            record.add(Part.WORKERS, round=turn, precision=precision, seconds=3.0, private_mb=megabytes)
            back = None if precision == "int8" else 0.2
            numbers = {"throughput": 28.0, "best": 30.0, "p50": 3000.0, "unclear": turn, "seconds_to_normal": back}
            record.add(Part.OVERLOAD, round=turn, precision=precision, others={"503": 100}, examples=[], **numbers)
    record.finish(12.34)
    return record.document


def verdict(document: dict[str, Any], what: str) -> Verdict:
    (found,) = [one for one in targets.judge(document) if one.target.what == what]
    return found


@pytest.mark.parametrize(
    ("what", "measured", "word"),
    [
        ("throughput, 8 clients, fp32 against the Flask tutorial", "3.60× (3.60 to 3.60)", "met"),
        ("throughput, 8 clients, int8 against the Flask tutorial", "9.00× (9.00 to 9.00)", "met"),
        ("throughput, 8 clients, fp32 against TorchServe's handler", "3.00× (3.00 to 3.00)", "met"),
        ("throughput, 8 clients, int8 against OpenVINO behind uvicorn", "0.90× (0.90 to 0.90)", "not met"),
        ("network without HTTP, 1 thread, fp32 against OpenVINO", "1.10× (1.10 to 1.10)", "met"),
        ("network without HTTP, 1 thread, int8 against OpenVINO", "0.95× (0.95 to 0.95)", "not met"),
        ("network without HTTP, 1 thread, int8: time outside kernels", "3.50 ms (3.40 to 3.60)", "met"),
        ("median time, 1 client, int8 against the Flask tutorial", "0.11 of its time (0.11 to 0.11)", "met"),
        ("median time, 1 client, fp32 against OpenVINO", "0.83 of its time (0.83 to 0.83)", "not met"),
        ("median time, 12 megapixels, 1 client, fp32 against OpenVINO", "0.83 of its time (0.83 to 0.83)", "met"),
        ("median time, 12 megapixels, 1 client, int8 against OpenVINO", "1.11 of its time (1.11 to 1.11)", "not met"),
        (
            "median time, 12 megapixels, 1 client, fp32 against the Flask tutorial",
            "0.28 of its time (0.28 to 0.28)",
            "not met",
        ),
        ("one more worker, fp32: private memory", "432 MB (431 to 433)", "not met"),
        ("one more worker, int8: private memory", "300 MB (300 to 300)", "met"),
        ("one more worker, int8: ready after the request", "3.00 s (3.00 to 3.00)", "met"),
        ("200 clients, fp32: answers neither right nor a clear 503", "1.00 (0.00 to 2.00)", "not met"),
        ("200 clients, fp32: throughput against its best", "0.93× (0.93 to 0.93)", "met"),
        ("200 clients, fp32: back to normal after the end", "0.20 s (0.20 to 0.20)", "met"),
        ("200 clients, int8: back to normal after the end", "never (never to never)", "not met"),
    ],
)
def test_targets_are_judged_by_the_median_of_the_rounds(
    document: dict[str, Any], what: str, measured: str, word: str
) -> None:
    found = verdict(document, what)
    assert (found.measured, found.word) == (measured, word)


OPENVINO = "throughput, 8 clients, {} against OpenVINO behind uvicorn"
NETWORK = "network without HTTP, 1 thread, {} against OpenVINO"
OUTSIDE = "network without HTTP, 1 thread, {}: time outside kernels"
PROCESSORS = {
    "without AMX or bf16": ["avx512_vnni"],
    "without AMX": ["avx512_vnni", "avx512_bf16"],
    "with AMX": ["avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"],
}


@pytest.mark.parametrize(
    ("what", "bounds"),
    [
        (OPENVINO.format("fp32"), (1, 1, 1)),
        (OPENVINO.format("int8"), (1, 1, 1.1)),
        (OPENVINO.format("bf16"), (None, None, 1)),
        (NETWORK.format("fp32"), (1, 1, 1)),
        (NETWORK.format("int8"), (1, 1, 0.9)),
        (NETWORK.format("bf16"), (None, 1, 0.9)),
        (OUTSIDE.format("int8"), (3.5, 3.5, 3.5)),
        (OUTSIDE.format("bf16"), (None, 4, 4)),
        (OUTSIDE.format("fp32"), (None, None, None)),
    ],
)
def test_what_is_required_depends_on_the_processor(what: str, bounds: tuple[float | None, ...]) -> None:
    for flags, bound in zip(PROCESSORS.values(), bounds, strict=True):
        found = [t.bound for t in targets.for_machine(MACHINE | {"flags": flags}) if t.what == what]
        assert found == ([] if bound is None else [bound]), flags


@pytest.mark.parametrize(("torch", "fp32", "int8"), [("2.15.0", 430, 350), ("2.15.0+cpu", 320, 320)])
def test_a_worker_of_a_cpu_build_must_be_smaller(torch: str, fp32: int, int8: int) -> None:
    found = {t.what: t.bound for t in targets.for_machine(MACHINE | {"versions": {"torch": torch}})}
    assert [found[f"one more worker, {p}: private memory"] for p in ("fp32", "int8")] == [fp32, int8]


def test_a_part_that_was_not_measured_is_neither_met_nor_missed(tmp_path: Path) -> None:
    empty = Record(tmp_path / "performance.json", ABOUT | {"machine": MACHINE}).document
    assert {one.word for one in targets.judge(empty)} == {"not measured"}
    whats = [target.what for target in targets.for_machine(MACHINE)]
    assert len(set(whats)) == len(whats)
    page = report.markdown(empty, "p.svg")
    assert page.count("not measured") == len(whats)
    assert "## Over HTTP" not in page


def test_the_report_has_every_number(document: dict[str, Any]) -> None:
    page = report.markdown(document, "performance.svg")
    assert "| ours-fp32-2 | 32.4 (28.8 to 36.0) | 32.4 (28.8 to 36.0) | 32.4 (28.8 to 36.0) |" in page
    assert "| openvino fp32 | 61.1 (55.0 to 68.8) | 30.6 (27.5 to 34.4) |" in page
    assert "| tutorial | 6.50 (6.50 to 6.50) |" in page
    assert "| fp32 | 3.00 (3.00 to 3.00) | 432 (431 to 433) |" in page
    assert "never" in page
    assert "## The network without HTTP (avx2)" in page
    assert "| ours int8 | 20.0 (20.0 to 20.0) | 16.6 (16.6 to 16.6) | 3.50 (3.40 to 3.60) | 640 (640 to 640) |" in page
    assert "A/B (25 / 17), 2 cores" in page, "a bar would end the table's cell"
    assert "12.3 minutes" in page
    assert "0.4 ms of CPU per request at 100 images/s" in page
    assert "![Throughput, latency and the network without HTTP](performance.svg)" in page
    assert "What failed" not in page
    assert "quick" not in page.partition("## Targets")[0]
    assert all(len(set(re.findall(r"\|", line))) <= 1 for line in page.splitlines())


def test_a_machine_that_was_not_quiet_is_named(document: dict[str, Any]) -> None:
    quiet = report.markdown(document, "p.svg")
    assert "In 0 of 96 measurements other programs took more than 10% of the processor." in quiet
    rows = [row | {"elsewhere": 0.5 if row["threads"] == 2 else 0.1} for row in document[Part.NETWORK]]
    noisy = report.markdown(document | {Part.NETWORK.value: rows}, "p.svg")
    assert "**The machine was not quiet.** In 12 of 96 measurements" in noisy
    assert "up to 50%." in noisy


def test_tables_are_even(document: dict[str, Any]) -> None:
    for table in re.findall(r"(?:^\|.*\n)+", report.markdown(document, "p.svg"), re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1, table


def test_one_round_has_no_spread(document: dict[str, Any]) -> None:
    first = document | {Part.HTTP.value: [row for row in document[Part.HTTP] if row["round"] == 0]}
    assert verdict(first, "throughput, 8 clients, fp32 against the Flask tutorial").measured == "3.60×"


def test_the_plot_has_a_panel_for_what_was_measured(document: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "p.svg"
    assert plot.write(document, path)
    text = "".join(ElementTree.parse(path).getroot().itertext())
    assert all(title in text for title in ("8 clients", "1 client", "network alone"))
    assert "ours-int8-2" in text
    assert path.stat().st_size < 300_000
    plot.write(document | {Part.NETWORK.value: []}, path)
    assert "network alone" not in path.read_text()


def test_without_panels_there_is_no_plot(document: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "p.svg"
    path.write_text("of an earlier run")
    assert not plot.write(document | {Part.NETWORK.value: [], Part.HTTP.value: []}, path)
    assert not path.exists()
    assert "![" not in report.markdown(document, None)


def test_the_record_is_on_the_disk_after_every_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "performance.json"
    path.write_text("an earlier run's")
    record = Record(path, ABOUT | {"machine": MACHINE})
    record.finish(0)
    assert path.read_text() == "an earlier run's", "a run without any number leaves it alone"
    record.add(Part.DECODING, round=0, size="500×335", way="ours", milliseconds=1.5)
    assert json.loads(path.read_text())["decoding"] == record.document["decoding"]
    with record.guarded(Part.HTTP, "flask"):
        raise ValueError("cannot\n  start")
    assert json.loads(path.read_text())["failures"] == [{"part": "http", "what": "flask", "reason": "cannot start"}]
    assert "flask failed: cannot start" in capsys.readouterr().err
    assert "| http | flask | cannot start |" in report.markdown(record.document, "p.svg")


def test_ctrl_c_is_no_failure_of_a_step(tmp_path: Path) -> None:
    record = Record(tmp_path / "performance.json", ABOUT)
    with pytest.raises(KeyboardInterrupt), record.guarded(Part.HTTP, "flask"):
        raise KeyboardInterrupt
    assert not record.measured
