"""The engine in the world: its packets sealed on UDP and by stream, its clock, and its outcomes carried out in order.

One task gives the engine datagrams, one its ticks; whoever calls it, all outcomes go through one queue to one task, which
commits what is to be kept before anything that follows. The daemon serves it, with a disk, a way to send streams, and who is
to hear the rest. It knows no task, no HTTP and no file.

A disk that takes no more must not make the node mute: others would hold it for dead, and its tasks for lost. So what cannot be
kept is tried again while the node goes on; should it die meanwhile, it is one whose disk was rolled back, which all can bear.
"""

import errno
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from ipaddress import ip_address
from typing import Any, Protocol

import attrs
import structlog
import trio

from mill.cluster import entries, rows
from mill.cluster.claims import Persist
from mill.cluster.effects import Changed, PathChanged, Send, SendStream
from mill.cluster.engine import Engine, Tuning
from mill.cluster.entries import Entry
from mill.cluster.messages import Packet
from mill.cluster.outcomes import KeepEpoch, KeepLog, KeepSettings, Outcome, Ready
from mill.cluster.rows import Statement
from mill.cluster.values import Address, Choice, NodeId, Peer
from mill.cluster.wire import BadPacket, decode, encode
from mill.errors import MillError
from mill.security.box import MOST_BYTES, Opener, Refusal, Sealer, sender_of
from mill.security.keys import Keyring

STREAMS_AT_ONCE = 8
"""To one address; what comes while so many are under way waits..."""
STREAMS_WAITING = 64
"""... or is dropped, as a lost datagram is."""
STREAM_S = 5.0
"""For one packet by stream: who answers later answers nothing."""
RETRY_KEEP_S = 1.0
LAST_WORDS_S = 1.0
"""How long a node that goes stays to tell it."""
COLLECT_EVERY_S = 3600.0
RESOLVE_EVERY_S = 10.0
"""Between two looks at the names of seeds, while nobody was found."""

log = structlog.get_logger()

KEPT = (KeepEpoch, KeepLog, KeepSettings, Persist, Changed)


class Disk(Protocol):
    """As `store.Store`."""

    async def keep(self, statements: Sequence[Statement], *, synced: bool) -> None: ...

    async def rows(self, sql: str) -> list[Any]: ...


class Listener(Protocol):
    """Who hears what comes of the cluster."""

    def shown(self, changed: entries.Changed) -> list[Statement]:
        """What is to be written of a task of which something else is shown now, with what is kept of its owner's log."""

    def tell(self, outcome: Outcome) -> None:
        """What happened; of what is kept, once it is."""

    def refused(self, why: str, address: Address) -> None:
        """A stream to that address failed."""

    def turned_away(self, refusal: Refusal, sender: NodeId | None, address: Address) -> None:
        """A datagram from that address, which bears the name of *sender*, truly or not, was not opened."""


@attrs.frozen
class Setup:
    """What one node brings along. *stream* carries a packet to an address, and raises `MillError` where it could not."""

    id: NodeId
    name: str
    address: Address
    meta: dict[str, str]
    sealer: Sealer
    opener: Opener
    rng: Choice
    wall: Callable[[], float]
    stream: Callable[[Address, bytes], Awaitable[None]]
    tuning: Tuning = attrs.field(factory=Tuning)


class Socket(Protocol):
    """UDP, bound; as trio has it."""

    async def recvfrom(self, bufsize: int, /) -> tuple[bytes, Any]: ...

    async def sendto(self, data: bytes, address: Any, /) -> int: ...


class Gossip:
    """The handle. What changes something goes through `do`; reading goes straight to `engine`."""

    def __init__(self, setup: Setup, engine: Engine, disk: Disk, listener: Listener, sock: Socket) -> None:
        self.engine = engine
        self._setup = setup
        self._disk = disk
        self._listener = listener
        self._sock = sock
        self._wake = trio.CancelScope()
        self._queue: list[Outcome] = []
        self._more = trio.Event()
        self._progress = trio.Event()
        self._asked = self._done = 0
        self._ready = trio.Event()
        self._unkept: list[Statement] = []
        self._streams: dict[Address, int] = {}
        self.refusals: dict[Refusal, int] = dict.fromkeys(Refusal, 0)
        """Datagrams that were not opened, by why."""
        self.condemned: Mapping[NodeId, float] = {}
        """On whom there was a verdict when this process began, and since when (unix seconds)."""
        self._gone_at: float | None = None

    def __repr__(self) -> str:
        return f"<Gossip {self.engine!r}>"

    # -- the engine's calls -----------------------------------------------------------------------------------------

    def do(self, call: Callable[[float], list[Outcome]]) -> None:
        """Have the engine do something now; what comes of it is carried out in order."""
        self._put(call(trio.current_time()))

    def draft(self, task: str, phase: int, payload: bytes) -> Entry:
        return self.engine.draft(task, phase, payload)

    def publish(self, entry: Entry, *, told: bool = True) -> None:
        """At its commit, and in the order of the drafts. What is not *told* others find when they compare: for thousands at once."""
        self.do(lambda now: self.engine.publish(entry, now, told=told))

    def deliver(self, packet: Packet, source: Address) -> None:
        """A packet that came by stream, its speaker known for certain."""
        self.do(lambda now: self.engine.receive(packet, source, now))

    def use(self, ring: Keyring) -> None:
        """Speak, and understand, by *ring* from the next datagram on."""
        self._setup.opener.use(ring)
        self._setup.sealer.use(ring)

    async def wait_ready(self) -> None:
        """Until this node knows what others know of its own tasks; seconds, where nobody answers."""
        await self._ready.wait()

    async def settled(self) -> None:
        """Until all that was wanted so far is carried out: what was to be kept is kept."""
        until = self._asked
        while self._done < until:
            await self._progress.wait()

    def say_away(self, for_s: float) -> None:
        """Back within *for_s*; see `linger`."""
        self._gone_at = trio.current_time()
        self.do(lambda now: self.engine.say_away(now, for_s))

    def leave(self) -> None:
        """For good; see `linger`."""
        self._gone_at = trio.current_time()
        self.do(self.engine.leave)

    async def linger(self) -> None:
        """Stay until enough others must have heard that this node goes."""
        if self._gone_at is not None:
            with trio.CancelScope(shield=True):
                await trio.sleep_until(self._gone_at + LAST_WORDS_S)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _put(self, outcomes: Iterable[Outcome]) -> None:
        before = len(self._queue)
        self._queue += outcomes
        self._asked += len(self._queue) - before
        if self._queue:
            self._more.set()
        self._wake.deadline = self.engine.next_deadline

    async def tick(self) -> None:
        while True:
            with trio.CancelScope(deadline=self.engine.next_deadline) as self._wake:
                await trio.sleep_forever()
            self.do(lambda now: self.engine.tick(now, self._setup.wall()))

    async def hear(self) -> None:
        while True:
            try:
                datagram, source = await self._sock.recvfrom(MOST_BYTES + 1)
            except OSError as error:  # of an earlier send; or for want of memory
                log.debug("a datagram could not be received", why=error.strerror)
                await trio.lowlevel.checkpoint()
                continue
            self._hear(datagram, Address(source[0], source[1]))

    def _hear(self, datagram: bytes, source: Address) -> None:
        opened = self._setup.opener.open(datagram)
        if isinstance(opened, Refusal):
            self.refusals[opened] += 1
            sender = sender_of(datagram)
            self._listener.turned_away(opened, None if sender is None else NodeId(sender), source)
            return
        try:
            packet = decode(opened.payload, NodeId(opened.sender))
        except BadPacket as error:
            log.debug("a packet cannot be read", source=str(source), why=str(error))
            return
        if packet.speaker == opened.sender:
            self.deliver(packet, source)

    async def carry_out(self, nursery: trio.Nursery) -> None:
        """The outcomes, in their order, each batch as it has come together."""
        while True:
            with trio.move_on_after(RETRY_KEEP_S if self._unkept else float("inf")):
                await self._more.wait()
            self._more = trio.Event()
            batch, self._queue = self._queue, []
            kept: list[Outcome] = []
            for outcome in batch:
                if isinstance(outcome, (*KEPT, entries.Changed)):
                    kept.append(outcome)
                    continue
                await self._keep(kept)
                kept = []
                await self._act(outcome, nursery)
            await self._keep(kept)
            self._done += len(batch)
            self._progress.set()
            self._progress = trio.Event()

    async def _keep(self, outcomes: list[Outcome]) -> None:
        """All that stands together, in one commit; then it is told."""
        statements, wall = [*self._unkept], self._setup.wall()
        for outcome in outcomes:
            if isinstance(outcome, KEPT):
                statements += rows.statements(outcome, wall)
            elif isinstance(outcome, entries.Changed):
                statements += self._listener.shown(outcome)
        if statements:
            synced = any(isinstance(outcome, KeepEpoch | Persist | KeepSettings) for outcome in outcomes)
            await self._write(statements, synced=synced)
        for outcome in outcomes:
            self._listener.tell(outcome)

    async def _write(self, statements: list[Statement], *, synced: bool) -> None:
        try:
            await self._disk.keep(statements, synced=synced)
        except MillError as error:
            if not self._unkept:
                log.warning("cannot keep what other nodes say yet; trying on", why=str(error))
            self._unkept = statements
        else:
            self._unkept = []

    async def _act(self, outcome: Outcome, nursery: trio.Nursery) -> None:
        match outcome:
            case Send(to, message):
                await self._send(to, message)
            case SendStream(to, message):
                if self._streams.get(to, 0) < STREAMS_WAITING:
                    self._streams[to] = self._streams.get(to, 0) + 1
                    nursery.start_soon(self._stream, to, message)
            case PathChanged(node, datagrams, streams):
                log.warning("a way to a node changed", node=node[:8], datagrams=datagrams, streams=streams)
            case Ready():
                self._ready.set()
                self._listener.tell(outcome)
            case _:
                self._listener.tell(outcome)

    async def _send(self, to: Address, message: Packet) -> None:
        sealed = self._setup.sealer.seal(encode(message, names_speaker=False))
        try:
            await self._sock.sendto(sealed, tuple(to))
        except OSError as error:
            if error.errno not in _USUAL:
                log.debug("a datagram could not be sent", to=str(to), why=error.strerror)

    async def _stream(self, to: Address, message: Packet) -> None:
        try:
            with trio.move_on_after(STREAM_S):
                await self._setup.stream(to, encode(message))
        except MillError as error:
            self._listener.refused(str(error), to)
        finally:
            self._streams[to] -= 1
            if not self._streams[to]:
                del self._streams[to]

    async def collect(self) -> None:
        while True:
            await trio.sleep(COLLECT_EVERY_S)
            self.do(lambda now: self.engine.collect(self._setup.wall(), now))

    async def look_up(self, seeds: Collection[tuple[str, int]]) -> None:
        """Join by *seeds* that are names, once they have an address."""
        told: set[str] = set()
        while True:
            found = await _resolved(seeds, told)
            if found:
                self.do(partial(self.engine.start, found))
            if len(found) == len(seeds):
                return
            await trio.sleep(RESOLVE_EVERY_S)


_USUAL = {
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.EPERM,
    errno.ECONNREFUSED,
    errno.ENETDOWN,
    errno.ENOBUFS,
}
"""What a link that is cut says, or a firewall: as good as a datagram that is lost."""


async def _resolved(seeds: Collection[tuple[str, int]], told: set[str]) -> list[Address]:
    """Those that have an address now; of each that has none it is told once."""
    addresses = []
    for host, port in seeds:
        try:
            found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_DGRAM)
        except OSError as error:
            if host not in told:
                told.add(host)
                log.warning("a node to join by has no address yet; trying on", join=host, why=error.strerror)
        else:
            addresses.append(Address(str(found[0][4][0]), port))
    return addresses


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


async def serve(
    setup: Setup,
    seeds: Collection[tuple[str, int]],
    disk: Disk,
    listener_of: Callable[[Engine], Listener],
    sock: Socket,
    *,
    task_status: trio.TaskStatus[Gossip],
) -> None:
    """Be a member until cancelled. *listener_of* is given the engine when it knows all that the disk does."""
    tables = await _read(disk)
    epoch = tables.epoch + 1
    await disk.keep(rows.statements(KeepEpoch(epoch), setup.wall()), synced=True)
    now = trio.current_time()
    me = Peer(setup.id, epoch, setup.name, *setup.address)
    engine = Engine(
        me, setup.rng, setup.tuning, now=now, meta=setup.meta, kept=tables.kept(now, setup.wall())
    )
    gossip = Gossip(setup, engine, disk, listener_of(engine), sock)
    gossip.condemned = tables.condemned
    if engine.ready:
        gossip._ready.set()  # noqa: SLF001 -- its own module
    numbers = [Address(*seed) for seed in seeds if _is_address(seed[0])]
    gossip.do(lambda now: engine.start(numbers, now))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gossip.carry_out, nursery)
        nursery.start_soon(gossip.hear)
        nursery.start_soon(gossip.look_up, [seed for seed in seeds if not _is_address(seed[0])])
        nursery.start_soon(gossip.tick)
        nursery.start_soon(gossip.collect)
        task_status.started(gossip)


async def _read(disk: Disk) -> rows.Tables:
    return rows.Tables(
        *[await disk.rows(sql) for sql in (rows.LOGS, rows.ENTRIES, rows.SETTINGS, rows.MEMBERS, rows.FACTS)]
    )
