"""A network of cores on one event heap: a clock that jumps, one generator for every lot, links that lose, delay and lie.

A node is anything with `receive(message, source, now)`, `tick(now)` (both give effects) and `next_deadline`. Effects with `to` and
`message` travel, as the objects they are: by datagram, or by stream if their class is called `SendStream`. All others go to
the `Observer`s. Nothing here knows what is sent, but for `size_of`, if bandwidth is asked for. The same seed gives the same
`trace`, in any process: no set is walked, nothing is hashed by Python.
"""

import gc
import hashlib
import heapq
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, Protocol

import attrs

from mill.cluster.values import Address
from mill.security.box import OVERHEAD_BYTES

DATAGRAM, STREAM = "datagram", "stream"
HEADER_BYTES = 28 + OVERHEAD_BYTES
"""IP and UDP, and what sealing adds; it names the speaker, whom the packet inside need not name again."""
STREAM_HEADER_BYTES = 2 * 52 + 29 + 16
"""On a connection that is open: IP and TCP of the data and of its acknowledgement, a TLS record, a length and such."""
SOCKET_PACKETS = 256
"""What waits for a node that is stopped, at most; the kernel drops the rest."""
STREAM_TIMEOUT_S = 10.0


class Core(Protocol):
    @property
    def next_deadline(self) -> float: ...
    def receive(self, message: Any, source: Address, now: float) -> list[Any]: ...
    def tick(self, now: float) -> list[Any]: ...


@attrs.define
class Link:
    """How packets fare from anybody to anybody, or from one to one. Delays in seconds."""

    loss: float = 0.0
    duplicates: float = 0.0
    delay_s: float = 0.0005
    jitter_s: float = 0.001
    """Added, on average; exponential, so that packets overtake each other."""


@attrs.define(eq=False)
class Host:
    """One place in the network and what runs there: no core means that it crashed or was not started."""

    address: Address
    core: Core | None = None
    wake: float = float("inf")
    paused: bool = False
    waiting: list[tuple[Any, Address]] = attrs.field(factory=list)
    sent_bytes: int = 0
    received_bytes: int = 0
    packets: int = 0


@contextmanager
def collector_off() -> Iterator[None]:
    """Of millions of values none is in a cycle, and looking for cycles again and again takes a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class Simulator:
    """Runs until told; between runs a test does to it what the world does."""

    def __init__(
        self,
        seed: int,
        link: Link | None = None,
        *,
        size_of: Callable[[Any], int] | None = None,
        trace: bool = False,
    ) -> None:
        self.rng = Random(seed)
        self.now = 0.0
        self.link = link or Link()
        self.links: dict[tuple[Address, Address], Link] = {}
        self.hosts: dict[Address, Host] = {}
        self.observers: list[Callable[[Host, Any, float], None]] = []
        self.events = 0
        self._size_of = size_of
        self._heap: list[tuple[float, int, Any, Any, Any]] = []
        self._made = 0
        self._groups: dict[Address, int] = {}
        self._cuts: set[tuple[Address, Address, str]] = set()
        self._trace = hashlib.blake2b() if trace else None

    # -- what a test does -------------------------------------------------------------------------------------------

    def start(self, address: Address, core: Core, effects: Iterable[Any] = ()) -> Host:
        """Let *core* run there; *effects* are what making it gave."""
        host = self.hosts.setdefault(address, Host(address))
        host.core, host.paused, host.wake = core, False, float("inf")
        self.carry_out(host, effects)
        return host

    def crash(self, address: Address) -> None:
        """At once, with all that waited to be read; its sockets refuse what still comes."""
        host = self.hosts[address]
        host.core, host.paused, host.wake = None, False, float("inf")
        host.waiting.clear()

    def pause(self, address: Address) -> None:
        """As SIGSTOP does: nothing runs there, what comes waits."""
        self.hosts[address].paused = True

    def resume(self, address: Address) -> None:
        """What waited is read first, as a busy node reads before it looks at the clock."""
        host = self.hosts[address]
        host.paused = False
        waiting, host.waiting = host.waiting, []
        for message, source in waiting:
            if host.core is not None:
                self.carry_out(host, host.core.receive(message, source, self.now))
        self.carry_out(host, ())

    def partition(self, *groups: Iterable[Address]) -> None:
        """Nothing passes between *groups*; whoever is in none is in one with the others of none."""
        self._groups = {address: number for number, group in enumerate(groups, 1) for address in group}

    def cut(self, source: Address, to: Address, *ways: str) -> None:
        """One way only: what *source* sends does not reach *to*."""
        self._cuts.update((source, to, way) for way in ways or (DATAGRAM, STREAM))

    def heal(self) -> None:
        self._groups, self._cuts = {}, set()

    def at(self, when: float, action: Callable[[], None]) -> None:
        self._push(when, None, action, None)

    def act(self, address: Address, do: Callable[[Any, float], list[Any]]) -> None:
        """Call the core at *address*, as its shell would: ``do(core, now)``."""
        host = self.hosts[address]
        assert host.core is not None
        self.carry_out(host, do(host.core, self.now))

    @property
    def trace(self) -> str:
        assert self._trace is not None
        return self._trace.hexdigest()[:32]

    # -- running ----------------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """Everything that happens in the next *seconds*."""
        self.run_until(None, within=seconds)

    def run_until(self, done: Callable[[], bool] | None, *, within: float) -> float | None:
        """Run until *done* (looked at after every event), and how long that took; None if it was not within so many seconds."""
        began, end, heap = self.now, self.now + within, self._heap
        with collector_off():
            while heap and heap[0][0] <= end:
                self.now, _, host, what, source = heapq.heappop(heap)
                self._happen(host, what, source)
                if done is not None and done():
                    return self.now - began
        self.now = end
        return None

    def _happen(self, host: Host | None, what: Any, source: Address | None) -> None:
        self.events += 1
        if host is None:
            what()
        elif source is None:  # its own deadline
            if host.wake == self.now and host.core is not None:
                host.wake = float("inf")
                if not host.paused:  # what is due again at this very moment is one more event
                    self.carry_out(host, host.core.tick(self.now))
        elif host.core is None:
            return
        elif host.paused:
            if len(host.waiting) < SOCKET_PACKETS:
                host.waiting.append((what, source))
        else:
            if self._size_of is not None:
                host.packets += 1
            self.carry_out(host, host.core.receive(what, source, self.now))

    def carry_out(self, host: Host, effects: Iterable[Any]) -> None:
        """As a shell does, and look when the core wants to be called again."""
        for effect in effects:
            to = getattr(effect, "to", None)
            if self._trace is not None:
                self._trace.update(f"{self.now!r} {host.address} {effect!r}\n".encode())
            if to is None:
                for observe in self.observers:
                    observe(host, effect, self.now)
            elif type(effect).__name__ == "SendStream":
                self._stream(host, to, effect.message)
            else:
                self._datagram(host, to, effect.message)
        if host.core is not None and not host.paused and host.core.next_deadline != host.wake:
            host.wake = max(self.now, host.core.next_deadline)
            self._push(host.wake, host, None, None)

    def _push(self, when: float, host: Host | None, what: Any, source: Address | None) -> None:
        self._made += 1
        heapq.heappush(self._heap, (when, self._made, host, what, source))

    # -- the network ------------------------------------------------------------------------------------------------

    def _blocked(self, source: Address, to: Address, way: str) -> bool:
        if self._groups and self._groups.get(source, 0) != self._groups.get(to, 0):
            return True
        return bool(self._cuts) and (source, to, way) in self._cuts

    def _datagram(self, host: Host, to: Address, message: Any) -> None:
        link = (self.links.get((host.address, to)) or self.link) if self.links else self.link
        target = self.hosts.get(to)
        if self._size_of is not None:
            host.sent_bytes += HEADER_BYTES + self._size_of(message)
        if target is None or ((self._groups or self._cuts) and self._blocked(host.address, to, DATAGRAM)):
            return
        random = self.rng.random
        if link.loss and random() < link.loss:
            return
        # uniform jitter costs a fifth of an exponential one; the square has its long tail
        jitter = random()
        self._push(
            self.now + link.delay_s + 3 * link.jitter_s * jitter * jitter, target, message, host.address
        )
        if link.duplicates and random() < link.duplicates:
            self._push(self.now + link.delay_s + 20 * link.jitter_s * random(), target, message, host.address)

    def _stream(self, host: Host, to: Address, message: Any) -> None:
        """On a connection made for it: a handshake, then the data, each sent again after ever longer pauses as TCP does."""
        link = self.links.get((host.address, to)) or self.link
        target = self.hosts.get(to)
        if self._size_of is not None:
            host.sent_bytes += STREAM_HEADER_BYTES + self._size_of(message)
        if (
            target is None
            or self._blocked(host.address, to, STREAM)
            or self._blocked(to, host.address, STREAM)
        ):
            return
        took = 4 * (link.delay_s + link.jitter_s)
        for pause_s, loss in ((1.0, 1 - (1 - link.loss) ** 2), (0.2, link.loss)):
            while self.rng.random() < loss and took < STREAM_TIMEOUT_S:
                took, pause_s = took + pause_s, 2 * pause_s  # noqa: PLW2901 -- TCP doubles it
        if took < STREAM_TIMEOUT_S:
            self._push(self.now + took, target, message, host.address)
