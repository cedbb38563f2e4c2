"""Published ports: a port of the host leads to one of a task. Called by `service`.

By a proxy in milld and not by rules of the kernel: it serves loopback and everybody else alike, and a port is taken from
the moment of the spawn on, so that a clash is the spawn's error. The price: the task sees the gateway as its client, and
while no milld runs the port does not answer. `relay` has the connections.
"""

import errno
import socket
from collections import Counter
from collections.abc import Sequence
from functools import partial
from ipaddress import IPv4Address

import attrs
import structlog
import trio

from mill.errors import Conflict, FieldError, MillError
from mill.model import Publish
from mill.network.relay import Limits, Room, Way, relay

BACKLOG = 128

log = structlog.get_logger()


@attrs.define(eq=False)
class _Published:
    ports: tuple[Publish, ...]
    sockets: list[socket.socket]
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    serving: bool = False

    def close(self) -> None:
        self.scope.cancel()
        if not self.serving:
            for each in self.sockets:
                each.close()


@attrs.define(eq=False)
class Ports:
    """The published ports of all tasks of the node."""

    _nursery: trio.Nursery
    _limits: Limits = attrs.field(factory=Limits.of_this_process)
    _tasks: dict[str, _Published] = attrs.field(factory=dict)
    room: Room = attrs.field(init=False)
    """The connections of all of them."""
    refused: Counter[str] = attrs.field(factory=Counter)
    """Connections, as of `relay.Way`."""

    def __attrs_post_init__(self) -> None:
        self.room = Room(self._limits.node)

    def reserve(self, task_id: str, ports: Sequence[Publish]) -> tuple[Publish, ...]:
        """*ports*, each with its port of the host, which is taken from now on; `Conflict` when one is in use."""
        sockets: list[socket.socket] = []
        try:
            for index, port in enumerate(ports):
                sockets.append(_listen(index, port))
        except BaseException:
            for each in sockets:
                each.close()
            raise
        return self._keep(task_id, ports, sockets)

    def adopt(self, task_id: str, ports: Sequence[Publish]) -> None:
        """Those of a task that is there already; what somebody else has taken meanwhile is told."""
        kept: list[tuple[Publish, socket.socket]] = []
        for index, port in enumerate(ports):
            try:
                kept.append((port, _listen(index, port)))
            except MillError as error:
                log.warning("a published port does not answer", task=task_id, why=str(error))
        self._keep(task_id, [port for port, _ in kept], [each for _, each in kept])

    def _keep(
        self, task_id: str, ports: Sequence[Publish], sockets: list[socket.socket]
    ) -> tuple[Publish, ...]:
        named = tuple(
            attrs.evolve(port, host=each.getsockname()[1]) for port, each in zip(ports, sockets, strict=True)
        )
        if named:
            self._tasks[task_id] = _Published(named, sockets)
        return named

    def rename(self, task_id: str, other: str) -> None:
        if (published := self._tasks.pop(task_id, None)) is not None:
            self._tasks[other] = published

    def serve(self, task_id: str, address: IPv4Address) -> None:
        """Whoever connects reaches the task, from now on."""
        published = self._tasks.get(task_id)
        if published is not None and not published.serving:
            published.serving = True
            self._nursery.start_soon(self._serve, task_id, published, address)

    async def _serve(self, task_id: str, published: _Published, address: IPv4Address) -> None:
        with published.scope:
            async with trio.open_nursery() as nursery:
                for port, each in zip(published.ports, published.sockets, strict=True):
                    listener = trio.SocketListener(trio.socket.from_stdlib_socket(_unblocked(each)))
                    room = Room(self._limits.port, f"{port.host} of {task_id}")
                    way = Way(
                        str(address), port.port, room, self.room, self.refused, self._limits.half_closed_s
                    )
                    nursery.start_soon(trio.serve_listeners, partial(relay, way), [listener])

    def release(self, task_id: str) -> None:
        published = self._tasks.pop(task_id, None)
        if published is not None:
            published.close()

    def close(self) -> None:
        for task_id in list(self._tasks):
            self.release(task_id)


def _listen(index: int, port: Publish) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("0.0.0.0", port.host or 0))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        field = f"publish[{index}].host"
        if error.errno == errno.EADDRINUSE:
            message = f"port {port.host} of this node is in use: choose another, or none for a free one"
            raise Conflict(f"{field}: {message}") from None
        raise FieldError(field, f"port {port.host} cannot be listened on: {error.strerror}") from None
    return listener


def _unblocked(sock: socket.socket) -> socket.socket:
    sock.setblocking(False)
    return sock
