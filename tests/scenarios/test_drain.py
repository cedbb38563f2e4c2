"""Draining a node: no new task, what runs runs on, through a restart; and waiting until none is left."""

import pytest
import trio

from mill.client import Client, NotFound
from mill.errors import Unavailable
from mill.model import NodeState
from tests.node import Node
from tests.scenarios.acts import end_of, run, running, spawn


async def test_a_drained_node_lets_no_task_in_until_it_is_undrained(fresh_node: Node) -> None:
    async with Client(fresh_node.address, fresh_node.token, patience=0) as client:
        assert (await client.status()).state == NodeState.ALIVE
        task_id = await running(client, "sleep", "100")
        view = await client.drain("fresh")
        assert (view.name, view.state, view.id) == ("fresh", NodeState.DRAINING, fresh_node.node_id)
        with pytest.raises(Unavailable, match="is being drained"):
            await spawn(client, "true")
        await trio.to_thread.run_sync(fresh_node.restart)
        assert (await client.status()).state == NodeState.DRAINING
        with pytest.raises(Unavailable, match="is being drained"):
            await spawn(client, "true")
        assert (await client.get(task_id)).status == "running"
        await client.kill(task_id, grace=0)
        await end_of(client, task_id)
        assert [node.state for node in await client.nodes()] == [NodeState.DRAINED]
        with pytest.raises(NotFound):
            await client.undrain("other")
        assert (await client.undrain(fresh_node.node_id)).state == NodeState.ALIVE
        assert (await run(client, "true")).exit_code == 0


async def test_drain_wait_returns_when_the_last_task_has_ended(fresh_node: Node) -> None:
    async with Client(fresh_node.address, fresh_node.token) as client:
        task_id = await running(client, "sleep", "100")
        late = fresh_node.mill("nodes", "drain", "--wait", "--timeout", "0.3", check=False)
        assert (late.returncode, late.stdout) == (1, "")
        assert "still has 1 tasks" in late.stderr
        said: list[str] = []

        async def wait() -> None:
            done = await trio.to_thread.run_sync(fresh_node.mill, "nodes", "drain", "fresh", "--wait")
            said.append(done.stdout)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.sleep(0.5)  # it has nothing to say until the task has ended
            assert said == []
            await client.kill(task_id, grace=0)
        assert said == ["fresh has no task left\n"]
        assert "drained" in fresh_node.mill("nodes").stdout
        assert "takes no new task" in fresh_node.mill("status").stdout
        assert fresh_node.mill("nodes", "undrain").stdout == "fresh takes new tasks\n"
