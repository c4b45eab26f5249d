"""The service's answer for one image, and how to read it from an HTTP response."""

import base64
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, overload

import httpx

from densenet_client.errors import NotTheService, RequestRejected, ServiceError

WIDTH = 1024  # numbers in an embedding
_EXCERPT = 200  # characters of an unexpected response to show
# Statuses that say that the URL is wrong, not the image.
_NOTHING_THERE = (httpx.codes.NOT_FOUND, httpx.codes.METHOD_NOT_ALLOWED, httpx.codes.NOT_IMPLEMENTED)
_INVALID_KEY = "InvalidKeyException"  # TorchServe's error for every kind of wrong token, with status 400


@dataclass(frozen=True)
class Prediction:
    """One class of an answer.

    class_id: WordNet synset, or the id in the model's class index. label: class name, not unique. probability: 0..1.
    logit: what the network computed, without calibration; None unless requested.
    """

    class_id: str
    label: str
    probability: float
    logit: float | None = None


@dataclass(frozen=True)
class Model:
    """The model that answered. weights: "imagenet", a file name, or "untrained", whose answers are meaningless.

    calibrated: whether probabilities were fitted to labelled photos, so that of many answers with 0.8, 80% are right.
    """

    name: str
    version: str
    weights: str
    precision: str
    calibrated: bool = False

    def facts(self) -> dict[str, Any]:
        """Return the fields as an answer's JSON has them: `calibrated` only if it is."""
        return {name: value for name, value in asdict(self).items() if value is not False}

    def __str__(self) -> str:
        calibrated = ", calibrated" if self.calibrated else ""
        return f"{self.name} {self.version}, weights {self.weights}, {self.precision}{calibrated}"


@dataclass(frozen=True)
class Explanation:
    """The class activation map of one class.

    map: evidence for (positive) or against the class at 7 × 7 positions of the crop, rows from the top, in logits. The
    mean of the map plus the bias is the logit; the softmax of all logits gives the probability.
    overlay: PNG of the crop with the heatmap. picture: PNG of the entire upright image with the heatmap. Both are None
    unless requested.
    """

    class_id: str
    label: str
    probability: float
    logit: float
    bias: float
    map: tuple[tuple[float, ...], ...]
    overlay: bytes | None = None
    picture: bytes | None = None


@dataclass(frozen=True)
class Answer(Sequence[Prediction]):
    """The answer for one image: a sequence of predictions, best first.

    recognized: whether the best prediction has at least min_probability or, without one, passes the model's own rule.
    unknown_score: the share of labelled photos that look more like the model's classes, 0..1; None if it is not
    calibrated.
    embedding: 1024 numbers, for search and clustering; empty unless requested.
    explanations: one per requested class, empty unless requested. crop: left, top, right and bottom of the network's
    input, as fractions of the upright image's width and height.
    """

    predictions: tuple[Prediction, ...]
    recognized: bool
    model: Model
    explanations: tuple[Explanation, ...] = ()
    crop: tuple[float, ...] | None = None
    embedding: tuple[float, ...] = ()
    unknown_score: float | None = None

    def __len__(self) -> int:
        return len(self.predictions)

    @overload
    def __getitem__(self, index: int) -> Prediction: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Prediction, ...]: ...
    def __getitem__(self, index: int | slice) -> Prediction | tuple[Prediction, ...]:
        return self.predictions[index]


def read(response: httpx.Response) -> Answer:
    """Read the answer in a response.

    Raises: RequestRejected if the service rejected the request; NotTheService if something else answered; ServiceError
    if the service, or a proxy before it, failed.
    """
    if response.status_code in _NOTHING_THERE:
        raise NotTheService(describe(response))
    try:
        document = response.json()
        if isinstance(error := document.get("error"), Mapping) and isinstance(error["code"], str):
            raise RequestRejected(error["code"], str(error["message"]), response.status_code)
        _check(document, response.request.headers)
        return Answer(
            tuple(
                Prediction(row["class_id"], row["label"], row["probability"], row.get("logit"))
                for row in document["predictions"]
            ),
            document["recognized"],
            _model(document["model"]),
            tuple(_explanation(row) for row in document.get("explanations", ())),
            tuple(document["crop"]) if "crop" in document else None,
            _embedding(document["embedding"]) if "embedding" in document else (),
            document.get("unknown_score"),
        )
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        if response.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
            raise _too_large(response) from error
        failed = response.status_code >= httpx.codes.INTERNAL_SERVER_ERROR
        if failed or response.status_code == httpx.codes.REQUEST_TIMEOUT:
            raise ServiceError(describe(response)) from error
        raise NotTheService(describe(response)) from error


def _check(document: Mapping[str, Any], asked: Mapping[str, str]) -> None:
    """Raises: NotTheService if the answer lacks what the request's headers ask for."""
    for header, name, found in (
        ("X-Embedding", "embedding", "embedding" in document),
        ("X-Logits", "logits", "logit" in document["predictions"][0]),
    ):
        if header in asked and not found:
            raise NotTheService(
                f"the answer has no {name}: the service is older than this client, or a proxy before it drops the "
                f"header {header}"
            )


def _model(facts: Mapping[str, Any]) -> Model:
    return Model(
        facts["name"],
        facts["version"],
        facts["weights"],
        facts["precision"],
        calibrated=facts.get("calibrated", False),
    )


def read_card(response: httpx.Response) -> dict[str, Any]:
    """Read the model card in a response.

    Raises: NotTheService if something else answered.
    """
    try:
        card = response.json()
        if response.is_success and "architecture" in card:
            return dict(card)
    except (ValueError, TypeError):
        pass
    raise NotTheService(describe(response))


def _embedding(text: str) -> tuple[float, ...]:
    return struct.unpack(f"<{WIDTH}f", base64.b64decode(text, validate=True))


def _explanation(row: Mapping[str, Any]) -> Explanation:
    return Explanation(
        class_id=row["class_id"],
        label=row["label"],
        probability=row["probability"],
        logit=row["logit"],
        bias=row["bias"],
        map=tuple(tuple(line) for line in row["map"]),
        overlay=base64.b64decode(row["overlay"]) if "overlay" in row else None,
        picture=base64.b64decode(row["picture"]) if "picture" in row else None,
    )


def describe(response: httpx.Response) -> str:
    """Describe an unexpected response in one line."""
    text = " ".join(response.text[:_EXCERPT].split())
    if response.has_redirect_location:
        text = f"a redirect to {response.headers['Location']}"
    return f"{response.url} answered {response.status_code} with an unexpected response: {text}"


def is_unauthorized(response: httpx.Response) -> bool:
    """Return whether TorchServe or a proxy reports that the token is missing, wrong or expired."""
    if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return True
    return response.status_code == httpx.codes.BAD_REQUEST and _INVALID_KEY in response.text[:_EXCERPT]


def _too_large(response: httpx.Response) -> RequestRejected:
    # TorchServe sends 413 without a body, and a proxy sends its own page, so the message is written here.
    size = int(response.request.headers["Content-Length"]) / 2**20
    message = f"{size:.1f} MiB exceed the service's limit (max_request_size); send a smaller or compressed image"
    return RequestRejected("request_too_large", message, response.status_code)
