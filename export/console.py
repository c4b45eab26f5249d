"""The terminal output and error handling that all commands of this project share."""

import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import typer
from rich.console import Console

# Without a terminal, tables are as wide as their content.
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 10_000)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class CliError(Exception):
    """An error that the user can fix; printed in one line, without a traceback."""

    status = 1


class Unreachable(CliError):
    """The network or a host is unreachable; it has its own exit status."""

    status = 3


def weights_file(value: str) -> Path:
    """Return the path that --weights names.

    Raises: CliError if there is no such file.
    """
    path = Path(value)
    if not path.is_file():
        raise CliError(f"no such weights file: {path}; --weights takes imagenet, untrained or a file")
    return path


def _end(number: int, _: object) -> None:
    sys.exit(128 + number)


def run(command: Callable[..., None], name: str) -> None:
    """Run a function with typer options as the program `name`."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(command)
    run_app(app, prog_name=name, name=name)


def run_app(app: typer.Typer, *, prog_name: str, name: str, arguments: Sequence[str] | None = None) -> None:
    """Run a typer application and print its errors under `name`.

    SIGTERM and SIGHUP end it with cleanup, as Ctrl-C does, unless they are ignored, as under nohup.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)
    try:
        app(arguments, prog_name=prog_name)
    except CliError as problem:
        err.print(f"{name}: {problem}", markup=False)
        sys.exit(problem.status)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        err.print(f"{name}: {error.strerror or error}{where}", markup=False)
        sys.exit(1)
