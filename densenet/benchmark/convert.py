"""Convert: from one set of weights to the file that each engine runs, made when it is first asked for."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from densenet.benchmark import processes
from densenet.benchmark.baselines.engines import Floats
from densenet.benchmark.plan import System
from densenet.benchmark.record import Record, tell

_UNTRAINED = "untrained"
_SHAPE = (1, 3, 224, 224)


@dataclass(frozen=True)
class Models:
    """The files of a run, all below `folder`. weights: imagenet, untrained or a file.

    calibration: a folder of photos.
    """

    folder: Path
    weights: str
    calibration: Path

    def prepare(self, wanted: Iterable[tuple[System, str]], record: Record) -> set[tuple[System, str]]:
        """Makes every file that is wanted; those that can be made. What others lack is a failure in the record."""
        ready = set()
        for system, precision in dict.fromkeys(wanted):
            with record.guarded("converting", f"{system} {precision}"):
                self.file(system, precision)
                ready.add((system, precision))
        return ready

    def file(self, system: System, precision: str) -> Path:
        """What engines.load wants for that system. Raises Problem where the conversion fails."""
        if system in (System.OURS, System.STOCK):
            return self.exported(precision)
        if system is System.OPENVINO:
            return self._openvino("fp32" if precision == "bf16" else precision)
        return self._onnx(precision) if system is System.ONNXRUNTIME else self.state

    @property
    def state(self) -> Path:
        """The weights as a state dict of tensors alone, which everything else is made of."""
        return self.folder / "weights.pth"

    def make_state(self) -> None:
        """Reads the weights. Raises Problem where there are none."""
        self._made(self.state.name, "reading the weights", _save_state, self.weights)

    def exported(self, precision: str) -> Path:
        """The folder that this project's own export wrote."""
        folder = self.folder / f"exported-{precision}"
        if not folder.exists():
            tell(f"exporting {precision}")
            arguments = ["--weights", self.weights, "--precision", precision, "--output", str(folder)]
            if precision == "int8":
                arguments += ["--calibration-images", str(self.calibration)]
                # Of random weights the best class is a matter of chance; speed is not.
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
        """The file of that name; make(*sources, path) is called in a process of its own where there is none."""
        path = self.folder / name
        if not path.exists():
            tell(doing)
            # An engine's file may be two, which is why it is made in a folder and named by its first.
            partial = self.folder / "partial" / name
            partial.parent.mkdir(exist_ok=True)
            processes.apart(make, *sources, partial)
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
        warnings.simplefilter("ignore")  # it traces, which is deprecated; torch is pinned
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
        # The newer exporter's own optimisations need a further package; ONNX Runtime optimises what it loads anyway.
        torch.onnx.export(eager, (torch.zeros(_SHAPE),), path, dynamo=False, input_names=["photo"], opset_version=17)


def _quantize_onnx(original: Path, calibration: Path, path: Path) -> None:
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        """Its way of asking for one batch after the other."""

        def __init__(self) -> None:
            self._batches = _batches(calibration)

        def get_next(self) -> dict[str, Floats] | None:
            """None after the last one."""
            return next(({"photo": batch} for batch in self._batches), None)

    prepared = path.with_name("prepared.onnx")
    quant_pre_process(original, prepared)
    quantization.quantize_static(
        prepared,
        path,
        Reader(),
        quant_format=quantization.QuantFormat.QDQ,
        per_channel=True,
        # Signed activations, its default, have no fast kernels on x86; batch-norms in int8 cost more than they save.
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        op_types_to_quantize=["Conv", "Gemm"],
    )
    prepared.unlink()


def _batches(calibration: Path) -> Iterator[Floats]:
    """The calibrating images of this project's own int8, one at a time: float32 (1, 3, 224, 224)."""
    from export import calibration as images

    for image in images.read(calibration).calibrating:
        yield np.ascontiguousarray(image[None].numpy())
