"""The report: one document with all numbers, the source of report.json, the terminal's table and the page."""

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

DISAGREEMENTS = 100  # maximum number of listed files; the counts include all


@dataclass(frozen=True)
class Evaluation:
    """The inputs of a report. names: class id → label. seconds: wall time. answers: number of answers in that time."""

    images: LabelledSet
    url: str
    model: Mapping[str, str]
    names: Mapping[str, str]
    outcomes: Sequence[Outcome]
    seconds: float
    answers: int


@dataclass(frozen=True)
class Reference:
    """The reference: its address, its model, and its agreement with the service."""

    address: str
    model: Mapping[str, str]
    agreement: Agreement


def document(evaluation: Evaluation, scores: Scores, reference: Reference | None) -> dict[str, Any]:
    """Return the content of report.json, described in docs/evaluation.md. Undefined numbers are None."""
    answered = int(scores.answered.sum())
    unrecognized = int((scores.answered & ~scores.recognized).sum())
    images = evaluation.images
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "url": evaluation.url,
        "model": dict(evaluation.model),
        "set": {
            "path": str(images.source),
            "layout": images.layout,
            "classes": len(set(images.labels)),
            **images.identity(),
        },
        "top1": asdict(metrics.accuracy(scores, 1)),
        "top5": asdict(metrics.accuracy(scores, 5)),
        "answered": answered,
        "failed": _failed(images, evaluation.outcomes),
        "not_recognized": {"images": unrecognized, "share": unrecognized / answered if answered else None},
        "calibration": _calibration(metrics.calibrate(scores)),
        "time": {
            "seconds": evaluation.seconds,
            "answers": evaluation.answers,
            "images_per_second": evaluation.answers / evaluation.seconds if evaluation.seconds else None,
        },
        "wrong": _wrong(evaluation),
        "classes": _classes(scores, evaluation.names),
        "confusions": _confusions(scores, evaluation.names),
        "agreement": _agreement(reference) if reference else None,
    }


def summary(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the most important numbers as (name, formatted value)."""
    failed, calibration, time = len(document["failed"]), document["calibration"], document["time"]
    model = document["model"]
    rows = [
        ("service", document["url"]),
        ("model", f"{model['name']} {model['version']}, weights {model['weights']}, {model['precision']}"),
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
    """Return the summary for the terminal, in two columns."""
    rows = summary(document)
    width = max(len(name) for name, _ in rows)
    return [f"{name:{width}}  {value}" for name, value in rows]


def percent(share: float | None) -> str:
    """Format a share: 0.7443 → "74.43%", None → "-"."""
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


def _wrong(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return the images whose best class is not theirs, the most confident answer first."""
    images, names = evaluation.images, evaluation.names
    rows = [
        {
            "file": file,
            "class_id": label,
            "label": names[label],
            "predicted_class_id": outcome.classes[0],
            "predicted_label": names[outcome.classes[0]],
            "confidence": outcome.probabilities[0],
        }
        for file, label, outcome in zip(images.files, images.labels, evaluation.outcomes, strict=True)
        if outcome.classes and outcome.classes[0] != label
    ]
    return sorted(rows, key=lambda row: (-row["confidence"], row["file"]))


def _calibration(c: Calibration) -> dict[str, Any]:
    bins = zip(c.edges[:-1], c.edges[1:], c.images, c.confidence, c.accuracy, strict=True)
    return {
        "error": _number(c.error),
        "mean_confidence": _number(c.mean_confidence),
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
            "class_id": (class_id := scores.ids[class_score.position]),
            "label": names[class_id],
            "images": class_score.images,
            **asdict(metrics.proportion(class_score.right, class_score.images)),
        }
        for class_score in metrics.by_class(scores)
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


def _agreement(reference: Reference) -> dict[str, Any]:
    agreement = reference.agreement
    return {
        "against": reference.address,
        "model": dict(reference.model),
        "compared": agreement.compared,
        "same_top1": agreement.same_top1,
        "same_top5_order": agreement.same_order,
        "largest_difference": agreement.largest,
        "mean_difference": agreement.mean,
        "answered_by_one": list(agreement.one_sided),
        "disagreements": [asdict(difference) for difference in agreement.differences[:DISAGREEMENTS]],
    }
