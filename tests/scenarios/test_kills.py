"""A kill in each state: mid-pull, mid-start, while running; obeyed, ignored, hurried, with a signal of one's own."""

import signal
from pathlib import Path

import trio

from mill.client import Client
from mill.model import Reason, Status
from tests.node import RUNTIME, MakeNode, Node
from tests.pace import stretched
from tests.scenarios.acts import (
    alive,
    children_of,
    end_of,
    pid_one,
    printed,
    run,
    running,
    spawn,
    until,
    until_printed,
)
from tests.scenarios.bad_registry import BadRegistry

OBEYS = "trap 'echo told; exit 0' TERM; echo ready; while :; do sleep 0.02; done"


async def test_the_201_comes_before_the_pull_and_a_kill_ends_it_at_once(
    client: Client, bad: BadRegistry
) -> None:
    bad.stall = True
    with trio.fail_after(stretched(2)):
        spawned = await client.spawn(image=f"{bad.host}/never/comes:1", memory="32M")
    assert spawned.status == Status.PULLING
    assert await trio.to_thread.run_sync(bad.stalled.wait, 20)
    began = trio.current_time()
    await client.kill(spawned.id)
    record = await end_of(client, spawned.id)
    assert trio.current_time() - began < stretched(2)
    assert (record.status, record.reason, record.exit_code) == (Status.STOPPED, Reason.KILLED, None)
    assert record.times.started is None
    assert record.times.pulled is None


async def test_the_bytes_of_a_pull_are_reported_while_it_goes(client: Client, bad: BadRegistry) -> None:
    bad.stall = True
    task_id = await spawn(client, image=f"{bad.host}/half/way:1")
    assert await trio.to_thread.run_sync(bad.stalled.wait, 20)

    async def halfway() -> bool:
        pull = (await client.get(task_id)).pull
        return pull is not None and pull.total is not None and 0 < pull.done < pull.total

    await until(halfway)
    bad.go_on.set()
    record = await end_of(client, task_id)
    assert (record.status, record.pull) == (Status.STOPPED, None), record.message


async def test_a_kill_while_starting_leaves_nothing(make_node: MakeNode, tmp_path: Path) -> None:
    """The runtime is runc behind a gate, so that `starting` lasts for as long as the test wants."""
    gate, reached, wrapper = tmp_path / "gate", tmp_path / "reached", tmp_path / "runtime"
    wrapper.write_text(
        f'#!/bin/sh\ncase "$*" in *" create "*) touch {reached}; while [ ! -e {gate} ]; do sleep 0.02; done ;; esac\n'
        f'exec {RUNTIME} "$@"\n'
    )
    wrapper.chmod(0o755)
    node = make_node(name="gated", options={"cpu": "4", "memory": "4G", "runtime": str(wrapper)})
    async with Client(node.address, node.token) as client:
        task_id = await spawn(client, "sleep", "100")
        await until(reached.exists)
        assert (await client.get(task_id)).status == Status.STARTING
        await client.kill(task_id, grace=0)
        gate.touch()
        record = await end_of(client, task_id)
        assert (record.status, record.reason) == (Status.STOPPED, Reason.KILLED), record.message
        assert (await run(client, "true")).exit_code == 0


async def test_an_obeying_task_gets_its_grace(client: Client) -> None:
    task_id = await spawn(client, "sh", "-c", OBEYS, grace=stretched(20))
    await until_printed(client, task_id, "ready")
    answer = await client.kill(task_id)
    assert not answer.status.terminal
    record = await end_of(client, task_id)
    assert (record.status, record.reason, record.exit_code) == (Status.STOPPED, Reason.KILLED, 0)
    assert "told" in await printed(client, task_id)


async def test_a_task_that_ignores_its_signal_is_killed_after_its_grace(client: Client) -> None:
    task_id = await running(client, "sleep", "100")
    began = trio.current_time()
    await client.kill(task_id, grace=0.5)
    record = await end_of(client, task_id)
    assert 0.5 <= trio.current_time() - began < stretched(4)
    assert (record.status, record.reason, record.signal) == (Status.STOPPED, Reason.KILLED, signal.SIGKILL)
    assert "SIGKILL" in (record.message or "")


async def test_a_second_kill_hurries_the_first(client: Client) -> None:
    task_id = await running(client, "sleep", "100")
    await client.kill(task_id, grace=stretched(60))
    began = trio.current_time()
    await client.kill(task_id, grace=0)
    record = await end_of(client, task_id)
    assert trio.current_time() - began < stretched(3)
    assert record.reason == Reason.KILLED


async def test_a_signal_of_one_s_own_and_the_spec_s_stop_signal(client: Client) -> None:
    script = (
        'for s in INT USR1; do trap "echo got $s; exit 0" $s; done; echo ready; while :; do sleep 0.02; done'
    )
    for kill, stop_signal, got in (("INT", None, "got INT"), (None, "SIGUSR1", "got USR1")):
        task_id = await spawn(
            client,
            "sh",
            "-c",
            script,
            grace=stretched(20),
            **({"stop_signal": stop_signal} if stop_signal else {}),
        )
        await until_printed(client, task_id, "ready")
        await client.kill(task_id, signal=kill)
        record = await end_of(client, task_id)
        assert record.reason == Reason.KILLED
        assert got in await printed(client, task_id)


async def test_a_kill_reaches_every_process_of_the_container(client: Client, node: Node) -> None:
    task_id = await running(client, "sh", "-c", "sleep 1000 & sleep 1000 & wait")
    first = pid_one(node, task_id)
    await until(lambda: len(children_of(first)) == 2)
    pids = children_of(first)
    await client.kill(task_id, grace=0)
    await end_of(client, task_id)
    assert not any(alive(pid) for pid in pids)


async def test_killing_from_the_command_line(client: Client, node: Node) -> None:
    task_id = await running(client, "sleep", "100")
    node.mill("kill", task_id, "--grace", "0")
    record = await end_of(client, task_id)
    assert record.reason == Reason.KILLED
    assert node.mill("kill", task_id).returncode == 0
