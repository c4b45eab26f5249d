"""The `handler` section of model-config.yaml, checked once when a worker starts."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from handler.cropping import ENOUGH

# Pillow refuses images of more than twice its MAX_IMAGE_PIXELS by itself; a higher limit of ours would do nothing.
PILLOW_PIXEL_LIMIT = 2 * 89_478_485


@dataclass(frozen=True)
class Settings:
    """What an operator may change. Each field: its default here, a number's range in `_RANGES`."""

    top_k: int = 5
    """How many classes an answer lists, where the request does not say."""
    min_probability: float = 0.2
    """Below this probability of the best class an image counts as not recognized; a request may override it."""
    max_images: int = 16
    """The most images in one request."""
    max_image_pixels: int = 64_000_000
    """The most pixels (width × height) of one image; 64 million take about 1 GB of memory to decode."""
    max_request_pixels: int = 128_000_000
    """The most pixels of all images of one request together."""
    decode_seconds: float = 5.0
    """The most processor time that decoding one image may take. The costliest honest pixels take 67 ns each."""
    request_seconds: float = 15.0
    """The most processor time that decoding all images of one request may take."""
    decode_memory: int = 1_500_000_000
    """Bytes of address space of the process that decodes, 70 million of which it has for itself."""
    exact_decoding: bool = False
    """Whether large JPEGs are decoded whole, pixel for pixel as the tutorials do, at several times the cost."""
    max_request_bytes: int = 10_485_760
    """TorchServe's max_request_size, which no handler is told; the page warns people before they send more."""
    max_response_bytes: int = 6_000_000
    """The largest answer; must stay below TorchServe's max_response_size, past which it kills the worker."""
    threads: int = 1
    """CPU threads of one worker's network. Workers × threads should not exceed the cores."""
    network_batch: int = 16
    """The most images that go through the network at once; more are cut into several passes to bound memory."""

    @property
    def min_side(self) -> int | None:
        """Pixels of the shorter side that a large JPEG is scaled down to while it is decoded; None for not at all."""
        return None if self.exact_decoding else ENOUGH

    @classmethod
    def from_config(cls, config: Mapping[str, object] | None) -> "Settings":
        """Reads the whole model-config.yaml as TorchServe parsed it.

        Raises ValueError naming the key and the value that cannot be used.
        """
        section = (config or {}).get("handler")
        if section is None:
            return cls()
        if not isinstance(section, Mapping):
            raise ValueError(f"model-config.yaml: handler must be a list of settings, not {section!r}")
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(map(str, section)) - set(known))
        if unknown:
            raise ValueError(f"model-config.yaml: handler.{unknown[0]} is no setting; there are {', '.join(known)}")
        values: dict[str, Any] = {name: _checked(name, value) for name, value in section.items()}
        return cls(**values)


_RANGES: dict[str, tuple[float, float]] = {
    "top_k": (1, 1000),
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


def _checked(name: str, value: object) -> bool | int | float:
    if name not in _RANGES:
        if not isinstance(value, bool):
            raise ValueError(f"model-config.yaml: handler.{name} must be true or false, not {value!r}")
        return value
    low, high = _RANGES[name]
    whole = {field.name: field.type for field in fields(Settings)}[name] is int
    right_type = isinstance(value, int) if whole else isinstance(value, int | float)
    if isinstance(value, bool) or not right_type or not low <= value <= high:  # type: ignore[operator]
        kind = "a whole number" if whole else "a number"
        raise ValueError(f"model-config.yaml: handler.{name} must be {kind} from {low} to {high}, not {value!r}")
    return value  # type: ignore[return-value]
