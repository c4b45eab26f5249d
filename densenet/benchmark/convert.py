"""Convert one set of weights to each engine's file format, on first use."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from densenet import processes
from densenet.benchmark import subprocess_rpc
from densenet.benchmark.baselines.engines import Floats
from densenet.benchmark.plan import System
from densenet.benchmark.record import Record, log

_UNTRAINED = "untrained"
_SHAPE = (1, 3, 224, 224)


@dataclass(frozen=True)
class Models:
    """The model files of a run, all below `folder`. weights: imagenet, untrained or a file.

    calibration: a folder of photos.
    """

    folder: Path
    weights: str
    calibration: Path

    def prepare(self, requested: Iterable[tuple[System, str]], record: Record) -> set[tuple[System, str]]:
        """Create the requested files; return those that succeeded and record the failures."""
        ready = set()
        for system, precision in dict.fromkeys(requested):
            with record.guarded("converting", f"{system} {precision}"):
                self.file(system, precision)
                ready.add((system, precision))
        return ready

    def file(self, system: System, precision: str) -> Path:
        """Return the file or folder that engines.load needs for the system.

        Raises: CliError if the conversion fails.
        """
        if system in (System.OURS, System.STOCK):
            return self.exported(precision)
        if system is System.OPENVINO:
            return self._openvino("fp32" if precision == "bf16" else precision)
        return self._onnx(precision) if system is System.ONNXRUNTIME else self.state

    @property
    def state(self) -> Path:
        """Return the path of the weights as a state dict, the source of all conversions."""
        return self.folder / "weights.pth"

    def make_state(self) -> None:
        """Read the weights and save them as a state dict.

        Raises: CliError if they cannot be read.
        """
        self._made(self.state.name, "reading the weights", _save_state, self.weights)

    def exported(self, precision: str) -> Path:
        """Return the folder written by this project's export."""
        folder = self.folder / f"exported-{precision}"
        if not folder.exists():
            log(f"exporting {precision}")
            arguments = ["--weights", self.weights, "--precision", precision, "--output", str(folder)]
            if precision == "int8":
                arguments += ["--calibration-images", str(self.calibration)]
                # With random weights the best class is arbitrary, so agreement cannot be required.
                arguments += ["--min-agreement", "0"] if self.weights == _UNTRAINED else []
            processes.run("export", *arguments, log=self.folder / f"export-{precision}.log")
        return folder

    def _openvino(self, precision: str) -> Path:
        if precision == "fp32":
            return self._made("fp32.xml", "converting to OpenVINO", _to_openvino, self.state)
        original = self._openvino("fp32")
        return self._made("int8.xml", "quantising with NNCF", _quantize_openvino, original, self.calibration)

    def _onnx(self, precision: str) -> Path:
        if precision == "fp32":
            return self._made("fp32.onnx", "converting to ONNX", _to_onnx, self.state)
        original = self._onnx("fp32")
        return self._made("int8.onnx", "quantising with ONNX Runtime", _quantize_onnx, original, self.calibration)

    def _made(self, name: str, doing: str, make: Callable[..., None], *sources: object) -> Path:
        """Return the file of that name; if missing, call make(*sources, path) in a subprocess first."""
        path = self.folder / name
        if not path.exists():
            log(doing)
            # An engine may write two files, so they are made in a folder; the first one's name identifies them.
            partial = self.folder / "partial" / name
            partial.parent.mkdir(exist_ok=True)
            subprocess_rpc.run(make, *sources, partial)
            for made in sorted(partial.parent.iterdir(), reverse=True):
                made.replace(self.folder / made.name)
        return path


def _save_state(weights_from: str, path: Path) -> None:
    import torch

    from export import network, weights

    torch.save(network.build(weights.load(weights_from).state).state_dict(), path)


def _to_openvino(state: Path, path: Path) -> None:
    import openvino
    import torch

    from export import network

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # OpenVINO traces the network, which is deprecated; torch is pinned
        eager = network.build(torch.load(state, weights_only=True))
        model = openvino.convert_model(eager, example_input=torch.zeros(_SHAPE), input=_SHAPE)
    openvino.save_model(model, path, compress_to_fp16=False)


def _quantize_openvino(original: Path, calibration: Path, path: Path) -> None:
    import nncf
    import openvino

    batches = list(_batches(calibration))
    model = openvino.Core().read_model(original)
    quantized = nncf.quantize(model, nncf.Dataset(batches), subset_size=len(batches))
    openvino.save_model(quantized, path, compress_to_fp16=False)


def _to_onnx(state: Path, path: Path) -> None:
    import torch

    from export import network

    eager = network.build(torch.load(state, weights_only=True))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # The newer exporter's optimisations need another package, and ONNX Runtime optimises on loading anyway.
        torch.onnx.export(eager, (torch.zeros(_SHAPE),), path, dynamo=False, input_names=["photo"], opset_version=17)


def _quantize_onnx(original: Path, calibration: Path, path: Path) -> None:
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        """ONNX Runtime's interface for calibration batches."""

        def __init__(self) -> None:
            self._batches = _batches(calibration)

        def get_next(self) -> dict[str, Floats] | None:
            """Return the next batch, or None after the last one."""
            return next(({"photo": batch} for batch in self._batches), None)

    prepared = path.with_name("prepared.onnx")
    quant_pre_process(original, prepared)
    quantization.quantize_static(
        prepared,
        path,
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        # Signed activations, the default, have no fast kernels on x86. Batch norms in int8 are slower than in fp32.
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        op_types_to_quantize=["Conv", "Gemm"],
    )
    prepared.unlink()


def _batches(calibration: Path) -> Iterator[Floats]:
    """Yield the images that calibrate this project's int8 export, one at a time: float32 (1, 3, 224, 224)."""
    from export import calibration as images

    for image in images.read(calibration).calibrating:
        yield np.ascontiguousarray(image[None].numpy())
