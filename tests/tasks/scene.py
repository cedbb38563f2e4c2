"""One node's world for the tests of tasks: what survives a milld, records as one would have left them, lives to run."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import trio

from mill.model import (
    Deadline,
    Duration,
    Kill,
    Owned,
    Reason,
    Record,
    Resources,
    SpawnRequest,
    Spec,
    Status,
    Task,
    Time,
    Times,
)
from mill.tasks import service
from mill.tasks.lifecycle import World, run_task
from mill.tasks.orders import Identity
from mill.tasks.service import Tasks
from mill.tasks.table import LiveTask, Table
from tests.tasks.fake_mesh import FakeMesh
from tests.tasks.fakes import (
    BUSYBOX,
    CAPACITY,
    EPOCH,
    FakeClock,
    FakeLogs,
    FakeRecords,
    FakeRoom,
    FakeRuntime,
    Suffixes,
)

ME = Identity("n1", "node-1", "192.0.2.1", allow_mounts=("/srv/data",))
WAY_OUT = ["put running ending", "delete", "drain logs"]
"""The order at the end, up to the publishing of the end."""


def make_spec(**said: Any) -> Spec:
    return Spec(**{"image": BUSYBOX, "name": "web", **said})


def make_record(task_id: str = "web-0000", status: Status = Status.PULLING, **said: Any) -> Record:
    """A record as an earlier moment would have left it at *status*."""
    spec = said.pop("spec", None) or make_spec()
    created = said.pop("created", EPOCH)
    times = Times(
        Time(created),
        pulled=None if status is Status.PULLING else Time(created),
        started=Time(created) if status is Status.RUNNING else None,
        finished=Time(created + 1) if status.terminal else None,
    )
    fields = {"node": "node-1", "node_id": "n1", "address": f"{task_id}.mill:8080", "times": times, **said}
    return Record(id=task_id, spec=spec, status=status, **fields)


@attrs.define
class Scene:
    """One node's world: what survives a milld (records, containers, clock), and ways to run one in it."""

    me: Identity = ME
    journal: list[str] = attrs.field(factory=list)
    clock: FakeClock = attrs.field(factory=FakeClock)
    starts_at_once: int = 2
    capacity: Resources = CAPACITY
    choice: Suffixes = attrs.field(factory=Suffixes)
    room: FakeRoom = attrs.field(factory=FakeRoom)
    records: FakeRecords = attrs.field(init=False)
    logs: FakeLogs = attrs.field(init=False)
    runtime: FakeRuntime = attrs.field(init=False)
    mesh: FakeMesh = attrs.field(factory=FakeMesh)
    world: World = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.records = FakeRecords(self.journal)
        self.logs = FakeLogs(self.journal)
        self.runtime = FakeRuntime(self.journal, self.clock)
        limiter = trio.CapacityLimiter(self.starts_at_once)
        self.world = World(self.runtime, self.logs, self.clock, limiter, self.mesh)

    def live(self, status: Status = Status.PULLING, *, owned: Owned | None = None, **spec: Any) -> LiveTask:
        """A task whose row is committed, as its life begins or as an earlier milld left it."""
        full = make_spec(**spec)
        if owned is None:
            owned = Owned(pull_deadline=self.deadline(full.pull_timeout))
            if status is Status.RUNNING:
                owned = attrs.evolve(owned, deadline=self.deadline(full.timeout))
        record = make_record("web-0000", status, spec=full, created=self.clock.now())
        return self.again(Task(record, owned))

    def again(self, task: Task) -> LiveTask:
        """*task* as a milld that has just come up holds it."""
        self.records.rows[task.record.id] = task
        return Table(self.records).add(task)

    def deadline(self, in_s: float) -> Deadline:
        return Deadline(self.clock.boot_id, self.clock.boottime() + in_s)

    @asynccontextmanager
    async def life(self, live: LiveTask, *, adopted: bool = False) -> AsyncIterator[trio.Event]:
        """`run_task` during the block. Its event says that the life is over; leaving before it is milld leaving."""
        over = trio.Event()

        async def run() -> None:
            await run_task(live, self.world, adopted=adopted)
            over.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            yield over
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def milld(self) -> AsyncIterator[Tasks]:
        """The task service during the block; then milld leaves."""
        async with trio.open_nursery() as nursery:
            serve = partial(service.serve, room=self.room)
            yield await nursery.start(serve, self.me, self.capacity, self.records, self.world, self.choice)
            nursery.cancel_scope.cancel()


async def wait_status(live: LiveTask, status: Status) -> None:
    """Until the committed status is *status*."""
    while live.record.status is not status:
        await live.wait_change()


async def kill(live: LiveTask, grace_s: float = 10.0, signal: int | None = None) -> None:
    """What the service does for a DELETE."""
    wish = Kill("admin", Time(EPOCH + trio.current_time()), Duration(grace_s), signal)
    live.wish_kill(wish)
    await live.record_kill(trio.Event())
    live.request_kill(wish, trio.current_time())


def end_of(live: LiveTask) -> tuple[Status, Reason | None]:
    return live.record.status, live.record.reason


async def spawn(tasks: Tasks, **said: object) -> str:
    request = SpawnRequest(image=BUSYBOX, **said)  # type: ignore[arg-type]  # fields as they are named
    return (await tasks.spawn(request, {})).id
