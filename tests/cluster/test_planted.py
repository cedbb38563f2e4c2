"""Known bugs of membership, each planted by itself: chaos must find it within its budget. And without one it finds nothing."""

import os
from collections.abc import Callable
from typing import Any

import pytest

from mill.cluster.messages import Claim, Packet, Ping
from mill.cluster.opinions import Opinions
from mill.cluster.probes import Probes
from mill.cluster.table import Table
from mill.cluster.values import Address, Member, MemberState, NodeId
from tests.cluster.chaos import Chaos
from tests.cluster.fleet import Fleet
from tests.cluster.simulator import Link

LONG = bool(os.environ.get("MILL_LONG"))
STEPS = 30
BUDGET = 40
"""Runs of chaos in which each planted bug must show."""


def run_chaos(seed: int) -> None:
    Chaos(Fleet(3 + seed % 5, seed, Link(duplicates=0.02)), seed).run(STEPS)


def test_chaos_breaks_no_rule_and_in_the_end_all_agree() -> None:
    for seed in range(1000, 3000 if LONG else 1030):
        try:
            run_chaos(seed)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


def a_lower_incarnation_wins(table: Table, claim: Claim, held: Member) -> bool:
    del table
    return (claim.epoch, -claim.incarnation, claim.state) > (held.peer.epoch, -held.incarnation, held.state)


def a_death_in_an_old_life_counts(table: Table, claim: Claim, held: Member) -> bool:
    del table
    stale = claim.epoch < held.peer.epoch and claim.state is MemberState.DOWN
    return stale or claim.rank > (held.peer.epoch, held.incarnation, held.state)


def a_better_state_wins(table: Table, claim: Claim, held: Member) -> bool:
    del table
    return (claim.epoch, claim.incarnation, -claim.state) > (
        held.peer.epoch,
        held.incarnation,
        -held.state,
    )


def somebody_else_raises_the_number(opinions: Opinions, node: NodeId) -> None:
    held, me = opinions._voice.table.members[node], opinions._voice.me.id
    opinions.apply(Claim(node, held.peer.epoch, held.incarnation + 1, MemberState.SUSPECT, accusers=(me,)))


def nobody_objects(opinions: Opinions, claim: Claim) -> None:
    """It hears that it is held for dead, and shrugs."""


def a_life_that_was_used_already_goes_on(opinions: Opinions, claim: Claim) -> None:
    """Its disk was set back, and it only raises its incarnation above the other's."""
    voice = opinions._voice
    if claim.epoch >= voice.me.epoch:
        voice.incarnation = claim.incarnation + 1
        opinions._say(MemberState.ALIVE)


def the_dead_are_left_alone(probes: Probes) -> None:
    """As memberlist does after 30 s."""


def anybody_answers(probes: Probes, packet: Packet, ping: Ping, source: Address) -> None:
    """Whoever has the address, for whoever had it before; and the speaker believes it."""
    original(probes, packet, Ping(ping.number, probes._voice.me.id, ping.attachment, ping.by_stream), source)


def any_speaker_will_do(probes: Probes, packet: Packet, ack: Any) -> None:
    question = probes._questions.get(ack.number)
    speaker = packet.speaker if question is None else question.target
    original_ack(probes, Packet(speaker, packet.epoch, packet.incarnation, ack), ack)


original, original_ack = Probes.receive_ping, Probes.receive_ack

PLANTED: list[list[tuple[type, str, Callable[..., Any]]]] = [
    [(Table, "outranks", a_lower_incarnation_wins), (Table, "is_old", lambda *_: False)],
    [(Table, "outranks", a_death_in_an_old_life_counts)],
    [(Table, "outranks", a_better_state_wins), (Table, "is_old", lambda *_: False)],
    [(Opinions, "suspect", somebody_else_raises_the_number)],
    [(Opinions, "_about_me", nobody_objects)],
    [(Opinions, "_about_me", a_life_that_was_used_already_goes_on)],
    [(Probes, "_contact", the_dead_are_left_alone)],
    [(Probes, "receive_ping", anybody_answers), (Probes, "receive_ack", any_speaker_will_do)],
]


@pytest.mark.parametrize("bug", PLANTED, ids=lambda bug: bug[0][2].__name__)
def test_a_planted_bug_is_found(
    bug: list[tuple[type, str, Callable[..., Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for owner, name, planted in bug:
        monkeypatch.setattr(owner, name, planted)
    for seed in range(BUDGET):
        try:
            run_chaos(seed)
        except AssertionError as error:
            print(f"\n{bug[0][2].__name__}: found in run {seed + 1}: {str(error).splitlines()[0][:150]}")
            return
    pytest.fail("never found")
