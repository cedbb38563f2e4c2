"""Layers made ahead, on a real containerd: taken once, by the task they are named after, and gone when nobody wants them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from mill.containerd import reference, rpcs, spares
from mill.containerd.proto import snapshots_pb2
from mill.containerd.session import Session
from mill.containerd.spares import Spares
from tests.containerd.tasks import BUSYBOX, NODE_ID, Lab
from tests.scenarios.acts import until


class Clock:
    """Moves when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def kept(session: Session, clock: Clock) -> AsyncIterator[Spares]:
    made: list[int] = []

    def new_id(name: str) -> str:
        made.append(1)
        return f"{name}-s{len(made)}"

    found = Spares(session, NODE_ID, new_id, clock)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(found.keep)
        yield found
        nursery.cancel_scope.cancel()


async def layers(session: Session) -> set[str]:
    request = snapshots_pb2.ListSnapshotsRequest(
        snapshotter=session.features.snapshotter, filters=[f'labels."mill.node"=={NODE_ID}']
    )
    answers = await session.collect(rpcs.SNAPSHOTS_LIST, request)
    return {info.name for answer in answers for info in answer.info if info.kind == snapshots_pb2.ACTIVE}


async def chain_of(lab: Lab) -> str:
    image = await lab.images.find(BUSYBOX)
    assert image is not None
    return image.chain_id


async def test_a_layer_that_was_wanted_is_there_and_is_taken_once_by_its_own_task(lab: Lab) -> None:
    chain_id = await chain_of(lab)
    async with kept(lab.session, Clock()) as ahead:
        assert ahead.id_for("agent", BUSYBOX) is None
        ahead.want("agent", BUSYBOX, chain_id)
        await until(lambda: ahead.id_for("agent", BUSYBOX) == "agent-s1")
        assert await layers(lab.session) == {"agent-s1"}
        assert ahead.take("agent", BUSYBOX, "agent-other", chain_id) is None
        assert ahead.take("other", BUSYBOX, "agent-s1", chain_id) is None
        mounts = ahead.take("agent", BUSYBOX, "agent-s1", chain_id)
        assert mounts is not None
        assert mounts[0].type == "overlay"
        assert ahead.take("agent", BUSYBOX, "agent-s1", chain_id) is None
        assert await layers(lab.session) == {"agent-s1"}  # its task's now
    await spares_gone(lab, {"agent-s1"})


async def spares_gone(lab: Lab, but: set[str]) -> None:
    assert await layers(lab.session) == but
    for name in but:
        request = snapshots_pb2.RemoveSnapshotRequest(snapshotter=lab.session.features.snapshotter, key=name)
        await lab.session.call(rpcs.SNAPSHOTS_REMOVE, request)


async def test_one_on_another_image_is_not_taken_for_it(lab: Lab) -> None:
    async with kept(lab.session, Clock()) as ahead:
        ahead.want("agent", BUSYBOX, await chain_of(lab))
        await until(lambda: ahead.id_for("agent", BUSYBOX) is not None)
        assert ahead.take("agent", BUSYBOX, "agent-s1", "sha256:" + "0" * 64) is None
        assert ahead.id_for("agent", BUSYBOX) is None
    await spares_gone(lab, {"agent-s1"})


async def test_what_nobody_takes_goes_after_a_while_and_all_of_it_at_the_end(lab: Lab) -> None:
    chain_id, clock = await chain_of(lab), Clock()
    async with kept(lab.session, clock) as ahead:
        for number in range(spares.MOST + 2):
            ahead.want(f"n{number}", BUSYBOX, chain_id)
            await until(lambda number=number: ahead.id_for(f"n{number}", BUSYBOX) is not None)

        async def few() -> bool:
            return len(await layers(lab.session)) == spares.MOST

        await until(few)
        clock.now += spares.IDLE_S
        ahead.want("late", BUSYBOX, chain_id)

        async def only_late() -> bool:
            return {name.rpartition("-")[0] for name in await layers(lab.session)} == {"late"}

        await until(only_late)
    await spares_gone(lab, set())


async def test_an_image_that_is_removed_takes_its_spare_layers_along(lab: Lab) -> None:
    chain_id = await chain_of(lab)
    async with kept(lab.session, Clock()) as ahead:
        lab.images.stock.let_go = ahead.drop
        try:
            ahead.want("agent", BUSYBOX, chain_id)
            await until(lambda: ahead.id_for("agent", BUSYBOX) is not None)
            await lab.images.stock.delete(reference.parse(BUSYBOX).normalised)
            assert await layers(lab.session) == set()
            ahead.want("agent", BUSYBOX, chain_id)  # too late: nothing comes of it
            ahead.want("none", BUSYBOX, chain_id)
            await until(lambda: not ahead._wanted)
        finally:
            lab.images.stock.let_go = trio.lowlevel.checkpoint
    await spares_gone(lab, set())
