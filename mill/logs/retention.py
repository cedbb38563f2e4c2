"""The log store's limits in bytes and in time: what goes first, and when. Run by the daemon beside the store.

Over the limit the oldest segments of the longest-ended tasks go first, then the oldest ones of running tasks; readers are
told what is missing. So long after its end, a task's logs go, and its record right after them. Who has ended, the daemon
tells (`Ended`): logs know nothing of records.
"""

import math
from collections.abc import Awaitable, Callable, Collection
from typing import Protocol

import attrs
import structlog
import trio

from mill.errors import NodeError
from mill.logs.store import Logs

BATCH = 200
"""Ended tasks asked for at once."""
LOOK_S, LEAST_LOOK_S = 30.0, 0.1
"""Between two looks for tasks whose time is over; a shorter retention is looked after more often."""
AGAIN_S = 1.0
"""While the newest segments of running tasks alone are over the limit: one may have ended."""
RETRY_S = 1.0
"""After something could not be removed."""
RECOUNT_S = 3600.0
"""Between two looks at the whole directory, which set the count of bytes right."""
ORPHANS_KEPT_S = 600.0
"""Logs without a record are kept so long at least: a task's record comes before its first byte, but a clock may err."""

log = structlog.get_logger()


class Ended(Protocol):
    """The tasks that have ended, as their records tell."""

    async def longest_ended(self, after: tuple[float, str] | None, limit: int) -> list[tuple[float, str]]:
        """(unix seconds of its end, id) of up to *limit* tasks, the longest-ended first, after that one."""

    async def expired(self, retention_s: float, limit: int) -> list[str]:
        """Up to *limit* tasks that ended at least *retention_s* ago."""

    async def known(self, among: Collection[str]) -> Collection[str]:
        """Those of the tasks *among* that there is a record of."""

    async def forget(self, task_id: str) -> None:
        """Its record is to go; its logs are gone."""


@attrs.define(eq=False)
class Retention:
    """Both limits over one store."""

    _logs: Logs
    _ended: Ended
    _retention_s: float
    _emptied: tuple[float, str] | None = None
    """Tasks up to this one have no segment any more: they need not be looked at again."""

    async def keep_small(self) -> None:
        """As soon as the store is over its limit, drop what comes first."""
        with trio.move_on_after(AGAIN_S if self._logs.budget.over_bytes > 0 else math.inf):
            await self._logs.wait_over()
        try:
            await self._drop_ended()
            await self._logs.drop_running(self._logs.budget.over_bytes)
        finally:
            self._logs.resume()

    async def _drop_ended(self) -> None:
        """Ends when all is well, or no task that has ended has a segment left."""
        while self._logs.budget.over_bytes > 0:
            batch = await self._ended.longest_ended(self._emptied, BATCH)
            for ended, task_id in batch:
                await self._logs.drop_ended(task_id, self._logs.budget.over_bytes)
                if self._logs.budget.over_bytes <= 0:
                    return
                self._emptied = ended, task_id
            if not batch:
                return

    async def keep_fresh(self) -> None:
        """A task's logs go when its time is over, and then its record."""
        while expired := await self._ended.expired(self._retention_s, BATCH):
            for task_id in expired:
                await self._logs.remove(task_id)
                await self._ended.forget(task_id)
        await trio.sleep(min(LOOK_S, max(LEAST_LOOK_S, self._retention_s / 4)))

    async def keep_count(self) -> None:
        """Count what is there, without what no record knows; and look at all that has ended again.

        Else, the wall clock set back, tasks that end now would count as emptied.
        """
        self._emptied = None
        await self._logs.remove_orphans(self._ended.known, max(ORPHANS_KEPT_S, self._retention_s))
        await self._logs.recount()
        await trio.sleep(RECOUNT_S)


async def _for_ever(keep: Callable[[], Awaitable[None]]) -> None:
    """What cannot be removed now (a disk that is full or read-only, a locked database) is tried again."""
    complained = False
    while True:
        try:
            await keep()
            complained = False
        except (NodeError, OSError) as error:
            if not complained:
                log.warning("old logs and records cannot be removed yet; trying on", why=str(error))
                complained = True
            await trio.sleep(RETRY_S)


async def serve(
    logs: Logs, ended: Ended, *, max_bytes: int, retention_s: float, task_status: trio.TaskStatus[Retention]
) -> None:
    """Keep both limits until cancelled."""
    logs.budget.max_bytes = max_bytes
    retention = Retention(logs, ended, retention_s)
    async with trio.open_nursery() as nursery:
        for keep in (retention.keep_small, retention.keep_fresh, retention.keep_count):
            nursery.start_soon(_for_ever, keep)
        task_status.started(retention)
