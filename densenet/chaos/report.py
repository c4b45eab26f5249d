"""Render the document of a run as a Markdown report."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from densenet import tables
from densenet.chaos.oracle import Verdict

Document = Mapping[str, Any]
"""The content of reliability.json, written by command.py."""
_SCRATCH = re.compile(r"/\S*/chaos-\w+/")
_COLUMNS = (Verdict.RIGHT, Verdict.REFUSED, Verdict.LOST, Verdict.LATE, Verdict.LEFT, Verdict.UNCLEAR, Verdict.WRONG)


def markdown(document: Document, plot: str | None) -> str:
    """Return the report. plot: file name of the figure next to it, if there is one."""
    findings = document["findings"]
    sections = [_head(document), _overview(findings)]
    for finding in findings:
        sections.append(_section(finding, plot if finding["samples"] else None))
    return "\n\n".join([*sections, _HOW, _machine(document["machine"])]) + "\n"


def verdict(finding: Mapping[str, Any]) -> str:
    """Return "skipped", "as expected" or "not as expected"."""
    if finding["skipped"]:
        return "skipped"
    return "as expected" if all(check["met"] for check in finding["checks"]) else "**not as expected**"


def totals(clients: Mapping[str, Mapping[str, int]]) -> dict[Verdict, int]:
    """Return the number of outcomes per verdict over all kinds of request."""
    counted = dict.fromkeys(_COLUMNS, 0)
    for counts in clients.values():
        for label, number in counts.items():
            counted[Verdict(label.partition(":")[0])] += number
    return counted


def _head(document: Document) -> str:
    untrained = (
        " The weights are untrained, which does not affect the faults." if document["weights"] == "untrained" else ""
    )
    return (
        f"# Reliability\n\nWritten by `scripts/chaos` on {document['made']} after {document['elapsed_minutes']} "
        f"minutes.{untrained} Each fault has its own service with two workers, started as by `scripts/serve`. "
        "Every answer is compared with the expected one. The command exits with status 1 if an answer is wrong or "
        "another expectation is not met."
    )


def _overview(findings: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for finding in findings:
        counted = totals(finding["clients"])
        numbers = [counted[column] if finding["clients"] else "-" for column in _COLUMNS]
        recovery = "-" if finding["normal_after"] is None else f"{finding['normal_after']:.1f} s"
        rows.append((f"[{finding['fault']}](#{finding['fault']})", *numbers, recovery, verdict(finding)))
    head = ("fault", *(column.value for column in _COLUMNS), "recovery time", "result")
    return "## What clients saw\n\n" + tables.markdown(head, rows)


def _section(finding: Mapping[str, Any], plot: str | None) -> str:
    parts = [f"## {finding['fault']}", finding["done"]]
    if finding["skipped"]:
        return "\n\n".join([*parts, f"Skipped: {finding['skipped']}."])
    if finding["clients"]:
        rows = [
            (kind, ", ".join(f"{number} × {label}" for label, number in counts.items()))
            for kind, counts in finding["clients"].items()
        ]
        parts.append(tables.markdown(("request", "outcomes"), rows))
    if plot:
        parts.append(f"![Memory of the front end and of each worker over the mixed load]({plot})")
    checks = [
        (check["what"], check["wanted"], check["found"], "met" if check["met"] else "**not met**")
        for check in finding["checks"]
    ]
    parts.append(tables.markdown(("check", "required", "measured", "result"), checks))
    parts += finding["notes"]
    if finding["operator"]:
        output = _SCRATCH.sub("…/", "\n".join(finding["operator"]))
        parts.append(f"Log lines and output:\n\n```\n{output}\n```")
    return "\n\n".join(parts)


def _machine(machine: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {machine['versions'][name]}" for name in ("torch", "torchserve", "pillow"))
    return (
        f"## Machine\n\n{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB, "
        f"{machine['system']}, load {machine['load_before']} before the run; Python {machine['python']}, {versions}."
    )


_HOW = """## How

- Before a fault, every request is sent once to an idle service, and its answer is recorded as the expected one.
  Numbers in two answers are equal up to 1e-5. The run ends if two photos have the same answer, so a mix-up would be
  detected.
- *Right* is the expected answer; for bad input that is the error. *Clean error* is a 4xx or 5xx status with JSON that
  has a code. *Unclear* is an error that a program cannot parse. *Connection lost* is a refused or reset connection.
- Four clients send requests without a pause and wait a quarter of a second after a failure. Unlike
  the Python client, they do not retry.
- The recovery time is the time from the fault until TorchServe reports all workers as ready, killed workers have
  exited, and the last failed request has ended. It counts only if right answers follow.
- Growth is the rise of a least-squares line through the second half of a process's samples of private memory (USS),
  open files and threads."""
