"""What the scenarios do over and over: spawn small tasks, wait for something, read what was printed. Called by them only."""

import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

from mill.client import Client
from mill.model import Record
from tests import leaks
from tests.node import Node
from tests.pace import stretched

SMALL: dict[str, Any] = {"image": "busybox", "cpu": 0.5, "memory": "32M", "grace": 0.3}
"""Enough to start fast, little enough to have many."""
EAT = "a=x; while :; do a=$a$a; done"
"""A shell script that takes memory until it dies of it."""
WITHIN_S = stretched(20)
"""For what takes well under a second on an idle machine."""
POLL_S = 0.02


async def spawn(client: Client, *args: str, **fields: Any) -> str:
    """A task's id; *args* replace the image's CMD."""
    said = {**SMALL, **({"args": args} if args else {}), **fields}
    return (await client.spawn(**said)).id


async def running(client: Client, *args: str, **fields: Any) -> str:
    """The id of a task that runs."""
    task_id = await spawn(client, *args, **fields)
    record = await client.wait(task_id, "running", timeout=WITHIN_S)
    assert record.status == "running", record
    return task_id


async def end_of(client: Client, task_id: str) -> Record:
    record = await client.wait(task_id, timeout=WITHIN_S)
    assert record.status.terminal, record
    return record


async def run(client: Client, *args: str, **fields: Any) -> Record:
    """A task from its spawn to its end."""
    return await end_of(client, await spawn(client, *args, **fields))


async def cleaned_up(client: Client, task_id: str) -> Record:
    """The record of an ended task of which nothing else is left: its last version."""

    async def clean() -> bool:
        return (await client.get(task_id)).times.cleaned is not None

    await until(clean)
    return await client.get(task_id)


async def printed(client: Client, task_id: str, **query: Any) -> str:
    """Both streams, or as *query* says, up to now."""
    return b"".join([line.data async for line in client.logs(task_id, follow=False, **query)]).decode()


async def said(client: Client, script: str, **fields: Any) -> str:
    """What a shell *script* printed, once it has ended well."""
    record = await run(client, "sh", "-c", script, **fields)
    text = await printed(client, record.id)
    assert record.exit_code == 0, (record.message, text)
    return text


async def until_printed(client: Client, task_id: str, text: str) -> None:
    """Return as soon as the task has printed a line with *text*."""
    with trio.fail_after(WITHIN_S):
        async with client.logs(task_id) as log:
            async for line in log:
                if text in line.data.decode():
                    return
    raise AssertionError(f"{task_id} ended without printing {text!r}")


async def until(
    condition: Callable[[], Awaitable[bool]] | Callable[[], bool], within_s: float = WITHIN_S
) -> None:
    """Poll what nothing announces."""
    with trio.fail_after(within_s):
        while True:
            answer = condition()
            if answer if isinstance(answer, bool) else await answer:
                return
            await trio.sleep(POLL_S)


def process_of(node: Node, *words: str) -> int:
    """The pid of the one process of the node whose command line holds all *words*."""
    found = [pid for pid, line in leaks.processes(node.site()) if all(word in line for word in words)]
    assert len(found) == 1, (words, found)
    return found[0]


def shim_of(node: Node, task_id: str) -> int:
    return process_of(node, "containerd-shim", f"-id {task_id}")


def pid_one(node: Node, task_id: str) -> int:
    """The host's pid of the container's first process."""
    state = node.data_dir / "containerd/state/io.containerd.runtime.v2.task/mill" / task_id / "init.pid"
    return int(state.read_text())


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def cgroup_value(node: Node, task_id: str, v1: str, v2: str) -> str:
    """One file of the task's control group; *v1* begins with the controller. crun limits one below systemd's scope."""
    controller, _, name = v1.partition("/")
    group = node.cgroup(task_id)
    old, scope = leaks.CGROUPS / controller / group / name, leaks.CGROUPS / group
    found = [path for path in (old, scope / v2, scope / "container" / v2) if path.exists()]
    values = [path.read_text().strip() for path in found]
    return next((value for value in values if not value.startswith("max")), values[0])


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def problem_of(text: str) -> dict[str, Any]:
    """An ``application/problem+json`` body."""
    problem: dict[str, Any] = json.loads(text)
    assert problem["type"].startswith("urn:mill:problem:"), problem
    assert "\n" not in problem["detail"], problem
    return problem
