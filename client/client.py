"""A client of the running service."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

DEFAULT_URL = "http://127.0.0.1:8080/predictions/densenet"


@dataclass(frozen=True)
class Prediction:
    """One class of an answer; probability in 0..1."""

    class_id: str
    label: str
    probability: float


@dataclass(frozen=True)
class Answer:
    """What the service says of one image: classes best first, and whether the best one is likely enough to count."""

    predictions: tuple[Prediction, ...]
    recognized: bool
    weights: str


class ServiceError(Exception):
    """No answer about the image: the service is not there, or failed, or this is not the service."""


class NotThere(ServiceError):
    """Nothing listens at the address."""


class Refused(Exception):
    """The service refused the image; code is one of the stable error codes, the message says what to send instead."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message


def classify(
    image: bytes,
    *,
    url: str = DEFAULT_URL,
    top_k: int | None = None,
    min_probability: float | None = None,
    timeout: float = 60,
) -> Answer:
    """Sends one encoded image. timeout: seconds for each of connecting and waiting.

    Raises Refused for an image or option that is not accepted, ServiceError for everything else.
    """
    options = {"X-Top-K": top_k, "X-Min-Probability": min_probability}
    headers = {name: str(value) for name, value in options.items() if value is not None}
    headers["Content-Type"] = "application/octet-stream"
    try:
        with _session(url) as session:
            response = session.post(url, data=image, headers=headers, timeout=timeout)
    except requests.ConnectionError as error:
        if "NewConnectionError" in repr(error):
            raise NotThere(f"nothing answers at {url}; start the service with scripts/serve") from error
        raise ServiceError(f"the connection to {url} was lost") from error
    except requests.RequestException as error:
        raise ServiceError(f"no answer from {url}: {error}") from error
    if response.status_code == requests.codes.request_entity_too_large and not response.content:
        raise Refused("request_too_large", "the file is larger than the service takes (max_request_size)")
    return _answer(response)


def _session(url: str) -> requests.Session:
    session = requests.Session()
    # A queue that is full now (503), or a connection that was lost, is worth another try; nothing else is.
    retry = Retry(
        total=3, connect=0, status_forcelist=(503,), allowed_methods=None, backoff_factor=0.3, raise_on_status=False
    )
    session.mount("http://", HTTPAdapter(max_retries=retry))
    session.mount("https://", HTTPAdapter(max_retries=retry))
    # No proxy of the environment stands between this machine and itself.
    session.trust_env = urlsplit(url).hostname not in ("127.0.0.1", "localhost", "::1")
    return session


def _answer(response: requests.Response) -> Answer:
    try:
        document = response.json()
        if isinstance(error := document.get("error"), Mapping):
            raise Refused(str(error["code"]), str(error["message"]))
        predictions = tuple(
            Prediction(row["class_id"], row["label"], row["probability"]) for row in document["predictions"]
        )
        return Answer(predictions, document["recognized"], document["model"]["weights"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        text = response.text.strip()[:200]
        raise ServiceError(
            f"{response.url} answered {response.status_code}, not as this service does: {text}"
        ) from error
