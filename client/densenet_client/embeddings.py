"""Embeddings as arrays. The only module that needs numpy, which it imports when something is embedded."""

from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Literal

from densenet_client.answers import WIDTH, Answer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Norm = Literal["raw", "l2"]
"""The length of an embedding: as the network computes it, or 1, so that the product of two is their cosine."""

_BLOCK = 256  # images compared with all others at a time, which takes a kilobyte for each of the others


class Collector:
    """Collects the embeddings of images as rows of an array.

    Raises: ImportError without numpy.
    """

    def __init__(self) -> None:
        self._numpy = _import_numpy()
        self._rows: list[NDArray[np.float32]] = []

    def add(self, result: Answer | Exception) -> None:
        """Add an image's embedding.

        Raises: the error that takes the place of an answer.
        """
        if isinstance(result, Exception):
            raise result
        self._rows.append(self._numpy.array(result.embedding, dtype=self._numpy.float32))

    def array(self) -> "NDArray[np.float32]":
        """Return all of them: float32 (N, 1024)."""
        empty: NDArray[np.float32] = self._numpy.empty((0, WIDTH), dtype=self._numpy.float32)
        return self._numpy.stack(self._rows) if self._rows else empty


def near_duplicates(embeddings: "NDArray[np.float32]", min_similarity: float) -> Iterator[Sequence[tuple[int, float]]]:
    """Return groups of images that are nearly the same, each with the images' positions and their cosines to its first.

    embeddings: float32 (N, 1024), each of length 1. A group's first image comes before the others; these follow by
    their cosines, which are at least min_similarity. An image is in one group at most.
    """
    np = _import_numpy()
    free = np.ones(len(embeddings), dtype=bool)
    for start in range(0, len(embeddings), _BLOCK):
        cosines = embeddings[start : start + _BLOCK] @ embeddings[start:].T
        for first, row in enumerate(cosines, start):
            if not free[first]:
                continue
            free[first] = False
            others = np.flatnonzero(free[start:] & (row >= min_similarity))
            free[start + others] = False
            if len(others):
                ordered = sorted(others.tolist(), key=lambda other: -row[other])
                yield [(first, 1.0), *((start + other, float(row[other])) for other in ordered)]


def _import_numpy() -> ModuleType:
    try:
        import numpy as np
    except ImportError as error:
        raise ImportError(
            "embeddings need numpy; install it with: pip install 'densenet-client[embeddings]'"
        ) from error
    return np
