"""`mill logs -f` as a process of its own, while milld comes and goes: no line lost or doubled, and it ends with the task."""

import fcntl
import os
import subprocess
import sys
import termios
from functools import partial
from pathlib import Path

import pytest
import trio

from mill.client import Client
from tests.node import MILL, Node
from tests.scenarios.acts import WITHIN_S, end_of, pid_one, running, until, until_printed

LINES = 100


def following(node: Node, task_id: str) -> subprocess.Popen[bytes]:
    command = [*MILL, "logs", "-f", task_id]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=node.env(), bufsize=0
    )


@pytest.mark.parametrize("how", ["terminate", "kill9"])
async def test_mill_logs_f_goes_on_across_a_restart_of_milld(fresh_node: Node, how: str) -> None:
    script = f"for i in $(seq 1 {LINES}); do echo $i; sleep 0.1; done; exit 4"
    async with Client(fresh_node.address, fresh_node.token) as client:
        task_id = await running(client, "sh", "-c", script)
        with following(fresh_node, task_id) as follower:
            assert follower.stdout is not None
            first = await trio.to_thread.run_sync(follower.stdout.readline)  # it follows
            await trio.to_thread.run_sync(fresh_node.restart, how)
            out, err = await trio.to_thread.run_sync(partial(follower.communicate, timeout=3 * WITHIN_S))
        assert (first + out).split() == [str(i).encode() for i in range(1, LINES + 1)], err
        assert follower.returncode == 0
        assert b"Traceback" not in err
        assert (await end_of(client, task_id)).exit_code == 4


async def test_a_follow_of_a_tail_that_is_cut_off_before_its_first_line_loses_none(fresh_node: Node) -> None:
    """What the task says while no milld is there came after the follow began."""
    script = "mkdir -p /tmp; echo before; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo meanwhile; sleep 1; echo after"
    seen: list[bytes] = []
    async with Client(fresh_node.address, fresh_node.token) as client:
        task_id = await running(client, "sh", "-c", script)
        await until_printed(client, task_id, "before")
        go = Path(f"/proc/{pid_one(fresh_node, task_id)}/root/tmp")
        async with client.logs(task_id, tail=0) as follow, trio.open_nursery() as nursery:

            async def read() -> None:
                seen.extend([line.data async for line in follow])

            nursery.start_soon(read)
            await until(lambda: "open, cursor" in repr(follow) and "None" not in repr(follow))
            await trio.to_thread.run_sync(fresh_node.kill9)
            (go / "go").touch()
            await until(lambda: held_bytes(fresh_node, task_id) > 0)
            await trio.to_thread.run_sync(fresh_node.start)
    assert seen == [b"meanwhile\n", b"after\n"]


def held_bytes(node: Node, task_id: str) -> int:
    """What the task's FIFO holds for the next milld."""
    fifo = os.open(node.data_dir / "fifos" / task_id / "stdout", os.O_RDONLY | os.O_NONBLOCK)
    try:
        return int.from_bytes(fcntl.ioctl(fifo, termios.FIONREAD, bytes(4)), sys.byteorder)
    finally:
        os.close(fifo)
