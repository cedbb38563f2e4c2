"""The changes of tasks' states as an async iterator that outlives broken connections and restarts of milld. Called by `Client.events`.

It asks again from the last id it has seen, so that no change is lost or doubled.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import attrs

from mill.client import calls
from mill.client.connection import ByteStream, Connection, ConnectionBroke
from mill.client.patience import Patience
from mill.client.resuming import Resuming
from mill.client.sse import Block, SseDecoder
from mill.convert import format_time, from_json, parse_time, to_json
from mill.model import Record, Time

SSE = "text/event-stream"
HEARTBEATS_S = 45.0
"""milld says something at least every 15 s; after three times that nobody is there."""


@attrs.frozen
class TaskEvent:
    """A task's state has changed: its record as it was then, at the time from which it was true. `id` resumes behind it."""

    id: str
    time: Time
    task: Record
    partial: bool = False
    """Whether the node that tells it may be cut off, so that others know better."""


@attrs.frozen
class EventGap:
    """In place of changes that milld does not keep any more: so many, or None where it cannot tell. List the tasks anew."""

    missed: int | None
    message: str


Event = TaskEvent | EventGap


def params(
    *, task: str | None, template: str | None, label: Iterable[str], status: Iterable[str]
) -> tuple[tuple[str, str], ...]:
    """The filters as the API takes them."""
    said = [("status", str(one)) for one in status] + [("label", one) for one in label]
    said += [(key, value) for key, value in (("task", task), ("template", template)) if value is not None]
    return tuple(said)


def event_json(event: Event) -> dict[str, Any]:
    """As the API sends it, with its id."""
    if isinstance(event, EventGap):
        return {"gap": {"missed": event.missed, "message": event.message}}
    said = {"id": event.id, "time": format_time(event.time), "task": to_json(event.task)}
    return {**said, "partial": True} if event.partial else said


class EventStream(Resuming[Event]):
    """Changes in their order, for ever; an `EventGap` where some are gone.

    It begins when it is first read or, for those who then make things happen, when ``async with`` is entered.
    """

    def __init__(
        self,
        connection: Connection,
        filters: tuple[tuple[str, str], ...],
        after: str | None,
        patience: Patience,
        forget: Callable[[Resuming[Any]], None],
    ) -> None:
        super().__init__(connection, patience, forget)
        self._filters = filters
        self._seen = after
        self._decoder = SseDecoder()

    def __repr__(self) -> str:
        return f"<EventStream: {self._state()}, behind {self._seen}>"

    async def __aenter__(self) -> Self:
        try:
            while self._seen is None:
                await self._advance()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def _open(self) -> ByteStream:
        self._decoder = SseDecoder()
        said = self._filters if self._seen is None else (*self._filters, ("after", self._seen))
        return await self._connection.stream(calls.EVENTS_PATH, said, SSE, thinks_s=HEARTBEATS_S)

    def _decode(self, data: bytes) -> Sequence[Event]:
        found: list[Event] = []
        for block in self._decoder.feed(data):
            event = _event(block)
            if event is not None:
                found.append(event)
            self._seen = block.id or self._seen
        return found

    async def _ended(self) -> None:
        raise ConnectionBroke(f"milld at {self._connection.endpoint.url} ended the stream of events")


def _event(block: Block) -> Event | None:
    """None for what says only that milld is there, and for kinds of a newer Mill."""
    if block.name == "gap":
        said = json.loads(block.data)
        return EventGap(said["missed"], said["message"])
    if block.name == "task":
        said = json.loads(block.data)
        at, task = parse_time(said["time"]), from_json(Record, said["task"])
        return TaskEvent(block.id or "", at, task, said.get("partial") is True)
    return None
