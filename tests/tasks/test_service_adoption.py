"""What a milld that comes up makes of an earlier one's tasks, and what a bug or a failing clean-up may not do to it."""

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import wait_all_tasks_blocked

from mill.errors import NoCapacity, Unavailable
from mill.model import (
    Duration,
    Reason,
    Resources,
    Status,
)
from mill.tasks.service import START_PATIENCE_S
from tests.tasks.fakes import BUSYBOX, EPOCH, FOREVER, SIGTERM, Program
from tests.tasks.scene import Scene, spawn


async def test_milld_leaves_containers_alone_and_the_next_one_adopts_them(scene: Scene) -> None:
    scene.runtime.program = Program(100, 3)
    async with scene.milld() as tasks:
        task_id = await spawn(tasks, cpu=1.5)
        await tasks.wait(task_id, "running", 60.0)
    assert scene.runtime[task_id].alive
    await trio.sleep(10.0)
    async with scene.milld() as tasks:
        assert tasks.ledger.reserved.cpu == 1.5
        assert (await tasks.get(task_id)).status is Status.RUNNING
        record = await tasks.wait(task_id, "terminal", 1000.0)
    assert (record.status, record.exit_code, record.times.finished) == (Status.FAILED, 3, EPOCH + 100)
    assert scene.journal.count("start") == 1


async def test_a_kill_that_an_earlier_milld_stored_is_carried_out(scene: Scene) -> None:
    scene.runtime.program = Program(ignores=frozenset({SIGTERM}))
    async with scene.milld() as tasks:
        task_id = await spawn(tasks)
        await tasks.wait(task_id, "running", 60.0)
        await tasks.kill(task_id, "alice", signal=None, grace=Duration(30.0))
    assert scene.runtime[task_id].alive
    async with scene.milld() as tasks:
        record = await tasks.wait(task_id, "terminal", 60.0)
    assert (record.reason, record.detail) == (Reason.KILLED, "alice")


async def test_a_second_kill_hurries_the_next_milld_too(scene: Scene) -> None:
    scene.runtime.program = Program(ignores=frozenset({SIGTERM}))
    async with scene.milld() as tasks:
        task_id = await spawn(tasks)
        await tasks.wait(task_id, "running", 60.0)
        await tasks.kill(task_id, "alice", signal=None, grace=Duration(600.0))
        await tasks.kill(task_id, "bob", signal=None, grace=Duration(5.0))
    async with scene.milld() as tasks:
        at = trio.current_time()
        record = await tasks.wait(task_id, "terminal", 1000.0)
    assert (record.detail, trio.current_time()) == ("alice", at + 5.0)


async def test_a_node_that_is_overfull_after_adoption_takes_nothing_new_until_there_is_room(
    scene: Scene,
) -> None:
    scene.runtime.program = Program(100)
    async with scene.milld() as tasks:
        await spawn(tasks, cpu=3.0)
        await wait_all_tasks_blocked()
    scene.capacity = Resources(2.0, scene.capacity.memory)
    async with scene.milld() as tasks:
        with pytest.raises(NoCapacity):
            await spawn(tasks, cpu=0.1)
        await trio.sleep(200.0)
        await spawn(tasks, cpu=0.1)


async def test_what_no_record_knows_is_swept_and_what_lives_is_not(scene: Scene) -> None:
    async with scene.milld() as tasks:
        task_id = await spawn(tasks)
        await wait_all_tasks_blocked()
    stray = scene.runtime.run("stray-0000")
    async with scene.milld():
        await wait_all_tasks_blocked()
    assert scene.runtime.swept == ["stray-0000"]
    assert not stray.alive
    assert scene.runtime[task_id].alive


async def test_milld_lets_a_start_finish_but_not_for_long(scene: Scene) -> None:
    scene.runtime.images = {BUSYBOX}
    for start_s, left_s, status in (
        (0.5 * START_PATIENCE_S, 0.5 * START_PATIENCE_S, Status.RUNNING),
        (FOREVER, START_PATIENCE_S, Status.STARTING),
    ):
        scene.runtime.start_s = start_s
        async with scene.milld() as tasks:
            task_id = await spawn(tasks)
            await wait_all_tasks_blocked()
            at = trio.current_time()
        assert trio.current_time() == at + left_s
        assert scene.records.rows[task_id].record.status is status


async def test_a_bug_of_ours_fails_that_task_and_spares_the_others(scene: Scene) -> None:
    scene.runtime.program = Program(100)
    async with scene.milld() as tasks:
        fine, hit = await spawn(tasks), await spawn(tasks)
        await tasks.wait(hit, "running", 60.0)

        def bug() -> None:
            raise ZeroDivisionError

        container = scene.runtime[hit]
        container.before_kill = bug
        with capture_logs() as logged:
            await tasks.kill(hit, "admin", signal=None, grace=None)
            record = await tasks.wait(hit, "terminal", 60.0)
        assert [(line["log_level"], line["task"]) for line in logged] == [("error", hit)]
        assert (record.status, record.reason) == (Status.FAILED, Reason.INTERRUPTED)
        assert "internal error" in str(record.message)
        await wait_all_tasks_blocked()
        assert not container.alive
        assert scene.journal[-4:] == [
            "clean up",
            "drain logs",
            "clean up",
            "amend failed",
        ]  # no writer is left when the log is closed
        assert list(tasks.ledger.reservations) == [fine]
        assert (await tasks.wait(fine, "terminal", 200.0)).reason is Reason.EXIT


async def test_a_clean_up_that_fails_is_tried_again_and_spares_milld(scene: Scene) -> None:
    scene.runtime.program = Program(5)
    scene.runtime.clean_up_error = Unavailable("containerd refuses")
    async with scene.milld() as tasks:
        task_id = await spawn(tasks)
        assert (await tasks.wait(task_id, "terminal", 60.0)).reason is Reason.EXIT
        await trio.sleep(10.0)
        assert tasks.ledger.reserved == Resources(0, 0)
        scene.runtime.clean_up_error = None
        await trio.sleep(10.0)
        assert task_id not in scene.runtime.containers


async def test_a_sweep_that_fails_spares_milld(scene: Scene) -> None:
    scene.runtime.run("stray-0000")
    scene.runtime.clean_up_error = Unavailable("containerd refuses")
    async with scene.milld() as tasks:
        await trio.sleep(10.0)
        scene.runtime.clean_up_error = None
        assert await spawn(tasks)
