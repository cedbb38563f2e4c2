"""The runtime's side of `tasks.ports`, against a real containerd and runc: start, end, adoption, cleaning."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from mill.containerd import rpcs
from mill.containerd import runtime as runtime_module
from mill.containerd.faults import RpcUnavailable
from mill.containerd.proto import containers_pb2, tasks_pb2
from mill.containerd.runtime import Runtime
from mill.containerd.session import Session
from mill.errors import Interrupted, PullError, StartError
from mill.model import Deadline, Mount, MountType, Network, PullPolicy, Size, Status, Time
from mill.tasks.marks import Marks
from tests.containerd.tasks import OTHER_ID, Lab, descriptors, shim_sockets
from tests.containerd.wire import until
from tests.images import busybox_image, make_layer

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers are root's")
SIGTERM, SIGKILL, SIGUSR1 = 15, 9, 10
DIED_OF = 128


@pytest.fixture
async def lab(nursery: trio.Nursery, session: Session, data_dir: Path) -> AsyncIterator[Lab]:
    lab = await Lab.open(nursery, session, data_dir)
    yield lab
    with trio.CancelScope(shield=True):
        await lab.close()


@pytest.fixture
def node(lab: Lab) -> Runtime:
    return lab.runtime()


async def test_a_task_runs_to_its_end_and_nothing_is_left(lab: Lab, node: Runtime) -> None:
    sockets = shim_sockets()
    before = lab.clock.now()
    task = lab.shell(
        'echo "$PORT $MILL_TASK_ID $MILL_TASK_NODE $GREETING $HOME $HOSTNAME"; hostname; echo oops >&2; exit 3',
        env={"GREETING": "hi"},
    )
    task_id = task.record.id
    container = await lab.start(node, task)
    assert before <= container.started <= lab.clock.now()
    assert (container.id, container.stop_signal, container.ip) == (task_id, SIGTERM, "127.0.0.1")
    ended = await container.wait()
    assert ended.code == 3
    assert container.started <= ended.at <= lab.clock.now()
    assert await container.wait() == ended
    toll = await container.toll()
    assert toll.oom_kills == 0
    assert 0 < (toll.peak_memory or 0) <= 64 * 2**20
    assert await container.kill(SIGTERM) is False
    await container.delete()
    await container.delete()
    assert lab.pipes[task_id].read() == f"8080 {task_id} node-1 hi /root {task_id}\n{task_id}\n"
    await node.clean_up(task_id)
    assert await lab.left(node, task_id) == []
    assert shim_sockets() <= sockets
    await node.clean_up(task_id)
    await node.clean_up("never-heard-of")


async def test_signals_reach_pid_1(lab: Lab, node: Runtime) -> None:
    task = lab.shell(
        "trap 'echo usr1' USR1; trap 'echo term; exit 7' TERM; echo ready; while :; do sleep 0.05; done"
    )
    container = await lab.start(node, task)
    pipes = lab.pipes[task.record.id]
    await pipes.wait_for("ready")
    assert await container.kill(SIGUSR1) is True
    await pipes.wait_for("usr1")
    assert await container.kill(container.stop_signal) is True
    assert (await container.wait()).code == 7
    assert "term" in pipes.read()


async def test_delete_ends_what_still_runs(lab: Lab, node: Runtime) -> None:
    container = await lab.start(node, lab.shell("trap '' TERM; sleep 1000"))
    with trio.fail_after(20):
        await container.delete()
        await node.clean_up(container.id)
    assert await lab.left(node, container.id) == []


async def test_clean_up_alone_ends_everything(lab: Lab, node: Runtime) -> None:
    container = await lab.start(node, lab.task("sleep", "1000"))
    with trio.fail_after(20):
        await node.clean_up(container.id)
    assert await lab.left(node, container.id) == []
    assert node.stats(container.id) is None


async def test_a_memory_kill_is_told_between_the_end_and_the_deletion(lab: Lab, node: Runtime) -> None:
    task = lab.shell("exec tail /dev/zero", memory=Size(16 * 2**20))
    container = await lab.start(node, task)
    with trio.fail_after(30):
        assert (await container.wait()).code == DIED_OF + SIGKILL
    toll = await container.toll()
    assert toll.oom_kills >= 1
    assert 8 * 2**20 < (toll.peak_memory or 0) <= 16 * 2**20


async def test_limits_are_set_before_the_program_runs(lab: Lab, node: Runtime) -> None:
    """Where the host is of cgroup v1 or v2, the container's own view or the host's tells."""
    task = lab.task("sleep", "1000", cpu=0.37, memory=Size(48 * 2**20))
    container = await lab.start(node, task)
    below = f"mill/{node.node_id[:8]}/{container.id}"
    if node.cgroups.v2:
        folder = node.cgroups.root / below
        assert (folder / "cpu.max").read_text().split() == ["37000", "100000"]
        assert int((folder / "memory.max").read_text()) == 48 * 2**20
    else:
        assert int((node.cgroups.root / "cpu" / below / "cpu.cfs_quota_us").read_text()) == 37000
        assert int((node.cgroups.root / "memory" / below / "memory.limit_in_bytes").read_text()) == 48 * 2**20
        assert int((node.cgroups.root / "pids" / below / "pids.max").read_text()) == 4096


async def test_a_running_task_has_figures(lab: Lab, node: Runtime, nursery: trio.Nursery) -> None:
    nursery.start_soon(node._running.sample_all, 0.1)
    container = await lab.start(node, lab.shell("while :; do :; done", cpu=0.5))
    await until(lambda: node.usage()[container.id].cpu > 0.2)
    stats = node.stats(container.id)
    assert stats is not None
    assert stats.memory_limit == 64 * 2**20
    assert 0 < stats.memory < stats.memory_limit
    assert stats.cpu_seconds > 0
    assert stats.pids >= 1
    assert (
        node.usage()[container.id].cpu < 1.2
    )  # its limit, and what a period more or less makes where the machine stood still
    await container.kill(SIGKILL)
    await container.wait()
    await container.delete()
    assert node.usage() == {}
    assert node.stats(container.id) is None


# -- starts that fail -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fields", "detail", "told"), [
    ({"args": ("no-such-program",)}, "command_not_found", "no program 'no-such-program' in its PATH"),
    ({"command": ("/no/such/program",)}, "command_not_found", "no program '/no/such/program'"),
    ({"command": ("/etc/passwd",)}, "permission", "'/etc/passwd' may not be executed"),
    ({"user": "somebody"}, "user", "no user 'somebody'"),
    ({"user": "root:wheel"}, "user", "no group 'wheel'"),
    ({"workdir": "/etc/passwd/x"}, "runtime", "not a directory"),
    ({"init": True}, "runtime", "install tini"),
], ids=lambda value: str(value)[:40])  # fmt: skip
async def test_a_start_that_fails_is_typed_and_leaves_nothing(
    lab: Lab, node: Runtime, fields: dict[str, Any], detail: str, told: str
) -> None:
    node = attrs.evolve(node, host=attrs.evolve(node._host, init=None))
    task = lab.task("true", **fields)
    with pytest.raises(StartError, match=told) as caught:
        await lab.start(node, task)
    assert caught.value.detail == detail
    assert "\n" not in str(caught.value)
    await node.clean_up(task.record.id)
    assert await lab.left(node, task.record.id) == []


async def test_a_start_that_is_cancelled_leaves_nothing(lab: Lab, node: Runtime) -> None:
    """Wherever it is cut: in the snapshot, in the look at the accounts, in the runtime."""
    for delay_s in (0.0, 0.005, 0.02, 0.04, 0.06):
        task = lab.task("sleep", "1000")
        with trio.move_on_after(delay_s):
            await lab.start(node, task)
        await node.clean_up(task.record.id)
        assert await lab.left(node, task.record.id) == [], delay_s


async def test_an_image_that_is_not_here_is_not_found(lab: Lab, node: Runtime) -> None:
    spec = lab.task(image="example.com/nothing/here:1", pull=PullPolicy.NEVER).record.spec
    assert await node.find_image(spec) is None
    with pytest.raises(PullError) as caught:
        await node.pull(spec, lambda _: None, Marks())
    assert caught.value.detail == "not_found"


async def test_without_containerd_a_spawn_is_told_so_in_time(
    lab: Lab, node: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as away:
        away.setattr(runtime_module, "CONNECT_PATIENCE_S", 0.05)
        away.setattr(node.session, "_up", trio.Event())
        with trio.fail_after(5), pytest.raises(RpcUnavailable, match="nothing answers on /tmp/"):
            await node.find_image(lab.task().record.spec)


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
    node.remove_parents()
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
    with pytest.raises(KeyboardInterrupt):
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


# -- what a container is like ---------------------------------------------------------------------------------------


async def test_a_task_is_kept_in_its_container(lab: Lab, node: Runtime) -> None:
    status = dict(
        line.split(":\t", 1)
        for line in (await lab.said(node, lab.shell("cat /proc/self/status"))).splitlines()
        if ":\t" in line
    )
    assert status["NoNewPrivs"] == "1"
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0xA80425FB  # Docker's fourteen
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
    assert status["Seccomp"] == ("2" if node._host.seccomp else "0")


async def test_user_workdir_network_and_mounts(lab: Lab, node: Runtime) -> None:
    task = lab.shell(
        "id -u; id -g; pwd; ls /sys/class/net; touch /x 2>&1; echo ok >/scratch/f && cat /scratch/f; cat /etc/hosts >/dev/null && echo hosts",
        user="nobody", workdir="/made/up", network=Network.NONE, read_only=False,
        mounts=(Mount("/scratch", MountType.TMPFS, size=Size(2**20)),),
    )  # fmt: skip
    lines = (await lab.said(node, task)).splitlines()
    assert lines[:4] == ["65534", "65534", "/made/up", "lo"]
    assert "Permission denied" in lines[4]
    assert lines[5:] == ["ok", "hosts"]
    read_only = await lab.said(node, lab.shell("touch /x 2>&1; true", read_only=True))
    assert "Read-only file system" in read_only


async def test_an_image_of_many_layers_starts(lab: Lab, node: Runtime) -> None:
    layers = [make_layer({f"f{n}": str(n).encode()}) for n in range(70)]
    base = busybox_image(User="nobody", Cmd=["cat", "/f0", "/f69"])
    await lab.load("example.com/runtime/layers:1", attrs.evolve(base, layers=[*base.layers, *layers]))
    assert await lab.said(node, lab.task(image="example.com/runtime/layers:1")) == "069"


async def test_no_descriptor_is_left_of_many_tasks(lab: Lab, node: Runtime) -> None:
    await lab.said(node, lab.task("true"))
    before = descriptors()
    for _ in range(3):
        await lab.said(node, lab.task("true"))
    pipes = 3 * 2  # held by the lab until its end
    assert descriptors() <= before + pipes


async def test_a_start_tells_when_it_came_to_each_of_its_steps(node: Runtime, lab: Lab) -> None:
    marks, task = Marks(), lab.task("true")
    before = lab.clock.now()
    container = await lab.start(node, task, marks)
    assert marks.snapshot_made is not None
    assert marks.container_made is not None
    assert marks.launched is not None
    assert before < marks.snapshot_made < marks.container_made <= container.started <= marks.launched
    assert marks.launched < lab.clock.now()
    await container.wait()
    await container.delete()
    await node.clean_up(task.record.id)
