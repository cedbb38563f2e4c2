"""Calls about a task of another node: passed on to the node that owns it, and its answer streamed straight back.

Nothing of an answer is kept here: who follows a log elsewhere gets each piece as it comes, and who goes away ends the follow
there too. The owner's side is the same route, served to nodes alone (`peer`), which passes nothing on: no call goes round
in circles. Used by the routes.
"""

import json
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import wraps
from urllib.parse import quote

from quart import Response, request

from mill.api import problems
from mill.api.core import Core, Elsewhere, Fleet, PeerAnswer
from mill.api.request import caller, reach
from mill.config import LONG_POLL_S
from mill.errors import MillError

CALLER, SCOPE = "Mill-Caller", "Mill-Scope"
"""Who asked, and what the token reaches: a node says so to a node. From anybody else they mean nothing."""
ANSWER_S = 10.0
"""For the head of an answer, beyond what the caller wishes to wait."""

_PASSED_ON = ("accept", "last-event-id")
_PASSED_BACK = ("content-type", "retry-after", "cache-control", "allow")
TEXT, NDJSON, SSE = "text/plain", "application/x-ndjson", "text/event-stream"
_STREAMS = (TEXT, NDJSON, SSE)

View = Callable[[str], Awaitable[Response]]


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


async def forward(fleet: Fleet, node: str, *, wait_s: float = LONG_POLL_S) -> Response:
    """The request under way, asked of *node*. `Unavailable` in one line when there is no answer."""
    headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
    headers |= {CALLER: quote(caller(), safe=""), SCOPE: str(reach())}
    path = request.scope["raw_path"].decode("ascii") + (f"?{query}" if (query := _query()) else "")
    async with AsyncExitStack() as stack:
        asked = fleet.open(node, request.method, path, headers=headers, timeout_s=wait_s + ANSWER_S)
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
    return str(request.scope["query_string"].decode("ascii"))


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
