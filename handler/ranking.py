"""Rank: convert logits to labels with probabilities, best first."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch


@dataclass(frozen=True)
class ClassIndex:
    """The classes by output position. Ids are unique; names are not (crane, maillot)."""

    ids: tuple[str, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def _positions(self) -> Mapping[str, Sequence[int]]:
        """Return the positions of each id and name, normalized by _normalize()."""
        positions: dict[str, list[int]] = {}
        for position, words in enumerate(zip(self.ids, self.names, strict=True)):
            for word in set(map(_normalize, words)):
                positions.setdefault(word, []).append(position)
        return positions

    def find(self, word: str) -> Sequence[int]:
        """Return the positions of a class by its id, its position as text, or its name.

        A name matches exactly, or else in any case and with spaces for underscores. Returns an empty sequence for an
        unknown class, and several positions if several classes share the name.
        """
        if word in self.ids:
            return [self.ids.index(word)]
        if re.fullmatch("[0-9]{1,9}", word) and int(word) < len(self):
            return [int(word)]
        exact_matches = [position for position, name in enumerate(self.names) if name == word]
        return exact_matches or self._positions.get(_normalize(word), [])


@dataclass(frozen=True)
class Prediction:
    """One class of an answer: its output position, id, name, probability in 0..1, and logit."""

    index: int
    class_id: str
    label: str
    probability: float
    logit: float


def load_class_index(path: Path) -> ClassIndex:
    """Read {"0": ["n01440764", "tench"], …}, TorchServe's {"0": "tench", …}, or a list of either kind of entry.

    If an entry has only a name, the name is also the class's id.

    Raises:
        ValueError: the file is not JSON, a position is missing, an entry is malformed, or an id is not unique.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if isinstance(document, list):
        document = {str(position): entry for position, entry in enumerate(document)}
    if not isinstance(document, Mapping) or not document:
        raise ValueError(f'{path} must be a JSON object such as {{"0": ["n01440764", "tench"], "1": …}}')
    missing = next((p for p in range(len(document)) if str(p) not in document), None)
    if missing is not None:
        raise ValueError(
            f"{path} has {len(document)} classes but none at position {missing}; number them from 0 without gaps"
        )
    rows = [_row(path, position, document[str(position)]) for position in range(len(document))]
    ids = [class_id for class_id, _ in rows]
    duplicate = next((class_id for class_id in ids if ids.count(class_id) > 1), None)
    if duplicate is not None:
        raise ValueError(f"{path} has the class id {duplicate!r} more than once; give each class a unique id")
    return ClassIndex(tuple(ids), tuple(name for _, name in rows))


def _row(path: Path, position: int, entry: object) -> tuple[str, str]:
    match entry:
        case str(name) if name:
            return name, name
        case [str(class_id), str(name)] if class_id and name:
            return class_id, name
    raise ValueError(f'{path}: the class at position {position} must be ["id", "name"] or "name", not {entry!r}')


def _normalize(word: str) -> str:
    return "_".join(word.replace("_", " ").casefold().split())


def top_k(logits: torch.Tensor, classes: ClassIndex, k: int, temperature: float = 1.0) -> tuple[Prediction, ...]:
    """Return the k best classes (or all, if there are fewer), best first. logits: float32 (classes,).

    Probabilities are the softmax of logits / temperature over all classes.
    """
    best = torch.softmax(logits / temperature, dim=0).topk(min(k, len(classes)))
    return _predictions(logits, classes, best.indices, best.values)


def select(
    logits: torch.Tensor, classes: ClassIndex, positions: Sequence[int], temperature: float = 1.0
) -> tuple[Prediction, ...]:
    """Return the classes at these positions, in the given order. Arguments and probabilities as for top_k()."""
    indices = torch.tensor(positions)
    return _predictions(logits, classes, indices, torch.softmax(logits / temperature, dim=0)[indices])


def _predictions(
    logits: torch.Tensor, classes: ClassIndex, indices: torch.Tensor, probabilities: torch.Tensor
) -> tuple[Prediction, ...]:
    values = zip(indices.tolist(), probabilities.tolist(), logits[indices].tolist(), strict=True)
    return tuple(
        Prediction(index, classes.ids[index], classes.names[index], probability, logit)
        for index, probability, logit in values
    )
