"""What a member says: packets, filled with what is to be passed on. Pure; the parts of `swim` speak through it."""

from collections.abc import Callable

from mill.cluster.broadcasts import CLAIM_BYTES, Broadcasts
from mill.cluster.effects import Effect, Send, SendStream
from mill.cluster.messages import (
    MOST_ATTACHMENT_BYTES,
    Ack,
    Claim,
    Gossip,
    Kind,
    Mail,
    Occasion,
    Packet,
    Ping,
    Rumour,
)
from mill.cluster.table import Table
from mill.cluster.timers import Timers
from mill.cluster.tuning import Tuning
from mill.cluster.values import Address, Choice, MemberState, NodeId, Peer

HEAD_BYTES = 64
"""Of a packet without claims and rumours, at most, its attachment apart."""


class Voice:
    """A node among the members: who it is, what time it is, what it wants done."""

    def __init__(
        self, me: Peer, rng: Choice, tuning: Tuning, attach: Callable[[Occasion], bytes], now: float
    ) -> None:
        self.me = me
        self.incarnation = 0
        self.rng = rng
        self.tuning = tuning
        self.attach = attach
        self.now = now
        self.table = Table(tuning.most_members)
        self.broadcasts = Broadcasts(tuning)
        self.timers = Timers()
        self.effects: list[Effect] = []
        self.awareness = 0
        """How much this node doubts itself: 0 is healthy (Lifeguard's local health multiplier, less one)."""
        self._round_at: float | None = None
        self._last_round = now - tuning.gossip_every_s

    @property
    def takes_part(self) -> bool:
        """Whether it has not said that it goes."""
        return self.table.members[self.me.id].state.reachable

    @property
    def repeats(self) -> int:
        """How often each thing is told: the digits of the members' number, and many times at that."""
        digits = len(str(len(self.table.members)))
        return max(self.tuning.least_repeats, self.tuning.repeats_factor * digits)

    def doubt(self, change: int) -> None:
        self.awareness = min(self.tuning.most_awareness, max(0, self.awareness + change))

    # -- packets ----------------------------------------------------------------------------------------------------

    def packet(self, kind: Kind, claims: tuple[Claim, ...] = (), rumours: tuple[Rumour, ...] = ()) -> Packet:
        return Packet(self.me.id, self.me.epoch, self.incarnation, kind, claims, rumours)

    def send(self, to: Address, kind: Kind, about: Claim | None = None, *, by_stream: bool = False) -> None:
        """With the claim *about* its receiver, and whatever else is to be told and fits into a datagram."""
        claims: tuple[Claim, ...] = ()
        rumours: tuple[Rumour, ...] = ()
        if self.broadcasts.short:
            room = self.tuning.datagram_bytes - HEAD_BYTES
            if isinstance(kind, Ping | Ack):
                room -= len(kind.attachment)
            elif isinstance(kind, Mail) and not by_stream:
                room -= len(kind.payload)
            claims, rumours = self.broadcasts.pick(
                room if about is None else room - CLAIM_BYTES, self.repeats
            )
        if about is not None:
            claims = (about, *(claim for claim in claims if claim.node != about.node))
        message = self.packet(kind, claims, rumours)
        self.effects.append(SendStream(to, message) if by_stream else Send(to, message))

    def stream(
        self, to: Address, kind: Kind, claims: tuple[Claim, ...] = (), rumours: tuple[Rumour, ...] = ()
    ) -> None:
        """Just that, of any length."""
        self.effects.append(SendStream(to, self.packet(kind, claims, rumours)))

    def attachment(self, occasion: Occasion) -> bytes:
        """What the other cores put on the next ping or answer."""
        made = self.attach(occasion)
        if len(made) > MOST_ATTACHMENT_BYTES:
            raise ValueError(f"{len(made)} bytes to attach, {MOST_ATTACHMENT_BYTES} are allowed")
        return made

    def about(self, node: NodeId, epoch: int = 0) -> Claim | None:
        """What *node* should hear of itself, if anything: that it is not alive, or that its life *epoch* is not known here."""
        held = self.table.members.get(node)
        if held is None or (held.state is MemberState.ALIVE and held.peer.epoch >= epoch):
            return None
        return self.table.claim(node)

    def some(self, count: int, *, but: NodeId | None = None) -> list[NodeId]:
        """Up to *count* others who take part, drawn by lot, without *but*."""
        nodes = self.table.reachable.nodes
        drawn = self.rng.sample(nodes, min(count + 2, len(nodes)))
        return [node for node in drawn if node not in {self.me.id, but}][:count]

    def address(self, node: NodeId) -> Address:
        return self.table.members[node].peer.address

    # -- rounds -----------------------------------------------------------------------------------------------------

    def kick(self) -> None:
        """There is something to tell: let a round come as soon as one may, unless it comes anyway."""
        if self._round_at is None and len(self.table.reachable) > self.takes_part:
            self._round_at = max(self.now, self._last_round + self.tuning.gossip_every_s)
            self.timers.at(self._round_at, self._round)

    def _round(self) -> None:
        self._round_at = None
        self._last_round = self.now
        self.tell(self.tuning.gossip_fanout)
        if self.broadcasts:
            self.kick()

    def tell(self, count: int) -> None:
        """What is to be passed on, to *count* others."""
        for node in self.some(count):
            if self.broadcasts.short:
                self.send(self.address(node), Gossip())
            claims, rumours = self.broadcasts.pick_long()
            if claims or rumours:
                self.stream(self.address(node), Gossip(), claims, rumours)
