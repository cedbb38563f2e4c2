"""What a spawn takes of the network: room for an address, published ports; and when it gives them back."""

import pytest
from trio.testing import wait_all_tasks_blocked

from mill.errors import NoCapacity
from mill.model import Publish, SpawnRequest, Status, Task
from tests.tasks.fakes import BUSYBOX, FOREVER, Program
from tests.tasks.scene import Scene, make_record, spawn


async def test_no_address_is_refused_and_leaves_neither_row_nor_reservation(scene: Scene) -> None:
    scene.mesh.room = 1
    scene.runtime.pull_s = FOREVER
    async with scene.milld() as tasks:
        first = await spawn(tasks)
        with pytest.raises(NoCapacity, match="no address"):
            await spawn(tasks)
        assert list(scene.records.rows) == list(tasks.ledger.reservations) == [first]


async def test_a_published_port_is_named_in_the_record_from_the_spawn_on(scene: Scene) -> None:
    async with scene.milld() as tasks:
        asked = SpawnRequest(image=BUSYBOX, publish=(Publish(80), Publish(443, 8443)))
        record = await tasks.spawn(asked, {})
        assert record.spec.publish == (Publish(80, 40000), Publish(443, 8443))


async def test_room_in_the_network_is_held_until_the_task_is_cleaned_up_after(scene: Scene) -> None:
    scene.choice.wanted = ["aaaa", "bbbb"]
    scene.records.rows["busybox-aaaa"] = Task(make_record("busybox-aaaa", Status.STOPPED))
    scene.runtime.program = Program(5)
    async with scene.milld() as tasks:
        task_id = await spawn(tasks)
        assert scene.mesh.held == {"busybox-bbbb"}
        await tasks.wait(task_id, "terminal", 60.0)
        await wait_all_tasks_blocked()
        assert scene.mesh.held == set()
