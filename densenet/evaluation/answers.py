"""The answers file: what was said of each image, appended at once, so that a run which ended early can go on."""

import fcntl
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from export.console import Problem

NO_ANSWER, UNREADABLE = "no_answer", "unreadable_file"
_PASSING = (NO_ANSWER, UNREADABLE)  # not a word about the image: the next run asks again

About = Mapping[str, Mapping[str, object]]
"""What all answers of a file share: {"model": …, "set": …}."""


@dataclass(frozen=True)
class Outcome:
    """What was said of one image: class ids best first and their probabilities in 0..1; or the code why there are none.

    recognized: whether the service found the best one likely enough.
    """

    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    recognized: bool = False
    code: str | None = None
    message: str | None = None


class Journal:
    """An open answers file: a first line that says who was asked about which set, then a line an answer.

    outcomes: the newest by file. seconds: of wall time, and lines: of answers, both over all runs.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._last = time.monotonic()
        self.outcomes: dict[str, Outcome] = {}
        self.seconds = 0.0
        self.lines = 0

    def settled(self, file: str) -> bool:
        """Whether nothing is left to ask about the image."""
        return file in self.outcomes and self.outcomes[file].code not in _PASSING

    def start(self) -> None:
        """Begins to count time."""
        self._last = time.monotonic()

    def append(self, file: str, outcome: Outcome) -> None:
        """Keeps an answer, whatever happens to this process afterwards. Its time is that since the one before."""
        now = time.monotonic()
        seconds, self._last = round(now - self._last, 6), now
        self._take(file, outcome, seconds)
        self._write({"file": file, "seconds": seconds} | asdict(outcome))

    def _take(self, file: str, outcome: Outcome, seconds: float) -> None:
        self.outcomes[file] = outcome
        self.seconds += seconds
        self.lines += 1

    def _write(self, row: Mapping[str, object]) -> None:
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()

    def resume(self, path: Path, about: About) -> None:
        """Takes over what the file holds; of a last line that was cut in half nothing. Raises Problem."""
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        if not whole:
            self._file.truncate(0)
            self._write(about)
            return
        head, *lines = content[:whole].splitlines()
        try:
            _check(path, json.loads(head), about)
            for line in lines:
                row = json.loads(line)
                file, seconds = row.pop("file"), row.pop("seconds")
                outcome = Outcome(tuple(row.pop("classes")), tuple(row.pop("probabilities")), **row)
                self._take(file, outcome, seconds)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise Problem(f"{path} is damaged, or no answers file; --restart asks everything again") from error
        self._file.truncate(whole)


@contextmanager
def opened(path: Path, about: About, *, restart: bool) -> Iterator[Journal]:
    """The answers file at path, begun where there is none.

    Raises Problem when its answers are of another model or about another set, or another run is writing to it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Problem(f"another evaluation is writing to {path}; wait for its end, or name an --output") from error
        if restart:
            file.truncate(0)
        journal = Journal(file)
        journal.resume(path, about)
        yield journal


def describe(model: Mapping[str, str]) -> str:
    """The model in words: name densenet, version 1.0, …"""
    return ", ".join(f"{key} {value}" for key, value in model.items())


def _check(path: Path, found: Mapping[str, Mapping[str, str]], about: About) -> None:
    choice = "--restart asks everything again, another --output keeps both"
    if found["set"] != about["set"]:
        images = f"{found['set']['images']} images then, {about['set']['images']} now"
        raise Problem(f"{path} is about other images or labels than these ({images}); {choice}")
    if found["model"] != about["model"]:
        raise Problem(f"{path} holds the answers of another model ({describe(found['model'])}); {choice}")
