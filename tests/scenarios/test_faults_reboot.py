"""The host is rebooted under running tasks: every process dies at once, and what lived in memory is gone.

Simulated: milld, containerd, shims, tasks and the log holder get SIGKILL, mounts go, with them cgroups, FIFOs and
containerd's state, and the next milld reads another boot id.
"""

import os
import shutil
import signal
import sys
import uuid
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from mill.client import Client
from mill.model import Reason, Status
from tests import leaks
from tests.node import MakeNode, Node
from tests.scenarios.acts import WITHIN_S, end_of, printed, run, running, spawn, until_printed
from tests.scenarios.bad_registry import BadRegistry

SHIFTED = [sys.executable, "-m", "tests.scenarios.shifted_milld"]


def reboot(node: Node, *, forget_state: bool) -> None:
    """*forget_state*: containerd keeps its state in a tmpfs, as the system's does; an embedded one finds its own again."""
    assert node.process is not None
    for pid in {node.pid, *(pid for pid, _ in leaks.processes(node.site()))}:
        with suppress(ProcessLookupError):  # one of the runtime's, which had its end just then
            os.kill(pid, signal.SIGKILL)
    node.kill9()
    leaks.sweep(node.site())  # the tasks' own processes, mounts, cgroups, sockets of shims
    for folder in (node.data_dir / "fifos").iterdir():
        shutil.rmtree(folder)
    (node.data_dir / "holder.sock").unlink(missing_ok=True)
    if forget_state:
        shutil.rmtree(node.data_dir / "containerd/state")
    Path(node.environ["FAULT_BOOT_ID"]).write_text(f"{uuid.uuid4()}\n")


@pytest.mark.parametrize("forget_state", [True, False])
async def test_after_a_reboot_what_ran_is_interrupted_and_nothing_is_left(
    make_node: MakeNode,
    bad: BadRegistry,
    tmp_path: Path,
    forget_state: bool,  # noqa: FBT001 -- pytest's form
) -> None:
    boot_id = tmp_path / "boot_id"
    boot_id.write_text(f"{uuid.uuid4()}\n")
    node = make_node(name="reborn", program=SHIFTED, environ={"FAULT_BOOT_ID": str(boot_id)})
    bad.stall = True
    async with Client(node.address, node.token) as client:
        ended = await run(client, "sh", "-c", "echo done; exit 3")
        ids = [await running(client, "sh", "-c", "echo before; sleep 1000") for _ in range(4)]
        for task_id in ids:
            await until_printed(client, task_id, "before")
        pulling = await spawn(client, image=f"{bad.host}/slow/app:1", pull_timeout=8)
        starting = [await spawn(client, "sh", "-c", "echo before; sleep 1000") for _ in range(3)]
        await trio.to_thread.run_sync(lambda: reboot(node, forget_state=forget_state))
        await trio.to_thread.run_sync(node.start)
        for task_id in ids:
            record = await end_of(client, task_id)
            assert (record.status, record.reason, record.exit_code) == (
                Status.FAILED,
                Reason.INTERRUPTED,
                None,
            )
            assert record.times.finished is not None
            assert await printed(client, task_id) == "before\n"
        for task_id in starting:
            await check_begun(client, task_id)
        assert (await end_of(client, pulling)).reason == Reason.PULL_ERROR
        again = await client.get(ended.id)
        assert (again.reason, again.exit_code, again.times.finished) == (Reason.EXIT, 3, ended.times.finished)
        assert (await run(client, "true")).exit_code == 0


async def check_begun(client: Client, task_id: str) -> None:
    """It was about to start: interrupted unless it certainly had not begun; then it runs now, for the first time."""
    with trio.fail_after(WITHIN_S):
        record = await client.wait(task_id, "running")
    if record.status == Status.RUNNING:
        await until_printed(client, task_id, "before")
        await client.kill(task_id, grace=0)
        assert (await end_of(client, task_id)).reason == Reason.KILLED
        assert await printed(client, task_id) == "before\n"
    else:
        assert (record.reason, record.exit_code) == (Reason.INTERRUPTED, None)
