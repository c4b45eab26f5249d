"""The answers file: one line per image, appended at once, so that an interrupted run can be resumed."""

import base64
import fcntl
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from export.console import CliError

NO_ANSWER, UNREADABLE = "no_answer", "unreadable_file"
_TRANSIENT = (NO_ANSWER, UNREADABLE)  # errors that say nothing about the image, so the next run retries it

About = Mapping[str, Mapping[str, object]]
"""The first line of an answers file: {"model": …, "set": …}."""


@dataclass(frozen=True)
class Outcome:
    """The answer for one image: class ids, best first, and their probabilities in 0..1, or an error code and message.

    recognized: whether the best class passes the service's threshold. logits: of all classes in the order of their ids,
    little-endian float32 in base64; empty unless the run needs them.
    """

    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    recognized: bool = False
    code: str | None = None
    message: str | None = None
    logits: str = ""


class ResultsLog:
    """An open answers file: a first line with the model and the set, then one line per answer.

    outcomes: the latest by file. seconds: wall time over all runs. lines: number of answers over all runs.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._last = time.monotonic()
        self.outcomes: dict[str, Outcome] = {}
        self.seconds = 0.0
        self.lines = 0

    def settled(self, file: str) -> bool:
        """Return whether the image has a final answer."""
        return file in self.outcomes and self.outcomes[file].code not in _TRANSIENT

    def start(self) -> None:
        """Start the clock."""
        self._last = time.monotonic()

    def append(self, file: str, outcome: Outcome) -> None:
        """Append an answer and flush it. Its time is counted from the previous answer."""
        now = time.monotonic()
        seconds, self._last = round(now - self._last, 6), now
        self._add(file, outcome, seconds)
        row = {"file": file, "seconds": seconds} | asdict(outcome)
        self._write(row if outcome.logits else {name: value for name, value in row.items() if name != "logits"})

    def _add(self, file: str, outcome: Outcome, seconds: float) -> None:
        self.outcomes[file] = outcome
        self.seconds += seconds
        self.lines += 1

    def _write(self, row: Mapping[str, object]) -> None:
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()

    def resume(self, path: Path, about: About) -> None:
        """Load the answers in the file and remove an incomplete last line.

        Raises: CliError if the file is damaged or belongs to another model or set.
        """
        self._file.seek(0)
        content = self._file.read()
        complete = content.rfind(b"\n") + 1
        if not complete:
            self._file.truncate(0)
            self._write(about)
            return
        head, *lines = content[:complete].splitlines()
        try:
            _check(path, json.loads(head), about)
            for line in lines:
                row = json.loads(line)
                file, seconds = row.pop("file"), row.pop("seconds")
                outcome = Outcome(tuple(row.pop("classes")), tuple(row.pop("probabilities")), **row)
                self._add(file, outcome, seconds)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise CliError(f"{path} is damaged or not an answers file; use --restart to start over") from error
        self._file.truncate(complete)


@contextmanager
def opened(path: Path, about: About, *, restart: bool) -> Iterator[ResultsLog]:
    """Open the answers file at path, or create it.

    Raises: CliError if its answers belong to another model or set, or if another run is writing to it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CliError(f"another evaluation is writing to {path}; wait for it or use another --output") from error
        if restart:
            file.truncate(0)
        results_log = ResultsLog(file)
        results_log.resume(path, about)
        yield results_log


def logits(outcomes: Sequence[Outcome]) -> NDArray[np.float64]:
    """Return the logits of the answered images, (N, classes), columns in the order of the classes' ids."""
    rows = [base64.b64decode(outcome.logits) for outcome in outcomes if outcome.classes]
    return np.stack([np.frombuffer(row, dtype="<f4") for row in rows]).astype(np.float64)


def describe(model: Mapping[str, str]) -> str:
    """Describe the model as "name densenet, version 1.0, …"."""
    return ", ".join(f"{key} {value}" for key, value in model.items())


def _check(path: Path, recorded: Mapping[str, Mapping[str, str]], about: About) -> None:
    choice = "use --restart to start over, or another --output to keep both"
    if recorded["set"] != about["set"]:
        images = f"{recorded['set']['images']} images then, {about['set']['images']} now"
        raise CliError(f"{path} belongs to other images or labels ({images}); {choice}")
    if recorded["model"] != about["model"]:
        raise CliError(f"{path} has the answers of another model ({describe(recorded['model'])}); {choice}")
