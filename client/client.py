"""A client of the running service."""

import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Event
from typing import Self, TypeAlias, TypedDict
from urllib.parse import urlsplit, urlunsplit

import requests
import stamina
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from urllib3.exceptions import HTTPError, MaxRetryError, NewConnectionError, ProtocolError, ReadTimeoutError

from client import answers
from client.answers import Answer
from client.errors import NotThere, Refused, ServiceError, Unauthorized, Unavailable
from client.images import Source, prepare

DEFAULT_URL = "http://127.0.0.1:8080/predictions/densenet"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_OCTETS = "application/octet-stream"

Result: TypeAlias = Answer | Refused | ServiceError | OSError
"""What became of one image of many."""


class Client:
    """The service at one address, over connections that are kept open. Threads may share a client.

    Use it in a `with` statement, or close() it.

    url: where images are sent. token: sent as `Authorization: Bearer`. timeout: seconds, for each of connecting and
    waiting for an answer. retries: further tries of a request that met a full queue (503), came too soon (429) or lost
    its connection. parallel: requests at once, at most. verify: whether a certificate is checked, or the path of a CA
    bundle.
    Raises ValueError for any of them out of its range.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        token: str | None = None,
        timeout: float = 60,
        retries: int = 3,
        parallel: int = 4,
        verify: bool | str = True,
    ) -> None:
        _check(url, token, timeout=timeout, retries=retries, parallel=parallel)
        self._url = url
        self._token = token
        self._timeout = timeout
        self._parallel = parallel
        self._verify = verify
        # Nothing is passed through stamina but functions: it logs arguments, and images and tokens are not for logs.
        self._retrying = stamina.RetryingCaller(attempts=retries + 1, timeout=None)
        self._session = _session(url, token, parallel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        self._session.close()

    def classify(self, image: Source, *, top_k: int | None = None, min_probability: float | None = None) -> Answer:
        """What is on an image: the path of a file, its bytes, or a Pillow picture, which is sent without any loss.

        top_k: classes wanted, 1..1000. min_probability: 0..1, below it nothing is recognized. None: as the service
        has it. Raises Refused for an image or option that the service does not accept, ServiceError where there is no
        answer, OSError for a file or picture that cannot be read.
        """
        return self._ask(prepare(image), _options(top_k, min_probability), Event())

    def explain(
        self,
        image: Source,
        *,
        target: str | int | Sequence[str | int] | None = None,
        overlays: str | None = None,
        top_k: int | None = None,
        min_probability: float | None = None,
    ) -> Answer:
        """Like classify(), and where on the image classes were seen: the answer's `explanations`.

        target: a class by its id, its position or its name, or up to ten of them; None: the best one. overlays: the
        pictures wanted, "crop", "picture", "both" (None) or "none".
        Raises ValueError where the client's url has no /predictions/ in it, which becomes /explanations/; else as
        classify().
        """
        chosen = {"X-Target": _target(target), "X-Overlays": overlays}
        options = _options(top_k, min_probability) | {
            name: value for name, value in chosen.items() if value is not None
        }
        return self._ask(prepare(image), options, Event(), _explaining(self._url))

    def classify_many(
        self, images: Iterable[Source], *, top_k: int | None = None, min_probability: float | None = None
    ) -> Generator[Result, None, None]:
        """Like classify() for each image, `parallel` of them at once; what it raises of an image stands in its place.

        Results come in the order of the images, each as soon as it and those before it are known. `images` may be
        endless: it is advanced in the caller's thread, at most 2 × parallel ahead of the results. Closing the
        generator waits for requests under way. Raises NotThere and Unauthorized, which all other images would meet.
        """
        if isinstance(images, str | bytes | bytearray | memoryview):
            raise TypeError("several images are wanted, such as a list of paths; classify() takes one")
        return self._classify_many(images, _options(top_k, min_probability))

    def _classify_many(self, images: Iterable[Source], options: dict[str, str]) -> Generator[Result, None, None]:
        stopped = Event()
        pending: deque[Future[Answer]] = deque()
        with ThreadPoolExecutor(self._parallel, "classify") as pool:
            try:
                for image in images:
                    pending.append(self._submit(pool, image, options, stopped))
                    while pending and (pending[0].done() or len(pending) == 2 * self._parallel):
                        yield _result(pending.popleft())
                while pending:
                    yield _result(pending.popleft())
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
                stopped.set()

    def _submit(
        self, pool: ThreadPoolExecutor, image: Source, options: dict[str, str], stopped: Event
    ) -> Future[Answer]:
        try:
            return pool.submit(self._ask, prepare(image), options, stopped)
        except OSError as error:
            failed: Future[Answer] = Future()
            failed.set_exception(error)
            return failed

    def _ask(
        self, encode: Callable[[], bytes], options: dict[str, str], stopped: Event, url: str | None = None
    ) -> Answer:
        return self._retrying(partial(self._again, stopped), partial(self._request, encode(), options, url))

    def _again(self, stopped: Event, error: Exception) -> bool | float:
        """Whether to try again, or in how many seconds; without a number stamina backs off exponentially, jittered."""
        if not isinstance(error, Unavailable) or stopped.is_set():
            return False
        return True if error.retry_after is None else min(error.retry_after, self._timeout)

    def _request(self, content: bytes, options: dict[str, str], url: str | None) -> Answer:
        try:
            # The session's own `verify` would lose to the environment's; a redirect would turn POST into GET.
            response = self._session.post(
                url or self._url,
                **_parts(content, options),
                timeout=self._timeout,
                verify=self._verify,
                allow_redirects=False,
            )
        except (OSError, HTTPError) as error:  # requests' own are OSErrors; a missing CA bundle is a plain one
            raise self._failure(error) from error
        if response.status_code in (requests.codes.service_unavailable, requests.codes.too_many_requests):
            raise Unavailable(answers.describe(response), _retry_after(response))
        if answers.is_unauthorized(response):
            raise Unauthorized(self._token_wanted())
        return answers.read(response)

    def _failure(self, error: Exception) -> ServiceError:
        """What it means that there is no response."""
        cause = error.args[0] if error.args else None
        if isinstance(cause, MaxRetryError) and isinstance(cause.reason, NewConnectionError):
            return NotThere(f"nothing answers at {self._url}; start the service with scripts/serve")
        if isinstance(error, requests.ConnectTimeout):
            return ServiceError(f"no connection to {self._url} within {self._timeout:g} seconds")
        if isinstance(error, requests.Timeout) or _is_timeout(cause):
            return ServiceError(f"no answer from {self._url} within {self._timeout:g} seconds")
        if isinstance(cause, ProtocolError):
            return Unavailable(f"the connection to {self._url} was lost")
        return ServiceError(f"no answer from {self._url}: {error}")

    def _token_wanted(self) -> str:
        if self._token is None:
            return f"{self._url} asks for a token: give one, such as the inference key of TorchServe's key_file.json"
        return f"{self._url} does not accept the token: it is wrong or has expired; give the current one"


def classify(
    image: Source,
    *,
    url: str = DEFAULT_URL,
    top_k: int | None = None,
    min_probability: float | None = None,
    token: str | None = None,
    timeout: float = 60,
) -> Answer:
    """One image through a Client for the moment; see there, and Client.classify(). For more images keep a Client."""
    with Client(url, token=token, timeout=timeout) as client:
        return client.classify(image, top_k=top_k, min_probability=min_probability)


class _Bearer(AuthBase):
    """The token. As `auth` it is not replaced by a password that ~/.netrc has for the host, as a plain header is."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def _check(url: str, token: str | None, *, timeout: float, retries: int, parallel: int) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"url must be an address such as {DEFAULT_URL}, not {url!r}")
    if token is not None and not (token and token.isascii() and token.isprintable()):
        raise ValueError("token must be of printable ASCII characters; this one is empty, or has a line break or worse")
    if not 0 < timeout < math.inf:
        raise ValueError(f"timeout must be a number of seconds above 0, not {timeout!r}")
    for name, value, least in (("retries", retries, 0), ("parallel", parallel, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, not {value!r}")


def _session(url: str, token: str | None, parallel: int) -> requests.Session:
    session = requests.Session()
    # More threads than connections take turns, instead of opening and throwing away connections.
    adapter = HTTPAdapter(pool_connections=1, pool_maxsize=parallel, pool_block=True)
    for scheme in ("http://", "https://"):
        session.mount(scheme, adapter)
    if token is not None:
        session.auth = _Bearer(token)
    # No proxy of the environment stands between this machine and itself.
    session.trust_env = urlsplit(url).hostname not in _LOOPBACK
    return session


def _options(top_k: int | None, min_probability: float | None) -> dict[str, str]:
    options = {"X-Top-K": top_k, "X-Min-Probability": min_probability}
    return {name: str(value) for name, value in options.items() if value is not None}


def _target(target: str | int | Sequence[str | int] | None) -> str | None:
    if target is None:
        return None
    return ",".join(map(str, [target] if isinstance(target, str | int) else target))


class _Parts(TypedDict, total=False):
    """Arguments of requests: the image and what goes with it."""

    data: bytes | dict[str, str]
    files: dict[str, tuple[str, bytes, str]]
    headers: dict[str, str]


def _parts(content: bytes, options: dict[str, str]) -> _Parts:
    """The image as the body and options as headers; a form, if no header can hold one of them, such as 고양이."""
    fields = {name: value for name, value in options.items() if not (value.isascii() and value.isprintable())}
    headers = {name: value for name, value in options.items() if name not in fields}
    if not fields:
        return {"data": content, "headers": headers | {"Content-Type": _OCTETS}}
    named = {name.removeprefix("X-").replace("-", "_").lower(): value for name, value in fields.items()}
    return {"data": named, "files": {"file": ("image", content, _OCTETS)}, "headers": headers}


def _explaining(url: str) -> str:
    parts = urlsplit(url)
    if "/predictions/" not in parts.path:
        raise ValueError(f"explain() needs an address with /predictions/ in it, such as {DEFAULT_URL}, not {url!r}")
    return urlunsplit(parts._replace(path=parts.path.replace("/predictions/", "/explanations/", 1)))


def _result(future: Future[Answer]) -> Result:
    try:
        return future.result()
    except (NotThere, Unauthorized):
        raise
    except (Refused, ServiceError, OSError) as error:
        # A list of results must not keep the images alive, which tracebacks and requests' own errors hold.
        error.__cause__ = error.__context__ = error.__traceback__ = None
        return error


def _is_timeout(cause: object) -> bool:
    """Time-outs that requests does not call so: in the middle of a body, received or sent."""
    sending = isinstance(cause, ProtocolError) and any(isinstance(detail, TimeoutError) for detail in cause.args)
    return sending or isinstance(cause, ReadTimeoutError)


def _retry_after(response: requests.Response) -> float | None:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else None  # a date, the other form, would need clocks that agree
