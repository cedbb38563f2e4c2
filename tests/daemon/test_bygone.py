"""What a node had that does not come back goes when its time is over; while it is away, or nobody leads a majority, nothing does."""

import json
from collections.abc import Callable
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from mill.cluster.claims import Mandate
from mill.cluster.entries import ENDED, RUNNING
from mill.cluster.outcomes import Led
from mill.cluster.records import Records
from mill.cluster.values import Member, MemberState, NodeId, Peer
from mill.convert import format_time
from mill.daemon.bygone import SLACK, Bygone
from mill.daemon.shown import Shown

ME, GONE = NodeId("a" * 32), NodeId("b" * 32)
KEPT_S = 1000.0
BEGAN = 1_000_000.0


@attrs.define
class Engine:
    records: Records
    led: Led
    members: dict[NodeId, Member]

    def outlive(self, owner: NodeId, expired: set[str], now: float) -> list[Any]:
        assert now == trio.current_time()
        return list(self.records.outlive(owner, expired))


@attrs.define
class Gossip:
    engine: Engine

    def do(self, act: Callable[[float], list[Any]]) -> None:
        act(trio.current_time())

    async def settled(self) -> None:
        await trio.lowlevel.checkpoint()


def cluster_of(state: MemberState | None, *, full: bool = True) -> Any:
    """This node leads; of the other it knows one task that ended after 10 s, one that it lost after 20 s, and one that ended after 300 s."""
    records, theirs = Records(ME, 1), Records(GONE, 1)
    for task, phase, ended_s in (("ended", ENDED, 10.0), ("lost", RUNNING, 0.0), ("later", ENDED, 300.0)):
        said = {"times": {"finished": format_time(BEGAN + ended_s) if ended_s else None}}
        theirs.put(task, phase, json.dumps(said).encode())
    records.absorb(theirs.dump(GONE))
    peer = Peer(GONE, 1, "gone", "10.0.0.2", 4401)
    members = {} if state is None else {GONE: Member(peer, state, 0, 0, 0.0, {})}
    engine = Engine(records, Led(ME, full, Mandate(1, ME)), members)
    return Cluster(engine, Gossip(engine))


@attrs.define
class Cluster:
    engine: Engine
    gossip: Gossip

    def wall(self) -> float:
        return BEGAN + trio.current_time()

    def tasks(self) -> set[str]:
        return {view.entry.task for view in self.engine.records.tasks()}


async def left_after(
    clock: MockClock, cluster: Cluster, *seconds: float, condemned_at: float | None = 20.0
) -> list[set[str]]:
    """What is known of the other node's tasks at each of these times."""
    used: Any = cluster  # as much of it as is used
    shown = Shown(cluster.engine.records, ME, cluster.wall)
    found = []
    began = clock.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Bygone(used, shown, KEPT_S).serve)
        if condemned_at is not None:
            await trio.sleep(condemned_at)
            verdict = cluster.engine.records.verdict(GONE, 1)
            cluster.engine.records.condemn(verdict)
            shown.lost_at(verdict)
        for at in seconds:
            await trio.sleep_until(began + at)
            found.append(cluster.tasks())
        nursery.cancel_scope.cancel()
    return found


LATE_S = 70.0
"""Until the next look, and a little."""
OVER_S = KEPT_S * (1 + SLACK)


@pytest.mark.parametrize("state", [MemberState.DOWN, MemberState.LEFT, None])
async def test_each_task_goes_when_its_time_is_over(
    state: MemberState | None, autojump_clock: MockClock
) -> None:
    at = (OVER_S, 20 + OVER_S + LATE_S, 300 + OVER_S, 300 + OVER_S + LATE_S)
    found = await left_after(autojump_clock, cluster_of(state), *at)
    assert found == [{"ended", "lost", "later"}, {"later"}, {"later"}, set()]


@pytest.mark.parametrize("state", [MemberState.ALIVE, MemberState.SUSPECT, MemberState.AWAY])
async def test_of_a_node_that_is_there_or_will_be_back_nothing_goes(
    state: MemberState, autojump_clock: MockClock
) -> None:
    assert await left_after(autojump_clock, cluster_of(state), 5 * OVER_S) == [{"ended", "lost", "later"}]


async def test_without_a_majority_nothing_goes(autojump_clock: MockClock) -> None:
    assert await left_after(autojump_clock, cluster_of(MemberState.DOWN, full=False), 5 * OVER_S) == [
        {"ended", "lost", "later"}
    ]


async def test_what_nobody_has_condemned_counts_as_running_and_what_came_after_it_stays_too(
    autojump_clock: MockClock,
) -> None:
    found = await left_after(autojump_clock, cluster_of(MemberState.DOWN), 5 * OVER_S, condemned_at=None)
    assert found == [{"lost", "later"}]
