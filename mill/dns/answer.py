"""What a DNS query gets: an answer for ``.mill``, or the word that it is for somebody else. Pure: bytes in, bytes out.

    <id>.mill               A, AAAA         the task's addresses; ``ANY`` gets the least there is (RFC 8482)
    _task._tcp.<id>.mill    SRV             the task's port at <id>.mill (RFC 2782)
    <x>.in-addr.arpa        PTR             the task that has the address, of those that are the mesh's
    mill, ns.mill           SOA, NS, A      the zone itself

    a task without that record         no error, no answer, the zone's SOA (RFC 2308)
    no such task, deeper names         the same as NXDOMAIN
    it cannot be told                  SERVFAIL; of a task as `Miss`, for who can ask elsewhere
    any other name                     `Forward`
    no query, or one we cannot take    nothing, FORMERR, NOTIMP, REFUSED, BADVERS

Case is kept as asked. Answers for ``.mill`` live one second. The shell that owns the sockets calls it for every query.
"""

import struct
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple

from mill.dns import message
from mill.dns.message import Question
from mill.dns.names import Known, Name, Zone

TTL_S = 1
"""Of everything below ``.mill``, also of its absence: a task's name comes and goes with it."""
ZONE = b"\x04mill\x00"
_NS = b"ns"
_SERVICE = [b"_task", b"_tcp"]
_REVERSE = [b"in-addr", b"arpa"]
_SRV = struct.Struct("!HHH")
_SOA = b"\x02ns" + ZONE + b"\x0ahostmaster" + ZONE + struct.pack("!5I", 1, TTL_S, TTL_S, TTL_S, TTL_S)
"""The serial never changes: nobody may transfer the zone (AXFR is refused)."""
_HINFO = b"\x07RFC8482\x00"
_TRANSFERS = frozenset({message.AXFR, message.IXFR})
_OWN = message.AA | message.RA
_REMEMBERED = 8192
_ADDRESS_TYPES = {4: message.A, 6: message.AAAA}
_BYTES_OF_ADDRESS = 4


class Forward(NamedTuple):
    """Not ours to answer."""

    question: Question


class Miss(NamedTuple):
    """It is not known here whether there is a task of that id.

    `wire` says SERVFAIL. A shell that can ask elsewhere does so first, and calls `answer` again with names that have learnt.
    """

    question: Question
    task_id: str
    wire: bytes


class _Asked(NamedTuple):
    """A question for us, and how its answer travels."""

    question: Question
    udp: bool

    def say(self, answers: Sequence[bytes], additional: Sequence[bytes] = ()) -> bytes:
        return message.reply(self.question, _OWN, message.NOERROR, answers, (), additional, udp=self.udp)

    def deny(self, rcode: int = message.NOERROR, zone_at: int | None = None) -> bytes:
        """Without answer: no such record, or no such name. *zone_at*: where in the name its zone begins."""
        if zone_at is None:
            zone_at = len(self.question.name) - len(ZONE)
        soa = message.record(message.pointer(zone_at), message.SOA, TTL_S, _SOA)
        return message.reply(self.question, _OWN, rcode, (), (soa,), udp=self.udp)

    def refuse(self, rcode: int) -> bytes:
        return message.reply(self.question, message.RA, rcode, udp=self.udp)

    def miss(self, task_id: str) -> Miss:
        return Miss(self.question, task_id, self.refuse(message.SERVFAIL))

    def own(self, type_: int, data: bytes, skipped: int = 0) -> bytes:
        """A record of the name that was asked for, less its first *skipped* bytes."""
        return message.record(message.pointer(skipped), type_, TTL_S, data)


def answer(wire: bytes, zone: Zone, *, udp: bool) -> bytes | Forward | Miss | None:
    """What *wire* gets, which came from outside and may be anything; None: no answer at all."""
    question = message.read(wire)
    if not isinstance(question, Question):
        return question
    asked = _Asked(question, udp)
    if question.version or question.class_ != message.IN or question.type in _TRANSFERS:
        return asked.refuse(message.BADVERS if question.version else message.REFUSED)
    first = question.name[0] + 1
    if question.name[first:] == ZONE:
        return _of_label(asked, question.name[1:first], zone)
    labels = message.labels(question.name)
    if labels[-1:] == [b"mill"]:
        return _deeper(asked, labels[:-1], zone)
    if labels[-2:] == _REVERSE and zone.mesh is not None:
        return _of_address(asked, labels[:-2], zone)
    return Forward(question)


def _of_label(asked: _Asked, label: bytes, zone: Zone) -> bytes | Miss:
    """``<label>.mill``."""
    if label == _NS:
        return _of_task(asked, Name((zone.address,), 0))
    task_id = label.decode("latin-1")
    found = zone.names.lookup(task_id)
    if found is None:
        return asked.deny(message.NXDOMAIN)
    if found is Known.UNSURE:
        return asked.miss(task_id)
    return _of_task(asked, found)


def _of_task(asked: _Asked, name: Name) -> bytes:
    wanted = asked.question.type
    if wanted == message.ANY:
        return asked.say((asked.own(message.HINFO, _HINFO),))
    packed = [_packed(address) for address in name.addresses]
    found = [asked.own(type_, data) for type_, data in packed if type_ == wanted]
    return asked.say(found) if found else asked.deny()


def _deeper(asked: _Asked, labels: list[bytes], zone: Zone) -> bytes | Miss:
    """``mill`` itself, a task's service, and what is nothing."""
    if not labels:
        return _of_zone(asked)
    if labels[:-1] not in (_SERVICE, _SERVICE[1:]):
        return asked.deny(message.NXDOMAIN)
    task_id = labels[-1].decode("latin-1")
    found = zone.names.lookup(task_id)
    if found is None:
        return asked.deny(message.NXDOMAIN)
    if found is Known.UNSURE:
        return asked.miss(task_id)
    return _of_service(asked, found) if labels[:-1] == _SERVICE else asked.deny()


def _of_service(asked: _Asked, name: Name) -> bytes:
    question = asked.question
    if question.type == message.ANY:
        return asked.say((asked.own(message.HINFO, _HINFO),))
    if question.type != message.SRV or not name.addresses:
        return asked.deny()
    skipped = sum(len(label) + 1 for label in _SERVICE)
    target = question.wire[message.HEADER.size + skipped : question.end - message.PAIR.size]
    addresses = [asked.own(*_packed(address), skipped) for address in name.addresses]
    return asked.say((asked.own(message.SRV, _SRV.pack(0, 0, name.port) + target),), addresses)


def _of_zone(asked: _Asked) -> bytes:
    wanted = asked.question.type
    if wanted in {message.SOA, message.ANY}:
        return asked.say((asked.own(message.SOA, _SOA),))
    if wanted == message.NS:
        return asked.say((asked.own(message.NS, b"\x02ns" + ZONE),))
    return asked.deny()


def _of_address(asked: _Asked, labels: list[bytes], zone: Zone) -> bytes | Forward:
    """A name below ``in-addr.arpa`` (RFC 1035, 3.5)."""
    address = _address_of(labels)
    if zone.mesh is None or address is None or address not in zone.mesh:
        return Forward(asked.question)
    zone_at = sum(len(label) + 1 for label in labels[: _BYTES_OF_ADDRESS - -(-zone.mesh.prefixlen // 8)])
    task_id = zone.names.reverse(str(address))
    if task_id is None:
        return asked.deny(message.NXDOMAIN, zone_at)
    if task_id is Known.UNSURE:
        return asked.refuse(message.SERVFAIL)
    if asked.question.type not in {message.PTR, message.ANY}:
        return asked.deny(zone_at=zone_at)
    return asked.say((asked.own(message.PTR, bytes((len(task_id),)) + task_id.encode() + ZONE),))


def _address_of(labels: list[bytes]) -> IPv4Address | None:
    """The address of a whole reverse name."""
    if len(labels) != _BYTES_OF_ADDRESS:
        return None
    try:
        return IPv4Address(b".".join(reversed(labels)).decode("ascii"))
    except ValueError:
        return None


@lru_cache(_REMEMBERED)
def _packed(address: str) -> tuple[int, bytes]:
    """The record that an address makes."""
    parsed: IPv4Address | IPv6Address = ip_address(address)
    return _ADDRESS_TYPES[parsed.version], parsed.packed
