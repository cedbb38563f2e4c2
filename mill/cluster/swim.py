"""Membership: SWIM with Lifeguard. Pure. (So far the signature that other parts build against.)"""

from collections.abc import Callable, Iterable, Mapping

from mill.cluster.effects import Effect
from mill.cluster.messages import Packet
from mill.cluster.tuning import Tuning
from mill.cluster.values import Address, Choice, Member, NodeId, Peer


class Swim:
    """Every call takes `now` (monotonic seconds) and gives the effects to carry out, in order."""

    def __init__(
        self,
        me: Peer,
        rng: Choice,
        tuning: Tuning,
        *,
        now: float,
        joined_term: int = 0,
        meta: Mapping[str, str] | None = None,
        attach: Callable[[], bytes] = bytes,
    ) -> None:
        """*attach* gives what rides on each of my pings and acks."""

    me: Peer
    members: Mapping[NodeId, Member]
    """All that are known, this node first: alive, suspect, away, down, and those that left not long ago."""

    @property
    def next_deadline(self) -> float:
        """When `tick` has something to do at the latest; it may change with every call."""
        raise NotImplementedError

    def receive(self, message: Packet, source: Address, now: float) -> list[Effect]:
        raise NotImplementedError

    def tick(self, now: float) -> list[Effect]:
        raise NotImplementedError

    def join(self, seeds: Iterable[Address], now: float) -> list[Effect]:
        raise NotImplementedError

    def leave(self, now: float) -> list[Effect]:
        """For good; go on ticking for a second, so that enough members hear of it."""
        raise NotImplementedError

    def say_away(self, now: float, for_s: float) -> list[Effect]:
        """Back soon, with a new epoch; go on ticking as above."""
        raise NotImplementedError

    def forget(self, node: NodeId, now: float) -> list[Effect]:
        """Count *node* no more. One that is alive after all objects, and is back."""
        raise NotImplementedError

    def say(
        self, now: float, *, joined_term: int | None = None, meta: Mapping[str, str] | None = None
    ) -> list[Effect]:
        """New words about myself, with a raised incarnation."""
        raise NotImplementedError

    def renew(self, epoch: int, now: float) -> list[Effect]:
        """Begin a new life (the caller has kept *epoch* already): what was said of my old one no longer counts."""
        raise NotImplementedError

    def ping(self, node: NodeId, now: float) -> list[Effect]:
        """Ask one member at once; its answer comes as `Attached`."""
        raise NotImplementedError

    def broadcast(self, key: str, payload: bytes, now: float) -> list[Effect]:
        """Tell all members; of one key only the newest of this node is passed on."""
        raise NotImplementedError
