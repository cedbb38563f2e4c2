"""``/v1/events``: every change of a task's state as server-sent events, resumed by Last-Event-ID or `after`."""

import json
from collections.abc import AsyncIterator

import attrs
from quart import Blueprint, Response, request

from mill.api.core import Core, EventSubscription
from mill.api.filters import read_filter
from mill.api.request import Query
from mill.api.scopes import needs
from mill.model import Scope

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
        answer = Response(_as_sse(subscription), content_type="text/event-stream; charset=utf-8")
        answer.timeout = None
        answer.headers["Cache-Control"] = "no-store"
        return answer

    return found


async def _as_sse(subscription: EventSubscription) -> AsyncIterator[bytes]:
    gap = _gap(None, _LOST) if subscription.lost else ""
    yield f"{gap}: the changes of the tasks' states\nid: {subscription.id}\n\n".encode()
    while True:
        batch = await subscription.next_batch()
        said = [_gap(batch.missed, _MISSED)] if batch.missed else []
        said += [
            f'id: {key}\nevent: task\ndata: {{"time": "{event.at}", "task": {event.record}}}\n\n'
            for key, event in batch.events
        ]
        yield ("".join(said) + f": here\nid: {batch.id}\n\n").encode()


def _gap(missed: int | None, message: str) -> str:
    """Without an id: who is cut off right behind it is told again."""
    return f"event: gap\ndata: {json.dumps({'missed': missed, 'message': message})}\n\n"
