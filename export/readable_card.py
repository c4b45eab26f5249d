"""The model card for people: Hugging Face's form of one, Markdown after metadata in YAML.

https://huggingface.co/docs/hub/model-cards
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from string import Template
from typing import Any

import yaml

from export import UNTRAINED
from handler.calibration import measured_with
from handler.settings import default_min_probability

_TEMPLATE = Template(Path(__file__).with_name("model_card.md").read_text(encoding="utf-8"))
_IMAGENET_CLASSES = 1000
_TRAINED_ON = {
    UNTRAINED: "None: the weights are random numbers.",
    "IMAGENET1K_V1": "ImageNet-1k (ILSVRC 2012), 1.28 million photos in 1000 classes, by torchvision.",
}
_UNKNOWN_DATA = "The weights file does not say. Ask whoever made it."
_OF_IMAGENET = """\
- ImageNet has no classes for people, and some of its labels are wrong. What the network sees in photos of people
  depends on their clothes and surroundings."""
_NOT_MEASURED = """\
Not measured with this export: run `scripts/evaluate DIR --calibrate FILE` with labelled photos, then
`scripts/archive --calibration FILE`."""


def render(card: Mapping[str, Any]) -> bytes:
    """Return the model card, the content of model_card.json, as Markdown in UTF-8."""
    metadata = yaml.safe_dump(_metadata(card), sort_keys=False, allow_unicode=True)
    weights, network, source = card["weights"], card["network"], card["input"]
    untrained = weights["name"] == UNTRAINED
    text = _TEMPLATE.substitute(
        architecture=card["architecture"],
        weights=weights["name"],
        weights_sha256=weights["sha256"],
        source=weights["source"],
        precision=card["precision"],
        warning="\n**The weights are untrained: every answer is meaningless.**\n" if untrained else "",
        classes=card["classes"]["count"],
        agreement=_agreement(card["agreement"]),
        **{name: source[name] for name in ("resize", "crop", "mean", "std")},
        file=network["file"],
        network_sha256=network["sha256"],
        exported_with=", ".join(f"{name} {version}" for name, version in card["exported_with"].items()),
        training_data=_TRAINED_ON.get(weights["name"], _UNKNOWN_DATA),
        accuracy="\n".join(_accuracy(card.get("evaluation", {}))),
        calibration="\n".join(_calibration(card)),
        imagenet=_OF_IMAGENET if card["classes"]["count"] == _IMAGENET_CLASSES and not untrained else "",
    )
    return f"---\n{metadata}---\n\n{text.rstrip()}\n".encode()


def _metadata(card: Mapping[str, Any]) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "pipeline_tag": "image-classification",
        "library_name": "pytorch",
        "tags": ["densenet", "torchscript", "torchserve", card["precision"]],
        "metrics": ["accuracy"],
    }
    if measured := measured_with(card):
        metrics = [
            {"name": name, "type": kind, "value": round(measured[key]["share"], 4)}
            for name, kind, key in (("Accuracy", "accuracy", "top1"), ("Top-5 accuracy", "top-5-accuracy", "top5"))
        ]
        result = {
            "task": {"type": "image-classification"},
            "dataset": {"name": f"{measured['images']} labelled images", "type": "custom"},
            "metrics": metrics,
        }
        name = f"{card['architecture']} {card['weights']['name']} {card['precision']}"
        metadata["model-index"] = [{"name": name, "results": [result]}]
    return metadata


def _agreement(agreement: Mapping[str, Any]) -> str:
    if held_out := agreement.get("held_out"):
        photos = f"{held_out['images']} photos that it was not calibrated with"
        return f"{held_out['same_top1']:.1%} of {photos} keep the original network's best class"
    return f"logits within {agreement['tolerance']:g} standard deviations of the original network's"


def _accuracy(evaluation: Mapping[str, Any]) -> Iterator[str]:
    if not evaluation:
        yield _NOT_MEASURED
        return
    yield "| precision | labelled images | classes | top-1 (95% interval) | top-5 (95% interval) | sha256 of the set |"
    yield "|---|---:|---:|---:|---:|---|"
    for precision, measured in evaluation.items():
        shares = " | ".join(
            f"{share['share']:.1%} ({share['low']:.1%} to {share['high']:.1%})"
            for share in (measured["top1"], measured["top5"])
        )
        yield f"| {precision} | {measured['images']} | {measured['classes']} | {shares} | `{measured['set_sha256']}` |"


def _calibration(card: Mapping[str, Any]) -> Iterator[str]:
    measured = measured_with(card)
    if measured is None:
        least = default_min_probability(card["classes"]["count"])
        yield "Probabilities are the softmax of the network's own logits. An image is `recognized` if its best class"
        yield f"has at least {least:g}, unless the service is configured otherwise."
        return
    before, after = (
        f"{error['error']:.3f} (95% interval {error['low']:.3f} to {error['high']:.3f})"
        for error in (measured["calibration_error"][when] for when in ("before", "after"))
    )
    yield f"- Logits are divided by {measured['temperature']:.3f} before the softmax. Expected calibration error:"
    yield f"  {before} before, {after} after, each photo with a temperature that was fitted to others."
    bound = measured["unknown"]["bound"]
    yield f"- An image is `recognized` if its `unknown_score` is at most {bound:g}, as is that of {bound:.1%} of the"
    yield "  labelled images."
    if measured["min_probability"]:
        yield f"- Its best class must also have a probability of at least {measured['min_probability']:.3f}. Of the"
        yield f"  labelled images that had it, {measured['min_precision']:.1%} were right."
    if count := len(measured["class_min_probability"]):
        yield f"- For {count} classes that threshold is another one, measured with their own images."
