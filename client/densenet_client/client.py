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
from densenet_client.errors import NotThere, Refused, ServiceError, Unauthorized
from densenet_client.exchange import DEFAULT_URL, Exchange
from densenet_client.images import Source, prepare

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
        self._exchange = Exchange(url, token=token, timeout=timeout, retries=retries, parallel=parallel, verify=verify)
        # Nothing is passed through stamina but functions: it logs arguments, and images and tokens are not for logs.
        self._retrying = stamina.RetryingCaller(attempts=self._exchange.attempts, timeout=None)
        self._opening = Lock()
        self._opened: httpx.Client | None = None

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections."""
        if self._opened is not None:
            self._opened.close()

    def classify(self, image: Source, *, top_k: int | None = None, min_probability: float | None = None) -> Answer:
        """What is on an image: the path of a file, its bytes, or a Pillow picture, which is sent without any loss.

        top_k: classes wanted, 1..1000. min_probability: 0..1, below it nothing is recognized. None: as the service
        has it. Raises Refused for an image or option that the service does not accept, ServiceError where there is no
        answer, OSError for a file or picture that cannot be read.
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
        """Like classify(), and where on the image classes were seen: the answer's `explanations`.

        target: a class by its id, its position or its name, or up to ten of them; None: the best one. overlays: the
        pictures wanted, "crop", "picture", "both" (None) or "none".
        Raises ValueError where the client's url has no /predictions/ in it, which becomes /explanations/; else as
        classify().
        """
        options = exchange.options(top_k, min_probability) | exchange.explaining_options(target, overlays)
        return self._ask(prepare(image), options, Event(), exchange.explaining(self._exchange.url))

    def classify_many(
        self, images: Iterable[Source], *, top_k: int | None = None, min_probability: float | None = None
    ) -> Generator[Result, None, None]:
        """Like classify() for each image, `parallel` of them at once; what it raises of an image stands in its place.

        Results come in the order of the images, each as soon as it and those before it are known. `images` may be
        endless: it is advanced in the caller's thread, at most 2 × parallel ahead of the results. Closing the
        generator waits for requests under way. Raises NotThere and Unauthorized, which all other images would meet.
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
        """Opened with the first request, of which a missing CA bundle is an error."""
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
    """One image through a Client for the moment; see there, and Client.classify(). For more images keep a Client."""
    with Client(url, token=token, timeout=timeout) as client:
        return client.classify(image, top_k=top_k, min_probability=min_probability)


def _result(future: Future[Answer]) -> Result:
    try:
        return future.result()
    except (NotThere, Unauthorized):
        raise
    except (Refused, ServiceError, OSError) as error:
        return exchange.without_traceback(error)
