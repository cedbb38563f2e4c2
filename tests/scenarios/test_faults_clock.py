"""The wall clock jumps by hours, forward and back, while tasks start, run and end: no deadline moves, nothing goes too early."""

import sys
import time
from pathlib import Path

import attrs
import pytest
import trio

from mill.client import Client
from mill.model import Reason, Record, Status
from tests.node import RUNTIME, MakeNode, Node
from tests.pace import stretched
from tests.scenarios.acts import WITHIN_S, end_of, run, running, spawn, until

SHIFTED = [sys.executable, "-m", "tests.scenarios.shifted_milld"]
HOURS_S = 7 * 3600.0
TIMEOUT_S = stretched(4)
RETENTION_S = 8
LATE_S = stretched(6)
"""What a loaded machine may add to a deadline."""


@attrs.define
class Jumpy:
    """A node whose wall clock jumps when it is told to, and whose runtime starts containers at a gate."""

    node: Node
    shift: Path
    reached: Path
    gate: Path

    def jump(self, by_s: float) -> None:
        """The wall clock is off by so much from now on; at once, as a clock is set."""
        fresh = self.shift.with_suffix(".new")
        fresh.write_text(str(by_s))
        fresh.replace(self.shift)


@pytest.fixture
def jumpy(make_node: MakeNode, tmp_path: Path) -> Jumpy:
    shift, reached, gate, wrapper = (tmp_path / name for name in ("shift", "reached", "gate", "runtime"))
    shift.write_text("0")
    gate.touch()
    wrapper.write_text(
        f'#!/bin/sh\ncase "$*" in *" start "*) touch {reached}; while [ ! -e {gate} ]; do sleep 0.02; done ;; esac\n'
        f'exec {RUNTIME} "$@"\n'
    )
    wrapper.chmod(0o755)
    node = make_node(
        name="jumpy",
        program=SHIFTED,
        options={
            "cpu": "64",
            "memory": "64G",
            "runtime": str(wrapper),
            "log-retention-secs": str(RETENTION_S),
        },
        environ={"FAULT_SHIFT": str(shift)},
    )
    return Jumpy(node, shift, reached, gate)


@pytest.mark.parametrize("by_s", [HOURS_S, -HOURS_S], ids=["forward", "back"])
async def test_a_wall_clock_that_jumps_moves_no_deadline_and_expires_no_record(
    jumpy: Jumpy, by_s: float
) -> None:
    """One task is being started, one runs and one has ended; then milld is killed and back."""
    async with Client(jumpy.node.address, jumpy.node.token) as client:
        lasting = await running(client, "sleep", "1000")
        ended = await run(client, "sh", "-c", "exit 3")
        ended_at = time.monotonic()
        doomed = await running(client, "sleep", "1000", timeout=TIMEOUT_S)
        ran_from = time.monotonic()
        jumpy.gate.unlink()
        jumpy.reached.unlink()
        starting = await spawn(client, "sleep", "1000", timeout=TIMEOUT_S)
        await until(jumpy.reached.exists)
        jumpy.jump(by_s)
        jumpy.gate.touch()
        let_go = time.monotonic()
        assert (await client.wait(starting, "running", timeout=WITHIN_S)).status is Status.RUNNING
        await trio.to_thread.run_sync(lambda: jumpy.node.restart("kill9"))
        assert (await client.get(lasting)).status is Status.RUNNING
        await check_timed_out(client, doomed, ran_from)
        await check_timed_out(client, starting, let_go)
        await until_forgotten(jumpy.node, ended)
        assert RETENTION_S - 1 < time.monotonic() - ended_at < RETENTION_S + 2 * LATE_S
        assert (await run(client, "true")).exit_code == 0
        await client.kill(lasting)
        assert (await end_of(client, lasting)).reason is Reason.KILLED


async def check_timed_out(client: Client, task_id: str, began: float) -> None:
    """It ended by its timeout, counted from then: neither sooner nor hours later."""
    record = await end_of(client, task_id)
    assert (record.status, record.reason) == (Status.FAILED, Reason.TIMEOUT), record
    assert TIMEOUT_S - 1 < time.monotonic() - began < TIMEOUT_S + LATE_S


async def until_forgotten(node: Node, record: Record) -> None:
    await until(lambda: node.api("GET", f"/v1/tasks/{record.id}").status_code == 404)
