"""Three real nodes: whichever is asked, the answer is the same; and a leader that is killed costs nobody a task."""

import signal
import subprocess
from collections import Counter
from collections.abc import Iterator

import pytest
import trio

from mill.client import Client, Spawned
from mill.model import Status
from tests.node import MILL
from tests.pace import stretched
from tests.scenarios import company as companies
from tests.scenarios.acts import end_of, printed
from tests.scenarios.company import TASK, Company, wait

SPAWNS_A_SECOND = 5
SPAWNING_S = 4.0
SLOW_S = stretched(2.0)


@pytest.fixture(scope="module")
def company() -> Iterator[Company]:
    with companies.company() as made:
        yield made


def client_of(company: Company, number: int) -> Client:
    return Client(company[number].address, company[number].token)


async def spawn(client: Client, *args: str, **fields: object) -> Spawned:
    return await client.spawn(**{**TASK, "args": args, **fields})


async def test_tasks_spread_and_every_node_answers_for_each(company: Company) -> None:
    async with client_of(company, 2) as client:
        made = [await spawn(client, "sh", "-c", f"echo {number}; sleep 1000") for number in range(30)]
    at = Counter(task.node for task in made)
    assert set(at) == {"node-1", "node-2", "node-3"}, at
    assert min(at.values()) >= 5, at
    ids = sorted(task.id for task in made)
    await trio.to_thread.run_sync(wait, "30 containers", lambda: company.containers() == ids)
    for number in (1, 2, 3):
        async with client_of(company, number) as client:
            for index, task in list(enumerate(made))[::5]:
                record = await client.wait(task.id, "running")
                assert (record.node, record.status) == (task.node, Status.RUNNING)
                assert await printed(client, task.id) == f"{index}\n"
            await client.kill(made[number].id, grace=0)
            ended = await end_of(client, made[number].id)
            assert ended.message == "killed by admin with SIGKILL"


async def test_a_follow_a_run_and_a_wait_work_through_any_node(company: Company) -> None:
    script = "for i in 1 2 3; do echo $i; sleep 0.3; done; exit 7"
    for number in (1, 2, 3):
        async with client_of(company, number) as client:
            task = await spawn(client, "sh", "-c", script)
        for other in (1, 2, 3):
            async with client_of(company, other) as client:
                lines = [line.data async for line in client.logs(task.id)]
                assert b"".join(lines) == b"1\n2\n3\n"
                assert (await client.wait(task.id)).exit_code == 7


def test_the_command_is_the_same_on_any_node(company: Company) -> None:
    options = ("--image", "busybox", "--memory", "16M", "--network", "none", "--cpu", "0.05")
    for number in (1, 2, 3):
        done = company[number].mill("run", "-q", *options, "--", "sh", "-c", "echo out; exit 3", check=False)
        assert (done.returncode, done.stdout) == (3, "out\n"), done.stderr
    said = company[1].mill("spawn", *options, "--", "sleep", "1000").stdout
    task_id = said.split()[1]
    follow = subprocess.Popen(
        [*MILL, "logs", "-f", task_id], env=company[2].env(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    company[3].mill("kill", "--grace", "0", task_id)
    assert company[2].mill("wait", task_id, check=False).returncode == 128 + signal.SIGKILL
    assert follow.communicate(timeout=stretched(10))[0] == b""
    assert "killed by admin" in company[1].mill("inspect", task_id).stdout


async def test_one_key_at_all_nodes_at_once_is_one_task(company: Company) -> None:
    ids: list[str] = []

    async def ask(number: int) -> None:
        async with client_of(company, number) as client:
            task = await spawn(client, "sleep", "1000", name="once", idempotency_key="all-at-once")
            ids.append(task.id)

    async with trio.open_nursery() as nursery:
        for number in (1, 2, 3, 1, 2, 3):
            nursery.start_soon(ask, number)
    assert (len(ids), len(set(ids))) == (6, 1)
    await trio.to_thread.run_sync(wait, "its container", lambda: company.containers("once-") == [ids[0]])


async def test_a_leader_that_is_killed_while_others_spawn_costs_no_task(company: Company) -> None:
    """Nobody sees an error, and what was answered exists once."""
    leader = company.leader
    number = next(number for number in (2, 3, 1) if company[number] is not leader)
    made: list[Spawned] = []
    took: list[float] = []

    async def one(client: Client) -> None:
        began = trio.current_time()
        made.append(await spawn(client, "sleep", "1000", name="under"))
        took.append(trio.current_time() - began)

    async with client_of(company, number) as client, trio.open_nursery() as nursery:
        for turn in range(int(SPAWNS_A_SECOND * SPAWNING_S)):
            nursery.start_soon(one, client)
            if turn == SPAWNS_A_SECOND:
                nursery.start_soon(trio.to_thread.run_sync, leader.kill9)
            await trio.sleep(1 / SPAWNS_A_SECOND)
    print(
        f"{len(made)} spawns, the slowest took {max(took):.2f} s, the median {sorted(took)[len(took) // 2]:.3f} s"
    )
    assert len(made) == SPAWNS_A_SECOND * SPAWNING_S
    assert sum(seconds > SLOW_S for seconds in took) <= 1, sorted(took)[-5:]
    await trio.to_thread.run_sync(leader.start)
    ids = sorted(task.id for task in made)
    await trio.to_thread.run_sync(wait, "one container each", lambda: company.containers("under-") == ids)
    async with client_of(company, number) as client:
        for task in made[::5]:
            assert (await client.get(task.id)).status in {Status.STARTING, Status.RUNNING}
