"""Mill's DNS on its sockets: queries in, answers out. The daemon serves it, and gives it the names and the addresses.

Datagrams are answered in batches that leave the rest of milld its turns. What waits for others is limited in number, so
that no flood takes more than a fixed amount of memory.
"""

import errno
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from random import Random

import attrs
import trio

from mill.dns.answer import Miss
from mill.dns.forward import RESOLV_CONF, Forwarder, OnAsked, Upstreams, is_ours, tell_nobody
from mill.dns.limits import BATCH, CONNECTIONS
from mill.dns.listener import Listener, Sender, bind
from mill.dns.message import Question
from mill.dns.names import Zone
from mill.dns.responder import Ask, Responder, ask_nobody
from mill.dns.stream import BROKEN, serve_stream
from mill.dns.upstream import Address
from mill.errors import SetupError

ACCEPT_RETRY_S = 0.1
_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


@attrs.define(eq=False)
class Dns:
    """The running service."""

    _responder: Responder
    _forwarder: Forwarder
    _nursery: trio.Nursery
    _listeners: list[Listener]

    @property
    def addresses(self) -> Sequence[Address]:
        """Where it listens."""
        return [listener.address for listener in self._listeners]

    @property
    def counts(self) -> Counter[tuple[str, str]]:
        """As of `Responder`."""
        return self._responder.counts

    @property
    def failures(self) -> Counter[str]:
        """As of `Forwarder`."""
        return self._forwarder.failures

    async def listen(self, address: str) -> Address:
        """Answer on *address* (``IP:PORT``) too, for as long as the service lives; `SetupError` if that cannot be."""
        listener = bind(address)
        await self._nursery.start(self.serve_on, listener)
        return listener.address

    async def serve_on(self, listener: Listener, *, task_status: trio.TaskStatus[None]) -> None:
        """Answer on *listener* until cancelled, and close its sockets."""
        with listener:
            self._listeners.append(listener)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._serve_udp, listener)
                    nursery.start_soon(self._serve_tcp, listener)
                    task_status.started()
            finally:
                self._listeners.remove(listener)

    async def _serve_udp(self, listener: Listener) -> None:
        async with trio.open_nursery() as later:
            while True:
                await trio.lowlevel.wait_readable(listener.udp)
                for _ in range(BATCH):
                    try:
                        wire, sender = listener.receive()
                    except OSError:  # no more for now, or the kernel is out of memory
                        break
                    made = self._responder.answer_now(wire, udp=True)
                    if isinstance(made, bytes):
                        listener.send(made, sender)
                    elif made is not None:
                        later.start_soon(self._send_later, listener, made, sender)

    async def _send_later(self, listener: Listener, asked: Question | Miss, sender: Sender) -> None:
        listener.send(await self._responder.answer_later(asked, udp=True), sender)

    async def _serve_tcp(self, listener: Listener) -> None:
        accepting = trio.SocketListener(trio.socket.from_stdlib_socket(listener.tcp))
        room = trio.Semaphore(CONNECTIONS)
        async with trio.open_nursery() as connections:
            while True:
                await room.acquire()
                connections.start_soon(self._serve_stream, await _accept(accepting), room)

    async def _serve_stream(self, stream: trio.SocketStream, room: trio.Semaphore) -> None:
        try:
            await serve_stream(stream, self._responder)
        except* BROKEN:
            pass
        finally:
            room.release()


async def _accept(listener: trio.SocketListener) -> trio.SocketStream:
    """The next connection; out of descriptors or memory, wait until there are some again."""
    while True:
        try:
            return await listener.accept()
        except OSError as error:
            if error.errno not in _OUT_OF_RESOURCES:
                raise
            await trio.sleep(ACCEPT_RETRY_S)


async def serve(
    zone: Zone,
    choice: Random,
    *,
    listens: Sequence[Listener],
    upstreams: Sequence[Address] = (),
    resolv_conf: Path = RESOLV_CONF,
    on_asked: OnAsked = tell_nobody,
    ask: Ask = ask_nobody,
    task_status: trio.TaskStatus[Dns],
) -> None:
    """Answer on *listens*, which are closed at the end, until cancelled. Without *upstreams*, *resolv_conf* names them.

    *choice* is a generator that nobody can guess; *ask* knows of tasks that the zone does not. `SetupError` when an upstream is ourselves.
    """
    with ExitStack() as owned:
        for listener in listens:
            owned.enter_context(listener)
        _check_upstreams(upstreams, listens)
        listeners: list[Listener] = []
        ours = lambda: [listener.address for listener in listeners]  # noqa: E731
        async with trio.open_nursery() as nursery:
            forwarder = Forwarder(nursery, Upstreams(upstreams, resolv_conf, ours), choice, on_asked)
            dns = Dns(Responder(zone, forwarder, ask), forwarder, nursery, listeners)
            for listener in listens:
                await nursery.start(dns.serve_on, listener)
            task_status.started(dns)
            await trio.sleep_forever()


def _check_upstreams(upstreams: Sequence[Address], listens: Sequence[Listener]) -> None:
    for host, port in upstreams:
        if is_ours((host, port), [listener.address for listener in listens]):
            raise SetupError(
                f"--dns-upstream {host}:{port} is Mill's own DNS (--dns-listen): name another resolver"
            )
