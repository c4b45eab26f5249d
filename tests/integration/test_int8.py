"""The quantised network, exported with photos and served."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
import torch
from torch import Tensor, nn

from densenet.service import temporary_instance
from export import bundle, quantizer, weights
from export.bundle import Quantization
from export.console import CliError
from export.layer_errors import LayerError
from export.quantizer import Quantized
from handler import cropping, embedding, explaining, scoring, transform
from handler.options import Norm
from tests.integration.conftest import build_archive, same
from tests.integration.truth import eager_embeddings, eager_maps
from tests.photos import cutouts, encode
from tests.precisions import needs

pytestmark = needs("int8")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibration")
    for i, image in enumerate(cutouts(24)):
        (folder / f"{i}.jpg").write_bytes(encode(image, quality=95))
    return folder


@pytest.fixture(scope="module", autouse=True)
def quantized_once() -> Iterator[None]:
    """The network of this module is quantised once, which takes most of an export's time."""
    results: list[Quantized] = []
    really_quantize = quantizer.quantize

    def quantize(eager: nn.Module, images: Tensor, advance: Callable[[], object]) -> Quantized:
        results[:] = results or [really_quantize(eager, images, advance)]
        return results[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantizer, "quantize", quantize)
        yield


@pytest.fixture(scope="module")
def exported_int8(checkpoint: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported-int8")
    bundle.make(weights.load(str(checkpoint)), None, Quantization(photos, 0)).write(folder)
    return folder


def test_the_card_says_what_int8_costs(exported_int8: Path) -> None:
    card = json.loads((exported_int8 / "model_card.json").read_text())
    assert card["precision"] == "int8"
    found = card["agreement"]
    assert found["calibrating_images"] + found["held_out"]["images"] == 24
    assert 0 < found["held_out"]["same_top1"] <= 1
    assert 0 <= found["held_out"]["mean_distance"] <= found["held_out"]["largest_distance"] < 1


def test_it_is_refused_where_too_many_answers_change_but_its_layers_are_reported(
    checkpoint: Path, photos: Path
) -> None:
    errors: list[LayerError] = []
    with pytest.raises(CliError, match=r"held-out photos keep their best class, 100\.0% are required"):
        bundle.make(weights.load(str(checkpoint)), None, Quantization(photos, 1.0), layer_measured=errors.append)
    assert len(errors) == 120


def test_a_map_is_nearly_that_of_the_eager_network(exported_int8: Path, network: nn.Module) -> None:
    served = scoring.read((exported_int8 / "model.pt").read_bytes())
    batch = transform.normalize([cropping.crop(image).tobytes() for image in cutouts(4)])
    scores = scoring.score(served, batch, chunk=4)
    eager = eager_maps(network, batch)
    for logits, activations, expected in zip(scores.logits, scores.activations, eager, strict=True):
        maps, bias = explaining.class_activation_maps(served, activations)
        torch.testing.assert_close(maps.mean((1, 2)) + bias, logits, rtol=0, atol=1e-4)
        assert torch.corrcoef(torch.stack([maps.flatten(), expected.flatten()]))[0, 1] > 0.9


def test_an_embedding_points_nearly_where_the_eager_networks_does(exported_int8: Path, network: nn.Module) -> None:
    batch = transform.normalize([cropping.crop(image).tobytes() for image in cutouts(4)])
    activations = scoring.score(scoring.read((exported_int8 / "model.pt").read_bytes()), batch, chunk=4).activations
    embeddings = torch.tensor([embedding.embed(image, Norm.RAW) for image in activations])
    assert torch.cosine_similarity(embeddings, eager_embeddings(network, batch)).min() > 0.997


def test_it_is_served_and_says_so(exported_int8: Path, tmp_path: Path) -> None:
    with temporary_instance.serving(build_archive(exported_int8, tmp_path, workers=1), tmp_path) as service:
        images = {f"photo {i}": encode(image) for i, image in enumerate(cutouts(3))}
        alone = [requests.put(service.url, data=image, timeout=60).json() for image in images.values()]
        together = requests.post(service.url, files=images, timeout=60).json()["results"]
    assert {answer["model"]["precision"] for answer in alone} == {"int8"}
    for one, other, name in zip(alone, together, images, strict=True):
        assert same(other, {"name": name} | one)
