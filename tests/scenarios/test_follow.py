"""`mill logs -f` as a process of its own, while milld comes and goes: no line lost or doubled, and it ends with the task."""

import subprocess
from functools import partial

import pytest
import trio

from mill.client import Client
from tests.node import MILL, Node
from tests.scenarios.acts import WITHIN_S, end_of, running

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
