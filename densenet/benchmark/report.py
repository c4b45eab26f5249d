"""The report: the record of a run as a page of Markdown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from densenet.benchmark import overload, targets
from densenet.benchmark.plan import Part
from densenet.benchmark.record import FAILURES
from densenet.benchmark.statistics import spread
from densenet.benchmark.targets import Document, in_words

_COMMAND = "scripts/benchmark"
_QUIET = 0.1  # of the processor's time, which other programs may take
Row = Mapping[str, Any]


def markdown(document: Document, plot: str | None) -> str:
    """The whole page. plot: the file name of the picture beside it, if there is one."""
    sections = (
        _head(document),
        _targets(document),
        f"![Throughput, latency and the network alone]({plot})" if plot else "",
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
    """The different values of a key."""
    return list(dict.fromkeys(row[key] for row in rows))


def _head(document: Document) -> str:
    quick = " With `--quick`: a look, not a measurement." if document["quick"] else ""
    untrained = (
        " The weights are untrained; speed does not depend on them." if document["weights"] == "untrained" else ""
    )
    return (
        f"# Performance\n\nWritten by `{_COMMAND}` on {document['made']}: {document['rounds']} round(s), "
        f"{document['seconds']} seconds a load, {document['minutes']} minutes in all.{quick}{untrained}\n\n"
        "Medians over rounds, lowest and highest round in parentheses; ratios are formed within a round."
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
    rows = [(one.target.what, one.wanted, one.measured, one.word) for one in targets.judge(document)]
    return "## Targets\n\n" + _table(("ours", "wanted", "measured", ""), rows)


def _http(document: Document) -> str:
    rows = document[Part.HTTP]
    if not rows:
        return ""
    loads = in_order_of_appearance(rows, "load")
    head = ("photo, clients", *loads)

    def table(*keys: str) -> str:
        names = in_order_of_appearance(rows, "contender")
        return _table(
            head, [(name, *(_cell(rows, keys, contender=name, load=load) for load in loads)) for name in names]
        )

    fastest = max(rows, key=lambda row: row["throughput"])
    wrong = sum(sum(row["others"].values()) for row in rows)
    return (
        "## Over HTTP\n\nA name ends in the number of workers. Images a second:\n\n"
        f"{table('throughput')}\n\nMilliseconds an answer, the median, and the 95th percentile after the slash:\n\n"
        f"{table('p50', 'p95')}\n\n"
        f"{wrong or 'None'} of the answers had another status than 200. The load generator, which has the same cores, "
        f"takes {fastest['generator_ms']:.1f} ms of CPU a request at {fastest['throughput']:.0f} images/s."
    )


def _network(document: Document) -> str:
    rows = [row | {"count": f"{row['threads']} thread(s)"} for row in document[Part.NETWORK]]
    return _crossed(rows, "The network alone", "milliseconds for one image", "engine", "count", "milliseconds")


def _decoding(document: Document) -> str:
    title = "Decoding and transforming alone, one thread"
    return _crossed(document[Part.DECODING], title, "milliseconds for one JPEG", "way", "size", "milliseconds")


def _workers(document: Document) -> str:
    rows = document[Part.WORKERS]
    if not rows:
        return ""
    names = in_order_of_appearance(rows, "precision")
    table = [(name, *(_cell(rows, [key], precision=name) for key in ("seconds", "private_mb"))) for name in names]
    head = ("one more worker", "seconds from the request to READY", "private memory (USS), MB")
    return "## One more worker\n\n" + _table(head, table)


def _overload(document: Document) -> str:
    rows = [row | {"seconds_to_normal": targets.seconds_to_normal(row)} for row in document[Part.OVERLOAD]]
    if not rows:
        return ""
    keys = ("throughput", "best", "p50", "unclear", "seconds_to_normal")
    table = []
    for name in in_order_of_appearance(rows, "precision"):
        refused = sum(sum(row["others"].values()) for row in rows if row["precision"] == name)
        table.append((name, *(_cell(rows, [key], precision=name) for key in keys), refused))
    head = ("", "images/s", "at best", "median ms", "unclear answers", "seconds to normal", "refusals in all")
    return f"## {overload.CLIENTS} clients at once\n\n" + _table(head, table) + f"\n\n{_OVERLOAD}"


def _gpu(document: Document) -> str:
    title = "The network on the GPU"
    return _crossed(document[Part.GPU], title, "images a second, by the batch", "way", "batch", "throughput")


def _crossed(rows: list[Row], title: str, corner: str, down: str, across: str, value: str) -> str:
    """A section whose table has a line for each of one field and a column for each of another; nothing without rows."""
    if not rows:
        return ""
    lines, columns = in_order_of_appearance(rows, down), in_order_of_appearance(rows, across)
    table = [(line, *(_cell(rows, [value], **{down: line, across: column}) for column in columns)) for line in lines]
    return f"## {title}\n\n" + _table((corner, *columns), table)


def _failures(document: Document) -> str:
    rows = [(row["part"], row["what"], row["reason"]) for row in document[FAILURES]]
    return "## What failed\n\n" + _table(("part", "what", "reason"), rows) if rows else ""


def _machine(machine: Row) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    rows = [
        ("processor", f"{machine['processor']} ({machine['family']}), {machine['cores']} cores"),
        ("instructions", ", ".join(machine["flags"]) or "none of those that matter here"),
        ("memory", f"{machine['memory_gib']} GiB"),
        ("system", f"{machine['system']}, load {machine['load_before']} before the run"),
        ("versions", f"Python {machine['python']}, {versions}"),
    ]
    return "## Machine\n\n" + _table(("", ""), rows)


def _cell(rows: Sequence[Row], keys: Sequence[str], **where: object) -> str:
    """The spread of each key over the rows of one combination; "-" where there are none."""
    chosen = [row for row in rows if all(row[key] == value for key, value in where.items())]
    found = [spread([row[key] for row in chosen]) for key in keys]
    return " / ".join(in_words(one) for one in found if one) or "-"


def _table(head: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |" for line in lines)


_OVERLOAD = (
    "Each client sends the next photo as soon as the last was answered, and waits "
    f"{overload.WAIT_AFTER_REFUSAL:g} second after a refusal. The best is the better of 8 and 32 clients just before, "
    "on the same service. A further client probes throughout: normal is an answer within "
    f"{overload.NORMAL:g} times the median of its answers before the load, from which on nine in ten are; the time "
    "counts from the last answer of the load."
)
_HOW = """## How

- One contender is up at a time, warmed up, put under its loads in turn, and ended; every round begins with another one
  and goes the other way round. All serve the same weights, and every fp32 service must say what eager torch says of a
  photo before it is measured.
- locust sends, a client being a user that keeps its connection where the service does. The first second does not count.
  32 different photos of 500×335, 4 of 12 megapixels; as the body, to the tutorial as the form that it wants.
- `ours`: exported, packed and started as `scripts/serve` does, workers of one thread.
- `flask`: the tutorial's app on Flask's development server, `gunicorn` under gunicorn, torch's threads as they come.
- `torchserve`: its `image_classifier` around our TorchScript file, threads as they come. It loads the file as any does,
  without `handler/scoring.py`, and so lays the weights out anew in each call.
- `openvino`, `onnxruntime`: behind Starlette and uvicorn, one process whose workers are threads with a thread of the
  engine each (uvicorn's processes would keep what connections they get, at times all of them); large photos decoded by
  Pillow at a part of their size, as ours are. OpenVINO is held to fp32, or to bf16 where its name says so. int8 is by
  NNCF, or by ONNX Runtime's static quantisation (QDQ), with the images that ours was quantised with."""
