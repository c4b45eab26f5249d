"""What every command of this project shares: plain words on the terminal, one line for what went wrong."""

import signal
import sys
from collections.abc import Callable, Sequence

import typer
from rich.console import Console

# Piped, a table takes the width it needs.
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 10_000)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class Problem(Exception):
    """Something the person at the terminal can mend: told in one line, without a traceback."""

    status = 1


class Unreachable(Problem):
    """The network, or a host in it, cannot be reached; told apart by its exit status."""

    status = 3


def _end(number: int, _: object) -> None:
    sys.exit(128 + number)


def run(command: Callable[..., None], name: str) -> None:
    """Runs a function of typer options as the program `name`."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(command)
    run_app(app, prog_name=name, name=name)


def run_app(app: typer.Typer, *, prog_name: str, name: str, arguments: Sequence[str] | None = None) -> None:
    """Runs a typer application; errors are told under `name`. SIGTERM and a terminal that hangs up end it as Ctrl-C
    does, with everything tidied up that it was in the middle of; where they are ignored (nohup) they stay so."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _end)
    try:
        app(arguments, prog_name=prog_name)
    except Problem as problem:
        err.print(f"{name}: {problem}", markup=False)
        sys.exit(problem.status)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        err.print(f"{name}: {error.strerror or error}{where}", markup=False)
        sys.exit(1)
