"""The tensors, bit by bit against torchvision's own transforms."""

import random

import numpy as np
import pytest
import torch
from PIL import Image

from handler.cropping import crop
from handler.transform import normalize
from tests.conftest import tutorial_transform
from tests.photos import cutouts, photos

ONE_LEVEL = 1.01 / 255 / 0.224  # one step of 8 bits, after the division by the smallest deviation


def ours(*images: Image.Image) -> torch.Tensor:
    return normalize([crop(image).tobytes() for image in images])


def theirs(*images: Image.Image) -> torch.Tensor:
    return torch.stack([tutorial_transform()(image) for image in images])


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(width * 10_007 + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def gradient(width: int, height: int) -> Image.Image:
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.dstack([across, down, 255 - (across + down) / 2]).astype(np.uint8))


def _sizes() -> list[tuple[int, int]]:
    chooser = random.Random(20)
    drawn = ((chooser.randint(1, 1500), chooser.randint(1, 1500)) for _ in range(90))
    moderate = [size for size in drawn if max(size) <= 60 * min(size)]
    edges = [(224, 224), (255, 255), (224, 300), (255, 600), (254, 256), (256, 254), (223, 225), (1, 1), (1, 60)]
    return [*edges, (60, 1), (37, 2000), (2000, 37), (4000, 3000), *moderate[:60]]


@pytest.mark.parametrize(("width", "height"), _sizes())
def test_any_size_equals_torchvision_to_the_bit(width: int, height: int) -> None:
    for image in (noise(width, height), gradient(width, height)):
        assert torch.equal(ours(image), theirs(image))


@pytest.mark.parametrize("number", range(10))
def test_a_photo_equals_torchvision_to_the_bit(number: int) -> None:
    photo = photos()[number]
    assert torch.equal(ours(photo), theirs(photo))


def test_a_batch_holds_the_images_in_their_order() -> None:
    images = cutouts(12)
    assert torch.equal(ours(*images), theirs(*images))


@pytest.mark.parametrize("count", [1, 3])
def test_a_batch_is_float32_with_channels_last(count: int) -> None:
    batch = ours(*cutouts(count))
    assert batch.shape == (count, 3, 224, 224)
    assert batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)


def test_the_crop_is_rgb_of_the_networks_size() -> None:
    image = crop(photos()[0])
    assert (image.mode, image.size) == ("RGB", (224, 224))


def test_the_picture_itself_is_left_as_it_was() -> None:
    photo = photos()[3].copy()
    ours(photo)
    assert photo.tobytes() == photos()[3].tobytes()


EXTREME = [(10, 2000), (2000, 10), (3, 900), (900, 3), (1, 65), (65, 1), (7, 1001), (20, 1600), (1600, 20)]


@pytest.mark.parametrize(("width", "height"), EXTREME)
def test_an_extreme_shape_is_within_one_level_of_torchvision(width: int, height: int) -> None:
    smooth = gradient(width, height)
    assert (ours(smooth) - theirs(smooth)).abs().max() <= ONE_LEVEL


@pytest.mark.parametrize(("width", "height"), EXTREME)
def test_an_extreme_shape_of_noise_is_within_two_roundings_of_torchvision(width: int, height: int) -> None:
    rough = noise(width, height)
    apart = (ours(rough) - theirs(rough)).abs()
    assert apart.max() <= 2 * ONE_LEVEL  # Pillow rounds twice, once for each direction
    assert (apart > ONE_LEVEL).float().mean() < 1e-4


@pytest.mark.parametrize("size", [(1, 1_000_000), (1_000_000, 1)])
def test_an_endless_strip_is_never_resized_as_a_whole(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def record(image: Image.Image, to: tuple[int, int], *options: object, **more: object) -> Image.Image:
        asked.append(to)
        return resize(image, to, *options, **more)

    monkeypatch.setattr(Image.Image, "resize", record)
    assert crop(Image.new("RGB", size, "teal")).getpixel((112, 112)) == (0, 128, 128)
    assert asked
    assert max(max(to) for to in asked) <= 20_000
