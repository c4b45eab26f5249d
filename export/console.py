"""The terminal output and error handling that all commands of this project share."""

import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import typer
from rich.console import Console

from export import NAMED_WEIGHTS, Precision, processor

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


def named_weights(value: str | None) -> str | None:
    """Check the value of --weights: a name, or a file that exists; a callback, as existing_file().

    Raises: CliError if there is no such weights file.
    """
    if value not in (None, *NAMED_WEIGHTS):
        weights_file(str(value))
    return value


_AUTO = "auto"
PRECISIONS = f"[{'|'.join((_AUTO, *Precision))}]"  # the metavar of --precision


def precision(value: str) -> Precision:
    """Read the value of --precision; a parser of typer.Option, so that whatever is made or compared never says "auto".

    Raises: typer.BadParameter if there is no such precision.
    """
    if value == _AUTO:
        chosen = processor.suitable_precision(processor.flags())
        reason = "has AMX" if chosen is Precision.BF16 else "has no AMX"
        err.print(f"--precision auto: {chosen}, since this processor {reason}", markup=False)
        return chosen
    try:
        return Precision(value)
    except ValueError:
        choices = ", ".join(map(repr, (_AUTO, *map(str, Precision))))
        raise typer.BadParameter(f"{value!r} is not one of {choices}.") from None


def existing_file(option: typer.CallbackParam, path: Path | None) -> Path | None:
    """Check that an option's file can be read; a callback of typer.Option, so that it runs before any work begins.

    Raises: CliError: names the option and the file.
    """
    if path is not None and not path.is_fifo():  # a pipe, such as <(command), can be opened only once
        open_file(option.opts[0], path).close()
    return path


def open_file(option: str, path: Path) -> BinaryIO:
    """Open a file that an option names.

    Raises: CliError: names the option and the file.
    """
    try:
        return path.open("rb")
    except OSError as error:
        raise CliError(f"cannot read {option} {path}: {error.strerror}") from error


def existing_folder(option: typer.CallbackParam, path: Path | None) -> Path | None:
    """Check that an option's folder exists, as existing_file() does for a file.

    Raises: CliError: names the option and the folder.
    """
    if path is not None and not path.is_dir():
        raise CliError(f"no such folder: {path}; {option.opts[0]} needs one")
    return path


def check_calibration(precision: Precision | None, images: Path | None) -> None:
    """Check that int8, and nothing else, has a folder of photos to calibrate with.

    Raises: CliError: says which option to add.
    """
    if precision is Precision.INT8 and images is None:
        raise CliError("--precision int8 needs --calibration-images DIR, a folder of photos like those you serve")
    if precision is not Precision.INT8 and images is not None:
        raise CliError("--calibration-images is only for int8; give --precision int8 with it, or leave it out")


def check_report(precision: Precision, report: bool) -> None:
    """Check that only int8 is asked for a report of its layers.

    Raises: CliError: says which option to leave out.
    """
    if report and precision is not Precision.INT8:
        raise CliError("--report is only for int8; give --precision int8 with it, or leave it out")


_AGAIN_AFTER = 0.01  # seconds until a signal whose exception was lost is raised again


def end_on(numbers: Iterable[signal.Signals]) -> None:
    """Let signals end this program by SystemExit, with cleanup and status 128 + number, as shells count it."""
    for number in numbers:
        signal.signal(number, _end)


def _end(number: int, _: object) -> None:
    sys.exit(128 + number)


@contextmanager
def _no_signal_lost() -> Iterator[None]:
    """Raise a signal again, Ctrl-C too, if what its handler raised was lost.

    Python drops an exception that is raised while an object is being destroyed, such as a connection, and goes on.
    """
    hook = sys.unraisablehook
    sys.unraisablehook = partial(_raise_again, hook)
    try:
        yield
    finally:
        sys.unraisablehook = hook


def _raise_again(hook: Callable[[Any], object], unraisable: Any) -> None:
    match unraisable.exc_value:
        case SystemExit(code=int(status)) if status > 128:
            number = status - 128
        case KeyboardInterrupt():
            number = signal.SIGINT
        case _:
            hook(unraisable)
            return
    # Not at once, since what it raised would be lost in the same place.
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(number))
    signal.setitimer(signal.ITIMER_REAL, _AGAIN_AFTER)


def run(command: Callable[..., None], name: str) -> None:
    """Run a function with typer options as the program `name`."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.command()(command)
    run_app(app, prog_name=name, name=name)


def run_app(app: typer.Typer, *, prog_name: str, name: str, arguments: Sequence[str] | None = None) -> None:
    """Run a typer application and print its errors under `name`.

    SIGTERM and SIGHUP end it with cleanup, as Ctrl-C does, unless they are ignored, as under nohup.
    """
    end_on(number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL)
    try:
        with _no_signal_lost():
            app(arguments, prog_name=prog_name)
    except CliError as error:
        err.print(f"{name}: {error}", markup=False)
        sys.exit(error.status)
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        err.print(f"{name}: {error.strerror or error}{where}", markup=False)
        sys.exit(1)
