"""Calls about a task of another node, or an image there: passed on to that node, and its answer streamed straight back.

Nothing of an answer is kept here: who follows a log elsewhere gets each piece as it comes, and who goes away ends the follow
there too. The owner's side is the same route, served to nodes alone (`peer`), which passes nothing on: no call goes round
in circles. Used by the routes.
"""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import wraps
from urllib.parse import quote
from uuid import UUID

from quart import Response, request

from mill.api import problems
from mill.api.core import Core, Elsewhere, Fleet, PeerAnswer
from mill.api.request import body_chunks, caller, reach
from mill.config import LONG_POLL_S
from mill.errors import MillError

CALLER, SCOPE = "Mill-Caller", "Mill-Scope"
"""Who asked, and what the token reaches: a node says so to a node. From anybody else they mean nothing."""
ANSWER_S = 10.0
"""For the head of an answer, beyond what the caller wishes to wait."""

_PASSED_ON = ("accept", "content-type", "last-event-id")
_PASSED_BACK = ("content-type", "retry-after", "cache-control", "allow")
TEXT, NDJSON, SSE = "text/plain", "application/x-ndjson", "text/event-stream"
_STREAMS = (TEXT, NDJSON, SSE)

NODE = "node"

View = Callable[[str], Awaitable[Response]]
AnyView = Callable[..., Awaitable[Response]]


def at_owner(core: Core) -> Callable[[View], View]:
    """Below `needs`: a task that another node owns is that node's to answer for."""

    def decorate(view: View) -> View:
        @wraps(view)
        async def routed(task_id: str) -> Response:
            found = await elsewhere(core, task_id)
            if found is None or core.fleet is None:
                return await view(task_id)
            return await forward(core.fleet, found.node)

        return routed

    return decorate


async def elsewhere(core: Core, task_id: str) -> Elsewhere | None:
    """Where the task is, unless this node answers for it, be it that nobody knows it."""
    return None if core.fleet is None else await core.fleet.elsewhere(task_id)


def at_node(core: Core, *, most_bytes: int = 0) -> Callable[[AnyView], AnyView]:
    """Below `needs`: ``?node=`` names the node that is meant; up to *most_bytes* of a body go along as they come."""

    def decorate(view: AnyView) -> AnyView:
        @wraps(view)
        async def routed(**path: str) -> Response:
            node = node_named(core, request.args.get(NODE))
            if node is None or core.fleet is None:
                return await view(**path)
            content = body_chunks(most_bytes) if most_bytes else b""
            return await forward(core.fleet, node, content=content, wait_s=None)

        return routed

    return decorate


def node_named(core: Core, name: str | None) -> str | None:
    """The id of another node; None for this one, which is also meant where none is named. As `NodeService.find`."""
    found = None if name is None else core.nodes.find(name)
    return None if found is None or found.me else UUID(found.id).hex


async def forward(
    fleet: Fleet,
    node: str,
    *,
    content: bytes | AsyncIterator[bytes] = b"",
    wait_s: float | None = LONG_POLL_S,
    answer_s: float = ANSWER_S,
) -> Response:
    """The request under way, asked of *node*. `Unavailable` in one line when no answer begins within *answer_s* beyond *wait_s*."""
    headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
    headers |= {CALLER: quote(caller(), safe=""), SCOPE: str(reach())}
    path = request.scope["raw_path"].decode("ascii") + (f"?{query}" if (query := _query()) else "")
    async with AsyncExitStack() as stack:
        timeout_s = None if wait_s is None else wait_s + answer_s
        asked = fleet.open(node, request.method, path, headers=headers, content=content, timeout_s=timeout_s)
        answer = await stack.enter_async_context(asked)
        kind = answer.headers.get("content-type", "").partition(";")[0]
        streams = kind in _STREAMS and "content-length" not in answer.headers
        body = Relayed(answer, kind, stack.pop_all()) if streams else await answer.read()
    made = Response(body, status=answer.status)
    for name in _PASSED_BACK:
        if name in answer.headers:
            made.headers[name] = answer.headers[name]
    made.timeout = None
    return made


def _query() -> str:
    """Without the node that is meant, which is who gets it."""
    parts = str(request.scope["query_string"].decode("ascii")).split("&")
    return "&".join(part for part in parts if part.partition("=")[0] != NODE)


class Relayed:
    """The body of a stream, as it comes; where it breaks off, one last line or event says why.

    Of lines and events only whole ones go out, so that what comes last stands by itself.
    """

    def __init__(self, answer: PeerAnswer, kind: str, stack: AsyncExitStack) -> None:
        self._chunks = answer.chunks()
        self._kind = kind
        self._stack = stack
        self._rest = b""
        self._over = False

    def __aiter__(self) -> "Relayed":
        return self

    async def __anext__(self) -> bytes:
        if self._over:
            raise StopAsyncIteration
        try:
            return self._whole(await anext(self._chunks))
        except StopAsyncIteration:
            self._over = True
            return self._rest
        except MillError as error:
            if self._kind == TEXT:
                raise  # the bytes of the task alone belong there: the connection is cut
            self._over = True
            said = json.dumps({"error": problems.problem(error)})
            return (f"{said}\n" if self._kind == NDJSON else f"event: error\ndata: {said}\n\n").encode()

    def _whole(self, chunk: bytes) -> bytes:
        if self._kind == TEXT:
            return chunk
        end = b"\n" if self._kind == NDJSON else b"\n\n"
        whole, found, self._rest = (self._rest + chunk).rpartition(end)
        return whole + found

    async def aclose(self) -> None:
        self._over = True
        await self._stack.aclose()
