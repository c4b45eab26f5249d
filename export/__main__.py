"""python -m export: weights to a TorchScript network that is proven to say what the weights say."""

from pathlib import Path
from typing import Annotated

import typer

import console
from export import DEFAULT_FOLDER, NETWORK, bundle, weights


def main(
    weights_from: Annotated[
        str, typer.Option("--weights", help="imagenet, untrained, or a .pth or .safetensors file.")
    ] = "imagenet",
    class_index: Annotated[
        Path | None,
        typer.Option(help='Class ids and names, {"0": ["id", "name"], …}. [default: ImageNet\'s 1000]', metavar="FILE"),
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder to write to.", metavar="DIR")] = DEFAULT_FOLDER,
) -> None:
    """Exports DenseNet-121 to TorchScript: traces, freezes, saves, loads again and compares with the eager network.

    Writes model.pt, model_card.json and index_to_name.json, or nothing if the networks disagree.
    """
    console.out.print(f"loading weights: {weights_from}", markup=False)
    loaded = weights.load(weights_from)
    if loaded.name == "untrained":
        console.err.print("WARNING: these weights are untrained; every answer will be meaningless")
    console.out.print("exporting to TorchScript and comparing with the eager network")
    made = bundle.make(loaded, class_index)
    made.write(output)
    agreement = made.card["agreement"]
    console.out.print(
        f"wrote {output / NETWORK} ({len(made.network) / 1e6:.0f} MB, {len(made.classes)} classes); logits differ by "
        f"at most {agreement['largest_logit_difference']:.1e} of their spread, {agreement['tolerance']:g} is allowed",
        markup=False,
    )


if __name__ == "__main__":
    console.run(main, "export")
