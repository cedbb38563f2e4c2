"""What members say to each other about members, as values. Pure: `wire` turns them into bytes and back.

A `Packet` is one datagram, or one message of a stream. Its head names the speaker's life and incarnation, so that every
packet is also the speaker's word that it lives. What else there is to tell rides on it: claims about members, and rumours,
which are other cores' news and opaque here.
"""

from collections.abc import Mapping
from enum import Enum, auto

import attrs

from mill.cluster.values import MemberState, NodeId

MOST_ATTACHMENT_BYTES = 400
"""On one ping or ack: it must leave room in the datagram for claims."""
MOST_BODY_BYTES = 1024
"""What a member says of itself, as `broadcasts.weigh_body` counts it."""
MOST_KEY_BYTES = 128
"""What a rumour is about."""
MOST_RUMOUR_BYTES = 1024 * 1024
"""One core's news, by stream; what is longer is better asked for."""
MOST_MAIL_BYTES = 4 * 1024 * 1024
"""What another core says to one member."""


@attrs.frozen
class Body:
    """What a member says of itself, since its incarnation `said`; later ones did not change it.

    `extra` is what a newer Mill says besides, kept and passed on (as the wire has it).
    """

    name: str
    host: str
    port: int
    said: int = 0
    joined_term: int = 0
    meta: Mapping[str, str] = attrs.field(factory=dict, hash=False)
    extra: bytes = b""


@attrs.frozen
class Claim:
    """*node* in its life *epoch* is in *state*, as of its *incarnation*.

    New words of its own and a full copy carry the `body`. A suspicion names up to three who made it themselves, `accusers`.
    `away_s` is what is left of the time that a member said it would be away.
    """

    node: NodeId
    epoch: int
    incarnation: int
    state: MemberState
    body: Body | None = None
    accusers: tuple[NodeId, ...] = ()
    away_s: float = 0.0

    @property
    def rank(self) -> tuple[int, int, int]:
        """Of two claims about a node the one of higher rank holds."""
        return self.epoch, self.incarnation, self.state


@attrs.frozen
class Rumour:
    """One core's news of *key* on its way: of one *origin* only the highest (epoch, number) of a key counts."""

    origin: NodeId
    epoch: int
    number: int
    key: str
    payload: bytes


class Occasion(Enum):
    """On which something may be attached."""

    PROBE = auto()
    """A ping, of which there are many: what can wait comes with the answers..."""
    PING = auto()
    """... and one that was asked for, or may be the only word for long."""
    ANSWER = auto()


@attrs.frozen
class Ping:
    """Are you *target*, and there? The answer goes by stream if the question came so."""

    number: int
    target: NodeId
    attachment: bytes = b""
    by_stream: bool = False


@attrs.frozen
class Ack:
    """The answer to `Ping` *number*. *digest* sums up what the speaker holds of all members."""

    number: int
    digest: int = 0
    attachment: bytes = b""


@attrs.frozen
class Ask:
    """Please ping *target* for me, and tell me of its answer, or that there was none in time."""

    number: int
    target: NodeId


@attrs.frozen
class Told:
    """What became of an `Ask`: *answered*, or the one asked got no answer in time either."""

    number: int
    target: NodeId
    answered: bool


@attrs.frozen
class Gossip:
    """Only what rides on the packet."""


@attrs.frozen
class Sync:
    """The packet's claims are all that the speaker holds; it would like the same if it says *reply*."""

    reply: bool


@attrs.frozen
class Mail:
    """What another core says to its like on one member, opaque here."""

    payload: bytes = attrs.field(repr=lambda payload: f"<{len(payload)} B>")


Kind = Ping | Ack | Ask | Told | Gossip | Sync | Mail


@attrs.frozen
class Packet:
    """One message of *speaker* in its life *epoch*, at its *incarnation*."""

    speaker: NodeId
    epoch: int
    incarnation: int
    kind: Kind
    claims: tuple[Claim, ...] = ()
    rumours: tuple[Rumour, ...] = ()
