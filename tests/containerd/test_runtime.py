"""The runtime's side of `tasks.ports`, against a real containerd and runc: start, end, adoption, cleaning."""

import os
from typing import Any

import attrs
import pytest
import trio

from mill.containerd import runtime as runtime_module
from mill.containerd.faults import RpcUnavailable
from mill.containerd.runtime import Runtime
from mill.errors import PullError, StartError
from mill.model import Mount, MountType, Network, PullPolicy, Size
from mill.tasks.marks import Marks
from tests.containerd.tasks import Lab, descriptors, shim_sockets
from tests.containerd.wire import until
from tests.images import busybox_image, make_layer

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="containers are root's")
SIGTERM, SIGKILL, SIGUSR1 = 15, 9, 10
DIED_OF = 128


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
    below = node.cgroups.path(container.id).lstrip("/")
    root = node.cgroups.cgroups.root
    if node.cgroups.cgroups.v2:
        folder = root / below
        assert (folder / "cpu.max").read_text().split() == ["37000", "100000"]
        assert int((folder / "memory.max").read_text()) == 48 * 2**20
    else:
        assert int((root / "cpu" / below / "cpu.cfs_quota_us").read_text()) == 37000
        assert int((root / "memory" / below / "memory.limit_in_bytes").read_text()) == 48 * 2**20
        assert int((root / "pids" / below / "pids.max").read_text()) == 4096


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
    snapshot, made, launched = (marks.noted[name] for name in ("snapshot_made", "container_made", "launched"))
    assert before < snapshot < made <= container.started <= launched < lab.clock.now()
    await container.wait()
    await container.delete()
    await node.clean_up(task.record.id)
