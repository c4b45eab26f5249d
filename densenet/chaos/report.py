"""The report: the document of a run as a page of Markdown."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from densenet.chaos.oracle import Verdict

Document = Mapping[str, Any]
"""What the command writes."""
_SCRATCH = re.compile(r"/\S*/chaos-\w+/")
_COMMAND = "scripts/chaos"
_COLUMNS = (Verdict.RIGHT, Verdict.REFUSED, Verdict.LOST, Verdict.LATE, Verdict.LEFT, Verdict.UNCLEAR, Verdict.WRONG)


def markdown(document: Document, plot: str | None) -> str:
    """The whole page. plot: the file name of the picture beside it, if there is one."""
    findings = document["findings"]
    sections = [_head(document), _overview(findings)]
    for finding in findings:
        sections.append(_section(finding, plot if finding["samples"] else None))
    return "\n\n".join([*sections, _HOW, _machine(document["machine"])]) + "\n"


def verdict(finding: Mapping[str, Any]) -> str:
    """skipped, as expected, or not as expected."""
    if finding["skipped"]:
        return "skipped"
    return "as expected" if all(check["met"] for check in finding["checks"]) else "**not as expected**"


def totals(clients: Mapping[str, Mapping[str, int]]) -> dict[Verdict, int]:
    """Of all kinds of request together, how many of each verdict."""
    found = dict.fromkeys(_COLUMNS, 0)
    for counts in clients.values():
        for label, number in counts.items():
            found[Verdict(label.partition(":")[0])] += number
    return found


def _head(document: Document) -> str:
    untrained = " The weights are untrained, which changes no fault." if document["weights"] == "untrained" else ""
    return (
        f"# Reliability\n\nWritten by `{_COMMAND}` on {document['made']}, {document['elapsed_minutes']} minutes in "
        f"all.{untrained} Each fault has a service of its own: two workers, started as `scripts/serve` does. Every "
        "answer is compared with the known one; a wrong one makes the command exit with 1, and so does any other "
        "expectation that is not met."
    )


def _overview(findings: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for finding in findings:
        counted = totals(finding["clients"])
        numbers = [counted[column] if finding["clients"] else "-" for column in _COLUMNS]
        rows.append((f"[{finding['fault']}](#{finding['fault']})", *numbers, _seconds(finding), verdict(finding)))
    head = ("fault", *(column.value for column in _COLUMNS), "normal again after", "")
    return "## What clients saw\n\n" + _table(head, rows)


def _seconds(finding: Mapping[str, Any]) -> str:
    return "-" if finding["normal_after"] is None else f"{finding['normal_after']:.1f} s"


def _section(finding: Mapping[str, Any], plot: str | None) -> str:
    parts = [f"## {finding['fault']}", finding["done"]]
    if finding["skipped"]:
        return "\n\n".join([*parts, f"Skipped: {finding['skipped']}."])
    if finding["clients"]:
        rows = [(kind, _counts(counts)) for kind, counts in finding["clients"].items()]
        parts.append(_table(("request", "what came back"), rows))
    if plot:
        parts.append(f"![Memory of the front end and of each worker over the mixed load]({plot})")
    checks = [
        (check["what"], check["wanted"], check["found"], "met" if check["met"] else "**not met**")
        for check in finding["checks"]
    ]
    parts.append(_table(("expected", "wanted", "found", ""), checks))
    parts += finding["notes"]
    if finding["operator"]:
        parts.append("An operator sees:\n\n```\n" + _SCRATCH.sub("…/", "\n".join(finding["operator"])) + "\n```")
    return "\n\n".join(parts)


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} × {label}" for label, number in counts.items())


def _machine(machine: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("torch", "torchserve", "pillow"))
    return (
        f"## Machine\n\n{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"{machine['system']}, load {machine['load_before']} before the run; Python {machine['python']}, {versions}."
    )


def _table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |" for line in lines)


_HOW = """## How

- Before anything goes wrong every question is asked once, of a service that does nothing else, and its answer kept.
  Numbers of two answers are the same up to 1e-5. All photos have different answers, or the run ends: a mix-up would
  show.
- *Right* is the known answer, which for bad input is its refusal. *Clean error* is a status of 4xx or 5xx with JSON
  that has a code. *Unclear* is an error that no program could read. *Connection lost* is a refused or reset connection.
- Four clients ask without a pause, and wait a quarter of a second after a failure. None of them asks again for what
  failed, as the Python client does.
- Normal is when TorchServe says that all workers are ready, those that were killed are gone, and the last failed
  request is over; it counts only if there are right answers afterwards.
- Growth is the rise of a line, by least squares, through the second half of the samples of a process: private memory
  (USS), open files, threads."""
