"""What is served is what the tutorial's own few lines say of the same weights and the same files."""

import base64
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from PIL import Image, ImageCms
from torch import nn

from handler.cropping import MIN_SIDE
from tests.conftest import tutorial_transform
from tests.integration.conftest import Server
from tests.photos import cutouts, encode, small_cutouts

PHOTOS = [encode(image, "PNG" if i % 3 == 0 else "JPEG") for i, image in enumerate(small_cutouts(50))]
LARGE = [encode(image) for image in cutouts(60) if min(image.size) >= 2 * MIN_SIDE]
Expected = list[tuple[torch.Tensor, torch.Tensor]]


def by_the_tutorial(network: nn.Module, photos: list[bytes]) -> Expected:
    transform = tutorial_transform()
    with torch.no_grad():
        outputs = [network(transform(Image.open(io.BytesIO(photo))).unsqueeze(0)) for photo in photos]
    return [tuple(torch.softmax(output[0], dim=0).topk(5)) for output in outputs]


@pytest.fixture(scope="module")
def expected(network: nn.Module) -> Expected:
    return by_the_tutorial(network, PHOTOS)


def check(answers: list[dict[str, Any]], expected: Expected, ids: tuple[str, ...]) -> None:
    assert len(answers) == len(expected)
    for answer, (values, positions) in zip(answers, expected, strict=True):
        assert [row["class_id"] for row in answer["predictions"]] == [ids[p] for p in positions.tolist()]
        assert [row["probability"] for row in answer["predictions"]] == pytest.approx(values.tolist(), abs=1e-4)


def raw(server: Server, photo: bytes) -> Any:
    return server.send(photo).json()


def as_file(server: Server, photo: bytes) -> Any:
    return server.post(files={"file": ("photo.jpg", photo)}).json()


def as_image(server: Server, photo: bytes) -> Any:
    return server.post(files={"image": photo}).json()


def as_json(server: Server, photo: bytes) -> Any:
    body = {"instances": [{"b64": base64.b64encode(photo).decode()}]}
    return server.post(json=body).json()["predictions"][0]


@pytest.fixture(scope="module")
def ids() -> tuple[str, ...]:
    from export.bundle import class_index_for

    return class_index_for(None, 1000).ids


def test_the_photos_are_told_apart(expected: Expected) -> None:
    assert len({positions[0].item() for _, positions in expected}) > 10


@pytest.mark.parametrize("way", [raw, as_file, as_image, as_json])
def test_one_by_one(server: Server, expected: Expected, ids: tuple[str, ...], way: Callable[..., Any]) -> None:
    check([way(server, photo) for photo in PHOTOS], expected, ids)


def test_large_photos_are_too_where_they_are_decoded_whole(
    thorough: Server, network: nn.Module, ids: tuple[str, ...]
) -> None:
    assert len(LARGE) >= 4
    check([raw(thorough, photo) for photo in LARGE], by_the_tutorial(network, LARGE), ids)


def test_a_photo_with_a_profile_is_what_its_profile_says(
    thorough: Server, network: nn.Module, ids: tuple[str, ...]
) -> None:
    """A profile of sRGB whose red is green and whose green is red."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"none").replace(b"gXYZ", b"rXYZ").replace(b"none", b"gXYZ")
    red, green, blue = small_cutouts(1)[0].split()
    content = encode(Image.merge("RGB", (green, red, blue)), "PNG", icc_profile=swapped)
    [(values, positions)] = by_the_tutorial(network, [encode(Image.merge("RGB", (red, green, blue)), "PNG")])
    best = raw(thorough, content)["predictions"][0]
    assert best["class_id"] == ids[positions[0].item()]
    assert best["probability"] == pytest.approx(values[0].item(), abs=0.05)


def test_eight_in_one_request(server: Server, expected: Expected, ids: tuple[str, ...]) -> None:
    answers = []
    for i in range(0, len(PHOTOS), 8):
        parts = {f"photo {j}": PHOTOS[j] for j in range(i, min(i + 8, 50))}
        answers += server.post(files=parts).json()["results"]
    check(answers, expected, ids)


def test_eight_clients_at_once_share_batches(batching: Server, expected: Expected, ids: tuple[str, ...]) -> None:
    with ThreadPoolExecutor(8) as clients:
        check(list(clients.map(lambda photo: raw(batching, photo), PHOTOS)), expected, ids)
