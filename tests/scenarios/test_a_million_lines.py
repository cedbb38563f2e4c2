"""A task prints a million numbered lines on each stream while milld is killed five times, the last time for its last bytes."""

import os
import signal

import httpx
import trio

from mill.client import Client
from tests.node import Node
from tests.scenarios.acts import alive, end_of, pid_one, running, until

LINES = 1_000_000
LAST_LINES = 2_000
"""On each stream, once milld is dead: less than 32 KiB, which the pipes hold."""
WITHIN_S = 120.0
SCRIPT = f"""
seq 1 {LINES - LAST_LINES} >&2 & seq 1 {LINES - LAST_LINES}; wait
while [ ! -e /tmp/go ]; do sleep 0.05; done
seq {LINES - LAST_LINES + 1} {LINES} >&2; seq {LINES - LAST_LINES + 1} {LINES}
"""


def printed_bytes(node: Node, task_id: str) -> int:
    """Of stdout, as they lie in the store."""
    return sum(file.stat().st_size for file in (node.data_dir / "logs" / task_id).glob("stdout.*.log"))


def lines(node: Node, task_id: str, stream: str) -> list[str]:
    headers = {"Authorization": f"Bearer {node.token}"}
    url = f"{node.address}/v1/logs/{task_id}?stream={stream}"
    with httpx.stream("GET", url, headers=headers, timeout=60) as answer:
        return list(answer.iter_lines())


async def until_bytes(node: Node, task_id: str, least: float) -> None:
    await until(lambda: printed_bytes(node, task_id) >= least, WITHIN_S)


async def test_every_line_is_there_once_and_in_order_though_milld_is_killed_five_times(
    fresh_node: Node,
) -> None:
    size = sum(len(f"{number}\n") for number in range(1, LINES - LAST_LINES + 1))
    async with Client(fresh_node.address, fresh_node.token) as client:
        task_id = await running(client, "sh", "-c", SCRIPT, cpu=2)
        for part in (0.1, 0.3, 0.5, 0.7):
            await until_bytes(fresh_node, task_id, part * size)
            await trio.to_thread.run_sync(fresh_node.restart, "kill9")
        await until_bytes(fresh_node, task_id, size)
        os.kill(fresh_node.pid, signal.SIGSTOP)  # it reads nothing of what comes now
        main = pid_one(fresh_node, task_id)
        await trio.Path(f"/proc/{main}/root/tmp/go").touch()
        await trio.to_thread.run_sync(fresh_node.kill9)
        await until(lambda: not alive(main), WITHIN_S)
        await trio.to_thread.run_sync(fresh_node.start)
        assert (await end_of(client, task_id)).exit_code == 0
    for stream in ("stdout", "stderr"):
        numbers = await trio.to_thread.run_sync(lines, fresh_node, task_id, stream)
        assert numbers == [str(number) for number in range(1, LINES + 1)], stream
