"""The model card as the page shows it: what answers depend on."""

from collections.abc import Mapping
from typing import Any

from handler.page.markup import Markup, element, join
from handler.page.wording import percent


def rows(card: Mapping[str, Any], model: Mapping[str, str], least: float, words: Mapping[str, str]) -> Markup:
    """Terms and what is said of them. least: the probability from which a photo counts as recognized."""
    found = {
        "model": f"{card['architecture']}, {model['name']} {model['version']}",
        "weights": model["weights"],
        "digest": card["weights"].get("sha256"),
        "precision": model["precision"],
        "classes": str(card["classes"]["count"]),
        "agreement": _agreement(card["agreement"], words),
        "exported": ", ".join(f"{name} {version}" for name, version in card["exported_with"].items()),
        "least": percent(least),
    }
    stated = ((words[name], said) for name, said in found.items() if said)
    return join(element(tag, text) for row in stated for tag, text in zip(("dt", "dd"), row, strict=True))


def _agreement(proof: Mapping[str, Any], words: Mapping[str, str]) -> str:
    if held_out := proof.get("held_out"):  # int8
        share = percent(held_out["same_top1"])
        return words["same_class"].format(share=share, images=held_out["images"])
    return words["logits_differ"].format(difference=f"{proof['largest_logit_difference']:.1g}")
