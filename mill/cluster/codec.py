"""The engine's values as bytes and back (protobuf): beats, letters, and single entries, settings, claims and verdicts as rumours. Pure.

Bounded as `wire` is: no bytes whatever make a `read_...` raise anything but `BadPacket`. What a newer Mill says of an entry, a
verdict or a setting besides is kept with it, and passed on.
"""

import math
import zlib
from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from mill.cluster.claims import Claim, Mandate
from mill.cluster.entries import Delta, Entry, Line, Mark, Verdict, Want
from mill.cluster.letters import (
    MOST_LOAD_BYTES,
    Ask,
    Beat,
    Compare,
    Copy,
    Deltas,
    Hand,
    Hold,
    Holds,
    Inquiry,
    Letter,
    Testimony,
    Vouch,
    Wants,
)
from mill.cluster.messages import MOST_RUMOUR_BYTES
from mill.cluster.proto import engine_pb2 as pb
from mill.cluster.settings import Setting, Snapshot
from mill.cluster.values import NodeId
from mill.cluster.wire import MOST_BYTES, BadPacket, bounded, node_id, number, unknown

MOST_TASK_BYTES = 63
"""A task's id is a DNS label."""
MOST_SETTING_KEY_BYTES = 512

M = TypeVar("M", bound=Message)


def _parse(kind: type[M], data: bytes) -> M:
    bounded(data, MOST_BYTES)
    try:
        return kind.FromString(data)
    except DecodeError as error:
        raise BadPacket(f"no {kind.DESCRIPTOR.name.lower()} of a member: {error}") from None


def _bytes(made: Message) -> bytes:
    return made.SerializeToString(deterministic=True)


# -- parts ----------------------------------------------------------------------------------------------------------


def _make_mark(mark: Mark) -> pb.Mark:
    return pb.Mark(epoch=mark.epoch, seq=mark.seq)


def _mark(read: pb.Mark) -> Mark:
    return Mark(number(read.epoch), number(read.seq))


def _make_mandate(mandate: Mandate) -> pb.Mandate:
    return pb.Mandate(term=mandate.term, leader=bytes.fromhex(mandate.leader))


def _mandate(read: pb.Mandate) -> Mandate:
    """That of nobody has no leader."""
    return Mandate(number(read.term), node_id(read.leader) if read.leader else NodeId(""))


def _make_claim(claim: Claim) -> pb.Leading:
    return pb.Leading(term=claim.term, leader=bytes.fromhex(claim.leader), age=claim.age, quorum=claim.quorum)


def _claim(read: pb.Leading, leader: NodeId) -> Claim:
    number(abs(read.age))
    return Claim(number(read.term), leader, read.age, read.quorum)


def _make_entry(entry: Entry) -> pb.Entry:
    made = pb.Entry.FromString(entry.extra)
    made.owner, made.task, made.phase, made.payload = (
        bytes.fromhex(entry.owner),
        entry.task,
        entry.phase,
        entry.payload,
    )
    made.mark.CopyFrom(_make_mark(entry.mark))
    made.born.CopyFrom(_make_mark(entry.born))
    if entry.ended is not None:
        made.ended.CopyFrom(_make_mark(entry.ended))
    return made


def _entry(read: pb.Entry) -> Entry:
    bounded(read.task.encode(), MOST_TASK_BYTES)
    return Entry(
        node_id(read.owner),
        _mark(read.mark),
        read.task,
        read.phase,
        bounded(read.payload, MOST_RUMOUR_BYTES),
        _mark(read.born),
        _mark(read.ended) if read.HasField("ended") else None,
        unknown(read),
    )


def _make_verdict(verdict: Verdict) -> pb.Verdict:
    made = pb.Verdict.FromString(verdict.extra)
    made.owner, made.term = bytes.fromhex(verdict.owner), verdict.term
    made.leader, made.at = bytes.fromhex(verdict.leader), verdict.at
    made.head.CopyFrom(_make_mark(verdict.head))
    made.reach.CopyFrom(_make_mark(verdict.reach))
    made.ended.extend(_make_mark(mark) for mark in sorted(verdict.ended))
    return made


def _verdict(read: pb.Verdict) -> Verdict:
    return Verdict(
        node_id(read.owner),
        _mark(read.head),
        number(read.term),
        node_id(read.leader),
        _mark(read.reach),
        frozenset(_mark(mark) for mark in read.ended),
        unknown(read),
        _time(read.at),
    )


def _make_setting(setting: Setting) -> pb.Setting:
    made = pb.Setting.FromString(setting.extra)
    made.key, made.time, made.node = setting.key, setting.time, bytes.fromhex(setting.node)
    if setting.value is not None:
        made.value = setting.value
    return made


def _setting(read: pb.Setting) -> Setting:
    bounded(read.key.encode(), MOST_SETTING_KEY_BYTES)
    value = bounded(read.value, MOST_RUMOUR_BYTES) if read.HasField("value") else None
    return Setting(read.key, value, _time(read.time), node_id(read.node), unknown(read))


def _time(value: float) -> float:
    if not math.isfinite(value):
        raise BadPacket(f"no time: {value}")
    return value


def _make_line(line: Line) -> pb.Line:
    return pb.Line(
        owner=bytes.fromhex(line.owner),
        head=_make_mark(line.head),
        seen=_make_mark(line.seen),
        floor=_make_mark(line.floor),
        entries=line.entries,
        verdicts=line.verdicts,
    )


def _line(read: pb.Line) -> Line:
    return Line(
        node_id(read.owner),
        _mark(read.head),
        _mark(read.seen),
        _mark(read.floor),
        read.entries,
        read.verdicts,
    )


def _make_want(want: Want) -> pb.Want:
    return pb.Want(
        owner=bytes.fromhex(want.owner), since=_make_mark(want.since), after=_make_mark(want.after)
    )


def _want(read: pb.Want) -> Want:
    return Want(node_id(read.owner), _mark(read.since), _mark(read.after))


def _make_delta(delta: Delta) -> pb.Delta:
    return pb.Delta(
        owner=bytes.fromhex(delta.owner),
        since=_make_mark(delta.since),
        entries=[_make_entry(entry) for entry in delta.entries],
        verdicts=[_make_verdict(verdict) for verdict in delta.verdicts],
        floor=_make_mark(delta.floor),
        head=None if delta.head is None else _make_mark(delta.head),
    )


def _delta(read: pb.Delta) -> Delta:
    owner = node_id(read.owner)
    entries = tuple(_entry(entry) for entry in read.entries)
    verdicts = tuple(_verdict(verdict) for verdict in read.verdicts)
    if {*(entry.owner for entry in entries), *(verdict.owner for verdict in verdicts)} - {owner}:
        raise BadPacket("an answer about one node's log with parts of another's")
    head = _mark(read.head) if read.HasField("head") else None
    return Delta(owner, _mark(read.since), entries, verdicts, _mark(read.floor), head)


# -- beats and rumours ----------------------------------------------------------------------------------------------


def beat(value: Beat) -> bytes:
    """A claim is its speaker's own, whose receiver knows whose that is; who obeys itself says so only once."""
    claim = value.claim
    obeys = claim is not None and value.accepted == claim.mandate
    return _bytes(
        pb.Beat(
            records=value.records,
            settings=value.settings,
            accepted=None if obeys else _make_mandate(value.accepted),
            claim=None if claim is None else pb.Leading(term=claim.term, age=claim.age, quorum=claim.quorum),
            load=value.load,
        )
    )


def read_beat(data: bytes, speaker: NodeId) -> Beat:
    read = _parse(pb.Beat, data)
    claim = _claim(read.claim, speaker) if read.HasField("claim") else None
    obeys = claim is not None and not read.HasField("accepted")
    return Beat(
        read.records,
        read.settings,
        claim.mandate if claim is not None and obeys else _mandate(read.accepted),
        claim,
        bounded(read.load, MOST_LOAD_BYTES),
    )


def claim(value: Claim) -> bytes:
    return _bytes(_make_claim(value))


def read_claim(data: bytes) -> Claim:
    read = _parse(pb.Leading, data)
    return _claim(read, node_id(read.leader))


def entry(value: Entry) -> bytes:
    return _bytes(_make_entry(value))


def read_entry(data: bytes) -> Entry:
    return _entry(_parse(pb.Entry, data))


def verdict(value: Verdict) -> bytes:
    return _bytes(_make_verdict(value))


def read_verdict(data: bytes) -> Verdict:
    return _verdict(_parse(pb.Verdict, data))


def delta(value: Delta) -> bytes:
    return _bytes(_make_delta(value))


def read_delta(data: bytes) -> Delta:
    return _delta(_parse(pb.Delta, data))


def setting(value: Setting) -> bytes:
    return _bytes(_make_setting(value))


def read_setting(data: bytes) -> Setting:
    return _setting(_parse(pb.Setting, data))


# -- letters --------------------------------------------------------------------------------------------------------


def letter(value: Letter) -> bytes:
    made = pb.Letter()
    match value:
        case Compare(lines, reply):
            made.compare.CopyFrom(pb.Compare(lines=map(_make_line, lines), reply=reply))
        case Wants(wants):
            made.wants.CopyFrom(pb.Wants(wants=map(_make_want, wants)))
        case Deltas(deltas):
            made.deltas.CopyFrom(pb.Deltas(deltas=map(_make_delta, deltas)))
        case Copy(snapshot, reply):
            settings = map(_make_setting, snapshot.settings)
            made.copy.CopyFrom(pb.Copy(settings=settings, collected=snapshot.collected, reply=reply))
        case Hold(end):
            made.hold.CopyFrom(pb.Hold(end=zlib.compress(entry(end))))
        case Holds(task):
            made.holds.CopyFrom(pb.Holds(task=task))
        case _:
            _write_of_a_node(made, value)
    return _bytes(made)


def _write_of_a_node(made: pb.Letter, value: Ask | Vouch | Hand | Inquiry | Testimony) -> None:
    """Those that speak of one node, and of nobody's records beside."""
    match value:
        case Ask(leader):
            made.ask.CopyFrom(pb.Ask(leader=bytes.fromhex(leader)))
        case Vouch(leader, vouched):
            made.vouch.CopyFrom(pb.Vouch(leader=bytes.fromhex(leader), vouched=vouched))
        case Hand(mandate):
            made.hand.CopyFrom(pb.Hand(mandate=_make_mandate(mandate)))
        case Inquiry(node):
            made.inquiry.CopyFrom(pb.Inquiry(node=bytes.fromhex(node)))
        case Testimony(node, silent_s, line):
            silent_ms = int(silent_s * 1000)  # down: nobody testifies to more than it knows
            made.testimony.CopyFrom(
                pb.Testimony(node=bytes.fromhex(node), silent_ms=silent_ms, line=_make_line(line))
            )


def read_letter(data: bytes) -> Letter:
    read = _parse(pb.Letter, data)
    kind = read.WhichOneof("kind")
    if kind is None:
        raise BadPacket("a letter of an unknown kind; is its speaker a newer Mill?")
    return _LETTERS[kind](getattr(read, kind))


def _unpacked(data: bytes) -> bytes:
    """No more of it than a packet may hold, whatever it would become."""
    unpacker = zlib.decompressobj()
    try:
        unpacked = unpacker.decompress(data, MOST_BYTES)
    except zlib.error as error:
        raise BadPacket(f"what was packed cannot be unpacked: {error}") from None
    if not unpacker.eof:
        raise BadPacket("what was packed is incomplete, or too long")
    return unpacked


def _copy(read: pb.Copy) -> Copy:
    return Copy(Snapshot(tuple(map(_setting, read.settings)), _time(read.collected)), read.reply)


_LETTERS: dict[str, Callable[..., Letter]] = {
    "compare": lambda it: Compare(tuple(map(_line, it.lines)), it.reply),
    "wants": lambda it: Wants(tuple(map(_want, it.wants))),
    "deltas": lambda it: Deltas(tuple(map(_delta, it.deltas))),
    "copy": _copy,
    "ask": lambda it: Ask(node_id(it.leader)),
    "vouch": lambda it: Vouch(node_id(it.leader), it.vouched),
    "hand": lambda it: Hand(_mandate(it.mandate)),
    "inquiry": lambda it: Inquiry(node_id(it.node)),
    "testimony": lambda it: Testimony(node_id(it.node), number(it.silent_ms) / 1000, _line(it.line)),
    "hold": lambda it: Hold(read_entry(_unpacked(it.end))),
    "holds": lambda it: Holds(bounded(it.task.encode(), MOST_TASK_BYTES).decode()),
}
