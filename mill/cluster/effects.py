"""What the membership core wants done or known, in order. Pure; the shell carries them out, other cores listen to them."""

import attrs

from mill.cluster.messages import Packet
from mill.cluster.values import Address, Member, NodeId


@attrs.frozen
class Send:
    """One datagram; it may be lost."""

    to: Address
    message: Packet


@attrs.frozen
class SendStream:
    """Over TCP: what is too long for a datagram, a full copy, or a ping that tries this path. It may fail, too."""

    to: Address
    message: Packet


@attrs.frozen
class Changed:
    """A member as it was (None: it was unknown) and as it is now (None: it was forgotten)."""

    old: Member | None
    new: Member | None


@attrs.frozen
class News:
    """Another core's news, for the core that `broadcast` it on the node *source*."""

    key: str
    payload: bytes
    source: NodeId


@attrs.frozen
class Attached:
    """What rode on a ping (*rtt_s* None) or on an ack (the time since its ping) that came straight from *node*.

    Once per answer, so that it also says that *node* answered just now.
    """

    node: NodeId
    payload: bytes
    rtt_s: float | None


@attrs.frozen
class Mailed:
    """Another core's words to this node alone, for the core that gave them to `mail` on *node*."""

    node: NodeId
    payload: bytes


@attrs.frozen
class PathChanged:
    """Which ways from here to *node* and back carry: one that is alive may still be deaf on one of them."""

    node: NodeId
    datagrams: bool
    streams: bool


@attrs.frozen
class Reborn:
    """Somebody knows a later life of this node than its disk does: it must keep *epoch*, before any further effect."""

    epoch: int


Effect = Send | SendStream | Changed | News | Attached | Mailed | PathChanged | Reborn
