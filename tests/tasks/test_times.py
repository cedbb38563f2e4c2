"""The times of a life: each point once, riding with the commit of the next state, kept by whoever goes on with the task."""

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from mill.errors import NoSpace, StartError
from mill.model import Reason, Status, Task, Time, Times
from mill.tasks.lifecycle import run_task
from mill.tasks.marks import Marks
from tests.tasks.fakes import BUSYBOX, EPOCH, FOREVER, Program
from tests.tasks.scene import Scene, kill, spawn, wait_status


def seconds(times: Times) -> dict[str, float]:
    """Of what is known, since the epoch."""
    known = attrs.asdict(times, filter=lambda field, at: field.name != "extra" and at is not None)
    return {name: at - EPOCH for name, at in known.items()}


def test_marks_fill_what_is_not_known_and_change_nothing_else() -> None:
    times = Times(Time(1.0), pulled=Time(3.0), fetched=Time(2.0))
    marks = Marks()
    marks.note(queued=Time(4.0), fetched=Time(9.0), launched=None)
    assert marks.onto(times) == attrs.evolve(times, queued=Time(4.0))
    assert Marks().onto(times) is times


def test_only_a_moment_of_a_tasks_times_can_be_noted() -> None:
    with pytest.raises(TypeError, match="no moment of a task: lunched"):
        Marks().note(lunched=Time(1.0))


async def test_a_whole_life_has_all_its_times_and_no_commit_more(scene: Scene) -> None:
    scene.runtime.program = Program(5)
    scene.runtime.pull_s, scene.runtime.start_s = 2.0, 1.0
    async with scene.milld() as tasks:
        task_id = await spawn(tasks)
        ended = await tasks.wait(task_id, "terminal", 60.0)
        await wait_all_tasks_blocked()
        record = await tasks.get(task_id)
    assert seconds(record.times) == {
        "created": 0, "placed": 0, "pull_began": 0, "fetched": 2, "pulled": 2, "queued": 2, "start_began": 2,
        "snapshot_made": 2, "started": 3, "launched": 3, "finished": 8, "cleaned": 8,
    }  # fmt: skip
    writes = [step for step in scene.journal if step.split()[0] in {"insert", "put", "amend"}]
    assert writes == [
        "insert pulling", "put starting", "put running", "put running ending", "put stopped", "amend stopped",
    ]  # fmt: skip
    assert record == attrs.evolve(
        ended, version=ended.version + 1, times=attrs.evolve(ended.times, cleaned=Time(EPOCH + 8))
    )


async def test_an_image_that_is_there_is_neither_fetched_nor_waited_for(scene: Scene) -> None:
    scene.runtime.images.add(BUSYBOX)
    scene.runtime.program = Program(1)
    async with scene.milld() as tasks:
        record = await tasks.wait(await spawn(tasks), "terminal", 60.0)
    assert not {"pull_began", "unpack_began", "fetched"} & set(seconds(record.times))
    assert record.times.pulled == record.times.placed


async def test_the_wait_for_a_turn_to_start_can_be_told_from_the_start(scene: Scene) -> None:
    scene.runtime.images.add(BUSYBOX)
    scene.runtime.start_s = 3.0
    async with scene.milld() as tasks:
        ids = [await spawn(tasks) for _ in range(4)]  # two start at once
        waiting = (await tasks.get(ids[3])).times
        records = [await tasks.wait(task_id, "running", 60.0) for task_id in ids]
    assert waiting.start_began is None
    assert sorted(seconds(record.times)["queued"] for record in records) == [0, 0, 0, 0]
    assert sorted(seconds(record.times)["start_began"] for record in records) == [0, 0, 3, 3]
    assert sorted(seconds(record.times)["launched"] for record in records) == [3, 3, 6, 6]


async def test_what_was_noted_is_shown_before_its_commit_and_lost_with_milld_only_till_then(
    scene: Scene,
) -> None:
    scene.runtime.start_s = FOREVER
    live = scene.live()
    async with scene.life(live):
        await wait_status(live, Status.STARTING)
        await wait_all_tasks_blocked()
        assert live.record.times.start_began == EPOCH
        assert live.task.record.times.start_began is None
    assert "pull_began" in seconds(scene.records.rows[live.id].record.times)
    assert scene.records.rows[live.id].record.times.queued is None


async def test_a_start_that_is_resumed_keeps_the_times_of_its_pull(scene: Scene) -> None:
    scene.runtime.program = Program(1)
    live = scene.live(Status.STARTING)
    times = attrs.evolve(live.record.times, pull_began=Time(EPOCH - 9), fetched=Time(EPOCH - 5))
    again = scene.again(Task(attrs.evolve(live.record, times=times), live.task.owned))
    await trio.sleep(7.0)
    await run_task(again, scene.world, adopted=True)
    found = seconds(again.record.times)
    assert (found["pull_began"], found["fetched"], found["pulled"]) == (-9, -5, 0)
    assert (found["queued"], found["start_began"], found["started"], found["finished"]) == (7, 7, 7, 8)


async def test_an_adopted_task_keeps_all_its_times(scene: Scene) -> None:
    scene.runtime.program = Program(20)
    live = scene.live()
    async with scene.life(live):
        await wait_status(live, Status.RUNNING)
        await trio.sleep(1.0)
    again = scene.again(scene.records.rows[live.id])
    await run_task(again, scene.world, adopted=True)
    assert seconds(again.record.times) == {**seconds(live.record.times), "finished": 20}


async def test_a_start_that_fails_tells_how_far_it_came(scene: Scene) -> None:
    scene.runtime.start_s, scene.runtime.start_error = 2.0, StartError("disk", "full")
    live = scene.live()
    await run_task(live, scene.world)
    assert live.record.reason is Reason.START_ERROR
    found = seconds(scene.records.rows[live.id].record.times)
    assert (found["start_began"], found["snapshot_made"], found["finished"]) == (0, 0, 2)
    assert "launched" not in found


async def test_a_task_that_is_killed_while_it_waits_for_its_turn_shows_that_it_did(scene: Scene) -> None:
    scene.runtime.images.add(BUSYBOX)
    live = scene.live(Status.STARTING)
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            await scene.world.starting.acquire_on_behalf_of(object())
        nursery.start_soon(run_task, live, scene.world)
        await trio.sleep(4.0)
        await kill(live)
    assert live.record.reason is Reason.KILLED
    assert "queued" in (found := seconds(live.record.times))
    assert "start_began" not in found
    assert found["finished"] == 4


async def test_a_task_is_clean_only_once_its_clean_up_was_done(scene: Scene) -> None:
    scene.runtime.program = Program(1)
    async with scene.milld() as tasks:
        task_id = await spawn(tasks)
        await tasks.wait(task_id, "running", 60.0)
        scene.runtime.clean_up_error = NoSpace("not now")
        await tasks.wait(task_id, "terminal", 60.0)
        await trio.sleep(5.5)
        assert (await tasks.get(task_id)).times.cleaned is None
        scene.runtime.clean_up_error = None
        await trio.sleep(1.0)
        assert (await tasks.get(task_id)).times.cleaned == EPOCH + 7


async def test_a_full_disk_costs_the_note_of_the_clean_up_and_nothing_else(scene: Scene) -> None:
    scene.runtime.program = Program(1)
    async with scene.milld() as tasks:
        task_id = await spawn(tasks)
        await tasks.wait(task_id, "terminal", 60.0)
        scene.records.failure = NoSpace("full")
        await wait_all_tasks_blocked()
        scene.records.failure = None
        assert (await tasks.get(task_id)).times.cleaned is None
        assert (await tasks.wait(await spawn(tasks), "terminal", 60.0)).status is Status.STOPPED


async def test_what_the_last_milld_could_not_clean_is_noted_by_the_next(scene: Scene) -> None:
    scene.runtime.program = Program(1)
    async with scene.milld() as tasks:
        task_id = await spawn(tasks)
        await tasks.wait(task_id, "running", 60.0)
        scene.runtime.clean_up_error = NoSpace("not now")
        await tasks.wait(task_id, "terminal", 60.0)
    scene.runtime.clean_up_error = None
    async with scene.milld() as tasks:
        await wait_all_tasks_blocked()
        assert scene.runtime.swept == [task_id]
        assert (await tasks.get(task_id)).times.cleaned is not None
