"""A client of the running service."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any, TypeAlias

import httpx
import stamina

from densenet_client import exchange
from densenet_client.answers import Answer
from densenet_client.embeddings import Collector, Norm
from densenet_client.errors import RequestRejected, ServiceError
from densenet_client.exchange import DEFAULT_URL, BaseClient
from densenet_client.images import Source, prepare, prepare_or_defer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Result: TypeAlias = Answer | RequestRejected | ServiceError | OSError
"""The result for one of several images."""


class Client(BaseClient[httpx.Client, stamina.RetryingCaller]):
    """A client of the service at one URL. Connections are kept open, and threads may share a client.

    Use it in a `with` statement, or close() it.

    url: address that receives images. token: sent as `Authorization: Bearer`. timeout: seconds, for connecting and for
    waiting for an answer. retries: further attempts after a full queue (503), a rate limit (429) or a lost connection.
    parallel: maximum number of concurrent requests. verify: whether to verify certificates, or the path of a CA bundle.

    Raises: ValueError for a setting out of its range.
    """

    _session_type = httpx.Client
    _caller_type = stamina.RetryingCaller

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        if self._opened is not None:
            self._opened.close()

    def classify(
        self,
        image: Source,
        *,
        top_k: int | None = None,
        min_probability: float | None = None,
        embedding: Norm | None = None,
        logits: bool = False,
    ) -> Answer:
        """Classify an image: the path of a file, its bytes, or a Pillow image, which is sent losslessly.

        top_k: number of classes, 1..1000. min_probability: threshold of `recognized`, 0..1. None: the service's
        default. embedding: "raw" or "l2" to get the answer's `embedding`, too. logits: whether predictions have theirs.

        Raises: RequestRejected for an image or option that the service rejects; ServiceError without an answer;
        OSError for a file or image that cannot be read.
        """
        options = exchange.options(top_k, min_probability, embedding=embedding, logits=logits)
        return self._ask(prepare(image), options, Event())

    def embed(self, images: Iterable[Source], *, norm: Norm = "raw") -> "NDArray[np.float32]":
        """Return the embeddings of many images, float32 (N, 1024), a row each.

        norm: "raw", or "l2" for rows of length 1, whose products are cosines. To go on after a bad image, use
        classify_many() with `embedding`.

        Raises: the errors of classify(), for the first image that has one; ImportError without numpy.
        """
        exchange.check_several(images, "put one image into a list")
        rows = Collector()
        with closing(self.classify_many(images, top_k=1, embedding=norm)) as results:
            for result in results:
                rows.add(result)
        return rows.array()

    def model_card(self) -> dict[str, Any]:
        """Return the model card: architecture, weights, precision, input, classes, and what was measured with it.

        Raises: ServiceError without an answer.
        """

        def send() -> dict[str, Any]:
            with self._sending():
                response = self._session().get(self._url, headers=exchange.MODEL_CARD)
            return self._read_card(response)

        return self._retrying(self._again, send)

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
        options = exchange.options(top_k, min_probability, target, overlays)
        return self._ask(prepare(image), options, Event(), exchange.explaining(self._url))

    def classify_many(
        self,
        images: Iterable[Source],
        *,
        top_k: int | None = None,
        min_probability: float | None = None,
        embedding: Norm | None = None,
        logits: bool = False,
    ) -> Generator[Result, None, None]:
        """Classify many images, `parallel` at a time. An error of one image takes the place of its answer.

        Results come in the order of the images, each as soon as all previous ones are known. `images` may be endless:
        it advances in the caller's thread, at most 2 × parallel images ahead of the results. Closing the generator
        waits for requests in flight.

        Raises: ServiceUnavailable, Unauthorized and NotTheService, because they would affect all other images.
        """
        exchange.check_several(images)
        return self._classify_many(images, exchange.options(top_k, min_probability, embedding=embedding, logits=logits))

    def _classify_many(self, images: Iterable[Source], options: dict[str, str]) -> Generator[Result, None, None]:
        stopped = Event()
        pending: deque[Future[Answer]] = deque()
        parallel = self._parallel
        with ThreadPoolExecutor(parallel, "classify") as pool:
            try:
                for image in images:
                    # Prepared now, so that later changes by the caller do not affect the request.
                    pending.append(pool.submit(self._ask, prepare_or_defer(image), options, stopped))
                    while pending and (pending[0].done() or len(pending) == 2 * parallel):
                        yield _result(pending.popleft())
                while pending:
                    yield _result(pending.popleft())
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
                stopped.set()

    def _ask(
        self, encode: Callable[[], bytes], options: dict[str, str], stopped: Event, url: str | None = None
    ) -> Answer:
        def again(error: Exception) -> bool | float:
            return not stopped.is_set() and self._again(error)

        return self._retrying(again, partial(self._send, exchange.body(encode(), options), url or self._url))

    def _send(self, body: exchange.Body, url: str) -> Answer:
        with self._sending():
            response = self._session().post(url, **body)
        return self._read(response)


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
    except (RequestRejected, ServiceError, OSError) as error:
        return exchange.as_result(error)
