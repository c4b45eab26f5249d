"""The page's words, from the table in texts.yaml."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import yaml

TABLE = "texts.yaml"


@cache
def texts(language: str) -> Mapping[str, str]:
    """By name, in a language that the table has."""
    table = yaml.safe_load(Path(__file__).with_name(TABLE).read_text(encoding="utf-8"))
    return {name: row[language] for name, row in table.items()}


def percent(share: float) -> str:
    """0.932 → "93.2%"; page.js writes them alike."""
    return "< 0.1%" if 0 < share < 0.001 else f"{share:.1%}"


def for_people(label: str) -> str:
    """Egyptian_cat → Egyptian cat."""
    return label.replace("_", " ")


def size(count: int) -> str:
    """A number of bytes."""
    return f"{count / 2**20:.3g} MiB"
