"""Verdicts: a node is lost when a majority's leader has made sure, and not before; and what must hold at every step of every run."""

import os
import re
from collections.abc import Callable
from random import Random

import pytest

from mill.cluster.claims import Degraded, Follower, Full, Standing
from mill.cluster.values import Member, MemberState, NodeId, Peer
from mill.cluster.verdicts import Condemn, Effect, Fetch, Held, Inquire, Tuning, Verdicts, _Case
from tests.cluster.court import COURT, Court
from tests.cluster.fabric import node_id
from tests.cluster.test_election_safety import old_news, stir

A, B, C, D = map(node_id, (1, 2, 3, 4))


def members(down: dict[NodeId, MemberState] | None = None) -> dict[NodeId, Member]:
    states = dict.fromkeys([A, B, C, D], MemberState.ALIVE) | (down or {})
    return {
        node: Member(Peer(node, 1, node[-1], "127.0.0.1", 4401), state, 0, 0, 0.0)
        for node, state in states.items()
    }


DOWN = members({D: MemberState.DOWN})
FULL = Full(since=0.0)


@pytest.fixture
def judge() -> Verdicts:
    return Verdicts(A, COURT, lambda nodes: len(nodes) > 2)


def test_a_node_that_nobody_has_heard_of_is_condemned(judge: Verdicts) -> None:
    assert judge.tick(FULL, DOWN, [D], 100.0) == [Inquire(D, (A, B, C))]
    for witness in (A, B):
        assert judge.testify(D, witness, 16.0, 100.1, more=False) == []
    assert judge.tick(FULL, DOWN, [D], 100.2) == []
    assert judge.tick(FULL, DOWN, [D], 100.6) == [Inquire(D, (C,))]
    judge.testify(D, C, 15.0, 100.7, more=False)
    assert judge.tick(FULL, DOWN, [D], 100.8) == [Condemn(D)]


def test_what_another_holds_of_its_log_is_fetched_first(judge: Verdicts) -> None:
    judge.tick(FULL, DOWN, [D], 100.0)
    judge.testify(D, A, 16.0, 100.1, more=False)
    judge.testify(D, B, 16.0, 100.1, more=False)
    assert judge.testify(D, C, 16.0, 100.1, more=True) == [Fetch(D, C)]
    assert judge.tick(FULL, DOWN, [D], 100.2) == []
    judge.fetched(D, C)
    assert judge.tick(FULL, DOWN, [D], 100.3) == [Condemn(D)]


def test_a_member_that_heard_of_it_lately_stays_the_verdict_until_it_could_be_true(judge: Verdicts) -> None:
    judge.tick(FULL, DOWN, [D], 100.0)
    judge.testify(D, A, 16.0, 100.0, more=False)
    judge.testify(D, B, 16.0, 100.0, more=False)
    judge.testify(D, C, 9.0, 100.0, more=False)
    assert judge.tick(FULL, DOWN, [D], 105.9) == []
    assert judge.tick(FULL, DOWN, [D], 106.0) == [Inquire(D, (A, B, C))]


def test_a_testimony_that_is_old_counts_no_more(judge: Verdicts) -> None:
    judge.tick(FULL, DOWN, [D], 100.0)
    for witness in (A, B):
        judge.testify(D, witness, 16.0, 100.0, more=False)
    judge.testify(D, C, 16.0, 103.5, more=False)
    assert judge.tick(FULL, DOWN, [D], 103.5) == [Inquire(D, (A, B))]


@pytest.mark.parametrize(
    "standing", [Degraded(), Follower(B), Full(since=95.1)], ids=lambda standing: type(standing).__name__
)
def test_only_a_leader_that_has_been_full_for_a_lease_asks_at_all(
    judge: Verdicts, standing: Standing
) -> None:
    assert judge.tick(standing, DOWN, [D], 100.0) == []


def test_what_was_testified_before_a_break_in_the_lease_is_forgotten(judge: Verdicts) -> None:
    judge.tick(FULL, DOWN, [D], 100.0)
    for witness in (A, B, C):
        judge.testify(D, witness, 16.0, 100.0, more=False)
    judge.tick(Degraded(), DOWN, [D], 100.1)
    assert judge.tick(FULL, DOWN, [D], 100.2) == [Inquire(D, (A, B, C))]


@pytest.mark.parametrize("state", [state for state in MemberState if state is not MemberState.DOWN])
def test_only_a_node_that_is_down_is_judged(judge: Verdicts, state: MemberState) -> None:
    assert judge.tick(FULL, members({D: state}), [D], 100.0) == []


def test_a_node_without_tasks_at_stake_is_left_alone(judge: Verdicts) -> None:
    assert judge.tick(FULL, DOWN, [], 100.0) == []


def test_witnesses_that_are_no_quorum_condemn_nobody(judge: Verdicts) -> None:
    two_down = members({C: MemberState.DOWN, D: MemberState.DOWN})
    judge.tick(FULL, two_down, [D], 100.0)
    for witness in (A, B):
        judge.testify(D, witness, 16.0, 100.0, more=False)
    assert judge.tick(FULL, two_down, [D], 100.0) == []


def test_too_many_at_once_are_held_and_told_of_once() -> None:
    nodes = [node_id(number) for number in range(1, 13)]
    known = {n: Member(Peer(n, 1, "n", "h", 1), MemberState.ALIVE, 0, 0, 0.0) for n in nodes[:7]}
    known |= {n: Member(Peer(n, 1, "n", "h", 1), MemberState.DOWN, 0, 0, 0.0) for n in nodes[7:]}
    judge = Verdicts(nodes[0], COURT, lambda there: len(there) > 6)

    def verdicts(now: float) -> list[Effect]:
        for inquiry in judge.tick(FULL, known, nodes, now):
            assert isinstance(inquiry, Inquire)
            for witness in inquiry.of:
                judge.testify(inquiry.node, witness, 20.0, now, more=False)
        return judge.tick(FULL, known, nodes, now)

    lost = nodes[7:]
    assert verdicts(100.0) == [*map(Condemn, lost[:3]), Held((lost[3], lost[4]), 100.0 + COURT.window_s)]
    for node in lost[:3]:
        known[node] = Member(known[node].peer, MemberState.LEFT, 0, 0, 0.0)
    assert verdicts(110.0) == []
    assert verdicts(399.0) == []
    assert verdicts(405.0) == [*map(Condemn, lost[3:])]


def test_verdicts_of_other_leaders_count_for_the_limit(judge: Verdicts) -> None:
    judge.learnt(C, 90.0)
    judge.tick(FULL, DOWN, [D], 100.0)
    for witness in (A, B, C):
        judge.testify(D, witness, 16.0, 100.0, more=False)
    assert judge.tick(FULL, DOWN, [D], 100.0) == [Held((D,), 390.0)]


def test_a_node_that_dies_is_lost_soon_after_the_fifteen_seconds() -> None:
    court = Court(5, Random(1), loss=0.1)
    court.advance(20)
    court.crash(D)
    died = court.now
    court.advance(60)
    ((at, by, on),) = court.given
    print(f"\nlost {at - died:.1f} s after its end")
    assert (by, on) == (A, D)
    assert COURT.lost_s <= at - died <= COURT.lost_s + 5


def test_no_node_is_condemned_that_can_be_reached_with_a_third_of_the_messages_lost() -> None:
    court = Court(3, Random(5), loss=0.3)
    court.advance(3600)
    assert court.given == []
    assert court.broken == []


# -- random runs ----------------------------------------------------------------------------------------------------

LONG = bool(os.environ.get("MILL_LONG"))
RUNS, EVENTS = 3000 if LONG else 30, 12
PLANTED_RUNS = 200


def violations(seed: int) -> list[str]:
    rng = Random(seed)
    court = Court(rng.choice([3, 4, 5]), rng)
    court.advance(10)
    for _ in range(EVENTS):
        stir(court, rng)
        for _ in range(rng.choice([5, 20, 60])):
            court.step()
            if rng.random() < 0.1:
                old_news(court, rng)
            if court.broken:
                return court.broken
    return court.broken


def test_no_run_has_a_verdict_of_a_minority_or_on_a_node_that_was_heard_of() -> None:
    assert {seed: broken for seed in range(RUNS) if (broken := violations(seed))} == {}


TRUE_TICK, TRUE_TESTIFY = Verdicts.tick, Verdicts.testify


def any_leader_may(
    self: Verdicts, standing: Standing, members: dict[NodeId, Member], at_stake: list[NodeId], now: float
) -> list[Effect]:
    leads = isinstance(standing, Full | Degraded)
    self._is_quorum = lambda _: True
    return TRUE_TICK(self, Full(since=0.0) if leads else standing, members, at_stake, now)


def a_lease_is_not_waited_for(
    self: Verdicts, standing: Standing, members: dict[NodeId, Member], at_stake: list[NodeId], now: float
) -> list[Effect]:
    return TRUE_TICK(
        self, Full(since=0.0) if isinstance(standing, Full) else standing, members, at_stake, now
    )


def the_away_are_down(
    self: Verdicts, standing: Standing, members: dict[NodeId, Member], at_stake: list[NodeId], now: float
) -> list[Effect]:
    down = {
        node: Member(m.peer, MemberState.DOWN, 0, 0, 0.0) if m.state is MemberState.AWAY else m
        for node, m in members.items()
    }
    return TRUE_TICK(self, standing, down, at_stake, now)


def its_own_silence_is_enough(self: Verdicts, case: _Case, witnesses: set[NodeId], now: float) -> bool:
    return self.me in case.testified_at and now > 0 and bool(witnesses)


def silence_is_not_measured(
    self: Verdicts, node: NodeId, by: NodeId, silent_s: float, now: float, *, more: bool
) -> list[Effect]:
    return TRUE_TESTIFY(self, node, by, max(silent_s, COURT.lost_s), now, more=more)


def nothing_is_fetched(
    self: Verdicts, node: NodeId, by: NodeId, silent_s: float, now: float, *, more: bool
) -> list[Effect]:
    return TRUE_TESTIFY(self, node, by, silent_s, now, more=more and by == self.me)


PLANTED = [
    ("tick", any_leader_may, "by a minority"),
    ("tick", a_lease_is_not_waited_for, "were full"),
    ("tick", the_away_are_down, "had said that it goes"),
    ("testify", silence_is_not_measured, "had heard of it"),
    ("testify", nothing_is_fetched, "knew more"),
    ("_is_proven", its_own_silence_is_enough, "had heard of it"),
]


@pytest.mark.parametrize(("name", "bug", "said"), PLANTED, ids=lambda value: getattr(value, "__name__", None))
def test_a_planted_bug_is_found(
    name: str, bug: Callable[..., object], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Verdicts, name, bug)
    for seed in range(PLANTED_RUNS):
        broken = [line for line in violations(seed) if re.search(said, line)]
        if broken:
            print(f"found by run {seed}: {broken[0]}")
            return
    raise AssertionError(f"{PLANTED_RUNS} runs did not find it")


def test_the_limit_can_be_set() -> None:
    judge = Verdicts(A, Tuning(share=1.0), lambda nodes: len(nodes) > 1)
    judge.learnt(C, 90.0)
    judge.tick(FULL, DOWN, [D], 100.0)
    for witness in (A, B, C):
        judge.testify(D, witness, 16.0, 100.0, more=False)
    assert judge.tick(FULL, DOWN, [D], 100.0) == [Condemn(D)]
