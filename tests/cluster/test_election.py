"""Elections: the oldest leads and stays, its end is noticed and handed on, and two who meet agree on one."""

import os
from random import Random

import pytest

from mill.cluster.claims import (
    NOBODY,
    Broadcast,
    Claim,
    Degraded,
    Follower,
    Full,
    Leaderless,
    Mandate,
    Persist,
)
from mill.cluster.election import Election, Tuning
from mill.cluster.values import Member, MemberState, NodeId, Peer
from mill.cluster.voters import FOUNDER, PRIORITY, Voter
from tests.cluster.fabric import node_id
from tests.cluster.polity import TUNING, Polity

A, B, C, D, E = map(node_id, (1, 2, 3, 4, 5))


def member(node: NodeId, joined_term: int, **meta: str) -> Member:
    return Member(Peer(node, 1, "n", "127.0.0.1", 4401), MemberState.ALIVE, 0, joined_term, 0.0, meta)


@pytest.fixture
def five() -> Polity:
    polity = Polity(5, Random(1))
    polity.advance(12)
    assert polity.full == [A]
    assert polity.followed == {A}
    return polity


def test_a_founder_alone_leads_at_once() -> None:
    election = Election(A, NOBODY, TUNING, 0.0)
    assert election.standing(0.0) == Leaderless()
    claim = Claim(1, A, 1, quorum=True)
    assert election.member(member(A, 0, founder="1"), 0.0) == [Persist(Mandate(1, A)), Broadcast(claim)]
    assert election.standing(7.0) == Full(since=0.0)


def test_one_who_has_found_nobody_yet_leads_nobody() -> None:
    election = Election(B, NOBODY, TUNING, 0.0)
    assert election.member(member(B, 0), 0.0) == []
    assert election.tick(60.0) == []
    assert election.standing(60.0) == Leaderless()


def test_newcomers_and_those_who_come_back_go_to_the_end_of_the_line(five: Polity) -> None:
    five.crash(A)
    five.advance(12)
    assert five.followed == {B}
    five.restart(A)
    five.advance(20)
    assert five.followed == {B}
    five.crash(B)
    five.advance(12)
    assert five.followed == {C}


def test_a_priority_comes_before_age() -> None:
    old, young = Voter.of(member(A, 0)), Voter.of(member(B, 9, **{PRIORITY: "-1"}))
    odd = Voter.of(member(C, 9, **{PRIORITY: "high", FOUNDER: "1"}))
    assert sorted([old, young, odd], key=lambda voter: voter.line) == [young, old, odd]


def test_a_crash_of_the_leader_is_over_in_ten_seconds(five: Polity) -> None:
    five.crash(A)
    begin = five.now
    while five.followed != {B}:
        five.step()
    print(f"\nfollowed by all {five.now - begin:.1f} s after the crash")
    assert five.now - begin <= 10


@pytest.mark.parametrize("state", [MemberState.LEFT, MemberState.AWAY])
def test_a_leader_that_says_goodbye_hands_over_without_a_gap(five: Polity, state: MemberState) -> None:
    five.leave(A, state)
    assert five.leaders == [B]
    five.step()
    assert five.followed == {B}
    five.advance(2 * TUNING.lease_s)
    assert five.full == [B]


def test_the_heir_needs_no_word_that_the_leader_leaves_if_it_sees_it(five: Polity) -> None:
    five.cut = {(A, B)}
    five.leave(A, MemberState.AWAY)
    five.cut = set()
    five.advance(1)
    assert five.followed == {B}


def test_one_who_is_about_to_leave_takes_nothing_over(five: Polity) -> None:
    five.citizens[B].election.resign()
    five.crash(A)
    five.advance(15)
    assert B not in five.leaders


def test_one_that_cannot_reach_the_leader_asks_the_others_and_does_not_usurp(five: Polity) -> None:
    five.cut = {(A, B), (B, A)}
    five.advance(60)
    assert five.leaders == [A]
    assert five.citizens[C].election.highest == Mandate(1, A)


def test_one_that_hears_nothing_at_all_takes_nobody_with_it(five: Polity) -> None:
    five.cut = {(other, B) for other in five.citizens}
    five.advance(30)
    assert {citizen.election.highest.leader for citizen in five.citizens.values()} <= {A, B}
    followed = {five.citizens[node].election.standing(five.now) for node in (C, D, E)}
    assert followed == {Follower(A)}
    assert five.full == [A]


def test_a_minority_has_a_degraded_leader_and_the_majority_a_full_one_until_they_meet(five: Polity) -> None:
    five.part([A, B], [C, D, E])
    five.advance(20)
    assert five.citizens[A].election.standing(five.now) == Degraded()
    assert five.full == [C]
    five.cut = set()
    begin = five.now
    while len(five.leaders) > 1 or five.followed != {C}:
        five.step()
    print(f"\none leader {five.now - begin:.1f} s after the heal")
    assert five.now - begin <= 5


def test_a_full_leader_that_meets_a_higher_term_of_a_minority_claims_above_it(five: Polity) -> None:
    five.part([A, B, C], [D, E])
    five.advance(15)
    five.part([A, B, C], [D], [E])
    five.advance(15)
    highest = max(citizen.election.highest for citizen in five.citizens.values())
    assert highest.leader in {D, E}
    five.cut = set()
    five.advance(10)
    assert five.full == [A] or five.leaders == [A]
    assert five.followed == {A}
    assert {citizen.election.highest.leader for citizen in five.citizens.values()} == {A}
    assert five.citizens[A].election.highest > highest


@pytest.mark.parametrize(("alive", "full"), [([A, B], [A]), ([C, D], [])])
def test_of_two_halves_the_one_with_the_founder_counts(alive: list[NodeId], full: list[NodeId]) -> None:
    polity = Polity(4, Random(1))
    polity.advance(10)
    for node in polity.citizens.keys() - set(alive):
        polity.crash(node)
    polity.advance(20)
    assert polity.full == full
    assert len(polity.leaders) == 1


def test_who_has_left_is_no_longer_counted(five: Polity) -> None:
    five.leave(D, MemberState.LEFT)
    five.leave(E, MemberState.LEFT)
    five.crash(C)
    five.advance(20)
    assert five.full == [A]


def test_who_is_forgotten_is_no_longer_counted() -> None:
    election = Election(A, NOBODY, TUNING, 0.0)
    election.member(member(A, 0, founder="1"), 0.0)
    for node in (B, C):
        election.member(member(node, 1), 0.0)
    assert election.standing(1.0) == Degraded()
    election.forget(B, 1.0)
    assert election.standing(1.0) == Full(since=1.0)
    election.forget(C, 2.0)
    assert election.standing(2.0) == Full(since=1.0)


def test_all_restart_at_once_and_one_of_them_leads(five: Polity) -> None:
    for node in five.citizens:
        five.crash(node)
    for node in five.citizens:
        five.restart(node)
    five.advance(20)
    assert len(five.full) == 1
    assert five.followed == set(five.full)
    assert five.citizens[five.full[0]].election.highest.term > 1


def test_an_order_below_what_was_accepted_is_refused_even_after_a_restart(five: Polity) -> None:
    assert five.order(Mandate(1, A), C)
    assert five.order(Mandate(3, B), C)
    five.restart(C)
    assert not five.order(Mandate(1, A), C)
    assert not five.order(Mandate(3, A), C)
    assert five.order(Mandate(3, B), C)


def test_a_leader_of_which_a_node_has_seen_a_higher_mandate_claims_again(five: Polity) -> None:
    assert five.order(Mandate(7, E), D)
    five.advance(10)
    assert five.followed == {A}
    assert five.citizens[D].election.highest == Mandate(8, A)


def test_a_deadline_that_is_reached_is_over_however_its_sum_is_rounded() -> None:
    """Else a clock that stands still until all that is due is done stands for ever."""
    heard = 5.332095818219227
    assert heard + TUNING.fresh_s - heard < TUNING.fresh_s, "these numbers are no trap"
    election = Election(B, NOBODY, TUNING, 0.0)
    for one in (member(A, 0, founder="1"), member(B, 1)):
        election.member(one, 0.0)
    election.hear(Claim(1, A, 1, quorum=True), heard)
    due = election.next_deadline
    election.tick(due)
    assert election.next_deadline > due


def test_an_answer_counts_from_when_it_was_asked_for() -> None:
    election = Election(A, NOBODY, Tuning(), 0.0)
    election.member(member(A, 0), 0.0)
    election.member(member(B, 1), 0.0)
    election.member(member(C, 1), 0.0)
    election.tick(1.0)
    claim = election.claim
    assert claim is not None
    election.answered(B, claim.mandate, sent=2.0, now=6.0)
    assert isinstance(election.standing(6.9), Full)
    assert election.next_deadline == 7.0
    assert election.standing(7.0) == Degraded()
    election.answered(C, claim.mandate, sent=8.0, now=8.0)
    assert election.standing(8.5) == Full(since=8.0)


@pytest.mark.parametrize("count", [3, 5])
def test_no_leader_changes_with_a_tenth_of_the_messages_lost(count: int) -> None:
    """For an hour, and a day in the long form."""
    polity = Polity(count, Random(7), loss=0.1)
    polity.advance(24 * 3600 if os.environ.get("MILL_LONG") else 3600)
    assert [claim for claim in polity.said if claim.term > 1] == []
    assert polity.broken == []
