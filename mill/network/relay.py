"""The connections of published ports: each led to its task and back, as many as there is room for. Called by `publish`.

What one side does not take the other must wait for: a connection holds a chunk each way, and else nothing. Silence is no
reason to end one, for databases and terminals are silent for hours; the kernel notices who has vanished.
"""

import math
import resource
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import attrs
import structlog
import trio

from mill.config import (
    PUBLISH_HALF_CLOSED_S,
    PUBLISH_KEEPALIVE_S,
    PUBLISH_NODE_CONNECTIONS,
    PUBLISH_PORT_CONNECTIONS,
)

CONNECT_S = 10.0
"""For the task to accept; it is on this host."""
CHUNK_BYTES = 1 << 15
_KEEPALIVES = 3
_FILES_SHARE = 8
"""Of the files that milld may open, one in so many is a connection, which has two."""
REFUSED_BY = ("port", "node")
"""Whose limit it was."""
_RESET = struct.pack("=ii", 1, 0)
"""struct linger: to close means to reset, and leaves nothing behind (socket(7))."""

log = structlog.get_logger()


@attrs.frozen
class Limits:
    """As of the constants of `config`."""

    port: int = PUBLISH_PORT_CONNECTIONS
    node: int = PUBLISH_NODE_CONNECTIONS
    half_closed_s: float = PUBLISH_HALF_CLOSED_S

    @classmethod
    def of_this_process(cls) -> "Limits":
        """What there are enough descriptors for."""
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = PUBLISH_NODE_CONNECTIONS if files == resource.RLIM_INFINITY else files // _FILES_SHARE
        return cls(node=min(PUBLISH_NODE_CONNECTIONS, most))


@attrs.define(eq=False)
class Room:
    """For connections: how many there are, of how many there may be. *port* tells in the log whose it is."""

    most: int
    port: str = ""
    taken: int = 0
    _told: bool = False

    @property
    def full(self) -> bool:
        return self.taken >= self.most

    @contextmanager
    def place(self) -> Iterator[None]:
        self.taken += 1
        try:
            yield
        finally:
            self.taken -= 1

    def tell(self) -> None:
        """Once: who sends too many connections would fill the log as well."""
        if not self._told:
            self._told = True
            log.warning("connections are refused", port=self.port or "all that are published", most=self.most)


@attrs.frozen
class Way:
    """From a published port to its task: *address* and *port* of the latter, and the room there is."""

    address: str
    port: int
    own: Room
    node: Room
    refused: Counter[str]
    """By `REFUSED_BY`."""
    half_closed_s: float

    def refuses(self) -> bool:
        """Whether there is no room for one more; then that is counted."""
        for limit, room in zip(REFUSED_BY, (self.own, self.node), strict=True):
            if room.full:
                self.refused[limit] += 1
                room.tell()
                return True
        return False


async def relay(way: Way, client: trio.SocketStream) -> None:
    """One connection, to its end, which is nobody's fault; without room for it, a reset."""
    if way.refuses():
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        return
    try:
        with way.own.place(), way.node.place():
            with trio.fail_after(CONNECT_S):
                task = await trio.open_tcp_stream(way.address, way.port)
            async with task:
                await _both_ways(client, task, way.half_closed_s)
    except* (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
        pass


async def _both_ways(client: trio.SocketStream, task: trio.SocketStream, half_closed_s: float) -> None:
    for stream in (client, task):
        _watch(stream)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_copy, client, task, nursery.cancel_scope, half_closed_s)
        nursery.start_soon(_copy, task, client, nursery.cancel_scope, half_closed_s)


def _watch(stream: trio.SocketStream) -> None:
    """Have the kernel ask whether the other side is still there."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, PUBLISH_KEEPALIVE_S)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, PUBLISH_KEEPALIVE_S // _KEEPALIVES)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVES)


async def _copy(
    source: trio.SocketStream, sink: trio.SocketStream, both: trio.CancelScope, half_closed_s: float
) -> None:
    """All of *source*, and its end. Once one way has ended, *both* have a deadline, which whatever passes puts off."""
    while data := await source.receive_some(CHUNK_BYTES):
        await sink.send_all(data)
        if both.deadline < math.inf:
            both.deadline = trio.current_time() + half_closed_s
    await sink.send_eof()
    both.deadline = trio.current_time() + half_closed_s
