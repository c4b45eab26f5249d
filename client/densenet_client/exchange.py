"""The code that both clients share: building requests and interpreting responses. Each client only sends them."""

import math
import os
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, Generic, TypedDict, TypeVar
from urllib.parse import urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

import httpx
import stamina

from densenet_client import answers
from densenet_client.answers import Answer
from densenet_client.embeddings import Norm
from densenet_client.errors import NotTheService, ServiceError, ServiceUnavailable, Unauthorized, Unavailable

DEFAULT_URL = "http://127.0.0.1:8080/predictions/densenet"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_OCTETS = "application/octet-stream"
MODEL_CARD = {"Accept": "application/vnd.densenet.model-card+json"}  # the headers of a request for the model card
_LOST = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError, httpx.CloseError)
_Error = TypeVar("_Error", bound=Exception)
_Session = TypeVar("_Session", httpx.Client, httpx.AsyncClient)
_Caller = TypeVar("_Caller", stamina.RetryingCaller, stamina.AsyncRetryingCaller)


class Body(TypedDict, total=False):
    """Arguments of httpx's post()."""

    content: bytes
    data: dict[str, str]
    files: dict[str, tuple[str, bytes, str]]
    headers: dict[str, str]


class BaseClient(Generic[_Session, _Caller]):
    """The settings of a client, described at Client, its connections, and the interpretation of its responses.

    Subclasses name httpx's class of their session and stamina's class that repeats their requests.
    """

    _session_type: type[_Session]
    _caller_type: type[_Caller]

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
        self._parallel = parallel
        self._token = token
        self._timeout = timeout
        self._verify = verify
        # Proxies set in the environment do not apply to loopback addresses.
        self._trusts_environment = urlsplit(url).hostname not in _LOOPBACK
        # stamina logs arguments, and logs must not contain images or tokens, so it gets only functions.
        self._retrying: _Caller = self._caller_type(attempts=retries + 1, timeout=None)
        self._opening = Lock()
        self._opened: _Session | None = None

    def _session(self) -> _Session:
        """Open the session with the first request, so that a missing CA bundle is an error of that request.

        Raises: ServiceError for unreadable certificates or an unusable proxy in the environment.
        """
        with self._opening:
            if self._opened is None:
                try:
                    self._opened = self._session_type(**self._settings())
                except (ImportError, ValueError) as error:
                    raise ServiceError(f"no answer from {self._url}: {error}") from error
            return self._opened

    def _settings(self) -> dict[str, Any]:
        return {
            "verify": self._certificates(),
            "trust_env": self._trusts_environment,
            # Waiting for a free connection has no timeout, and connections stay open until the service closes them.
            "timeout": httpx.Timeout(self._timeout, pool=None),
            "limits": httpx.Limits(
                max_connections=self._parallel, max_keepalive_connections=self._parallel, keepalive_expiry=None
            ),
            "headers": {} if self._token is None else {"Authorization": f"Bearer {self._token}"},
            "follow_redirects": False,  # a redirect would turn POST into GET
        }

    def _certificates(self) -> ssl.SSLContext | bool:
        encrypted = urlsplit(self._url).scheme == "https" or self._trusts_environment  # a proxy may use https, too
        if not (self._verify and encrypted):
            return False
        bundle = self._verify if isinstance(self._verify, str) else None
        if bundle is None and self._trusts_environment:
            bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
        try:
            if bundle is None:
                return httpx.create_ssl_context(trust_env=self._trusts_environment)
            if Path(bundle).is_dir():
                return ssl.create_default_context(capath=bundle)
            return ssl.create_default_context(cafile=bundle)
        except OSError as error:
            where = bundle or "SSL_CERT_FILE or SSL_CERT_DIR"
            raise ServiceError(f"cannot read the certificates of {where}: {error.strerror or error}") from error

    def _again(self, error: Exception) -> bool | float:
        """Return whether to retry, or the seconds to wait. For True, stamina uses exponential backoff with jitter."""
        if not isinstance(error, Unavailable):
            return False
        return True if error.retry_after is None else min(error.retry_after, self._timeout)

    def _read(self, response: httpx.Response) -> Answer:
        """Read the answer in a response.

        Raises: RequestRejected and ServiceError.
        """
        self._check(response)
        return answers.read(response)

    def _read_card(self, response: httpx.Response) -> dict[str, Any]:
        """Read the model card in a response.

        Raises: ServiceError.
        """
        self._check(response)
        return answers.read_card(response)

    def _check(self, response: httpx.Response) -> None:
        """Raises: Unavailable and Unauthorized."""
        if response.status_code in (httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.TOO_MANY_REQUESTS):
            raise Unavailable(answers.describe(response), _retry_after(response))
        if answers.is_unauthorized(response):
            raise Unauthorized(self._token_message())

    @contextmanager
    def _sending(self) -> Iterator[None]:
        """Convert httpx's errors for a request without a response.

        Raises: ServiceError.
        """
        try:
            yield
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> ServiceError:
        if isinstance(error, httpx.ConnectTimeout):
            return ServiceError(f"no connection to {self._url} within {self._timeout:g} seconds")
        if isinstance(error, httpx.TimeoutException):
            return ServiceError(f"no answer from {self._url} within {self._timeout:g} seconds")
        if isinstance(error, httpx.ConnectError) and not _is_of_tls(error):
            if proxy := self._proxy():
                return ServiceError(f"no answer from {self._url}: cannot connect to proxy {proxy}: {error}")
            return ServiceUnavailable(f"nothing answers at {self._url}; start the service with scripts/serve")
        if isinstance(error, _LOST):
            return Unavailable(f"the connection to {self._url} was lost")
        return ServiceError(f"no answer from {self._url}: {error}")

    def _proxy(self) -> str | None:
        """Return the environment's proxy for the service, without the credentials in its URL."""
        parts = urlsplit(self._url)
        if not self._trusts_environment or proxy_bypass(parts.netloc):
            return None
        proxies = getproxies()
        proxy = proxies.get(parts.scheme) or proxies.get("all")
        return proxy and proxy.rpartition("@")[2]

    def _token_message(self) -> str:
        if self._token is None:
            return f"{self._url} requires a token; give one, such as the inference key of TorchServe's key_file.json"
        return f"{self._url} rejects the token, which is wrong or expired; give the current one"


def options(
    top_k: int | None,
    min_probability: float | None,
    target: str | int | Sequence[str | int] | None = None,
    overlays: str | None = None,
    embedding: Norm | None = None,
    *,
    logits: bool = False,
) -> dict[str, str]:
    """Return the given options of classify() or explain() as headers."""
    chosen = {
        "X-Top-K": top_k,
        "X-Min-Probability": min_probability,
        "X-Target": _target(target),
        "X-Overlays": overlays,
        "X-Logits": "true" if logits else None,
        "X-Embedding": embedding and "base64",
        "X-Embedding-Norm": embedding,
    }
    return {name: str(value) for name, value in chosen.items() if value is not None}


def _target(target: str | int | Sequence[str | int] | None) -> str | None:
    if target is None:
        return None
    return ",".join(map(str, [target] if isinstance(target, str | int) else target))


def body(content: bytes, options: dict[str, str]) -> Body:
    """Build the request: the image as body and options as headers, or a form for non-ASCII values such as 고양이."""
    fields = {name: value for name, value in options.items() if not (value.isascii() and value.isprintable())}
    headers = {name: value for name, value in options.items() if name not in fields}
    if not fields:
        return {"content": content, "headers": headers | {"Content-Type": _OCTETS}}
    named = {name.removeprefix("X-").replace("-", "_").lower(): value for name, value in fields.items()}
    return {"data": named, "files": {"file": ("image", content, _OCTETS)}, "headers": headers}


def explaining(url: str) -> str:
    """Return the URL of explanations for the URL of predictions.

    Raises: ValueError if the URL does not contain /predictions/.
    """
    parts = urlsplit(url)
    if "/predictions/" not in parts.path:
        raise ValueError(f"explain() needs a url with /predictions/, such as {DEFAULT_URL}, not {url!r}")
    return urlunsplit(parts._replace(path=parts.path.replace("/predictions/", "/explanations/", 1)))


def as_result(error: _Error) -> _Error:
    """Return an image's error without traceback and causes, which would keep the image in a list of results.

    Raises: ServiceUnavailable, Unauthorized and NotTheService, because they would affect all other images.
    """
    if isinstance(error, ServiceUnavailable | Unauthorized | NotTheService):
        raise error
    error.__cause__ = error.__context__ = error.__traceback__ = None
    return error


def check_several(images: object, for_one: str = "use classify() for one image") -> None:
    """Check that the argument is not a single image.

    Raises: TypeError if it is.
    """
    if isinstance(images, str | bytes | bytearray | memoryview):
        raise TypeError(f"this method needs several images, such as a list of paths; {for_one}")


def _check(url: str, token: str | None, *, timeout: float, retries: int, parallel: int) -> None:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"url must be an address such as {DEFAULT_URL}, not {url!r}")
    if token is not None and not (token and token.isascii() and token.isprintable()):
        raise ValueError("token must be printable ASCII and not empty; check it for line breaks and other characters")
    if not 0 < timeout < math.inf:
        raise ValueError(f"timeout must be a number of seconds above 0, not {timeout!r}")
    for name, value, minimum in (("retries", retries, 0), ("parallel", parallel, 1)):
        if value < minimum:
            raise ValueError(f"{name} must be at least {minimum}, not {value!r}")


def _is_of_tls(error: BaseException) -> bool:
    """Return whether TLS failed on an established connection; httpx uses the same error for both."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _retry_after(response: httpx.Response) -> float | None:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else None  # dates are ignored, because they need synchronized clocks
