"""Many tasks: 200 one after another, 40 at 8 in parallel; every result true, nothing left, milld's memory flat."""

import trio

from mill.client import Client
from mill.model import Reason
from tests.node import Node
from tests.scenarios.acts import end_of, printed, spawn

ONE_BY_ONE = 200
AT_ONCE = 8
IN_PARALLEL = 40
WARM_UP = 60
GROWTH_BYTES = 6 * 1024**2
"""Over 180 tasks after the warm-up: the caches of the allocator and of SQLite breathe, a leak of one record each does not fit."""


async def one(client: Client, number: int) -> None:
    """A task whose end and output are known beforehand."""
    task_id = await spawn(client, "sh", "-c", f"echo {number}; exit {number % 7}", name="load")
    record = await end_of(client, task_id)
    assert (record.reason, record.exit_code) == (Reason.EXIT, number % 7), record.message
    assert await printed(client, task_id) == f"{number}\n"


async def test_200_tasks_and_40_at_8_in_parallel(fresh_node: Node) -> None:
    sizes = []
    async with Client(fresh_node.address, fresh_node.token) as client:
        began = trio.current_time()
        for number in range(ONE_BY_ONE):
            await one(client, number)
            if number >= WARM_UP and number % 20 == 0:
                sizes.append(fresh_node.rss_bytes())
        sequential_s = trio.current_time() - began
        limit = trio.CapacityLimiter(AT_ONCE)

        async def limited(number: int) -> None:
            async with limit:
                await one(client, number)

        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            for number in range(IN_PARALLEL):
                nursery.start_soon(limited, number)
        parallel_s = trio.current_time() - began
    sizes.append(fresh_node.rss_bytes())
    print(
        f"\n{ONE_BY_ONE} one by one: {ONE_BY_ONE / sequential_s:.1f}/s; {IN_PARALLEL} at {AT_ONCE}: {IN_PARALLEL / parallel_s:.1f}/s;"
    )
    print("milld resident, MB:", " ".join(f"{size / 1e6:.1f}" for size in sizes))
    assert max(sizes) - sizes[0] < GROWTH_BYTES, sizes
    assert len({record["id"] for record in fresh_node.records()}) == ONE_BY_ONE + IN_PARALLEL
