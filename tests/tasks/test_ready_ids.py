"""Ids that the runtime has done part of the work for: who gets them."""

from tests.tasks.scene import Scene, spawn


async def test_an_id_that_part_of_the_work_is_done_for_is_taken_by_one_spawn(scene: Scene) -> None:
    scene.runtime.ready = {"busybox": "busybox-made"}
    async with scene.milld() as tasks:
        ids = [await spawn(tasks) for _ in range(2)]
    assert ids == ["busybox-made", "busybox-0001"]
