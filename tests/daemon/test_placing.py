"""Where a spawn goes: three nodes with real ports between them, a leader that says, owners that decide, and what dies in the midst."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from mill.cluster.claims import Mandate
from mill.cluster.load import of_images
from mill.config import GRANT_S, LEADER_S
from mill.daemon import placing
from mill.errors import Conflict, FieldError, NoCapacity, NotFound
from mill.model import Draft, Mount, Reason, Size, SpawnRequest, Status
from mill.tasks.keyed import sign
from mill.tasks.orders import Grants
from mill.tasks.service import WITHDRAWN
from tests.api.conftest import until
from tests.daemon import party as parties
from tests.daemon.party import LATE, Party

REQUEST = SpawnRequest(image="busybox", env={"TOKEN": "hunter2"})
GIB = 1024**3


@pytest.fixture
async def party(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Party]:
    monkeypatch.setattr(placing, "LEADER_S", 10.0)  # three nodes in one process of a busy machine
    async with parties.party(tmp_path) as made:
        yield made


# -- by the leader --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("receiver", [1, 2])
async def test_tasks_spread_over_all_nodes_whoever_takes_them_in(party: Party, receiver: int) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(30):
            nursery.start_soon(party[receiver].placing.spawn, REQUEST, {})
    assert party.spread == [10, 10, 10]


async def test_a_task_is_as_it_was_asked_for_wherever_it_is(party: Party) -> None:
    templates = {"web": Draft(image="busybox", args=("a",), cpu=0.5, labels={"x": "y"})}
    request = SpawnRequest(task="web", args=("b",), env={"TOKEN": "hunter2"})
    made = [await party[2].placing.spawn(request, templates) for _ in range(3)]
    assert {record.node for record in made} == {"node-1", "node-2", "node-3"}
    for record in made:
        [number] = party.where(record)
        row = party[number].scene.records.rows[record.id]
        assert (record.template, record.spec.name, record.spec.args) == ("web", "web", ("b",))
        assert (record.spec.cpu, record.spec.labels, record.spec.env) == (0.5, {"x": "y"}, {"TOKEN": None})
        assert (row.owned.env, row.record.address) == ({"TOKEN": "hunter2"}, f"{record.id}.mill:8080")


async def test_the_leader_hears_nothing_of_the_environment_and_owners_obey_its_mandate(party: Party) -> None:
    for _ in range(3):
        await party[2].placing.spawn(REQUEST, {})
    assert party[1].asked.count("/peer/place") == 3
    assert party[3].court.obeyed == [Mandate(7, party[1].id)]
    assert party[1].court.obeyed == [Mandate(7, party[1].id)]


async def test_where_the_image_is_comes_before_where_most_room_is(party: Party) -> None:
    party[3].offers._images = of_images(["docker.io/library/busybox:latest"])
    party.beat()
    made = [await party[2].placing.spawn(REQUEST, {}) for _ in range(3)]
    assert {record.node for record in made} == {"node-3"}


async def test_bad_input_asks_nobody(party: Party) -> None:
    for request, field in ((SpawnRequest(image="A B"), "image"), (SpawnRequest(task="x"), "task")):
        with pytest.raises(FieldError) as caught:
            await party[2].placing.spawn(request, {})
        assert caught.value.field == field
    assert not party[1].asked


async def test_a_lone_node_and_a_leader_that_is_best_itself_ask_nobody(party: Party) -> None:
    first = await party[1].placing.spawn(REQUEST, {})
    for other in (2, 3):
        party[1].court.members.pop(party[other].id)
    await party[1].placing.spawn(REQUEST, {})
    assert first.node != "node-1" or not any(guest.asked for guest in party.guests)
    assert party[1].asked == []


# -- no room --------------------------------------------------------------------------------------------------------


async def test_what_fits_nowhere_ever_is_the_callers_fault_and_what_does_not_now_says_what_is_free(
    party: Party,
) -> None:
    for receiver in (1, 2):
        with pytest.raises(FieldError, match="the largest node offers 4") as caught:
            await party[receiver].placing.spawn(SpawnRequest(image="busybox", cpu=5), {})
        assert caught.value.field == "cpu"
    for _ in range(3):
        await party[2].placing.spawn(SpawnRequest(image="busybox", cpu=3), {})
        party.beat()
    with pytest.raises(
        NoCapacity, match=r"free are 1 cores.*on node-1; 1 cores.*on node-2; 1 cores.*on node-3"
    ):
        await party[2].placing.spawn(SpawnRequest(image="busybox", cpu=2), {})
    assert party.spread == [1, 1, 1]


async def test_a_node_that_has_less_than_it_said_refuses_and_the_next_is_asked(party: Party) -> None:
    for number in (1, 3):
        await party[number].tasks.spawn(SpawnRequest(image="busybox", cpu=4), {})
    made = await party[2].placing.spawn(SpawnRequest(image="busybox", cpu=4), {})
    assert made.node == "node-2"
    with pytest.raises(NoCapacity, match=r"no node takes the task: .*node-3: no room"):
        await party[2].placing.spawn(SpawnRequest(image="busybox", cpu=4), {})
    assert party.spread == [1, 1, 1]


async def test_a_mount_that_no_node_allows_is_told_as_such(party: Party) -> None:
    with pytest.raises(FieldError) as caught:
        await party[2].placing.spawn(SpawnRequest(image="busybox", mounts=(Mount("/x", source="/etc"),)), {})
    assert caught.value.field == "mounts[0].source"


async def test_a_node_that_has_said_nothing_yet_gets_nothing_and_may_be_the_largest(party: Party) -> None:
    party[1].court.loads.clear()
    assert (await party[2].placing.spawn(REQUEST, {})).node == "node-1"
    with pytest.raises(Exception, match="has not said yet what it has"):
        await party[2].placing.spawn(SpawnRequest(image="busybox", cpu=50), {})


# -- what dies in the midst -----------------------------------------------------------------------------------------


async def test_a_leader_that_does_not_answer_costs_a_second_and_the_task_stays_here(
    party: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    await party[2].placing.spawn(REQUEST, {})
    before = party.spread
    monkeypatch.setattr(placing, "LEADER_S", LEADER_S)
    party[1].stall()
    began = trio.current_time()
    made = await party[2].placing.spawn(REQUEST, {})
    assert LEADER_S <= trio.current_time() - began < LEADER_S + 1
    assert made.node == "node-2"
    party[1].go_on.set()
    await trio.sleep(0.1)
    assert party.spread == [before[0], before[1] + 1, before[2]]


async def test_a_leader_that_is_gone_and_none_at_all_cost_nothing(party: Party) -> None:
    party[1].port.cancel()
    with trio.fail_after(LEADER_S / 2):
        assert (await party[2].placing.spawn(REQUEST, {})).node == "node-2"
        party.lead(None)
        assert (await party[3].placing.spawn(REQUEST, {})).node == "node-3"
    assert party[3].court.obeyed == []


async def test_an_order_whose_answer_is_lost_is_given_to_the_next_and_its_task_ended(party: Party) -> None:
    party[3].lose_answers = True
    made = [await party[2].placing.spawn(REQUEST, {}) for _ in range(3)]
    assert all(party.where(record) in ([1], [2]) for record in made)
    orphans = set(party[3].ids)
    assert orphans
    party[3].lose_answers = False
    for orphan in orphans:
        await party[3].tasks.wait(orphan, "terminal", 30)
        record = await party[3].tasks.get(orphan)
        assert record.reason is Reason.KILLED
        assert WITHDRAWN in str(record.message)
    for record in made:
        [number] = party.where(record)
        assert not (await party[number].tasks.get(record.id)).status.terminal


async def test_an_order_that_is_read_too_late_leaves_no_task_behind(
    party: Party, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        await party[2].placing.spawn(REQUEST, {})  # the connections are made
    party.beat()
    monkeypatch.setattr(placing, "ADMIT_S", 0.3)
    before = party[3].ids
    party[3].stall()
    made = [await party[2].placing.spawn(REQUEST, {}) for _ in range(3)]
    assert all(party.where(record) in ([1], [2]) for record in made)
    party[3].go_on.set()
    await until(lambda: "/peer/withdraw" in party[3].asked)
    await trio.sleep(0.2)
    live = {live.id for live in party[3].tasks.table if not live.record.status.terminal}
    assert live == before


async def test_a_withdrawn_order_that_comes_late_makes_nothing(party: Party) -> None:
    party[3].placing.withdraw("late-0001")
    with pytest.raises(Conflict, match="withdrawn"):
        await party[3].placing.admit(LATE, 0, "")
    with pytest.raises(NotFound):
        await party[3].tasks.get("late-0001")


async def test_an_order_that_comes_twice_is_one_task(party: Party) -> None:
    first = await party[3].placing.admit(LATE, 0, "")
    again = await party[3].placing.admit(LATE, 0, "")
    assert (first.id, again.id, party.spread) == ("late-0001", "late-0001", [0, 0, 1])


async def test_the_orders_of_a_leader_that_is_overruled_are_refused_and_the_receiver_takes_the_task(
    party: Party,
) -> None:
    party[1].court.refuses = party[3].court.refuses = True
    made = [await party[2].placing.spawn(REQUEST, {}) for _ in range(4)]
    assert {record.node for record in made} == {"node-2"}


# -- keys -----------------------------------------------------------------------------------------------------------

KEY = sign("k1", REQUEST)


@pytest.mark.parametrize("leader", [1, 2, None])
async def test_one_key_at_two_nodes_at_once_makes_one_task(party: Party, leader: int | None) -> None:
    """Though no record has come from one to the other."""
    party.lead(leader)
    ids: list[str] = []

    async def ask(number: int) -> None:
        made = await party[number].placing.spawn(REQUEST, {}, KEY)
        ids.append(made.id)

    async with trio.open_nursery() as nursery:
        for number in (2, 3, 2, 3, 1):
            nursery.start_soon(ask, number)
    assert (len(ids), len(set(ids))) == (5, 1)
    assert sum(party.spread) == 1


async def test_the_leader_knows_a_key_that_the_receiver_has_not_heard_of(party: Party) -> None:
    made = await party[1].tasks.spawn(REQUEST, {}, KEY)
    assert (await party[2].placing.spawn(REQUEST, {}, KEY)).id == made.id
    other = SpawnRequest(image="busybox", env={"TOKEN": "x"})
    with pytest.raises(Conflict, match=made.id):
        await party[2].placing.spawn(other, {}, sign("k1", other))
    party.lead(None)
    assert (await party[3].placing.spawn(REQUEST, {}, KEY)).id == made.id
    assert party.spread == [1, 0, 0]


async def test_a_key_whose_spawn_failed_is_free_at_once(party: Party) -> None:
    big = SpawnRequest(image="busybox", memory=Size(4 * GIB))
    for number in (1, 2, 3):
        await party[number].tasks.spawn(REQUEST, {})
    key = sign("k2", big)
    with pytest.raises(NoCapacity):
        await party[2].placing.spawn(big, {}, key)
    for guest in party.guests:
        for task_id in guest.ids:
            await guest.tasks.kill(task_id, "ann", signal=9, grace=None)
            await guest.tasks.wait(task_id, "terminal", 5)
        await until(lambda: guest.tasks.ledger.free.cpu == 4.0)  # noqa: B023 -- waited for within the turn
    made = await party[3].placing.spawn(big, {}, key)
    assert made.status in {Status.STARTING, Status.PULLING}


def test_a_key_is_given_to_one_request_at_a_time() -> None:
    grants = Grants()
    first = grants.take("k", "a", "n1", 0.0)
    assert (first.request, grants.take("k", "a", "n1", 1.0)) == ("a", first)
    assert grants.take("k", "b", "n2", 1.0) == first
    grants.release("k", "b")
    assert grants.take("k", "b", "n2", 2.0) == first
    grants.release("k", "a")
    assert grants.take("k", "b", "n2", 3.0).request == "b"
    assert grants.take("k", "c", "n3", 3.0 + GRANT_S).request == "c"
