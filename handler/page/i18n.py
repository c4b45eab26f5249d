"""The page's texts, from translations.yaml, and formats of numbers and names."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import yaml

TABLE = "translations.yaml"


@cache
def texts(language: str) -> Mapping[str, str]:
    """Return the texts by name, in a language of the table."""
    table = yaml.safe_load(Path(__file__).with_name(TABLE).read_text(encoding="utf-8"))
    return {name: row[language] for name, row in table.items()}


def percent(share: float) -> str:
    """Format 0.932 as "93.2%". page.js has the same function."""
    return "< 0.1%" if 0 < share < 0.001 else f"{share:.1%}"


def for_people(label: str) -> str:
    """Convert Egyptian_cat to Egyptian cat."""
    return label.replace("_", " ")


def size(count: int) -> str:
    """Format a number of bytes in MiB."""
    return f"{count / 2**20:.3g} MiB"
