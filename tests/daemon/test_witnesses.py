"""Ends are given to others before anybody is told them for certain, given again where that failed, and asked after where they were heard."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, cast

import attrs
import pytest
import trio
from trio.testing import MockClock

from mill.api.peer_ends import ENDS
from mill.cluster.entries import ENDED, RUNNING, Changed, Entry, Mark, View
from mill.cluster.outcomes import Witnessed
from mill.cluster.service import Gossip
from mill.cluster.values import Member, MemberState, NodeId, Peer
from mill.config import SURE_S
from mill.daemon import witnesses as witnesses_module
from mill.daemon.news import News
from mill.daemon.peers import Peers
from mill.daemon.witnesses import Witnesses
from tests.cluster.fabric import node_id

A, B, C, D = map(node_id, (1, 2, 3, 4))
LONG_AGO = 60.0


@attrs.define(eq=False)
class FakeEngine:
    """`given` is what others were given, and when; those that are `silent` do not answer."""

    me: Peer
    members: dict[NodeId, Member]
    partial: bool = False
    given: list[tuple[float, NodeId, str]] = attrs.field(factory=list)
    silent: set[NodeId] = attrs.field(factory=set)

    def is_quorum(self, nodes: Sequence[NodeId]) -> bool:
        return 2 * len(nodes) >= len(self.members)

    def hand_over(self, node: NodeId, end: Entry, now: float) -> list[Any]:
        self.given.append((now, node, end.task))
        return [] if node in self.silent else [Witnessed(node, end.task)]


@attrs.define(eq=False)
class FakeGossip:
    """An answer takes `took_s`."""

    engine: FakeEngine
    news: News
    nursery: trio.Nursery
    took_s: float = 0.01

    def do(self, call: Callable[[float], list[Any]]) -> None:
        for outcome in call(trio.current_time()):
            self.nursery.start_soon(self._tell, outcome)

    async def _tell(self, outcome: Any) -> None:
        await trio.sleep(self.took_s)
        self.news.tell(outcome)


@attrs.define(eq=False)
class Asked:
    """What other nodes say of the ends of their tasks; None: nothing."""

    answers: dict[NodeId, set[str] | None] = attrs.field(factory=dict)
    asked: list[tuple[NodeId, list[str]]] = attrs.field(factory=list)

    async def one(self, _peers: Peers, node: NodeId, path: str, _read: Any, asked: Any) -> set[str] | None:
        assert path == ENDS
        self.asked.append((node, sorted(asked["tasks"])))
        await trio.lowlevel.checkpoint()
        return self.answers[node]


def entry(task: str, owner: NodeId = A, phase: int = ENDED) -> Entry:
    mark = Mark(1, 2)
    return Entry(owner, mark, task, phase, b"{}", born=Mark(1, 1), ended=mark if phase == ENDED else None)


@asynccontextmanager
async def serving(*others: NodeId) -> AsyncIterator[tuple[Witnesses, FakeGossip]]:
    """A node that has been in touch for long."""
    nodes = {node: Peer(node, 1, "n", "127.0.0.1", 4401) for node in (A, *others)}
    members = {node: Member(peer, MemberState.ALIVE, 0, 0, 0.0, {}) for node, peer in nodes.items()}
    news = News((), lambda: 0.0)
    async with trio.open_nursery() as nursery:
        gossip = FakeGossip(FakeEngine(nodes[A], members), news, nursery)
        made = Witnesses(cast("Gossip", gossip), news, cast("Peers", None))
        await nursery.start(made.serve)
        yield made, gossip
        nursery.cancel_scope.cancel()


def end(witnesses: Witnesses, task: str) -> None:
    ended = entry(task)
    with witnesses.of(ended):
        witnesses.publish(ended)


async def test_an_end_is_certain_as_soon_as_another_has_taken_it(autojump_clock: MockClock) -> None:
    autojump_clock.jump(LONG_AGO)
    async with serving(B, C) as (witnesses, gossip):
        end(witnesses, "web")
        began = trio.current_time()
        assert await witnesses.in_doubt(["web", "other"]) == set()
        assert trio.current_time() - began == pytest.approx(gossip.took_s, abs=0.005)
        assert gossip.engine.given == [(began, B, "web")]
        await trio.sleep(1)
        assert len(gossip.engine.given) == 1


async def test_what_others_do_not_take_stays_in_doubt_is_told_within_half_a_second_and_given_again(
    autojump_clock: MockClock,
) -> None:
    autojump_clock.jump(LONG_AGO)
    async with serving(B, C) as (witnesses, gossip):
        gossip.engine.silent = {B, C}
        end(witnesses, "web")
        began = trio.current_time()
        assert await witnesses.in_doubt(["web"]) == {"web"}
        assert trio.current_time() - began == pytest.approx(SURE_S)
        assert {node for _, node, _ in gossip.engine.given} == {B, C}
        gossip.engine.silent = {B}
        assert await witnesses.in_doubt(["web"]) == set()
        assert 4 < len(gossip.engine.given) < 12


async def test_a_node_that_is_cut_off_gives_nobody_anything_and_says_at_once_that_it_doubts(
    autojump_clock: MockClock,
) -> None:
    autojump_clock.jump(LONG_AGO)
    async with serving(B, C) as (witnesses, gossip):
        gossip.engine.partial = True
        end(witnesses, "web")
        began = trio.current_time()
        assert await witnesses.in_doubt(["web"]) == {"web"}
        assert trio.current_time() == began
        await trio.sleep(LONG_AGO)
        assert gossip.engine.given == []
        gossip.engine.partial = False
        await trio.sleep(5)
        assert await witnesses.in_doubt(["web"]) == set()


async def test_an_end_is_in_doubt_before_its_commit_and_not_when_that_has_failed() -> None:
    async with serving(B, C) as (witnesses, _):
        ended = entry("web")
        with suppress(OSError), witnesses.of(ended):
            assert witnesses.ends.in_doubt(["web"]) == {"web"}
            raise OSError("full")
        assert not witnesses.ends.in_doubt(["web"])


async def test_what_is_said_of_a_task_that_has_ended_already_or_has_not_is_never_in_doubt() -> None:
    async with serving(B, C) as (witnesses, _):
        for said in (attrs.evolve(entry("web"), mark=Mark(1, 3)), entry("web", phase=RUNNING)):
            with witnesses.of(said):
                witnesses.publish(said)
                assert not witnesses.ends.in_doubt(["web"])


async def test_an_end_that_was_heard_is_asked_after_at_its_owner(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    autojump_clock.jump(LONG_AGO)
    others = Asked({B: {"b-2"}, C: None})
    monkeypatch.setattr(witnesses_module, "ask_one", others.one)
    async with serving(B, C, D) as (witnesses, gossip):
        for task, owner in (("b-1", B), ("b-2", B), ("c-1", C)):
            running = View(entry(task, owner, RUNNING))
            witnesses.learn(Changed(None, running))
            assert not witnesses.ends.in_doubt([task])
            witnesses.learn(Changed(running, View(entry(task, owner))))
        assert await witnesses.in_doubt(["b-1", "b-2", "c-1", "d-1"]) == {"b-2", "c-1"}
        assert sorted(others.asked) == [(B, ["b-1", "b-2"]), (C, ["c-1"])]
        assert await witnesses.in_doubt(["b-1"]) == set()
        assert len(others.asked) == 2
        assert gossip.engine.given == []


async def test_of_three_what_was_heard_is_certain(autojump_clock: MockClock) -> None:
    autojump_clock.jump(LONG_AGO)
    async with serving(B, C) as (witnesses, _):
        witnesses.learn(Changed(None, View(entry("web", B))))
        witnesses.learn(Changed(View(entry("old", B)), View(attrs.evolve(entry("old", B), mark=Mark(1, 9)))))
        witnesses.learn(Changed(View(entry("gone", B)), None))
        assert await witnesses.in_doubt(["web", "old", "gone"]) == set()


async def test_a_node_that_was_cut_off_while_nothing_ended_is_not_certain_at_once(
    autojump_clock: MockClock,
) -> None:
    autojump_clock.jump(LONG_AGO)
    async with serving(B, C) as (witnesses, gossip):
        gossip.engine.partial = True
        await trio.sleep(LONG_AGO)
        gossip.engine.partial = False
        end(witnesses, "web")
        assert await witnesses.in_doubt(["web"]) == {"web"}
        await trio.sleep(5)
        assert await witnesses.in_doubt(["web"]) == set()


async def test_who_waits_for_long_is_told_when_it_is_no_use_any_more(autojump_clock: MockClock) -> None:
    autojump_clock.jump(LONG_AGO)
    async with serving(B, C) as (witnesses, gossip):
        gossip.engine.silent = {B, C}
        end(witnesses, "web")
        began = trio.current_time()

        async def notice() -> None:
            await trio.sleep(2)
            gossip.engine.partial = True

        async with trio.open_nursery() as nursery:
            nursery.start_soon(notice)
            assert await witnesses.in_doubt(["web"], 60.0) == {"web"}
        assert trio.current_time() - began == pytest.approx(2.0, abs=0.2)
