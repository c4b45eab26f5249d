"""A client of the running service."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Event, Lock
from typing import TypeAlias

import httpx
import stamina

from densenet_client import exchange
from densenet_client.answers import Answer
from densenet_client.errors import RequestRejected, ServiceError, ServiceUnavailable, Unauthorized
from densenet_client.exchange import DEFAULT_URL, Exchange
from densenet_client.images import Source, prepare

Result: TypeAlias = Answer | RequestRejected | ServiceError | OSError
"""The result for one of several images."""


class Client:
    """A client of the service at one URL. Connections are kept open, and threads may share a client.

    Use it in a `with` statement, or close() it.

    url: address that receives images. token: sent as `Authorization: Bearer`. timeout: seconds, for connecting and for
    waiting for an answer. retries: further attempts after a full queue (503), a rate limit (429) or a lost connection.
    parallel: maximum number of concurrent requests. verify: whether to verify certificates, or the path of a CA bundle.

    Raises: ValueError for a setting out of its range.
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
        self._exchange = Exchange(url, token=token, timeout=timeout, retries=retries, parallel=parallel, verify=verify)
        # stamina logs arguments, and logs must not contain images or tokens, so it gets only functions.
        self._retrying = stamina.RetryingCaller(attempts=self._exchange.attempts, timeout=None)
        self._opening = Lock()
        self._opened: httpx.Client | None = None

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        if self._opened is not None:
            self._opened.close()

    def classify(self, image: Source, *, top_k: int | None = None, min_probability: float | None = None) -> Answer:
        """Classify an image: the path of a file, its bytes, or a Pillow image, which is sent losslessly.

        top_k: number of classes, 1..1000. min_probability: threshold of `recognized`, 0..1. None: the service's
        default.

        Raises: RequestRejected for an image or option that the service rejects; ServiceError without an answer;
        OSError for a file or image that cannot be read.
        """
        return self._ask(prepare(image), exchange.options(top_k, min_probability), Event())

    def explain(
        self,
        image: Source,
        *,
        target: str | int | Sequence[str | int] | None = None,
        overlays: str | None = None,
        top_k: int | None = None,
        min_probability: float | None = None,
    ) -> Answer:
        """Classify an image and explain classes by maps of evidence in the answer's `explanations`.

        target: a class by id, position or name, or up to ten of them; None: the best class. overlays: the overlays to
        return: "crop", "picture", "both" (None) or "none".

        Raises: ValueError if the client's url lacks /predictions/, which becomes /explanations/; otherwise the same
        errors as classify().
        """
        options = exchange.options(top_k, min_probability) | exchange.explaining_options(target, overlays)
        return self._ask(prepare(image), options, Event(), exchange.explaining(self._exchange.url))

    def classify_many(
        self, images: Iterable[Source], *, top_k: int | None = None, min_probability: float | None = None
    ) -> Generator[Result, None, None]:
        """Classify many images, `parallel` at a time. An error of one image takes the place of its answer.

        Results come in the order of the images, each as soon as all previous ones are known. `images` may be endless:
        it advances in the caller's thread, at most 2 × parallel images ahead of the results. Closing the generator
        waits for requests in flight.

        Raises: ServiceUnavailable and Unauthorized, because they would affect all other images.
        """
        exchange.check_several(images)
        return self._classify_many(images, exchange.options(top_k, min_probability))

    def _classify_many(self, images: Iterable[Source], options: dict[str, str]) -> Generator[Result, None, None]:
        stopped = Event()
        pending: deque[Future[Answer]] = deque()
        parallel = self._exchange.parallel
        with ThreadPoolExecutor(parallel, "classify") as pool:
            try:
                for image in images:
                    pending.append(self._submit(pool, image, options, stopped))
                    while pending and (pending[0].done() or len(pending) == 2 * parallel):
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
        def again(error: Exception) -> bool | float:
            return not stopped.is_set() and self._exchange.again(error)

        return self._retrying(again, partial(self._send, exchange.body(encode(), options), url or self._exchange.url))

    def _send(self, body: exchange.Body, url: str) -> Answer:
        try:
            response = self._session().post(url, **body)
        except exchange.NO_RESPONSE as error:
            raise self._exchange.failure(error) from error
        return self._exchange.read(response)

    def _session(self) -> httpx.Client:
        """Open the session with the first request, so that a missing CA bundle is an error of that request."""
        with self._opening:
            if self._opened is None:
                self._opened = self._exchange.open(httpx.Client)
            return self._opened


def classify(
    image: Source,
    *,
    url: str = DEFAULT_URL,
    top_k: int | None = None,
    min_probability: float | None = None,
    token: str | None = None,
    timeout: float = 60,
) -> Answer:
    """Classify one image with a temporary Client; see Client.classify(). For several images keep a Client."""
    with Client(url, token=token, timeout=timeout) as client:
        return client.classify(image, top_k=top_k, min_probability=min_probability)


def _result(future: Future[Answer]) -> Result:
    try:
        return future.result()
    except (ServiceUnavailable, Unauthorized):
        raise
    except (RequestRejected, ServiceError, OSError) as error:
        return exchange.without_traceback(error)
