"""The one thread of a node that moves bytes from the tasks' FIFOs into their segments, and indexes them.

A thread of its own, since a write to disk may wait (dirty pages, a slow disk) and trio's loop must not. `store` starts
it, hands it streams and asks it to bring them to an end; everything it has to say goes back by two callbacks that must
be safe to call from any thread. Idle, it sleeps in epoll without a timeout.

A FIFO is read level-triggered while somebody has it open for writing. Without any writer (the holder was killed and the
task not started yet) it would be "hung up" for ever: then it is watched edge-triggered until bytes come again. Hanging
up means the end only for a stream that was asked to reach its end.
"""

import fcntl
import os
import select
import sys
import termios
from collections import deque
from collections.abc import Callable
from enum import Enum

import attrs

from mill.logs.budget import Budget
from mill.logs.index import ENTRY_BYTES, Stream
from mill.logs.segments import SegmentWriter
from mill.units import KIB, MIB

ROUND_BYTES = 1 * MIB
"""The most taken from one stream before the others have their turn: what a full pipe holds."""
INDEX_INTERVAL_S = 0.005
"""Bytes that come closer together than this share an index entry, and reach a follower so much later at most."""
PACE_S = 0.001
"""Between two rounds that brought little: a task that writes byte by byte must not cost a round for each."""
PACE_BYTES = 16 * KIB
"""What counts as little: a quarter of the smallest pipe, so that no pipe runs full meanwhile."""
STALL_S = 1.0
"""Until a stream that could not be written (disk full) is tried again."""
ROOM_S = 0.25
"""The longest that a stream whose segment is full waits for the store to be back within its limit. Usual: 2 ms."""

Clock = Callable[[], float]


class Goal(Enum):
    """How far a stream is to be read before its owner hears of it."""

    EMPTY = "nothing more to read now"
    END = "no writer left, and nothing to read"


@attrs.define(eq=False)
class Source:
    """One stream under capture: its FIFO's reading end and where the bytes go."""

    task_id: str
    fifo: int
    writer: SegmentWriter
    on_news: Callable[[], None]
    twin: "Source | None" = None
    index_due: float | None = None
    indexed_at: float = 0.0
    stalled_until: float | None = None
    waits_for_room: bool = False
    parked: bool = False
    closed: bool = False

    @property
    def stream(self) -> Stream:
        return self.writer.stream


@attrs.define(eq=False)
class _Wish:
    source: Source
    goal: Goal
    deadline: float
    on_done: Callable[[], None]
    again: bool = False
    """The last look brought something: look again at once, for no event may come any more."""


class Capture:
    """`add` and `reach` may be called from any thread; the rest belongs to the thread that is in `run`."""

    def __init__(
        self,
        now: Clock,
        monotonic: Clock,
        on_fault: Callable[[Source, OSError | None], None],
        budget: Budget,
        on_over: Callable[[], None],
    ) -> None:
        self._now = now
        self._monotonic = monotonic
        self._on_fault = on_fault
        self._budget = budget
        self._on_over = on_over
        self._over_told = False
        self._epoll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._bell, select.EPOLLIN)
        self._commands_only = select.poll()
        self._commands_only.register(self._bell, select.POLLIN)
        self._commands: deque[Callable[[], None]] = deque()
        self._sources: dict[int, Source] = {}
        self._due: set[Source] = set()
        self._stalled: set[Source] = set()
        self._wishes: list[_Wish] = []
        self._round_end = 0.0
        self._stopping = False

    def add(self, source: Source) -> None:
        """Capture *source* from now on; its FIFO and files are this object's to close."""
        self._tell(lambda: self._start(source))

    def reach(self, source: Source, goal: Goal, deadline: float, on_done: Callable[[], None]) -> None:
        """Have *source* read as far as *goal*, or until *deadline* (monotonic); at END it is closed. Then *on_done*."""
        self._tell(lambda: self._wish(_Wish(source, goal, deadline, on_done)))

    def resume(self) -> None:
        """The store was brought back within its limit, as far as that goes: streams that waited for it go on."""
        self._tell(self._go_on)

    def stop(self) -> None:
        """End `run`: everything is indexed and closed; what the FIFOs still hold stays there."""
        self._tell(self._stop)

    def run(self) -> None:
        try:
            while not self._stopping:
                events = self._epoll.poll(self._wait_s())
                self._pace(events)
                moved = max((self._on_event(fd, mask) for fd, mask in events), default=0)
                self._tick()
                self._round_end = self._monotonic() if moved < PACE_BYTES else 0.0
        finally:
            self._close()

    def _tell(self, command: Callable[[], None]) -> None:
        self._commands.append(command)
        os.eventfd_write(self._bell, 1)

    def _start(self, source: Source) -> None:
        self._sources[source.fifo] = source
        self._epoll.register(source.fifo, select.EPOLLIN)

    def _wish(self, wish: _Wish) -> None:
        self._wishes.append(wish)

    def _go_on(self) -> None:
        self._over_told = (
            self._budget.over_bytes > 0
        )  # nothing more can go until a segment is full, or a task has ended
        for source in [source for source in self._stalled if source.waits_for_room]:
            self._let_go_on(source)

    def _stop(self) -> None:
        self._stopping = True

    def _wait_s(self) -> float | None:
        """Until something is due, or None: sleep until a FIFO or a command comes."""
        if any(wish.again for wish in self._wishes):
            return 0.0
        times = [source.index_due for source in self._due if source.index_due is not None]
        times += [source.stalled_until for source in self._stalled if source.stalled_until is not None]
        times += [wish.deadline for wish in self._wishes]
        return max(0.0, min(times) - self._monotonic()) if times else None

    def _pace(self, events: list[tuple[int, int]]) -> None:
        """Let more come together, unless the last round brought much or somebody waits for us."""
        asked = self._wishes or any(fd == self._bell for fd, _ in events)
        if not asked and self._monotonic() - self._round_end < PACE_S:
            self._commands_only.poll(PACE_S * 1000)

    def _on_event(self, fd: int, mask: int) -> int:
        """Bytes moved."""
        source = self._sources.get(fd)
        if source is None:
            if fd == self._bell:
                os.eventfd_read(fd)
                while self._commands:
                    self._commands.popleft()()
            return 0
        if source.stalled_until is not None:
            return 0
        if mask & select.EPOLLIN:
            self._watch(source, parked=False)
            return self._take(source) or 0
        self._watch(source, parked=True)
        return 0

    def _watch(self, source: Source, *, parked: bool) -> None:
        if source.parked != parked:
            source.parked = parked
            self._epoll.modify(source.fifo, select.EPOLLIN | (select.EPOLLET if parked else 0))

    def _take(self, source: Source) -> int | None:
        """As `SegmentWriter.take`; a fault counts as empty, and the stream is left alone for a while."""
        if source.stalled_until is not None:
            return None
        segments = source.writer.segments
        try:
            count = source.writer.take(source.fifo, ROUND_BYTES, self._now())
        except OSError as fault:
            self._stall(source, fault)
            return None
        if count:
            self._budget.taken_bytes += count
            self._budget.output_bytes += count
            self._mind_room(source, begun=source.writer.segments > segments)
            if source.twin is not None and source.twin.writer.unindexed:
                self._index(source.twin)
            self._index_soon(source)
        return count

    def _index_soon(self, source: Source) -> None:
        """Now, unless the last entry is too fresh."""
        due = source.indexed_at + INDEX_INTERVAL_S
        if self._monotonic() >= due:
            self._index(source)
        else:
            source.index_due = due
            self._due.add(source)

    def _index(self, source: Source) -> None:
        source.index_due = None
        self._due.discard(source)
        try:
            source.writer.index()
        except OSError as fault:
            self._stall(source, fault)
            return
        self._budget.taken_bytes += ENTRY_BYTES
        source.indexed_at = self._monotonic()
        source.on_news()

    def _mind_room(self, source: Source, *, begun: bool) -> None:
        """Over the limit the owner hears of it once; a stream that has *begun* a segment waits until the full one may go."""
        if self._budget.over_bytes <= 0:
            return
        if begun or not self._over_told:
            self._over_told = True
            self._on_over()
        if begun:
            self._park(source, ROOM_S)
            source.waits_for_room = True

    def _stall(self, source: Source, fault: OSError) -> None:
        """It cannot be written."""
        self._on_fault(source, fault)
        self._park(source, STALL_S)

    def _park(self, source: Source, wait_s: float) -> None:
        """Leave it alone for a while; its task waits at the full pipe, and the others go on."""
        source.stalled_until = self._monotonic() + wait_s
        source.index_due = None
        self._due.discard(source)
        self._stalled.add(source)
        source.parked = True
        self._epoll.modify(source.fifo, select.EPOLLET)  # asks for nothing; hanging up is told once

    def _tick(self) -> None:
        """Whatever is due."""
        now = self._monotonic()
        for source in [source for source in self._stalled if now >= (source.stalled_until or 0.0)]:
            self._let_go_on(source)
        for source in [source for source in self._due if now >= (source.index_due or 0.0)]:
            self._index(source)
        if self._wishes:
            self._wishes = [wish for wish in self._wishes if not self._granted(wish, now)]

    def _let_go_on(self, source: Source) -> None:
        self._stalled.discard(source)
        source.stalled_until = None
        source.waits_for_room = False
        self._take(source)
        if source.stalled_until is None:
            self._index(source)
        if source.stalled_until is None:
            self._watch(source, parked=False)
            self._on_fault(source, None)

    def _granted(self, wish: _Wish, now: float) -> bool:
        """Read on for it; whether it is reached, or its time is over."""
        source = wish.source
        count: int | None = 0
        if not source.closed:
            count = self._take(source)
            wish.again = bool(count)
            if now < wish.deadline and (
                count or source.stalled_until or (count is None and wish.goal is Goal.END)
            ):
                return False
            if wish.goal is Goal.END:
                self._take_rest(source, count)
                self._budget.lost_bytes += _held_by(source.fifo)
                self._finish(source)
            elif source.writer.unindexed:
                self._index(source)
        wish.on_done()
        return True

    def _take_rest(self, source: Source, count: int | None) -> None:
        """Its time is over while somebody still writes: at most what a pipe can hold, however small the bites."""
        left = ROUND_BYTES
        while count and left > 0:
            left -= count
            count = self._take(source)

    def _finish(self, source: Source) -> None:
        """Index and close one stream for good."""
        del self._sources[source.fifo]
        for waiting in (self._due, self._stalled):
            waiting.discard(source)
        self._epoll.unregister(source.fifo)
        os.close(source.fifo)
        source.closed = True
        if source.twin is not None:
            source.twin.twin = None
        try:
            source.writer.close()
        except OSError as fault:
            self._on_fault(source, fault)
        source.on_news()

    def _close(self) -> None:
        for source in list(self._sources.values()):
            self._finish(source)
        for wish in self._wishes:
            wish.on_done()
        self._epoll.close()
        os.close(self._bell)


def _held_by(fifo: int) -> int:
    """Bytes that are in the pipe."""
    answer = fcntl.ioctl(fifo, termios.FIONREAD, bytes(4))
    return int.from_bytes(answer, sys.byteorder)
