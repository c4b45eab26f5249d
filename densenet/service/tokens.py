"""The tokens that TorchServe asks for: read from the key file it writes where it runs, and renewed when they expire."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

KEY_FILE = "key_file.json"
Kind = Literal["inference", "management"]
_WRITING = 0.5  # seconds for TorchServe to finish the file, which it writes in place
_POLL = 0.01


def current(folder: Path, kind: Kind) -> str | None:
    """The token of a kind in a service's folder, expired or not; None where the service asks for none."""
    return _entry(folder, kind).get("key")


def renewing(folder: Path) -> str | None:
    """The token that only asks for new ones of the other kinds, and never expires."""
    return _entry(folder, "API").get("key")


def has_expired(folder: Path, kind: Kind) -> bool:
    """Whether a token of this kind is there and too old."""
    moment = _entry(folder, kind).get("expiration time")
    return moment is not None and datetime.now(UTC) >= datetime.fromisoformat(moment)


def read(path: Path) -> dict[str, dict[str, str]]:
    """What a key file holds; nothing where there is none, or what stays no key file."""
    deadline = time.monotonic() + _WRITING
    while True:
        try:
            content = json.loads(path.read_text())
            return content if isinstance(content, dict) else {}
        except OSError:
            return {}
        except ValueError:
            if time.monotonic() > deadline:
                return {}
        time.sleep(_POLL)


def _entry(folder: Path, kind: str) -> dict[str, str]:
    return read(folder / KEY_FILE).get(kind, {})
