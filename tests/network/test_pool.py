"""Ready namespaces: some in stock, made when there is nothing better to do, and at once when somebody waits."""

import os
from ipaddress import IPv4Address

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from mill.errors import NoCapacity, StartError
from mill.network.pool import Pool, Ready


@attrs.define
class Maker:
    """Makes what a pool holds, of pipes instead of namespaces."""

    made: int = 0
    fault: Exception | None = None
    takes_s: float = 0.01
    open: list[int] = attrs.field(factory=list)

    async def make(self) -> Ready:
        await trio.sleep(self.takes_s)
        if self.fault is not None:
            raise self.fault
        self.made += 1
        descriptor = os.memfd_create("ready")
        self.open.append(descriptor)
        return Ready(f"ready {self.made}", IPv4Address("10.99.0.1") + self.made, descriptor)


@pytest.mark.usefixtures("autojump_clock")
async def test_it_is_filled_in_the_background(nursery: trio.Nursery) -> None:
    maker = Maker()
    pool = Pool(maker.make, size=6)
    nursery.start_soon(pool.refill)
    await trio.sleep(5)
    assert (len(pool), maker.made) == (6, 6)
    ready = await pool.take()
    assert ready.path == f"/proc/{os.getpid()}/fd/{ready.descriptor}"
    await trio.sleep(5)
    assert (len(pool), maker.made) == (6, 7)
    os.close(ready.descriptor)
    pool.close()


@pytest.mark.usefixtures("autojump_clock")
async def test_many_at_once_wait_for_no_longer_than_the_making(nursery: trio.Nursery) -> None:
    maker = Maker()
    pool = Pool(maker.make, size=2)
    nursery.start_soon(pool.refill)
    began = trio.current_time()
    taken: list[Ready] = []

    async def take() -> None:
        taken.append(await pool.take())

    async with trio.open_nursery() as takers:
        for _ in range(20):
            takers.start_soon(take)
    assert len({ready.address for ready in taken}) == 20
    assert trio.current_time() - began <= 20 * maker.takes_s + 0.3
    for ready in taken:
        os.close(ready.descriptor)
    pool.close()


@pytest.mark.usefixtures("autojump_clock")
async def test_a_fault_is_told_to_who_waits_and_tried_again(nursery: trio.Nursery) -> None:
    maker = Maker(fault=OSError(95, "Operation not supported"))
    pool = Pool(maker.make, size=1)
    nursery.start_soon(pool.refill)
    with pytest.raises(StartError, match="no network namespace can be made: Operation not supported"):
        await pool.take()
    maker.fault = None
    os.close((await pool.take()).descriptor)
    pool.close()


@pytest.mark.usefixtures("autojump_clock")
async def test_without_a_free_address_it_waits_for_one(nursery: trio.Nursery) -> None:
    maker = Maker(fault=NoCapacity("none"))
    pool = Pool(maker.make, size=1)
    nursery.start_soon(pool.refill)
    with trio.move_on_after(10) as scope:
        await pool.take()
    assert scope.cancelled_caught
    maker.fault = None
    pool.refresh()
    os.close((await pool.take()).descriptor)
    await wait_all_tasks_blocked()
    pool.close()


@pytest.mark.usefixtures("autojump_clock")
async def test_closing_lets_go_of_what_is_ready(nursery: trio.Nursery) -> None:
    maker = Maker()
    pool = Pool(maker.make, size=3)
    nursery.start_soon(pool.refill)
    await trio.sleep(3)
    assert [ready.descriptor for ready in pool.close()] == maker.open
    for descriptor in maker.open:
        with pytest.raises(OSError):
            os.fstat(descriptor)
