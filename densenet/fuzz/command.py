"""scripts/fuzz: search for files that cost more than an image may, among known files and endless mutations."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from densenet import tables
from densenet.fuzz.costly import COSTLY
from densenet.fuzz.measure import Cost, cost
from densenet.fuzz.mutate import BASES, mutated
from export import console
from export.console import CliError
from handler.decoder import Decoder
from handler.settings import Settings

_SHOWN = 10
_MEGABYTE = 1_000_000

Seconds = Annotated[float, typer.Option(min=0, help="Duration of the search.")]
Seed = Annotated[int, typer.Option(help="Seed of the mutations; the same seed gives the same files in order.")]
Index = Annotated[int | None, typer.Option(min=0, help="Measure only this mutation of the seed.")]
Name = Annotated[str | None, typer.Option(metavar="NAME", help="Measure only this known file.")]
MaxCpu = Annotated[float, typer.Option(min=0, help="Maximum CPU seconds per file.")]
MaxMemory = Annotated[int, typer.Option(min=1, metavar="MB", help="Maximum memory per file.")]
Keep = Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for files that exceed a bound.")]


@dataclass(frozen=True)
class Measurement:
    """The cost of a file. name: a known file's name, or the options that create the file again."""

    name: str
    size: int
    cost: Cost

    def exceeds(self, max_cpu: float, max_memory: int) -> bool:
        """Return whether the file exceeds a bound or broke the decoder."""
        return not self.cost.fine or self.cost.cpu > max_cpu or self.cost.memory > max_memory * _MEGABYTE


def main(
    seconds: Seconds = 60,
    seed: Seed = 0,
    index: Index = None,
    name: Name = None,
    max_cpu: MaxCpu = 6,
    max_memory: MaxMemory = 1500,
    keep: Keep = None,
) -> None:
    """Search for image files that take much CPU time or memory to decode.

    Measures all known costly files first, then mutations of these and of valid files, until the time is over. Shows
    the ten costliest files. Exits 1 if a file exceeds a bound or breaks the decoder.
    """
    if name is not None and name not in COSTLY:
        raise CliError(f"unknown file {name}; known files: {', '.join(COSTLY)}")
    decoder = Decoder(memory=Settings().decode_memory)
    measurements: list[Measurement] = []
    try:
        with _progress(seconds) as advance:
            for file, content in _files(seed, index, name, seconds):
                measurements.append(Measurement(file, len(content), cost(decoder, content)))
                if keep and measurements[-1].exceeds(max_cpu, max_memory):
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / file.replace("--", "").replace(" ", "-").strip("-")).write_bytes(content)
                advance()
    except KeyboardInterrupt:
        console.err.print("interrupted; showing the measurements made so far")
    finally:
        decoder.close()
    _show(measurements)
    bad = [measurement for measurement in measurements if measurement.exceeds(max_cpu, max_memory)]
    if bad:
        bounds = f"{max_cpu:g} s of CPU time or {max_memory} MB"
        raise CliError(f"{len(bad)} of {len(measurements)} files took more than {bounds}, or broke the decoder")


def _files(seed: int, index: int | None, name: str | None, seconds: float) -> Iterator[tuple[str, bytes]]:
    """Yield names and contents of the files to measure."""
    if name is not None:
        yield name, COSTLY[name]()
    elif index is not None:
        yield _mutation(seed, index)
    else:
        deadline = time.monotonic() + seconds
        for known, build in COSTLY.items():
            if time.monotonic() < deadline:
                yield known, build()
        for number in count():
            if time.monotonic() >= deadline:
                return
            yield _mutation(seed, number)


def _mutation(seed: int, index: int) -> tuple[str, bytes]:
    return f"--seed {seed} --index {index}", mutated(seed, index, BASES)


@contextmanager
def _progress(seconds: float) -> Iterator[Callable[[], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    started, files = time.monotonic(), count(1)
    with Progress(*columns, console=console.err, transient=True) as progress:
        task = progress.add_task("0 files", total=seconds)

        def advance() -> None:
            progress.update(task, completed=time.monotonic() - started, description=f"{next(files)} files")

        yield advance


def _show(measurements: list[Measurement]) -> None:
    numbers = ("bytes", "CPU s", "MB")
    rows = []
    for row in sorted(measurements, key=lambda row: row.cost.cpu, reverse=True)[:_SHOWN]:
        cpu, memory = f"{row.cost.cpu:.2f}", f"{row.cost.memory / _MEGABYTE:.0f}"
        rows.append((row.name, row.size, cpu, memory, row.cost.outcome.splitlines()[-1]))
    title = f"The costliest of {len(measurements)} files"
    tables.show(("file", *numbers, "outcome"), rows, numbers=numbers, title=title)
