"""What two versions of a service did with requests, by TorchServe's access log and the handler's requests.log."""

import json
import re
import statistics
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from densenet import tables
from densenet.polling import wait_until
from densenet.service.log_reader import Follower
from densenet.service.torchserve import Service

_ACCESS_LOG, _REQUEST_LOG = "access_log.log", "requests.log"
_LOG_SECONDS = 2  # for the last lines to be written
# The addresses that clients send images to; those without a version go to the default one.
_REQUEST = re.compile(
    r'"(?:POST|PUT) /(?:(?:predictions|explanations)/\w+(?:/(?P<version>[^/ ?]+))?|v[12]/models/\w+[:/]\w+)'
    r'[^"]*" (?P<status>\d+) (?P<milliseconds>\d+)'
)


@dataclass(frozen=True)
class Limits:
    """What a new version must achieve on clients' requests, to be put into service.

    Attributes:
        requests: how many it must have got.
        errors: the maximum share of them that ended with a 5xx.
        agreement: the minimum share that had the same best classes, or the same kind of refusal, in both versions; 0
            requires nothing.
    """

    requests: int
    errors: float
    agreement: float = 0.0


@dataclass
class Numbers:
    """What is known of one version's requests."""

    version: str
    errors: int = 0
    refused: int = 0
    milliseconds: list[int] = field(default_factory=list)
    probabilities: list[float] = field(default_factory=list)
    recognized: int = 0
    outcomes: dict[str, int | None] = field(default_factory=dict)
    """Of each request: a hash of its status and best classes, by the gateway's id; None if two had the same id."""

    @property
    def requests(self) -> int:
        """The number of requests that were answered."""
        return len(self.milliseconds)

    def add_access(self, line: Mapping[str, str]) -> None:
        """Count a request in TorchServe's access log."""
        self.milliseconds.append(int(line["milliseconds"]))
        self.errors += line["status"] >= "500"
        self.refused += "400" <= line["status"] < "500"

    def add_request(self, line: Mapping[str, Any], *, paired: bool) -> None:
        """Count a request in the handler's log. paired: whether to remember it for a comparison by id."""
        self.probabilities += line["probabilities"]
        self.recognized += line["outcomes"].get("recognized", 0)
        if paired and (caller := line["caller"]):
            outcome = hash((line["status"] // 100, *line["classes"]))
            self.outcomes[caller] = None if caller in self.outcomes else outcome

    def quantile(self, share: float) -> str:
        """Return the time that this share of the requests took at most, in milliseconds."""
        times = sorted(self.milliseconds)
        return str(times[min(int(len(times) * share), len(times) - 1)]) if times else "-"


class ReadOut:
    """Reads a service's logs from now on. paired: whether the versions get the same requests, as with a shadow."""

    def __init__(self, service: Service, old: str, new: str, *, paired: bool) -> None:
        self.old, self.new = Numbers(old), Numbers(new)
        self._paired = paired
        self._access = Follower(Path(service.logs, _ACCESS_LOG))
        self._requests = Follower(Path(service.logs, _REQUEST_LOG))

    def close(self) -> None:
        """Close the logs."""
        self._access.close()
        self._requests.close()

    @property
    def pairs(self) -> tuple[int, int]:
        """How many requests both versions have answered, and how many of them in the same way."""
        both = [(outcome, self.old.outcomes.get(name)) for name, outcome in self.new.outcomes.items()]
        known = [pair for pair in both if None not in pair]
        return len(known), sum(new == old for new, old in known)

    def update(self, *, last: bool = False) -> None:
        """Read the new lines. last: wait for those of requests that have just been answered."""
        if last:
            wait_until(lambda: self._read() == 0, _LOG_SECONDS, every=0.5)
        self._read()

    def has_errors(self, limits: Limits) -> bool:
        """Return whether the new version has had enough requests to judge it by, and too many errors."""
        return self.new.requests >= max(limits.requests, 1) and self.new.errors / self.new.requests > limits.errors

    def failure(self, limits: Limits) -> str | None:
        """Return why the new version is not fit to be put into service, or None if it is."""
        new, name = self.new, f"version {self.new.version}"
        if new.requests < limits.requests:
            return f"{name} got {new.requests} requests, too few to judge it by (--min-requests {limits.requests})"
        if self.has_errors(limits):
            return f"{new.errors} of {new.requests} requests to {name} failed, more than --max-errors {limits.errors:g}"
        count, same = self.pairs
        if self._paired and limits.agreement and not count:
            return f"no answer of {name} could be compared; the gateway and both versions must log requests' ids"
        if self._paired and same < limits.agreement * count:
            return f"only {same} of {count} requests agree, fewer than --min-agreement {limits.agreement:g} requires"
        return None

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """Return the lines of a table of both versions."""
        both = (self.old, self.new)

        def row(name: str, *cells: object) -> tuple[str, str, str]:
            return name, str(cells[0]), str(cells[1])

        yield row("requests", *(numbers.requests for numbers in both))
        yield row("errors (5xx)", *(numbers.errors for numbers in both))
        yield row("refused (4xx)", *(numbers.refused for numbers in both))
        shares = (_share(numbers.recognized, len(numbers.probabilities)) for numbers in both)
        yield row("images recognized", *shares)
        means = (numbers.probabilities and f"{statistics.fmean(numbers.probabilities):.3f}" for numbers in both)
        yield row("mean best probability", *(mean or "-" for mean in means))
        yield row("median, ms", *(numbers.quantile(0.5) for numbers in both))
        yield row("95th percentile, ms", *(numbers.quantile(0.95) for numbers in both))
        if self._paired:
            count, same = self.pairs
            yield row("same answer", "", f"{same} of {count} ({_share(same, count)})")

    def _read(self) -> int:
        """Count the new lines; return how many there were."""
        count = 0
        versions = {numbers.version: numbers for numbers in (self.old, self.new)}
        for text in self._access.lines():
            if match := _REQUEST.search(_message(text)):
                version = match["version"] or self.old.version
                if version in versions:
                    versions[version].add_access(match.groupdict())
                    count += 1
        for text in self._requests.lines():
            with suppress(ValueError, LookupError, TypeError):  # of an older handler, or no object
                line = json.loads(text)
                if line["images"] and line["version"] in versions:
                    versions[line["version"]].add_request(line, paired=self._paired)
                    count += 1
        return count


def show(watched: ReadOut) -> None:
    """Print both versions' numbers side by side."""
    head = ("", f"version {watched.old.version}", f"version {watched.new.version}")
    tables.show(head, watched.rows(), numbers=head[1:])


def _share(count: int, total: int) -> str:
    return f"{count / total:.1%}" if total else "-"


def _message(line: str) -> str:
    try:
        return str(json.loads(line)["message"])
    except (ValueError, KeyError, TypeError):
        return ""
