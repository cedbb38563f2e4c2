"""The log of a task as an async iterator that outlives broken connections and restarts of milld. Called by `Client.logs`.

It asks again from the cursor of the last line it decoded, so that none is lost or doubled.
"""

from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

import attrs

from mill.client import calls
from mill.client.connection import ByteStream, Connection, ConnectionBroke
from mill.client.lines import Decoder, LogLine, LogQuery
from mill.client.patience import Patience
from mill.errors import ConnectionFailed, MillError, NotFound, ProblemError

NDJSON = "application/x-ndjson"
END_POLL_S = 0.5
"""After a follow that ended: how long the question for the task's end waits. The end is published right after the log's, and
if it is not, lines may be coming that somebody wants to see."""


class LogStream:
    """Lines in their order. A follow ends when the task has ended and all it wrote was delivered.

    Leave the loop early inside ``async with``, or the connection stays open until the client is closed.
    """

    def __init__(
        self,
        connection: Connection,
        task_id: str,
        query: LogQuery,
        patience: Patience,
        forget: Callable[["LogStream"], None],
    ) -> None:
        self._connection = connection
        self._task_id = task_id
        self._query = query
        self._patience = patience
        self._forget = forget
        self._ready: deque[LogLine] = deque()
        self._body: ByteStream | None = None
        self._decoder = Decoder()
        self._ending = False
        self._over = False

    def __repr__(self) -> str:
        state = "over" if self._over else "open" if self._body else "to be opened"
        return f"<LogStream of {self._task_id}: {state}, cursor {self._query.cursor}>"

    def __aiter__(self) -> "LogStream":
        return self

    async def __anext__(self) -> LogLine:
        while not self._ready:
            if self._over:
                raise StopAsyncIteration
            await self._advance()
        return self._ready.popleft()

    async def next_batch(self) -> list[LogLine]:
        """Every line that is already here, at least one; empty at the end. For those who copy logs on in bulk."""
        while not self._ready and not self._over:
            await self._advance()
        batch = list(self._ready)
        self._ready.clear()
        return batch

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        self._over = True
        self._forget(self)
        await self._drop_body()

    async def _advance(self) -> None:
        """One step on: some lines, or a reconnection, or the end."""
        try:
            if self._body is None:
                self._patience.begin()
                self._body = await self._connection.stream(calls.logs(self._task_id, self._query), NDJSON)
            data = await self._body.read()
            if data:
                self._take(data)
            else:
                await self._ended()
        except (ConnectionFailed, ProblemError) as error:
            await self._drop_body()
            await self._bear(error)

    def _take(self, data: bytes) -> None:
        try:
            lines = self._decoder.feed(data)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise ProblemError(
                200, "unreadable answer", f"{self._connection.endpoint.url} sent a log that is no NDJSON"
            ) from error
        if lines:
            self._patience.reset()
            self._query = attrs.evolve(self._query, cursor=lines[-1].cursor)
            self._ready.extend(line for line in lines if line.data or line.dropped_bytes)

    async def _ended(self) -> None:
        """The body is complete. Of a follow that says little: milld may be leaving while the task goes on.

        Once the task is known to have ended, one last read that follows nothing gets what came in between.
        """
        await self._drop_body()
        if not self._query.follow:
            await self.aclose()
            return
        self._ending = True
        call = calls.wait(self._task_id, "terminal", END_POLL_S)
        record = self._connection.decode(call, await self._connection.ask(call))
        if record.status.terminal:
            self._query = attrs.evolve(self._query, follow=False)
        else:
            self._ending = False
            url = self._connection.endpoint.url
            raise ConnectionBroke(f"milld at {url} ended the log of a task that still runs")

    async def _bear(self, error: MillError) -> None:
        if self._ending and isinstance(error, NotFound):  # retention was quicker: nothing is left to read
            await self.aclose()
            return
        if not self._connection.reached:
            await self.aclose()
            raise error
        try:
            await self._patience.pause(error)
        except MillError:
            await self.aclose()
            raise

    async def _drop_body(self) -> None:
        body, self._body = self._body, None
        self._decoder = Decoder()
        if body is not None:
            await body.aclose()
