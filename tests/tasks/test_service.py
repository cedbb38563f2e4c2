"""The node's tasks as the API sees them: spawn, list, wait, kill."""

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from mill.errors import FieldError, MillError, NoCapacity, NoSpace, NotFound, Unavailable
from mill.model import (
    Draft,
    Duration,
    PullPolicy,
    Reason,
    Resources,
    SpawnRequest,
    Status,
    Task,
    Usage,
)
from mill.tasks.filter import Filter
from mill.tasks.service import RECORD_PATIENCE_S
from tests.tasks.fakes import BUSYBOX, EPOCH, FOREVER, SIGKILL, SIGTERM, Program
from tests.tasks.scene import Scene, make_record, spawn

REQUEST = SpawnRequest(image=BUSYBOX)
ANY = Filter()


# -- spawn ----------------------------------------------------------------------------------------------------------


async def test_a_spawn_answers_with_a_committed_record_before_the_pull_begins(scene: Scene) -> None:
    async with scene.milld() as tasks:
        record = await tasks.spawn(REQUEST, {})
        assert scene.journal == ["insert pulling"]
        assert record == scene.records.rows["busybox-0001"].record
        assert (record.address, record.node, record.node_id) == ("busybox-0001.mill:8080", "node-1", "n1")
        assert record.times.created == EPOCH
        assert (await tasks.get(record.id)).id == record.id


async def test_a_spawn_of_an_image_that_is_there_answers_starting(scene: Scene) -> None:
    scene.runtime.images = {BUSYBOX}
    scene.runtime.start_s = FOREVER
    async with scene.milld() as tasks:
        record = await tasks.spawn(REQUEST, {})
        assert (record.status, record.times.pulled) == (Status.STARTING, EPOCH)
        always = await tasks.spawn(SpawnRequest(image=BUSYBOX, pull=PullPolicy.ALWAYS), {})
        assert always.status is Status.PULLING
        by_digest = f"busybox@sha256:{'0a' * 32}"
        scene.runtime.images.add(by_digest)
        fixed = await tasks.spawn(SpawnRequest(image=by_digest, pull=PullPolicy.ALWAYS), {})
        assert fixed.status is Status.STARTING
        await wait_all_tasks_blocked()
        assert scene.journal.count("pull") == 1


async def test_values_of_the_environment_stay_with_the_owner(scene: Scene) -> None:
    async with scene.milld() as tasks:
        record = await tasks.spawn(SpawnRequest(image=BUSYBOX, env={"KEY": "secret"}), {})
        assert record.spec.env == {"KEY": None}
        assert scene.records.rows[record.id].owned.env == {"KEY": "secret"}


async def test_a_template_is_named_in_the_record(scene: Scene) -> None:
    async with scene.milld() as tasks:
        record = await tasks.spawn(SpawnRequest(task="agent"), {"agent": Draft(image=BUSYBOX, cpu=2.0)})
        assert (record.id, record.template, record.spec.cpu) == ("agent-0001", "agent", 2.0)


async def test_no_room_is_refused_and_leaves_no_row(scene: Scene) -> None:
    scene.runtime.pull_s = FOREVER
    async with scene.milld() as tasks:
        await spawn(tasks, cpu=3.0)
        with pytest.raises(NoCapacity):
            await spawn(tasks, cpu=2.0)
        await spawn(tasks, cpu=1.0)
        assert len(scene.records.rows) == 2


async def test_what_never_fits_blames_its_field(scene: Scene) -> None:
    async with scene.milld() as tasks:
        with pytest.raises(FieldError) as error:
            await spawn(tasks, cpu=5.0)
        assert error.value.field == "cpu"
        assert scene.records.rows == {}


async def test_capacity_is_held_from_the_spawn_to_the_end(scene: Scene) -> None:
    scene.runtime.program = Program(5)
    async with scene.milld() as tasks:
        task_id = await spawn(tasks, cpu=1.5)
        assert tasks.ledger.reserved.cpu == 1.5
        await tasks.wait(task_id, "terminal", 60.0)
        await wait_all_tasks_blocked()
        assert tasks.ledger.reserved == Resources(0, 0)
        assert len(tasks.table) == 0


@pytest.mark.parametrize("conflicts", [0, 1])
@pytest.mark.parametrize("failure", [NoSpace("full"), Unavailable("locked")])
async def test_a_spawn_that_cannot_be_stored_gives_its_reservation_back(
    scene: Scene, failure: MillError, conflicts: int
) -> None:
    scene.choice.wanted = ["aaaa"] * conflicts
    scene.records.rows["busybox-aaaa"] = Task(make_record("busybox-aaaa", Status.STOPPED))
    scene.records.failure = failure
    async with scene.milld() as tasks:
        with pytest.raises(type(failure)):
            await spawn(tasks)
        assert tasks.ledger.reserved == Resources(0, 0)
        assert len(tasks.table) == 0


async def test_a_spawn_while_the_runtime_is_away_gives_its_reservation_back(scene: Scene) -> None:
    scene.runtime.find_error = Unavailable("containerd does not answer")
    async with scene.milld() as tasks:
        with pytest.raises(Unavailable):
            await spawn(tasks)
        assert tasks.ledger.reserved == Resources(0, 0)
        assert scene.records.rows == {}


async def test_a_spawn_that_is_cancelled_leaves_all_or_nothing(scene: Scene) -> None:
    scene.records.write_s = 5.0
    scene.runtime.pull_s = FOREVER
    async with scene.milld() as tasks:
        with trio.CancelScope() as scope:
            scope.cancel()
            await spawn(tasks)
        assert tasks.ledger.reserved == Resources(0, 0)
        with trio.move_on_after(1.0):
            await spawn(tasks)
        assert (
            [live.id for live in tasks.table] == list(tasks.ledger.reservations) == list(scene.records.rows)
        )


async def test_an_id_that_an_ended_task_still_has_is_not_given_again(scene: Scene) -> None:
    scene.choice.wanted = ["aaaa", "bbbb"]
    ended = Task(make_record("busybox-aaaa", Status.STOPPED))
    scene.records.rows["busybox-aaaa"] = ended
    async with scene.milld() as tasks:
        record = await tasks.spawn(REQUEST, {})
        assert (record.id, record.address) == ("busybox-bbbb", "busybox-bbbb.mill:8080")
        assert list(tasks.ledger.reservations) == ["busybox-bbbb"]
        assert scene.records.rows["busybox-aaaa"] == ended


async def test_spawns_at_once_that_choose_the_same_suffix_get_ids_of_their_own(scene: Scene) -> None:
    scene.choice.wanted = ["aaaa"] * 5
    async with scene.milld() as tasks, trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(spawn, tasks)
    assert len(scene.records.rows) == 5


async def test_only_so_many_are_started_at_once(scene: Scene) -> None:
    scene.runtime.images = {BUSYBOX}
    scene.runtime.start_s = 10.0
    async with scene.milld() as tasks:
        for _ in range(5):
            await spawn(tasks)
        await wait_all_tasks_blocked()
        assert scene.journal.count("start") == scene.starts_at_once
        await trio.sleep(31.0)
        assert scene.journal.count("start") == 5


# -- get, list, wait ------------------------------------------------------------------------------------------------


async def test_a_task_resolves_from_its_spawn_to_long_after_its_end(scene: Scene) -> None:
    scene.runtime.program = Program(5, 3)
    async with scene.milld() as tasks:
        task_id = await spawn(tasks)
        for _ in range(100):
            assert (await tasks.get(task_id)).id == task_id
            await trio.sleep(0.1)
        record = await tasks.get(task_id)
        assert (record.status, record.exit_code) == (Status.FAILED, 3)


async def test_an_unknown_id_is_not_found(scene: Scene) -> None:
    async with scene.milld() as tasks:
        with pytest.raises(NotFound, match="no task 'nobody-0001'"):
            await tasks.get("nobody-0001")
        with pytest.raises(NotFound):
            await tasks.wait("nobody-0001", "running", 10.0)
        with pytest.raises(NotFound):
            await tasks.kill("nobody-0001", "admin", signal=None, grace=None)
        assert trio.current_time() == 0.0


async def test_waiting_for_running_returns_when_it_runs_and_for_terminal_when_it_has_ended(
    scene: Scene,
) -> None:
    scene.runtime.pull_s, scene.runtime.start_s = 3.0, 2.0
    scene.runtime.program = Program(10)
    async with scene.milld() as tasks:
        task_id = await spawn(tasks)
        assert (await tasks.wait(task_id, "running", 60.0)).status is Status.RUNNING
        assert trio.current_time() == 5.0
        assert (await tasks.wait(task_id, "running", 60.0)).status is Status.RUNNING
        assert trio.current_time() == 5.0
        assert (await tasks.wait(task_id, "terminal", 60.0)).status is Status.STOPPED
        assert trio.current_time() == 15.0
        assert (await tasks.wait(task_id, "running", 60.0)).status is Status.STOPPED
        assert trio.current_time() == 15.0


async def test_waiting_for_running_ends_with_a_task_that_never_runs(scene: Scene) -> None:
    scene.runtime.pull_s = FOREVER
    async with scene.milld() as tasks:
        task_id = await spawn(tasks, pull_timeout=Duration(7.0))
        record = await tasks.wait(task_id, "running", 60.0)
        assert (record.reason, trio.current_time()) == (Reason.PULL_ERROR, 7.0)


async def test_a_wait_that_is_over_time_gives_the_record_as_it_stands(scene: Scene) -> None:
    async with scene.milld() as tasks:
        task_id = await spawn(tasks)
        record = await tasks.wait(task_id, "terminal", 30.0)
        assert (record.status, trio.current_time()) == (Status.RUNNING, 30.0)


async def test_live_tasks_are_listed_newest_first_with_what_they_use(scene: Scene) -> None:
    scene.runtime.program = Program(100)
    async with scene.milld() as tasks:
        old = await spawn(tasks)
        await trio.sleep(1.0)
        new = await spawn(tasks, labels={"team": "a"})
        await trio.sleep(1.0)
        listed = tasks.live(ANY)
        assert [record.id for record in listed] == [new, old]
        assert [record.usage for record in listed] == [Usage(0.5, 1024)] * 2
        assert [record.id for record in tasks.live(Filter(labels=(("team", "a"),)))] == [new]
        await trio.sleep(200.0)
        assert tasks.live(ANY) == []
        assert [record.id for record in (await tasks.page(ANY, None, 10)).records] == [new, old]
        assert (await tasks.page(ANY, None, 10)).records[0].usage is None


async def test_a_page_tells_no_end_before_everybody_is_told_of_it(scene: Scene) -> None:
    """Between a commit and its return the row says more than the table."""
    async with scene.milld() as tasks:
        task_id = await spawn(tasks)
        await tasks.wait(task_id, "running", 60.0)
        ended = make_record(task_id, Status.STOPPED)
        scene.records.rows[task_id] = attrs.evolve(scene.records.rows[task_id], record=ended)
        assert [record.status for record in (await tasks.page(ANY, None, 10)).records] == [Status.RUNNING]
        assert (await tasks.page(Filter(statuses=("stopped",)), None, 10)).records == []


async def test_stats_are_of_running_tasks_only(scene: Scene) -> None:
    scene.runtime.program = Program(5)
    async with scene.milld() as tasks:
        task_id = await spawn(tasks)
        assert tasks.stats(task_id) is None
        await tasks.wait(task_id, "running", 60.0)
        figures = tasks.stats(task_id)
        assert figures is not None
        assert figures.id == task_id
        await tasks.wait(task_id, "terminal", 60.0)
        assert tasks.stats(task_id) is None


async def test_every_change_is_told_in_order_with_rising_versions(scene: Scene) -> None:
    scene.runtime.program = Program(5)
    async with scene.milld() as tasks:
        live = tasks.table.get(await spawn(tasks))
        assert live is not None
        moves = [(str(live.record.status), live.record.version)]
        while not live.record.status.terminal:
            await live.wait_change()
            moves.append((str(live.record.status), live.record.version))
    assert list(dict.fromkeys(moves)) == [("pulling", 1), ("starting", 2), ("running", 3), ("stopped", 4)]


# -- kill -----------------------------------------------------------------------------------------------------------


async def test_a_kill_is_stored_before_it_acts_and_says_who_it_was(scene: Scene) -> None:
    scene.records.write_s = 0.5
    async with scene.milld() as tasks:
        task_id = await spawn(tasks)
        await tasks.wait(task_id, "running", 60.0)
        at = trio.current_time()
        record = await tasks.kill(task_id, "alice", signal=None, grace=None)
        assert trio.current_time() == at + 0.5
        assert record.status is Status.RUNNING
        assert "kill 15" not in scene.journal
        record = await tasks.wait(task_id, "terminal", 60.0)
        assert (record.reason, record.detail, record.signal) == (Reason.KILLED, "alice", SIGTERM)


async def test_a_kill_acts_at_once_when_the_disk_takes_nothing_and_is_remembered_when_it_does(
    scene: Scene,
) -> None:
    async with scene.milld() as tasks:
        task_id = await spawn(tasks)
        await tasks.wait(task_id, "running", 60.0)
        scene.records.failure = NoSpace("full")
        at = trio.current_time()
        record = await tasks.kill(task_id, "alice", signal=None, grace=None)
        assert (record.status, trio.current_time()) == (Status.RUNNING, at)
        await tasks.wait(task_id, "terminal", 10.0)
        assert (await tasks.get(task_id)).status is Status.RUNNING  # nobody sees what is not stored
        assert "kill 15" in scene.journal
        scene.records.failure = None
        record = await tasks.wait(task_id, "terminal", 60.0)
        assert (record.reason, record.detail, record.signal) == (Reason.KILLED, "alice", SIGTERM)
        assert record.times.finished == EPOCH + at


async def test_a_kill_waits_no_longer_than_a_second_for_a_store_that_is_stuck(scene: Scene) -> None:
    async with scene.milld() as tasks:
        task_id = await spawn(tasks)
        await tasks.wait(task_id, "running", 60.0)
        scene.records.write_s = 30.0
        at = trio.current_time()
        await tasks.kill(task_id, "alice", signal=None, grace=None)
        assert trio.current_time() == at + RECORD_PATIENCE_S
        record = await tasks.wait(task_id, "terminal", 300.0)
        assert (record.reason, record.times.finished) == (Reason.KILLED, EPOCH + at + RECORD_PATIENCE_S)


async def test_a_task_whose_start_the_disk_does_not_take_can_be_killed(scene: Scene) -> None:
    scene.runtime.images.add(BUSYBOX)
    async with scene.milld() as tasks:
        task_id = await spawn(tasks)
        scene.records.failure = NoSpace("full")
        await wait_all_tasks_blocked()
        assert task_id in scene.runtime.containers
        await tasks.kill(task_id, "alice", signal=None, grace=None)
        await wait_all_tasks_blocked()
        assert not scene.runtime[task_id].alive
        scene.records.failure = None
        record = await tasks.wait(task_id, "terminal", 60.0)
        assert (record.reason, record.signal) == (Reason.KILLED, SIGTERM)
        assert record.times.started is not None


async def test_a_host_without_room_refuses_a_spawn_before_anything_is_made(scene: Scene) -> None:
    scene.room.fault = NoSpace("full")
    async with scene.milld() as tasks:
        with pytest.raises(NoSpace):
            await spawn(tasks)
        assert (scene.journal, tasks.ledger.reserved.cpu) == ([], 0.0)
        scene.room.fault = None
        scene.runtime.pull_s = 10.0
        await spawn(tasks)
        await spawn(tasks)
        assert scene.room.asked == [0, 0, 1]


async def test_the_specs_grace_is_used_unless_the_kill_says_otherwise(scene: Scene) -> None:
    scene.runtime.program = Program(ignores=frozenset({SIGTERM}))
    async with scene.milld() as tasks:
        for said, waited_s in ((None, 7.0), (Duration(2.0), 2.0)):
            task_id = await spawn(tasks, grace=Duration(7.0))
            await tasks.wait(task_id, "running", 60.0)
            at = trio.current_time()
            await tasks.kill(task_id, "admin", signal=None, grace=said)
            await tasks.wait(task_id, "terminal", 60.0)
            assert trio.current_time() == at + waited_s


async def test_sigkill_as_the_signal_waits_for_nothing(scene: Scene) -> None:
    async with scene.milld() as tasks:
        task_id = await spawn(tasks)
        await tasks.wait(task_id, "running", 60.0)
        await tasks.kill(task_id, "admin", signal=SIGKILL, grace=Duration(60.0))
        record = await tasks.wait(task_id, "terminal", 60.0)
        assert (record.signal, trio.current_time()) == (SIGKILL, 0.0)


async def test_the_first_kill_is_named_and_the_second_hurries_it(scene: Scene) -> None:
    scene.runtime.program = Program(ignores=frozenset({SIGTERM}))
    async with scene.milld() as tasks:
        task_id = await spawn(tasks)
        await tasks.wait(task_id, "running", 60.0)
        await tasks.kill(task_id, "alice", signal=None, grace=Duration(60.0))
        await trio.sleep(3.0)
        await tasks.kill(task_id, "bob", signal=None, grace=Duration(0.0))
        record = await tasks.wait(task_id, "terminal", 60.0)
        assert (record.detail, trio.current_time()) == ("alice", 3.0)


async def test_a_kill_of_an_ended_task_answers_its_record_and_changes_nothing(scene: Scene) -> None:
    scene.runtime.program = Program(5)
    async with scene.milld() as tasks:
        task_id = await spawn(tasks)
        await tasks.wait(task_id, "terminal", 60.0)
        await wait_all_tasks_blocked()
        ended, before = await tasks.get(task_id), list(scene.journal)
        assert await tasks.kill(task_id, "admin", signal=None, grace=None) == ended
        assert scene.journal == before
