"""Rank: from logits to labels with probabilities, best first."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class ClassIndex:
    """The classes by output position. Names may repeat (crane, maillot); ids do not."""

    ids: tuple[str, ...]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class Prediction:
    """One class of an answer: its output position, its names, its probability in 0..1 and the logit behind that."""

    index: int
    class_id: str
    label: str
    probability: float
    logit: float


def load_class_index(path: Path) -> ClassIndex:
    """Reads {"0": ["n01440764", "tench"], …}, TorchServe's {"0": "tench", …}, or a list of either.

    A class given by name alone has its name for an id.
    Raises ValueError saying what is wrong: not JSON, positions with gaps, an entry of another form, an id twice.
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
            f"{path} has {len(document)} classes but none at position {missing}; count from 0 without gaps"
        )
    rows = [_row(path, position, document[str(position)]) for position in range(len(document))]
    ids = [class_id for class_id, _ in rows]
    twice = next((class_id for class_id in ids if ids.count(class_id) > 1), None)
    if twice is not None:
        raise ValueError(f"{path} has the class id {twice!r} more than once; ids tell classes apart")
    return ClassIndex(tuple(ids), tuple(name for _, name in rows))


def _row(path: Path, position: int, entry: object) -> tuple[str, str]:
    match entry:
        case str(name) if name:
            return name, name
        case [str(class_id), str(name)] if class_id and name:
            return class_id, name
    raise ValueError(f'{path}: the class at position {position} must be ["id", "name"] or "name", not {entry!r}')


def rank(logits: torch.Tensor, classes: ClassIndex, top_k: int) -> tuple[Prediction, ...]:
    """float32 logits (classes,) → the top_k classes (or all there are) by softmax over all classes, best first."""
    best = torch.softmax(logits, dim=0).topk(min(top_k, len(classes)))
    values = zip(best.indices.tolist(), best.values.tolist(), logits[best.indices].tolist(), strict=True)
    return tuple(
        Prediction(index, classes.ids[index], classes.names[index], probability, logit)
        for index, probability, logit in values
    )
