"""Idempotency keys: one task for each, and what is kept of a key says neither it nor the request."""

import pytest
import trio

from mill.config import KEY_LIFETIME_S
from mill.convert import from_json, to_json
from mill.errors import Conflict, NoCapacity
from mill.model import Resources, Size, SpawnRequest, Status
from mill.tasks.keyed import sign
from tests.tasks.fakes import BUSYBOX, FOREVER
from tests.tasks.scene import Scene

REQUEST = SpawnRequest(image=BUSYBOX, env={"TOKEN": "hunter2"})
KEY = sign("k1", REQUEST)


def test_a_request_is_signed_as_it_means_not_as_it_was_spelt() -> None:
    spelt = {"memory": "2G", "image": BUSYBOX, "cpu": 1, "user": None}
    other = {"image": BUSYBOX, "cpu": 1.0, "memory": 2 * 1024**3}
    one, two = (sign("k", from_json(SpawnRequest, said, strict=True)) for said in (spelt, other))
    assert one == two
    assert one != sign("k", SpawnRequest(image=BUSYBOX, cpu=1.0, memory=Size(2 * 1024**3 + 1)))


def test_neither_key_nor_request_is_kept_and_equal_requests_look_different() -> None:
    said = str(to_json(KEY))
    assert "k1" not in said
    assert "hunter2" not in said
    other = sign("k2", REQUEST)
    assert (other.key, other.body) != (KEY.key, KEY.body)
    assert other.body != KEY.body


async def test_a_key_said_again_is_the_same_task_as_it_is_now(scene: Scene) -> None:
    async with scene.milld() as tasks:
        made = await tasks.spawn(REQUEST, {}, KEY)
        await tasks.wait(made.id, "running", FOREVER)
        again = await tasks.spawn(REQUEST, {}, KEY)
        assert (again.id, again.status) == (made.id, Status.RUNNING)
        assert len(tasks.table) == 1
        assert (await tasks.spawn(REQUEST, {}, sign("k2", REQUEST))).id != made.id
        assert (await tasks.spawn(REQUEST, {})).id != made.id


async def test_a_key_of_another_request_is_a_conflict_that_names_its_task(scene: Scene) -> None:
    async with scene.milld() as tasks:
        made = await tasks.spawn(REQUEST, {}, KEY)
        other = SpawnRequest(image=BUSYBOX, env={"TOKEN": "other"})
        with pytest.raises(Conflict, match=f"Idempotency-Key.*{made.id}"):
            await tasks.spawn(other, {}, sign("k1", other))
        assert len(scene.records.rows) == 1


async def test_requests_at_once_with_one_key_make_one_task(scene: Scene) -> None:
    scene.records.write_s = 1.0
    ids = []
    async with scene.milld() as tasks:

        async def ask() -> None:
            ids.append((await tasks.spawn(REQUEST, {}, KEY)).id)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask)
    assert len(ids) == 5
    assert len(set(ids)) == len(scene.records.rows) == 1


async def test_a_key_whose_spawn_was_refused_is_free(scene: Scene) -> None:
    scene.capacity = Resources(0.25, 2**30)
    async with scene.milld() as tasks:
        first = await tasks.spawn(SpawnRequest(image=BUSYBOX), {})
        with pytest.raises(NoCapacity):
            await tasks.spawn(REQUEST, {}, KEY)
        await tasks.kill(first.id, "ann", signal=9, grace=None)
        await tasks.wait(first.id, "terminal", FOREVER)
        await trio.testing.wait_all_tasks_blocked()
        made = await tasks.spawn(REQUEST, {}, KEY)
        assert (await tasks.spawn(REQUEST, {}, KEY)).id == made.id  # there is no room: none is needed


async def test_a_key_is_known_to_the_next_milld_and_for_a_day(scene: Scene) -> None:
    async with scene.milld() as tasks:
        made = await tasks.spawn(REQUEST, {}, KEY)
    async with scene.milld() as tasks:
        assert (await tasks.spawn(REQUEST, {}, KEY)).id == made.id
        scene.clock.jump_s += KEY_LIFETIME_S
        assert (await tasks.spawn(REQUEST, {}, KEY)).id != made.id
