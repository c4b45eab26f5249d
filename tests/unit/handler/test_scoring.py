"""The network's file, of other builds of torch than the one that loads it."""

import io
import threading
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path

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


def means(passes: list[tuple[int, int]], at_once: int = 1) -> scoring.Network:
    """A network whose one logit is the image's mean. It notes each pass: its images and threads."""
    others = threading.Barrier(at_once)

    class Means(scoring.Network):
        def forward_features(self, images: torch.Tensor) -> torch.Tensor:
            others.wait(5)
            if images.isnan().any():
                raise ValueError("of a pass")
            passes.append((len(images), torch.get_num_threads()))
            return images.mean((1, 2, 3)).reshape(-1, 1, 1)

        def forward_head(self, activations: torch.Tensor) -> torch.Tensor:
            return activations[:, :, 0]

    return Means(torch.nn.Module(), torch.nn.Module(), torch.device("cpu"))  # type: ignore[arg-type]


@pytest.fixture
def _as_in_a_worker() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("count", "threads", "at_once", "passes"),
    [
        (7, 1, 1, [(4, 1), (2, 1), (1, 1)]),
        (1, 4, 1, [(1, 4)]),
        (2, 2, 2, [(1, 1)] * 2),
        (2, 4, 2, [(1, 2)] * 2),
        (7, 2, 1, [(4, 1), (2, 1), (1, 1)]),  # an odd number of passes
        (16, 2, 2, [(4, 1)] * 4),
        (3, 8, 3, [(1, 2)] * 3),
    ],
)
@pytest.mark.usefixtures("_as_in_a_worker")
def test_passes_run_at_once_and_images_keep_their_order(
    count: int, threads: int, at_once: int, passes: list[tuple[int, int]]
) -> None:
    seen: list[tuple[int, int]] = []
    network = means(seen, at_once)
    batch = torch.arange(float(count)).reshape(-1, 1, 1, 1).expand(-1, 3, 224, 224)
    scores = scoring.score(network, batch, chunk=4, threads=threads)
    assert sorted(seen, reverse=True) == passes
    assert scores.logits[:, 0].tolist() == pytest.approx(list(range(count)), abs=1e-3)
    assert [float(activations) for activations in scores.activations] == scores.logits[:, 0].tolist()
    # What is computed beside the network, such as an explanation, has the same last digits whatever the load.
    assert torch.get_num_threads() == 1


@pytest.mark.usefixtures("_as_in_a_worker")
def test_no_pass_goes_on_after_another_has_failed() -> None:
    seen: list[tuple[int, int]] = []
    batch = torch.tensor([torch.nan, 1.0, 1.0, 1.0]).reshape(4, 1, 1, 1).expand(-1, 3, 224, 224)
    with pytest.raises(ValueError, match="of a pass"):
        scoring.score(means(seen), batch, chunk=1, threads=2)
    assert seen == [(1, 1), (1, 1)]  # of the other thread
    assert torch.get_num_threads() == 1


@pytest.mark.parametrize("threads", [2, 4])
@pytest.mark.usefixtures("_as_in_a_worker")
def test_passes_at_once_are_the_same_function(exported: Path, threads: int) -> None:
    network = scoring.read((exported / "model.pt").read_bytes())
    batch = torch.randn(5, 3, 224, 224)
    together, alone = (scoring.score(network, batch, chunk=4, threads=count).logits for count in (threads, 1))
    assert ((together - alone).abs().amax(1) <= 1e-4 * alone.std(1)).all()
