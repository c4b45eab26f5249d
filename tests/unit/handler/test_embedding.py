"""An image's embedding, from its activations; over a real TorchServe: tests/integration/test_embeddings.py."""

import base64

import numpy as np
import pytest
import torch

from export.network import FEATURES
from handler.embedding import WIDTH, embed, encode, shorten
from handler.options import Encoding, Norm


def test_it_is_what_the_classifier_gets() -> None:
    assert WIDTH == FEATURES
    activations = torch.randn(49, WIDTH).relu()
    torch.testing.assert_close(torch.tensor(embed(activations, Norm.RAW)), activations.mean(0), rtol=1e-6, atol=1e-7)


def test_nine_digits_are_the_same_float32s() -> None:
    values = embed(torch.randn(49, WIDTH).exp(), Norm.RAW)
    assert np.array_equal(np.array(shorten(values), dtype=np.float32), np.array(values, dtype=np.float32))
    assert len(str(shorten(values))) < 0.65 * len(str(list(values)))


@pytest.mark.parametrize("scale", [1e-37, 1.0, 1e37])
def test_normalised_it_has_the_length_one_and_the_same_direction(scale: float) -> None:
    activations = torch.rand(49, WIDTH) * scale
    raw, unit = (np.array(embed(activations, norm)) for norm in (Norm.RAW, Norm.L2))
    assert np.linalg.norm(unit) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(unit, raw / np.linalg.norm(raw), rtol=1e-6)


def test_zeros_stay_zeros() -> None:
    assert embed(torch.zeros(49, WIDTH), Norm.L2) == (0.0,) * WIDTH


def test_base64_is_of_little_endian_float32() -> None:
    values = embed(torch.rand(49, WIDTH), Norm.RAW)
    text = encode(values, Encoding.BASE64)
    assert isinstance(text, str)
    assert np.array_equal(np.frombuffer(base64.b64decode(text), "<f4"), np.array(values, dtype=np.float32))
    assert encode(values, Encoding.FLOAT) == shorten(values)
