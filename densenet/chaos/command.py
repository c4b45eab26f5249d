"""scripts/chaos: inject faults one after another and report what clients see."""

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from densenet import processes
from densenet.benchmark import machine
from densenet.benchmark.record import log
from densenet.chaos import report
from densenet.chaos.faults import clock, disk, front_end, mixed, overload, starting, workers
from densenet.chaos.plan import Check, Fault, Finding, Skipped
from densenet.chaos.scenario import WORKERS, Scenario
from densenet.paths import BUILD
from densenet.service.archive import WEIGHTS_OPTIONS
from export import Precision, console
from export.archive import copy_with_settings, read_card, start_settings
from export.console import CliError

NAME = "reliability"  # base name of the three report files
_FAULTS: dict[Fault, Callable[[Scenario], Finding]] = {
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


def main(
    only: Annotated[list[Fault] | None, typer.Option(help="Fault to inject; repeatable. [default: all]")] = None,
    minutes: Annotated[float, typer.Option(min=0.1, max=1440, help="Duration of the mixed load.")] = 30,
    archive: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Archive to serve. [default: one with untrained weights]",
            callback=console.existing_file,
        ),
    ] = None,
    output: Annotated[Path, typer.Option(metavar="DIR", help=f"Folder for {NAME}.md, .svg and .json.")] = BUILD
    / "chaos",
) -> None:
    """Inject faults one after another, each into its own service, and report what clients see.

    The faults: workers killed, hung and out of memory, the front end killed, a full disk, damaged archives, a bad
    configuration, clock jumps, a full queue, and a long mixed load. Exits 1 if an expectation is not met.
    """
    chosen = [fault for fault in Fault if fault in (only or Fault)]
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="chaos-") as name:
        folder = Path(name)
        served = _archive(archive, folder)
        card = read_card(served)
        document = _about(card, minutes)
        begun = time.monotonic()
        for fault in chosen:
            scenario = Scenario(served, folder / fault.value, minutes, _eager_weights(card))
            scenario.folder.mkdir()
            document["findings"].append(asdict(_try(fault, scenario)))
            document["elapsed_minutes"] = round((time.monotonic() - begun) / 60, 1)
            _write(document, output)
    unmet = [finding for finding in document["findings"] if not all(check["met"] for check in finding["checks"])]
    console.out.print(f"report: {output / NAME}.md, all numbers in {output / NAME}.json", markup=False)
    if unmet:
        raise CliError(f"not as expected: {', '.join(finding['fault'] for finding in unmet)}")


def _archive(archive: Path | None, folder: Path) -> Path:
    """Return a copy of the archive that starts two workers; export untrained weights if no archive is given.

    Raises: CliError if the archive cannot be read.
    """
    source = archive or folder / "made" / "densenet.mar"
    if archive is None:
        log("exporting untrained weights")
        exported = str(folder / "exported")
        processes.run("export", "--weights", "untrained", "--output", exported, log=folder / "export.log")
        processes.run("export.archive", "--model", exported, "--output", str(source), log=folder / "archive.log")
    read_card(source)
    served = folder / "served" / "densenet.mar"
    copy_with_settings(source, served, start_settings(WORKERS))
    return served


def _eager_weights(card: dict[str, Any]) -> str | None:
    """Return the `export --weights` value for an eager network with the same outputs, or None if there is none."""
    return WEIGHTS_OPTIONS.get(card["weights"]["name"]) if card["precision"] == Precision.FP32 else None


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


def _try(fault: Fault, scenario: Scenario) -> Finding:
    """Inject one fault; if this machine cannot run it, record it as skipped; record other errors as failed checks."""
    log(fault.value)
    try:
        finding = _FAULTS[fault](scenario)
    except Skipped as reason:
        finding = Finding(fault, "", skipped=str(reason))
        log(f"skipped: {reason}")
    except Exception as error:  # one failing scenario must not prevent the others
        finding = Finding(fault, "")
        message = " ".join(f"{error}".split())[:300]
        finding.checks.append(Check("the chaos test", "completes", message, False))
    for check in finding.checks:
        console.out.print(f"  {check.line}", markup=False)
    return finding


def _write(document: dict[str, Any], output: Path) -> None:
    findings = document["findings"]
    samples: list[dict[str, Any]] = next((finding["samples"] for finding in findings if finding["samples"]), [])
    figure = output / f"{NAME}.svg"
    if samples:
        from densenet.chaos import plot  # imports matplotlib, which --help must not need

        plot.write(samples, figure)
    else:
        figure.unlink(missing_ok=True)
    (output / f"{NAME}.json").write_text(json.dumps(document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    (output / f"{NAME}.md").write_text(report.markdown(document, figure.name if samples else None), encoding="utf-8")
