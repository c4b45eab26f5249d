"""Parse the content negotiation headers Accept and Accept-Language."""

import re

_QUALITY = re.compile(r"\s*q\s*=\s*(0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?)\s*", re.IGNORECASE)


def qualities(header: str) -> dict[str, float]:
    """Parse `a, b;q=0.5` to {"a": 1.0, "b": 0.5}: names in lower case, in order; an invalid quality counts as 1."""
    weights: dict[str, float] = {}
    for entry in header.split(","):
        name, *parameters = entry.split(";")
        matches = [match for parameter in parameters if (match := _QUALITY.fullmatch(parameter))]
        if name := name.strip().lower():
            weights.setdefault(name, float(matches[0][1]) if matches else 1.0)
    return weights
