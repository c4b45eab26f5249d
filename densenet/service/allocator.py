"""Allocator: start TorchServe's workers with mimalloc in place of the C library's memory allocator.

A pass through the network allocates about 400 times, and glibc's aligned allocations do not use its thread cache. With
mimalloc a pass takes 9% less time in int8 and 1.5% less in fp32 (docs/measurements.md). Only workers get it: Java has
its own heap, and the decoder process has a limit of memory that is reckoned for the C library's allocator.
"""

import os
import shlex
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from export.console import CliError

VARIABLE = "DENSENET_ALLOCATOR"  # environment variable: another library to preload, or `none`
WORKER = "model_service_worker.py"  # the program that TorchServe starts as a worker
_NONE = "none"
_PACKAGE, _LIBRARY = "cmeel-mimalloc", "libmimalloc.so"
# Huge pages would save 2% of the time, but a worker would keep up to 35 MB more.
_SETTINGS = {"MIMALLOC_ALLOW_THP": "0"}


def find() -> Path | None:
    """Return the library for workers; None for the C library's own allocator, where mimalloc is not installed.

    Raises:
        CliError: the environment names a library that does not exist.
    """
    if chosen := os.environ.get(VARIABLE):
        if chosen == _NONE:
            return None
        if not Path(chosen).is_file():
            raise CliError(f"{VARIABLE} names {chosen}, which does not exist; give a library's path, or {_NONE}")
        return Path(chosen).resolve()
    try:
        files = metadata.files(_PACKAGE) or []
    except metadata.PackageNotFoundError:  # its wheels are for Linux only
        return None
    paths = (Path(str(file.locate())) for file in files if file.name == _LIBRARY)
    return next((path for path in paths if path.is_file()), None)


def python(folder: Path, worker: Sequence[str] = ()) -> Path:
    """Return the Python for TorchServe's workers: a program in `folder` that preloads the allocator, where it can.

    TorchServe passes its whole environment to workers, so a variable would load the library into Java, too.

    worker: the command that a worker's program is passed to, with its arguments; by default it is run like any other.

    Raises:
        CliError: see find().
    """
    lines = ["#!/bin/sh"]
    library = find()
    # The linker has no way to write these characters in a path.
    if library is not None and not set(" :") & set(str(library)):
        # With several libraries to preload, the first one that defines a function wins.
        preload = f"{shlex.quote(str(library))}${{LD_PRELOAD:+:$LD_PRELOAD}}"
        settings = " ".join(f"{name}=${{{name}:-{value}}}" for name, value in _SETTINGS.items())
        lines.append(f"export LD_PRELOAD={preload} {settings}")
    if worker:
        lines.append(f'case $1 in */{WORKER}) exec {shlex.join(worker)} "$@" ;; esac')
    if len(lines) == 1:
        return Path(sys.executable)
    program = folder / "python"
    program.write_text("\n".join([*lines, f'exec {shlex.quote(sys.executable)} "$@"', ""]))
    program.chmod(0o755)
    return program if os.access(program, os.X_OK) else Path(sys.executable)  # a file system may run no programs
