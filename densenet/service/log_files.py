"""Keep lines of text and lines of JSON in different log files, since whatever collects logs reads one format."""

import gzip
import itertools
import shutil
from datetime import date
from pathlib import Path

from densenet.service.torchserve import LogFormat

_NAMES = ("access_log", "model_log", "ts_log")  # requests.log, which log4j2.xml has too, is written as JSON only


def set_aside(folder: Path, log_format: LogFormat) -> None:
    """Rotate the logs away whose lines have the other format; call it before the service starts.

    The files are named as log4j2.xml names those that it rotates, so it deletes them after the same time.
    """
    for name in _NAMES:
        path = folder / f"{name}.log"
        if path.exists() and _format(path) not in (None, log_format):
            with path.open("rb") as log, gzip.open(_free(folder, name), "wb") as rotated:
                shutil.copyfileobj(log, rotated)
            path.unlink()


def _format(path: Path) -> LogFormat | None:
    """Return the format of a log's first line; None if it is empty."""
    with path.open("rb") as log:
        first = log.read(1)
    return (LogFormat.JSON if first == b"{" else LogFormat.TEXT) if first else None


def _free(folder: Path, name: str) -> Path:
    paths = (folder / f"{name}.{date.today()}.{number}.log.gz" for number in itertools.count(1))
    return next(path for path in paths if not path.exists())
