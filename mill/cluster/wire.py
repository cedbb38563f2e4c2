"""Packets as bytes and back (protobuf). Pure: bounded, and no bytes whatever make `decode` raise anything but `BadPacket`.

What a newer Mill says of a member besides is kept with the member's body and passed on. A claim of a state that is not known
here is left out; a packet of an unknown kind cannot be read.
"""

from collections.abc import Callable

from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from mill.cluster.messages import (
    MOST_ATTACHMENT_BYTES,
    MOST_BODY_BYTES,
    MOST_KEY_BYTES,
    MOST_MAIL_BYTES,
    MOST_RUMOUR_BYTES,
    Ack,
    Ask,
    Body,
    Claim,
    Gossip,
    Kind,
    Mail,
    Packet,
    Ping,
    Rumour,
    Sync,
    Told,
)
from mill.cluster.proto import swim_pb2 as pb
from mill.cluster.values import NODE_ID_BYTES, MemberState, NodeId
from mill.errors import MillError

MOST_BYTES = 8 * 1024 * 1024
"""Of one packet: a full copy of 4096 members whose bodies are as long as may be."""
MOST_NUMBER = 2**53
"""Of epochs, incarnations and such: exact wherever it goes, JSON included, and out of any node's reach."""
MOST_ACCUSERS = 8
MOST_AWAY_MS = 366 * 86_400_000
_MOST_PORT = 65535


class BadPacket(MillError):
    """What came cannot be read; nothing was changed."""


def encode(packet: Packet, *, names_speaker: bool = True) -> bytes:
    """A sealed datagram names its speaker outside, and need not do it again."""
    made = pb.Packet(
        speaker=bytes.fromhex(packet.speaker) if names_speaker else b"",
        epoch=packet.epoch,
        incarnation=packet.incarnation,
        claims=[_encode_claim(claim) for claim in packet.claims],
        rumours=[
            pb.Rumour(
                origin=bytes.fromhex(rumour.origin),
                epoch=rumour.epoch,
                number=rumour.number,
                key=rumour.key,
                payload=rumour.payload,
            )
            for rumour in packet.rumours
        ],
    )
    _set_kind(made, packet.kind)
    return made.SerializeToString(deterministic=True)


def _set_kind(made: pb.Packet, kind: Kind) -> None:
    match kind:
        case Ping(number, target, attachment, by_stream):
            made.ping.number, made.ping.target = number, bytes.fromhex(target)
            made.ping.attachment, made.ping.by_stream = attachment, by_stream
        case Ack(number, digest, attachment):
            made.ack.number, made.ack.digest, made.ack.attachment = number, digest, attachment
        case Ask(number, target):
            made.ask.number, made.ask.target = number, bytes.fromhex(target)
        case Told(number, target, answered):
            made.told.number, made.told.target, made.told.answered = number, bytes.fromhex(target), answered
        case Gossip():
            made.gossip.SetInParent()
        case Sync(reply):
            made.sync.SetInParent()
            made.sync.reply = reply
        case Mail(payload):
            made.mail.payload = payload
            made.mail.SetInParent()


def _encode_claim(claim: Claim) -> pb.Claim:
    made = pb.Claim(
        node=bytes.fromhex(claim.node),
        epoch=claim.epoch,
        incarnation=claim.incarnation,
        state=pb.State.Name(claim.state),
        accusers=[bytes.fromhex(node) for node in claim.accusers],
        away_ms=round(claim.away_s * 1000),
    )
    if claim.body is not None:
        body = claim.body
        if body.extra:
            made.body.MergeFromString(body.extra)
        made.body.name, made.body.host, made.body.port = body.name, body.host, body.port
        made.body.said, made.body.joined_term = body.said, body.joined_term
        made.body.meta.update(body.meta)
    return made


def decode(data: bytes, speaker: NodeId | None = None) -> Packet:
    """Of *speaker*, if it names none. Raises `BadPacket`."""
    if len(data) > MOST_BYTES:
        raise BadPacket(f"a packet of {len(data)} bytes, {MOST_BYTES} are allowed")
    try:
        read = pb.Packet.FromString(data)
    except DecodeError as error:
        raise BadPacket(f"no packet of a member: {error}") from None
    kind = read.WhichOneof("kind")
    if kind is None:
        raise BadPacket("a packet of an unknown kind; is its speaker a newer Mill?")
    known = {state.value for state in MemberState}
    return Packet(
        node_id(read.speaker) if read.speaker or speaker is None else speaker,
        number(read.epoch),
        number(read.incarnation),
        _KINDS[kind](getattr(read, kind)),
        tuple(_claim(claim) for claim in read.claims if claim.state in known),
        tuple(_rumour(rumour) for rumour in read.rumours),
    )


def _claim(read: pb.Claim) -> Claim:
    if len(read.accusers) > MOST_ACCUSERS or read.away_ms > MOST_AWAY_MS:
        raise BadPacket("a claim out of bounds")
    return Claim(
        node_id(read.node),
        number(read.epoch),
        number(read.incarnation),
        MemberState(read.state),
        _body(read.body) if read.HasField("body") else None,
        tuple(node_id(node) for node in read.accusers),
        read.away_ms / 1000,
    )


def _body(read: pb.Body) -> Body:
    if read.ByteSize() > MOST_BODY_BYTES or not 0 < read.port <= _MOST_PORT or not read.host:
        raise BadPacket("a member's body out of bounds")
    return Body(
        read.name,
        read.host,
        read.port,
        number(read.said),
        number(read.joined_term),
        dict(read.meta),
        unknown(read),
    )


def _rumour(read: pb.Rumour) -> Rumour:
    payload = bounded(read.payload, MOST_RUMOUR_BYTES)
    bounded(read.key.encode(), MOST_KEY_BYTES)
    return Rumour(node_id(read.origin), number(read.epoch), number(read.number), read.key, payload)


# -- what the other codecs of the cluster use, too ------------------------------------------------------------------


def unknown(read: Message) -> bytes:
    """What a newer Mill says beside, as it stands on the wire."""
    if not len(UnknownFieldSet(read)):
        return b""
    rest = type(read)()
    rest.CopyFrom(read)
    for field in rest.DESCRIPTOR.fields:
        rest.ClearField(field.name)
    return rest.SerializeToString(deterministic=True)


def node_id(raw: bytes) -> NodeId:
    if len(raw) != NODE_ID_BYTES:
        raise BadPacket(f"a node id of {len(raw)} bytes")
    return NodeId(raw.hex())


def number(value: int) -> int:
    if value > MOST_NUMBER:
        raise BadPacket(f"a number out of bounds: {value}")
    return value


def bounded(raw: bytes, most: int) -> bytes:
    if len(raw) > most:
        raise BadPacket(f"{len(raw)} bytes where {most} are allowed")
    return raw


_KINDS: dict[str, Callable[..., Kind]] = {
    "ping": lambda it: Ping(
        number(it.number), node_id(it.target), bounded(it.attachment, MOST_ATTACHMENT_BYTES), it.by_stream
    ),
    "ack": lambda it: Ack(number(it.number), it.digest, bounded(it.attachment, MOST_ATTACHMENT_BYTES)),
    "ask": lambda it: Ask(number(it.number), node_id(it.target)),
    "told": lambda it: Told(number(it.number), node_id(it.target), it.answered),
    "gossip": lambda _: Gossip(),
    "sync": lambda it: Sync(it.reply),
    "mail": lambda it: Mail(bounded(it.payload, MOST_MAIL_BYTES)),
}
