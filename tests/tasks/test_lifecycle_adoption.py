"""Milld leaves in each phase and touches nothing; the next one enters the same life at whatever status it finds."""

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from mill.errors import NoSpace, PullError
from mill.model import Deadline, Ended, Owned, Reason, Status, Time
from mill.tasks.lifecycle import run_task
from mill.tasks.states import Toll
from mill.tasks.table import LiveTask
from tests.tasks.fakes import EPOCH, FOREVER, SIGTERM, Program
from tests.tasks.scene import Scene, end_of, kill, wait_status

# -- milld leaves ---------------------------------------------------------------------------------------------------


async def leave_when_blocked(scene: Scene, live: LiveTask, *, adopted: bool = False) -> None:
    """Milld leaves as soon as nothing goes on by itself."""
    async with scene.life(live, adopted=adopted):
        await wait_all_tasks_blocked()


async def test_milld_leaving_while_pulling_leaves_the_record_alone(scene: Scene) -> None:
    scene.runtime.pull_s = FOREVER
    live = scene.live()
    before = live.task
    await leave_when_blocked(scene, live)
    assert scene.records.rows[live.id] == before
    assert scene.journal == ["pull"]


async def test_milld_leaving_while_a_task_waits_for_its_turn_leaves_it_starting(scene: Scene) -> None:
    live = scene.live()
    for taken in range(scene.starts_at_once):
        scene.world.starting.acquire_on_behalf_of_nowait(taken)
    await leave_when_blocked(scene, live)
    assert scene.journal == ["pull", "put starting"]


async def test_milld_leaving_while_starting_lets_the_start_finish(scene: Scene) -> None:
    scene.runtime.start_s = 1.5
    live = scene.live()
    await leave_when_blocked(scene, live)
    assert scene.journal == ["pull", "put starting", "open logs", "start", "put running"]
    assert scene.runtime[live.id].alive


async def test_a_start_that_milld_hurries_as_it_leaves_stays_starting(scene: Scene) -> None:
    scene.runtime.start_s = FOREVER
    scene.runtime.started_when_cancelled = True
    live = scene.live()
    async with scene.life(live):
        await wait_all_tasks_blocked()
        live.hurry_start(trio.current_time() + 2.0)
    assert trio.current_time() == 2.0
    assert live.record.status is Status.STARTING
    assert scene.runtime[live.id].alive
    assert scene.journal[-1] == "start"


async def test_milld_leaving_while_running_touches_neither_record_nor_container(scene: Scene) -> None:
    live = scene.live()
    async with scene.life(live):
        await wait_status(live, Status.RUNNING)
        await trio.sleep(5.0)
        before = live.task
    assert scene.records.rows[live.id] == before
    assert scene.journal[-1] == "put running"
    assert scene.runtime[live.id].alive


async def test_milld_leaving_during_the_grace_sends_no_sigkill(scene: Scene) -> None:
    scene.runtime.program = Program(ignores=frozenset({SIGTERM}))
    live = scene.live()
    async with scene.life(live):
        await wait_status(live, Status.RUNNING)
        await kill(live, 60.0)
        await trio.sleep(5.0)
    assert live.record.status is Status.RUNNING
    assert scene.journal[-1] == "kill 15"
    assert scene.runtime[live.id].alive
    assert scene.records.rows[live.id].owned.kill is not None


async def test_milld_leaves_even_while_the_disk_is_full(scene: Scene) -> None:
    scene.runtime.program = Program(5)
    live = scene.live()
    with trio.fail_after(100):
        async with scene.life(live):
            await wait_status(live, Status.RUNNING)
            scene.records.failure = NoSpace("full")
            await trio.sleep(10.0)
    assert live.record.status is Status.RUNNING
    assert "delete" not in scene.journal


# -- adoption -------------------------------------------------------------------------------------------------------


async def test_an_adopted_pull_goes_on_with_the_same_deadline(scene: Scene) -> None:
    scene.runtime.pull_s = FOREVER
    live = scene.live(pull_timeout=30.0)
    async with scene.life(live):
        await trio.sleep(20.0)
    again = scene.again(scene.records.rows[live.id])
    await run_task(again, scene.world, adopted=True)
    assert end_of(again) == (Status.FAILED, Reason.PULL_ERROR)
    assert again.record.detail == "timeout"
    assert trio.current_time() == 30.0


async def test_an_adopted_pull_after_a_reboot_has_its_whole_time_again_and_no_more(scene: Scene) -> None:
    scene.runtime.pull_s = FOREVER
    live = scene.live(pull_timeout=30.0)
    scene.clock.boot_id = "boot-2"
    with trio.fail_after(1000):
        await run_task(live, scene.world, adopted=True)
    assert live.record.detail == "timeout"
    assert trio.current_time() == 30.0


async def test_an_adopted_pull_runs_to_its_end(scene: Scene) -> None:
    scene.runtime.program = Program(5)
    live = scene.live()
    await run_task(live, scene.world, adopted=True)
    assert end_of(live) == (Status.STOPPED, Reason.EXIT)


async def test_who_was_starting_without_a_container_is_started_now(scene: Scene) -> None:
    scene.runtime.program = Program(5)
    live = scene.live(Status.STARTING)
    await run_task(live, scene.world, adopted=True)
    assert end_of(live) == (Status.STOPPED, Reason.EXIT)
    assert scene.journal.count("start") == 1


async def test_who_was_starting_may_start_though_the_pulls_deadline_has_passed(scene: Scene) -> None:
    """The pull is over; its deadline says nothing about a start that a restart of milld has delayed."""
    scene.runtime.program = Program(5)
    scene.runtime.pull_s = 0.1
    live = scene.live(Status.STARTING, pull_timeout=30.0)
    await trio.sleep(60.0)
    await run_task(live, scene.world, adopted=True)
    assert end_of(live) == (Status.STOPPED, Reason.EXIT)


async def test_an_image_that_is_gone_when_a_start_is_resumed_is_a_start_error(scene: Scene) -> None:
    scene.runtime.pull_error = PullError("not_found", "no such image")
    live = scene.live(Status.STARTING)
    await run_task(live, scene.world, adopted=True)
    assert end_of(live) == (Status.FAILED, Reason.START_ERROR)
    assert "no such image" in str(live.record.message)


async def test_an_image_that_hangs_when_a_start_is_resumed_is_a_start_error_too(scene: Scene) -> None:
    scene.runtime.pull_s = FOREVER
    live = scene.live(Status.STARTING, pull_timeout=30.0)
    with trio.fail_after(1000):
        await run_task(live, scene.world, adopted=True)
    assert end_of(live) == (Status.FAILED, Reason.START_ERROR)


async def test_who_was_starting_with_a_container_is_running(scene: Scene) -> None:
    live = scene.live(Status.STARTING, timeout=60.0)
    scene.runtime.run(live.id)
    await trio.sleep(20.0)
    await run_task(live, scene.world, adopted=True)
    assert "start" not in scene.journal
    assert scene.journal.index("open logs") < scene.journal.index("adopt")
    assert live.record.times.started == EPOCH
    assert end_of(live) == (Status.FAILED, Reason.TIMEOUT)
    assert trio.current_time() == 60.0


async def test_who_was_starting_with_a_container_that_has_ended_gets_its_true_end(scene: Scene) -> None:
    live = scene.live(Status.STARTING)
    scene.runtime.run(live.id, Program(5, 3))
    await trio.sleep(20.0)
    await run_task(live, scene.world, adopted=True)
    assert end_of(live) == (Status.FAILED, Reason.EXIT)
    assert (live.record.exit_code, live.record.times.finished) == (3, EPOCH + 5)


@pytest.mark.parametrize(
    ("program", "end"),
    [
        (Program(5, 3), (Status.FAILED, Reason.EXIT)),
        (Program(5, 137, toll=Toll(1)), (Status.FAILED, Reason.OOM)),
        (Program(), (Status.STOPPED, Reason.KILLED)),
    ],
)
async def test_a_kill_that_was_stored_before_the_restart_is_carried_out_or_came_too_late(
    scene: Scene, program: Program, end: tuple[Status, Reason]
) -> None:
    """Whatever status the kill found it in: adopted at starting, too, what has ended by itself did so."""
    for status in (Status.STARTING, Status.RUNNING):
        live = scene.live(status)
        scene.runtime.run(live.id, program)
        await trio.sleep(20.0)
        await kill(live)
        await run_task(live, scene.world, adopted=True)
        assert end_of(live) == end, status


@pytest.mark.parametrize(("ignores", "code"), [(frozenset({SIGTERM}), 3), (frozenset[int](), 143)])
async def test_whom_a_milld_killed_that_left_before_the_end_was_killed(
    scene: Scene, ignores: frozenset[int], code: int
) -> None:
    """Whether it dies of the signal, or ends in its own way because of it."""
    scene.runtime.program = Program(ignores=ignores, dies_after_s=2.0)
    live = scene.live()
    async with scene.life(live):
        await wait_status(live, Status.RUNNING)
        await kill(live, 60.0)
        await trio.sleep(1.0)
    scene.runtime[live.id].end(3, after_s=4.0)
    await trio.sleep(5.0)
    again = scene.again(scene.records.rows[live.id])
    await run_task(again, scene.world, adopted=True)
    assert end_of(again) == (Status.STOPPED, Reason.KILLED)
    assert (again.record.exit_code, again.record.detail) == (code, "admin")


@pytest.mark.parametrize(
    ("ends_s", "code", "end"),
    [
        (62.0, 143, (Status.FAILED, Reason.TIMEOUT)),
        (50.0, 143, (Status.FAILED, Reason.SIGNAL)),
        (62.0, 0, (Status.STOPPED, Reason.EXIT)),
    ],
)
async def test_who_died_of_our_signal_after_its_timeout_timed_out_though_the_milld_that_sent_it_left(
    scene: Scene, ends_s: float, code: int, end: tuple[Status, Reason]
) -> None:
    live = scene.live(timeout=60.0)
    async with scene.life(live):
        await wait_status(live, Status.RUNNING)
    scene.runtime[live.id].end(code, after_s=ends_s)
    await trio.sleep(100.0)
    again = scene.again(scene.records.rows[live.id])
    await run_task(again, scene.world, adopted=True)
    assert end_of(again) == end


async def test_who_runs_on_is_adopted_with_the_same_deadline(scene: Scene) -> None:
    live = scene.live(timeout=60.0)
    async with scene.life(live):
        await wait_status(live, Status.RUNNING)
        await trio.sleep(20.0)
    await trio.sleep(20.0)
    scene.clock.jump_s = 7200.0  # the wall clock is no measure
    again = scene.again(scene.records.rows[live.id])
    await run_task(again, scene.world, adopted=True)
    assert end_of(again) == (Status.FAILED, Reason.TIMEOUT)
    assert trio.current_time() == 60.0
    assert scene.journal.count("start") == 1


@pytest.mark.parametrize("jump_s", [7200.0, -7200.0])
async def test_a_jump_of_the_wall_clock_between_start_and_record_moves_no_deadline(
    scene: Scene, jump_s: float
) -> None:
    """Whether the milld that started it records that it runs, or another."""
    scene.runtime.launch_s = 10.0
    live = scene.live(timeout=60.0)
    before = live.task
    async with scene.life(live):
        await trio.sleep(5.0)
        scene.clock.jump_s = jump_s
        await wait_status(live, Status.RUNNING)
        assert (trio.current_time(), live.task.owned.deadline) == (10.0, Deadline("boot-1", 60.0))
    again = scene.again(attrs.evolve(before, record=attrs.evolve(before.record, status=Status.STARTING)))
    await run_task(again, scene.world, adopted=True)
    assert end_of(again) == (Status.FAILED, Reason.TIMEOUT)
    assert (trio.current_time(), again.task.owned.deadline) == (60.0, Deadline("boot-1", 60.0))


async def test_who_ended_while_no_milld_was_there_has_its_true_end(scene: Scene) -> None:
    scene.runtime.program = Program(5, 137, toll=Toll(1, 4096))
    live = scene.live(timeout=10.0)
    async with scene.life(live):
        await wait_status(live, Status.RUNNING)
    await trio.sleep(1000.0)
    again = scene.again(scene.records.rows[live.id])
    await run_task(again, scene.world, adopted=True)
    assert end_of(again) == (Status.FAILED, Reason.OOM)
    assert (again.record.exit_code, again.record.times.finished) == (137, EPOCH + 5)
    assert "kill 15" not in scene.journal


@pytest.mark.parametrize("lost", [None, "the host was rebooted"])
async def test_who_was_running_and_is_gone_was_interrupted(scene: Scene, lost: str | None) -> None:
    scene.runtime.lost = lost
    live = scene.live(Status.RUNNING)
    await run_task(live, scene.world, adopted=True)
    assert end_of(live) == (Status.FAILED, Reason.INTERRUPTED)
    assert live.record.exit_code is None
    assert lost is None or live.record.message == lost
    assert scene.journal[-3:] == ["clean up", "drain logs", "put failed"]


async def test_a_start_that_cannot_be_known_was_interrupted(scene: Scene) -> None:
    scene.runtime.lost = "no process"
    live = scene.live(Status.STARTING)
    await run_task(live, scene.world, adopted=True)
    assert end_of(live) == (Status.FAILED, Reason.INTERRUPTED)
    assert "start" not in scene.journal


@pytest.mark.parametrize("status", [Status.PULLING, Status.STARTING, Status.RUNNING])
@pytest.mark.parametrize("container", [True, False])
async def test_an_end_that_is_stored_is_only_carried_through(
    scene: Scene,
    status: Status,
    container: bool,  # noqa: FBT001 -- parametrised
) -> None:
    """A crash between storing the end and publishing it: no second judgement."""
    ending = Ended(Status.FAILED, Reason.INTERRUPTED, message="as stored", finished=Time(EPOCH - 5))
    live = scene.live(status, owned=Owned(ending=ending))
    if container and status is not Status.PULLING:
        scene.runtime.run(live.id)
    await run_task(live, scene.world, adopted=True)
    assert (live.record.message, live.record.times.finished) == ("as stored", EPOCH - 5)
    assert scene.journal[-2:] == ["drain logs", "put failed"]
    assert not {"start", "pull", "toll", "kill 15"} & set(scene.journal)
    assert all(found.deleted for found in scene.runtime.containers.values())


@pytest.mark.parametrize("steps", range(12))
async def test_a_crash_after_any_step_is_finished_by_the_next_milld(scene: Scene, steps: int) -> None:
    """Milld dies as the journal has so many lines; whoever comes next finds the same true end."""
    scene.runtime.program = Program(5, 3)
    live = scene.live()
    with trio.CancelScope() as crash:
        scene.journal = Crash(crash, steps)
        scene.records.journal = scene.logs.journal = scene.runtime.journal = scene.journal
        await run_task(live, scene.world)
    task = scene.records.rows[live.id]
    if not task.record.status.terminal:
        again = scene.again(task)
        await run_task(again, scene.world, adopted=True)
    record = scene.records.rows[live.id].record
    assert (record.status, record.reason, record.exit_code) == (Status.FAILED, Reason.EXIT, 3)
    assert scene.journal.count("start") == 1
    assert scene.logs.opened == set()


class Crash(list[str]):
    """A journal that cancels *scope* at its line *steps*."""

    def __init__(self, scope: trio.CancelScope, steps: int) -> None:
        super().__init__()
        self._scope = scope
        self._steps = steps

    def append(self, line: str) -> None:
        super().append(line)
        if len(self) > self._steps:
            self._scope.cancel()
