"""scripts/benchmark: how fast the service is, beside the tutorial, TorchServe's own handler and other engines."""

import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from densenet.benchmark import decoding, gpu, machine, network, overload, plan, plot, report, speed, targets, workers
from densenet.benchmark.convert import Models
from densenet.benchmark.plan import LOADS, QUICK_LOADS, Contender, Effort, Part, System
from densenet.benchmark.record import Record, tell
from densenet.benchmark.run import Run, draw_calibration, draw_photos
from densenet.paths import BUILD
from export import console
from export.console import Problem

NAME = "performance"  # of the three files
_MEASURES = {
    Part.NETWORK: network.measure,
    Part.DECODING: decoding.measure,
    Part.HTTP: speed.measure,
    Part.WORKERS: workers.measure,
    Part.OVERLOAD: overload.measure,
    Part.GPU: gpu.measure,
}


class Interrupted(Problem):
    """Ctrl-C, told in one line; the exit status is the shell's for SIGINT."""

    status = 130


Rounds = Annotated[
    int | None,
    typer.Option(min=1, max=100, help="How often all is measured, in changing order. [default: 3; quick: 1]"),
]
Seconds = Annotated[
    int | None,
    typer.Option(min=1, max=600, help="Of every load in a round, after a second of ramp. [default: 4; quick: 2]"),
]
Only = Annotated[list[Part] | None, typer.Option(help="One part; may be given again. [default: all]")]
Chosen = Annotated[
    list[str] | None,
    typer.Option("--contender", metavar="NAME", help="One service, such as ours-int8-2; may be given again."),
]
Quick = Annotated[
    bool, typer.Option("--quick", help="Fewer loads, and by default one short round: a look, not a measurement.")
]
Weights = Annotated[str, typer.Option(help="imagenet, untrained or a file; speed does not depend on them.")]
Images = Annotated[
    Path | None,
    typer.Option("--calibration-images", metavar="DIR", help="Photos to quantise with. [default: cut-outs of ours]"),
]
Output = Annotated[Path, typer.Option(metavar="DIR", help=f"For {NAME}.md, {NAME}.svg and {NAME}.json.")]


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
    """Measures the service beside the Flask tutorial, TorchServe's own handler, OpenVINO and ONNX Runtime.

    All on this machine and in one run, one after the other in alternating order; nothing else should run on it.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    parts = [part for part in Part if part in (only or Part)]
    contenders = _choose(plan.contenders(), chosen) if Part.HTTP in parts else []
    if chosen and not contenders:
        raise Problem("--contender chooses among the services of the part http; add --only http")
    effort = Effort(rounds or (1 if quick else 3), seconds or (2 if quick else 4), QUICK_LOADS if quick else LOADS)
    output.mkdir(parents=True, exist_ok=True)
    about = {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "weights": Path(weights).name,
        "quick": quick,
        "rounds": effort.rounds,
        "seconds": effort.seconds,
        "machine": machine.describe(),
    }
    record = Record(output / f"{NAME}.json", about)
    minutes = plan.minutes(parts, contenders, effort)
    console.err.print(f"{effort.rounds} round(s), about {minutes:.0f} minutes; everything started ends with it")
    with _reporting(record, output), tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        run = _prepare(Path(folder), parts, contenders, effort, record, weights, calibration_images)
        for part in parts:
            _MEASURES[part](run)


@contextmanager
def _reporting(record: Record, output: Path) -> Iterator[None]:
    """The report at the end, however the block ends; of a run without any number there is none."""
    begun = time.monotonic()
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted("interrupted; what was measured until then is in the report") from error
    finally:
        record.finish((time.monotonic() - begun) / 60)
        if record.measured:
            _report(record, output)


def _choose(known: Sequence[Contender], names: Sequence[str] | None) -> list[Contender]:
    by_name = {contender.name: contender for contender in known}
    if unknown := next((name for name in names or () if name not in by_name), None):
        raise Problem(f"there is no contender {unknown} on this machine; there are {', '.join(by_name)}")
    return [contender for contender in known if not names or contender.name in names]


def _prepare(
    folder: Path,
    parts: Sequence[Part],
    contenders: Sequence[Contender],
    effort: Effort,
    record: Record,
    weights: str,
    calibration_images: Path | None,
) -> Run:
    """Makes all files before anything is measured; who cannot be converted takes no part, and the report says so.

    Raises Problem where the weights or the calibration images are none.
    """
    if calibration_images and not calibration_images.is_dir():
        raise Problem(f"there is no folder {calibration_images}; --calibration-images takes one with photos")
    flags = machine.flags(machine.cpuinfo())
    tell("drawing photos")
    photos = draw_photos(folder)
    models = Models(folder, weights, calibration_images or draw_calibration(folder))
    models.make_state()
    engines = plan.engines(flags) if Part.NETWORK in parts else []
    ours = plan.SERVED if {Part.WORKERS, Part.OVERLOAD} & set(parts) else []
    wanted = [(one.system, one.precision) for one in engines] + [(one.system, one.precision) for one in contenders]
    ready = models.prepare([*wanted, *((System.OURS, precision) for precision in ours)], record)
    return Run(
        folder,
        models,
        photos,
        [engine for engine in engines if (engine.system, engine.precision) in ready],
        [contender for contender in contenders if (contender.system, contender.precision) in ready],
        [precision for precision in ours if (System.OURS, precision) in ready],
        effort,
        record,
    )


def _report(record: Record, output: Path) -> None:
    picture = output / f"{NAME}.svg"
    name = picture.name if plot.write(record.document, picture) else None
    (output / f"{NAME}.md").write_text(report.markdown(record.document, name), encoding="utf-8")
    for verdict in targets.judge(record.document):
        console.out.print(verdict.line, markup=False)
    console.out.print(f"report: {output / NAME}.md, all numbers in {output / NAME}.json", markup=False)
