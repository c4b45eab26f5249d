"""From what was sent and timed to numbers: spreads, ratios, throughput, overload."""

import json
import math
import subprocess
import sys

import pytest

from densenet.benchmark import load, machine, overload
from densenet.benchmark.load import Answer
from densenet.benchmark.overload import Probe
from densenet.benchmark.statistics import Summary, ratio, summarize
from export import processor
from export.console import CliError

CPUINFO = """processor\t: 0
cpu family\t: 25
model\t\t: 17
model name\t: A Processor
flags\t\t: fpu avx2 avx512f avx512_vnni avx512_bf16 rdpid

processor\t: 1
model name\t: Another
"""


def test_a_spread_is_the_median_and_the_extremes() -> None:
    assert summarize([3.0, 1.0, 2.0]) == Summary(2.0, 1.0, 3.0, 3)
    assert summarize([1.0, 2.0]) == Summary(1.5, 1.0, 2.0, 2)
    assert summarize([]) is None


def test_ratios_are_formed_within_a_round() -> None:
    # The second round ran on a machine half as fast: the quotients agree all the same.
    assert ratio({0: 40.0, 1: 20.0}, {0: 10.0, 1: 5.0}) == Summary(4.0, 4.0, 4.0, 2)
    assert ratio({0: 40.0, 2: 30.0}, {0: 10.0, 1: 10.0}) == Summary(4.0, 4.0, 4.0, 1)
    assert ratio({0: 1.0}, {}) is None
    assert ratio({0: 1.0}, {0: 0.0}) is None


def answers(times: list[float], milliseconds: float = 100, status: int = 200) -> list[Answer]:
    return [Answer(finished, milliseconds, status, "" if status == 200 else "busy") for finished in times]


def test_throughput_is_counted_from_answer_to_answer_after_the_ramp() -> None:
    every = answers([1000 + 0.1 * i for i in range(1, 60)])
    found = load.summarise(every, 5)
    assert found["throughput"] == pytest.approx(10)
    assert (found["p50"], found["p95"], found["others"]) == (100, 100, {})
    # The first request began at 1000.0: what ended before 1001 or after 1005 does not count.
    assert found["answers"] == 41


def test_slow_answers_after_the_end_do_not_count() -> None:
    found = load.summarise([*answers([10.5, 11.6, 12.1, 12.6, 13.1]), *answers([19.0], 7000)], 4)
    assert (found["answers"], found["throughput"]) == (4, pytest.approx(2))


def test_only_right_answers_are_throughput() -> None:
    found = load.summarise([*answers([0.1, 1.5, 2.0, 2.5]), *answers([1.6, 1.7], 1, 503), *answers([9], 1, 0)], 3)
    assert (found["answers"], found["others"]) == (3, {"503": 2, "0": 1})


@pytest.mark.parametrize("every", [[], answers([0.5, 1.5]), answers([0.5, 1.5, 2, 2.5], 10, 500)])
def test_too_few_answers_are_a_problem(every: list[Answer]) -> None:
    with pytest.raises(CliError, match="right answers in 2 seconds"):
        load.summarise(every, 3)


def test_quantiles_are_interpolated() -> None:
    assert load.quantile([10.0, 20.0, 30.0], 50) == 20
    assert load.quantile([0.0, 100.0], 95) == pytest.approx(95)


def test_what_the_load_generator_wrote_is_read_in_the_order_of_the_ends() -> None:
    sent = load.read(json.dumps({"cpu_seconds": 0.5, "answers": [[2.0, 9.5, 200, ""], [1.0, 3.0, 503, "busy"]]}))
    assert sent.answers == (Answer(1.0, 3.0, 503, "busy"), Answer(2.0, 9.5, 200, ""))
    assert sent.cost == 250


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(0, 1, 503, '{"code": 503, "message": "no worker is free"}'), True),
        (Answer(0, 1, 503, ""), False),
        (Answer(0, 1, 500, '{"message": "Worker died."}'), False),
        (Answer(0, 1, 0, "connection reset"), False),
    ],
)
def test_only_a_503_with_words_is_a_clear_refusal(answer: Answer, expected: bool) -> None:
    assert overload.clear(answer) is expected


def probes(*values: tuple[float, float, int]) -> list[Probe]:
    return [Probe(begun, begun + seconds, status) for begun, seconds, status in values]


BEFORE = probes((0, 0.1, 200), (0.2, 0.1, 200), (0.4, 0.1, 200))


def test_normal_is_counted_from_the_end_of_the_load() -> None:
    # The load lasts from 1 to 5; what was asked during it does not count, however fast.
    during = probes((2, 0.05, 200), (3, 1.9, 200))
    after = probes((5.0, 0.4, 200), (5.4, 0.14, 200), (5.6, 0.11, 200))
    assert overload.seconds_to_normal([*BEFORE, *during, *after], 1, 5) == pytest.approx(0.4)


def test_a_refusal_is_not_normal_and_neither_is_one_lucky_answer() -> None:
    after = probes((5.0, 0.1, 503), (5.2, 0.1, 200), (5.4, 0.9, 200), (6.4, 0.8, 200), (7.4, 0.1, 200))
    assert overload.seconds_to_normal([*BEFORE, *after], 1, 5) == pytest.approx(2.4)


def test_what_never_gets_normal_again_has_no_time() -> None:
    assert overload.seconds_to_normal([*BEFORE, *probes((5, 0.2, 200), (6, 0.2, 200))], 1, 5) is None
    assert overload.seconds_to_normal(BEFORE, 1, 5) is None


def test_the_processor_is_described_by_what_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "cpuinfo", lambda: CPUINFO)
    found = machine.describe()
    assert (found["processor"], found["family"]) == ("A Processor", "25 / 17")
    assert found["flags"] == ["avx2", "avx512f", "avx512_vnni", "avx512_bf16"]
    monkeypatch.setattr(processor, "cpuinfo", lambda: "")
    found = machine.describe()
    assert found["processor"]
    assert (found["family"], found["flags"]) == ("", [])


def test_only_what_others_compute_counts_as_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = {"_busy_seconds": [10.0, 14.0, 8.0], "_our_seconds": [1.0, 3.0, 3.0]}
    for name, values in clocks.items():
        monkeypatch.setattr(machine, name, iter(values).__next__)
    monkeypatch.setattr(machine.time, "monotonic", iter([0.0, 2.0, 2.0]).__next__)
    monkeypatch.setattr(machine.psutil, "cpu_count", lambda: 2)
    elsewhere = machine.Elsewhere()
    assert elsewhere.share() == 0.5  # four seconds were computed on two cores, two of them by us
    assert elsewhere.share() == 0.0, "clocks that do not agree are no negative share"


def test_what_children_computed_is_ours_after_their_end() -> None:
    before = machine._our_seconds()
    subprocess.run([sys.executable, "-c", "sum(range(5_000_000))"], check=True)
    assert machine._our_seconds() - before > 0.03


def test_the_machine_has_everything_the_report_names() -> None:
    found = machine.describe()
    assert found["cores"] >= 1
    assert found["memory_gib"] >= 1
    assert found["processor"]
    assert found["versions"]["torch"].startswith("2.")
    assert not math.isnan(found["load_before"])
    json.dumps(found)
