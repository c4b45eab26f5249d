"""Read the tokens that TorchServe requires from the key file that it writes into its working directory."""

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

KEY_FILE = "key_file.json"
Kind = Literal["inference", "management"]
_WRITE_SECONDS = 0.5  # for TorchServe to finish the file, which it overwrites in place
_POLL = 0.01


def current(folder: Path, kind: Kind) -> str | None:
    """Return the token of a kind, even if it has expired; None if the service requires none."""
    return _entry(folder, kind).get("key")


def renewal_token(folder: Path) -> str | None:
    """Return the token for renewing the other kinds, which never expires; None if the service requires none."""
    return _entry(folder, "API").get("key")


def has_expired(folder: Path, kind: Kind) -> bool:
    """Return whether there is a token of this kind and it has expired."""
    expiration = _entry(folder, kind).get("expiration time")
    return expiration is not None and datetime.now(UTC) >= datetime.fromisoformat(expiration)


def read(path: Path) -> dict[str, dict[str, str]]:
    """Return the contents of a key file; {} if it does not exist or is still not valid after a short wait."""
    deadline = time.monotonic() + _WRITE_SECONDS
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
