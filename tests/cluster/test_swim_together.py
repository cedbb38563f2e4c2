"""What a few members do together when one leaves, is away, restarts, is stopped, or hears the others one way only."""

import pytest

from mill.cluster import wire
from mill.cluster.effects import Changed, Mailed, News, PathChanged
from mill.cluster.messages import Packet, Sync
from mill.cluster.tuning import Tuning
from mill.cluster.values import MemberState, NodeId
from tests.cluster.fleet import Fleet, Node
from tests.cluster.simulator import DATAGRAM, STREAM, Link


def fleet_of(size: int, **options: object) -> Fleet:
    fleet = Fleet(size, 1, **options)  # type: ignore[arg-type]
    fleet.settle()
    fleet.simulator.run(30)
    return fleet


def states(fleet: Fleet, node: Node) -> set[MemberState]:
    return {view[node.id].state for view in fleet.views().values()}


def test_who_leaves_has_left_everywhere_at_once_and_nobody_was_suspected() -> None:
    fleet = fleet_of(8)
    fleet.act(fleet.nodes[3], lambda swim, now: swim.leave(now))
    fleet.simulator.run(1)
    fleet.crash(fleet.nodes[3])
    fleet.simulator.run(60)
    assert states(fleet, fleet.nodes[3]) == {MemberState.LEFT}
    assert not any(change.new and change.new.state is MemberState.SUSPECT for _, _, change in fleet.changes)
    fleet.start(fleet.nodes[3])
    assert fleet.settle() <= 2


def test_who_left_is_forgotten_in_the_end() -> None:
    fleet = fleet_of(3, tuning=Tuning(left_kept_s=100.0))
    fleet.act(fleet.nodes[2], lambda swim, now: swim.leave(now))
    fleet.simulator.run(1)
    fleet.crash(fleet.nodes[2])
    fleet.simulator.run(200)
    assert all(fleet.nodes[2].id not in view for view in fleet.views().values())
    assert sum(change.new is None for _, _, change in fleet.changes) == 2


def test_who_is_away_is_not_suspected_until_its_time_is_over() -> None:
    fleet = fleet_of(5)
    fleet.act(fleet.nodes[3], lambda swim, now: swim.say_away(now, 100.0))
    fleet.simulator.run(1)
    fleet.crash(fleet.nodes[3])
    fleet.simulator.run(95)
    assert states(fleet, fleet.nodes[3]) == {MemberState.AWAY}
    fleet.simulator.run(30)
    assert states(fleet, fleet.nodes[3]) == {MemberState.DOWN}


def test_who_joins_learns_how_long_an_absence_lasts() -> None:
    fleet = fleet_of(4)
    fleet.act(fleet.nodes[3], lambda swim, now: swim.say_away(now, 100.0))
    fleet.simulator.run(1)
    fleet.crash(fleet.nodes[3])
    fleet.simulator.run(60)
    newcomer = fleet.add()
    fleet.simulator.run(20)
    assert fleet.views()[newcomer.id][fleet.nodes[3].id].state is MemberState.AWAY
    fleet.simulator.run(60)
    assert fleet.views()[newcomer.id][fleet.nodes[3].id].state is MemberState.DOWN


def test_who_is_back_is_found_even_if_it_knows_nobody() -> None:
    fleet = fleet_of(4)
    fleet.act(fleet.nodes[3], lambda swim, now: swim.say_away(now, 100.0))
    fleet.simulator.run(1)
    fleet.crash(fleet.nodes[3])
    fleet.simulator.run(10)
    fleet.start(fleet.nodes[3], seeds=())
    assert fleet.settle() <= 10


def test_whom_somebody_forgets_counts_no_more_and_is_back_if_it_lives() -> None:
    fleet = fleet_of(5)
    fleet.crash(fleet.nodes[4])
    fleet.simulator.run(30)
    fleet.act(fleet.nodes[0], lambda swim, now: swim.forget(fleet.nodes[4].id, now))
    fleet.simulator.run(3)
    assert states(fleet, fleet.nodes[4]) == {MemberState.LEFT}
    fleet.act(fleet.nodes[0], lambda swim, now: swim.forget(fleet.nodes[3].id, now))
    fleet.simulator.run(5)
    assert states(fleet, fleet.nodes[3]) == {MemberState.ALIVE}


def test_a_restart_that_nobody_noticed_shows_as_a_new_life() -> None:
    fleet = fleet_of(5)
    fleet.crash(fleet.nodes[2])
    fleet.start(fleet.nodes[2])
    assert fleet.settle() <= 2
    lives = {view[fleet.nodes[2].id].peer.epoch for view in fleet.views().values()}
    assert lives == {2}


def test_a_disk_that_was_set_back_makes_no_life_twice() -> None:
    fleet = fleet_of(3)
    for _ in range(3):
        fleet.crash(fleet.nodes[2])
        fleet.start(fleet.nodes[2])
        fleet.settle()
    fleet.crash(fleet.nodes[2])
    fleet.nodes[2].epoch = 1
    fleet.start(fleet.nodes[2])
    fleet.settle()
    assert fleet.nodes[2].epoch == 5


def test_a_node_that_was_stopped_blames_nobody() -> None:
    fleet = fleet_of(5)
    fleet.simulator.pause(fleet.nodes[1].address)
    fleet.simulator.run(60)
    assert states(fleet, fleet.nodes[1]) >= {MemberState.DOWN}
    began = fleet.simulator.now
    fleet.simulator.resume(fleet.nodes[1].address)
    assert fleet.settle() <= 10
    fleet.simulator.run(60)
    blamed = [
        change.new
        for when, node, change in fleet.changes
        if when >= began
        and node is fleet.nodes[1]
        and change.new
        and change.new.state in {MemberState.SUSPECT, MemberState.DOWN}
    ]
    assert blamed == []


def test_islands_that_began_apart_find_each_other_by_their_seeds() -> None:
    fleet = Fleet(2, 1)
    fleet.simulator.partition([fleet.nodes[0].address])
    for _ in range(4):
        fleet.add()
    fleet.simulator.run(120)
    assert not fleet.agreed()
    fleet.simulator.heal()
    assert fleet.settle() <= 40


def test_a_fault_of_one_way_alone_is_seen_and_nobody_dies_of_it() -> None:
    fleet = fleet_of(4)
    one, other = fleet.nodes[0], fleet.nodes[1]
    fleet.simulator.cut(one.address, other.address, STREAM)
    fleet.simulator.run(400)
    seen = [(node, effect) for _, node, effect in fleet.others if isinstance(effect, PathChanged)]
    assert {(node.id, effect.node) for node, effect in seen} == {(one.id, other.id), (other.id, one.id)}
    assert all((effect.datagrams, effect.streams) == (True, False) for _, effect in seen)
    fleet.simulator.heal()
    fleet.others.clear()
    fleet.simulator.cut(one.address, other.address, DATAGRAM)
    fleet.simulator.run(400)
    last = {
        (node.id, effect.node): effect for _, node, effect in fleet.others if isinstance(effect, PathChanged)
    }
    assert (last[one.id, other.id].datagrams, last[one.id, other.id].streams) == (False, True)
    assert fleet.false_deaths() == []
    fleet.simulator.heal()
    fleet.others.clear()
    fleet.simulator.run(100)
    last = {
        (node.id, effect.node): effect for _, node, effect in fleet.others if isinstance(effect, PathChanged)
    }
    assert all(effect.datagrams and effect.streams for effect in last.values())
    assert fleet.agreed()


@pytest.mark.parametrize("size", [20, 5000, 100_000])
def test_a_rumour_of_any_length_reaches_each_once(size: int) -> None:
    fleet = fleet_of(6, link=Link(loss=0.1, duplicates=0.1))
    payload = bytes(size)
    fleet.others.clear()
    heard: list[NodeId] = []
    fleet.simulator.observers.append(
        lambda host, effect, _: heard.append(NodeId(host.address.host)) if isinstance(effect, News) else None
    )
    fleet.broadcast(fleet.nodes[2], "records", payload)
    fleet.simulator.run(20)
    assert sorted(heard) == sorted(node.address.host for node in fleet.nodes if node is not fleet.nodes[2])


def test_a_datagram_holds_no_more_than_it_may_and_what_is_longer_goes_by_stream() -> None:
    longest = 0

    def size_of(packet: Packet) -> int:
        nonlocal longest
        size = len(wire.encode(packet))
        if not isinstance(packet.kind, Sync) and all(len(rumour.payload) <= 700 for rumour in packet.rumours):
            longest = max(longest, size)
        return size

    fleet = Fleet(30, 1, size_of=size_of, attach=lambda _: bytes(400))
    for number in range(100):
        size = fleet.simulator.rng.choice((10, 300, 700, 701, 3000))
        fleet.broadcast(fleet.simulator.rng.choice(fleet.nodes), str(number), bytes(size))
        fleet.simulator.run(0.1)
    fleet.settle()
    assert 900 < longest <= Tuning().datagram_bytes


def test_a_joiner_gets_everything_in_one_copy_and_changes_are_told_as_effects() -> None:
    fleet = fleet_of(5)
    newcomer = fleet.add()
    fleet.simulator.run(0.5)
    learnt = [
        change for _, node, change in fleet.changes if node is newcomer and change.old is None and change.new
    ]
    assert len(learnt) == 6
    assert all(isinstance(change, Changed) for change in learnt)
    seen = [
        node
        for _, node, change in fleet.changes
        if change.new and change.new.id == newcomer.id and change.old is None
    ]
    assert len(seen) == 6


@pytest.mark.parametrize("by_stream", [False, True])
def test_mail_comes_to_the_one_it_is_for_and_to_nobody_else(*, by_stream: bool) -> None:
    fleet = Fleet(3, 1)
    fleet.settle()
    one, two, _ = fleet.nodes
    fleet.act(one, lambda swim, now: swim.mail(two.id, b"for you", now, by_stream=by_stream))
    fleet.simulator.run(1.0)
    mailed = [(node, effect) for _, node, effect in fleet.others if isinstance(effect, Mailed)]
    assert mailed == [(two, Mailed(one.id, b"for you"))]


def test_remembered_members_are_down_until_they_are_heard_of() -> None:
    fleet = Fleet(3, 1)
    fleet.settle()
    one, two, three = fleet.nodes
    for node in (two, three):  # so that the life before the remembered one is one that there was
        fleet.crash(node)
        fleet.start(node)
    fleet.settle()
    assert one.swim is not None
    remembered = tuple(one.swim.members.values())
    fleet.crash(one)
    fleet.crash(three)
    fleet.simulator.run(1.0)
    fleet.start(one, seeds=())
    fleet.act(one, lambda swim, now: swim.remember(remembered, now))
    assert {m.id: m.state for m in one.swim.members.values()} == {
        one.id: MemberState.ALIVE,
        two.id: MemberState.DOWN,
        three.id: MemberState.DOWN,
    }
    fleet.simulator.run(60.0)
    assert one.swim.members[two.id].state is MemberState.ALIVE
    assert one.swim.members[three.id].state is MemberState.DOWN
    assert fleet.false_deaths() == []
