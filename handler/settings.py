"""Read and validate the `handler` section of model-config.yaml when a worker starts."""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from handler.cropping import MIN_SIDE

# Pillow rejects images with more than twice its MAX_IMAGE_PIXELS, so a higher limit here would have no effect.
PILLOW_PIXEL_LIMIT = 2 * 89_478_485
MAX_TOP_K = 1000
AUTO = "auto"
_MIN_PROBABILITY_FLOOR = 0.2


@dataclass(frozen=True)
class Settings:
    """The settings of an operator, with their defaults; `_RANGES` has the valid ranges of numbers."""

    top_k: int = 5
    """Number of classes that an answer lists, unless the request sets it."""
    min_probability: float = _MIN_PROBABILITY_FLOOR
    """Minimum probability of the best class for an image to be recognized; a request may override it. The default
    depends on the number of classes: see default_min_probability(). A calibrated model has its own."""
    max_images: int = 16
    """Maximum number of images in one request."""
    max_image_pixels: int = 64_000_000
    """Maximum pixels (width × height) of one image; decoding 64 million takes about 1 GB of memory."""
    max_request_pixels: int = 128_000_000
    """Maximum total of pixels of all images of one request."""
    decode_seconds: float = 5.0
    """Maximum processor time for decoding one image. The slowest legitimate images take 67 ns per pixel."""
    request_seconds: float = 15.0
    """Maximum processor time for decoding all images of one request."""
    decode_memory: int = 1_500_000_000
    """Address space of the decoder process in bytes; the process itself takes 70 million."""
    exact_decoding: bool = False
    """Decode large JPEGs at full size, with exactly the tutorials' pixels, at several times the cost."""
    apply_colour_profiles: bool = False
    """Convert colours to sRGB from what a file says that they are (ICC profiles of RGB and grey, PNG's gAMA, cHRM and
    cICP, code points of AVIF and HEIC), as browsers do and the tutorials do not. CMYK is always converted."""
    max_request_bytes: int = 10_485_760
    """TorchServe's max_request_size, which handlers cannot read; the page scales larger photos down."""
    max_response_bytes: int = 6_000_000
    """Maximum size of a response. Must be below TorchServe's max_response_size, above which it kills the worker."""
    threads: int | str = AUTO
    """CPU threads of each worker's network. `auto`: the worker's share of the cores that are free at that moment
    (threads.py), or one thread if scripts/serve did not start the service. A number: workers × threads should not
    exceed the number of cores."""
    network_batch: int = 4
    """Maximum number of images per pass through the network, which limits memory; more take several passes. On a CPU
    larger passes are no faster."""

    @property
    def min_side(self) -> int | None:
        """Return the minimum shorter side in pixels of JPEGs scaled down during decoding; None for no scaling."""
        return None if self.exact_decoding else MIN_SIDE

    @classmethod
    def from_config(
        cls, config: Mapping[str, object] | None, classes: int, min_probability: float | None = None
    ) -> "Settings":
        """Read the settings of a model with that many classes from model-config.yaml, as TorchServe parsed it.

        min_probability: the default of a calibrated model.

        Raises:
            ValueError: names the invalid setting and its value.
        """
        section = (config or {}).get("handler")
        default = default_min_probability(classes) if min_probability is None else min_probability
        if section is None:
            return cls(min_probability=default)
        if not isinstance(section, Mapping):
            raise ValueError(f"model-config.yaml: handler must be a mapping of settings, not {section!r}")
        valid = [field.name for field in fields(cls)]
        unknown = sorted(set(map(str, section)) - set(valid))
        if unknown:
            closest = difflib.get_close_matches(unknown[0], valid, n=3, cutoff=0)
            raise ValueError(
                f"model-config.yaml: unknown setting handler.{unknown[0]}; valid settings: {', '.join(closest)} and "
                f"{len(valid) - len(closest)} others"
            )
        values: dict[str, Any] = {name: _checked(name, value) for name, value in section.items()}
        chosen = values.get("min_probability")
        if chosen is not None and chosen <= 1 / classes:
            raise ValueError(
                f"model-config.yaml: handler.min_probability must be above {1 / classes:g}, the chance level of this "
                f"model's {classes} classes, not {chosen!r}; leave it out for the default of {default:g}"
            )
        return cls(**{"min_probability": default, **values})


def default_min_probability(classes: int) -> float:
    """Return 1/√classes, the geometric mean of chance and certainty, in hundredths and at least 0.2.

    Some class always reaches 1/classes, so a threshold of that or less would recognize everything.
    """
    return max(_MIN_PROBABILITY_FLOOR, round(1 / math.sqrt(classes), 2))


_RANGES: dict[str, tuple[float, float]] = {
    "top_k": (1, MAX_TOP_K),
    "min_probability": (0, 1),
    "max_images": (1, 1000),
    "max_image_pixels": (1, PILLOW_PIXEL_LIMIT),
    "max_request_pixels": (1, 1_000_000_000_000),
    "decode_seconds": (0.1, 3600),
    "request_seconds": (0.1, 3600),
    "decode_memory": (200_000_000, 1_000_000_000_000),
    "max_request_bytes": (1_000, 2_000_000_000),
    "max_response_bytes": (1_000, 2_000_000_000),
    "threads": (1, 1024),
    "network_batch": (1, 4096),
}


def _checked(name: str, value: object) -> bool | int | float | str:
    if name == "threads" and value == AUTO:
        return AUTO
    if name not in _RANGES:
        if not isinstance(value, bool):
            raise ValueError(f"model-config.yaml: handler.{name} must be true or false, not {value!r}")
        return value
    low, high = _RANGES[name]
    is_integer = {field.name: field.type for field in fields(Settings)}[name] is not float
    right_type = isinstance(value, int) if is_integer else isinstance(value, int | float)
    if isinstance(value, bool) or not right_type or not low <= value <= high:  # type: ignore[operator]
        kind = "a whole number" if is_integer else "a number"
        other = f", or {AUTO}" if name == "threads" else ""
        raise ValueError(f"model-config.yaml: handler.{name} must be {kind} from {low} to {high}{other}, not {value!r}")
    return value  # type: ignore[return-value]
