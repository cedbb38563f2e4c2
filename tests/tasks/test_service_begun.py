"""A start that is begun while its row is being committed: nothing of the user's runs before, and nothing is left if there is no row."""

import pytest
import trio

from mill.errors import NoSpace
from mill.model import Resources, SpawnRequest, Status, Task
from tests.tasks.fakes import BUSYBOX
from tests.tasks.scene import Scene, make_record, spawn


async def test_a_start_that_was_begun_before_its_row_failed_is_undone_and_has_no_log(scene: Scene) -> None:
    scene.runtime.images = {BUSYBOX}
    scene.records.failure = NoSpace("full")
    async with scene.milld() as tasks:
        with pytest.raises(NoSpace):
            await spawn(tasks)
        assert tasks.ledger.reserved == Resources(0, 0)
        assert (scene.runtime.containers, scene.records.rows, scene.logs.opened) == ({}, {}, set())
        assert scene.journal[-1] == "clean up"


async def test_nothing_runs_and_no_log_is_opened_before_the_row_is_committed(scene: Scene) -> None:
    scene.runtime.images = {BUSYBOX}
    scene.records.write_s = 5.0
    async with scene.milld() as tasks, trio.open_nursery() as nursery:
        nursery.start_soon(spawn, tasks)
        await trio.sleep(4.9)
        assert (scene.runtime.containers, scene.logs.opened, len(tasks.table)) == ({}, set(), 0)
        await trio.sleep(0.2)
        assert len(tasks.table) == len(scene.logs.opened) == 1


async def test_an_ended_tasks_id_costs_a_start_that_was_begun_nothing_but_its_name(scene: Scene) -> None:
    scene.runtime.images = {BUSYBOX}
    scene.choice.wanted = ["aaaa", "bbbb"]
    ended = Task(make_record("busybox-aaaa", Status.STOPPED))
    scene.records.rows["busybox-aaaa"] = ended
    async with scene.milld() as tasks:
        record = await tasks.spawn(SpawnRequest(image=BUSYBOX), {})
        assert (await tasks.wait(record.id, "running", 5)).status == Status.RUNNING
        assert list(tasks.ledger.reservations) == list(scene.runtime.containers) == ["busybox-bbbb"]
        assert scene.logs.opened == {"busybox-bbbb"}
        assert scene.records.rows["busybox-aaaa"] == ended
