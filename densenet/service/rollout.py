"""scripts/rollout: start a new version beside the current one, compare the two, and replace the old one."""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import requests
import typer

from densenet.paths import PHOTO, PHOTOS
from densenet.service import authenticated_session, drain, management, readiness, torchserve
from densenet.service.lookup import PortOption
from densenet.service.management import LOADING
from densenet.service.properties import Properties
from densenet.service.torchserve import Service
from export import console
from export.archive import copy_with_workers, is_servable, read_card, read_version
from export.console import CliError

_RETRY_SECONDS = 60  # how long to send a photo to a busy version again
_RETRY_INTERVAL = 0.2
_RECORD = "rollout.json"  # in the service's folder: the path of the previous version's archive
_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")


def main(
    archive: Annotated[
        Path | None, typer.Argument(help="Archive of the new version, made by scripts/archive.", metavar="[ARCHIVE]")
    ] = None,
    rollback: Annotated[
        bool, typer.Option("--rollback", help="Return to the version before the last rollout.")
    ] = False,
    photos: Annotated[
        Path, typer.Option(help="Photos to compare the versions on, similar to those you serve.", metavar="DIR")
    ] = PHOTOS,
    min_agreement: Annotated[
        float, typer.Option(min=0, max=1, help="Minimum share of photos whose best class is the same in both versions.")
    ] = 0.9,
    port: PortOption = None,
    seconds: Annotated[
        float, typer.Option("--drain-seconds", min=0, help="How long the old version may work on a request.")
    ] = 150,  # longer than TorchServe lets a request run before it ends the worker
) -> None:
    """Replace the running version by a new one without losing a request: register it beside the old one, wait until it
    serves, check its model card and predictions, make it the default, drain the old one and unregister it. If a step
    fails, the old version continues to serve. The next start serves the new version.

    The service must have been started with scripts/serve --model-api."""
    if (archive is None) == (not rollback):
        raise CliError("give an archive, or --rollback")
    with torchserve.lock():
        service = torchserve.find(port)
        if rollback:
            archive, min_agreement = _previous_archive(service), 0.0
        assert archive is not None
        roll(service, archive, _photos(photos), min_agreement, seconds)


def roll(service: Service, archive: Path, photos: Sequence[Path], min_agreement: float, seconds: float) -> None:
    """Replace the default version by the version of an archive.

    Raises:
        CliError: if a check or a step fails; the message says which version serves.
    """
    store = _model_store(service)
    card, version = read_card(archive), read_version(archive)
    if not is_servable(card):
        raise CliError(f"{archive} was made by an older export; run scripts/export and scripts/archive again")
    old = management.describe_default(service)
    if version in management.versions(service):
        raise CliError(f"version {version} is already in service; pack the new one with a different --version")
    with _registered(service, archive, store, version, workers=max(old.min_workers, 1)):
        _check_card(service, version, card)
        _check_answers(service, old.version, version, photos, min_agreement)
        previous, promote = _copy_archives(service, archive, old.version)
        _switch(service, old.version, version)
    promote()
    torchserve.save_state(replace(service, card=card))
    Path(service.folder, _RECORD).write_text(json.dumps({"before": str(previous)}))
    _report(f"version {version} is in service; draining version {old.version}")
    try:
        _drain_and_unregister(service, old.version, seconds)
    except CliError as error:
        raise CliError(
            f"version {version} is in service, but version {old.version} is still registered: {error}"
        ) from error
    _report(f"version {version} has replaced version {old.version}", final=True)


@contextmanager
def _registered(service: Service, archive: Path, store: Path, version: str, workers: int) -> Iterator[None]:
    """Register the archive's version and wait until it serves; unregister it if the block raises."""
    _report(f"starting version {version} with {workers} worker(s) beside the current version")
    served = store / f"{service.model}-rollout.mar"
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

    Raises:
        CliError: if it refuses a photo, or too few predictions agree.
    """
    same = compared = 0
    with (
        authenticated_session.session(service) as http,
        console.err.status(f"comparing both versions on {len(photos)} photos"),
    ):
        for photo in photos:
            before, after = (_predict(http, service.at(version), photo) for version in (old, new))
            if not after.get("success"):
                raise CliError(f"version {new} refused {photo}: {after.get('error')}; version {old} stays in service")
            if before.get("success"):
                compared += 1
                same += before["class_id"] == after["class_id"]
    _report(f"{same} of {compared} photos have the same best class in both versions")
    if compared and same / compared < min_agreement:
        raise CliError(
            f"only {same} of {compared} photos agree, fewer than --min-agreement {min_agreement:g} requires; "
            f"version {old} stays in service"
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


def _switch(service: Service, old: str, new: str) -> None:
    """Make the new version the default and check that it answers; restore the old default if it does not."""
    management.set_default(service, new)
    try:
        with authenticated_session.session(service) as http:
            prediction = _predict(http, service.url, PHOTO)
        if not prediction.get("success") or prediction["model"]["version"] != new:
            raise CliError(f"version {new} does not answer as the default; version {old} stays in service")
    except BaseException:
        management.set_default(service, old)
        raise


def _drain_and_unregister(service: Service, version: str, seconds: float) -> None:
    """Unregister a version that is not the default one, once it has answered its requests."""
    with drain.drained_version(service, version, seconds):
        management.unregister(service, version)


def _copy_archives(service: Service, archive: Path, old: str) -> tuple[Path, Callable[[], None]]:
    """Copy the current archive to where a rollback looks for it, and the new one beside where the next start looks.

    Copying can fail, for instance on a full disk, so it comes before the switch; renaming afterwards hardly can.

    Returns:
        The path of the current archive's copy, and a function that renames the new archive into place.
    """
    home, serving = Path(service.archive), Path(service.folder, torchserve.SERVING)
    previous, partial = home.with_name(f"{service.model}-{old}.mar"), home.with_suffix(".partial")
    incoming = serving.with_suffix(".partial")
    # `archive` may be the file at `previous`, so copy it before that file is overwritten.
    shutil.copyfile(archive, partial)
    shutil.copyfile(archive, incoming)
    shutil.copyfile(serving, previous)

    def promote() -> None:
        partial.replace(home)
        incoming.replace(serving)

    return previous, promote


def _model_store(service: Service) -> Path:
    properties = Properties.read(Path(service.folder, "config.properties"))
    if not properties.model_api_enabled:
        raise CliError("the service does not accept new versions; start it with scripts/serve --model-api")
    return Path(properties.values["model_store"])


def _previous_archive(service: Service) -> Path:
    try:
        previous = Path(json.loads(Path(service.folder, _RECORD).read_text())["before"])
    except (OSError, ValueError, KeyError) as error:
        raise CliError("there is no rollout to roll back") from error
    if not previous.exists():
        raise CliError(f"the previous version's archive does not exist any more: {previous}")
    return previous


def _photos(folder: Path) -> list[Path]:
    photos = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _IMAGES and path.is_file())
    if not photos:
        raise CliError(f"{folder} contains no photos ({', '.join(_IMAGES)}); choose another folder with --photos")
    return photos


def _report(message: str, *, final: bool = False) -> None:
    (console.out if final else console.err).print(message, markup=False)
