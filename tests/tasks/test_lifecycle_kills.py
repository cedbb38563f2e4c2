"""A kill in each phase of a life: pulling, waiting for its turn, starting, running, during the grace, and after the exit."""

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from mill.errors import NoSpace
from mill.model import Reason, Status
from tests.tasks.fakes import BUSYBOX, FOREVER, SIGKILL, SIGTERM, Program
from tests.tasks.scene import WAY_OUT, Scene, end_of, kill, spawn, wait_status


async def test_a_kill_while_pulling_ends_the_pull(scene: Scene) -> None:
    scene.runtime.pull_s = FOREVER
    live = scene.live()
    async with scene.life(live) as over:
        await wait_all_tasks_blocked()
        assert live.record.pull is not None
        await kill(live)
        await over.wait()
    assert end_of(live) == (Status.STOPPED, Reason.KILLED)
    assert (live.record.detail, live.record.exit_code, live.record.times.started) == ("admin", None, None)
    assert live.record.pull is None
    assert "start" not in scene.journal


async def test_a_kill_while_waiting_for_its_turn_to_start_needs_no_turn(scene: Scene) -> None:
    live = scene.live()
    for taken in range(scene.starts_at_once):
        scene.world.starting.acquire_on_behalf_of_nowait(taken)
    async with scene.life(live) as over:
        await wait_all_tasks_blocked()
        assert live.record.status is Status.STARTING
        await kill(live)
        await over.wait()
    assert end_of(live) == (Status.STOPPED, Reason.KILLED)
    assert "start" not in scene.journal


async def test_a_kill_while_starting_cancels_the_start(scene: Scene) -> None:
    scene.runtime.start_s = FOREVER
    live = scene.live()
    async with scene.life(live) as over:
        await wait_all_tasks_blocked()
        await kill(live)
        await over.wait()
    assert end_of(live) == (Status.STOPPED, Reason.KILLED)
    assert live.record.exit_code is None
    assert trio.current_time() == 0.0
    assert "clean up" in scene.journal


async def test_a_kill_while_starting_ends_a_pid_1_that_runs_already(scene: Scene) -> None:
    scene.runtime.start_s = FOREVER
    scene.runtime.started_when_cancelled = True
    live = scene.live()
    async with scene.life(live) as over:
        await wait_all_tasks_blocked()
        await kill(live)
        await over.wait()
    assert end_of(live) == (Status.STOPPED, Reason.KILLED)
    assert live.record.signal == SIGTERM
    assert scene.runtime[live.id].deleted


async def test_a_kill_while_starting_finds_a_pid_1_that_has_ended_already(scene: Scene) -> None:
    """Its own end is the truth, and it ran: so it was running in between."""
    scene.runtime.start_s = FOREVER
    scene.runtime.started_when_cancelled = True
    scene.runtime.program = Program(0.0, 3)
    live = scene.live()
    async with scene.life(live) as over:
        await wait_all_tasks_blocked()
        await kill(live)
        await over.wait()
    assert end_of(live) == (Status.FAILED, Reason.EXIT)
    assert live.record.exit_code == 3
    assert live.record.times.started is not None


async def test_a_kill_while_running_sends_the_stop_signal_and_then_waits_the_grace(scene: Scene) -> None:
    scene.runtime.program = Program(dies_after_s=4.0)
    live = scene.live()
    async with scene.life(live) as over:
        await wait_status(live, Status.RUNNING)
        await kill(live, 10.0)
        await over.wait()
    assert end_of(live) == (Status.STOPPED, Reason.KILLED)
    assert (live.record.signal, live.record.detail) == (SIGTERM, "admin")
    assert trio.current_time() == 4.0
    assert scene.journal[-6:] == ["kill 15", "toll", *WAY_OUT, "put stopped"]


async def test_a_signal_whose_answer_was_lost_has_killed_what_ended_after_it(scene: Scene) -> None:
    live = scene.live()
    async with scene.life(live) as over:
        await wait_status(live, Status.RUNNING)
        scene.runtime[live.id].unheard = True
        await kill(live)
        await over.wait()
    assert end_of(live) == (Status.STOPPED, Reason.KILLED)
    assert live.record.signal == SIGTERM


async def test_a_signal_whose_answer_was_lost_has_not_killed_what_had_ended_before(scene: Scene) -> None:
    live = scene.live()
    async with scene.life(live) as over:
        await wait_status(live, Status.RUNNING)
        container = scene.runtime[live.id]
        container.unheard = True
        container.before_kill = lambda: container.end(3, after_s=-1.0)
        await trio.sleep(2.0)
        await kill(live)
        await over.wait()
    assert end_of(live) == (Status.FAILED, Reason.EXIT)


async def test_a_kill_may_name_its_signal(scene: Scene) -> None:
    scene.runtime.program = Program(dies_after_s=1.0)
    live = scene.live()
    async with scene.life(live) as over:
        await wait_status(live, Status.RUNNING)
        await kill(live, signal=2)
        await over.wait()
    assert live.record.signal == 2


async def test_who_ignores_the_signal_gets_sigkill_after_the_grace(scene: Scene) -> None:
    scene.runtime.program = Program(ignores=frozenset({SIGTERM}))
    live = scene.live()
    async with scene.life(live) as over:
        await wait_status(live, Status.RUNNING)
        await kill(live, 10.0)
        await over.wait()
    assert end_of(live) == (Status.STOPPED, Reason.KILLED)
    assert trio.current_time() == 10.0
    assert live.record.signal == SIGKILL


async def test_a_kill_without_grace_is_sigkill_at_once(scene: Scene) -> None:
    live = scene.live()
    async with scene.life(live) as over:
        await wait_status(live, Status.RUNNING)
        await kill(live, 0.0)
        await over.wait()
    assert "kill 15" not in scene.journal
    assert live.record.signal == SIGKILL
    assert trio.current_time() == 0.0


@pytest.mark.parametrize(("second_s", "ended_s"), [(0.0, 3.0), (2.0, 5.0), (60.0, 60.0)])
async def test_a_second_kill_during_the_grace_hurries_and_never_delays(
    scene: Scene, second_s: float, ended_s: float
) -> None:
    scene.runtime.program = Program(ignores=frozenset({SIGTERM}))
    live = scene.live()
    async with scene.life(live) as over:
        await wait_status(live, Status.RUNNING)
        await kill(live, 60.0)
        await trio.sleep(3.0)
        await kill(live, second_s)
        await over.wait()
    assert end_of(live) == (Status.STOPPED, Reason.KILLED)
    assert trio.current_time() == ended_s


async def test_a_second_kill_while_the_first_signal_is_on_its_way_hurries_too(scene: Scene) -> None:
    scene.runtime.program = Program(ignores=frozenset({SIGTERM}))
    live = scene.live()
    async with scene.life(live) as over:
        await wait_status(live, Status.RUNNING)
        scene.runtime[live.id].signal_s = 1.0
        await kill(live, 60.0)
        await wait_all_tasks_blocked()
        await kill(live, 0.0)
        await over.wait()
    assert trio.current_time() == 2.0


async def test_a_kill_during_the_grace_of_a_timeout_hurries_it_and_stays_a_timeout(scene: Scene) -> None:
    scene.runtime.program = Program(ignores=frozenset({SIGTERM}))
    live = scene.live(timeout=10.0, grace=60.0)
    async with scene.life(live) as over:
        await trio.sleep(15.0)
        await kill(live, 0.0)
        await over.wait()
    assert end_of(live) == (Status.FAILED, Reason.TIMEOUT)
    assert trio.current_time() == 15.0


async def test_an_exit_before_the_signal_arrives_counts_as_exit(scene: Scene) -> None:
    live = scene.live()
    async with scene.life(live) as over:
        await wait_status(live, Status.RUNNING)
        container = scene.runtime[live.id]
        container.before_kill = lambda: container.end(3)
        await kill(live)
        await over.wait()
    assert end_of(live) == (Status.FAILED, Reason.EXIT)
    assert live.record.exit_code == 3
    assert "kill 15" not in scene.journal


async def test_a_kill_after_the_exit_changes_nothing(scene: Scene) -> None:
    scene.runtime.program = Program(5)
    scene.records.write_s = 1.0
    live = scene.live()
    async with scene.life(live) as over:
        await wait_status(live, Status.RUNNING)
        await trio.sleep(5.5)  # the end is being stored
        await kill(live)
        await over.wait()
    assert end_of(live) == (Status.STOPPED, Reason.EXIT)


async def test_what_sigkill_cannot_end_is_interrupted(scene: Scene) -> None:
    scene.runtime.program = Program(ignores=frozenset({SIGTERM, SIGKILL}))
    live = scene.live()
    async with scene.life(live) as over:
        await wait_status(live, Status.RUNNING)
        await kill(live)
        await over.wait()
    assert end_of(live) == (Status.FAILED, Reason.INTERRUPTED)
    assert "stuck in the kernel" in str(live.record.message)


async def test_a_kill_does_not_wait_for_a_change_that_a_full_disk_holds(scene: Scene) -> None:
    """Else a milld that stops would wait for whoever asked, and he for a disk with space."""
    scene.runtime.images, scene.runtime.program = {BUSYBOX}, Program(5.0)
    async with scene.milld() as tasks:
        task_id = await spawn(tasks)
        await tasks.wait(task_id, "running", 60.0)
        scene.records.failure = NoSpace("the disk is full")
        await trio.sleep(10.0)  # it has ended, and its end cannot be stored
        with trio.fail_after(3.0):
            await tasks.kill(task_id, "alice", signal=None, grace=None)
        scene.records.failure = None
        assert (await tasks.wait(task_id, "terminal", 60.0)).reason is Reason.EXIT


async def test_a_signal_that_the_runtime_refuses_is_followed_by_others_until_one_is_taken(
    scene: Scene,
) -> None:
    live = scene.live()
    async with scene.life(live) as over:
        await wait_status(live, Status.RUNNING)
        scene.runtime[live.id].refuses = 3
        await kill(live, grace_s=1.0)
        await over.wait()
    assert end_of(live) == (Status.STOPPED, Reason.KILLED)
    assert [step for step in scene.journal if step.startswith("kill")] == [
        "kill 15",
        "kill 9",
        "kill 9",
        "kill 9",
    ]
