"""``/v1/events``: every change of a task's state as server-sent events, resumed by Last-Event-ID or `after`."""

import json
from collections.abc import AsyncIterator, Collection

import attrs
from quart import Blueprint, Response, request

from mill.api.core import Core, EventSubscription
from mill.api.filters import read_filter
from mill.api.request import Query
from mill.api.scopes import needs
from mill.model import Scope
from mill.tasks.journal import Event

_LOST = "the id is not known here, or is of another database: what follows begins with the oldest change that is kept"
_MISSED = "changes that came before this are no longer kept; GET /v1/tasks says how the tasks are now"


def routes(core: Core) -> Blueprint:
    """The routes, over *core*."""
    found = Blueprint("events", __name__)

    @found.get("/v1/events")
    @needs(Scope.READ)
    async def events() -> Response:
        query = Query()
        wanted = attrs.evolve(read_filter(query), task=query.text("task"))
        after = query.text("after")
        query.done()
        # Taken up before the answer begins: who has its headers is told of everything that happens from then on.
        subscription = core.events.subscribe(request.headers.get("Last-Event-ID") or after or None, wanted)
        answer = Response(_as_sse(core, subscription), content_type="text/event-stream; charset=utf-8")
        answer.timeout = None
        answer.headers["Cache-Control"] = "no-store"
        return answer

    return found


async def _as_sse(core: Core, subscription: EventSubscription) -> AsyncIterator[bytes]:
    gap = _gap(None, _LOST) if subscription.lost else ""
    yield f"{gap}: the changes of the tasks' states\nid: {subscription.id}\n\n".encode()
    while True:
        batch = await subscription.next_batch()
        said = [_gap(batch.missed, _MISSED)] if batch.missed else []
        doubted = await _doubted(core, {event.task for _, event in batch.events})
        said += [_task(key, event, partial=event.task in doubted) for key, event in batch.events]
        yield ("".join(said) + f": here\nid: {batch.id}\n\n").encode()


async def _doubted(core: Core, tasks: Collection[str]) -> Collection[str]:
    """Those of *tasks* of which others may know better."""
    doubted = await core.ends.in_doubt(tasks) if core.ends is not None and tasks else ()
    return tasks if core.fleet is not None and core.fleet.partial else doubted


def _task(key: str, event: Event, *, partial: bool) -> str:
    more = ', "partial": true' if partial else ""
    return f'id: {key}\nevent: task\ndata: {{"time": "{event.at}", "task": {event.record}{more}}}\n\n'


def _gap(missed: int | None, message: str) -> str:
    """Without an id: who is cut off right behind it is told again."""
    return f"event: gap\ndata: {json.dumps({'missed': missed, 'message': message})}\n\n"
