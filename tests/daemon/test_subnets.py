"""Parts of the mesh's range: whom a leader gives which, and the ways to them, as members come and go and the kernel refuses."""

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import attrs
import pytest
import structlog
import trio
from structlog.typing import EventDict
from trio.testing import MockClock, wait_all_tasks_blocked

from mill.cluster import effects
from mill.cluster.claims import Mandate
from mill.cluster.outcomes import Led
from mill.cluster.settings import Setting
from mill.cluster.values import Member, MemberState, NodeId
from mill.cluster.values import Peer as Life
from mill.daemon import subnets
from mill.daemon.news import News
from mill.daemon.subnets import ASK_FOR_S, KEY, SAID, UNKNOWN_S, WAYS_AGAIN_S, Subnets
from mill.errors import Unavailable
from mill.network.addresses import Peer

RANGE = IPv4Network("10.99.0.0/20")
PARTS = list(RANGE.subnets(new_prefix=22))
ME, A, B, C, D, E = (NodeId(letters * 16) for letters in ("aa", "bb", "cc", "dd", "ee", "ff"))
REFUSED = "the kernel refuses them (No buffer space available)"


@attrs.define(eq=False)
class Engine:
    """What is read of a node's engine."""

    members: dict[NodeId, Member]
    led: Led | None
    kept: dict[str, Setting] = attrs.field(factory=dict)

    @property
    def settings(self) -> Iterable[Setting]:
        return self.kept.values()


class Cluster:
    """As `daemon.cluster.Cluster`: this node leads, and all are members who have said nothing of a part yet."""

    me = ME
    founder = False

    def __init__(self) -> None:
        members = {node: Member(Life(node, 1, node[:2], f"192.0.2.{at}", 4401), MemberState.ALIVE, 0, at, 0.0)
                   for at, node in enumerate((ME, A, B, C, D, E), start=1)}  # fmt: skip
        self.engine = Engine(members, Led(ME, full=True, mandate=Mandate(1, ME)))
        self.news = News([], lambda: 0.0)
        self.said: list[tuple[str, str | None]] = []
        self.now = 1000.0
        """On the wall."""

    def wall(self) -> float:
        return self.now

    def say(self, name: str, value: str | None) -> None:
        self.said.append((name, value))

    async def set(self, key: str, value: bytes | None) -> None:
        await trio.lowlevel.checkpoint()
        self.engine.kept[key] = Setting(key, value, self.now, ME)

    def change(self, node: NodeId, **fields: Any) -> None:
        """What is held of a member, and whoever listens hears it."""
        old = self.engine.members[node]
        new = self.engine.members[node] = attrs.evolve(old, **fields)
        for hear in self.news.on[effects.Changed]:
            hear(effects.Changed(old, new))

    def tells(self, node: NodeId, part: IPv4Network) -> None:
        self.change(node, meta={SAID: str(part)})

    def lead(self, leader: NodeId | None, *, full: bool) -> None:
        self.engine.led = Led(leader, full=full, mandate=Mandate(1, ME))


@attrs.define(eq=False)
class Ways:
    """As `daemon.subnets.Ways`. *fault*: why none can be made now."""

    subnet: IPv4Network = PARTS[0]
    fault: str | None = None
    tries: list[tuple[IPv4Network, ...]] = attrs.field(factory=list)

    async def set_peers(self, peers: Iterable[Peer]) -> None:
        await trio.lowlevel.checkpoint()
        self.tries.append(tuple(peer.subnet for peer in peers))
        if self.fault is not None:
            raise Unavailable(self.fault)


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


@pytest.fixture
def leader(cluster: Any) -> Subnets:
    return Subnets(cluster, RANGE, ())


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[EventDict]]:
    with structlog.testing.capture_logs() as captured:
        monkeypatch.setattr(subnets, "log", structlog.get_logger())
        yield captured


# -- what a leader assigns ----------------------------------------------------------------------------------------


async def test_each_gets_the_first_part_that_is_free_and_the_same_when_it_asks_again(
    cluster: Cluster, leader: Subnets
) -> None:
    assert [await leader.assign(node) for node in (A, B, A)] == [PARTS[0], PARTS[1], PARTS[0]]
    written = {key: setting.value for key, setting in cluster.engine.kept.items()}
    assert written == {KEY + A: str(PARTS[0]).encode(), KEY + B: str(PARTS[1]).encode()}


async def test_those_that_ask_at_once_get_different_ones(leader: Subnets) -> None:
    given: list[IPv4Network] = []

    async def ask(node: NodeId) -> None:
        given.append(await leader.assign(node))

    async with trio.open_nursery() as nursery:
        for node in (A, B, C, D):
            nursery.start_soon(ask, node)
    assert sorted(given) == PARTS


async def test_what_a_member_says_it_has_is_its_own_whoever_gave_it(
    cluster: Cluster, leader: Subnets
) -> None:
    cluster.tells(A, PARTS[0])
    cluster.tells(B, PARTS[1])
    assert [await leader.assign(node) for node in (C, A)] == [PARTS[2], PARTS[0]]


async def test_a_part_that_another_took_meanwhile_is_not_given_again(
    cluster: Cluster, leader: Subnets
) -> None:
    assert await leader.assign(A) == PARTS[0]
    cluster.tells(B, PARTS[0])
    assert await leader.assign(A) == PARTS[1]


async def test_configured_nodes_that_are_no_members_keep_theirs(cluster: Any) -> None:
    fixed = Peer("other", IPv4Address("192.0.2.77"), PARTS[0])
    assert await Subnets(cluster, RANGE, (fixed,)).assign(A) == PARTS[1]


@pytest.mark.parametrize("state", [MemberState.SUSPECT, MemberState.DOWN, MemberState.AWAY])
async def test_who_may_come_back_keeps_its_part_and_who_has_left_does_not(
    cluster: Cluster, leader: Subnets, state: MemberState
) -> None:
    cluster.tells(A, await leader.assign(A))
    cluster.change(A, state=state)
    assert await leader.assign(B) == PARTS[1]
    cluster.change(A, state=MemberState.LEFT)
    assert await leader.assign(C) == PARTS[0]


async def test_what_was_given_to_who_has_left_is_forgotten_also_when_nobody_remembers_that_it_was_a_member(
    cluster: Cluster, leader: Subnets
) -> None:
    for node in (A, B, C):
        await leader.assign(node)
    cluster.change(A, state=MemberState.LEFT)
    del cluster.engine.members[B]
    assert await leader.assign(D) == PARTS[0]
    assert cluster.engine.kept[KEY + A].value is None
    assert await leader.assign(E) == PARTS[3]  # B has just been given the second
    cluster.now += UNKNOWN_S + 1
    cluster.change(E, state=MemberState.LEFT)
    assert await leader.assign(D) == PARTS[0]
    assert {key for key, setting in cluster.engine.kept.items() if setting.value is not None} == {
        KEY + C,
        KEY + D,
    }


async def test_without_a_majority_or_room_none_is_given(cluster: Cluster, leader: Subnets) -> None:
    for led, full in ((ME, False), (A, False), (None, False)):
        cluster.lead(led, full=full)
        with pytest.raises(Unavailable, match="does not lead a majority"):
            await leader.assign(A)
    cluster.lead(ME, full=True)
    for node in (A, B, C, D):
        await leader.assign(node)
    with pytest.raises(Unavailable, match=r"no part of 10\.99\.0\.0/20 is free"):
        await leader.assign(E)


# -- a joiner -----------------------------------------------------------------------------------------------------


async def test_who_restarts_keeps_its_part_unless_another_has_it_now(
    cluster: Cluster, leader: Subnets, tmp_path: Path
) -> None:
    (tmp_path / "subnet").write_text(f"{PARTS[2]}\n")
    assert await leader.own(None, tmp_path) == PARTS[2]
    assert await leader.own(PARTS[3], tmp_path) == PARTS[3]
    cluster.tells(A, PARTS[2])
    assert await leader.own(None, tmp_path) == PARTS[0]


async def test_whom_no_leader_answers_takes_a_free_one_and_says_so(
    cluster: Cluster, leader: Subnets, tmp_path: Path, lines: list[EventDict], autojump_clock: MockClock
) -> None:
    cluster.lead(None, full=False)
    for node, part in zip((A, B, C), PARTS, strict=False):
        cluster.tells(node, part)
    began = autojump_clock.current_time()
    assert await leader.own(None, tmp_path) == PARTS[3]
    assert autojump_clock.current_time() - began == pytest.approx(ASK_FOR_S)
    assert [line["subnet"] for line in lines] == [str(PARTS[3])]


# -- the ways -----------------------------------------------------------------------------------------------------


@pytest.fixture
async def ways(cluster: Cluster, leader: Subnets, nursery: trio.Nursery) -> Ways:
    """Of this node, which has the first part, and A, which has the second."""
    made = Ways()
    cluster.tells(A, PARTS[1])
    await nursery.start(leader.lead, made)
    await wait_all_tasks_blocked()
    return made


async def test_they_follow_the_members_and_nothing_is_done_where_nothing_changes(
    cluster: Cluster, ways: Ways
) -> None:
    assert cluster.said == [(SAID, str(PARTS[0]))]
    assert ways.tries == [(PARTS[1],)]
    cluster.tells(B, PARTS[2])
    await wait_all_tasks_blocked()
    cluster.change(B, state=MemberState.DOWN)
    await wait_all_tasks_blocked()
    assert ways.tries[1:] == [(PARTS[1], PARTS[2])]
    cluster.change(A, state=MemberState.LEFT)
    await wait_all_tasks_blocked()
    assert ways.tries[2:] == [(PARTS[2],)]


async def test_who_has_anothers_part_is_not_led_to_and_told_of_once(
    cluster: Cluster, ways: Ways, lines: list[EventDict]
) -> None:
    cluster.tells(B, PARTS[1])
    await wait_all_tasks_blocked()
    cluster.tells(C, PARTS[2])
    await wait_all_tasks_blocked()
    assert ways.tries == [(PARTS[1],), (PARTS[1], PARTS[2])]
    assert [line["node"] for line in lines] == ["cc"]


async def test_what_the_kernel_refuses_is_tried_again_until_it_works_and_told_once(
    cluster: Cluster, ways: Ways, lines: list[EventDict], autojump_clock: MockClock
) -> None:
    ways.fault = REFUSED
    cluster.tells(B, PARTS[2])
    began = autojump_clock.current_time()
    await trio.sleep_until(began + 10 * WAYS_AGAIN_S + 1)
    assert ways.tries[1:] == [(PARTS[1], PARTS[2])] * 11
    assert [line["why"] for line in lines] == [REFUSED]
    ways.fault = "the kernel refuses them (Operation not permitted)"
    await trio.sleep(2 * WAYS_AGAIN_S)
    assert [line["why"] for line in lines] == [REFUSED, ways.fault]
    ways.fault = None
    await trio.sleep(WAYS_AGAIN_S)
    tried = len(ways.tries)
    await trio.sleep(100 * WAYS_AGAIN_S)
    assert len(ways.tries) == tried
    assert [line["log_level"] for line in lines] == ["warning", "warning", "info"]


async def test_a_failed_change_that_is_taken_back_is_undone(cluster: Cluster, ways: Ways) -> None:
    """Half of it may be there."""
    ways.fault = REFUSED
    cluster.tells(B, PARTS[2])
    await wait_all_tasks_blocked()
    ways.fault = None
    cluster.change(B, state=MemberState.LEFT)
    await wait_all_tasks_blocked()
    assert ways.tries[1:] == [(PARTS[1], PARTS[2]), (PARTS[1],)]
