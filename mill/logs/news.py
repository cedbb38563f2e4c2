"""How followers hear that a task's log has grown or ended. Bridges the capture thread to trio, and costs nothing unheard.

A follower looks at `seen` first, then at the files, and waits only if nothing came since: so no news is lost, and however
many bytes come while it reads, it is woken once.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import attrs
import trio

from mill.logs.index import STREAMS, Stream


class Seen(NamedTuple):
    """How much news there was: of each stream, and of the task as a whole."""

    stdout: int
    stderr: int
    changed: int

    def fresh_since(self, before: "Seen | None") -> tuple[Stream, ...]:
        """The streams that may have more than when *before* was seen."""
        if before is None or before.changed != self.changed:
            return STREAMS
        return tuple(stream for stream in STREAMS if getattr(self, stream) != getattr(before, stream))


@attrs.define(eq=False)
class News:
    """Of one task. The first two are counted by the capture thread only, `changed` by trio's only: none misses a count."""

    users: int = 0
    stdout: int = 0
    stderr: int = 0
    changed: int = 0
    waiting: int = 0
    removed: bool = False
    lot: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot)

    @property
    def seen(self) -> Seen:
        return Seen(self.stdout, self.stderr, self.changed)

    async def wait_newer(self, seen: Seen) -> None:
        """Until there is more news than *seen*."""
        self.waiting += 1  # before the comparison: from here on the capture thread rings
        try:
            while self.seen == seen:
                await self.lot.park()
        finally:
            self.waiting -= 1


class NewsDesk:
    """The news of every task that somebody captures or follows."""

    def __init__(self, token: trio.lowlevel.TrioToken) -> None:
        self._token = token
        self._news: dict[str, News] = {}
        self._rung: deque[News] = deque()

    @contextmanager
    def of(self, task_id: str) -> Iterator[News]:
        """The task's news, for as long as the block lasts."""
        news = self._news.setdefault(task_id, News())
        news.users += 1
        try:
            yield news
        finally:
            news.users -= 1
            if not news.users:
                del self._news[task_id]

    def ring(self, news: News, stream: Stream) -> None:
        """More was captured. For the capture thread; wakes the loop only if somebody waits."""
        if stream == "stdout":
            news.stdout += 1
        else:
            news.stderr += 1
        if news.waiting:
            self._rung.append(news)
            self._token.run_sync_soon(self._wake, idempotent=True)

    def change(self, task_id: str, *, removed: bool = False) -> None:
        """The task's log was opened, ended or removed. For trio's thread."""
        news = self._news.get(task_id)
        if news is not None:
            news.changed += 1
            news.removed = removed
            news.lot.unpark_all()

    def _wake(self) -> None:
        while self._rung:
            self._rung.popleft().lot.unpark_all()
