"""What must hold at every step of every election: nothing lower is obeyed, one full leader at most, and it has a majority.

Random runs of a few nodes with partitions (of sets and one-way), loss, crashes, restarts, farewells, old claims and old orders.
Each invariant has bugs planted against it, which the same search has to find.
"""

import os
import re
from collections.abc import Callable, Collection
from random import Random

import attrs
import pytest

from mill.cluster.claims import Claim, Effect, Mandate
from mill.cluster.election import Election
from mill.cluster.values import MemberState, NodeId
from tests.cluster.polity import Polity

LONG = bool(os.environ.get("MILL_LONG"))
RUNS, EVENTS = 4000 if LONG else 40, 25
PLANTED_RUNS = 400


def stir(polity: Polity, rng: Random) -> None:
    """Something happens in the world."""
    nodes = list(polity.citizens)
    node = rng.choice(nodes)
    citizen = polity.citizens[node]
    match rng.randrange(9):
        case 0 | 1:
            rng.shuffle(nodes)
            at = rng.randint(1, len(nodes) - 1)
            polity.part(nodes[:at], nodes[at:])
        case 2:
            polity.cut = {(node, other) for other in nodes if rng.random() < 0.6}
        case 3:
            polity.cut = {(other, node) for other in nodes if rng.random() < 0.6}
        case 4:
            polity.cut = set()
        case 5:
            polity.loss = rng.choice([0.0, 0.1, 0.3])
        case 6 if citizen.up:
            polity.crash(node)
        case 7 if citizen.up:
            polity.leave(node, MemberState.AWAY)
        case _:
            if not citizen.up:
                polity.restart(node)


def old_news(polity: Polity, rng: Random) -> None:
    """A claim that was under way for long, and an order of somebody who led once."""
    if polity.said:
        citizen = rng.choice(list(polity.citizens.values()))
        if citizen.up:
            polity.run(citizen, citizen.election.hear(rng.choice(polity.said), polity.now))
            polity.order(rng.choice(polity.said[-10:]).mandate, citizen.id)


def violations(seed: int) -> list[str]:
    rng = Random(seed)
    polity = Polity(rng.choice([3, 4, 5]), rng)
    polity.advance(8)
    for _ in range(EVENTS):
        stir(polity, rng)
        for _ in range(rng.randint(1, 20)):
            polity.step()
            if rng.random() < 0.3:
                old_news(polity, rng)
            if polity.broken:
                return polity.broken
    return heal(polity)


def heal(polity: Polity) -> list[str]:
    """When all is well again, all follow one leader who is full."""
    polity.cut, polity.loss = set(), 0.0
    for citizen in polity.citizens.values():
        if not citizen.up:
            polity.restart(citizen.id)
    polity.advance(30)
    if len(polity.full) != 1 or polity.followed != set(polity.full):
        polity.broken.append(f"nobody leads all: {polity.citizens}")
    return polity.broken


def test_no_run_has_two_full_leaders_one_without_a_majority_or_an_order_that_goes_back() -> None:
    assert {seed: broken for seed in range(RUNS) if (broken := violations(seed))} == {}


# -- planted --------------------------------------------------------------------------------------------------------

TRUE_ORDER, TRUE_ANSWERED, TRUE_QUORUM, TRUE_ACCEPT = (
    Election.order, Election.answered, Election.is_quorum, Election._accept,
)  # fmt: skip


def any_order_is_obeyed(self: Election, mandate: Mandate, now: float) -> tuple[bool, list[Effect]]:
    return True, TRUE_ORDER(self, mandate, now)[1]


def orders_go_by_terms(self: Election, mandate: Mandate, now: float) -> tuple[bool, list[Effect]]:
    accepted, effects = TRUE_ORDER(self, mandate, now)
    return accepted or mandate.term == self.highest.term, effects


def what_is_accepted_is_not_kept(self: Election, mandate: Mandate) -> list[Effect]:
    TRUE_ACCEPT(self, mandate)
    return []


def every_answer_is_a_vote(
    self: Election, node: NodeId, accepted: Mandate, sent: float, now: float
) -> list[Effect]:
    claim: Claim | None = self.claim
    return TRUE_ANSWERED(self, node, accepted if claim is None else claim.mandate, sent, now)


def the_dead_are_not_counted(self: Election, nodes: Collection[NodeId]) -> bool:
    all_voters = self._voters
    self._voters = {node: voter for node, voter in all_voters.items() if voter.present}
    try:
        return TRUE_QUORUM(self, nodes)
    finally:
        self._voters = all_voters


def any_half_is_enough(self: Election, nodes: Collection[NodeId]) -> bool:
    all_voters = self._voters
    self._voters = {node: attrs.evolve(voter, founder=node == self.me) for node, voter in all_voters.items()}
    try:
        return TRUE_QUORUM(self, nodes)
    finally:
        self._voters = all_voters


PLANTED = [
    ("order", any_order_is_obeyed, "obeyed"),
    ("order", orders_go_by_terms, "obeyed"),
    ("_accept", what_is_accepted_is_not_kept, "did not keep"),
    ("answered", every_answer_is_a_vote, "are full"),
    ("is_quorum", the_dead_are_not_counted, "is full with|are full"),
    ("is_quorum", any_half_is_enough, "are full"),
]


@pytest.mark.parametrize(("name", "bug", "said"), PLANTED, ids=lambda value: getattr(value, "__name__", None))
def test_a_planted_bug_is_found(
    name: str, bug: Callable[..., object], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Election, name, bug)
    for seed in range(PLANTED_RUNS):
        broken = [line for line in violations(seed) if re.search(said, line)]
        if broken:
            print(f"found by run {seed}: {broken[0]}")
            return
    raise AssertionError(f"{PLANTED_RUNS} runs did not find it")
