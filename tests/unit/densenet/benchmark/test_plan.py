"""The plan: who is measured on which processor, and in which order."""

from collections.abc import Collection

import pytest

from densenet.benchmark import plan
from densenet.benchmark.plan import LARGE, LOADS, QUICK_LOADS, SMALL, Effort, Load, Part, ServedSystem, System
from export import Precision

VNNI = ("avx2", "avx512f", "avx512_vnni")


AMX = (*VNNI, "avx512_bf16", "amx_int8", "amx_bf16")


def names(flags: Collection[str] = VNNI) -> list[str]:
    return [served.name for served in plan.served_systems(flags)]


def test_what_is_served_is_measured_with_one_and_two_workers() -> None:
    for precision in plan.precisions(AMX):
        assert {f"ours-{precision}-1", f"ours-{precision}-2"} <= set(names(AMX))
    assert {"fp32", "int8"} <= set(plan.precisions(VNNI))
    assert set(plan.precisions((*VNNI, "amx_bf16"))) == set(Precision) - {Precision.FP16}


def test_bf16_is_measured_only_where_the_processor_has_it() -> None:
    assert not [engine.name for engine in plan.engines(VNNI) if "bf16" in engine.name]
    assert "openvino bf16" in [engine.name for engine in plan.engines((*VNNI, "amx_bf16"))]
    beside = {"ours-bf16-1", "ours-bf16-2", "openvino-bf16-2"}
    assert set(names(AMX)) == set(names()) | beside
    assert not beside & set(names())


def test_all_the_peers_are_there_each_once() -> None:
    found = names()
    assert len(set(found)) == len(found)
    peers = {"flask-fp32-1", "gunicorn-fp32-2", "torchserve-fp32-2", "openvino-fp32-2", "openvino-int8-2"}
    assert peers | {"onnxruntime-fp32-2", "onnxruntime-int8-2"} <= set(found)


def test_one_worker_is_put_under_the_loads_that_scaling_is_told_by() -> None:
    one, two = (ServedSystem(System.OURS, "fp32", 1, (Load(SMALL, 8),)), ServedSystem(System.OURS, "fp32", 2))
    assert plan.loads(one, Effort(1, 1)) == [Load(SMALL, 8)]
    assert plan.loads(two, Effort(1, 1)) == list(LOADS)
    assert plan.loads(two, Effort(1, 1, QUICK_LOADS)) == list(QUICK_LOADS)
    assert Load(LARGE, 1) in QUICK_LOADS


def test_rounds_begin_elsewhere_and_go_both_ways() -> None:
    orders = [plan.in_order("abcd", turn) for turn in range(4)]
    assert orders[0] == ["a", "b", "c", "d"]
    assert orders[1] == ["a", "d", "c", "b"]
    assert orders[2] == ["c", "d", "a", "b"]
    assert all(sorted(order) == ["a", "b", "c", "d"] for order in orders)
    assert plan.in_order([], 3) == []


def test_a_full_run_and_a_quick_one_are_bounded() -> None:
    served_systems = plan.served_systems(VNNI)
    full = plan.minutes(list(Part), served_systems, Effort(3, 4))
    quick = plan.minutes(list(Part), served_systems, Effort(1, 2, QUICK_LOADS))
    assert quick < full / 2
    assert full < 45
    assert plan.minutes([Part.NETWORK], [], Effort(1, 2)) < quick


@pytest.mark.parametrize(("load", "text"), [(Load(SMALL, 8), "500×335, 8"), (Load(LARGE, 1), "4000×3000, 1")])
def test_loads_in_words(load: Load, text: str) -> None:
    assert str(load) == text
