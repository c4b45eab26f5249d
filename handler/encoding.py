"""Images inside JSON: as base64 text, or as the numbers of a tensor."""

import base64
import binascii
import math
from collections.abc import Sequence

import torch

from handler.cropping import CROP
from handler.failures import Code, Failure

IMAGE_SHAPE = (3, CROP, CROP)
_HOW_TO_MAKE = (
    "a preprocessed image is 3 × 224 × 224 finite numbers, red, green and blue planes, normalized with ImageNet's "
    "mean and standard deviation"
)


def from_base64(text: str) -> bytes:
    """Standard base64, with or without a data: URL before it. Raises Failure: bad_base64, or no_image if empty."""
    # Browsers' toDataURL() puts a prefix before the data, and the base64 command breaks its lines.
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        content = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Failure(
            Code.BAD_BASE64, "this is no base64; send the image's bytes in standard base64, padded with ="
        ) from error
    if not content:
        raise Failure(Code.NO_IMAGE, "there is nothing in this place; put an image's base64 in it")
    return content


def to_tensor(numbers: object, shape: Sequence[int] = IMAGE_SHAPE) -> torch.Tensor:
    """Lists of numbers, nested as the shape says or flat in row-major order → float32 of that shape.

    Raises Failure bad_tensor for another count, another nesting, or what is no finite number.
    """
    try:
        tensor = torch.tensor(numbers, dtype=torch.float32)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise Failure(Code.BAD_TENSOR, f"this is no tensor; {_HOW_TO_MAKE}") from error
    if tuple(tensor.shape) not in (tuple(shape), (math.prod(shape),)):
        raise Failure(
            Code.BAD_TENSOR, f"the numbers have the shape {list(tensor.shape)}, not {list(shape)}; {_HOW_TO_MAKE}"
        )
    return check_finite(tensor.view(*shape))


def check_finite(tensor: torch.Tensor) -> torch.Tensor:
    """The same tensor. Raises Failure bad_tensor where one of its values is NaN or infinite."""
    if not torch.isfinite(tensor).all():
        raise Failure(Code.BAD_TENSOR, f"a value is NaN or infinite; {_HOW_TO_MAKE}")
    return tensor
