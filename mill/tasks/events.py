"""The state changes of all tasks, for any number of subscribers, each at its own pace. The API subscribes; the daemon makes it.

Who keeps up is served from one tail in memory, who lags reads batches of the table: a slow subscriber costs one batch, holds
up nobody and only falls behind. Knows the journal, not the lifecycle: what is committed is told, by whomever it was written.
"""

from collections import deque
from collections.abc import Sequence

import attrs
import trio

from mill.config import EVENTS_BATCH, EVENTS_HEARTBEAT_S, EVENTS_TAIL_BYTES
from mill.tasks.filter import Filter
from mill.tasks.journal import Event, event_id, seq_of
from mill.tasks.ports import EventLog

TAIL_EVENTS = 500
"""Read at once to bring the tail up to date; who is further behind than that lags."""


@attrs.frozen
class Span:
    """What is kept of the events behind some number and up to `upto`."""

    events: Sequence[Event]
    upto: int


@attrs.frozen
class Batch:
    """What a subscriber is told next: events with their ids, or none as a sign of life. `id` resumes behind all of it.

    `missed` counts the changes right before or among them that are no longer kept.
    """

    id: str
    events: tuple[tuple[str, Event], ...] = ()
    missed: int = 0


@attrs.define(eq=False)
class Subscription:
    """One reader's place. `lost`: the id it came with says nothing here, so that it begins with the oldest that is kept."""

    _events: "Events"
    _wanted: Filter
    _at: int
    lost: bool = False
    _gap_is_known: bool = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._gap_is_known = self.lost

    @property
    def id(self) -> str:
        """Resumes here."""
        return event_id(self._events.epoch, self._at)

    async def next_batch(self) -> Batch:
        """As soon as there is something to tell; without events after a heartbeat's time."""
        with trio.move_on_after(EVENTS_HEARTBEAT_S):
            while True:
                span = await self._events.wait_behind(self._at)
                missed = 0 if self._gap_is_known else span.upto - self._at - len(span.events)
                self._at, self._gap_is_known = span.upto, False
                fitting = tuple(
                    (event_id(self._events.epoch, event.seq), event)
                    for event in span.events
                    if event.fits(self._wanted)
                )
                if fitting or missed:
                    return Batch(self.id, fitting, missed)
        return Batch(self.id)


class Events:
    """The journal, and its tail in memory: what came behind `_base`, up to `_newest`."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._tail: deque[Event] = deque()
        self._tail_bytes = 0
        self._base = self._newest = log.head
        self._one_refresh = trio.Lock()

    def __repr__(self) -> str:
        return f"<Events {self.epoch}: tail {self._base} to {self._newest} of {self._log.head}>"

    @property
    def epoch(self) -> str:
        return self._log.epoch

    def subscribe(self, after: str | None, wanted: Filter) -> Subscription:
        """From behind the event of that id, or from now on."""
        if after is None:
            return Subscription(self, wanted, self._log.head)
        seq = seq_of(after, self.epoch, self._log.head)
        return Subscription(self, wanted, seq or 0, lost=seq is None)

    async def wait_behind(self, at: int) -> Span:
        """Up to a batch of what there is behind *at*, as soon as there is anything."""
        await self._log.wait_event(at)
        if at >= self._base:
            await self._refresh()
        if at < self._base:
            upto = self._log.head
            events = await self._log.events(at, upto, EVENTS_BATCH)
            return Span(events, events[-1].seq if len(events) == EVENTS_BATCH else upto)
        behind: deque[Event] = deque()
        for event in reversed(self._tail):
            if event.seq <= at:
                break
            behind.appendleft(event)
        events = list(behind)[:EVENTS_BATCH]
        return Span(events, events[-1].seq if len(events) < len(behind) else self._newest)

    async def _refresh(self) -> None:
        """Bring the tail up to date; of many who were woken at once, one reads."""
        async with self._one_refresh:
            upto = self._log.head
            if upto - self._newest > TAIL_EVENTS:
                self._tail.clear()
                self._tail_bytes, self._base, self._newest = 0, upto - TAIL_EVENTS, upto - TAIL_EVENTS
            if upto > self._newest:
                events = await self._log.events(self._newest, upto, TAIL_EVENTS)
                self._newest = upto
                self._tail.extend(events)
                self._tail_bytes += sum(len(event.record) for event in events)
            while self._tail_bytes > EVENTS_TAIL_BYTES:
                gone = self._tail.popleft()
                self._tail_bytes -= len(gone.record)
                self._base = gone.seq
