"""The model information on the page."""

from collections.abc import Mapping
from typing import Any

from handler.calibration import measured_with
from handler.page.i18n import number, percent
from handler.page.markup import Markup, element, join


def rows(card: Mapping[str, Any], model: Mapping[str, str], min_probability: float, words: Mapping[str, str]) -> Markup:
    """Return a dt and a dd element per fact. min_probability: 0..1, for a photo to be recognized."""
    facts = {
        "model": f"{card['architecture']}, {model['name']} {model['version']}",
        "weights": model["weights"],
        "weights_digest": card["weights"].get("sha256"),
        "precision": model["precision"],
        "class_count": number(card["classes"]["count"], 0, words),
        "agreement": _agreement(card["agreement"], words),
        "exported_with": ", ".join(f"{name} {version}" for name, version in card["exported_with"].items()),
        "threshold": percent(min_probability, words) if min_probability else None,
        "calibration": _calibration(card, words),
    }
    pairs = ((words[name], value) for name, value in facts.items() if value)
    return join(element(tag, text) for pair in pairs for tag, text in zip(("dt", "dd"), pair, strict=True))


def _calibration(card: Mapping[str, Any], words: Mapping[str, str]) -> str | None:
    if measured := measured_with(card):
        return words["calibrated_with"].format(images=number(measured["images"], 0, words))
    return None


def _agreement(agreement: Mapping[str, Any], words: Mapping[str, str]) -> str:
    if held_out := agreement.get("held_out"):  # int8
        share = percent(held_out["same_top1"], words)
        return words["same_class"].format(share=share, images=held_out["images"])
    return words["logits_differ"].format(tolerance=f"{agreement['tolerance']:g}")
