"""Images inside JSON, against Python's and torch's own reading of the same numbers."""

import base64
from typing import Any

import pytest
import torch

from handler import json_images
from handler.errors import ErrorCode, RequestError

BYTES = bytes(range(256))
TEXT = base64.b64encode(BYTES).decode()
NUMBERS = torch.randn(3, 224, 224, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        f"  {TEXT}\r\n",
        base64.encodebytes(BYTES).decode(),
        "\t".join(TEXT),
        f"data:image/jpeg;base64,{TEXT}",
        f"data:;base64,\n{TEXT}",
    ],
)
def test_base64_is_read_however_it_is_broken_or_announced(text: str) -> None:
    assert json_images.from_base64(text) == BYTES


@pytest.mark.parametrize(
    "text",
    [
        "?",
        TEXT[:-1],
        f"{TEXT}=",
        f"={TEXT}",
        "QUJD,QUJD",
        "Q",
        "QUJD\0",
        "사진",
        "\ud800",
        base64.urlsafe_b64encode(BYTES).decode(),
        f"image/jpeg;base64,{TEXT}",
        "data:QUJD,?",
        "b'QUJD'",
    ],
)
def test_what_is_no_base64_is_refused(text: str) -> None:
    with pytest.raises(RequestError) as refusal:
        json_images.from_base64(text)
    assert refusal.value.code is ErrorCode.BAD_BASE64


@pytest.mark.parametrize("text", ["", " \n", "data:", "data:image/png;base64,", "data:QUJD"])
def test_nothing_in_base64_is_no_image(text: str) -> None:
    with pytest.raises(RequestError) as refusal:
        json_images.from_base64(text)
    assert refusal.value.code is ErrorCode.NO_IMAGE


@pytest.mark.parametrize("shape", [(3, 224, 224), (1, 3, 224, 224), (3 * 224 * 224,)])
def test_numbers_become_the_tensor_that_they_were_whatever_their_nesting(shape: tuple[int, ...]) -> None:
    tensor = json_images.to_tensor(NUMBERS.view(shape).tolist(), shape)
    assert tensor.dtype is torch.float32
    assert torch.equal(tensor, NUMBERS.view(shape))


def test_a_flat_list_is_read_in_row_major_order() -> None:
    assert json_images.to_tensor([1, 2, 3, 4, 5, 6], (2, 3)).tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    "numbers",
    [
        [],
        [[]],
        7,
        None,
        "text",
        {},
        ["1", "2", "3", "4"],
        [1, 2, 3],
        [1, 2, 3, 4, 5],
        [[1, 2, 3, 4]],
        [[1], [2], [3], [4]],
        [[1, 2], [3]],
        [[1, 2], 3],
        [[1, 2], [3, None]],
        [[1, 2], [3, "4"]],
        [[1, 2], [3, {}]],
        [[1, 2], [3, [4]]],
        [[1, 2], [3, float("nan")]],
        [[1, 2], [3, float("inf")]],
        [[1, 2], [3, -1e39]],
        [[1, 2], [3, 1e400]],
        [[1, 2], [3, 10**400]],
        [[1, 2], [3, -(10**40)]],
    ],
)
def test_what_is_no_tensor_of_the_shape_is_refused(numbers: Any) -> None:
    with pytest.raises(RequestError) as refusal:
        json_images.to_tensor(numbers, (2, 2))
    assert refusal.value.code is ErrorCode.BAD_TENSOR


def test_lists_nested_deeper_than_any_tensor_are_refused() -> None:
    nested: Any = 1.0
    for _ in range(900):
        nested = [nested]
    with pytest.raises(RequestError) as refusal:
        json_images.to_tensor(nested)
    assert refusal.value.code is ErrorCode.BAD_TENSOR


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_one_value_that_is_not_finite_is_found_anywhere(value: float) -> None:
    tensor = torch.zeros(3, 224, 224)
    assert json_images.check_finite(tensor) is tensor
    tensor[2, 223, 223] = value
    with pytest.raises(RequestError, match="NaN or infinite"):
        json_images.check_finite(tensor)
