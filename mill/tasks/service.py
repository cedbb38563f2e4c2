"""The tasks of this node: spawn, list, wait, kill, and adoption at start. What the API calls; what owns the nursery of lives.

Order of a spawn: checks that touch nothing, the ledger (instant), the row (committed), the coroutine, the answer. Knows
nothing of HTTP or containerd.
"""

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

import attrs
import structlog
import trio

from mill.containerd import reference
from mill.errors import Conflict, MillError, NotFound, Unavailable
from mill.model import (
    Deadline,
    Draft,
    Duration,
    Keyed,
    Kill,
    PullPolicy,
    Record,
    Resources,
    SpawnRequest,
    Spec,
    Stats,
    Status,
    Task,
    Usage,
)
from mill.tasks.drafts import Choice, finish, lay_out, new_id
from mill.tasks.filter import Filter, Page, Position
from mill.tasks.keyed import check_same
from mill.tasks.ledger import Ledger
from mill.tasks.lifecycle import SIGKILL, World
from mill.tasks.orders import Identity, Order, Withdrawn, first_task
from mill.tasks.ports import Others, Records, Room
from mill.tasks.supervision import Supervisor
from mill.tasks.table import LiveTask, OnCommit, Table, tell_nobody

START_PATIENCE_S = 2.0
"""What starts under way may still take while milld leaves."""

RECORD_PATIENCE_S = 1.0
"""How long a kill waits for its wish to be stored before it is acted on. Usual: 1 ms."""

AHEAD = 2
"""Checkpoints before a spawn answers: what waited for the row goes on first, for the answer takes a millisecond to make."""

WITHDRAWN = "milld (placed elsewhere)"
"""By whom a task was killed whose order was withdrawn."""

_STARTING = frozenset({Status.PULLING, Status.STARTING})

log = structlog.get_logger()


@attrs.define(eq=False)
class Tasks:
    """The node's tasks. Every method is safe to cancel."""

    _me: Identity
    _store: Records
    _world: World
    _choice: Choice
    _nursery: trio.Nursery
    _room: Room
    _supervisor: Supervisor
    ledger: Ledger
    table: Table
    draining: bool = False
    """No new task is let in."""
    others: Others | None = None
    """Of other nodes; None for a node that is alone."""
    withdrawn: Withdrawn = attrs.field(factory=Withdrawn, init=False)
    _turns: "WeakValueDictionary[str, trio.Lock]" = attrs.field(factory=WeakValueDictionary, init=False)
    """Of each idempotency key that is being used now: spawns that come with it at once make one task."""

    async def spawn(
        self, request: SpawnRequest, templates: Mapping[str, Draft], key: Keyed | None = None
    ) -> Record:
        """A new task's record, committed; of a *key* that is known, its task's as it is now.

        `FieldError`, `NoCapacity`, `NoSpace`, `Unavailable`, or `Conflict` of the key: then nothing was made.
        """
        draft, template = lay_out(request, templates)
        return await self.admit(Order(draft, self._world.clock.now(), template, key))

    async def admit(self, order: Order) -> Record:
        """As `spawn`, of what is laid out already. An order that comes twice is one task; `Conflict`, too, of one withdrawn."""
        if order.keyed is None:
            return await self._take(order)
        async with self._turns.setdefault(order.keyed.key, trio.Lock()):
            known = await self.keyed(order.keyed)
            return await self._take(order) if known is None else known

    async def keyed(self, key: Keyed) -> Record | None:
        """The task that *key* made before, as it is now, be it of this node or of another; `Conflict`."""
        known = await self._store.keyed(key.key, self._world.clock.now())
        if known is None:
            return None
        check_same(known, key)
        live = self.table.get(known.id)
        return known if live is None else live.record

    def withdraw(self, task_id: str) -> None:
        """The order of that id does not count: whatever it has made ends, and if it is still to come it is refused."""
        self.withdrawn.add(task_id)
        live = self.table.get(task_id)
        if live is not None:
            self._end_withdrawn(live)

    def _end_withdrawn(self, live: LiveTask) -> None:
        kill = Kill(WITHDRAWN, self._world.clock.now(), Duration(0.0), SIGKILL)
        live.wish_kill(kill)
        self._nursery.start_soon(live.record_kill, trio.Event())
        live.request_kill(kill, trio.current_time())

    async def _take(self, order: Order) -> Record:
        spec = finish(order.draft, allow_mounts=self._me.allow_mounts)
        if order.task_id is not None and (known := await self._ordered(order.task_id)) is not None:
            return known
        asked = Resources(spec.cpu, spec.memory)
        self.ledger.check_ever_fits(asked)
        if self.draining:
            raise Unavailable(
                f"node {self._me.name} is being drained: it takes no new task until 'mill nodes undrain'"
            )
        self._room.check(sum(live.task.record.status in _STARTING for live in self.table))
        task_id = order.task_id or self._choose_id(spec)
        self.ledger.reserve(task_id, asked)
        try:
            spec = self._world.mesh.reserve(task_id, spec)
            image = None if _asks_anew(spec) else await self._world.runtime.find_image(spec)
        except BaseException:
            self._release(task_id)
            raise
        first = partial(self._first, order, spec=spec, is_here=image is not None)
        live = await self._begin(task_id, first, image, renamed=order.task_id is None)
        if live.id in self.withdrawn:
            self._end_withdrawn(live)
        if image is not None:
            for _ in range(AHEAD):
                await trio.lowlevel.cancel_shielded_checkpoint()
        return live.record

    async def _ordered(self, task_id: str) -> Record | None:
        """What an order of that id has made already; `Conflict` where it is none to carry out."""
        if task_id in self.withdrawn:
            raise Conflict(f"the order of {task_id} was withdrawn")
        if task_id in self.ledger.reservations and self.table.get(task_id) is None:
            raise Conflict(f"the order of {task_id} is being carried out already")
        try:
            known = await self.get(task_id)
        except NotFound:
            return None
        if known.node_id != self._me.node_id:
            raise Conflict(f"{task_id} is a task of node {known.node}")
        return known

    def _choose_id(self, spec: Spec) -> str:
        """One that no task has now; one that the runtime has prepared something for, if it can be."""

        def taken(task_id: str) -> bool:
            return task_id in self.ledger.reservations or self.table.get(task_id) is not None

        ready = self._world.runtime.ready_id(spec)
        return new_id(spec.name, self._choice, taken) if ready is None or taken(ready) else ready

    async def _begin(
        self, task_id: str, first: Callable[[str], Task], image: Any | None, *, renamed: bool
    ) -> LiveTask:
        """Its row, committed while what needs no row is begun.

        Its reservation goes with it to another id, if it may be *renamed*, or goes if there is no row.
        """
        while True:
            live = self.table.draft(first(task_id), image)
            if image is not None:
                self._nursery.start_soon(self._supervisor.supervise, live, False)
            try:
                await self._store.insert(live.task)
            except BaseException as error:
                await self._undo(live)
                if not (renamed and isinstance(error, Conflict)):
                    self._release(task_id)
                    raise
                # an ended task still has that id
                other = new_id(live.record.spec.name, self._choice, self.ledger.reservations.__contains__)
                self.ledger.adopt(other, self.ledger.reservations[task_id])
                self.ledger.release(task_id)
                self._world.mesh.rename(task_id, other)
                task_id = other
            else:
                self.table.keep(live)
                if image is None:
                    self._nursery.start_soon(self._supervisor.supervise, live, False)
                return live

    def _first(self, order: Order, task_id: str, *, spec: Spec, is_here: bool) -> Task:
        clock, status = self._world.clock, Status.STARTING if is_here else Status.PULLING
        pull_by = Deadline(clock.boot_id, clock.boottime() + spec.pull_timeout)
        return first_task(order, task_id, spec, status, self._me, clock.now(), pull_by)

    async def _undo(self, live: LiveTask) -> None:
        """Nothing is left of what was begun, before its reservation goes."""
        live.settle(unrecorded=True)
        if live.image is not None:
            with trio.CancelScope(shield=True):
                await live.gone.wait()

    def _release(self, task_id: str) -> None:
        self.ledger.release(task_id)
        self._world.mesh.release(task_id)

    async def get(self, task_id: str) -> Record:
        """The record, with live figures where it runs; `NotFound`."""
        live = self.table.get(task_id)
        if live is not None:
            return live.record
        task = await self._store.get(task_id)
        if task is None:
            raise NotFound(
                f"no task {task_id[:80]!r} is known here; it may have ended longer ago than records are kept"
            )
        return task.record if self.others is None else self.others.shown(task.record)

    async def wait(self, task_id: str, condition: str, timeout_s: float) -> Record:
        """The record once it is ``running`` (or past it) or ``terminal``, or as it stands after *timeout_s*."""
        with trio.move_on_after(timeout_s):
            while (live := self.table.get(task_id)) is not None:
                status = live.record.status
                if status.terminal or (condition == "running" and status is Status.RUNNING):
                    break
                await live.wait_change()
            while self.others is not None:
                record = await self.get(task_id)
                if record.status.terminal or (condition == "running" and record.status is Status.RUNNING):
                    return record
                await self.others.wait_change()
        return await self.get(task_id)

    def usage(self) -> Mapping[str, Usage]:
        """What this node's running tasks use now."""
        return self._world.runtime.usage()

    def live(self, wanted: Filter) -> list[Record]:
        """The tasks that have not ended, newest first, with what they use now."""
        usage = self.usage()
        records = [attrs.evolve(live.record, usage=usage.get(live.id)) for live in self.table]
        records += [] if self.others is None else self.others.live()
        found = [record for record in records if not record.status.terminal and wanted.accepts(record)]
        return sorted(found, key=lambda record: (record.times.created, record.id), reverse=True)

    async def page(self, wanted: Filter, after: Position | None, limit: int) -> Page:
        """All records that match, ended ones too, newest first, after (created, id) *after*.

        A row may be a moment ahead of what its commit has told: such a task is shown as everybody else sees it yet.
        """
        usage = self.usage()
        page = await self._store.page(wanted, after, limit)
        shown = (lambda row: row) if self.others is None else self.others.shown
        told = [live.record if (live := self.table.get(row.id)) else shown(row) for row in page.records]
        used = [
            attrs.evolve(record, usage=usage[record.id]) if record.id in usage else record for record in told
        ]
        return Page([record for record in used if wanted.accepts(record)], page.next)

    async def kill(self, task_id: str, by: str, *, signal: int | None, grace: Duration | None) -> Record:
        """Wish the task's end, durably; a second wish may hurry the first. No effect on a task that has ended.

        A wish that cannot be stored at once (a full disk, a locked database) is acted on all the same.
        """
        live = self.table.get(task_id)
        if live is None:
            return await self.get(task_id)
        patience = (
            Duration(0.0) if signal == SIGKILL else grace if grace is not None else live.record.spec.grace
        )
        kill = Kill(by=by, at=self._world.clock.now(), grace=patience, signal=signal)
        live.wish_kill(kill)
        recorded = trio.Event()
        self._nursery.start_soon(live.record_kill, recorded)
        try:
            with trio.move_on_after(RECORD_PATIENCE_S):
                await recorded.wait()
        finally:
            live.request_kill(kill, trio.current_time())
        return live.record

    def images(self) -> list[tuple[str, str]]:
        """(id, image as its spec says) of every live task."""
        return [(live.id, live.task.record.spec.image) for live in self.table]

    async def longest_ended(self, after: tuple[float, str] | None, limit: int) -> list[tuple[float, str]]:
        """(time of its end, id) of up to *limit* tasks that have ended, the longest-ended first, behind *after*."""
        return await self._store.longest_ended(after, limit)

    async def expired(self, retention_s: float, limit: int) -> list[str]:
        """Up to *limit* tasks that ended at least *retention_s* ago and are cleaned up after."""
        clock = self._world.clock
        found = await self._store.expired(
            clock.now() - retention_s, limit, boot_id=clock.boot_id, at_s=clock.boottime() - retention_s
        )
        return [task_id for task_id in found if self.table.get(task_id) is None]

    async def known(self, among: Collection[str]) -> set[str]:
        """Those of the ids *among* that there is a row of."""
        return await self._store.known(among)

    async def forget(self, task_id: str) -> None:
        """The record of a task that has ended goes: from now on its id is unknown."""
        await self._store.delete(task_id)

    def stats(self, task_id: str) -> Stats | None:
        """Figures of a running task now; None when it does not run."""
        return self._world.runtime.stats(task_id)

    async def adopt_all(self) -> None:
        """Go on with what an earlier milld left, and remove what no record knows."""
        tasks = await self._store.live()
        for task in tasks:
            self.ledger.adopt(task.record.id, Resources(task.record.spec.cpu, task.record.spec.memory))
            self._world.mesh.adopt(task.record.id, task.record.spec)
            live = self.table.add(task)
            if task.owned.kill is not None:
                live.kill_scope.cancel()
            self._nursery.start_soon(self._supervisor.supervise, live, True)
        if tasks:
            log.info("adopted tasks", count=len(tasks))
        unread = await self._store.ids(live=True) - {task.record.id for task in tasks}
        self._nursery.start_soon(self._sweep, unread)

    async def _sweep(self, unread: set[str]) -> None:
        """Remove what no record knows; what belongs to a record that only a newer Mill can read is left alone."""
        known = lambda task_id: task_id in unread or task_id in self.ledger.reservations  # noqa: E731
        try:
            removed = await self._world.runtime.sweep(known)
        except (MillError, OSError) as error:
            log.warning("leftovers could not be removed; the next start tries again", why=str(error))
            return
        for task_id in removed:
            task = await self._store.get(task_id)
            if task is not None and task.record.status.terminal and task.record.times.cleaned is None:
                await self._supervisor.note_cleaned(LiveTask(task, self._store))
        if removed:
            log.info("removed leftovers of tasks that no record knows", count=len(removed), ids=removed[:10])


def _asks_anew(spec: Spec) -> bool:
    """Whether the registry is to be asked although the image may be here. What a digest means it cannot change."""
    return spec.pull is PullPolicy.ALWAYS and reference.parse(spec.image).digest is None


async def serve(
    me: Identity,
    capacity: Resources,
    store: Records,
    world: World,
    choice: Choice,
    *,
    room: Room,
    on_commit: OnCommit = tell_nobody,
    task_status: trio.TaskStatus[Tasks],
) -> None:
    """Own the lives of this node's tasks until cancelled; then let half-done starts finish and leave containers alone."""
    table = Table(store, on_commit)
    async with trio.open_nursery() as nursery:
        ledger = Ledger(capacity)
        supervisor = Supervisor(world, ledger, table)
        tasks = Tasks(me, store, world, choice, nursery, room, supervisor, ledger, table)
        await tasks.adopt_all()
        try:
            task_status.started(tasks)
            await trio.sleep_forever()
        finally:
            until = trio.current_time() + START_PATIENCE_S
            for live in table:
                live.hurry_start(until)
