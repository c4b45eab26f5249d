"""What the service says of one image, and how it is read from HTTP."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import httpx

from densenet_client.errors import Refused, ServiceError

_EXCERPT = 200  # characters of a foreign answer that are shown
_INVALID_KEY = "InvalidKeyException"  # TorchServe's word for every kind of wrong token, with status 400


@dataclass(frozen=True)
class Prediction:
    """One class of an answer: its WordNet synset (or the id that the model's class index has), its name, which need
    not be unique, and its probability in 0..1."""

    class_id: str
    label: str
    probability: float


@dataclass(frozen=True)
class Model:
    """The model that answered. weights: "imagenet", a file's name, or "untrained": then the answer means nothing."""

    name: str
    version: str
    weights: str
    precision: str


@dataclass(frozen=True)
class Explanation:
    """Where one class was seen on an image.

    map: what speaks for the class, or against it, at 7 × 7 places of the crop that the network saw, rows from the top,
    in units of logits; its mean and the bias are the logit, of which the probability is the softmax.
    overlay: a PNG of the crop with the map laid over it; picture: the same of the whole upright picture. None where
    they were not asked for.
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
    """What the service says of one image: the sequence of its predictions, best first.

    recognized: whether the best one is at least as likely as min_probability; if not, "none of these".
    explanations: of the classes asked for, where that was asked, and crop: left, top, right and bottom of what the
    network saw, in fractions of the upright picture's width and height.
    """

    predictions: tuple[Prediction, ...]
    recognized: bool
    model: Model
    explanations: tuple[Explanation, ...] = ()
    crop: tuple[float, ...] | None = None

    def __len__(self) -> int:
        return len(self.predictions)

    @overload
    def __getitem__(self, index: int) -> Prediction: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Prediction, ...]: ...
    def __getitem__(self, index: int | slice) -> Prediction | tuple[Prediction, ...]:
        return self.predictions[index]


def read(response: httpx.Response) -> Answer:
    """The answer of the service. Raises Refused, or ServiceError where these are not the service's words."""
    try:
        document = response.json()
        if isinstance(error := document.get("error"), Mapping):
            raise Refused(str(error["code"]), str(error["message"]), response.status_code)
        model = document["model"]
        return Answer(
            tuple(Prediction(row["class_id"], row["label"], row["probability"]) for row in document["predictions"]),
            document["recognized"],
            Model(model["name"], model["version"], model["weights"], model["precision"]),
            tuple(_explanation(row) for row in document.get("explanations", ())),
            tuple(document["crop"]) if "crop" in document else None,
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if response.status_code == httpx.codes.REQUEST_ENTITY_TOO_LARGE:
            raise _too_large(response) from error
        raise ServiceError(describe(response)) from error


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
    """An answer that is not the service's, in one line."""
    text = " ".join(response.text[:_EXCERPT].split())
    return f"{response.url} answered {response.status_code}, not as this service does: {text}"


def is_unauthorized(response: httpx.Response) -> bool:
    """Whether the token is missing, wrong or expired: TorchServe's answer, or a proxy's."""
    if response.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return True
    return response.status_code == httpx.codes.BAD_REQUEST and _INVALID_KEY in response.text[:_EXCERPT]


def _too_large(response: httpx.Response) -> Refused:
    # TorchServe says so without a body, a proxy with a page of its own.
    size = int(response.request.headers["Content-Length"]) / 2**20
    message = f"{size:.1f} MiB are more than the service takes (max_request_size); send a smaller or compressed image"
    return Refused("request_too_large", message, response.status_code)
