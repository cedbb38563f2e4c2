"""containerd hangs, or dies again and again, at every point of its tasks' lives: milld stays responsive, and every end is true."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio

from mill.client import Client
from mill.errors import Unavailable
from mill.model import Reason, Record, Status
from tests import leaks
from tests.node import Node
from tests.scenarios.acts import POLL_S, WITHIN_S, end_of, printed, process_of, run, running, spawn, until

LONG = bool(os.environ.get("MILL_LONG"))
LIVES = 30
DEATHS = 12 if LONG else 4
SPAWN_ANSWERED_S = 8.0
"""A spawn under a hung containerd: 3 s, and what a loaded machine adds."""


@contextmanager
def stopped(node: Node) -> Iterator[None]:
    """containerd hangs for the length of the block."""
    pid = process_of(node, "containerd", "--config")
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def told(node: Node, event: str) -> int:
    return node.log.read_text().count(f'"event": "{event}"')


async def test_a_containerd_that_hangs_is_told_and_all_goes_on_when_it_is_back(fresh_node: Node) -> None:
    async with Client(fresh_node.address, fresh_node.token, patience=0) as client:
        brief = await running(client, "sh", "-c", "sleep 0.5; echo bye; exit 4")
        doomed = await running(client, "sleep", "100", grace=0.2)
        with stopped(fresh_node):
            with trio.fail_after(SPAWN_ANSWERED_S), pytest.raises(Unavailable):
                await client.spawn(image="busybox:other")
            await until(lambda: fresh_node.api("GET", "/healthz").status_code == 503)
            with trio.fail_after(SPAWN_ANSWERED_S), pytest.raises(Unavailable):
                await spawn(client, "true")
            with trio.fail_after(2):
                await client.kill(doomed)
                assert (await client.get(brief)).status == Status.RUNNING
                assert not (await client.status()).runtime_ok
        await until(lambda: fresh_node.api("GET", "/healthz").status_code == 200)
        record = await end_of(client, brief)
        assert (record.exit_code, await printed(client, brief)) == (4, "bye\n")
        assert (await end_of(client, doomed)).reason == Reason.KILLED
        assert (await run(client, "true")).exit_code == 0
        assert (told(fresh_node, "containerd is gone"), told(fresh_node, "containerd is back")) == (1, 1)


async def test_sigterm_ends_milld_in_time_while_containerd_hangs_under_starts_and_pulls(
    fresh_node: Node,
) -> None:
    """`stop` at the end looks for a shutdown that had to be cut off."""
    async with Client(fresh_node.address, fresh_node.token, patience=0) as client:
        stays = await running(client, "sleep", "100")
        starting = [await spawn(client, "sleep", "100") for _ in range(6)]
        pulling = await spawn(client, "true", image="127.0.0.1:1/none:1")
        pid = process_of(fresh_node, "containerd", "--config")
        os.kill(pid, signal.SIGSTOP)
        took_s = await trio.to_thread.run_sync(fresh_node.terminate)
        assert took_s < 5
        await trio.to_thread.run_sync(fresh_node.start)
        assert (await client.get(stays)).status == Status.RUNNING
        for task_id in starting:
            assert (await client.wait(task_id, "running", timeout=WITHIN_S)).status == Status.RUNNING
        assert (await end_of(client, pulling)).reason == Reason.PULL_ERROR


async def test_containerd_killed_again_and_again_while_tasks_live_loses_and_repeats_none(
    fresh_node: Node,
) -> None:
    """Ends are the true ones, or `interrupted` where containerd lost them; what one has printed, it has printed once."""
    async with Client(fresh_node.address, fresh_node.token) as client:
        ids: list[str] = []
        async with trio.open_nursery() as nursery:

            async def live() -> None:
                while len(ids) < LIVES:
                    number = len(ids)
                    script = f"echo began; sleep 0.{number % 10}; exit {number}"
                    try:
                        ids.append(await spawn(client, "sh", "-c", script))
                    except Unavailable:
                        await trio.sleep(POLL_S)

            nursery.start_soon(live)
            for death in range(DEATHS):
                await until(lambda death=death: len(ids) > death * LIVES / (DEATHS + 1))
                await until(lambda: containerds(fresh_node) == 1)
                os.kill(process_of(fresh_node, "containerd", "--config"), signal.SIGKILL)
        records = [await end_of(client, task_id) for task_id in ids]
        for number, record in enumerate(records):
            await check_end(client, record, number)
        reasons = Counter(record.reason for record in records)
        assert reasons[Reason.EXIT] >= LIVES / 2, reasons
        assert (await run(client, "true")).exit_code == 0


def containerds(node: Node) -> int:
    return sum("containerd --config" in line for _, line in leaks.processes(node.site()))


async def check_end(client: Client, record: Record, number: int) -> None:
    text = await printed(client, record.id)
    if record.reason == Reason.EXIT:
        assert (record.exit_code, text) == (number, "began\n"), record
    else:
        assert record.reason in {Reason.INTERRUPTED, Reason.START_ERROR}, record
        assert record.exit_code is None
        assert text in {"", "began\n"}, (record, text)
