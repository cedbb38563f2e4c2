"""Tasks that behave badly beside others: one that floods its log, one that writes single bytes, one that heeds no signal."""

import time

import trio

from mill.client import Client
from mill.model import Reason, Status
from mill.units import MIB
from tests.node import MakeNode, Node
from tests.pace import stretched
from tests.scenarios.acts import end_of, run, running, spawn, until_printed

FLOOD = "exec dd if=/dev/zero bs=64k"
TRICKLE = "while :; do printf x; done"
DEAF = "trap '' TERM; echo deaf; while :; do sleep 0.05; done"
GRACE_S = 1.0
OTHERS = 5
GROWTH_BYTES = 40 * MIB


async def test_tasks_that_flood_trickle_or_are_deaf_stop_no_other_and_end(make_node: MakeNode) -> None:
    node: Node = await trio.to_thread.run_sync(
        lambda: make_node(name="loud", options={"cpu": "64", "memory": "64G", "log-max-bytes": "64M"})
    )
    async with Client(node.address, node.token) as client:
        await run(client, "true")
        before = node.rss_bytes()
        bad = [await running(client, "sh", "-c", script) for script in (FLOOD, TRICKLE)]
        deaf = await running(client, "sh", "-c", DEAF, grace=GRACE_S)
        await until_printed(client, deaf, "deaf")
        began = time.monotonic()
        await client.kill(deaf)
        for number in range(OTHERS):
            with trio.fail_after(stretched(10)):
                task_id = await spawn(client, "sh", "-c", f"echo said {number}; sleep 0.5; exit {number}")
                await until_printed(client, task_id, f"said {number}")
                record = await end_of(client, task_id)
            assert (record.reason, record.exit_code) == (Reason.EXIT, number)
        killed = await end_of(client, deaf)
        assert (killed.status, killed.reason, killed.signal) == (Status.STOPPED, Reason.KILLED, 9)
        assert time.monotonic() - began >= GRACE_S
        assert node.rss_bytes() - before < GROWTH_BYTES
        for task_id in bad:
            assert (await client.get(task_id)).status is Status.RUNNING
            await client.kill(task_id, grace=0)
            assert (await end_of(client, task_id)).reason is Reason.KILLED


async def test_a_runtime_that_is_not_there_is_one_line(make_node: MakeNode) -> None:
    node: Node = await trio.to_thread.run_sync(
        lambda: make_node(name="bare", options={"cpu": "4", "memory": "4G", "runtime": "crunx"})
    )
    async with Client(node.address, node.token) as client:
        record = await run(client, "true")
        assert (record.status, record.reason, record.detail) == (
            Status.FAILED,
            Reason.START_ERROR,
            "runtime",
        ), record.message
        assert record.message is not None
        assert "crunx" in record.message
