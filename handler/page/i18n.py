"""The page's texts, from a file per language in translations/, and formats of numbers and names."""

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import yaml

TRANSLATIONS = Path(__file__).with_name("translations")
ERROR = "error_"
"""What the name of an error code's text begins with."""
NEGLIGIBLE = 0.001
"""Probabilities below this are not shown in digits, and their classes are folded away."""


@cache
def texts(language: str) -> Mapping[str, str]:
    """Return the texts by name. language: a key of negotiation.LANGUAGES."""
    content: dict[str, str] = yaml.safe_load((TRANSLATIONS / f"{language}.yaml").read_text(encoding="utf-8"))
    return content


def number(value: float, digits: int, words: Mapping[str, str]) -> str:
    """Format 1234.5 as "1,234.5", or as the language of `words` does."""
    marks = {ord(","): words["group_separator"], ord("."): words["decimal_separator"]}
    return f"{value:,.{digits}f}".translate(marks)


def percent(share: float, words: Mapping[str, str]) -> str:
    """Format 0.932 as "93.2%". common.js has the same function."""
    if 0 < share < NEGLIGIBLE:
        return f"< {percent(NEGLIGIBLE, words)}"
    return words["percent"].format(number=number(100 * share, 1, words))


def for_people(label: str) -> str:
    """Convert Egyptian_cat to Egyptian cat."""
    return label.replace("_", " ")


def size(count: int, words: Mapping[str, str]) -> str:
    """Format a number of bytes in MiB."""
    return f"{count / 2**20:.3g} MiB".replace(".", words["decimal_separator"])
