"""Nobody sees a state before its commit, and whoever listens is told of every one."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from mill.errors import NoSpace, Unavailable
from mill.model import Duration, Kill, PullProgress, Record, Status, Task, Time
from mill.tasks.states import IllegalMove, to_running, to_starting
from mill.tasks.table import RETRY_COMMIT_S, Table
from tests.tasks.fakes import EPOCH
from tests.tasks.scene import Scene, make_record

NOW = Time(EPOCH)


def starting(record: Record) -> Record:
    return to_starting(record, NOW)


def running(record: Record) -> Record:
    return to_running(record, NOW, None)


async def test_a_reader_that_polls_sees_a_state_only_once_it_is_stored(scene: Scene) -> None:
    scene.records.write_s = 5.0
    live = scene.live()
    seen: dict[str, float] = {}

    async def poll() -> None:
        while True:
            stored = scene.records.rows[live.id].record
            assert live.record.version <= stored.version
            seen.setdefault(live.record.status, trio.current_time())
            await trio.sleep(0.1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(poll)
        await live.advance(starting)
        await live.advance(running)
        await trio.sleep(1.0)
        nursery.cancel_scope.cancel()
    assert seen == pytest.approx({"pulling": 0.0, "starting": 5.0, "running": 10.0}, abs=0.11)


async def test_who_waits_for_a_change_wakes_at_the_commit(scene: Scene) -> None:
    scene.records.write_s = 5.0
    live = scene.live()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(live.advance, starting)
        await live.wait_change()
        assert trio.current_time() == 5.0
        assert live.record.status is Status.STARTING


async def test_an_illegal_move_changes_and_stores_nothing(scene: Scene) -> None:
    live = scene.live()
    before = live.task
    with pytest.raises(IllegalMove):
        await live.advance(running)
    assert live.task == before
    assert scene.journal == []
    await live.advance(starting)  # and the way is free


async def test_two_commits_at_once_are_made_one_after_the_other_and_neither_is_lost(scene: Scene) -> None:
    scene.records.write_s = 5.0
    live = scene.live()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(live.advance, starting)
        await wait_all_tasks_blocked()
        nursery.start_soon(live.advance, running)
    assert live.record.status is Status.RUNNING
    assert scene.journal == ["put starting", "put running"]


async def test_a_commit_that_was_begun_is_not_interrupted(scene: Scene) -> None:
    scene.records.write_s = 5.0
    live = scene.live()
    with trio.move_on_after(1.0):
        await live.advance(starting)
    assert live.record.status is Status.STARTING
    assert scene.records.rows[live.id].record == live.record


@pytest.mark.parametrize("failure", [NoSpace("full"), Unavailable("locked")])
async def test_a_state_that_cannot_be_stored_is_held_back_and_stored_later(
    scene: Scene, failure: NoSpace | Unavailable
) -> None:
    scene.records.failure = failure
    live = scene.live()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(live.advance, starting)
        await trio.sleep(10.5 * RETRY_COMMIT_S)
        assert live.record.version == 1
        scene.records.failure = None
        await live.wait_change()
        assert live.record.status is Status.STARTING
        assert trio.current_time() == 11 * RETRY_COMMIT_S


async def test_waiting_for_space_can_be_given_up_and_then_nothing_has_changed(scene: Scene) -> None:
    scene.records.failure = NoSpace("full")
    live = scene.live()
    before = live.task
    with trio.move_on_after(10.0) as scope:
        await live.advance(starting)
    assert scope.cancelled_caught
    assert live.task == scene.records.rows[live.id] == before
    scene.records.failure = None
    await live.advance(starting)
    assert live.record.status is Status.STARTING


async def test_progress_is_shown_and_never_stored(scene: Scene) -> None:
    live = scene.live()
    live.report(PullProgress(10, 20))
    assert live.record.pull == PullProgress(10, 20)
    await live.commit(lambda task: task)
    assert scene.records.rows[live.id].record.pull is None
    await live.advance(starting)
    assert live.record.pull is None


async def test_every_commit_is_told_once_it_is_stored_and_before_anybody_wakes(scene: Scene) -> None:
    told: list[tuple[Status, Status, int]] = []

    def on_commit(before: Record, after: Record) -> None:
        assert scene.records.rows[after.id].record == after == live.task.record
        assert not woken
        told.append((before.status, after.status, after.version - before.version))

    async def wait() -> None:
        await live.wait_change()
        woken.append(trio.current_time())

    woken: list[float] = []
    row = Task(make_record())
    scene.records.rows[row.record.id] = row
    live = Table(scene.records, on_commit).add(row)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        await live.advance(starting)
    assert len(woken) == 1
    woken.clear()
    with pytest.raises(IllegalMove):
        await live.advance(starting)
    await live.commit(lambda task: task)
    await live.advance(running)
    assert told == [
        (Status.PULLING, Status.STARTING, 1),
        (Status.STARTING, Status.STARTING, 0),
        (Status.STARTING, Status.RUNNING, 1),
    ]


async def test_the_table_holds_what_was_added_until_it_is_dropped(scene: Scene) -> None:
    table = Table(scene.records)
    live = table.add(Task(make_record()))
    assert table.get(live.id) is live
    assert list(table) == [live]
    assert repr(table) == "<Table 1 live>"
    for held in table:
        table.drop(held.id)
    table.drop(live.id)
    assert table.get(live.id) is None
    assert len(table) == 0


async def test_a_kill_cancels_a_start_and_never_lengthens_a_grace(scene: Scene) -> None:
    live = scene.live()
    live.start_scope = trio.CancelScope()
    live.grace_scope = trio.CancelScope(deadline=5.0)
    live.request_kill(Kill("admin", NOW, Duration(60.0)), 0.0)
    assert live.kill_scope.cancel_called
    assert live.start_scope.cancel_called
    assert live.grace_scope.deadline == 5.0
    live.request_kill(Kill("admin", NOW, Duration(1.0)), 2.0)
    assert live.grace_scope.deadline == 3.0


async def test_a_hurried_start_keeps_an_earlier_deadline(scene: Scene) -> None:
    live = scene.live()
    live.hurry_start(1.0)  # nothing is being started
    live.start_scope = trio.CancelScope(deadline=5.0)
    live.hurry_start(7.0)
    assert live.start_scope.deadline == 5.0
    live.hurry_start(2.0)
    assert live.start_scope.deadline == 2.0
