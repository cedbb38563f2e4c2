"""Names that are not Mill's, asked of the host's resolvers: UDP first, TCP where an answer was cut off, the next upstream on silence.

A question that is already on its way is not sent again: whoever asks waits for the same answer, so that a burst costs upstream
one query, and a resolver that sends us our own questions back gets no second one. Used by `service`.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from pathlib import Path
from random import Random
from socket import AF_INET, AF_INET6, SOCK_DGRAM, SOCK_STREAM
from socket import socket as Socket  # noqa: N812 -- a class

import attrs
import structlog
import trio

from mill.dns import upstream
from mill.dns.cache import Cache, Key
from mill.dns.limits import CACHE_BYTES, FLIGHTS, PATIENCE_S, RESOLV_CONF_S, TRY_S
from mill.dns.message import MOST_BYTES, Frames, Question, frame
from mill.dns.upstream import PASSED_ON, Address, Reply, Sent

RESOLV_CONF = Path("/etc/resolv.conf")
_ROUNDS = 2
"""The second asks in lower case only: a few old resolvers do not repeat the case of the question."""
_CASE_BITS = 256
TIMEOUT, UNREACHABLE, REFUSED, NO_RESOLVER, BUSY = FAILURES = (
    "timeout",
    "unreachable",
    "refused",
    "no_resolver",
    "busy",
)
"""Why an upstream's answer is missing: its silence, nobody there, an rcode that answers nothing; or nobody could be asked, since
there is no resolver, or since as many questions as may be were on their way."""

OnAsked = Callable[[float], None]
"""Told of every question that upstreams were asked: the seconds until there was an answer, or patience had an end."""
_READ_BYTES = 16384

log = structlog.get_logger()


@attrs.define(eq=False)
class Upstreams:
    """The resolvers to ask, in order: as configured, or those of the host's resolv.conf, read again when it changes.

    *ours* are the addresses that we listen on: a resolver that is ourselves is left out.
    """

    _fixed: Sequence[Address]
    _resolv_conf: Path
    _ours: Callable[[], Sequence[Address]]
    _looked_at: float = -RESOLV_CONF_S
    _stamp: tuple[int, ...] = ()
    _named: Sequence[Address] = ()
    _judged: tuple[Sequence[Address], Sequence[Address]] | None = None
    _usable: Sequence[Address] = ()

    def usable(self) -> Sequence[Address]:
        """Instant but for a read of a small file after it has changed."""
        if not self._fixed and trio.current_time() - self._looked_at >= RESOLV_CONF_S:
            self._looked_at = trio.current_time()
            self._read()
        named, ours = self._fixed or self._named, self._ours()
        if self._judged != (named, ours):
            self._judged = (named, ours)
            self._usable = [address for address in named if not is_ours(address, ours)]
            if not self._usable:
                log.warning(
                    "no resolver to ask for names other than .mill; give one with --dns-upstream",
                    named=[f"{host}:{port}" for host, port in named],
                )
        return self._usable

    def _read(self) -> None:
        try:
            status = self._resolv_conf.stat()
            stamp = (status.st_mtime_ns, status.st_ino, status.st_size)
            if stamp != self._stamp:
                self._named = upstream.parse_resolv_conf(self._resolv_conf.read_text(errors="replace"))
                self._stamp = stamp
        except OSError:  # it is being replaced, or there is none: what was known still holds
            self._stamp = ()


def is_ours(address: Address, ours: Sequence[Address]) -> bool:
    """Whether a question to *address* would come back to us."""
    return upstream.is_one_of(address, ours, local=_is_local(address[0]))


def _is_local(host: str) -> bool:
    """Only an address of this host can be bound."""
    try:
        with Socket(_family(host), SOCK_DGRAM) as probe:
            probe.bind((host, 0))
    except OSError:
        return False
    return True


def _family(host: str) -> int:
    return AF_INET if ip_address(host).version == 4 else AF_INET6  # noqa: PLR2004 -- IPv4


def tell_nobody(seconds: float) -> None:
    """For a forwarder whose questions nobody times."""


@attrs.define(eq=False)
class _Flight:
    """A question on its way; `reply` is the best that came so far."""

    reply: Reply | None = None
    done: trio.Event = attrs.field(factory=trio.Event)


@attrs.define(eq=False)
class Forwarder:
    """Asks and remembers. *choice* makes ids and the case of letters, and must not be guessable."""

    _nursery: trio.Nursery
    _upstreams: Upstreams
    _choice: Random
    _on_asked: OnAsked = tell_nobody
    failures: Counter[str] = attrs.field(factory=Counter)
    """Of `FAILURES`: of each try at an upstream, and of each question that nobody was asked."""
    cache: Cache = attrs.field(factory=lambda: Cache(CACHE_BYTES))
    _flights: dict[Key, _Flight] = attrs.field(factory=dict)
    _known: Sequence[Address] = ()
    _good: Address | None = None

    def cached(self, question: Question, *, udp: bool) -> bytes | None:
        """The answer, if it is known, and known from upstreams that are still to be asked."""
        usable = self._upstreams.usable()
        if usable != self._known:
            self._known = usable
            self.cache.clear()
        return self.cache.get(question, trio.current_time(), udp=udp)

    async def resolve(self, question: Question) -> Reply | None:
        """The best that the upstreams say within `PATIENCE_S`; None if they say nothing."""
        flight = self._flights.get(question.key)
        if flight is None:
            why = BUSY if len(self._flights) >= FLIGHTS else None if self._upstreams.usable() else NO_RESOLVER
            if why is not None:
                self.failures[why] += 1
                return None
            flight = self._flights[question.key] = _Flight()
            self._nursery.start_soon(self._fly, question, flight)
        await flight.done.wait()
        return flight.reply

    async def _fly(self, question: Question, flight: _Flight) -> None:
        """Goes on when who asked first has left: others may wait, and the cache profits."""
        began = trio.current_time()
        try:
            with trio.move_on_after(PATIENCE_S) as patience:
                await self._ask_all(question, flight)
            if patience.cancelled_caught:
                self.failures[TIMEOUT] += 1
            self._on_asked(trio.current_time() - began)
        except Exception:  # the top of one question
            log.exception("internal error over an upstream's answer", query=question.wire.hex())
        else:
            if flight.reply is not None:
                self.cache.put(question, flight.reply, trio.current_time())
        finally:
            del self._flights[question.key]
            flight.done.set()

    async def _ask_all(self, question: Question, flight: _Flight) -> None:
        for number in range(_ROUNDS):
            addresses = sorted(self._upstreams.usable(), key=lambda address: address != self._good)
            for address in addresses:
                case = 0 if number else self._choice.getrandbits(_CASE_BITS)
                sent = upstream.ask(question, self._choice.getrandbits(16), case)
                reply = None
                with trio.move_on_after(min(TRY_S, PATIENCE_S / len(addresses))) as patience:
                    reply = await _ask(sent, address)
                flight.reply = reply or flight.reply
                if reply is not None and reply.rcode in PASSED_ON:
                    self._good = address
                    return
                late = TIMEOUT if patience.cancelled_caught else UNREACHABLE
                self.failures[late if reply is None else REFUSED] += 1
            if flight.reply is not None:  # all that answer refuse or fail: they would again
                return


async def _ask(sent: Sent, address: Address) -> Reply | None:
    """One try. An answer that is cut off counts only once TCP has brought the whole."""
    try:
        reply = await _ask_udp(sent, address)
        return await _ask_tcp(sent, address) if reply.truncated else reply
    except OSError:  # nobody listens there, or there is no way there
        return None


async def _ask_udp(sent: Sent, address: Address) -> Reply:
    """A socket of its own, connected: the kernel picks a random port and takes datagrams from nobody else."""
    with trio.socket.socket(_family(address[0]), SOCK_DGRAM) as sock:
        await sock.connect(address)
        await sock.send(sent.wire)
        while True:
            reply = upstream.judge(await sock.recv(MOST_BYTES), sent)
            if reply is not None:
                return reply


async def _ask_tcp(sent: Sent, address: Address) -> Reply | None:
    with trio.socket.socket(_family(address[0]), SOCK_STREAM) as sock:
        await sock.connect(address)
        stream, frames = trio.SocketStream(sock), Frames()
        try:
            await stream.send_all(frame(sent.wire))
            while data := await stream.receive_some(_READ_BYTES):
                for wire in frames.feed(data):
                    reply = upstream.judge(wire, sent)
                    return None if reply is None or reply.truncated else reply
        except trio.BrokenResourceError:
            return None
    return None
