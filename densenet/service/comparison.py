"""What a new version must show on photos before clients reach it: it answers them, and as well as the old one does."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from densenet.paths import PHOTOS
from densenet.service import authenticated_session
from densenet.service.management import LOADING
from densenet.service.torchserve import Service
from export import console
from export.archive import read_card, read_classes
from export.console import CliError

MIN_AGREEMENT = 0.9
MAX_LOSS = 0.01  # of accuracy on labelled photos, unless a minimum is given
_RETRY_SECONDS = 60  # how long to send a photo to a busy version again
_RETRY_INTERVAL = 0.2
_IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")


@dataclass(frozen=True)
class Bounds:
    """What the comparison is made on, and what it requires; None stands for the default.

    Attributes:
        photos: a folder of photos that the new version must answer.
        labelled: a folder of labelled photos, as scripts/evaluate takes it.
    """

    photos: Path = PHOTOS
    min_agreement: float | None = None
    labelled: Path | None = None
    min_accuracy: float | None = None

    def agreement(self, *, same_classes: bool) -> float:
        """Return the minimum share of answers with the same best class; 0 requires nothing.

        It is nothing by default for versions with different classes, and where labelled photos decide.

        Raises:
            CliError: if the versions have different classes, and it was given, or labelled photos without an accuracy.
        """
        if self.labelled and self.min_accuracy is None and not same_classes:
            raise CliError("the versions have different classes, so --labelled needs --min-accuracy")
        if self.min_agreement and not same_classes:
            raise CliError(
                "the versions have different classes, so their answers cannot agree; leave out --min-agreement"
            )
        if self.min_agreement is not None:
            return self.min_agreement
        return MIN_AGREEMENT if same_classes and not self.labelled else 0.0


def have_same_classes(old: Path, new: Path) -> bool:
    """Return whether two archives have the same class ids and names, in the same order."""
    return bool(read_card(old)["classes"] == read_card(new)["classes"])


def files(folder: Path) -> list[Path]:
    """Return the photos in a folder.

    Raises:
        CliError: if there are none.
    """
    photos = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _IMAGES and path.is_file())
    if not photos:
        raise CliError(f"{folder} contains no photos ({', '.join(_IMAGES)}); choose another folder with --photos")
    return photos


def check_answers(service: Service, old: str, new: str, photos: Sequence[Path], min_agreement: float) -> None:
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
            after = predict(http, service.at(new), photo)
            if not after.get("success"):
                raise CliError(f"version {new} refused {photo}: {after.get('error')}; version {old} stays in service")
            if min_agreement:
                before = predict(http, service.at(old), photo)
                refused += not before.get("success")
                same += before.get("class_id") == after["class_id"]
    if not min_agreement:
        console.err.print(
            f"version {new} accepts all {len(photos)} photos; its answers were not compared with version {old}'s",
            markup=False,
        )
        return
    console.err.print(f"{same} of {len(photos)} photos have the same best class in both versions", markup=False)
    if same / len(photos) < min_agreement:
        because = f" (version {old} refused {refused})" if refused else ""
        raise CliError(
            f"only {same} of {len(photos)} photos agree{because}, fewer than --min-agreement {min_agreement:g} requires"
            f"; version {old} stays in service"
        )


def check_accuracy(service: Service, old: str, new: str, archives: tuple[Path, Path], bounds: Bounds) -> None:
    """Check the new version's accuracy (top-1) on labelled photos. A photo that a version refuses is one it gets wrong.

    Args:
        archives: those of the old and of the new version.

    Raises:
        CliError: if the accuracy is below the minimum, by default the old version's less MAX_LOSS, or if the folder has
            labels that are no classes of the new version.
    """
    from densenet.evaluation import dataset  # imports the client, which only this option needs

    if bounds.labelled is None:
        return
    comparable = have_same_classes(*archives)
    names = dict(json.loads(read_classes(archives[1])).values())
    images = dataset.read(bounds.labelled, dataset.Classes(names, bounds.labelled))
    versions = (old, new) if comparable else (new,)
    right = dict.fromkeys(versions, 0)
    with (
        authenticated_session.session(service) as http,
        console.err.status(f"classifying {len(images.files)} labelled photos"),
    ):
        for file, label in zip(images.files, images.labels, strict=True):
            for version in versions:
                answer = predict(http, service.at(version), images.root / file)
                right[version] += answer.get("class_id") == label
    shares = {version: count / len(images.files) for version, count in right.items()}
    found = ", ".join(f"version {version} {share:.2%}" for version, share in shares.items())
    console.err.print(f"accuracy on {len(images.files)} labelled photos: {found}", markup=False)
    required = shares[old] - MAX_LOSS if bounds.min_accuracy is None else bounds.min_accuracy
    if shares[new] < required:
        raise CliError(
            f"version {new} is right on {shares[new]:.2%} of the labelled photos; {max(required, 0):.2%} are required "
            f"(--min-accuracy); version {old} stays in service"
        )


def predict(http: requests.Session, url: str, photo: Path) -> dict[str, Any]:
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
