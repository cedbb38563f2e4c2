"""``/v1/tasks``: spawn, list, get and wait, kill, stats."""

import base64
import binascii
import json
from contextlib import suppress

import attrs
import trio
from quart import Blueprint, Response, request

from mill.api.answers import json_answer, told
from mill.api.core import Core, Elsewhere, Fleet
from mill.api.filters import read_filter
from mill.api.forward import at_owner, elsewhere, forward
from mill.api.openapi.calls import CONDITIONS
from mill.api.request import Query, caller, json_body
from mill.api.scopes import needs
from mill.api.timing import untimed
from mill.checks import KEY_HEADER, MOST_GRACE_S, check_request_key, parse_signal
from mill.config import LONG_POLL_S, PAGE_LIMIT, PAGE_SIZE, SURE_S, TELL_RECORD_S
from mill.convert import to_json
from mill.errors import Conflict, FieldError, NotFound, Unavailable
from mill.model import Duration, Record, Scope, SpawnRequest, Status, Usage
from mill.tasks.filter import Page, Position
from mill.tasks.keyed import sign


def routes(core: Core) -> Blueprint:
    """The routes, over *core*."""
    found = Blueprint("tasks", __name__)
    _of_all(found, core)
    _of_one(found, core)
    return found


def _of_all(found: Blueprint, core: Core) -> None:
    @found.post("/v1/tasks/spawn")
    @needs(Scope.SPAWN)
    async def spawn() -> Response:
        Query().done()
        key = _key(request.headers.get(KEY_HEADER))
        wanted = await json_body(SpawnRequest)
        signed = None if key is None else sign(key, wanted)
        place = core.placement or core.tasks
        record = await place.spawn(wanted, core.templates.drafts(), signed)
        said = {"id": record.id, "address": record.address, "node": record.node, "status": record.status}
        if record.spec.publish:
            said["publish"] = to_json(record.spec.publish)
        answer = json_answer(await told(core, said, [record]), 201)
        answer.headers["Location"] = f"/v1/tasks/{record.id}"
        return answer

    @found.get("/v1/tasks")
    @needs(Scope.READ)
    async def listing() -> Response:
        query = Query()
        wanted = attrs.evolve(read_filter(query), node=query.text("node"))
        everything = query.flag("all")
        with_usage = query.flag("usage")
        limit = query.integer("limit", least=1, most=PAGE_LIMIT) or PAGE_SIZE
        after = _position(query.text("after"))
        query.done()
        if everything or any(Status(status).terminal for status in wanted.statuses):
            page = await core.tasks.page(wanted, after, limit)
        else:
            page = _cut(core.tasks.live(wanted), after, limit)
        used = await core.fleet.usage(page.records) if with_usage and core.fleet is not None else {}
        rows = [_row(record, used.get(record.id), with_usage=with_usage) for record in page.records]
        said = {"tasks": rows, "next": None if page.next is None else _next(page.next)}
        return json_answer(await told(core, said, page.records))


def _of_one(found: Blueprint, core: Core) -> None:
    @found.get("/v1/tasks/<task_id>")
    @needs(Scope.READ)
    async def get(task_id: str) -> Response:
        query = Query()
        condition, timeout_s = query.text("wait"), query.duration("timeout")
        query.done()
        if condition is not None:
            if condition not in CONDITIONS:
                raise FieldError("wait", f"{condition!r} is none of {', '.join(CONDITIONS)}")
            untimed()
        found = await elsewhere(core, task_id)
        if found is not None and found.record is not None and found.record.status.terminal:
            return await _record(core, found.record)  # what has come here otherwise may be older
        if found is not None and core.fleet is not None:
            return await _from_owner(core, core.fleet, found, condition, timeout_s)
        if condition is None:
            return await _record(core, await core.tasks.get(task_id))
        return await _waited(core, task_id, condition, _poll_s(timeout_s))

    @found.delete("/v1/tasks/<task_id>")
    @needs(Scope.SPAWN)
    @at_owner(core)
    async def kill(task_id: str) -> Response:
        query = Query()
        grace, signal = query.duration("grace", most=MOST_GRACE_S), _signal(query.text("signal"))
        query.done()
        patience = None if grace is None else Duration(grace)
        record = await core.tasks.kill(task_id, caller(), signal=signal, grace=patience)
        return await _record(core, record, 200 if record.status.terminal else 202)

    @found.get("/v1/tasks/<task_id>/stats")
    @needs(Scope.READ)
    @at_owner(core)
    async def stats(task_id: str) -> Response:
        Query().done()
        figures = core.tasks.stats(task_id)
        if figures is None:
            record = await core.tasks.get(task_id)
            raise Conflict(f"{task_id} is {record.status}: only a running task has figures")
        return json_answer(figures)


def _key(text: str | None) -> str | None:
    if text is not None:
        check_request_key(text)
    return text


async def _from_owner(
    core: Core, fleet: Fleet, found: Elsewhere, condition: str | None, timeout_s: float | None
) -> Response:
    """As its owner says; as it is known here, if that one does not answer: waiting for it to be held for lost is waiting, too."""
    record, began = found.record, trio.current_time()
    if record is None:
        return await forward(fleet, found.node)
    most_s = 0.0 if condition is None else _poll_s(timeout_s)
    if condition is not None or not found.doubted:
        with trio.move_on_after(most_s + TELL_RECORD_S), suppress(Unavailable):
            return await forward(fleet, found.node, wait_s=most_s, answer_s=TELL_RECORD_S)
    with suppress(NotFound):  # no word of it has come here but that one
        if condition is None:
            record = await core.tasks.get(record.id)
        else:
            left_s = max(0.0, began + most_s - trio.current_time())
            record = await core.tasks.wait(record.id, condition, left_s)
    if record.status.terminal:
        return await _record(core, record)
    return json_answer({**to_json(record), "partial": True})


async def _waited(core: Core, task_id: str, condition: str, most_s: float) -> Response:
    """Who waits for an end waits for others to hear of it, too."""
    began = trio.current_time()
    record = await core.tasks.wait(task_id, condition, most_s)
    left_s = began + most_s - trio.current_time()
    return json_answer(await told(core, record, [record], max(SURE_S, left_s)))


async def _record(core: Core, record: Record, status: int = 200) -> Response:
    return json_answer(await told(core, record, [record]), status)


def _poll_s(timeout_s: float | None) -> float:
    return LONG_POLL_S if timeout_s is None else min(timeout_s, LONG_POLL_S)


def _cut(records: list[Record], after: Position | None, limit: int) -> Page:
    """The page after *after* of all *records*."""
    left = [r for r in records if after is None or (r.times.created, r.id) < after]
    last = left[limit - 1] if len(left) > limit else None
    return Page(left[:limit], None if last is None else (last.times.created, last.id))


def _row(record: Record, elsewhere: Usage | None, *, with_usage: bool) -> dict[str, object]:
    row: dict[str, object] = to_json(record)
    if not with_usage:
        row["usage"] = None
    elif elsewhere is not None:
        row["usage"] = to_json(elsewhere)
    return row


def _signal(text: str | None) -> int | None:
    if text is None:
        return None
    try:
        return parse_signal(text)
    except ValueError as error:
        raise FieldError("signal", str(error)) from None


def _next(last: Position) -> str:
    return base64.urlsafe_b64encode(json.dumps(last).encode()).decode().rstrip("=")


def _position(text: str | None) -> Position | None:
    if text is None:
        return None
    try:
        created, task_id = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        return float(created), str(task_id)
    except (ValueError, TypeError, OverflowError, RecursionError, binascii.Error):
        raise FieldError("after", "is not what an earlier page gave as next") from None
