"""scripts/chaos: what clients see when something fails, one fault after another."""

import json
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from densenet.benchmark import machine, processes
from densenet.benchmark.record import tell
from densenet.chaos import plot, report
from densenet.chaos.faults import clock, disk, front_end, mixed, overload, starting, workers
from densenet.chaos.plan import Check, Fault, Finding, Skipped
from densenet.chaos.scenario import WORKERS, Scene
from densenet.paths import BUILD
from export import Precision, console
from export.archive import copy_with_workers, read_card
from export.console import Problem

NAME = "reliability"  # of the three files
_FAULTS: dict[Fault, Callable[[Scene], Finding]] = {
    Fault.WORKER_KILLED: workers.killed,
    Fault.WORKER_HUNG: workers.hung,
    Fault.MEMORY_LIMIT: workers.memory_limit,
    Fault.OUT_OF_MEMORY: workers.out_of_memory,
    Fault.FRONT_KILLED: front_end.killed,
    Fault.DISK_FULL: disk.full,
    Fault.CORRUPT_ARCHIVE: starting.corrupt_archive,
    Fault.BAD_CONFIGURATION: starting.bad_configuration,
    Fault.CLOCK_JUMP: clock.jump,
    Fault.QUEUE_FULL: overload.at_once,
    Fault.MIXED_LOAD: mixed.load_for_long,
}
# Weights by the name in an archive's card → as export takes them; others are a file that only its owner has.
_SOURCES = {"untrained": "untrained", "IMAGENET1K_V1": "imagenet"}


def main(
    only: Annotated[list[Fault] | None, typer.Option(help="One fault; may be given again. [default: all]")] = None,
    minutes: Annotated[float, typer.Option(min=0.1, max=1440, help="Of the mixed load.")] = 30,
    archive: Annotated[
        Path | None, typer.Option(metavar="FILE", help="What is served. [default: one of untrained weights]")
    ] = None,
    output: Annotated[Path, typer.Option(metavar="DIR", help=f"For {NAME}.md, {NAME}.svg and {NAME}.json.")] = BUILD
    / "chaos",
) -> None:
    """Lets one thing after another fail under a service of its own, and reports what clients saw.

    Workers killed, hung and out of memory, the front end killed, a full disk, damaged archives, a bad configuration, a
    clock that jumps, a full queue, and mixed load for long. Exits 1 where an expectation is not met.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    chosen = [fault for fault in Fault if fault in (only or Fault)]
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        folder = Path(name)
        served = _archive(archive, folder)
        card = read_card(served)
        document = _about(card, minutes)
        begun = time.monotonic()
        for fault in chosen:
            scene = Scene(served, folder / fault.value, minutes, _eager_weights(card))
            scene.folder.mkdir()
            document["findings"].append(asdict(_try(fault, scene)))
            document["elapsed_minutes"] = round((time.monotonic() - begun) / 60, 1)
            _write(document, output)
    unmet = [one for one in document["findings"] if not all(check["met"] for check in one["checks"])]
    console.out.print(f"report: {output / NAME}.md, all numbers in {output / NAME}.json", markup=False)
    if unmet:
        raise Problem(f"not as expected: {', '.join(one['fault'] for one in unmet)}")


def _archive(archive: Path | None, folder: Path) -> Path:
    """The archive to serve, with two workers. Raises Problem."""
    source = archive or folder / "made" / "densenet.mar"
    if archive is None:
        tell("exporting untrained weights")
        exported = str(folder / "exported")
        processes.run("export", "--weights", "untrained", "--output", exported, log=folder / "export.log")
        processes.run("export.archive", "--model", exported, "--output", str(source), log=folder / "archive.log")
    read_card(source)
    served = folder / "served" / "densenet.mar"
    copy_with_workers(source, served, WORKERS)
    return served


def _eager_weights(card: dict[str, Any]) -> str | None:
    """The weights of which there can be an eager network that says the same."""
    return _SOURCES.get(card["weights"]["name"]) if card["precision"] == Precision.FP32 else None


def _about(card: dict[str, Any], minutes: float) -> dict[str, Any]:
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "weights": card["weights"]["name"],
        "precision": card["precision"],
        "minutes": minutes,
        "elapsed_minutes": 0.0,
        "machine": machine.describe(),
        "findings": [],
    }


def _try(fault: Fault, scene: Scene) -> Finding:
    """One fault; what cannot be tried here is skipped, and what goes wrong otherwise is an expectation not met."""
    tell(fault.value)
    try:
        found = _FAULTS[fault](scene)
    except Skipped as reason:
        found = Finding(fault, "", skipped=str(reason))
        tell(f"skipped: {reason}")
    except Exception as error:  # one fault must not keep the others from being tried
        found = Finding(fault, "")
        found.checks.append(Check("the chaos test itself", "to its end", " ".join(f"{error}".split())[:300], False))
    _tell(found.checks)
    return found


def _tell(checks: Iterable[Check]) -> None:
    for check in checks:
        console.out.print(f"  {check.line}", markup=False)


def _write(document: dict[str, Any], output: Path) -> None:
    samples: list[dict[str, Any]] = next((one["samples"] for one in document["findings"] if one["samples"]), [])
    picture = output / f"{NAME}.svg"
    if samples:
        plot.write(samples, picture)
    else:
        picture.unlink(missing_ok=True)
    (output / f"{NAME}.json").write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    (output / f"{NAME}.md").write_text(report.markdown(document, picture.name if samples else None), encoding="utf-8")
