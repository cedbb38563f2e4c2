"""The bytes of a question to an upstream resolver and of what comes back; resolv.conf. Pure: ids and case are arguments.

An answer counts only if it repeats the id and the question as they were sent, to the case of each letter (draft-vixie-dnsext-dns0x20):
whoever forges one has to guess those, and the port. What dnspython finds malformed is no answer: clients here parse what we
pass on. `forward` owns the sockets.
"""

import struct
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from typing import NamedTuple

import attrs
import dns.exception
import dns.message

from mill.dns import message
from mill.dns.message import CD, HEADER, QR, RA, RCODE, RD, TC, Question
from mill.units import DNS_PORT

MOST_POSITIVE_TTL_S = 3600
"""An answer is asked anew after it, whatever its TTL: a mistake of somebody's must end some day."""
MOST_NEGATIVE_TTL_S = 300
"""RFC 2308 (section 5) advises hours; but a name that is missing now is often one that somebody is about to make."""
MOST_UPSTREAMS = 3
"""As resolv.conf(5) takes them: MAXNS."""
PASSED_ON = frozenset({message.NOERROR, message.NXDOMAIN})
"""The rcodes that answer a question; after any other the next upstream is asked."""
_TTL = struct.Struct("!I")
_MOST_TTL_S = (1 << 31) - 1
"""Beyond it a TTL counts as 0 (RFC 2181, section 8)."""
_ANSWER, _AUTHORITY, _ADDITIONAL = range(3)

Address = tuple[str, int]


class Sent(NamedTuple):
    """A question on its way: the query, and the end of the question in it."""

    wire: bytes
    end: int


def ask(question: Question, id_: int, case: int) -> Sent:
    """*question* for an upstream; each letter of its name is written by a bit of *case*."""
    name = bytearray(question.name)
    for at, char in enumerate(name):
        # The lengths of labels are below 64, where no letters are.
        if ord("a") <= char <= ord("z"):
            case, upper = divmod(case, 2)
            name[at] -= upper * 32
    edns = question._replace(size=message.OUR_SIZE_BYTES)
    opt = message.opt_of(edns)
    header = HEADER.pack(id_, question.flags & (RD | CD), 1, 0, 0, 1)
    tail = message.PAIR.pack(question.type, question.class_)
    return Sent(header + name + tail + opt, HEADER.size + len(name) + len(tail))


@attrs.frozen
class Reply:
    """What an upstream said, without its OPT. `ttls` are the offsets of all TTLs; `ttl_s` is how long it holds, 0: not at all."""

    wire: bytes
    ttls: Sequence[int]
    ttl_s: int

    @property
    def rcode(self) -> int:
        return self.wire[3] & RCODE

    @property
    def truncated(self) -> bool:
        return bool(self.wire[2] & TC >> 8)

    def to(self, question: Question, *, udp: bool, age_s: int = 0) -> bytes:
        """As the answer to *question*, which says the same in its own case, *age_s* after it came."""
        _, flags, _, *counts = HEADER.unpack_from(self.wire)
        opt = message.opt_of(question)
        flags = flags & ~(RD | CD | message.AA) | QR | RA | (question.flags & (RD | CD))
        asked = question.wire[HEADER.size : question.end]
        if len(self.wire) + len(opt) > question.limit(udp=udp):
            return HEADER.pack(question.id, flags | TC, 1, 0, 0, bool(opt)) + asked + opt
        made = bytearray(self.wire)
        HEADER.pack_into(made, 0, question.id, flags, 1, *counts[:-1], counts[-1] + bool(opt))
        made[HEADER.size : question.end] = asked
        for at in self.ttls if age_s else ():
            _TTL.pack_into(made, at, max(0, _TTL.unpack_from(made, at)[0] - age_s))
        return bytes(made + opt)


def judge(wire: bytes, sent: Sent) -> Reply | None:
    """The reply that *wire* is to *sent*; None if it is none, or not well-formed."""
    if len(wire) < sent.end or wire[:2] != sent.wire[:2] or wire[4:6] != b"\0\1" or not wire[2] & QR >> 8:
        return None
    if wire[HEADER.size : sent.end] != sent.wire[HEADER.size : sent.end]:
        return None
    if wire[2] & TC >> 8:  # the rest may be cut off anywhere
        return Reply(wire[:6] + bytes(6) + wire[HEADER.size : sent.end], (), 0)
    try:
        parsed = dns.message.from_wire(wire, ignore_trailing=True, keyring=False)
    except dns.exception.DNSException:
        return None
    return None if int(parsed.rcode()) > RCODE else _without_opt(wire, sent.end)


def _without_opt(wire: bytes, at: int) -> Reply:
    """What stands behind an OPT is dropped with it: signatures of this one hop."""
    header = list(HEADER.unpack_from(wire))
    kept: list[message.Seen] = []
    for seen in message.records(wire, at):
        if seen.type == message.OPT and seen.section == _ADDITIONAL:
            header[5] = sum(other.section == _ADDITIONAL for other in kept)
            break
        kept.append(seen)
    end = kept[-1].end if kept else at
    return Reply(
        HEADER.pack(*header) + wire[HEADER.size : end], [seen.ttl_at for seen in kept], _ttl_s(wire, kept)
    )


def _ttl_s(wire: bytes, kept: Sequence[message.Seen]) -> int:
    """How long an answer may be kept: the shortest TTL in it, and of an absence what its SOA says (RFC 2308, section 5)."""
    rcode = wire[3] & RCODE
    ttls = [seen.ttl_s if seen.ttl_s <= _MOST_TTL_S else 0 for seen in kept]
    minimum = [
        _TTL.unpack_from(wire, seen.end - _TTL.size)[0]  # the last field of its data
        for seen in kept
        if seen.type == message.SOA and seen.section == _AUTHORITY
    ]
    negative = rcode == message.NXDOMAIN or not any(seen.section == _ANSWER for seen in kept)
    if rcode not in PASSED_ON or not ttls or (negative and not minimum):
        return 0
    return int(min(*ttls, *minimum, MOST_NEGATIVE_TTL_S if minimum else MOST_POSITIVE_TTL_S))


# -- where to ask ---------------------------------------------------------------------------------------------------


def parse_resolv_conf(text: str) -> list[Address]:
    """The nameservers of a resolv.conf(5), at most three; lines that make no sense are passed over, as its readers do."""
    return list(_nameservers(text))[:MOST_UPSTREAMS]


def _nameservers(text: str) -> Iterator[Address]:
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[0] == "nameserver":  # noqa: PLR2004 -- a keyword and its value
            try:
                yield str(ip_address(words[1])), DNS_PORT
            except ValueError:
                continue


def is_one_of(address: Address, ours: Sequence[Address], *, local: bool) -> bool:
    """Whether *address* is one that we listen on; *local*: it is this host's, and so a listener's on all addresses."""
    return any(
        address[1] == port and (address[0] == host or (local and ip_address(host).is_unspecified))
        for host, port in ours
    )
