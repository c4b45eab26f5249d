"""The eager network as a reference: torchvision's DenseNet-121 behind torchvision's transforms."""

from collections.abc import Generator, Iterable
from hashlib import sha256
from pathlib import Path

import torch
from PIL import Image, ImageOps
from torchvision import transforms

from densenet.evaluation.answers import UNREADABLE, Outcome
from densenet.evaluation.predict import TOP_K, Source
from export import network, weights
from export.bundle import class_index_for, class_index_json

# Written separately from handler/transform.py, so that an error there shows as a difference.
TRANSFORM = transforms.Compose(
    [
        transforms.Resize(255),
        transforms.CenterCrop(224),
        transforms.ToTensor(),
        transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
    ]
)


def source(weights_from: str, class_index: Path | None) -> Source:
    """Load the weights `imagenet`, `untrained` or a file; predict on the CPU in fp32, one image at a time.

    Raises: CliError if the weights cannot be read.
    """
    loaded = weights.load(weights_from)
    eager = network.build(loaded.state)
    classes = class_index_for(class_index, outputs=len(loaded.state["classifier.weight"]))

    def predict_paths(paths: Iterable[Path]) -> Generator[Outcome]:
        for path in paths:
            try:
                batch = TRANSFORM(_read(path)).unsqueeze(0)
            except Exception as error:  # Pillow's decoders raise many types for damaged files
                yield Outcome(code=UNREADABLE, message=str(error))
                continue
            with torch.inference_mode():
                best = torch.softmax(eager(batch)[0], dim=0).topk(min(TOP_K, len(classes)))
            ids = tuple(classes.ids[position] for position in best.indices.tolist())
            # The eager network has no threshold, so every answer counts as recognized.
            yield Outcome(ids, tuple(best.values.tolist()), recognized=True)

    model = {
        "name": "eager",
        "version": f"torch {torch.__version__}",
        "weights": f"{loaded.name} {(loaded.sha256 or '')[:8]}".strip(),
        "precision": "fp32",
        "classes": sha256(class_index_json(classes)).hexdigest()[:8],
    }
    return Source(model, dict(zip(classes.ids, classes.names, strict=True)), predict_paths)


def _read(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")
