"""``/v1/tasks/{id}/logs`` and ``/v1/logs/{id}``: plain text, NDJSON or SSE, by the Accept header."""

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import get_args

from quart import Blueprint, Response, request

from mill.api.core import Core
from mill.api.forward import at_owner
from mill.api.request import Query
from mill.api.scopes import needs
from mill.errors import FieldError
from mill.logs.frames import MOST_LINES, Frames, LogChunk, LogRequest, PlainText
from mill.logs.index import Stream
from mill.model import Scope

TEXT, NDJSON, SSE = "text/plain", "application/x-ndjson", "text/event-stream"


def routes(core: Core) -> Blueprint:
    """The routes, over *core*."""
    found = Blueprint("logs", __name__)

    @found.get("/v1/tasks/<task_id>/logs")
    @found.get("/v1/logs/<task_id>")
    @needs(Scope.READ)
    @at_owner(core)
    async def logs(task_id: str) -> Response:
        kind = request.accept_mimetypes.best_match([TEXT, NDJSON, SSE], default=TEXT)
        wanted, timestamps = _wanted(core.now(), sse=kind == SSE)
        await core.tasks.get(task_id)
        chunks = core.logs.read(task_id, wanted)
        bodies = {
            TEXT: _as_text(chunks, timestamps=timestamps),
            NDJSON: _as_ndjson(chunks),
            SSE: _as_sse(chunks),
        }
        answer = Response(bodies[kind], content_type=f"{kind}; charset=utf-8")
        answer.timeout = None  # a follow may be silent for hours
        answer.headers["Cache-Control"] = "no-store"
        return answer

    return found


def _wanted(now: float, *, sse: bool) -> tuple[LogRequest, bool]:
    query = Query()
    stream = query.text("stream")
    if stream is not None and stream not in get_args(Stream):
        raise FieldError("stream", f"{stream!r} is neither stdout nor stderr")
    cursor = query.text("cursor")
    if sse and request.headers.get("Last-Event-ID"):
        cursor = request.headers["Last-Event-ID"]
    wanted = LogRequest(
        follow=query.flag("follow"),
        tail=query.integer("tail", most=MOST_LINES),
        since=query.moment("since", now),
        until=query.moment("until", now),
        stream=stream,  # type: ignore[arg-type]  # checked above
        cursor=cursor,
    )
    timestamps = query.flag("timestamps")
    query.done()
    return wanted, timestamps


async def _as_text(chunks: AsyncGenerator[LogChunk, None], *, timestamps: bool) -> AsyncIterator[bytes]:
    yield b""  # sends the headers at once
    plain = PlainText(timestamps=timestamps)
    async with aclosing(chunks):
        async for chunk in chunks:
            yield plain.receive(chunk)


async def _as_ndjson(chunks: AsyncGenerator[LogChunk, None]) -> AsyncIterator[bytes]:
    yield b""
    frames = Frames()
    async with aclosing(chunks):
        async for chunk in chunks:
            lines = [json.dumps(frame.as_object()) + "\n" for frame in frames.receive(chunk)]
            if lines:
                yield "".join(lines).encode()
    for frame in frames.finish():
        yield (json.dumps(frame.as_object()) + "\n").encode()


async def _as_sse(chunks: AsyncGenerator[LogChunk, None]) -> AsyncIterator[bytes]:
    yield b": the log of a task\n\n"
    frames = Frames()
    async with aclosing(chunks):
        async for chunk in chunks:
            events = [_event(frame.cursor, frame.as_object()) for frame in frames.receive(chunk)]
            if events:
                yield "".join(events).encode()
    for frame in frames.finish():
        yield _event(frame.cursor, frame.as_object()).encode()
    yield b"event: end\ndata: {}\n\n"


def _event(cursor: str, said: dict[str, object]) -> str:
    return f"id: {cursor}\nevent: log\ndata: {json.dumps(said)}\n\n"
