"""The database locked by somebody else, damaged, or gone: told, survived, rebuilt from what containerd knows."""

import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import trio

from mill.client import Client
from mill.errors import Unavailable
from mill.model import Reason, Record, Status
from tests.node import Node
from tests.scenarios.acts import end_of, printed, run, running, spawn, until, until_printed


@contextmanager
def locked(node: Node) -> Iterator[None]:
    """The database as a backup program that takes its time would hold it."""
    with closing(sqlite3.connect(node.data_dir / "mill.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def told(node: Node, event: str) -> list[str]:
    return [line for line in node.log.read_text().splitlines() if f'"event": "{event}' in line]


async def test_a_locked_database_holds_an_end_back_and_refuses_spawns(fresh_node: Node) -> None:
    async with Client(fresh_node.address, fresh_node.token, patience=0) as client:
        brief = await running(client, "sh", "-c", "sleep 0.5; exit 4")
        doomed = await running(client, "sleep", "100", grace=0.1)
        with locked(fresh_node):
            with trio.fail_after(5):
                await client.kill(doomed)
            answers: list[str] = []
            try:
                await spawn(client, "true")
            except Unavailable as error:
                answers.append(str(error))
            assert answers
            assert "locked" in answers[0]
            await until(lambda: len(told(fresh_node, "cannot store a task's state yet; holding it")) == 2)
            assert (await client.get(brief)).status == Status.RUNNING
            assert fresh_node.api("GET", "/healthz").status_code == 200
        assert (await end_of(client, brief)).exit_code == 4
        assert (await end_of(client, doomed)).reason == Reason.KILLED
        assert (await run(client, "true")).exit_code == 0
        assert len(told(fresh_node, "cannot store a task's state yet; holding it")) == 2


async def test_a_damaged_database_is_set_aside_when_told_and_running_tasks_go_on(fresh_node: Node) -> None:
    async with Client(fresh_node.address, fresh_node.token) as client:
        before = await prepared(client)
        await trio.to_thread.run_sync(fresh_node.terminate)
        path = fresh_node.data_dir / "mill.db"
        damaged = bytearray(path.read_bytes())
        damaged[2000:6000] = b"x" * 4000
        path.write_bytes(damaged)
        assert "--rebuild-records" in await trio.to_thread.run_sync(refusal, fresh_node)
        fresh_node.options = {**fresh_node.options, "rebuild-records": "true"}
        await trio.to_thread.run_sync(fresh_node.start)
        kept = list(fresh_node.data_dir.glob("mill.db.damaged-*Z"))
        assert [file.read_bytes() for file in kept] == [bytes(damaged)]
        await check_rebuilt(fresh_node, client, before)


async def test_a_database_that_is_gone_is_rebuilt_without_being_told(fresh_node: Node) -> None:
    """Also of a task that ended while milld was away: its end is the true one."""
    async with Client(fresh_node.address, fresh_node.token) as client:
        before = await prepared(client)
        brief = await running(client, "sh", "-c", "sleep 0.5; echo bye; exit 6")
        await trio.to_thread.run_sync(fresh_node.kill9)
        for file in fresh_node.data_dir.glob("mill.db*"):
            file.unlink()
        await trio.to_thread.run_sync(fresh_node.start)
        assert (await end_of(client, brief)).exit_code == 6
        assert await printed(client, brief) == "bye\n"
        await check_rebuilt(fresh_node, client, before, count=2)


async def prepared(client: Client) -> Record:
    """A task that runs, beside one that has ended, with what only its record knows."""
    await run(client, "true")
    script = "echo began; while [ ! -e /tmp/go ]; do sleep 0.05; done; exit 3"
    task_id = await running(
        client, "sh", "-c", script, env={"SECRET": "hush"}, labels={"a": "b"}, timeout=600
    )
    await until_printed(client, task_id, "began")
    return await client.get(task_id)


async def check_rebuilt(node: Node, client: Client, before: Record, count: int = 1) -> None:
    """The same task, still running since the same moment, with its log; and it can be killed."""
    after = await client.wait(before.id, "running", timeout=20)
    assert (after.status, after.spec, after.address) == (Status.RUNNING, before.spec, before.address)
    assert before.times.started is not None
    assert after.times.started is not None
    assert abs(after.times.started - before.times.started) < 1.0
    lines = told(node, "rebuilt records of tasks that only containerd knew")
    assert [f'"count": {count}' in line for line in lines] == [True]
    assert told(node, "removed leftovers of tasks that no record knows") == []
    await client.kill(after.id, grace=0)
    ended = await end_of(client, after.id)
    assert (ended.reason, await printed(client, after.id)) == (Reason.KILLED, "began\n")
    assert (await run(client, "true")).exit_code == 0


def refusal(node: Node) -> str:
    """What milld says that does not start."""

    done = subprocess.run(
        node.command(), check=False, capture_output=True, text=True, env=node.env(), timeout=30
    )
    assert (done.returncode, done.stdout) == (2, "")
    said = [line for line in done.stderr.splitlines() if line.startswith("milld: ")]
    assert len(said) == 1, done.stderr
    assert Path(node.data_dir / "mill.db").name in said[0]
    return said[0]
