"""scripts/benchmark: compare the service's speed with the tutorial, TorchServe's own handler and other engines."""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from densenet.benchmark import decoding, gpu, machine, network, overload, plan, report, speed, targets, workers
from densenet.benchmark.convert import Models
from densenet.benchmark.plan import LOADS, QUICK_LOADS, Effort, Part, ServedSystem, System
from densenet.benchmark.record import Record, log
from densenet.benchmark.run import Run, draw_calibration, draw_photos
from densenet.interruption import Interrupted
from densenet.paths import BUILD
from export import console
from export.console import CliError

NAME = "performance"  # base name of the three report files
_MEASURES = {
    Part.NETWORK: network.measure,
    Part.DECODING: decoding.measure,
    Part.HTTP: speed.measure,
    Part.WORKERS: workers.measure,
    Part.OVERLOAD: overload.measure,
    Part.GPU: gpu.measure,
}


Rounds = Annotated[
    int | None,
    typer.Option(min=1, max=100, help="Number of rounds, in changing order. [default: 3; quick: 1]"),
]
Seconds = Annotated[
    int | None,
    typer.Option(min=1, max=600, help="Duration of each load, after a ramp of 1 s. [default: 4; quick: 2]"),
]
Only = Annotated[list[Part] | None, typer.Option(help="Part to measure; repeatable. [default: all]")]
Chosen = Annotated[
    list[str] | None,
    typer.Option("--contender", metavar="NAME", help="Service to measure, such as ours-int8-2; repeatable."),
]
Quick = Annotated[bool, typer.Option("--quick", help="Fewer loads and one short round by default; a rough check only.")]
Weights = Annotated[
    str,
    typer.Option(
        help="imagenet, untrained or a file; speed does not depend on the weights.", callback=console.named_weights
    ),
]
Images = Annotated[
    Path | None,
    typer.Option(
        "--calibration-images",
        metavar="DIR",
        help="Photos for quantisation. [default: windows of our own]",
        callback=console.existing_folder,
    ),
]
Output = Annotated[Path, typer.Option(metavar="DIR", help=f"Folder for {NAME}.md, .svg and .json.")]


def main(
    rounds: Rounds = None,
    seconds: Seconds = None,
    only: Only = None,
    chosen: Chosen = None,
    quick: Quick = False,
    weights: Weights = "untrained",
    calibration_images: Images = None,
    output: Output = BUILD / "benchmark",
) -> None:
    """Compare the service with the Flask tutorial, TorchServe's own handler, OpenVINO and ONNX Runtime.

    Measures all of them in one run on this machine, in alternating order. No other program should run meanwhile.
    """
    parts = [part for part in Part if part in (only or Part)]
    here = machine.describe()
    served_systems = _choose(plan.served_systems(here["flags"]), chosen) if Part.HTTP in parts else []
    if chosen and not served_systems:
        raise CliError("--contender selects services of the part http, which --only excludes; add --only http")
    effort = Effort(rounds or (1 if quick else 3), seconds or (2 if quick else 4), QUICK_LOADS if quick else LOADS)
    output.mkdir(parents=True, exist_ok=True)
    about = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "weights": Path(weights).name,
        "quick": quick,
        "rounds": effort.rounds,
        "seconds": effort.seconds,
        "machine": here,
    }
    record = Record(output / f"{NAME}.json", about)
    minutes = plan.minutes(parts, served_systems, effort)
    console.err.print(f"{effort.rounds} round(s), about {minutes:.0f} minutes; all processes end with the run")
    with _reporting(record, output), tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        run = _prepare(Path(folder), parts, served_systems, effort, record, weights, calibration_images)
        for part in parts:
            _MEASURES[part](run)


@contextmanager
def _reporting(record: Record, output: Path) -> Iterator[None]:
    """Write the report at the end of the block, even after an error; write none if nothing was measured."""
    begun = time.monotonic()
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted("interrupted; the report has the measurements made so far") from error
    finally:
        record.finish((time.monotonic() - begun) / 60)
        if record.measured:
            _report(record, output)


def _choose(available: Sequence[ServedSystem], names: Sequence[str] | None) -> list[ServedSystem]:
    by_name = {served.name: served for served in available}
    if unknown := next((name for name in names or () if name not in by_name), None):
        raise CliError(f"unknown contender {unknown} on this machine; valid contenders: {', '.join(by_name)}")
    return [served for served in available if not names or served.name in names]


def _prepare(
    folder: Path,
    parts: Sequence[Part],
    served_systems: Sequence[ServedSystem],
    effort: Effort,
    record: Record,
    weights: str,
    calibration_images: Path | None,
) -> Run:
    """Create all files before measuring. Systems whose conversion fails are left out, and the report lists them.

    Raises: CliError if the weights or the calibration images cannot be read.
    """
    if calibration_images and not calibration_images.is_dir():
        raise CliError(f"no such folder: {calibration_images}; --calibration-images needs a folder of photos")
    log("drawing photos")
    photos = draw_photos(folder)
    models = Models(folder, weights, calibration_images or draw_calibration(folder))
    models.make_state()
    engines = plan.engines(record.document["machine"]["flags"]) if Part.NETWORK in parts else []
    ours = plan.SCALED if {Part.WORKERS, Part.OVERLOAD} & set(parts) else []
    compared = [(engine.system, engine.precision) for engine in engines]
    compared += [(served.system, served.precision) for served in served_systems]
    ready = models.prepare([*compared, *((System.OURS, precision) for precision in ours)], record)
    return Run(
        folder,
        models,
        photos,
        [engine for engine in engines if (engine.system, engine.precision) in ready],
        [served for served in served_systems if (served.system, served.precision) in ready],
        [precision for precision in ours if (System.OURS, precision) in ready],
        effort,
        record,
    )


def _report(record: Record, output: Path) -> None:
    figure = output / f"{NAME}.svg"
    from densenet.benchmark import plot  # imports matplotlib, which --help must not need

    name = figure.name if plot.write(record.document, figure) else None
    (output / f"{NAME}.md").write_text(report.markdown(record.document, name), encoding="utf-8")
    for verdict in targets.judge(record.document):
        console.out.print(verdict.line, markup=False)
    console.out.print(f"report: {output / NAME}.md, all numbers in {output / NAME}.json", markup=False)
