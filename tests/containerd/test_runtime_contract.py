"""What `tasks.ports` promises of a runtime, asked of the real one and of the fake that the tasks' own tests trust."""

import os
from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

import attrs
import pytest
import trio

from mill.containerd.runtime import Runtime
from mill.errors import Interrupted
from mill.model import Spec, Task
from mill.tasks import ports
from mill.tasks.marks import Marks
from tests.containerd.tasks import Lab
from tests.tasks.fakes import FakeClock, FakePipes, FakeRuntime, Program
from tests.tasks.scene import make_record

T = TypeVar("T")
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers are root's")
SIGTERM, SIGKILL = 15, 9
CODE = 3
ENDS = f"exit {CODE}"
RUNS = "trap 'exit 143' TERM; echo ready; while :; do sleep 0.05; done"
DEAF = "trap '' TERM; echo ready; while :; do sleep 0.05; done"
PROGRAMS = {
    ENDS: Program(0.0, CODE),
    RUNS: Program(),
    DEAF: Program(ignores=frozenset({SIGTERM})),
}
"""What the fake does for what the real one is told to run."""


class World(Protocol):
    def milld(self) -> ports.Runtime:
        """The runtime of a milld; each is the next one's predecessor."""

    def task(self) -> Task:
        """One that was never started."""

    async def start(self, runtime: ports.Runtime, script: str) -> tuple[Task, ports.Container]:
        """A task that runs *script* (until it is ready for signals), or has run it."""

    async def left(self, task_id: str) -> object:
        """What there still is of it; false: nothing."""


@attrs.define
class Fake:
    runtime: FakeRuntime = attrs.field(factory=lambda: FakeRuntime([], FakeClock()))
    number: int = 0

    def milld(self) -> ports.Runtime:
        return self.runtime

    def task(self) -> Task:
        self.number += 1
        return Task(make_record(f"rt-{self.number}", spec=Spec("busybox", "rt")))

    async def start(self, runtime: ports.Runtime, script: str) -> tuple[Task, ports.Container]:
        self.runtime.program, task = PROGRAMS[script], self.task()

        async def open_pipes() -> FakePipes:
            return FakePipes()

        return task, await runtime.start(task, "busybox", open_pipes, Marks())

    async def left(self, task_id: str) -> object:
        return task_id in self.runtime.containers


@attrs.define
class Real:
    lab: Lab

    def milld(self) -> ports.Runtime:
        return self.lab.runtime()

    def task(self) -> Task:
        return self.lab.task("true")

    async def start(self, runtime: ports.Runtime, script: str) -> tuple[Task, ports.Container]:
        assert isinstance(runtime, Runtime)
        task = self.lab.shell(script)
        container = await self.lab.start(runtime, task)
        if script is not ENDS:
            await self.lab.pipes[task.record.id].wait_for("ready")
        return task, container

    async def left(self, task_id: str) -> object:
        return await self.lab.left(self.lab.runtime(), task_id)


@pytest.fixture(params=["fake", "containerd"])
def world(request: pytest.FixtureRequest, lab: Lab) -> World:
    return Fake() if request.param == "fake" else Real(lab)


async def in_time(ask: Callable[[], Awaitable[T]]) -> T:
    with trio.fail_after(20):
        return await ask()


async def test_an_end_is_told_as_often_as_it_is_asked_and_takes_no_signal(world: World) -> None:
    _, container = await world.start(world.milld(), ENDS)
    ended = await in_time(container.wait)
    assert ended.code == CODE
    assert ended.at >= container.started
    assert await in_time(container.wait) == ended
    assert await container.kill(SIGTERM) is False


async def test_a_signal_reaches_what_runs_and_sigkill_what_is_deaf(world: World) -> None:
    node = world.milld()
    _, container = await world.start(node, RUNS)
    _, deaf = await world.start(node, DEAF)
    for one in (container, deaf):
        assert await one.kill(one.stop_signal) is True
    assert (await in_time(container.wait)).code == 128 + SIGTERM
    assert await deaf.kill(SIGKILL) is True
    assert (await in_time(deaf.wait)).code == 128 + SIGKILL


async def test_what_runs_has_figures_until_it_is_cleaned_up(world: World) -> None:
    node = world.milld()
    task, container = await world.start(node, RUNS)
    assert node.stats(task.record.id) is not None
    await in_time(container.delete)
    await in_time(container.delete)
    assert node.stats(task.record.id) is None
    for _ in range(2):
        assert await node.clean_up(task.record.id) is None
    assert not await world.left(task.record.id)


async def test_clean_up_alone_ends_what_runs(world: World) -> None:
    node = world.milld()
    task, container = await world.start(node, DEAF)
    assert await world.left(task.record.id)
    await node.clean_up(task.record.id)
    assert not await world.left(task.record.id)
    assert await container.kill(SIGTERM) is False


@pytest.mark.parametrize("script", [RUNS, ENDS], ids=["runs", "ended"])
async def test_the_next_milld_adopts_what_runs_and_what_has_ended(world: World, script: str) -> None:
    task, container = await world.start(world.milld(), script)
    if script is ENDS:
        await in_time(container.wait)
    adopted = await world.milld().adopt(task)
    assert adopted is not None
    assert adopted.stop_signal == container.stop_signal
    assert await adopted.kill(SIGTERM) is (script is RUNS)
    assert await in_time(adopted.wait) == await in_time(container.wait)


async def test_what_was_never_started_is_none(world: World) -> None:
    task = world.task()
    assert await world.milld().adopt(task) is None
    assert not await world.left(task.record.id)


async def test_what_was_deleted_is_interrupted_for_the_next_milld_and_nothing_is_left(world: World) -> None:
    task, container = await world.start(world.milld(), ENDS)
    await in_time(container.wait)
    await in_time(container.delete)
    with pytest.raises(Interrupted):
        await world.milld().adopt(task)
    assert not await world.left(task.record.id)


async def test_a_sweep_takes_what_nobody_knows_and_tells_it_in_order(world: World) -> None:
    node = world.milld()
    (kept, container), *strays = [await world.start(node, RUNS) for _ in range(3)]
    ids = [task.record.id for task, _ in strays]
    assert await world.milld().sweep(lambda task_id: task_id == kept.record.id) == sorted(ids)
    assert [bool(await world.left(task_id)) for task_id in (*ids, kept.record.id)] == [False, False, True]
    assert await container.kill(SIGKILL) is True
