"""Predict the images of a labelled set with a source, the service or a reference, and log every answer."""

import base64
import struct
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from densenet_client import Answer, Client, Prediction, RequestRejected, ServiceError, Unauthorized
from densenet_client.terminal import describe
from rich.progress import MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from densenet.evaluation import answers
from densenet.evaluation.answers import About, Outcome, ResultsLog
from densenet.evaluation.dataset import LabelledSet
from densenet.interruption import Interrupted
from densenet.paths import PHOTO
from export import console
from export.console import CliError

TOP_K = 5  # requested classes; the published numbers are top-1 and top-5
_ALL = 1000  # maximum number of classes that the service lists


@dataclass(frozen=True)
class Source:
    """A source of predictions. names: class id → name. predict: yields outcomes in the order of the files.

    card: the model card of a source whose outcomes have logits.
    """

    model: Mapping[str, str]
    names: Mapping[str, str]
    predict: Callable[[Iterable[Path]], Generator[Outcome]]
    card: Mapping[str, Any] = field(default_factory=dict)


def service(client: Client, url: str, *, logits: bool = False) -> Source:
    """Return the service as a source; classify one photo to get its model and classes, and say which they are.

    logits: whether outcomes have the logits of all classes.

    Raises: CliError if the service does not answer.
    """
    try:
        answer = client.classify(PHOTO, top_k=_ALL)
        card = client.model_card() if logits else {}
    except Unauthorized as error:
        hint = "--token, --key-file, or DENSENET_TOKEN; --against-token for the second service"
        raise CliError(f"{error} ({hint})") from error
    except (RequestRejected, ServiceError) as error:
        raise CliError(str(error)) from error
    console.err.print(describe(url, answer.model), markup=False)
    model = answer.model.facts()

    def predict_paths(paths: Iterable[Path]) -> Generator[Outcome]:
        for result in client.classify_many(paths, top_k=_ALL if logits else TOP_K, logits=logits):
            if isinstance(result, Answer) and result.model.facts() != model:
                raise CliError(f"the service's model changed during the run; it was {answers.describe(model)}")
            yield _outcome(result)

    return Source(model, {row.class_id: row.label for row in answer.predictions}, predict_paths, card)


def collect(source: Source, images: LabelledSet, path: Path, *, restart: bool, doing: str) -> ResultsLog:
    """Predict every image that has no final answer in the answers file at path.

    doing: label of the progress bar. The next call continues where this one ended.

    Raises: Interrupted on Ctrl-C; CliError if the service becomes unavailable.
    """
    about = {"model": source.model, "set": images.identity()}
    try:
        with answers.opened(path, about, restart=restart) as results_log:
            waiting = [file for file in images.files if not results_log.settled(file)]
            if results_log.outcomes:
                done = len(images.files) - len(waiting)
                console.err.print(f"resuming: {done} of {len(images.files)} images are done", markup=False)
            _predict(source, images, waiting, results_log, doing)
            return results_log
    except KeyboardInterrupt as error:
        raise Interrupted(f"interrupted; {_state(images, path, about, restart)}") from error
    except ServiceError as error:
        raise CliError(f"{error}; {_state(images, path, about, restart)}") from error


def _predict(source: Source, images: LabelledSet, waiting: list[str], results_log: ResultsLog, doing: str) -> None:
    right_for = dict(zip(images.files, images.labels, strict=True))
    right = sum(
        _is_right(results_log.outcomes[file], right_for[file]) for file in right_for if results_log.settled(file)
    )
    done = len(images.files) - len(waiting)
    with _progress() as progress, closing(source.predict(images.root / file for file in waiting)) as outcomes:
        task = progress.add_task(doing, total=len(images.files), completed=done, top1="")
        results_log.start()
        for file, outcome in zip(waiting, outcomes, strict=True):
            results_log.append(file, outcome)
            right, done = right + _is_right(outcome, right_for[file]), done + 1
            progress.update(task, advance=1, top1=f"top-1 {right / done:.2%}")


def _state(images: LabelledSet, path: Path, about: About, restart: bool) -> str:
    # Read the file again, because Ctrl-C may have come between counting an answer and writing it.
    with answers.opened(path, about, restart=False) as results_log:
        done = sum(results_log.settled(file) for file in images.files)
    command = "the same command without --restart" if restart else "the same command"
    return f"{done} of {len(images.files)} images are done; run {command} to continue"


def _is_right(outcome: Outcome, label: str) -> bool:
    return outcome.classes[:1] == (label,)


def _outcome(result: Answer | RequestRejected | ServiceError | OSError) -> Outcome:
    match result:
        case Answer():
            best = result.predictions[:TOP_K]
            return Outcome(
                tuple(row.class_id for row in best),
                tuple(row.probability for row in best),
                result.recognized,
                logits=_encode(result.predictions),
            )
        case RequestRejected():
            return Outcome(code=result.code, message=result.message)
        case OSError():
            return Outcome(code=answers.UNREADABLE, message=result.strerror or str(result))
    return Outcome(code=answers.NO_ANSWER, message=str(result))


def _encode(predictions: Sequence[Prediction]) -> str:
    values = [row.logit for row in sorted(predictions, key=lambda row: row.class_id) if row.logit is not None]
    return base64.b64encode(struct.pack(f"<{len(values)}f", *values)).decode("ascii")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:.1f} images/s")


def _progress() -> Progress:
    # Markup is off, because addresses may contain brackets.
    description, top1 = (TextColumn(text, markup=False) for text in ("{task.description}", "{task.fields[top1]}"))
    return Progress(
        *(description, MofNCompleteColumn(), _Rate(), TimeRemainingColumn(), top1),
        console=console.err,
        transient=True,
        disable=not console.err.is_terminal,
    )
