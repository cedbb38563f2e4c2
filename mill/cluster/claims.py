"""What is said about who leads: mandates, claims, the standing of a node, and what an election wants done. Pure.

A mandate, (term, leader), goes with every order of a leader; nodes refuse one that is lower than what they have accepted. A
claim is a leader's word that it leads; it rides on all of the leader's pings. `election` gives and judges them.
"""

from typing import NamedTuple

import attrs

from mill.cluster.values import NodeId


class Mandate(NamedTuple):
    """What a leader acts by. Higher ones are later, or of the higher of two nodes that took the same term."""

    term: int
    leader: NodeId


NOBODY = Mandate(0, NodeId(""))
"""Accepted by a node that has not heard of any leader yet."""


@attrs.frozen
class Claim:
    """`leader` leads in `term`. `age` is how many terms before that it joined, and `quorum` whether a majority answers it."""

    term: int
    leader: NodeId
    age: int
    quorum: bool

    @property
    def mandate(self) -> Mandate:
        return Mandate(self.term, self.leader)

    @property
    def joined_term(self) -> int:
        return self.term - self.age

    @property
    def weight(self) -> tuple[bool, int, int, NodeId]:
        """Of two leaders who meet, the one with the higher weight stays."""
        return (self.quorum, self.term, self.age, self.leader)


# -- standings ------------------------------------------------------------------------------------------------------


@attrs.frozen
class Full:
    """The node leads, and a majority has answered it within the lease, without a break since `since`."""

    since: float


@attrs.frozen
class Degraded:
    """The node leads those it reaches, which are no majority."""


@attrs.frozen
class Follower:
    leader: NodeId


@attrs.frozen
class Leaderless:
    pass


Standing = Full | Degraded | Follower | Leaderless


# -- effects --------------------------------------------------------------------------------------------------------


@attrs.frozen
class Persist:
    """Keep it on disk before anything that follows is done: it is never gone back on."""

    mandate: Mandate


@attrs.frozen
class Broadcast:
    """Tell everybody, and put it on pings and acks from now on."""

    claim: Claim


@attrs.frozen
class ProbeFirst:
    """Ask each of `relays` whether its election `vouches` for `node`; the answers go to `probed`."""

    node: NodeId
    relays: tuple[NodeId, ...]


@attrs.frozen
class HandOver:
    """Tell `to` that it may lead at once, having had this mandate before it; it goes to its `handed`."""

    to: NodeId
    mandate: Mandate


@attrs.frozen
class StepDown:
    """The node leads no longer."""


Effect = Persist | Broadcast | ProbeFirst | HandOver | StepDown
