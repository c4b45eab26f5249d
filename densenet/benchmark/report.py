"""Render the record of a run as a Markdown report."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from densenet import tables
from densenet.benchmark import overload, targets
from densenet.benchmark.plan import Part
from densenet.benchmark.record import FAILURES, OVERHEAD
from densenet.benchmark.statistics import summarize
from densenet.benchmark.targets import Document, in_words

_QUIET = 0.1  # maximum share of CPU time for other programs
Row = Mapping[str, Any]


def markdown(document: Document, plot: str | None) -> str:
    """Return the report. plot: file name of the figure next to it, if there is one."""
    sections = (
        _head(document),
        _targets(document),
        f"![Throughput, latency and the network without HTTP]({plot})" if plot else "",
        _http(document),
        _network(document),
        _decoding(document),
        _workers(document),
        _overload(document),
        _gpu(document),
        _failures(document),
        _HOW,
        _machine(document["machine"]),
    )
    return "\n\n".join(section for section in sections if section) + "\n"


def in_order_of_appearance(rows: Iterable[Row], key: str) -> list[Any]:
    """Return the distinct values of a key, in order of appearance."""
    return list(dict.fromkeys(row[key] for row in rows))


def _head(document: Document) -> str:
    quick = " With `--quick`: a rough check only." if document["quick"] else ""
    untrained = (
        " The weights are untrained; speed does not depend on them." if document["weights"] == "untrained" else ""
    )
    return (
        f"# Performance\n\nWritten by `scripts/benchmark` on {document['made']}: {document['rounds']} round(s), "
        f"{document['seconds']} seconds per load, {document['minutes']} minutes in total.{quick}{untrained}\n\n"
        "Numbers are medians over rounds, with the lowest and highest round in parentheses. Ratios are computed within "
        "a round."
        f"{_elsewhere(document)}"
    )


def _elsewhere(document: Document) -> str:
    shares = [row["elsewhere"] for part in (Part.NETWORK, Part.HTTP) for row in document[part]]
    if not shares:
        return ""
    disturbed = sum(share > _QUIET for share in shares)
    noise = f"In {disturbed} of {len(shares)} measurements other programs took more than {_QUIET:.0%} of the processor"
    return f"\n\n**The machine was not quiet.** {noise}, up to {max(shares):.0%}." if disturbed else f" {noise}."


def _targets(document: Document) -> str:
    verdicts = targets.judge(document)
    rows = [(verdict.target.what, verdict.required, verdict.measured, verdict.word) for verdict in verdicts]
    return "## Targets\n\n" + tables.markdown(("ours", "required", "measured", ""), rows)


def _http(document: Document) -> str:
    rows = document[Part.HTTP]
    if not rows:
        return ""
    loads = in_order_of_appearance(rows, "load")
    head = ("photo, clients", *loads)

    def table(*keys: str) -> str:
        names = in_order_of_appearance(rows, "contender")
        return tables.markdown(
            head, [(name, *(_cell(rows, keys, contender=name, load=load) for load in loads)) for name in names]
        )

    fastest = max(rows, key=lambda row: row["throughput"])
    wrong = sum(sum(row["others"].values()) for row in rows)
    return (
        "## Over HTTP\n\nA name ends in the number of workers. Images per second:\n\n"
        f"{table('throughput')}\n\nMilliseconds per answer: median / 95th percentile:\n\n"
        f"{table('p50', 'p95')}\n\n"
        f"{wrong or 'None'} of the answers had a status other than 200. The load generator runs on the same cores and "
        f"uses {fastest['generator_ms']:.1f} ms of CPU per request at {fastest['throughput']:.0f} images/s."
    )


def _network(document: Document) -> str:
    rows = [row | {"count": f"{row['threads']} thread(s)"} for row in document[Part.NETWORK]]
    title = f"The network without HTTP ({_instructions(document['machine'])})"
    sections = (
        _crossed(rows, title, "milliseconds for one image", "engine", "count", "milliseconds"),
        _overhead(document),
    )
    return "\n\n".join(section for section in sections if section)


def _overhead(document: Document) -> str:
    rows = document[OVERHEAD]
    if not rows:
        return ""
    keys = ("cpu_ms", "kernels_ms", "outside_ms", "operator_calls")
    names = in_order_of_appearance(rows, "precision")
    table = [(f"ours {name}", *(_cell(rows, [key], precision=name) for key in keys)) for name in names]
    head = (
        "one image, 1 thread",
        "whole pass, ms of CPU",
        "in oneDNN's kernels, ms",
        "outside them, ms",
        "operator calls",
    )
    return f"{tables.markdown(head, table)}\n\n{_OVERHEAD}"


def _decoding(document: Document) -> str:
    title = "Decoding and transforming, one thread"
    return _crossed(document[Part.DECODING], title, "milliseconds for one JPEG", "way", "size", "milliseconds")


def _workers(document: Document) -> str:
    rows = document[Part.WORKERS]
    if not rows:
        return ""
    names = in_order_of_appearance(rows, "precision")
    table = [(name, *(_cell(rows, [key], precision=name) for key in ("seconds", "private_mb"))) for name in names]
    head = ("one more worker", "seconds from the request to READY", "private memory (USS), MB")
    return "## One more worker\n\n" + tables.markdown(head, table)


def _overload(document: Document) -> str:
    rows = [row | {"seconds_to_normal": targets.seconds_to_normal(row)} for row in document[Part.OVERLOAD]]
    if not rows:
        return ""
    keys = ("throughput", "best", "p50", "unclear", "seconds_to_normal")
    table = []
    for name in in_order_of_appearance(rows, "precision"):
        refused = sum(sum(row["others"].values()) for row in rows if row["precision"] == name)
        table.append((name, *(_cell(rows, [key], precision=name) for key in keys), refused))
    head = ("", "images/s", "at best", "median ms", "unclear answers", "seconds to normal", "total refusals")
    return f"## {overload.CLIENTS} concurrent clients\n\n" + tables.markdown(head, table) + f"\n\n{_OVERLOAD}"


def _gpu(document: Document) -> str:
    title = "The network on the GPU"
    return _crossed(document[Part.GPU], title, "images per second, by batch size", "way", "batch", "throughput")


def _crossed(rows: list[Row], title: str, corner: str, down: str, across: str, value: str) -> str:
    """Return a section with a table of one field by another, or "" without rows."""
    if not rows:
        return ""
    lines, columns = in_order_of_appearance(rows, down), in_order_of_appearance(rows, across)
    table = [(line, *(_cell(rows, [value], **{down: line, across: column}) for column in columns)) for line in lines]
    return f"## {title}\n\n" + tables.markdown((corner, *columns), table)


def _failures(document: Document) -> str:
    rows = [(row["part"], row["what"], row["reason"]) for row in document[FAILURES]]
    return "## What failed\n\n" + tables.markdown(("part", "what", "reason"), rows) if rows else ""


def _machine(machine: Row) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    rows = [
        ("processor", f"{machine['processor']} ({machine['family']}), {machine['cores']} cores"),
        ("instructions", _instructions(machine)),
        ("memory", f"{machine['memory_gib']} GiB"),
        ("system", f"{machine['system']}, load {machine['load_before']} before the run"),
        ("versions", f"Python {machine['python']}, {versions}"),
    ]
    return "## Machine\n\n" + tables.markdown(("", ""), rows)


def _instructions(machine: Row) -> str:
    return ", ".join(machine["flags"]) or "none of the relevant instructions"


def _cell(rows: Sequence[Row], keys: Sequence[str], **where: object) -> str:
    """Return the summary of each key over the rows of one combination, or "-" without rows."""
    chosen = [row for row in rows if all(row[key] == value for key, value in where.items())]
    summaries = [summarize([row[key] for row in chosen]) for key in keys]
    return " / ".join(in_words(summary) for summary in summaries if summary) or "-"


_OVERHEAD = (
    "A process of its own measures this: the whole pass without oneDNN's verbose mode, the kernels in further passes "
    "with it (`profile_exec`), call by call. Operator calls are those that the TorchScript interpreter makes "
    "and those that these make, without `aten::as_strided`, by which slice, permute and split are implemented."
)
_OVERLOAD = (
    "Each client sends the next photo as soon as the last one was answered, and waits "
    f"{overload.WAIT_AFTER_REFUSAL:g} second after a refusal. The best throughput is the better one of 8 and 32 "
    "clients, measured on the same service just before. One more client probes throughout. An answer is normal within "
    f"{overload.NORMAL:g} times the median of the probe's answers before the load, and the service is back to normal "
    "when nine in ten answers are. The time counts from the last answer of the load."
)
_HOW = """## How

- One system runs at a time: it is warmed up, put under its loads in turn, and stopped. Every round begins with another
  system, and every other round runs in reverse order. All systems serve the same weights, and every fp32 service must
  agree with eager torch on a photo before it is measured.
- locust sends the requests. A client is a user that keeps its connection if the service does. The first second does
  not count. There are 32 distinct photos of 500×335 and 4 of 12 megapixels, sent as the body, or as a form to the
  tutorial.
- `ours`: exported, packed and started as by `scripts/serve`, with the batch size that it measures. Without HTTP, the
  network has the memory allocator of the workers.
- `flask`: the tutorial's app on Flask's development server; `gunicorn`: the same app under gunicorn. Both use torch's
  default number of threads.
- `torchserve`: its `image_classifier` with our TorchScript file and the default number of threads. It does not use
  `handler/scoring.py`, so it reorders the weights in each call.
- `openvino`, `onnxruntime`: behind Starlette and uvicorn, one process with worker threads that have one engine thread
  each (several uvicorn processes would share connections unevenly). Pillow decodes large photos at a reduced scale, as
  ours does. OpenVINO is restricted to fp32, or to bf16 if its name says so. int8 is quantised by NNCF, or by ONNX
  Runtime's static quantisation (QDQ), with the same calibration images as ours."""
