"""The client for programs that use asyncio."""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterable, Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx
import stamina

from densenet_client import exchange
from densenet_client.answers import Answer
from densenet_client.client import Result
from densenet_client.embeddings import Collector, Norm
from densenet_client.errors import RequestRejected, ServiceError
from densenet_client.exchange import BaseClient
from densenet_client.images import Source, prepare, prepare_or_defer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class AsyncClient(BaseClient[httpx.AsyncClient, stamina.AsyncRetryingCaller]):
    """Like Client, but asynchronous: the same settings, methods, answers and errors.

    Tasks of one event loop may share it. Use it in an `async with` statement, or close() it.
    """

    _session_type = httpx.AsyncClient
    _caller_type = stamina.AsyncRetryingCaller

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        if self._opened is not None:
            await self._opened.aclose()

    async def classify(
        self,
        image: Source,
        *,
        top_k: int | None = None,
        min_probability: float | None = None,
        embedding: Norm | None = None,
        logits: bool = False,
    ) -> Answer:
        """See Client.classify()."""
        options = exchange.options(top_k, min_probability, embedding=embedding, logits=logits)
        return await self._ask(prepare(image), options)

    async def embed(
        self, images: Iterable[Source] | AsyncIterable[Source], *, norm: Norm = "raw"
    ) -> "NDArray[np.float32]":
        """See Client.embed(). The images may also be an asynchronous iterable."""
        exchange.check_several(images, "put one image into a list")
        rows = Collector()
        async with aclosing(self.classify_many(images, top_k=1, embedding=norm)) as results:
            async for result in results:
                rows.add(result)
        return rows.array()

    async def model_card(self) -> dict[str, Any]:
        """See Client.model_card()."""

        async def send() -> dict[str, Any]:
            with self._sending():
                response = await self._session().get(self._url, headers=exchange.MODEL_CARD)
            return self._read_card(response)

        return await self._retrying(self._again, send)

    async def explain(
        self,
        image: Source,
        *,
        target: str | int | Sequence[str | int] | None = None,
        overlays: str | None = None,
        top_k: int | None = None,
        min_probability: float | None = None,
    ) -> Answer:
        """See Client.explain()."""
        options = exchange.options(top_k, min_probability, target, overlays)
        return await self._ask(prepare(image), options, exchange.explaining(self._url))

    def classify_many(
        self,
        images: Iterable[Source] | AsyncIterable[Source],
        *,
        top_k: int | None = None,
        min_probability: float | None = None,
        embedding: Norm | None = None,
        logits: bool = False,
    ) -> AsyncGenerator[Result, None]:
        """See Client.classify_many().

        The images may also be an asynchronous iterable. Closing the generator cancels requests in flight.
        """
        exchange.check_several(images)
        return self._classify_many(images, exchange.options(top_k, min_probability, embedding=embedding, logits=logits))

    async def _classify_many(
        self, images: Iterable[Source] | AsyncIterable[Source], options: dict[str, str]
    ) -> AsyncGenerator[Result, None]:
        pending: deque[asyncio.Task[Answer]] = deque()
        turns = asyncio.Semaphore(self._parallel)
        try:
            async with aclosing(_each(images)) as each:
                async for image in each:
                    # Prepared now, so that later changes by the caller do not affect the request.
                    pending.append(asyncio.create_task(self._in_turn(turns, prepare_or_defer(image), options)))
                    await asyncio.sleep(0)  # lets other tasks run even if the iterable never waits
                    while pending and (pending[0].done() or len(pending) == 2 * self._parallel):
                        yield await _result(pending.popleft())
            while pending:
                yield await _result(pending.popleft())
        finally:
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)

    async def _in_turn(self, turns: asyncio.Semaphore, encode: Callable[[], bytes], options: dict[str, str]) -> Answer:
        async with turns:
            return await self._ask(encode, options)

    async def _ask(self, encode: Callable[[], bytes], options: dict[str, str], url: str | None = None) -> Answer:
        content = await asyncio.to_thread(encode)  # reads a file or compresses an image
        send = partial(self._send, exchange.body(content, options), url or self._url)
        return await self._retrying(self._again, send)

    async def _send(self, body: exchange.Body, url: str) -> Answer:
        with self._sending():
            response = await self._session().post(url, **body)
        return self._read(response)


async def _each(images: Iterable[Source] | AsyncIterable[Source]) -> AsyncGenerator[Source, None]:
    if isinstance(images, AsyncIterable):
        async for image in images:
            yield image
    else:
        for image in images:
            yield image


async def _result(task: asyncio.Task[Answer]) -> Result:
    try:
        return await task
    except (RequestRejected, ServiceError, OSError) as error:
        return exchange.as_result(error)
