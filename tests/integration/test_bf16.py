"""The network in bf16, exported and served, where the processor has the instructions."""

import json
from pathlib import Path

import requests
import torch
from torch import nn

from densenet.service import temporary_instance
from export import Precision, bundle, weights
from handler import cropping, embedding, scoring, transform
from handler.options import Norm
from handler.ranking import load_class_index
from tests.conftest import tutorial_transform
from tests.integration.conftest import build_archive
from tests.integration.truth import eager_embeddings
from tests.photos import cutouts, encode
from tests.precisions import needs


@needs("bf16")
def test_it_is_served_and_says_so(network: nn.Module, checkpoint: Path, exported: Path, tmp_path: Path) -> None:
    bundle.make(weights.load(str(checkpoint)), None, Precision.BF16).write(tmp_path / "export")
    card = json.loads((tmp_path / "export" / "model_card.json").read_text())
    assert card["agreement"]["tolerance"] == 0.5
    with temporary_instance.serving(build_archive(tmp_path / "export", tmp_path, workers=1), tmp_path) as service:
        images = {f"photo {i}": encode(image) for i, image in enumerate(cutouts(3))}
        results = requests.post(service.url, files=images, timeout=60).json()["results"]
    assert [result["model"]["precision"] for result in results] == ["bf16"] * 3
    with torch.inference_mode():
        expected = network(torch.stack([tutorial_transform()(image) for image in cutouts(3)])).softmax(1)
    indices = load_class_index(tmp_path / "export" / "index_to_name.json").ids
    for result, probabilities in zip(results, expected, strict=True):
        assert abs(probabilities[indices.index(result["class_id"])] - result["predictions"][0]["probability"]) < 0.2


@needs("bf16")
def test_an_embedding_points_where_the_eager_networks_does(
    network: nn.Module, checkpoint: Path, tmp_path: Path
) -> None:
    bundle.make(weights.load(str(checkpoint)), None, Precision.BF16).write(tmp_path)
    batch = transform.normalize([cropping.crop(image).tobytes() for image in cutouts(4)])
    activations = scoring.score(scoring.read((tmp_path / "model.pt").read_bytes()), batch, chunk=4).activations
    embeddings = torch.tensor([embedding.embed(image, Norm.RAW) for image in activations])
    assert torch.cosine_similarity(embeddings, eager_embeddings(network, batch)).min() > 0.999
