"""Read images inside JSON: base64 text, or the numbers of a preprocessed tensor."""

import base64
import binascii
import math
from collections.abc import Sequence

import torch

from handler.cropping import CROP
from handler.errors import ErrorCode, RequestError
from handler.messages import is_url, quote_for_message

IMAGE_SHAPE = (3, CROP, CROP)
_HOW_TO_MAKE = (
    "a preprocessed image is 3 × 224 × 224 finite numbers, red, green and blue planes, normalized with ImageNet's "
    "mean and standard deviation"
)


def from_base64(text: str) -> bytes:
    """Decode standard base64, with or without the prefix of a data: URL.

    Raises:
        RequestError: bad_base64, or no_image if it is empty.
    """
    # Browsers' toDataURL() adds the prefix; the base64 command inserts line breaks.
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        content = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        problem = "this is a URL, and URLs are not fetched" if is_url(text) else "this is not valid base64"
        raise RequestError(
            ErrorCode.BAD_BASE64, f"{problem}; send the image's bytes in standard base64, padded with ="
        ) from error
    if not content:
        raise RequestError(ErrorCode.NO_IMAGE, "this entry is empty; put an image in base64 here")
    return content


def to_tensor(numbers: object, shape: Sequence[int] = IMAGE_SHAPE) -> torch.Tensor:
    """Convert lists of numbers, nested like the shape or flat in row-major order, to a float32 tensor of that shape.

    Raises:
        RequestError: bad_tensor, if the count, the nesting or a value (NaN, infinite, not a number) is wrong.
    """
    try:
        tensor = torch.tensor(numbers, dtype=torch.float32)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise RequestError(
            ErrorCode.BAD_TENSOR, f"this is not a tensor of numbers: {quote_for_message(numbers)}; {_HOW_TO_MAKE}"
        ) from error
    if tuple(tensor.shape) not in (tuple(shape), (math.prod(shape),)):
        raise RequestError(
            ErrorCode.BAD_TENSOR, f"the numbers have the shape {list(tensor.shape)}, not {list(shape)}; {_HOW_TO_MAKE}"
        )
    return check_finite(tensor.view(*shape))


def check_finite(tensor: torch.Tensor) -> torch.Tensor:
    """Return the same tensor.

    Raises:
        RequestError: bad_tensor, if a value is NaN or infinite.
    """
    if not torch.isfinite(tensor).all():
        raise RequestError(ErrorCode.BAD_TENSOR, f"a value is NaN or infinite; {_HOW_TO_MAKE}")
    return tensor
