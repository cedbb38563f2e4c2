"""A resolver for tests: answers from a table over UDP and TCP, in any mood, and remembers what it was asked. One thread.

Blocking on purpose, so that tests of the service and tests of whole nodes with `dig` share it.
"""

import selectors
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import attrs
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rrset

RECORDS = {
    ("www.example.com.", "A"): ("www.example.com. 60 IN A 203.0.113.7",),
    ("www.example.com.", "AAAA"): (),
    ("alias.example.com.", "A"): (
        "alias.example.com. 60 IN CNAME www.example.com.",
        "www.example.com. 30 IN A 203.0.113.7",
    ),
    ("big.example.com.", "TXT"): tuple(
        f'big.example.com. 60 IN TXT "{number:02}{"x" * 200}"' for number in range(20)
    ),
    ("brief.example.com.", "A"): ("brief.example.com. 1 IN A 203.0.113.8",),
    ("now.example.com.", "A"): ("now.example.com. 0 IN A 203.0.113.9",),
    ("9.113.0.203.in-addr.arpa.", "PTR"): ("9.113.0.203.in-addr.arpa. 60 IN PTR now.example.com.",),
}
SOA = "example.com. 600 IN SOA ns.example.com. hostmaster.example.com. 7 3600 600 86400 20"
PLAIN_BYTES = 512

Mood = Callable[[dns.message.Message, str], list[bytes]]
"""The datagrams (or frames) that a query gets; ``udp`` or ``tcp`` is how it came."""


def honest(query: dns.message.Message, transport: str) -> list[bytes]:
    """As it should be."""
    reply = respond(query)
    wire = reply.to_wire(max_size=65535)
    limit = max(PLAIN_BYTES, query.payload) if transport == "udp" else 65535
    return [wire] if len(wire) <= limit else [cut(query).to_wire()]


def respond(query: dns.message.Message) -> dns.message.Message:
    reply = dns.message.make_response(query, recursion_available=True, our_payload=1400)
    asked = query.question[0]
    found = RECORDS.get((str(asked.name).lower(), asked.rdtype.name))
    for line in found or ():
        owner, ttl, class_, type_, data = line.split(" ", 4)
        name = asked.name if owner == str(asked.name).lower() else dns.name.from_text(owner)
        reply.answer.append(dns.rrset.from_text(name, int(ttl), class_, type_, data))
    if not found:
        owner, ttl, class_, type_, data = SOA.split(" ", 4)
        reply.authority.append(dns.rrset.from_text(owner, int(ttl), class_, type_, data))
        known = any(name == str(asked.name).lower() for name, _ in RECORDS)
        reply.set_rcode(dns.rcode.NOERROR if known else dns.rcode.NXDOMAIN)
    return reply


def cut(query: dns.message.Message) -> dns.message.Message:
    reply = dns.message.make_response(query, recursion_available=True)
    reply.flags |= dns.flags.TC
    return reply


def silent(_query: dns.message.Message, _transport: str) -> list[bytes]:
    return []


def failing(query: dns.message.Message, _transport: str) -> list[bytes]:
    reply = dns.message.make_response(query)
    reply.set_rcode(dns.rcode.SERVFAIL)
    return [reply.to_wire()]


@attrs.define(eq=False)
class Resolver:
    """Listening on `address`; `asked` is (transport, name as written, type) of each query, in order."""

    mood: Mood = honest
    asked: list[tuple[str, str, str]] = attrs.field(factory=list)
    queries: list[dns.message.Message] = attrs.field(factory=list)
    peers: list[tuple[str, int]] = attrs.field(factory=list)
    address: tuple[str, int] = ("", 0)

    def said(self) -> str:
        return f"{self.address[0]}:{self.address[1]}"

    def answer(self, wire: bytes, transport: str, peer: tuple[str, int]) -> list[bytes]:
        query = dns.message.from_wire(wire)
        self.asked.append((transport, str(query.question[0].name), query.question[0].rdtype.name))
        self.queries.append(query)
        self.peers.append(peer)
        return self.mood(query, transport)


@contextmanager
def resolver(mood: Mood = honest, host: str = "127.0.0.1") -> Iterator[Resolver]:
    made = Resolver(mood)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
    ):
        tcp.bind((host, 0))
        tcp.listen()
        made.address = tcp.getsockname()
        udp.bind(made.address)
        stop, stopped = socket.socketpair()
        thread = threading.Thread(target=_serve, args=(made, udp, tcp, stopped))
        thread.start()
        try:
            yield made
        finally:
            stop.close()
            thread.join()
            stopped.close()


def _serve(made: Resolver, udp: socket.socket, tcp: socket.socket, stopped: socket.socket) -> None:
    with selectors.DefaultSelector() as selector:
        for sock in (udp, tcp, stopped):
            selector.register(sock, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is stopped:
                    return
                if key.fileobj is udp:
                    wire, peer = udp.recvfrom(65535)
                    for datagram in made.answer(wire, "udp", peer):
                        udp.sendto(datagram, peer)
                elif key.fileobj is tcp:
                    with suppress(OSError):
                        _serve_stream(made, tcp)


def _serve_stream(made: Resolver, tcp: socket.socket) -> None:
    """One query of one connection."""
    stream, peer = tcp.accept()
    with stream:
        stream.settimeout(2)
        file = stream.makefile("rb")
        (length,) = struct.unpack("!H", file.read(2))
        for wire in made.answer(file.read(length), "tcp", peer):
            stream.sendall(struct.pack("!H", len(wire)) + wire)
