"""milld runs out of file descriptors: running tasks are untouched, each failure is one line, and all goes on without a restart."""

import os
import resource
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs
import pytest
import trio

from mill.client import Client
from mill.errors import Unavailable
from mill.model import Reason, Record, Status
from tests.node import RUNTIME, MakeNode, Node
from tests.pace import stretched
from tests.scenarios.acts import end_of, printed, run, running, spawn, until

NONE_LEFT = 10
"""Below what is open: no call that needs a descriptor gets one."""
FEW = 200
TALKED = 2000
TALK = f"for i in $(seq 1 {TALKED}); do echo $i; usleep 4000; done; exit 7"
BIG_LINES = 3000
BIG = f"sleep 1; for i in $(seq 1 {BIG_LINES}); do printf '%04000d\\n' $i; done; exit 8"
"""More than one segment of a log."""
CLIENTS = 50
IDLE_S = 3.0
IDLE_SHARE = 0.3
"""Of a core; a busy loop takes all of it."""


@attrs.define
class Gated:
    """A node whose runtime creates containers at a gate."""

    node: Node
    reached: Path
    gate: Path

    def open_files(self) -> int:
        return len(list(Path(f"/proc/{self.node.pid}/fd").iterdir()))

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.node.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    @contextmanager
    def limited(self, limit: int) -> Iterator[None]:
        """milld may have so many descriptors for the length of the block; what is open stays open."""
        before = resource.prlimit(self.node.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(self.node.pid, resource.RLIMIT_NOFILE, (limit, before[1]))
        try:
            yield
        finally:
            resource.prlimit(self.node.pid, resource.RLIMIT_NOFILE, before)


@pytest.fixture
def gated(make_node: MakeNode, tmp_path: Path) -> Gated:
    reached, gate, wrapper = (tmp_path / name for name in ("reached", "gate", "runtime"))
    gate.touch()
    wrapper.write_text(
        f'#!/bin/sh\ncase "$*" in *" create "*) touch {reached}; while [ ! -e {gate} ]; do sleep 0.02; done ;; esac\n'
        f'exec {RUNTIME} "$@"\n'
    )
    wrapper.chmod(0o755)
    node = make_node(name="poor", options={"cpu": "64", "memory": "64G", "runtime": str(wrapper)})
    return Gated(node, reached, gate)


@contextmanager
def connections(node: Node, count: int) -> Iterator[None]:
    """So many clients that say nothing."""
    opened = [socket.create_connection(("127.0.0.1", node.port)) for _ in range(count)]
    try:
        yield
    finally:
        for each in opened:
            each.close()


async def is_idle(gated: Gated) -> bool:
    began, cpu_s = time.monotonic(), gated.cpu_s()
    await trio.sleep(IDLE_S)
    return (gated.cpu_s() - cpu_s) / (time.monotonic() - began) < IDLE_SHARE


async def test_without_any_descriptor_what_runs_runs_on_and_what_starts_is_told_why(gated: Gated) -> None:
    """No log's next segment, no start, no connection, no look at the network has one; then there are some again."""
    async with Client(gated.node.address, gated.node.token, patience=0) as client:
        talker = await running(client, "sh", "-c", TALK)
        big = await running(client, "sh", "-c", BIG)
        brief = await running(client, "sh", "-c", "sleep 1; echo last words; exit 4")
        doomed = await running(client, "sleep", "1000")
        gated.gate.unlink()
        gated.reached.unlink()
        starting = [await spawn(client, "sh", "-c", "echo hi; exit 5") for _ in range(3)]
        await until(gated.reached.exists)
        with gated.limited(NONE_LEFT):
            gated.gate.touch()
            with pytest.raises(Unavailable, match="file descriptors"):
                await spawn(client, "true")
            await client.kill(doomed)
            with connections(gated.node, CLIENTS):
                assert await is_idle(gated)
        assert (await end_of(client, doomed)).reason is Reason.KILLED
        await check_end(client, talker, 7, "".join(f"{i}\n" for i in range(1, TALKED + 1)))
        await check_end(client, brief, 4, "last words\n")
        await check_end(client, big, 8, "".join(f"{i:04000d}\n" for i in range(1, BIG_LINES + 1)))
        for task_id in starting:
            check_start(await end_of(client, task_id))
        assert (await run(client, "true")).exit_code == 0
        await until(lambda: gated.node.api("GET", "/v1/status").is_success)
    check_told(gated.node)


async def check_end(client: Client, task_id: str, code: int, text: str) -> None:
    record = await end_of(client, task_id)
    assert (record.reason, record.exit_code) == (Reason.EXIT, code), record
    assert await printed(client, task_id) == text


def check_start(record: Record) -> None:
    """It started all the same, or is told why not; it is no fault of the image or the disk."""
    if record.reason is Reason.EXIT:
        assert record.exit_code == 5
    else:
        assert (record.status, record.reason, record.detail) == (Status.FAILED, Reason.START_ERROR, "runtime")
        assert record.message is not None
        assert "descriptors" in record.message or "open files" in record.message


def check_told(node: Node) -> None:
    """Each once for whom it concerns, however often it was tried again."""
    told = Counter(
        line.partition(', "timestamp"')[0]
        for line in node.log.read_text().splitlines()
        if "Too many open files" in line
    )
    assert told
    assert set(told.values()) == {1}, told


async def test_spawns_are_refused_before_the_last_descriptor_and_let_in_again(gated: Gated) -> None:
    """Also while more clients are connected than there are descriptors: those that have one are served."""
    async with Client(gated.node.address, gated.node.token, patience=0) as client:
        before = gated.open_files()
        with gated.limited(FEW):
            ids = await until_refused(client)
            assert len(ids) > 3
            with connections(gated.node, FEW):
                assert await is_idle(gated)
                assert (await client.get(ids[0])).status is Status.RUNNING
            with trio.fail_after(stretched(10)):
                await until(lambda: gated.node.api("GET", "/healthz").is_success)
            for task_id in ids:
                await client.kill(task_id, grace=0)
            for task_id in ids:
                assert (await end_of(client, task_id)).reason is Reason.KILLED

            async def let_in() -> bool:
                """The network is looked at every few seconds only."""
                with suppress(Unavailable):
                    return (await run(client, "true")).exit_code == 0
                return False

            await until(let_in)
        await until(lambda: gated.open_files() <= before + 4)


async def until_refused(client: Client) -> list[str]:
    """Tasks that run, as many as are let in."""
    ids: list[str] = []
    while True:
        try:
            ids.append(await running(client, "sleep", "1000"))
        except Unavailable as error:
            said = str(error)
            break
    assert "file descriptors" in said
    return ids
