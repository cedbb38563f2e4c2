"""What comes over HTTP piece by piece, as an async iterator that outlives broken connections and restarts of milld.

The part that `LogStream` and `EventStream` share: they say what to ask for, from where on, and what the bytes mean.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from mill.client.connection import ByteStream, Connection
from mill.client.patience import Patience
from mill.client.streaming import Streaming
from mill.errors import ConnectionFailed, MillError, ProblemError

T = TypeVar("T")


class Resuming(Streaming, ABC, Generic[T]):
    """Items in their order, each once.

    Leave the loop early inside ``async with``, or the connection stays open until the client is closed.
    """

    def __init__(
        self, connection: Connection, patience: Patience, forget: Callable[["Resuming[Any]"], None]
    ) -> None:
        super().__init__(connection, forget)
        self._patience = patience
        self._ready: deque[T] = deque()

    @abstractmethod
    async def _open(self) -> ByteStream:
        """Ask for what comes behind all that `_decode` has seen."""

    @abstractmethod
    def _decode(self, data: bytes) -> Sequence[T]:
        """The items that *data* completes; raises ValueError and its like when they are none of ours."""

    @abstractmethod
    async def _ended(self) -> None:
        """The body is complete and closed: call `aclose`, ask on, or raise what `_bear` is to bear."""

    async def __anext__(self) -> T:
        while not self._ready:
            if self._over:
                raise StopAsyncIteration
            await self._advance()
        return self._ready.popleft()

    async def next_batch(self) -> list[T]:
        """Every item that is already here, at least one; empty at the end. For those who copy on in bulk."""
        while not self._ready and not self._over:
            await self._advance()
        batch = list(self._ready)
        self._ready.clear()
        return batch

    async def _advance(self) -> None:
        """One step on: some items, or a reconnection, or the end."""
        try:
            if self._body is None:
                self._patience.begin()
                self._body = await self._open()
            data = await self._body.read()
            if data:
                self._take(data)
            else:
                await self._drop_body()
                await self._ended()
        except (ConnectionFailed, ProblemError) as error:
            await self._drop_body()
            await self._bear(error)

    def _take(self, data: bytes) -> None:
        try:
            items = self._decode(data)
        except (ExceptionGroup, LookupError, TypeError, ValueError, AttributeError) as error:
            raise ProblemError(
                200,
                "unreadable answer",
                f"{self._connection.endpoint.url} sent what this client cannot read; does it run another version of milld?",
            ) from error
        if items:
            self._patience.reset()
            self._ready.extend(items)

    async def _bear(self, error: MillError) -> None:
        if not self._connection.reached:
            await self.aclose()
            raise error
        try:
            await self._patience.pause(error)
        except MillError:
            await self.aclose()
            raise
