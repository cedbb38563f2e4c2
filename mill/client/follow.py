"""The log of a task as an async iterator that outlives broken connections and restarts of milld. Called by `Client.logs`.

It asks again from the cursor of the last line it decoded, so that none is lost or doubled.
"""

from collections.abc import Callable, Sequence
from typing import Any

import attrs

from mill.client import calls
from mill.client.connection import ByteStream, Connection, ConnectionBroke
from mill.client.lines import Decoder, LogLine, LogQuery
from mill.client.patience import Patience
from mill.client.problems import from_object
from mill.client.resuming import Resuming
from mill.errors import MillError, NotFound

NDJSON = "application/x-ndjson"
END_POLL_S = 0.5
"""After a follow that ended: how long the question for the task's end waits. The end is published right after the log's, and
if it is not, lines may be coming that somebody wants to see."""


class LogStream(Resuming[LogLine]):
    """Lines in their order. A follow ends when the task has ended and all it wrote was delivered.

    Leave the loop early inside ``async with``, or the connection stays open until the client is closed.
    """

    def __init__(
        self,
        connection: Connection,
        task_id: str,
        query: LogQuery,
        patience: Patience,
        forget: Callable[[Resuming[Any]], None],
    ) -> None:
        super().__init__(connection, patience, forget)
        self._task_id = task_id
        self._query = query
        self._decoder = Decoder()
        self._ending = False

    def __repr__(self) -> str:
        return f"<LogStream of {self._task_id}: {self._state()}, cursor {self._query.cursor}>"

    async def _open(self) -> ByteStream:
        self._decoder = Decoder()
        path, params = calls.logs_path(self._task_id), self._query.params()
        thinks_s = None if self._query.follow else 0.0
        return await self._connection.stream(path, params, NDJSON, thinks_s=thinks_s)

    def _decode(self, data: bytes) -> Sequence[LogLine]:
        lines = self._decoder.feed(data)
        if lines:
            self._patience.reset()
            self._query = attrs.evolve(self._query, cursor=lines[-1].cursor)
        return [line for line in lines if line.data or line.dropped_bytes]

    async def _ended(self) -> None:
        """The body is complete. Of a follow that says little: milld may be leaving while the task goes on.

        Once the task is known to have ended, one last read that follows nothing gets what came in between.
        """
        if self._decoder.fault is not None:
            raise from_object(self._decoder.fault, int(self._decoder.fault["status"]))
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
        await super()._bear(error)
