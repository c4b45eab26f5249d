"""The network in bf16, exported and served, where the processor has the instructions."""

import json
from pathlib import Path

import pytest
import requests

from export import Precision, bundle, weights
from handler import hardware
from service import readiness, torchserve
from tests.photos import cutouts, encode
from tests.service.conftest import build_archive, free_properties


def test_it_is_served_and_says_so(checkpoint: Path, exported: Path, tmp_path: Path) -> None:
    try:
        hardware.check("bf16")
    except ValueError as error:
        pytest.skip(str(error))
    bundle.make(weights.load(str(checkpoint)), None, Precision.BF16).write(tmp_path / "export")
    card = json.loads((tmp_path / "export" / "model_card.json").read_text())
    exact = json.loads((exported / "model_card.json").read_text())["agreement"]["largest_logit_difference"]
    assert exact < card["agreement"]["largest_logit_difference"] < card["agreement"]["tolerance"]
    build_archive(tmp_path / "export", tmp_path, workers=1)
    properties = free_properties(tmp_path)
    watch = readiness.Watch(tmp_path / "logs" / str(properties.port))
    service = torchserve.start(properties, run=tmp_path, logs=tmp_path / "logs")
    try:
        readiness.wait(service, watch)
        images = {f"photo {i}": encode(image) for i, image in enumerate(cutouts(3))}
        results = requests.post(service.url, files=images, timeout=60).json()["results"]
    finally:
        torchserve.stop(service, run=tmp_path)
    assert [result["model"]["precision"] for result in results] == ["bf16"] * 3
