"""The report: one document with every number, from which report.json, the terminal's table and the page are made."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from densenet.evaluation import metrics
from densenet.evaluation.agreement import Agreement
from densenet.evaluation.answers import Outcome
from densenet.evaluation.dataset import LabelledSet
from densenet.evaluation.metrics import Calibration, Scores

DISAGREEMENTS = 100  # files listed; the counts are of all


@dataclass(frozen=True)
class Asked:
    """What an evaluation is about. names: class id → label. seconds, answers: wall time, and what came in it."""

    images: LabelledSet
    url: str
    model: Mapping[str, str]
    names: Mapping[str, str]
    outcomes: Sequence[Outcome]
    seconds: float
    answers: int


@dataclass(frozen=True)
class Second:
    """The second opinion: where it came from, whose it is, and how far both agree."""

    address: str
    model: Mapping[str, str]
    agreement: Agreement


def document(asked: Asked, scores: Scores, second: Second | None) -> dict[str, Any]:
    """report.json; its fields are described in docs/evaluation.md. Numbers that do not exist are None."""
    answered = int(scores.answered.sum())
    unrecognized = int((scores.answered & ~scores.recognized).sum())
    images = asked.images
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "url": asked.url,
        "model": dict(asked.model),
        "set": {
            "path": str(images.source),
            "layout": images.layout,
            "classes": len(set(images.labels)),
            **images.identity(),
        },
        "top1": asdict(metrics.accuracy(scores, 1)),
        "top5": asdict(metrics.accuracy(scores, 5)),
        "answered": answered,
        "failed": _failed(images, asked.outcomes),
        "not_recognized": {"images": unrecognized, "share": unrecognized / answered if answered else None},
        "calibration": _calibration(metrics.calibrate(scores)),
        "time": {
            "seconds": asked.seconds,
            "answers": asked.answers,
            "images_per_second": asked.answers / asked.seconds if asked.seconds else None,
        },
        "classes": _classes(scores, asked.names),
        "confusions": _confusions(scores, asked.names),
        "agreement": _agreement(second) if second else None,
    }


def summary(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The numbers that matter most, in words: (what, how much)."""
    failed, calibration, time = len(document["failed"]), document["calibration"], document["time"]
    rows = [
        ("images", f"{document['set']['images']} of {document['set']['classes']} classes"),
        ("top-1", _share(document["top1"])),
        ("top-5", _share(document["top5"])),
        ("not answered", f"{failed}, counted as wrong" if failed else "none"),
        ("not recognized", percent(document["not_recognized"]["share"])),
        ("mean confidence", percent(calibration["mean_confidence"])),
        ("calibration error", percent(calibration["error"])),
        ("time", f"{time['seconds']:.1f} s, {time['images_per_second'] or 0:.1f} images/s"),
    ]
    if agreement := document["agreement"]:
        rows += [
            (f"against {agreement['against']}", f"{agreement['compared']} images answered by both"),
            ("same top-1", percent(agreement["same_top1"])),
            ("same top-5 in order", percent(agreement["same_top5_order"])),
            (
                "probabilities differ",
                f"by {agreement['mean_difference']:.1e}, at most {agreement['largest_difference']:.1e}",
            ),
        ]
    return rows


def lines(document: Mapping[str, Any]) -> list[str]:
    """The summary for the terminal, in two columns."""
    rows = summary(document)
    width = max(len(what) for what, _ in rows)
    return [f"{what:{width}}  {how_much}" for what, how_much in rows]


def percent(share: float | None) -> str:
    """0.7443 → 74.43 %."""
    return "-" if share is None else f"{share:.2%}"


def _share(proportion: Mapping[str, float]) -> str:
    low, high = percent(proportion["low"]), percent(proportion["high"])
    return f"{percent(proportion['share'])} (95% interval {low} to {high})"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _failed(images: LabelledSet, outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    return [
        {"file": file, "class_id": label, "code": outcome.code, "message": outcome.message}
        for file, label, outcome in zip(images.files, images.labels, outcomes, strict=True)
        if not outcome.classes
    ]


def _calibration(found: Calibration) -> dict[str, Any]:
    bins = zip(found.edges[:-1], found.edges[1:], found.images, found.confidence, found.accuracy, strict=True)
    return {
        "error": _number(found.error),
        "mean_confidence": _number(found.mean_confidence),
        "bins": [
            {
                "above": float(low),
                "up_to": float(high),
                "images": int(images),
                "confidence": _number(confidence),
                "accuracy": _number(accuracy),
            }
            for low, high, images, confidence, accuracy in bins
        ],
    }


def _classes(scores: Scores, names: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {
            "class_id": (class_id := scores.ids[one.position]),
            "label": names[class_id],
            "images": one.images,
            **asdict(metrics.proportion(one.right, one.images)),
        }
        for one in metrics.by_class(scores)
    ]


def _confusions(scores: Scores, names: Mapping[str, str]) -> list[dict[str, Any]]:
    return [
        {
            "class_id": scores.ids[truth],
            "label": names[scores.ids[truth]],
            "predicted_class_id": scores.ids[predicted],
            "predicted_label": names[scores.ids[predicted]],
            "images": count,
        }
        for truth, predicted, count in metrics.confusions(scores)
    ]


def _agreement(second: Second) -> dict[str, Any]:
    agreement = second.agreement
    return {
        "against": second.address,
        "model": dict(second.model),
        "compared": agreement.compared,
        "same_top1": agreement.same_top1,
        "same_top5_order": agreement.same_order,
        "largest_difference": agreement.largest,
        "mean_difference": agreement.mean,
        "answered_by_one": list(agreement.one_sided),
        "disagreements": [asdict(one) for one in agreement.differences[:DISAGREEMENTS]],
    }
