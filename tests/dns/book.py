"""Names that a test has written down, a zone of them, and queries as dnspython makes them. Called by the tests beside it."""

from ipaddress import IPv4Network
from typing import Any

import attrs
import dns.message

from mill.dns.answer import Forward, Miss, answer
from mill.dns.names import Known, Name, Unsure, Zone

NODE = "192.0.2.1"


@attrs.define
class Book:
    """As `mill.dns.names.Names`. *unsure* are ids and addresses that nobody can tell of."""

    tasks: dict[str, Name] = attrs.field(factory=dict)
    unsure: set[str] = attrs.field(factory=set)

    def lookup(self, task_id: str) -> Name | Unsure | None:
        return Known.UNSURE if task_id in self.unsure else self.tasks.get(task_id)

    def reverse(self, address: str) -> str | Unsure | None:
        if address in self.unsure:
            return Known.UNSURE
        return next((id_ for id_, name in self.tasks.items() if address in name.addresses), None)


BOOK = Book(
    {
        "web-a1b2": Name(("10.99.0.2",), 8080),
        "dual-c3d4": Name(("10.99.1.7", "2001:db8::7"), 443),
        "lone-e5f6": Name((), 8080),
        "on-node-g7h8": Name((NODE,), 9000),
        "l" * 63: Name(("10.99.0.9",), 1),
        "many-0000": Name(tuple(f"10.98.{n // 250}.{n % 250}" for n in range(100)), 80),
    },
    {"maybe-i9j0", "10.99.3.3"},
)
ZONE = Zone(BOOK, NODE, IPv4Network("10.99.0.0/16"))


def query(name: str, type_: str = "A", **options: Any) -> bytes:
    return dns.message.make_query(name, type_, **options).to_wire()


def ask(
    name: str, type_: str = "A", zone: Zone = ZONE, *, udp: bool = True, **options: Any
) -> dns.message.Message:
    """The answer of *zone*, parsed; it must be one to that question."""
    asked = dns.message.make_query(name, type_, **options)
    made = answer(asked.to_wire(), zone, udp=udp)
    assert made is not None
    assert not isinstance(made, Forward), f"{name} was forwarded"
    said = dns.message.from_wire(made.wire if isinstance(made, Miss) else made)
    assert asked.is_response(said)
    return said


def texts(section: list[Any]) -> list[str]:
    """Records as ``owner ttl type data``."""
    return [
        f"{records.name} {records.ttl} {records.rdtype.name} {record}"
        for records in section
        for record in records
    ]
