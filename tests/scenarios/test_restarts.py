"""milld and containerd come and go while tasks run: SIGTERM, SIGKILL, followers that stopped reading; the ends stay true."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
import trio

from mill.client import Client
from mill.errors import Conflict, Unavailable
from mill.model import Reason, Record, Status
from tests.node import Node
from tests.pace import stretched
from tests.scenarios.acts import EAT, POLL_S, end_of, printed, process_of, run, running, spawn, until_printed

FAST_AGAIN_S = stretched(3)
"""Within it new spawns work after containerd was killed (the issue's bound)."""


async def ends_across(node: Node, how: str) -> None:
    """Tasks that end while milld is away, and after it is back, by every door; none starts twice."""
    soon = stretched(1)
    async with Client(node.address, node.token) as client:
        script = "echo began; while [ ! -e /tmp/go ]; do sleep 0.05; done; exit 3"
        ids = {
            "exits": await running(client, "sh", "-c", f"echo before; sleep {soon}; echo during; exit 5"),
            "crashes": await running(client, "sh", "-c", f"sleep {soon}; ulimit -s 256; f() {{ f; }}; f"),
            "eats": await running(client, "sh", "-c", f"sleep {soon}; {EAT}", memory="16M"),
            "stays": await running(client, "sh", "-c", script),
            "expires": await running(client, "sleep", f"{stretched(100)}", timeout=stretched(4), grace=0.1),
        }
        before = {name: await client.get(task_id) for name, task_id in ids.items()}
        await trio.to_thread.run_sync({"term": node.terminate, "kill": node.kill9}[how])
        # the time in which three of them end: what is waited for is that nobody is there to see
        await trio.sleep(2 * soon)
        await trio.to_thread.run_sync(node.start)
        assert (await client.get(ids["stays"])).status == Status.RUNNING
        ends = {name: await end_of(client, ids[name]) for name in ("exits", "crashes", "eats", "expires")}
        check_ends(ends, before)
        assert await printed(client, ids["exits"]) == "before\nduring\n"
        await client.kill(ids["stays"], grace=0)
        stayed = await end_of(client, ids["stays"])
        assert (stayed.reason, await printed(client, stayed.id)) == (Reason.KILLED, "began\n")
        assert stayed.times.started == before["stays"].times.started
        assert (await run(client, "true")).exit_code == 0


def check_ends(ends: dict[str, Record], before: dict[str, Record]) -> None:
    assert (ends["exits"].reason, ends["exits"].exit_code) == (Reason.EXIT, 5)
    assert (ends["crashes"].reason, ends["crashes"].signal) == (Reason.SIGNAL, signal.SIGSEGV)
    assert (ends["eats"].reason, ends["eats"].oom_kills >= 1) == (Reason.OOM, True)
    assert ends["expires"].reason == Reason.TIMEOUT
    for name, record in ends.items():
        assert record.times.started == before[name].times.started, "it was started twice"
        assert record.times.started is not None
        assert record.times.finished is not None
        ran_s = record.times.finished - record.times.started
        assert 0.9 < ran_s < stretched(10 if name == "expires" else 5), (name, ran_s)


async def test_tasks_outlive_a_milld_that_is_stopped(fresh_node: Node) -> None:
    await ends_across(fresh_node, "term")


async def test_tasks_outlive_a_milld_that_is_killed(fresh_node: Node) -> None:
    await ends_across(fresh_node, "kill")


async def test_spawns_across_kills_of_milld_make_one_container_each(fresh_node: Node) -> None:
    """Nobody who spawns sees an error; what was answered exists once, and nothing else does."""
    spawned: list[str] = []
    async with Client(fresh_node.address, fresh_node.token) as client:
        await client.status()

        async def spawn_some(name: str) -> None:
            for _ in range(8):
                task = await client.spawn(image="busybox", args=["true"], name=name, memory="16M", cpu=0.01)
                spawned.append(task.id)

        async with trio.open_nursery() as nursery:
            for name in ("one", "two", "three"):
                nursery.start_soon(spawn_some, name)
            for _ in range(3):
                await trio.sleep(0.2)
                await trio.to_thread.run_sync(fresh_node.restart, "kill9")
        ends = [await end_of(client, task_id) for task_id in spawned]
        assert {record.reason for record in ends} == {Reason.EXIT}
        known = {record.id for record in await client.list_tasks(all=True)}
        assert (len(known), known) == (24, set(spawned))


async def test_a_key_says_the_same_after_a_restart(fresh_node: Node) -> None:
    async with Client(fresh_node.address, fresh_node.token) as client:
        made = await client.spawn(image="busybox", args=["true"], idempotency_key="job-7")
        await end_of(client, made.id)
        await trio.to_thread.run_sync(fresh_node.restart, "kill9")
        again = await client.spawn(image="busybox", args=["true"], idempotency_key="job-7")
        assert (again.id, again.status) == (made.id, Status.STOPPED)
        with pytest.raises(Conflict, match=made.id):
            await client.spawn(image="busybox", args=["false"], idempotency_key="job-7")


async def test_a_follow_goes_on_across_a_restart(fresh_node: Node) -> None:
    async with Client(fresh_node.address, fresh_node.token) as client:
        task_id = await running(client, "sh", "-c", "for i in $(seq 1 40); do echo $i; sleep 0.1; done")
        lines: list[bytes] = []
        async with trio.open_nursery() as nursery:

            async def follow() -> None:
                lines.extend([line.data async for line in client.logs(task_id)])

            nursery.start_soon(follow)
            await until_printed(client, task_id, "5")
            await trio.to_thread.run_sync(fresh_node.restart, "kill9")
        assert b"".join(lines).split() == [str(i).encode() for i in range(1, 41)]
        assert (await end_of(client, task_id)).exit_code == 0


async def test_sigterm_ends_milld_within_5_s_with_three_followers_that_stopped_reading(
    fresh_node: Node,
) -> None:
    async with Client(fresh_node.address, fresh_node.token) as client:
        task_id = await running(client, "yes", "a line of some length that nobody takes", cpu=0.5)
        with ExitStack() as stack:
            for accept in ("text/plain", "application/x-ndjson", "text/event-stream"):
                stack.enter_context(deaf_follower(fresh_node, task_id, accept))
            took_s = await trio.to_thread.run_sync(fresh_node.terminate)
        assert took_s < stretched(5)
        await trio.to_thread.run_sync(fresh_node.start)
        assert (await client.get(task_id)).status == Status.RUNNING
        await client.kill(task_id, grace=0)
        await end_of(client, task_id)


async def test_containerd_killed_while_tasks_run(fresh_node: Node) -> None:
    """They go on, their ends are true, and new spawns work within 3 s."""
    async with Client(fresh_node.address, fresh_node.token) as client:
        short = await running(client, "sh", "-c", "sleep 0.5; exit 6")
        longer = await running(client, "sh", "-c", f"sleep {stretched(4)}; exit 7")
        killed = await running(client, "sleep", "100")
        os.kill(process_of(fresh_node, "containerd", "--config"), signal.SIGKILL)
        began = trio.current_time()
        fresh = await until_spawned(client)
        assert (await end_of(client, fresh)).exit_code == 0
        assert trio.current_time() - began < FAST_AGAIN_S
        assert (await end_of(client, short)).exit_code == 6
        assert (await client.get(longer)).status == Status.RUNNING
        await client.kill(killed, grace=0)
        assert (await end_of(client, killed)).reason == Reason.KILLED
        record = await end_of(client, longer)
        assert (record.reason, record.exit_code) == (Reason.EXIT, 7)


async def until_spawned(client: Client) -> str:
    """The id of a task that was let in; 503 while the runtime is away is an honest answer."""
    while True:
        try:
            return await spawn(client, "true")
        except Unavailable:
            await trio.sleep(POLL_S)


@contextmanager
def deaf_follower(node: Node, task_id: str, accept: str) -> Iterator[None]:
    """A client that asks for a follow, takes the first bytes, and then nothing more."""
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", node.port))
        head = f"GET /v1/logs/{task_id}?follow=true HTTP/1.1\r\nHost: mill\r\nAccept: {accept}\r\n"
        deaf.sendall(f"{head}Authorization: Bearer {node.token}\r\n\r\n".encode())
        assert deaf.recv(64).startswith(b"HTTP/1.1 200")
        yield


async def test_the_settings_of_a_running_task_survive(fresh_node: Node) -> None:
    """Token, node id, reservations and the record's version: the next milld is the same node."""
    async with Client(fresh_node.address, fresh_node.token) as client:
        task_id = await running(client, "sleep", "100", cpu=2, labels={"a": "b"})
        record, status = await client.get(task_id), await client.status()
        await trio.to_thread.run_sync(fresh_node.restart)
        again, now = await client.get(task_id), await client.status()
        assert (again.version, again.spec, again.times) == (record.version, record.spec, record.times)
        assert (now.node_id, now.reserved, now.capacity) == (status.node_id, status.reserved, status.capacity)
        await client.kill(task_id, grace=0)
        await end_of(client, task_id)
