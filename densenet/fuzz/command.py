"""scripts/fuzz: looks for files that cost more than an image may, among known ones and mutations without end."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

from densenet.fuzz.costly import COSTLY
from densenet.fuzz.measure import Cost, cost
from densenet.fuzz.mutate import BASES, mutated
from export import console
from export.console import Problem
from handler.decoder import Decoder

_SHOWN = 10
_DECODER_MEMORY = 1_500_000_000  # bytes of address space: the service's default
_MEGABYTE = 1_000_000

Seconds = Annotated[float, typer.Option(min=0, help="For how long to go on.")]
Seed = Annotated[int, typer.Option(help="Which mutations; the same seed makes the same files in the same order.")]
Index = Annotated[int | None, typer.Option(min=0, help="Measure this one mutation of the seed and nothing else.")]
Name = Annotated[str | None, typer.Option(metavar="NAME", help="Measure this one known file and nothing else.")]
MaxCpu = Annotated[float, typer.Option(min=0, help="Seconds of processor time that one file may take.")]
MaxMemory = Annotated[int, typer.Option(min=1, metavar="MB", help="Memory that one file may take.")]
Keep = Annotated[Path | None, typer.Option(metavar="DIR", help="Write files beyond a bound there.")]


@dataclass(frozen=True)
class File:
    """A file to be measured, and how it is made again."""

    name: str
    content: bytes


@dataclass(frozen=True)
class Found:
    """What a file cost."""

    name: str
    size: int
    cost: Cost

    def exceeds(self, max_cpu: float, max_memory: int) -> bool:
        """Whether it is one to look into."""
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
    """Looks for image files that cost much processor time or memory to decode.

    First come all files that are known to have been costly, then mutations of these and of good files, until the time
    is over. Shows the costliest ten, and ends with 1 where one is beyond a bound, or broke the decoder.
    """
    if name is not None and name not in COSTLY:
        raise Problem(f"there is no known file {name}; there are {', '.join(COSTLY)}")
    decoder = Decoder(memory=_DECODER_MEMORY)
    found: list[Found] = []
    try:
        with _progress(seconds) as advance:
            for file in _files(seed, index, name, seconds):
                found.append(Found(file.name, len(file.content), cost(decoder, file.content)))
                if found[-1].exceeds(max_cpu, max_memory):
                    _keep(keep, file)
                advance()
    except KeyboardInterrupt:
        console.err.print("interrupted; this is what was found until then")
    finally:
        decoder.close()
    _show(found)
    bad = [one for one in found if one.exceeds(max_cpu, max_memory)]
    if bad:
        bounds = f"{max_cpu:g} s of processor time or {max_memory} MB"
        raise Problem(f"{len(bad)} of {len(found)} files took more than {bounds}, or broke the decoder")


def _files(seed: int, index: int | None, name: str | None, seconds: float) -> Iterator[File]:
    if name is not None:
        yield File(name, COSTLY[name]())
    elif index is not None:
        yield _mutation(seed, index)
    else:
        deadline = time.monotonic() + seconds
        for known, build in COSTLY.items():
            if time.monotonic() < deadline:
                yield File(known, build())
        for number in count():
            if time.monotonic() >= deadline:
                return
            yield _mutation(seed, number)


def _mutation(seed: int, index: int) -> File:
    return File(f"--seed {seed} --index {index}", mutated(seed, index, BASES))


@contextmanager
def _progress(seconds: float) -> Iterator[Callable[[], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    started, files = time.monotonic(), count(1)
    with Progress(*columns, console=console.err, transient=True) as progress:
        task = progress.add_task("0 files", total=seconds)

        def advance() -> None:
            progress.update(task, completed=time.monotonic() - started, description=f"{next(files)} files")

        yield advance


def _keep(folder: Path | None, file: File) -> None:
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / file.name.replace("--", "").replace(" ", "-").strip("-")).write_bytes(file.content)


def _show(found: list[Found]) -> None:
    table = Table("file", "bytes", "CPU s", "MB", "outcome", title=f"The costliest of {len(found)} files")
    for one in sorted(found, key=lambda one: one.cost.cpu, reverse=True)[:_SHOWN]:
        memory = f"{one.cost.memory / _MEGABYTE:.0f}"
        table.add_row(one.name, str(one.size), f"{one.cost.cpu:.2f}", memory, one.cost.outcome.splitlines()[-1])
    console.out.print(table)
