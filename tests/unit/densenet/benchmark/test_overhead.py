"""Overhead: oneDNN's verbose lines are added up, and operator calls are those of the profiler."""

from pathlib import Path

import pytest
import torch

from densenet.benchmark import overhead, subprocess_rpc
from export.console import CliError
from handler import hardware, scoring

VERBOSE = """onednn_verbose,v1,info,oneDNN v3.12.0 (commit 0)
onednn_verbose,v1,primitive,info,template:operation,engine,primitive,implementation,prop_kind,exec_time
onednn_verbose,v1,primitive,create:cache_miss,cpu,matmul,brg_matmul:avx512_core,undef,,,,49x768:768x128,9.5
onednn_verbose,v1,primitive,exec,cpu,matmul,brg_matmul:avx512_core,undef,,,,49x768:768x128,0.125
something else on stdout
onednn_verbose,v1,primitive,exec,cpu,convolution,brg_conv_fwd:avx512_core,forward_inference,,,,mb1_ic3oc64,0.5
"""


def test_only_executions_of_kernels_count() -> None:
    assert overhead.executions(VERBOSE) == [0.125, 0.5]
    with pytest.raises(CliError, match="oneDNN reports no execution"):
        overhead.executions("something else on stdout\n")


class Features(torch.nn.Module):
    """Three calls of the interpreter, of which permute calls as_strided, and relu clamp_min."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.relu(images.permute(0, 2, 3, 1)).view(1, -1)


class Head(torch.nn.Module):
    """One call of the interpreter."""

    def forward(self, activations: torch.Tensor) -> torch.Tensor:
        return torch.maximum(activations, activations)


def test_calls_of_the_interpreter_and_what_these_call_are_counted_but_no_as_strided() -> None:
    images = torch.ones(1, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    features, head = Features(), Head()
    network = scoring.Network(
        torch.jit.freeze(torch.jit.trace(features, images).eval()),
        torch.jit.freeze(torch.jit.trace(head, features(images)).eval()),
        scoring.CPU,
    )
    assert overhead.operator_calls(network, images) == (3 + 1) + 1


@pytest.mark.skipif(not hardware.has_onednn(), reason="this build of torch has no oneDNN")
def test_a_real_pass_is_taken_apart(exported: Path) -> None:
    rows = subprocess_rpc.run(overhead.times, exported, 2)
    assert [row["round"] for row in rows] == [0, 1]
    for row in rows:
        assert row["outside_ms"] == pytest.approx(row["cpu_ms"] - row["kernels_ms"])
        assert min(row["cpu_ms"], row["kernels_ms"]) > 0
    # A pass makes the same calls each time; each of the 121 layers is a call at least.
    assert rows[0]["operator_calls"] == rows[1]["operator_calls"] >= 121
