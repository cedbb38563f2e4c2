"""The store of a node in a cluster: what it writes of its own tasks all others hear of, and what they say of theirs is in its table too.

A change of an own task is drafted, committed together with its row, and published at the commit: nobody hears of what could still be
lost. Values of its environment are not in the record, and so stay here. Another's record is committed with the log that it came in (`shown`).
`tasks` takes it for its store; wired by `node`.
"""

import json
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import structlog
import trio

from mill.cluster import entries, rows
from mill.cluster.entries import ENDED, PULLING, RUNNING, STARTING, Entry, View
from mill.cluster.outcomes import Kill, Surfaced
from mill.cluster.records import Backwards, Overtaken
from mill.cluster.replication import NotReady
from mill.convert import to_json
from mill.daemon.bygone import Bygone
from mill.daemon.cluster import Cluster
from mill.daemon.others import Others
from mill.daemon.shown import record_of
from mill.daemon.witnesses import Witnesses
from mill.errors import Interrupted, Unavailable
from mill.model import Record, Status, Task, Time
from mill.store import Store
from mill.tasks import rows as task_rows
from mill.tasks.lifecycle import SIGKILL
from mill.tasks.service import Tasks
from mill.tasks.states import faulted, to_end

PHASES = {Status.PULLING: PULLING, Status.STARTING: STARTING, Status.RUNNING: RUNNING}
BY = "the cluster, which holds this node's earlier tasks for lost"
RETIRE_EVERY_S = 5.0
MOST_PUT_AGAIN = 20
"""Live tasks that are put again at once, so that what has expired before them can go."""
MOST_AT_ONCE = 200
"""Of records in one commit."""

log = structlog.get_logger()


class Replicated:
    """As `tasks.ports.Records`. Reading is the store's own."""

    def __init__(self, store: Store, cluster: Cluster, witnesses: Witnesses) -> None:
        self._store = store
        self._witnesses = witnesses
        self._cluster = cluster
        self._records = cluster.engine.records
        self._expired: set[str] = set()
        self._behind: list[str] = []
        self._forgotten: set[str] = set()
        """Own live tasks that all others have forgotten meanwhile."""
        self._shown = cluster.news.tasks
        self.others = Others(cluster.news.silent_s, cluster.news.address)
        for view in self._records.tasks():
            self._learn(entries.Changed(None, view))
        orders, self._orders = trio.open_memory_channel[Kill | Surfaced](float("inf"))
        news = cluster.news
        news.on[entries.Changed].append(self._learn)
        for kind in (Kill, Surfaced):
            news.on[kind].append(orders.send_nowait)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def is_partial(self) -> bool:
        return self._cluster.engine.partial

    def has_ended(self, task_id: str) -> bool:
        """Whether its end, or a verdict on it, is known here."""
        view = self._records.lookup(task_id)
        return view is not None and view.terminal

    # -- own tasks --------------------------------------------------------------------------------------------------

    async def insert(self, task: Task) -> None:
        await self._write(task, self._store.insert)

    async def put(self, task: Task) -> None:
        await self._write(task, self._store.put)

    async def amend(self, task: Task) -> None:
        await self._write(task, self._store.amend)

    async def delete(self, task_id: str) -> None:
        await self._store.delete(task_id)
        self._expired.add(task_id)

    async def _write(self, task: Task, write: Callable[..., Any]) -> None:
        """The row as all see it, and the owner's word beside it. What all others have forgotten goes as it ends."""
        if task.record.id in self._forgotten and self._records.lookup(task.record.id) is None:
            await self._store.delete(task.record.id)
            return
        entry = self._draft(task.record)
        if entry is None:
            await write(task)
            return
        shown = attrs.evolve(task, record=self._judged(task.record, entry))
        overtaken: list[Entry] = []
        with self._witnesses.of(entry):
            await write(shown, rows.write(entry), then=partial(self._publish, entry, overtaken))
            if overtaken:
                await self._put_again([task.record])

    def _draft(self, record: Record) -> Entry | None:
        """None: the log knows that it went further."""
        phase = PHASES.get(record.status, ENDED)
        try:
            return self._cluster.gossip.draft(record.id, phase, _payload(record))
        except NotReady as error:
            raise Unavailable(str(error)) from None
        except Backwards as error:
            log.warning("the cluster knows more of a task than this node", task=record.id, why=str(error))
            return None

    def _publish(self, entry: Entry, overtaken: list[Entry], *, told: bool = True) -> None:
        try:
            self._cluster.gossip.publish(entry, told=told)
        except Overtaken:
            overtaken.append(entry)
        else:
            self._witnesses.publish(entry)

    async def _put_again(self, records: list[Record], *, told: bool = True) -> None:
        """What is committed already, at a new place of the log."""
        for first in range(0, len(records), MOST_AT_ONCE):
            drafts = map(self._draft, records[first : first + MOST_AT_ONCE])
            made = [entry for entry in drafts if entry is not None]

            def publish(made: list[Entry] = made) -> None:
                for entry in made:
                    self._publish(entry, [], told=told)

            await self._store.keep([rows.write(entry) for entry in made], synced=False, then=publish)

    def _judged(self, record: Record, entry: Entry) -> Record:
        view = self._records.lookup(record.id)
        verdict = None if view is None or view.entry.owner != entry.owner else view.verdict
        return self._shown.of(record, View(entry, verdict))

    # -- what comes from others -------------------------------------------------------------------------------------

    def _learn(self, changed: entries.Changed) -> None:
        view = changed.after or changed.before
        if view is None:
            return
        if view.entry.owner == self._cluster.me:
            if changed.after is None and not view.entry.terminal:
                self._forgotten.add(view.entry.task)
            return
        there = changed.after is not None and not view.terminal
        self.others.learn(view.entry.task, record_of(view.entry) if there else None)

    # -- the start, and what has to be done from time to time -------------------------------------------------------

    async def catch_up(self) -> None:
        """Own rows that the log does not know, or not so: from before there was a cluster, or from a time without it. Live tasks
        are put into it at once, ended ones, of which there may be many, by `serve`.
        """
        own = {view.entry.task: view for view in self._records.tasks(self._cluster.me)}
        for task_id, text in await self._store.rows(task_rows.MINE):
            view = own.pop(task_id, None)
            if view is None or not (view.lost or view.entry.payload == text.encode()):
                self._behind.append(task_id)
        live = await self._store.ids(live=True)
        await self._put_rows([task_id for task_id in self._behind if task_id in live])
        self._behind = [task_id for task_id in self._behind if task_id not in live]
        self._expired |= {unknown for unknown, view in own.items() if view.entry.terminal}
        for unknown, view in own.items():
            if not view.entry.terminal:
                log.warning("this node's disk does not know a task that others know of it", task=unknown)
                await self._interrupt(view.entry)

    async def _put_rows(self, ids: list[str]) -> None:
        """Those that are still as they were: what has changed since is in the log already."""
        for first in range(0, len(ids), MOST_AT_ONCE):
            found = [await self._store.get(task_id) for task_id in ids[first : first + MOST_AT_ONCE]]
            await self._put_again([task.record for task in found if task is not None], told=False)

    async def serve(self, tasks: Tasks, kept_s: float, *, task_status: trio.TaskStatus[None]) -> None:
        """Do what the cluster wants of this node's tasks, until cancelled. *kept_s*: for how long records are kept."""
        for view in list(self._records.tasks(self._cluster.me)):
            if view.lost and not view.entry.terminal:
                await self._kill(tasks, view.entry.task)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._retire)
            nursery.start_soon(self._put_rows, self._behind)
            nursery.start_soon(Bygone(self._cluster, self._shown, kept_s).serve)
            task_status.started()
            async for order in self._orders:
                if isinstance(order, Kill):
                    await self._kill(tasks, order.task)
                elif tasks.table.get(order.entry.task) is None:
                    await self._interrupt(order.entry)

    async def _kill(self, tasks: Tasks, task_id: str) -> None:
        if tasks.table.get(task_id) is not None:
            log.warning("ending a task that the cluster holds for lost", task=task_id)
            await tasks.kill(task_id, BY, signal=SIGKILL, grace=None)

    async def _interrupt(self, entry: Entry) -> None:
        record = record_of(entry)
        if record is not None and not record.status.terminal:
            now = Time(self._cluster.wall())
            end = faulted(Interrupted("its node's disk went back to a time before it"), now)
            await self.put(Task(to_end(record, end, now)))

    async def _retire(self) -> None:
        """Own tasks that are forgotten here go everywhere, as soon as nothing older is left."""
        gossip = self._cluster.gossip
        while True:
            await trio.sleep(RETIRE_EVERY_S)
            if not self._expired:
                continue
            live = self._records.hindering(self._expired)[:MOST_PUT_AGAIN]
            await self._put_again([record for view in live if (record := record_of(view.entry)) is not None])
            gossip.do(lambda now: gossip.engine.retire(self._expired, now))
            self._expired &= {view.entry.task for view in self._records.tasks(self._cluster.me)}


def _payload(record: Record) -> bytes:
    return json.dumps(to_json(record)).encode()
