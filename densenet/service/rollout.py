"""scripts/rollout: start a new version beside the current one, compare the two, and replace the old one."""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import requests
import typer

from densenet import tables
from densenet.paths import PHOTO, PHOTOS
from densenet.service import authenticated_session, drain, history, management, quiesce, readiness, torchserve
from densenet.service.history import Entry, History
from densenet.service.lookup import PortOption
from densenet.service.management import LOADING
from densenet.service.properties import Properties
from densenet.service.torchserve import Service
from densenet.service.workers import introduce
from export import console
from export.archive import copy_with_workers, is_servable, read_card, read_version
from export.console import CliError
from handler import worker_control

_RETRY_SECONDS = 60  # how long to send a photo to a busy version again
_RETRY_INTERVAL = 0.2
_MIN_AGREEMENT = 0.9
_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")


def main(
    archive: Annotated[
        Path | None,
        typer.Argument(
            help="Archive of the new version, made by scripts/archive.",
            metavar="[ARCHIVE]",
            callback=console.existing_file,
        ),
    ] = None,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Return to the version before the one in service, one step in --history.")
    ] = False,
    show_history: Annotated[
        bool, typer.Option("--history", help="Show the versions that were in service, and which one is.")
    ] = False,
    abort: Annotated[
        bool, typer.Option("--abort", help="Remove what an interrupted rollout left: all versions not in service.")
    ] = False,
    photos: Annotated[
        Path, typer.Option(help="Photos to compare the versions on, similar to those you serve.", metavar="DIR")
    ] = PHOTOS,
    min_agreement: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Minimum share of photos whose best class is the same in both versions; 0 does not compare. "
            f"[default: {_MIN_AGREEMENT}; with --rollback 0]",
        ),
    ] = None,
    port: PortOption = None,
    seconds: Annotated[
        float, typer.Option("--drain-seconds", min=0, help="How long the old version may work on a request.")
    ] = 150,  # longer than TorchServe lets a request run before it ends the worker
) -> None:
    """Replace the running version by a new one without losing a request: register it beside the old one, wait until it
    serves, check its model card and predictions, make it the default, drain the old one and unregister it. If a step
    fails, the old version continues to serve. The next start serves the new version.

    The service must have been started with scripts/serve --model-api."""
    if [archive is not None, rollback, show_history, abort].count(True) != 1:
        raise CliError("give an archive, --rollback, --history or --abort")
    if min_agreement is not None and (show_history or abort):
        raise CliError("--min-agreement is for rollouts and --rollback")
    with torchserve.lock():
        service = torchserve.find(port)
        introduce(service)
        if show_history:
            show(service)
        elif abort:
            clean_up(service, seconds)
        else:
            if archive is None:
                archive, min_agreement = _previous_archive(service), min_agreement or 0.0
            agreement = _MIN_AGREEMENT if min_agreement is None else min_agreement
            try:
                roll(service, archive, _photos(photos), agreement, seconds)
            finally:
                history.clean(Path(service.folder))


def show(service: Service) -> None:
    """Print the archives that were in service, and the versions that TorchServe has beside the one in service."""
    folder = Path(service.folder)
    past = history.adopt(folder)
    if past.serving is None:
        raise CliError(_unknown(service))
    head = ("version", "weights", "precision", "sha256", "since", "state")
    tables.show(head, (_row(past, entry) for entry in past.entries), title=f"service on port {service.port}")
    if others := _others(service, past.serving):
        console.err.print(_explain(service, others, past.serving), markup=False)


def _row(past: History, entry: Entry) -> tuple[str, ...]:
    state = "in service" if entry == past.serving else "withdrawn" if entry.withdrawn else ""
    since = f"{datetime.fromtimestamp(entry.since):%Y-%m-%d %H:%M:%S}"
    return entry.version, entry.weights, entry.precision, entry.short, since, state


def roll(service: Service, archive: Path, photos: Sequence[Path], min_agreement: float, seconds: float) -> None:
    """Replace the default version by the version of an archive.

    Raises:
        CliError: if a check or a step fails; the message says which version serves.
    """
    store, folder = _model_store(service), Path(service.folder)
    card, version = read_card(archive), read_version(archive)
    if not is_servable(card):
        raise CliError(f"{archive} was made by an older export; run scripts/export and scripts/archive again")
    past, serving = _in_service(service)
    if others := _others(service, serving):
        raise CliError(_explain(service, others, serving))
    if read_card(history.file(folder, serving)) != service.card:
        raise CliError(_unknown(service))
    entry = history.keep(folder, archive)
    _check_name(service, serving, entry, archive)
    old = management.describe_default(service)
    with _registered(service, archive, store, version, workers=max(old.min_workers, 1)):
        _check_card(service, version, card)
        _check_answers(service, serving.version, version, photos, min_agreement)
        follow = _copy_to_model_store(service, archive, serving)
        _switch(service, serving.version, version, lambda: history.save(folder, past.with_serving(entry)))
    follow()
    torchserve.save_state(replace(service, card=card))
    _report(f"version {version} is in service; draining version {serving.version}")
    try:
        _drain_and_unregister(service, serving.version, seconds)
    except CliError as error:
        raise CliError(
            f"version {version} is in service, but version {serving.version} is still registered: {error}; "
            f"remove it with {_command(service, '--abort')}"
        ) from error
    _report(f"{entry} has replaced {serving}", final=True)


def clean_up(service: Service, seconds: float) -> None:
    """Unregister all versions but the one that the history says is in service, and make that one the default.

    A rollout that was interrupted before it changed the history never happened; one that was interrupted later is
    completed.

    Raises:
        CliError: if TorchServe does not have that version, or another one has not answered its requests in time.
    """
    _, serving = _in_service(service)
    folder, others = Path(service.folder), _others(service, serving)
    quiesce.release_all(service)
    (_properties(service).archive.parent / _served(service)).unlink(missing_ok=True)
    if others:
        worker_control.draining_file(service.control, serving.version).unlink(missing_ok=True)
        management.set_default(service, serving.version)
        torchserve.save_state(replace(service, card=read_card(history.file(folder, serving))))
    for version in others:
        _drain_and_unregister(service, version, seconds)
        _report(f"removed version {version}")
    history.clean(folder)
    _report(f"{serving} is in service, and no other is registered", final=True)


def _in_service(service: Service) -> tuple[History, Entry]:
    """Return the history and the archive in service.

    Raises:
        CliError: if there is no history, or TorchServe does not have the version that it says is in service.
    """
    past = history.adopt(Path(service.folder))
    if past.serving is None or past.serving.version not in management.versions(service):
        raise CliError(_unknown(service))
    return past, past.serving


def _others(service: Service, serving: Entry) -> list[str]:
    """Return the versions that TorchServe has beside the one in service."""
    return sorted({*management.versions(service)} - {serving.version})


def _explain(service: Service, others: Sequence[str], serving: Entry) -> str:
    return (
        f"version {', '.join(others)} is registered beside version {serving.version}, which is in service: a rollout "
        f"was interrupted, or somebody registered it; remove it with {_command(service, '--abort')}"
    )


def _unknown(service: Service) -> str:
    return (
        f"the history of the service on port {service.port} does not tell what it serves; its start was interrupted, "
        f"or is older than this program: scripts/stop --port {service.port}, then scripts/serve"
    )


def _command(service: Service, option: str) -> str:
    return f"scripts/rollout --port {service.port} {option}"


def _check_name(service: Service, serving: Entry, entry: Entry, archive: Path) -> None:
    if entry.version != serving.version:
        return
    if entry.digest == serving.digest:
        raise CliError(f"version {entry.version} is already in service")
    port = service.port
    raise CliError(
        f"TorchServe cannot have two versions of one name, {entry} and, in service, {serving}; pack the new one with a "
        f"different --version, or restart: scripts/stop --port {port}, scripts/serve --port {port} --archive {archive}"
    )


@contextmanager
def _registered(service: Service, archive: Path, store: Path, version: str, workers: int) -> Iterator[None]:
    """Register the archive's version and wait until it serves; unregister it if the block raises."""
    _report(f"starting version {version} with {workers} worker(s) beside the current version")
    served = store / _served(service)
    worker_control.draining_file(service.control, version).unlink(missing_ok=True)  # of a command that was killed
    watch = readiness.Watch(Path(service.logs))
    copy_with_workers(archive, served, workers)
    try:
        management.register(service, served.name)
    finally:
        served.unlink()  # TorchServe has unpacked it
    try:
        readiness.wait(service, watch, version)
        yield
    except BaseException:
        _drain_and_unregister(service, version, LOADING)
        raise


def _check_card(service: Service, version: str, card: dict[str, Any]) -> None:
    served = management.describe(service, version, card=True)
    if served is None or served.card is None or served.card.get("network") != card["network"]:
        raise CliError(f"version {version} does not serve its archive's network; the old version stays in service")


def _check_answers(service: Service, old: str, new: str, photos: Sequence[Path], min_agreement: float) -> None:
    """Check that the new version accepts every photo and mostly predicts the same class as the old one.

    A photo that the old version refuses counts as one on which they differ. With a minimum of 0 the old version is not
    asked: it may be too broken to answer.

    Raises:
        CliError: if it refuses a photo, or too few predictions agree.
    """
    same = refused = 0
    with (
        authenticated_session.session(service) as http,
        console.err.status(f"comparing both versions on {len(photos)} photos"),
    ):
        for photo in photos:
            after = _predict(http, service.at(new), photo)
            if not after.get("success"):
                raise CliError(f"version {new} refused {photo}: {after.get('error')}; version {old} stays in service")
            if min_agreement:
                before = _predict(http, service.at(old), photo)
                refused += not before.get("success")
                same += before.get("class_id") == after["class_id"]
    if not min_agreement:
        _report(f"version {new} accepts all {len(photos)} photos; its answers were not compared with version {old}'s")
        return
    _report(f"{same} of {len(photos)} photos have the same best class in both versions")
    if same / len(photos) < min_agreement:
        because = f" (version {old} refused {refused})" if refused else ""
        raise CliError(
            f"only {same} of {len(photos)} photos agree{because}, fewer than --min-agreement {min_agreement:g} requires"
            f"; version {old} stays in service"
        )


def _predict(http: requests.Session, url: str, photo: Path) -> dict[str, Any]:
    """Return the handler's answer to a photo; send it again while the queue is full or a worker has died.

    Raises:
        CliError: if the handler does not answer.
    """
    deadline = time.monotonic() + _RETRY_SECONDS
    while True:
        try:
            response = http.post(url, data=photo.read_bytes(), timeout=LOADING)
            body: dict[str, Any] = response.json()
        except (requests.RequestException, ValueError) as error:
            raise CliError(f"{url} did not answer {photo}: {error}") from error
        if "success" in body:
            return body
        if response.status_code < requests.codes.server_error or time.monotonic() > deadline:
            raise CliError(f"{url} did not answer {photo}: {body.get('message')}")
        time.sleep(_RETRY_INTERVAL)


def _switch(service: Service, old: str, new: str, commit: Callable[[], None]) -> None:
    """Make the new version the default, check that it answers, and commit; restore the old default if any fails."""
    management.set_default(service, new)
    try:
        with authenticated_session.session(service) as http:
            prediction = _predict(http, service.url, PHOTO)
        if not prediction.get("success") or prediction["model"]["version"] != new:
            raise CliError(f"version {new} does not answer as the default; version {old} stays in service")
        commit()
    except BaseException:
        management.set_default(service, old)
        raise


def _drain_and_unregister(service: Service, version: str, seconds: float) -> None:
    """Unregister a version that is not the default one, once it has answered its requests."""
    with drain.drained_version(service, version, seconds):
        management.unregister(service, version)


def _copy_to_model_store(service: Service, archive: Path, serving: Entry) -> Callable[[], None]:
    """Prepare to replace the archive in the model store, if it is the one in service; others may belong to others.

    Copying can fail, for instance on a full disk, so it comes before the switch; renaming afterwards hardly can.

    Returns:
        A function that renames the copy into place.
    """
    home = Path(service.archive)
    if not home.exists() or history.digest(home) != serving.digest:
        return lambda: None
    shutil.copyfile(archive, partial := home.with_suffix(".partial"))

    def promote() -> None:
        partial.replace(home)

    return promote


def _served(service: Service) -> str:
    """Return the name of the file in the model store from which TorchServe registers a new version."""
    return f"{service.model}-rollout.mar"


def _model_store(service: Service) -> Path:
    properties = _properties(service)
    if not properties.model_api_enabled:
        raise CliError("the service does not accept new versions; start it with scripts/serve --model-api")
    return properties.archive.parent


def _properties(service: Service) -> Properties:
    return Properties.read(Path(service.folder, "config.properties"))


def _previous_archive(service: Service) -> Path:
    past, serving = _in_service(service)
    if past.previous is None:
        raise CliError(f"the history of the service on port {service.port} has nothing before {serving}")
    _report(f"returning from {serving} to {past.previous}")
    return history.file(Path(service.folder), past.previous)


def _photos(folder: Path) -> list[Path]:
    photos = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _IMAGES and path.is_file())
    if not photos:
        raise CliError(f"{folder} contains no photos ({', '.join(_IMAGES)}); choose another folder with --photos")
    return photos


def _report(message: str, *, final: bool = False) -> None:
    (console.out if final else console.err).print(message, markup=False)
