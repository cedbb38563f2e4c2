"""One life on fakes: every end of the design's table, the order of its steps, and what a full disk does to it."""

import errno
import os

import attrs
import pytest
import trio
from structlog.testing import capture_logs

from mill.errors import NoSpace, PullError, StartError
from mill.model import Deadline, Reason, Status, Task
from mill.tasks.lifecycle import run_task
from mill.tasks.states import Toll
from tests.tasks.fakes import EPOCH, FOREVER, SIGTERM, Program
from tests.tasks.scene import WAY_OUT, Scene, end_of, kill, wait_status


@pytest.mark.parametrize(
    ("program", "status", "reason", "exit_code", "signal"),
    [
        (Program(5, 0), Status.STOPPED, Reason.EXIT, 0, None),
        (Program(5, 3), Status.FAILED, Reason.EXIT, 3, None),
        (Program(5, 139), Status.FAILED, Reason.SIGNAL, 139, 11),
        (Program(5, 137, toll=Toll(1, 4096)), Status.FAILED, Reason.OOM, 137, 9),
        (Program(5, 0, toll=Toll(2, 4096)), Status.STOPPED, Reason.EXIT, 0, None),
        (Program(5, lost="shim gone"), Status.FAILED, Reason.INTERRUPTED, None, None),
    ],
)
async def test_what_pid_1_does_decides_the_end(
    scene: Scene, program: Program, status: Status, reason: Reason, exit_code: int, signal: int
) -> None:
    scene.runtime.program = program
    live = scene.live()
    await run_task(live, scene.world)
    record = live.record
    assert end_of(live) == (status, reason)
    assert (record.exit_code, record.signal) == (exit_code, signal)
    assert (record.oom_kills, record.peak_memory) == (program.toll.oom_kills, program.toll.peak_memory)
    assert record.message
    assert scene.records.rows[live.id].record == record


async def test_each_phase_has_its_time_and_raises_the_version_by_one(scene: Scene) -> None:
    scene.runtime.program = Program(5)
    scene.runtime.pull_s, scene.runtime.start_s = 2.0, 1.0
    live = scene.live()
    await run_task(live, scene.world)
    times = live.record.times
    assert (times.created, times.pulled, times.started, times.finished) == (
        EPOCH,
        EPOCH + 2,
        EPOCH + 3,
        EPOCH + 8,
    )
    assert live.record.version == 4
    assert live.record.ip == "192.0.2.7"


async def test_the_steps_of_a_whole_life_come_in_the_designs_order(scene: Scene) -> None:
    scene.runtime.program = Program(5)
    live = scene.live()
    await run_task(live, scene.world)
    assert scene.journal == [
        "pull",
        "put starting",
        "open logs",
        "start",
        "put running",
        "toll",
        *WAY_OUT,
        "put stopped",
    ]


async def test_an_image_found_at_the_spawn_is_not_asked_for_again(scene: Scene) -> None:
    scene.runtime.program = Program(5)
    live = scene.live(Status.STARTING)
    live.image = "found"
    await run_task(live, scene.world)
    assert "pull" not in scene.journal
    assert end_of(live) == (Status.STOPPED, Reason.EXIT)


async def test_the_timeout_counts_from_running_and_ends_with_the_grace(scene: Scene) -> None:
    scene.runtime.pull_s = 50.0
    scene.runtime.program = Program(ignores=frozenset({SIGTERM}))
    live = scene.live(timeout=60.0, grace=7.0)
    await run_task(live, scene.world)
    assert end_of(live) == (Status.FAILED, Reason.TIMEOUT)
    assert trio.current_time() == 50.0 + 60.0 + 7.0
    assert scene.journal[-7:] == ["kill 15", "kill 9", "toll", *WAY_OUT, "put failed"]
    assert (live.record.exit_code, live.record.signal) == (137, 9)


async def test_a_program_that_ends_by_itself_as_its_time_is_up_has_not_timed_out(scene: Scene) -> None:
    live = scene.live(timeout=60.0)
    async with scene.life(live) as over:
        await wait_status(live, Status.RUNNING)
        container = scene.runtime[live.id]
        container.before_kill = lambda: container.end(0)
        await over.wait()
    assert end_of(live) == (Status.STOPPED, Reason.EXIT)


@pytest.mark.parametrize("detail", ["auth", "not_found", "network", "digest", "disk", "invalid"])
async def test_a_pull_error_ends_it_with_its_detail_and_nothing_was_started(
    scene: Scene, detail: str
) -> None:
    scene.runtime.pull_error = PullError(detail, "said the registry")
    live = scene.live()
    await run_task(live, scene.world)
    assert end_of(live) == (Status.FAILED, Reason.PULL_ERROR)
    assert (live.record.detail, live.record.message) == (detail, "said the registry")
    assert scene.journal == ["pull", "put pulling ending", "drain logs", "put failed"]


async def test_a_pull_that_takes_too_long_ends_as_a_pull_error_of_its_own(scene: Scene) -> None:
    scene.runtime.pull_s = FOREVER
    live = scene.live(pull_timeout=30.0)
    await run_task(live, scene.world)
    assert end_of(live) == (Status.FAILED, Reason.PULL_ERROR)
    assert live.record.detail == "timeout"
    assert trio.current_time() == 30.0


@pytest.mark.parametrize("detail", ["command_not_found", "permission", "user", "disk", "runtime"])
async def test_a_start_error_ends_it_with_its_detail_and_what_was_made_is_removed(
    scene: Scene, detail: str
) -> None:
    scene.runtime.start_error = StartError(detail, "said runc")
    live = scene.live()
    await run_task(live, scene.world)
    assert end_of(live) == (Status.FAILED, Reason.START_ERROR)
    assert (live.record.detail, live.record.message) == (detail, "said runc")
    assert scene.journal[-4:] == ["put starting ending", "clean up", "drain logs", "put failed"]


async def test_a_start_that_never_returns_is_a_start_error_and_kills_what_had_started(scene: Scene) -> None:
    scene.runtime.start_s = FOREVER
    scene.runtime.started_when_cancelled = True
    live = scene.live()
    await run_task(live, scene.world)
    assert end_of(live) == (Status.FAILED, Reason.START_ERROR)
    assert live.record.detail == "runtime"
    assert not scene.runtime[live.id].alive


@pytest.mark.parametrize(("number", "detail"), [(errno.ENOSPC, "disk"), (errno.EMFILE, "runtime")])
async def test_files_that_cannot_be_made_are_a_start_error_that_tells_a_full_disk_from_no_descriptors(
    scene: Scene, number: int, detail: str
) -> None:
    scene.logs.failure = OSError(number, os.strerror(number))
    live = scene.live()
    await run_task(live, scene.world)
    assert end_of(live) == (Status.FAILED, Reason.START_ERROR)
    assert live.record.detail == detail


@pytest.mark.parametrize("what", ["adopt_error", "clean_up_error"])
async def test_a_failed_start_is_cleaned_up_after_once_the_host_has_room_for_that(
    scene: Scene, what: str
) -> None:
    """A look at what is left takes a descriptor, and it was their lack that failed the start."""
    scene.logs.failure = OSError(errno.EMFILE, "Too many open files")
    setattr(scene.runtime, what, scene.logs.failure)
    live = scene.live()
    async with scene.life(live) as over:
        with capture_logs() as told:
            await trio.sleep(10.0)
        assert not live.record.status.terminal
        setattr(scene.runtime, what, None)
        await over.wait()
    assert end_of(live) == (Status.FAILED, Reason.START_ERROR)
    assert [line["why"] for line in told] == ["[Errno 24] Too many open files"]


# -- commits --------------------------------------------------------------------------------------------------------


async def test_a_full_disk_holds_the_end_back_until_it_can_be_stored(scene: Scene) -> None:
    scene.runtime.program = Program(5, 3)
    live = scene.live()
    async with scene.life(live) as over:
        await wait_status(live, Status.RUNNING)
        scene.records.failure = NoSpace("full")
        await trio.sleep(100.0)
        assert live.record.status is Status.RUNNING
        assert "delete" not in scene.journal
        scene.records.failure = None
        await over.wait()
    assert end_of(live) == (Status.FAILED, Reason.EXIT)
    assert live.record.times.finished == EPOCH + 5
    assert scene.journal[-4:] == [*WAY_OUT, "put failed"]


async def test_a_kill_ends_a_task_whose_move_the_full_disk_holds_up(scene: Scene) -> None:
    live = scene.live()
    async with scene.life(live) as over:
        scene.records.failure = NoSpace("full")
        await trio.sleep(10.0)
        assert live.record.status is Status.PULLING
        async with trio.open_nursery() as nursery:
            nursery.start_soon(kill, live)
            await trio.sleep(10.0)
            scene.records.failure = None
        await over.wait()
    assert end_of(live) == (Status.STOPPED, Reason.KILLED)


async def test_a_deadline_of_another_boot_says_nothing(scene: Scene) -> None:
    live = scene.live(Status.RUNNING)
    old = attrs.evolve(live.task.owned, deadline=Deadline("boot-0", -100.0))
    live = scene.again(Task(live.task.record, old))
    scene.runtime.run(live.id, Program(5))
    await run_task(live, scene.world, adopted=True)
    assert end_of(live) == (Status.STOPPED, Reason.EXIT)


async def test_an_end_waits_for_a_disk_that_does_not_take_the_last_of_the_log(scene: Scene) -> None:
    scene.runtime.program = Program(runs_s=1.0, code=3)
    scene.logs.drain_failure = NoSpace("full")
    live = scene.live(Status.STARTING)
    with capture_logs() as said:
        async with scene.life(live) as over:
            await trio.sleep(20.5)
            assert live.record.status is Status.RUNNING
            scene.logs.drain_failure = None
            await over.wait()
    assert (live.record.exit_code, live.record.times.finished) == (3, EPOCH + 1.0)
    assert [line["task"] for line in said if line["log_level"] == "warning"] == [live.id]
