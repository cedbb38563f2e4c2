"""The real store without its threads: the same SQL on the same files, in trio's own time, and a milld that dies at its work.

A thread looks idle to a clock that jumps, so the writer is a task here, which takes `WRITE_S` for a commit, and reads are
done where they are asked for. Everything else is `mill.store` itself.
"""

import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any, TypeVar, cast

import attrs
import trio

from mill import store as store_module
from mill.store import Store

T = TypeVar("T")

WRITE_S = 0.2
"""A slow disk: whatever can go wrong before or after a commit has time to."""


@attrs.define(eq=False)
class Writer:
    """Stands where the store has its queue and its writer thread."""

    _connection: sqlite3.Connection
    _waiting: list[Any] = attrs.field(factory=list)
    _batch: list[Any] = attrs.field(factory=list)
    _news: trio.Event = attrs.field(factory=trio.Event)

    def qsize(self) -> int:
        return len(self._waiting)

    def put(self, job: Any | None) -> None:
        """None: the store leaves, and what was asked for is still committed."""
        if job is None:
            self.commit()
        else:
            self._waiting.append(job)
            self._news.set()

    def commit(self) -> None:
        self._batch, self._waiting = self._waiting, []
        if self._batch:
            store_module._commit(self._connection, self._batch)

    def die(self, *, committed: bool) -> None:
        """Nobody is told of what was committed just now; what waits still is, or never will be."""
        untold = [*self._batch, *self._waiting]
        if committed:
            self.commit()
        self._waiting = []
        for job in untold:
            if not job.done.is_set():
                job.error = sqlite3.OperationalError("milld has died")
        store_module._tell(untold, 0)

    async def serve(self) -> None:
        while True:
            await self._news.wait()
            self._news = trio.Event()
            await trio.sleep(WRITE_S)
            self.commit()


class InlineStore(Store):
    """As `Store`."""

    writer: Writer

    async def _read_as(
        self, make: Callable[[list[Any]], T], sql: str, params: Sequence[Any] | Mapping[str, Any]
    ) -> T:
        await trio.lowlevel.checkpoint()
        return make(self._reader.execute(sql, params).fetchall())

    def die(self, *, committed: bool) -> None:
        """Milld does, at this moment. *committed*: what waited to be written just was, and nobody knows."""
        self.writer.die(committed=committed)
        self.leave()


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[InlineStore]:
    """The store of that file for the length of the block."""
    connection, reader = store_module._open_both(path)
    with closing(connection), closing(reader):
        writer = Writer(connection)
        store = InlineStore(path, reader, cast("Any", writer))
        store.writer = writer
        async with trio.open_nursery() as nursery:
            nursery.start_soon(writer.serve)
            try:
                yield store
            finally:
                store.leave()
                nursery.cancel_scope.cancel()
