"""python -m export: export weights to a TorchScript network and verify it against the eager network."""

from pathlib import Path
from typing import Annotated

import typer

from export import DEFAULT_FOLDER, NETWORK, UNTRAINED, Precision, console, progress


def main(
    weights_from: Annotated[
        str,
        typer.Option(
            "--weights", help="imagenet, untrained, or a .pth or .safetensors file.", callback=console.named_weights
        ),
    ] = "imagenet",
    class_index: Annotated[
        Path | None,
        typer.Option(
            help='Class ids and names, {"0": ["id", "name"], …}. [default: ImageNet\'s 1000]',
            metavar="FILE",
            callback=console.existing_file,
        ),
    ] = None,
    precision: Annotated[
        Precision,
        typer.Option(
            help="Precision of the network; auto: bf16 where the processor has AMX, else fp32.",
            parser=console.precision,
            metavar=console.PRECISIONS,
        ),
    ] = Precision.FP32,
    calibration_images: Annotated[
        Path | None,
        typer.Option(
            help="Folder of representative photos, required for int8.", metavar="DIR", callback=console.existing_folder
        ),
    ] = None,
    min_agreement: Annotated[
        float, typer.Option(min=0, max=1, help="int8: minimum share of held-out photos that keep their best class.")
    ] = 0.9,
    report: Annotated[
        bool, typer.Option("--report", help="int8: print the error of each layer, also if the network is refused.")
    ] = False,
    output: Annotated[Path, typer.Option(help="Folder to write to.", metavar="DIR")] = DEFAULT_FOLDER,
) -> None:
    """Export DenseNet-121 to TorchScript: rewrite, trace, save, load again and compare with the eager network.

    Writes model.pt, model_card.json and index_to_name.json, or nothing if the networks disagree.
    """
    console.check_calibration(precision, calibration_images)
    console.check_report(precision, report)
    from export import (
        bundle,
        layer_errors,
        weights,
    )  # imports torch and torchvision, which takes seconds; --help needs neither

    how = bundle.Quantization(calibration_images, min_agreement) if calibration_images else precision
    bundle.check_writable(output)
    console.out.print(f"loading weights: {weights_from}", markup=False)
    loaded = weights.load(weights_from)
    if loaded.name == UNTRAINED:
        console.err.print("WARNING: these weights are untrained; every answer will be meaningless")
    errors: list[layer_errors.LayerError] = []
    try:
        with progress.Bar(bundle.steps(how)) as steps:
            made = bundle.make(loaded, class_index, how, steps, errors.append)
            steps.begin(bundle.WRITING)
            made.write(output)
    finally:
        if report and errors:
            layer_errors.show(errors)
    size = f"{len(made.network) / 1e6:.0f} MB, {len(made.classes)} classes"
    console.out.print(f"wrote {output / NETWORK} ({size}); {made.comparison}", markup=False)


if __name__ == "__main__":
    console.run(main, "export")
