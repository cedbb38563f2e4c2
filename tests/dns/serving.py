"""The real service on loopback for one test, and clients of it that block as little as trio does. Called by the tests beside it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from random import Random
from socket import AF_INET, SOCK_DGRAM

import dns.message
import trio

from mill.dns import service
from mill.dns.forward import OnAsked, tell_nobody
from mill.dns.listener import bind
from mill.dns.message import Frames, frame
from mill.dns.names import Zone
from mill.dns.responder import Ask, ask_nobody
from mill.dns.service import Dns
from mill.dns.upstream import Address
from tests.dns.book import ZONE

WITHIN_S = 10.0
"""For what takes milliseconds on an idle machine."""


def sockets() -> set[str]:
    """Every socket that this process has open."""
    found = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            name = str(descriptor.readlink())
        except OSError:  # the listing's own
            continue
        if name.startswith("socket:"):
            found.add(name)
    return found


@asynccontextmanager
async def serving(
    *upstreams: Address,
    zone: Zone = ZONE,
    resolv_conf: Path = Path("/no/such/resolv.conf"),
    listen: str = "127.0.0.1:0",
    on_asked: OnAsked = tell_nobody,
    others: Ask = ask_nobody,
) -> AsyncIterator[Dns]:
    """The service until the block is left; then no socket of it may be open."""
    before = sockets()
    async with trio.open_nursery() as nursery:
        serve = partial(
            service.serve,
            zone,
            Random(7),
            listens=[bind(listen)],
            upstreams=upstreams,
            resolv_conf=resolv_conf,
            on_asked=on_asked,
            ask=others,
        )
        yield await nursery.start(serve)
        nursery.cancel_scope.cancel()
    assert sockets() <= before


async def by_udp(address: Address, *wires: bytes) -> list[bytes]:
    """The answers to *wires*, sent at once from one socket, in the order in which they came."""
    with trio.fail_after(WITHIN_S), trio.socket.socket(AF_INET, SOCK_DGRAM) as sock:
        await sock.connect(address)
        for wire in wires:
            await sock.send(wire)
        return [await sock.recv(65535) for _ in wires]


async def by_tcp(address: Address, *wires: bytes) -> list[bytes]:
    """The same over one connection."""
    with trio.fail_after(WITHIN_S):
        async with await trio.open_tcp_stream(*address) as stream:
            await stream.send_all(b"".join(map(frame, wires)))
            return await read_frames(stream, len(wires))


async def read_frames(stream: trio.SocketStream, count: int) -> list[bytes]:
    frames, found = Frames(), list[bytes]()
    while len(found) < count:
        data = await stream.receive_some()
        assert data, f"the connection ended after {len(found)} of {count} answers"
        found += frames.feed(bytes(data))
    return found


async def ask(
    address: Address, name: str, type_: str = "A", *, tcp: bool = False, **options: object
) -> dns.message.Message:
    """One question, and the answer to it."""
    query = dns.message.make_query(name, type_, **options)  # type: ignore[arg-type]  # dnspython's many options
    (wire,) = await (by_tcp if tcp else by_udp)(address, query.to_wire())
    said = dns.message.from_wire(wire)
    assert query.is_response(said)
    return said
