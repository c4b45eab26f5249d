"""Keep all parts of a form that have the same name.

TorchServe's front end passes on all of them, but its worker makes a dictionary of them in which the last one wins
(Service.retrieve_data_for_inference in ts/service.py). So all but the last get another key before: the part's name, a
line break, which no part's name can contain, and a number.
"""

import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import wraps
from typing import Any

_NUMBER = re.compile(r"\n[0-9]+\Z")


def keep_all() -> None:
    """Make this worker's TorchServe pass all parts to the handler."""
    module = sys.modules.get("ts.service")  # loaded in every worker; the handler also runs without TorchServe
    if module is None or hasattr(retrieve := module.Service.retrieve_data_for_inference, "__wrapped__"):
        return

    @wraps(retrieve)
    def retrieve_all(batch: Sequence[Mapping[str, Any]]) -> Any:
        for request in batch:
            _number(request["parameters"])
        return retrieve(batch)

    module.Service.retrieve_data_for_inference = staticmethod(retrieve_all)


def part_name(key: str) -> str:
    """Return the name that the client gave to the part with this key."""
    return _NUMBER.sub("", key)


def _number(parameters: Sequence[dict[str, Any]]) -> None:
    names = [parameter["name"] for parameter in parameters]
    later = Counter(names)
    for name, parameter in zip(names, parameters, strict=True):
        later[name] -= 1
        if later[name]:
            parameter["name"] = f"{name}\n{later[name]}"
