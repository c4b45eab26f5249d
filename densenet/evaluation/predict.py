"""Asking: from the files of a labelled set to outcomes, by whoever answers, with the answers kept as they come."""

from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from densenet_client import Answer, Client, Refused, ServiceError, Unauthorized
from rich.progress import MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from densenet.evaluation import answers
from densenet.evaluation.answers import About, Journal, Outcome
from densenet.evaluation.dataset import LabelledSet
from densenet.paths import PHOTO
from export import console
from export.console import Problem

TOP_K = 5  # classes asked for; the published numbers are top-1 and top-5
_ALL = 1000  # the most classes that the service lists


class Interrupted(Problem):
    """Ctrl-C, told in one line; the exit status is the shell's for SIGINT."""

    status = 130


@dataclass(frozen=True)
class Source:
    """Somebody who answers: which model it says it is, its classes id → name, and its outcomes in the files' order."""

    model: Mapping[str, str]
    names: Mapping[str, str]
    ask: Callable[[Iterable[Path]], Generator[Outcome]]


def service(client: Client) -> Source:
    """The service, after it has told by one photo who it is. Raises Problem."""
    try:
        answer = client.classify(PHOTO, top_k=_ALL)
    except Unauthorized as error:
        hint = "--token, --key-file, or DENSENET_TOKEN; --against-token for the second service"
        raise Problem(f"{error} ({hint})") from error
    except (Refused, ServiceError) as error:
        raise Problem(str(error)) from error
    model = asdict(answer.model)

    def ask(paths: Iterable[Path]) -> Generator[Outcome]:
        for result in client.classify_many(paths, top_k=TOP_K):
            if isinstance(result, Answer) and asdict(result.model) != model:
                raise Problem(f"the service changed while it was asked: it was {answers.describe(model)}")
            yield _outcome(result)

    return Source(model, {row.class_id: row.label for row in answer.predictions}, ask)


def collect(source: Source, images: LabelledSet, path: Path, *, restart: bool, doing: str) -> Journal:
    """Asks about every image that the answers file at path knows nothing of yet.

    doing: what the progress bar says. Raises Interrupted on Ctrl-C, Problem when the service goes away; the next call
    goes on where this one ended.
    """
    about = {"model": source.model, "set": images.identity()}
    try:
        with answers.opened(path, about, restart=restart) as journal:
            waiting = [file for file in images.files if not journal.settled(file)]
            if journal.outcomes:
                done = len(images.files) - len(waiting)
                console.err.print(f"resuming: {done} of {len(images.files)} are done", markup=False)
            _ask(source, images, waiting, journal, doing)
            return journal
    except KeyboardInterrupt as error:
        raise Interrupted(f"interrupted; {_state(images, path, about, restart)}") from error
    except ServiceError as error:
        raise Problem(f"{error}; {_state(images, path, about, restart)}") from error


def _ask(source: Source, images: LabelledSet, waiting: list[str], journal: Journal, doing: str) -> None:
    right_for = dict(zip(images.files, images.labels, strict=True))
    right = sum(_is_right(journal.outcomes[file], right_for[file]) for file in right_for if journal.settled(file))
    done = len(images.files) - len(waiting)
    with _progress() as progress, closing(source.ask(images.root / file for file in waiting)) as outcomes:
        task = progress.add_task(doing, total=len(images.files), completed=done, top1="")
        journal.start()
        for file, outcome in zip(waiting, outcomes, strict=True):
            journal.append(file, outcome)
            right, done = right + _is_right(outcome, right_for[file]), done + 1
            progress.update(task, advance=1, top1=f"top-1 {right / done:.2%}")


def _state(images: LabelledSet, path: Path, about: About, restart: bool) -> str:
    # As the next run will read it: Ctrl-C may have come between counting an answer and writing it.
    with answers.opened(path, about, restart=False) as journal:
        done = sum(journal.settled(file) for file in images.files)
    again = "the same command without --restart" if restart else "the same command"
    return f"{done} of {len(images.files)} are done, {again} goes on from there"


def _is_right(outcome: Outcome, label: str) -> bool:
    return outcome.classes[:1] == (label,)


def _outcome(result: Answer | Refused | ServiceError | OSError) -> Outcome:
    match result:
        case Answer():
            classes = tuple(row.class_id for row in result.predictions)
            return Outcome(classes, tuple(row.probability for row in result.predictions), result.recognized)
        case Refused():
            return Outcome(code=result.code, message=result.message)
        case OSError():
            return Outcome(code=answers.UNREADABLE, message=result.strerror or str(result))
    return Outcome(code=answers.NO_ANSWER, message=str(result))


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:.1f} images/s")


def _progress() -> Progress:
    # An address with brackets is no markup.
    description, top1 = (TextColumn(text, markup=False) for text in ("{task.description}", "{task.fields[top1]}"))
    return Progress(
        *(description, MofNCompleteColumn(), _Rate(), TimeRemainingColumn(), top1),
        console=console.err,
        transient=True,
        disable=not console.err.is_terminal,
    )
