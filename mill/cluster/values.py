"""What every core of the cluster speaks of: nodes, members, addresses, and the randomness they are given. Pure.

A node is one data directory, named by its `NodeId` for good. Each process of it has an epoch, kept on disk and higher than
the one before: (id, epoch) is one life, and what was said of an earlier life says nothing about this one.
Within a life the higher incarnation wins, which its subject alone raises, and at the same incarnation the worse state.
"""

from collections.abc import Mapping, MutableSequence, Sequence
from enum import IntEnum
from typing import Any, NamedTuple, NewType, Protocol, TypeVar

import attrs

NodeId = NewType("NodeId", str)
"""32 hex digits, random; made at a data directory's first start."""

NODE_ID_BYTES = 16

T = TypeVar("T")


class Choice(Protocol):
    """As `random.Random`, with the same seed in every run of a simulation."""

    def random(self) -> float: ...
    def randrange(self, start: int, stop: int | None = None, /) -> int: ...
    def sample(self, population: Sequence[T], k: int) -> list[T]: ...
    def shuffle(self, x: MutableSequence[Any], /) -> None: ...


class Address(NamedTuple):
    """Where a node hears its peers: UDP and TCP on the same port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@attrs.frozen
class Peer:
    """One life of a node, with its name for people and its address."""

    id: NodeId
    epoch: int
    name: str
    host: str
    port: int

    @property
    def address(self) -> Address:
        return Address(self.host, self.port)


class MemberState(IntEnum):
    """How a member is, worse ones higher: what decides between two words about the same incarnation."""

    ALIVE = 0
    AWAY = 1
    """Stopped on purpose and said so: it will be back, with a new epoch."""
    SUSPECT = 2
    """Somebody got no answer from it; it has some seconds to object."""
    DOWN = 3
    LEFT = 4
    """Gone for good by its own word, or forgotten by somebody's order."""

    @property
    def reachable(self) -> bool:
        """Whether it takes part: it is probed and told the news."""
        return self in {MemberState.ALIVE, MemberState.SUSPECT}


@attrs.frozen
class Member:
    """What this node holds of a node of the cluster, itself included.

    `joined_term`, `meta` and the address are the subject's own words; they change with a raised incarnation only. `since`
    is when this node learnt of the state (its own monotonic clock), and means nothing elsewhere.
    """

    peer: Peer
    state: MemberState
    incarnation: int
    joined_term: int
    since: float
    meta: Mapping[str, str] = attrs.field(factory=dict, hash=False)

    @property
    def id(self) -> NodeId:
        return self.peer.id

    def __str__(self) -> str:
        return f"{self.peer.name} ({self.id[:8]}.{self.peer.epoch}) {self.state.name.lower()} #{self.incarnation}"
