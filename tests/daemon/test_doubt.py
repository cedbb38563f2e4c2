"""Whose word it takes before an id is nobody's: the API and DNS ask the same."""

import attrs
import pytest

from mill.cluster.values import Member, MemberState, NodeId, Peer
from mill.daemon.doubt import who_could_know
from tests.daemon.fleets import Members

ME, A, B = (NodeId(letters * 16) for letters in ("aa", "bb", "cc"))
NOW = 1000.0
ALIVE, AWAY, SUSPECT, DOWN, LEFT = MemberState


def cluster(state: MemberState, *, for_s: float = 0.0, partial: bool = False) -> Members:
    """Of this node, A, who is alive, and B, who has been in *state* for so long."""
    members = {
        node: Member(Peer(node, 1, node[:2], "192.0.2.1", 4401), ALIVE, 0, 0, 0.0) for node in (ME, A, B)
    }
    members[B] = attrs.evolve(members[B], state=state, since=NOW - for_s)
    return Members(ME, members, partial)


@pytest.mark.parametrize(
    ("state", "for_s", "could"),
    [
        (ALIVE, 900.0, {A, B}),
        (SUSPECT, 900.0, {A, B}),
        (DOWN, 15.0, {A, B}),
        (DOWN, 15.1, {A}),
        (AWAY, 0.0, {A}),
        (LEFT, 0.0, {A}),
    ],
)
def test_with_a_majority_it_is_who_takes_part_or_has_not_been_silent_for_long(
    state: MemberState, for_s: float, could: set[NodeId]
) -> None:
    assert who_could_know(cluster(state, for_s=for_s), NOW) == could


def test_how_long_that_is_is_configured() -> None:
    patient = cluster(DOWN, for_s=50.0)
    patient.lost_s = 60.0
    assert who_could_know(patient, NOW) == {A, B}


@pytest.mark.parametrize("state", [ALIVE, SUSPECT, DOWN, AWAY])
def test_with_a_minority_it_is_everybody_who_has_not_left(state: MemberState) -> None:
    assert who_could_know(cluster(state, for_s=900.0, partial=True), NOW) == {A, B}
    assert who_could_know(cluster(LEFT, partial=True), NOW) == {A}


def test_who_has_found_nobody_yet_cannot_be_sure_and_who_is_alone_can() -> None:
    lone = cluster(ALIVE)
    lone.members = {ME: lone.members[ME]}
    assert who_could_know(lone, NOW) == set()
    lone.partial = True
    assert who_could_know(lone, NOW) == {ME}
