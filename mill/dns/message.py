"""DNS messages as bytes: a query read, an answer written (RFC 1035, RFC 6891). Pure: no socket, no clock, no names of tasks.

The usual query (one question, at most an OPT behind it) is read by hand, which takes a tenth of what dnspython takes; any
other is dnspython's to judge. Never raises over bytes from outside. Called by `answer`, `upstream` and the shells.
"""

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import dns.exception
import dns.message

HEADER = struct.Struct("!6H")
"""Id, flags, and the numbers of questions, answers, authority and additional records (RFC 1035, 4.1.1)."""
PAIR = struct.Struct("!HH")
_OPT = struct.Struct("!BHHBBHH")
"""The root's name, type, payload size, extended rcode, version, flags, length of the options (RFC 6891, 6.1.2)."""
_RECORD = struct.Struct("!HHIH")
_LENGTH = struct.Struct("!H")

QR, AA, TC, RD, RA, AD, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020, 0x0010
OPCODE = 0x7800
DO = 0x8000
RCODE = 0x000F
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED = range(6)
BADVERS = 16
RCODES: Sequence[str] = (
    "noerror", "formerr", "servfail", "nxdomain", "notimp", "refused",
    "yxdomain", "yxrrset", "nxrrset", "notauth", "notzone", *(f"rcode{number}" for number in range(11, 16)),
    "badvers",
)  # fmt: skip
"""By number, as the counters call them."""

A, NS, CNAME, SOA, PTR, HINFO, AAAA, SRV, OPT = 1, 2, 5, 6, 12, 13, 28, 33, 41
IXFR, AXFR, ANY = 251, 252, 255
IN = 1

OUR_SIZE_BYTES = 1232
"""The largest datagram that we send or ask for: what fits into IPv6's least MTU (DNS flag day 2020)."""
PLAIN_SIZE_BYTES = 512
"""What a client takes that does not say more by EDNS (RFC 1035, 4.2.1)."""
MOST_BYTES = 65535
NAME_BYTES = 255
LABEL_BYTES = 63
_POINTER = 0xC0
_NONE = [0, 0, 0]
_LAST_ALONE = [0, 0, 1]
_OPT_BEGINS = b"\0\0\x29"
_EXTENDED_AT = 5
_NO_EDNS = (None, 0, False)


class Question(NamedTuple):
    """A query that is worth an answer. A tuple, since one is made for each datagram.

    `name` is in wire form and lower case; as it was written it stands in ``wire[12:end - 4]``. `size` is the payload that
    the client takes by EDNS, None without EDNS.
    """

    wire: bytes
    id: int
    flags: int
    name: bytes
    type: int
    class_: int
    end: int
    size: int | None
    version: int
    dnssec_ok: bool

    @property
    def key(self) -> tuple[bytes, int, int, bool]:
        """What an answer from upstream depends on."""
        return self.name, self.type, self.flags & (RD | CD), self.dnssec_ok

    def limit(self, *, udp: bool) -> int:
        """The bytes that an answer may have."""
        if not udp:
            return MOST_BYTES
        return (
            PLAIN_SIZE_BYTES if self.size is None else max(PLAIN_SIZE_BYTES, min(self.size, OUR_SIZE_BYTES))
        )


def read(wire: bytes) -> Question | bytes | None:
    """The question; or the refusal of what is none that we take; or None for what gets no answer, lest it be sent in circles."""
    if len(wire) < HEADER.size or wire[2] & QR >> 8:
        return None
    id_, flags, questions, *others = HEADER.unpack_from(wire)
    if flags & OPCODE:
        return _refusal(id_, flags, NOTIMP)
    end = name_end(wire, HEADER.size) + PAIR.size
    edns = _edns(wire, end, others) if questions == 1 and HEADER.size < end <= len(wire) else None
    if edns is None:
        return _refusal(id_, flags, FORMERR)
    type_, class_ = PAIR.unpack_from(wire, end - PAIR.size)
    name = wire[HEADER.size : end - PAIR.size].lower()
    return Question(wire, id_, flags, name, type_, class_, end, *edns)


def _edns(wire: bytes, end: int, others: list[int]) -> tuple[int | None, int, bool] | None:
    """Payload, version and the flag DO of the OPT behind the question that ends at *end*; None if that is malformed."""
    if others == _NONE:
        return _NO_EDNS if end == len(wire) else None
    if others != _LAST_ALONE or wire[end : end + 3] != _OPT_BEGINS:
        return _odd_edns(wire)
    options = end + _OPT.size
    if options > len(wire):
        return None
    _, _, size, _, version, flags, length = _OPT.unpack_from(wire, end)
    if options + length != len(wire) or (length and not _are_options(wire, options)):
        return None
    return size, version, bool(flags & DO)


def _odd_edns(wire: bytes) -> tuple[int | None, int, bool] | None:
    """Of a query with more than a question and an OPT: signed, or with records that mean nothing there."""
    try:
        odd = dns.message.from_wire(
            wire, keyring=False
        )  # the signature of a key that we cannot know is passed over
    except dns.exception.DNSException:
        return None
    return (odd.payload, odd.edns, bool(odd.ednsflags & DO)) if odd.edns >= 0 else _NO_EDNS


def _refusal(id_: int, flags: int, rcode: int) -> bytes:
    """An answer without its question: what that was is not known for sure."""
    return HEADER.pack(id_, QR | (flags & (OPCODE | RD)) | rcode, 0, 0, 0, 0)


def name_end(wire: bytes, at: int) -> int:
    """Where the name at *at* ends, which holds no pointer; a negative number well below any length if there is none."""
    limit = min(len(wire), at + NAME_BYTES)
    while at < limit:
        length = wire[at]
        if not length:
            return at + 1
        if length > LABEL_BYTES:
            break
        at += length + 1
    return -MOST_BYTES


def _are_options(wire: bytes, at: int) -> bool:
    """Whether codes, lengths and contents add up (RFC 6891, 6.1.2)."""
    while at + PAIR.size <= len(wire):
        at += PAIR.size + PAIR.unpack_from(wire, at)[1]
    return at == len(wire)


def labels(name: bytes) -> list[bytes]:
    """The labels of a name in wire form, the root's left out."""
    found, at = [], 0
    while name[at]:
        found.append(name[at + 1 : at + 1 + name[at]])
        at += name[at] + 1
    return found


# -- answers --------------------------------------------------------------------------------------------------------


def record(owner: bytes, type_: int, ttl_s: int, data: bytes) -> bytes:
    """One record of class IN."""
    return owner + _RECORD.pack(type_, IN, ttl_s, len(data)) + data


def pointer(skipped: int) -> bytes:
    """The name of the one question less its first *skipped* bytes, by compression (RFC 1035, 4.1.4)."""
    at = HEADER.size + skipped
    return bytes((_POINTER | at >> 8, at & 0xFF))


def reply(
    question: Question,
    flags: int,
    rcode: int,
    answers: Sequence[bytes] = (),
    authority: Sequence[bytes] = (),
    additional: Sequence[bytes] = (),
    *,
    udp: bool,
) -> bytes:
    """An answer that repeats the question as it was written; cut down to it where the client cannot take more."""
    opt = opt_of(question, rcode >> 4)
    flags |= QR | (question.flags & (RD | CD)) | (rcode & RCODE)
    counts = (1, len(answers), len(authority), len(additional) + bool(opt))
    asked = question.wire[HEADER.size : question.end]
    made = b"".join((HEADER.pack(question.id, flags, *counts), asked, *answers, *authority, *additional, opt))
    if len(made) > PLAIN_SIZE_BYTES and len(made) > question.limit(udp=udp):
        return HEADER.pack(question.id, flags | TC, 1, 0, 0, bool(opt)) + asked + opt
    return made


def opt_of(question: Question, extended_rcode: int = 0) -> bytes:
    """Our OPT, which only those get who sent one (RFC 6891, 7)."""
    if question.size is None:
        return b""
    return _OPT.pack(0, OPT, OUR_SIZE_BYTES, extended_rcode, 0, DO if question.dnssec_ok else 0, 0)


def rcode_of(made: bytes) -> int:
    """Of a message that we made: the OPT, which is its end if there is one, says whether it is `BADVERS` (RFC 6891, 6.1.3)."""
    end = made[-_OPT.size :]
    refused = end[:3] == _OPT_BEGINS and end[_EXTENDED_AT] == BADVERS >> 4
    return BADVERS if refused else made[3] & RCODE


# -- what others wrote ----------------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """A record of a message: the offset of its first byte, of its TTL and of its data, and in which section it stands."""

    section: int
    type: int
    class_: int
    ttl_s: int
    start: int
    ttl_at: int
    data_at: int
    end: int


def records(wire: bytes, at: int) -> Iterator[Seen]:
    """The records from *at* on, of a message that dnspython has found well-formed."""
    for section, count in enumerate(HEADER.unpack_from(wire)[3:]):
        for _ in range(count):
            start = at
            while 0 < wire[at] <= LABEL_BYTES:
                at += wire[at] + 1
            at += 1 + bool(wire[at])  # a pointer has two bytes, the root one
            type_, class_, ttl_s, length = _RECORD.unpack_from(wire, at)
            data_at = at + _RECORD.size
            at = data_at + length
            yield Seen(section, type_, class_, ttl_s, start, data_at - 6, data_at, at)


# -- over TCP -------------------------------------------------------------------------------------------------------


def frame(wire: bytes) -> bytes:
    """A message as TCP carries it: behind its length (RFC 1035, 4.2.2)."""
    return _LENGTH.pack(len(wire)) + wire


class Frames:
    """The messages in a stream of bytes that come in any pieces."""

    def __init__(self) -> None:
        self._begun = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that *data* completes."""
        self._begun += data
        found = []
        while len(self._begun) >= _LENGTH.size:
            end = _LENGTH.size + _LENGTH.unpack_from(self._begun)[0]
            if end > len(self._begun):
                break
            found.append(bytes(self._begun[_LENGTH.size : end]))
            del self._begun[:end]
        return found
