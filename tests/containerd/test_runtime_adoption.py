"""What the next milld finds of a task in a real containerd, and the sweep of what belongs to none."""

import os
from typing import Any

import attrs
import pytest
import trio

from mill.containerd import rpcs
from mill.containerd.proto import containers_pb2, tasks_pb2
from mill.containerd.runtime import Runtime
from mill.containerd.session import Session
from mill.errors import Interrupted
from mill.model import Deadline, Size, Status, Time
from tests.containerd.tasks import OTHER_ID, Lab, descriptors

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers are root's")
SIGTERM, SIGKILL, SIGUSR1 = 15, 9, 10
DIED_OF = 128


@pytest.fixture
def node(lab: Lab) -> Runtime:
    return lab.runtime()


# -- adoption -------------------------------------------------------------------------------------------------------


async def test_a_running_task_is_adopted_by_the_next_milld(lab: Lab) -> None:
    task = lab.shell("trap 'exit 9' USR1; echo ready; while :; do sleep 0.05; done", stop_signal="USR1")
    first = await lab.start(lab.runtime(), task)
    await lab.pipes[first.id].wait_for("ready")
    next_node = lab.runtime()
    adopted = await next_node.adopt(task)
    assert adopted is not None
    assert adopted is not first
    assert adopted.stop_signal == SIGUSR1
    assert abs(adopted.started - first.started) < 1.0, "the kernel knows when it was started"
    assert await next_node.adopt(task) is adopted
    assert next_node.stats(task.record.id) is not None
    await adopted.kill(adopted.stop_signal)
    assert (await adopted.wait()).code == 9
    await adopted.delete()


async def test_a_known_start_is_kept(lab: Lab) -> None:
    task = lab.task("sleep", "1000")
    await lab.start(lab.runtime(), task)
    times = attrs.evolve(task.record.times, started=Time(1234.5))
    running = attrs.evolve(task, record=attrs.evolve(task.record, status=Status.RUNNING, times=times))
    adopted = await lab.runtime().adopt(running)
    assert adopted is not None
    assert adopted.started == 1234.5


async def test_what_ended_meanwhile_is_adopted_with_its_code_time_and_toll(lab: Lab) -> None:
    """Also when the milld before has left in the meantime, which must not take the cgroup with its counters along."""
    node = lab.runtime()
    task = lab.shell("exec tail /dev/zero", memory=Size(16 * 2**20))
    first = await lab.start(node, task)
    with trio.fail_after(30):
        ended = await first.wait()
    node._running.close()
    node.cgroups.remove_node()
    before = descriptors()
    next_node = lab.runtime()
    adopted = await next_node.adopt(task)
    assert adopted is not None
    assert await adopted.wait() == ended
    assert ended.code == DIED_OF + SIGKILL
    assert (await adopted.toll()).oom_kills >= 1
    assert next_node.stats(task.record.id) is None
    await adopted.delete()
    assert descriptors() <= before, "its meter is closed"


async def test_what_was_created_and_never_started_is_none_and_gone(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a crash between Create and Start leaves it."""
    original = Session.call

    async def call(self: Session, rpc: Any, request: Any, **options: Any) -> Any:
        if rpc is rpcs.TASKS_START:
            raise KeyboardInterrupt
        return await original(self, rpc, request, **options)

    node, task = lab.runtime(), lab.task("sleep", "1000")
    monkeypatch.setattr(Session, "call", call)
    with pytest.raises(BaseExceptionGroup):
        await lab.start(node, task)
    monkeypatch.undo()
    assert await lab.left(node, task.record.id) != []
    assert await lab.runtime().adopt(task) is None
    assert await lab.left(node, task.record.id) == []


async def test_a_task_that_containerd_never_had_is_none(lab: Lab, node: Runtime) -> None:
    assert await node.adopt(lab.task("true")) is None


async def test_a_record_without_a_process_is_interrupted_and_gone(lab: Lab) -> None:
    """As after a reboot: containers and snapshots remain, tasks do not."""
    task = lab.task("sleep", "1000")
    container = await lab.start(lab.runtime(), task)
    await container.kill(SIGKILL)
    await container.wait()
    await lab.session.call(rpcs.TASKS_DELETE, tasks_pb2.DeleteTaskRequest(container_id=container.id))
    next_node = lab.runtime()
    with pytest.raises(Interrupted, match="has no process any more"):
        await next_node.adopt(task)
    assert await lab.left(next_node, container.id) == []


@pytest.mark.parametrize("how", ["same boot", "another boot", "was running"])
async def test_without_a_process_only_what_was_certainly_never_started_may_start(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A milld that was killed between the container's record and its creation leaves a record, and no process of it."""
    original = Session.call

    async def call(self: Session, rpc: Any, request: Any, **options: Any) -> Any:
        if rpc is rpcs.TASKS_CREATE:
            raise KeyboardInterrupt
        return await original(self, rpc, request, **options)

    node, task = lab.runtime(), lab.task("true")
    boot_id = "another" if how == "another boot" else lab.clock.boot_id
    task = attrs.evolve(task, owned=attrs.evolve(task.owned, pull_deadline=Deadline(boot_id, 0.0)))
    monkeypatch.setattr(Session, "call", call)
    with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True):
        await lab.start(node, task)
    monkeypatch.undo()
    if how == "was running":
        task = attrs.evolve(task, record=attrs.evolve(task.record, status=Status.RUNNING))
    if how == "same boot":
        assert await lab.runtime().adopt(task) is None
    else:
        with pytest.raises(Interrupted):
            await lab.runtime().adopt(task)
    assert await lab.left(node, task.record.id) == []


async def test_a_milld_that_dies_as_it_undoes_what_never_started_leaves_no_doubt_that_it_never_did(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three millds: the first dies between Create and Start, the next when it has removed the half of it."""
    original = Session.call
    fatal: Any = rpcs.TASKS_START

    async def call(self: Session, rpc: Any, request: Any, **options: Any) -> Any:
        if rpc is fatal:
            raise KeyboardInterrupt
        return await original(self, rpc, request, **options)

    task = lab.task("sleep", "1000")
    deadline = Deadline(lab.clock.boot_id, 0.0)
    task = attrs.evolve(task, owned=attrs.evolve(task.owned, pull_deadline=deadline))
    monkeypatch.setattr(Session, "call", call)
    with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True):
        await lab.start(lab.runtime(), task)
    fatal = rpcs.CONTAINERS_DELETE
    with pytest.raises(KeyboardInterrupt):
        await lab.runtime().adopt(task)
    monkeypatch.undo()
    assert await lab.runtime().adopt(task) is None
    assert await lab.left(lab.runtime(), task.record.id) == []


async def test_the_record_carries_what_is_needed_to_build_ours_again(lab: Lab, node: Runtime) -> None:
    task = lab.task("sleep", "1000", env={"SECRET": "x"}, labels={"a": "b"})
    container = await lab.start(node, task)
    request = containers_pb2.GetContainerRequest(id=container.id)
    kept = (await lab.session.call(rpcs.CONTAINERS_GET, request)).container
    assert dict(kept.labels) == {
        "mill.node": node.node_id, "mill.task": container.id, "mill.stop-signal": "15",
    }  # fmt: skip
    assert b'"labels": {"a": "b"}' in kept.extensions["mill.task"].value


# -- the sweep ------------------------------------------------------------------------------------------------------


async def test_a_sweep_removes_what_is_ours_and_unknown(lab: Lab) -> None:
    ours, other = lab.runtime(), lab.runtime(OTHER_ID)
    kept, stray, foreign = [lab.task("sleep", "1000") for _ in range(3)]
    for node, task in ((ours, kept), (ours, stray), (other, foreign)):
        await lab.start(node, task)
    (ours.data_dir / "tasks" / "only-files").mkdir(parents=True)
    node = lab.runtime()
    removed = await node.sweep(lambda task_id: task_id == kept.record.id)
    assert removed == sorted([stray.record.id, "only-files"])
    assert await lab.left(node, stray.record.id) == []
    for task, owner in ((kept, ours), (foreign, other)):
        assert len(await lab.left(owner, task.record.id)) >= 4
        adopted = await owner.adopt(task)
        assert adopted is not None
        assert await adopted.kill(0) is True
    assert await node.find_image(kept.record.spec) is not None
    assert await node.sweep(lambda task_id: task_id == kept.record.id) == []
