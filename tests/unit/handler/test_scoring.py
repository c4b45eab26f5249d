"""The network's file, of other builds of torch than the one that loads it."""

import io
import warnings
import zipfile

import pytest
import torch
from torch import nn

from handler import scoring


class _Network(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x)


def test_an_operator_that_this_build_lacks_is_named_in_one_line_with_the_way_out() -> None:
    written, changed = io.BytesIO(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(_Network()), written)
    with zipfile.ZipFile(written) as original, zipfile.ZipFile(changed, "w") as copy:
        for record in original.infolist():
            content = original.read(record).replace(b"torch.relu(x)", b"ops.mkldnn._absent(x)")
            copy.writestr(record, content)
    with pytest.raises(ValueError, match="mkldnn::_absent") as refused:
        scoring.read(changed.getvalue())
    assert refused.value.__context__ is None
    assert str(refused.value) == (
        "this build of torch lacks mkldnn::_absent, which the network file uses: it was exported on another platform; "
        "export it on this machine: scripts/serve --rebuild, or python -m export"
    )


def test_a_damaged_file_is_told_in_torchs_words() -> None:
    with pytest.raises(RuntimeError, match="reader failed"):
        scoring.read(b"damaged")
