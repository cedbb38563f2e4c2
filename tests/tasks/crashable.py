"""A node that can be crashed at any moment: the real service, lifecycle, table, retention and SQLite over a fake engine.

What the engine, the disk and the kernel keep outlives every milld; each milld lives in a scope of its own. Whatever touches
a container is told to the `Witness`.
"""

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import attrs
import trio

from mill.errors import Interrupted, PullError, StartError
from mill.logs import retention
from mill.logs.budget import Budget
from mill.model import Exit, PullProgress, Resources, Spec, Task, Time
from mill.tasks import service
from mill.tasks.events import Events
from mill.tasks.lifecycle import World
from mill.tasks.marks import Marks
from mill.tasks.orders import Identity
from mill.tasks.ports import OpenPipes
from mill.tasks.service import Tasks
from tests.tasks.fake_mesh import FakeMesh
from tests.tasks.fakes import (
    EPOCH,
    FakeClock,
    FakeContainer,
    FakeLogs,
    FakePipes,
    FakeRoom,
    FakeRuntime,
    Program,
    Suffixes,
)
from tests.tasks.inline_store import InlineStore, opened
from tests.tasks.witness import PLAN_LABEL, Plan, Witness

RETENTION_S = 120.0
CAPACITY = Resources(2.0, 1024**3)


@attrs.define
class JumpingClock(FakeClock):
    """Its wall clock can be set, and the machine rebooted; it knows what it showed at any moment before."""

    booted: float = 0.0
    highest_s: float = 0.0
    _set: list[tuple[float, float]] = attrs.field(factory=list)

    def boottime(self) -> float:
        return trio.current_time() - self.booted

    def jump(self, by_s: float) -> None:
        self.jump_s += by_s
        self.highest_s = max(self.highest_s, self.jump_s)
        self._set.append((trio.current_time(), self.jump_s))

    def wall(self, at: float) -> Time:
        """What it showed when trio's clock did *at*."""
        before = [jump_s for when, jump_s in self._set if when < at]
        return Time(EPOCH + at + (before[-1] if before else 0.0))

    def was_set_since(self, at: float) -> bool:
        return bool(self._set) and self._set[-1][0] >= at

    def latest(self) -> Time:
        """No wall clock showed a later time up to now."""
        return Time(EPOCH + trio.current_time() + self.highest_s)

    def reboot(self) -> None:
        self.booted = trio.current_time()
        self.boot_id = f"{self.boot_id}+"


@attrs.define(eq=False)
class WatchedContainer(FakeContainer):
    """Tells the witness what milld does to it."""

    clock: JumpingClock = attrs.field(kw_only=True)
    witness: Witness = attrs.field(kw_only=True)
    began: float = attrs.field(factory=trio.current_time, init=False)
    lost: bool = False
    """The machine was rebooted under it."""

    async def wait(self) -> Exit:
        seen = await FakeContainer.wait(self)
        return attrs.evolve(seen, at=self.clock.wall(self.ends_at))

    async def kill(self, signal: int) -> bool | None:
        await trio.lowlevel.checkpoint()
        self.touch()
        return await FakeContainer.kill(self, signal)

    async def delete(self) -> None:
        await trio.lowlevel.checkpoint()
        self.touch()
        await FakeContainer.delete(self)

    def touch(self) -> None:
        if self.alive:
            self.witness.touched(self.id, trio.current_time())

    def started_as_told(self) -> Time:
        """By the kernel, which knows how long it runs, or else no earlier than its end."""
        if self.alive:
            return Time(self.clock.now() - (trio.current_time() - self.began))
        return self.clock.wall(self.ends_at)


@attrs.define(eq=False)
class Engine(FakeRuntime):
    """Runs each task as its plan says."""

    witness: Witness = attrs.field(kw_only=True)

    async def find_image(self, spec: Spec) -> str | None:
        await trio.lowlevel.checkpoint()
        return spec.image if self._plan(spec).cached or spec.labels[PLAN_LABEL] in self.images else None

    async def pull(self, spec: Spec, on_progress: Callable[[PullProgress], None], marks: Marks) -> str:
        plan, found = self._plan(spec), await self.find_image(spec)
        if found is not None:
            return found
        on_progress(PullProgress(1, 2))
        await trio.sleep(plan.pull_s)
        if plan.pull_fails:
            raise PullError("not_found", "no such image")
        self.images.add(spec.labels[PLAN_LABEL])
        marks.note(fetched=self.clock.now())
        return spec.image

    async def start(self, task: Task, image: object, open_pipes: OpenPipes, marks: Marks) -> FakeContainer:  # noqa: ARG002 -- the port's
        plan = self._plan(task.record.spec)
        await open_pipes()
        try:
            await trio.sleep(plan.start_s)
        except trio.Cancelled:
            if plan.starts_all_the_same:
                self._launch(task, plan)
            raise
        if plan.start_fails:
            raise StartError("command_not_found", "no such program")
        marks.note(launched=self.clock.now())
        return self._launch(task, plan)

    def _launch(self, task: Task, plan: Plan) -> FakeContainer:
        alive = [task_id for task_id, container in self.containers.items() if container.alive]
        self.witness.launched(task.record, alive)
        return self.run(task.record.id, plan.program)

    def run(self, task_id: str, program: Program | None = None) -> FakeContainer:
        clock, program = cast("JumpingClock", self.clock), program or self.program
        container = self.containers[task_id] = WatchedContainer(
            task_id,
            program,
            self.journal,
            clock.now(),
            clock.boottime(),
            trio.current_time() + program.runs_s,
            program.code,
            clock=clock,
            witness=self.witness,
        )
        self.witness.containers[task_id] = container
        return container

    async def adopt(self, task: Task) -> FakeContainer | None:
        """As the real one: what it deleted and what a reboot took has no process any more."""
        await trio.lowlevel.checkpoint()
        container = cast("WatchedContainer | None", self.containers.get(task.record.id))
        if container is None:
            return None
        if container.lost or container.deleted:
            raise Interrupted("its container has no process any more")
        container.started = task.record.times.started or container.started_as_told()
        return container

    async def clean_up(self, task_id: str) -> str | None:
        await trio.lowlevel.checkpoint()
        if task_id in self.containers:
            cast("WatchedContainer", self.containers[task_id]).touch()
        return await FakeRuntime.clean_up(self, task_id)

    def reboot(self) -> None:
        """Every process is gone; what ended before and was not deleted cannot be known any more either."""
        for container in self.containers.values():
            cast("WatchedContainer", container).lost = True
            container.end(0)

    def _plan(self, spec: Spec) -> Plan:
        return self.witness.plans[int(spec.labels[PLAN_LABEL])]


@attrs.define
class KeptLogs(FakeLogs):
    """Which tasks have logs, also for `retention`."""

    kept: set[str] = attrs.field(factory=set)
    budget: Budget = attrs.field(factory=Budget)

    async def open(self, task_id: str) -> FakePipes:
        pipes = await FakeLogs.open(self, task_id)
        self.kept.add(task_id)
        return pipes

    async def remove(self, task_id: str) -> None:
        await trio.lowlevel.checkpoint()
        self.kept.discard(task_id)

    async def remove_orphans(
        self, known: Callable[[Collection[str]], Awaitable[Collection[str]]], age_s: float
    ) -> None:
        """Those that are left of a milld that died between the log's removal and the record's are none."""
        assert age_s >= RETENTION_S
        self.kept &= set(await known(self.kept))

    async def wait_over(self) -> None:
        await trio.sleep_forever()

    async def drop_running(self, need_bytes: int) -> int:  # noqa: ARG002 -- the store's
        await trio.lowlevel.checkpoint()
        return 0

    def resume(self) -> None: ...

    async def recount(self) -> None:
        await trio.lowlevel.checkpoint()


@attrs.define(eq=False)
class Milld:
    """One process. `clients` is its edge: whoever talks to it is cut off when it goes."""

    store: InlineStore
    tasks: Tasks
    clients: trio.Nursery
    scope: trio.CancelScope
    leaving: trio.Event = attrs.field(factory=trio.Event)
    gone: trio.Event = attrs.field(factory=trio.Event)


@attrs.define(eq=False)
class CrashableNode:
    """What outlives a milld, and the milld that there is."""

    path: Path
    nursery: trio.Nursery
    witness: Witness
    clock: JumpingClock = attrs.field(factory=JumpingClock)
    engine: Engine = attrs.field(init=False)
    logs: KeptLogs = attrs.field(init=False)
    choice: Suffixes = attrs.field(factory=Suffixes)
    milld: Milld = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.engine = Engine([], self.clock, witness=self.witness)
        self.logs = KeptLogs([])

    async def start(self) -> None:
        self.milld = await self.nursery.start(self._serve)
        self.witness.up_since = trio.current_time()

    async def stop(self) -> None:
        """SIGTERM."""
        self.milld.leaving.set()
        await self.milld.gone.wait()

    async def crash(self, *, committed: bool) -> None:
        """SIGKILL: nothing that was asked of the disk or the engine is waited for, and nothing more is asked."""
        self.milld.store.die(committed=committed)
        for live in self.milld.tasks.table:
            live.hurry_start(-math.inf)
        self.milld.scope.cancel()
        await self.milld.gone.wait()

    def reboot(self) -> None:
        """Once no milld runs."""
        self.engine.reboot()
        self.clock.reboot()
        self.witness.rebooted()

    async def _serve(self, *, task_status: trio.TaskStatus[Milld]) -> None:
        milld: Milld | None = None
        with trio.CancelScope() as scope:
            async with AsyncExitStack() as layers:
                store = await layers.enter_async_context(opened(self.path))
                world = World(self.engine, self.logs, self.clock, trio.CapacityLimiter(2), FakeMesh())
                serve = partial(service.serve, room=FakeRoom())
                me = Identity("n1", "node-1", "192.0.2.1")
                tasks: Tasks = await layers.enter_async_context(
                    running(serve, me, CAPACITY, store, world, self.choice)
                )
                limits = {"max_bytes": 1024, "retention_s": RETENTION_S}
                await layers.enter_async_context(
                    running(retention.serve, cast("Any", self.logs), tasks, **limits)
                )
                clients = await layers.enter_async_context(edge())
                milld = Milld(store, tasks, clients, scope)
                clients.start_soon(self.witness.listen, Events(store))
                task_status.started(milld)
                await milld.leaving.wait()
        if milld is not None:
            milld.gone.set()


@asynccontextmanager
async def running(serve: Callable[..., Awaitable[None]], *args: Any, **options: Any) -> AsyncIterator[Any]:
    """As the daemon runs a component: its handle for the length of the block."""
    async with trio.open_nursery() as nursery:
        yield await nursery.start(partial(serve, *args, **options))
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def edge() -> AsyncIterator[trio.Nursery]:
    async with trio.open_nursery() as nursery:
        yield nursery
        nursery.cancel_scope.cancel()
