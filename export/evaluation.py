"""Evaluation: what scripts/evaluate --calibrate measured, and how it gets into the model card of an export.

The file has one entry for each precision of the same weights:

    {"weights": {"name": …, "sha256": …}, "precisions": {"fp32": {…}, "int8": {…}}}

Its entries are the card's `evaluation`; handler/calibration.py says what of them the handler uses.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from export import CARD
from export.console import CliError
from handler.calibration import Calibration


def read(path: Path) -> dict[str, Any]:
    """Read an evaluation file.

    Raises: CliError if it cannot be read or has another content.
    """
    try:
        document = json.loads(path.read_bytes())
        for precision in document["precisions"]:
            _check(precision, document["precisions"])
        if not isinstance(document["weights"]["sha256"], str):
            raise TypeError("weights.sha256")
        return dict(document)
    except OSError as error:
        raise CliError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CliError(f"{path} is not a file of scripts/evaluate --calibrate") from error


def is_calibrated(card: Mapping[str, Any]) -> bool:
    """Return whether a model card, which may be another program's, has a calibration for its precision."""
    measured = card.get("evaluation")
    return isinstance(measured, Mapping) and card.get("precision") in measured


def describe(card: Mapping[str, Any]) -> str:
    """Describe the model of a card as "weights mine.pth, fp32", and whether it is calibrated."""
    calibrated = ", calibrated" if is_calibrated(card) else ""
    return f"weights {card['weights']['name']}, {card['precision']}{calibrated}"


def _check(precision: str, entries: Mapping[str, Any]) -> None:
    """Raises: ValueError, KeyError, TypeError, AttributeError: for what the handler and the card could not use."""
    calibration = Calibration.from_card({"precision": precision, "evaluation": entries})
    assert calibration
    energies = [float(value) for value in calibration.energies]
    shares = [calibration.bound, calibration.min_probability, *calibration.class_min_probability.values()]
    if len(energies) < 2 or sorted(energies) != energies or not 0 < calibration.temperature < math.inf:
        raise ValueError("energies or temperature")
    if not all(0 <= share <= 1 for share in shares):
        raise ValueError("bounds")


def write(path: Path, weights: Mapping[str, Any], precision: str, entry: Mapping[str, Any]) -> None:
    """Write an entry to an evaluation file, in place of an earlier one for the same precision.

    weights: their name and sha256.

    Raises: CliError if the file is of other weights, see read(); OSError.
    """
    named = {name: weights[name] for name in ("name", "sha256")}
    document = read(path) if path.exists() else {"weights": named, "precisions": {}}
    check_weights(path, document, weights)
    document["precisions"][precision] = entry
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")


def check_weights(path: Path, document: Mapping[str, Any], weights: Mapping[str, Any]) -> None:
    """Raises: CliError if the content of an evaluation file is not of these weights."""
    theirs = document["weights"]
    if theirs["sha256"] != weights["sha256"]:
        raise CliError(
            f"{path} is of other weights, {theirs['name']} ({theirs['sha256'][:12]}), than {weights['name']} "
            f"({weights['sha256'][:12]}); give another file"
        )


def add(folder: Path, path: Path) -> None:
    """Put an evaluation file into the model card of the export in a folder.

    Raises: CliError if the file is of other weights or lacks the export's precision, see read(); OSError.
    """
    card = json.loads((folder / CARD).read_bytes())
    document = read(path)
    check_weights(path, document, card["weights"])
    if card["precision"] not in document["precisions"]:
        raise CliError(
            f"{path} has no measurement in {card['precision']}, which the export in {folder} is; serve it and run "
            f"scripts/evaluate with --calibrate {path}"
        )
    card["evaluation"] = document["precisions"]
    (folder / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
