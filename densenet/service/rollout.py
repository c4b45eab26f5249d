"""scripts/rollout: a new version beside the one in service, checked against it, then in its place."""

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
from densenet.service.management import LOADING
from densenet.service.properties import Properties
from densenet.service.torchserve import Service
from densenet.service.workers import PortOption
from export import console
from export.archive import copy_with_workers, is_servable, read_card, read_version
from export.console import Problem

_PATIENCE = 60  # seconds for a busy version to take a photo
_AGAIN = 0.2
_RECORD = "rollout.json"  # in the service's folder: where the version before is kept
_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")


def main(
    archive: Annotated[
        Path | None, typer.Argument(help="The new version, of python -m export.archive.", metavar="[ARCHIVE]")
    ] = None,
    rollback: Annotated[bool, typer.Option("--rollback", help="To the version before the last rollout.")] = False,
    photos: Annotated[
        Path, typer.Option(help="Photos that both versions are asked about, such as those you serve.", metavar="DIR")
    ] = PHOTOS,
    min_agreement: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the photos with the same best class in both versions.")
    ] = 0.9,
    port: PortOption = None,
    seconds: Annotated[
        float, typer.Option("--drain-seconds", min=0, help="How long the old version may work on a request.")
    ] = 150,  # more than TorchServe itself gives a request before it ends the worker
) -> None:
    """Puts a new version into the running service without a request lost: registers it beside the old one, waits until
    it serves, checks its model card and its answers, makes it the default, drains the old one and ends it. Whatever
    fails, the old version goes on serving. The next start serves the new one.

    The service must have been started with scripts/serve --model-api."""
    if (archive is None) == (not rollback):
        raise Problem("give an archive, or --rollback")
    with torchserve.lock():
        service = torchserve.find(port)
        if rollback:
            archive, min_agreement = _before(service), 0.0
        assert archive is not None
        roll(service, archive, _pictures(photos), min_agreement, seconds)


def roll(service: Service, archive: Path, photos: Sequence[Path], min_agreement: float, seconds: float) -> None:
    """Replaces the default version by that of an archive. Raises Problem; the old one then serves, as before."""
    store = _store(service)
    card, version = read_card(archive), read_version(archive)
    if not is_servable(card):
        raise Problem(f"{archive} was made by an older export; make it anew")
    old = management.describe(service)
    if old is None:
        raise Problem(f"TorchServe does not know {service.model}; see {service.logs}")
    if version in management.versions(service):
        raise Problem(f"version {version} is in service already; pack the new one with another --version")
    with _beside(service, archive, store, version, workers=max(old.wanted, 1)):
        _check_card(service, version, card)
        _check_answers(service, old.version, version, photos, min_agreement)
        kept, put = _prepare(service, archive, old.version)
        _switch(service, old.version, version)
    put()
    torchserve.remember(replace(service, card=card))
    Path(service.folder, _RECORD).write_text(json.dumps({"before": str(kept)}))
    _say(f"version {version} is in service; draining version {old.version}")
    try:
        _end(service, old.version, seconds)
    except Problem as problem:
        raise Problem(f"version {version} is in service, but {old.version} is still beside it: {problem}") from problem
    _say(f"version {version} has taken the place of version {old.version}", final=True)


@contextmanager
def _beside(service: Service, archive: Path, store: Path, version: str, workers: int) -> Iterator[None]:
    """The archive's version, serving beside the old one; withdrawn again where the block fails."""
    _say(f"starting version {version} with {workers} worker(s) beside the one in service")
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
        _end(service, version, LOADING)
        raise


def _check_card(service: Service, version: str, card: dict[str, Any]) -> None:
    served = management.describe(service, version, card=True)
    if served is None or served.card is None or served.card.get("network") != card["network"]:
        raise Problem(f"version {version} does not serve the network of its archive; the old version goes on")


def _check_answers(service: Service, old: str, new: str, photos: Sequence[Path], min_agreement: float) -> None:
    """Every photo must be answered by the new version; where both answer, mostly with the same class."""
    same = compared = 0
    with (
        authenticated_session.session(service) as http,
        console.err.status(f"asking both versions about {len(photos)} photos"),
    ):
        for photo in photos:
            before, after = (_ask(http, service.at(version), photo) for version in (old, new))
            if not after.get("success"):
                raise Problem(f"version {new} refuses {photo}: {after.get('error')}; the old version goes on")
            if before.get("success"):
                compared += 1
                same += before["class_id"] == after["class_id"]
    _say(f"{same} of {compared} photos have the same best class in both versions")
    if compared and same / compared < min_agreement:
        raise Problem(
            f"only {same} of {compared} photos agree, fewer than --min-agreement {min_agreement:g} wants; "
            f"version {old} goes on"
        )


def _ask(http: requests.Session, url: str, photo: Path) -> dict[str, Any]:
    """The handler's answer to a photo; asked again while TorchServe has none: a full queue, a worker that died."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            answer = http.post(url, data=photo.read_bytes(), timeout=LOADING)
            told: dict[str, Any] = answer.json()
        except (requests.RequestException, ValueError) as error:
            raise Problem(f"{url} did not answer {photo}: {error}") from error
        if "success" in told:
            return told
        if answer.status_code < requests.codes.server_error or time.monotonic() > deadline:
            raise Problem(f"{url} did not answer {photo}: {told.get('message')}")
        time.sleep(_AGAIN)


def _switch(service: Service, old: str, new: str) -> None:
    """Makes the new version the default, and sees that it is it who answers."""
    management.set_default(service, new)
    try:
        with authenticated_session.session(service) as http:
            answer = _ask(http, service.url, PHOTO)
        if not answer.get("success") or answer["model"]["version"] != new:
            raise Problem(f"version {new} does not answer as the default; version {old} goes on")
    except BaseException:
        management.set_default(service, old)
        raise


def _end(service: Service, version: str, seconds: float) -> None:
    """Unregisters a version that is not the default one, once it has answered what it was sent."""
    with drain.retired(service, version, seconds):
        management.unregister(service, version)


def _prepare(service: Service, archive: Path, old: str) -> tuple[Path, Callable[[], None]]:
    """Copies the version in service to where a rollback finds it, and the new one to beside where the next start looks
    for it; all that may fail. Returns the former's path, and what puts the latter in its place."""
    home, serving = Path(service.archive), Path(service.folder, torchserve.SERVING)
    kept, partial = home.with_name(f"{service.model}-{old}.mar"), home.with_suffix(".partial")
    incoming = serving.with_suffix(".partial")
    # Before the archive: it may be the very file that is kept.
    shutil.copyfile(archive, partial)
    shutil.copyfile(archive, incoming)
    shutil.copyfile(serving, kept)

    def put() -> None:
        partial.replace(home)
        incoming.replace(serving)

    return kept, put


def _store(service: Service) -> Path:
    properties = Properties.read(Path(service.folder, "config.properties"))
    if not properties.takes_models:
        raise Problem("the service takes no new versions; start it with scripts/serve --model-api")
    return Path(properties.values["model_store"])


def _before(service: Service) -> Path:
    try:
        before = Path(json.loads(Path(service.folder, _RECORD).read_text())["before"])
    except (OSError, ValueError, KeyError) as error:
        raise Problem("there was no rollout to go back from") from error
    if not before.exists():
        raise Problem(f"the archive of the version before is gone: {before}")
    return before


def _pictures(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _IMAGES and path.is_file())
    if not found:
        raise Problem(f"there are no photos in {folder}")
    return found


def _say(words: str, *, final: bool = False) -> None:
    (console.out if final else console.err).print(words, markup=False)
