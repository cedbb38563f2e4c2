"""The tasks that live on this node, in memory, each as it was last committed; and who waits for a change.

Nobody can see a state before its commit: `LiveTask.commit` writes, then publishes. The lifecycle changes tasks through it,
the service reads. Knows the store, not containers.
"""

from collections.abc import Callable, Iterator
from typing import Any

import attrs
import structlog
import trio

from mill.errors import MillError, NoSpace, Unavailable
from mill.model import Deadline, Kill, PullProgress, Record, Status, Task
from mill.tasks.marks import Marks
from mill.tasks.ports import Records

OnCommit = Callable[[Record, Record], None]
"""Told of every commit, at once and in order: the public record before it and after it."""
RETRY_COMMIT_S = 1.0
"""Pause between tries to store a fact while the disk is full; the fact stays in memory."""

log = structlog.get_logger()


def tell_nobody(before: Record, after: Record) -> None:
    """For a table that nobody listens to."""


class Unrecorded(MillError):
    """A task whose row could not be made: its spawn fails, and nobody has heard of it."""


@attrs.define(eq=False)
class LiveTask:
    """One task and the scopes that end it.

    `kill_scope` ends the task; any other cancellation means that milld is leaving. `start_scope` is open, and shielded from
    milld's leaving, while a container is being started: half a start is worse than a second's patience. `grace_scope` is
    open while a signal is given time to work, so that a second kill can hurry it.
    """

    task: Task
    _store: Records
    _on_commit: OnCommit = tell_nobody
    _wish: Kill | None = None
    kill_scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    start_scope: trio.CancelScope | None = None
    grace_scope: trio.CancelScope | None = None
    progress: PullProgress | None = None
    marks: Marks = attrs.field(factory=Marks)
    image: Any | None = None
    """The image as the spawn found it, which saves asking again a millisecond later."""
    unrecorded: bool = False
    """Its row could not be made."""
    gone: trio.Event = attrs.field(factory=trio.Event)
    """Set once nobody is at work on it any more; nothing is left then of one that has no row."""
    _one_commit: trio.Lock = attrs.field(factory=trio.Lock)
    _holding: bool = False
    """A fact could not be stored, which was told; it is tried again."""
    _news: trio.Event = attrs.field(factory=trio.Event)
    _settled: trio.Event = attrs.field(factory=trio.Event)

    @property
    def id(self) -> str:
        return self.task.record.id

    async def stored(self) -> None:
        """Once its row is committed: before that nothing is done that a crash could not leave behind. `Unrecorded`."""
        await self._settled.wait()
        if self.unrecorded:
            raise Unrecorded

    def settle(self, *, unrecorded: bool = False) -> None:
        """Its row is committed, or never will be."""
        self.unrecorded = unrecorded
        self._settled.set()

    @property
    def record(self) -> Record:
        """The committed record, with what is only shown and what the next commit will store."""
        record = self.task.record
        pull = self.progress if record.status is Status.PULLING else None
        return attrs.evolve(record, pull=pull, times=self.marks.onto(record.times))

    @property
    def kill(self) -> Kill | None:
        """The wish to end it, be it committed already or not."""
        return self._wish or self.task.owned.kill

    async def commit(self, change: Callable[[Task], Task]) -> None:
        """Store what *change* makes of the task, then let everybody see it. A write is not interrupted half-way.

        While the disk is full the fact is held here and tried again: a true end must not be lost for lack of space. Between
        two tries nothing has changed, so that milld can leave: the next one finds out anew.
        """
        with trio.CancelScope(shield=True) as scope:
            while not await self._commit_once(change):
                scope.shield = False
                await trio.sleep(RETRY_COMMIT_S)
                scope.shield = True

    async def _commit_once(self, change: Callable[[Task], Task]) -> bool:
        """Whether it could be stored. Nobody holds the lock between two tries, so that a kill comes through."""
        async with self._one_commit:
            task = change(self.task)
            if self._wish is not None:
                task = attrs.evolve(task, owned=attrs.evolve(task.owned, kill=self._wish))
            try:
                await self._store.put(task)
            except (NoSpace, Unavailable) as error:
                if not self._holding:
                    log.warning("cannot store a task's state yet; holding it", task=self.id, why=str(error))
                self._holding = True
                return False
            self._holding = False
            before, self.task = self.task, task
            self._on_commit(before.record, task.record)
            self._publish()
            return True

    def wish_kill(self, kill: Kill) -> None:
        """From now on every commit carries the wish. The first one stays (it says who ended the task); a later one only
        shortens the grace.
        """
        said = self.kill
        self._wish = kill if said is None else attrs.evolve(said, grace=min(said.grace, kill.grace))

    async def record_kill(self, recorded: trio.Event) -> None:
        """Store the wish; if it cannot be, the commit of the end, which is held until it can be, will carry it."""
        with trio.CancelScope(shield=True):
            await self._commit_once(lambda task: task)
        recorded.set()

    async def advance(
        self,
        move: Callable[[Record], Record],
        deadline: Deadline | None = None,
        ended: Deadline | None = None,
    ) -> None:
        """Move the record through `states`, with the marks there are; returns after the commit."""

        def change(task: Task) -> Task:
            owned = task.owned if deadline is None else attrs.evolve(task.owned, deadline=deadline)
            owned = owned if ended is None else attrs.evolve(owned, ended=ended)
            record = move(task.record)
            return Task(attrs.evolve(record, times=self.marks.onto(record.times)), owned)

        await self.commit(change)

    async def amend(self, change: Callable[[Record], Record]) -> None:
        """What became known after the end, unless the record has been deleted since. It is not held while the disk is full."""
        async with self._one_commit:
            task = attrs.evolve(self.task, record=change(self.task.record))
            await self._store.amend(task)
            self.task = task
            self._publish()

    def report(self, progress: PullProgress) -> None:
        self.progress = progress

    def request_kill(self, kill: Kill, now: float) -> None:
        """Act on a wish: end the task, or hurry an end that is under way."""
        self.kill_scope.cancel()
        if self.start_scope is not None:
            self.start_scope.cancel()
        if self.grace_scope is not None:
            self.grace_scope.deadline = min(self.grace_scope.deadline, now + kill.grace)

    def hurry_start(self, until: float) -> None:
        """Milld is leaving: a start that is under way may go on *until* then."""
        if self.start_scope is not None:
            self.start_scope.deadline = min(self.start_scope.deadline, until)

    async def wait_change(self) -> None:
        """Until the next commit."""
        await self._news.wait()

    def _publish(self) -> None:
        self._news.set()
        self._news = trio.Event()


class Table:
    """The live tasks by id; *on_commit* hears of every change of theirs."""

    def __init__(self, store: Records, on_commit: OnCommit = tell_nobody) -> None:
        self._store = store
        self._on_commit = on_commit
        self._live: dict[str, LiveTask] = {}

    def __repr__(self) -> str:
        return f"<Table {len(self._live)} live>"

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[LiveTask]:
        return iter(list(self._live.values()))

    def get(self, task_id: str) -> LiveTask | None:
        return self._live.get(task_id)

    def draft(self, task: Task, image: Any | None = None) -> LiveTask:
        """A task whose row is being made; the table has it once it is kept."""
        return LiveTask(task, self._store, self._on_commit, image=image)

    def add(self, task: Task) -> LiveTask:
        """A task whose row is committed."""
        live = self.draft(task)
        self.keep(live)
        return live

    def keep(self, live: LiveTask) -> None:
        """The draft's row is committed."""
        self._live[live.id] = live
        live.settle()

    def drop(self, task_id: str) -> None:
        """The task has ended; from now on the store alone answers for it."""
        self._live.pop(task_id, None)
