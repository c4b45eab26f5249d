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


@pytest.mark.parametrize(
    ("count", "chunk", "sizes"),
    [(1, 4, [1]), (3, 4, [2, 1]), (4, 4, [4]), (7, 4, [4, 2, 1]), (16, 4, [4] * 4), (9, 5, [4, 4, 1]), (6, 1, [1] * 6)],
)
def test_passes_have_few_sizes(count: int, chunk: int, sizes: list[int]) -> None:
    assert scoring.pass_sizes(count, chunk) == sizes


def test_images_keep_their_order_through_several_passes() -> None:
    class Sums(scoring.Network):
        def forward_features(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(len(images))
            return images.sum((1, 2, 3)).reshape(-1, 1, 1)

        def forward_head(self, activations: torch.Tensor) -> torch.Tensor:
            return activations[:, :, 0]

    seen: list[int] = []
    network = Sums(torch.nn.Module(), torch.nn.Module(), torch.device("cpu"))  # type: ignore[arg-type]
    batch = torch.arange(7.0).reshape(7, 1, 1, 1).expand(7, 3, 224, 224)
    scores = scoring.score(network, batch, chunk=4)
    assert seen == [4, 2, 1]
    assert (scores.logits[:, 0] / (3 * 224 * 224)).tolist() == pytest.approx([0, 1, 2, 3, 4, 5, 6])
    assert len(scores.activations) == 7
