"""Events of a whole node: a burst of tasks seen by readers of every pace, and across a restart of milld, each change once."""

import json
import os
import select
import signal
import socket
import subprocess
from collections import defaultdict
from collections.abc import Iterable

import attrs
import httpx
import trio

from mill.client import Client, EventStream, TaskEvent
from mill.model import Record, Status
from tests.node import MILL, Node
from tests.scenarios.acts import end_of, run, running, spawn

BURST = 500 if os.environ.get("MILL_LONG") else 120
AT_ONCE = 8
LIFE = (Status.STARTING, Status.RUNNING, Status.STOPPED)
SMALL_TASK = {"cpu": 0.05, "memory": "16M"}


@attrs.define
class Seen:
    """What one subscriber was told."""

    events: list[TaskEvent] = attrs.field(factory=list)

    async def read(self, events: EventStream, count: int, *, pause_s: float = 0.0) -> None:
        """Up to *count* in all."""
        while len(self.events) < count:
            event = await anext(events)
            assert isinstance(event, TaskEvent), event
            self.events.append(event)
            if pause_s:
                await trio.sleep(pause_s)

    def check(self, ids: Iterable[str], life: tuple[Status, ...] = LIFE) -> None:
        """Each change of each of these tasks once and in its order, and nothing else."""
        lives: dict[str, list[Record]] = defaultdict(list)
        for event in self.events:
            lives[event.task.id].append(event.task)
        assert set(lives) == set(ids)
        for records in lives.values():
            assert tuple(record.status for record in records) == life, records
            versions = [record.version for record in records]
            assert versions == sorted(set(versions))
        keys = [event.id for event in self.events]
        assert len(set(keys)) == len(keys)


async def slowly(node: Node, seen: Seen, begun: trio.Event, over: trio.Event) -> None:
    """Reads no more than a few until the burst is over: what its small buffer does not take waits in milld's table."""
    narrow = httpx.AsyncHTTPTransport(socket_options=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)])
    async with Client(node.address, node.token, transport=narrow) as client, client.events() as events:
        begun.set()
        await seen.read(events, 5, pause_s=0.02)
        await over.wait()
        await seen.read(events, BURST * len(LIFE), pause_s=0.001)


async def brokenly(node: Node, seen: Seen, begun: trio.Event, _: trio.Event) -> None:
    """Breaks off ten times; each next stream begins behind the last id that it has seen."""
    async with Client(node.address, node.token) as client:
        async with client.events() as events:
            begun.set()
            await seen.read(events, 1)
        for share in range(1, 11):
            async with client.events(after=seen.events[-1].id) as events:
                await seen.read(events, BURST * len(LIFE) * share // 10)


async def test_a_burst_of_tasks_is_seen_once_by_a_slow_reader_and_by_one_that_reconnects_ten_times(
    fresh_node: Node,
) -> None:
    slow, broken, ids, over = Seen(), Seen(), list[str](), trio.Event()
    async with Client(fresh_node.address, fresh_node.token) as client, trio.open_nursery() as nursery:
        for read, seen in ((slowly, slow), (brokenly, broken)):
            begun = trio.Event()
            nursery.start_soon(read, fresh_node, seen, begun, over)
            await begun.wait()
        limit = trio.CapacityLimiter(AT_ONCE)

        async def one() -> None:
            async with limit:
                task_id = await spawn(client, "true", **SMALL_TASK)
                ids.append(task_id)
                assert (await end_of(client, task_id)).status == Status.STOPPED

        began = trio.current_time()
        async with trio.open_nursery() as burst:
            for _ in range(BURST):
                burst.start_soon(one)
        took_s, behind = trio.current_time() - began, BURST * len(LIFE) - len(slow.events)
        print(f"\n{BURST} tasks in {took_s:.1f} s; the slow reader is {behind} events behind")
        assert behind > BURST
        over.set()
    slow.check(ids)
    broken.check(ids)
    assert [event.id for event in slow.events] == [event.id for event in broken.events]


async def test_a_subscriber_sees_each_change_once_across_a_restart_of_milld(fresh_node: Node) -> None:
    """Also the ends that came while nobody was there, with the time at which they came."""
    seen = Seen()
    async with Client(fresh_node.address, fresh_node.token) as client, trio.open_nursery() as nursery:
        begun = trio.Event()

        async def read() -> None:
            async with client.events(label="watched=yes") as events:
                begun.set()
                await seen.read(events, 4 * len(LIFE))

        nursery.start_soon(read)
        await begun.wait()
        watched = {"labels": {"watched": "yes"}}
        ids = [(await run(client, "true", **watched)).id]
        ids += [await running(client, "sleep", seconds, **watched) for seconds in ("0.5", "3")]
        await run(client, "true")  # seen by nobody
        await trio.to_thread.run_sync(fresh_node.restart, "kill9")
        ids.append((await run(client, "true", **watched)).id)
        records = {task_id: await end_of(client, task_id) for task_id in ids}
    seen.check(ids)
    for event in seen.events:
        if event.task.status.terminal:
            assert event.time == records[event.task.id].times.finished


def test_the_command_shows_a_task_s_life_until_ctrl_c(node: Node) -> None:
    with subprocess.Popen(
        [*MILL, "events", "--label", "told=yes", "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=node.env(),
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            while not select.select([process.stdout], [], [], 0)[0]:  # until the command has come up
                _told(node)
            task_id = _told(node)
            event = json.loads(process.stdout.readline())
            while event["task"]["id"] != task_id:
                event = json.loads(process.stdout.readline())
            assert event["task"]["status"] == "starting"
            process.send_signal(signal.SIGINT)
            assert process.communicate(timeout=20)[1] == ""
            assert process.returncode == 130
        finally:
            process.kill()
    command = [*MILL, "events", "--after", event["id"], "--task", task_id]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=node.env()) as process:
        try:
            assert process.stdout is not None
            rest = [process.stdout.readline().split("  ")[1:] for _ in range(2)]
        finally:
            process.kill()
    assert rest == [[task_id, "running\n"], [task_id, "failed: exited with code 1\n"]]


def _told(node: Node) -> str:
    """A task that the command is to tell of, once it has ended."""
    done = node.mill("spawn", "--image", "busybox", "--label", "told=yes", "--json", "--", "false")
    task_id = str(json.loads(done.stdout)["id"])
    node.mill("wait", task_id, check=False)
    return task_id
