"""Reading requests: JSON bodies, queries, who asks; and bodies that arrive at the pace at which they are read.

Every fault is a `CallerError` before anything is touched. Used by the routes and by `app`.
"""

import json
import math
from collections.abc import AsyncGenerator
from typing import Any, TypeVar

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable
from quart import Request, g, request
from quart.typing import ResponseTypes
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers.request import TrioBody, TrioRequest

from mill.api.openapi.calls import FALSE, TRUE
from mill.config import API_BODY_BYTES
from mill.convert import from_json, parse_time
from mill.errors import CallerError, FieldError, TooLarge
from mill.model import Scope
from mill.units import format_duration, format_size, parse_duration

T = TypeVar("T")

BUFFER_BYTES = 1024 * 1024
"""Of one request's body, received and not yet read; beyond it the client is made to wait."""
BODY_DEADLINE_S = 60.0
"""For a JSON body to arrive whole."""

_MOST_DIGITS = 19


class PacedBody(TrioBody):
    """Quart's body without its flaw: it takes in whatever is sent, however slowly it is read."""

    def __init__(self, expected_content_length: int | None, max_content_length: int | None) -> None:
        super().__init__(expected_content_length, max_content_length)
        self._taken = trio.Event()
        self._unwanted = False

    def append(self, data: bytes) -> None:
        if not self._unwanted:
            super().append(data)

    def drop(self) -> None:
        """Nobody reads it any more: what is there goes, and what comes too."""
        self._unwanted = True
        self._data.clear()
        self._taken.set()

    async def __anext__(self) -> bytes:
        data = await super().__anext__()
        self._taken.set()
        return data

    async def wait_room(self) -> None:
        while len(self._data) > BUFFER_BYTES and not self._unwanted:
            self._taken = trio.Event()
            await self._taken.wait()


class PacedRequest(TrioRequest):
    body_class = PacedBody
    body: PacedBody


class PacedConnection(TrioASGIHTTPConnection):
    """Takes the next piece of a body only when there is room for it, so that TCP slows the sender down.

    Until the answer begins: from then on the rest is dropped, else the end of the answer would wait behind it.
    """

    def _create_request_from_scope(self, send: ASGISendCallable) -> Request:
        self._request = super()._create_request_from_scope(send)
        return self._request

    async def _send_response(self, send: ASGISendCallable, response: ResponseTypes) -> None:
        self._request.body.drop()  # type: ignore[attr-defined]  # a PacedBody, as `app` says
        await super()._send_response(send, response)

    async def handle_messages(  # type: ignore[override]
        self, nursery: trio.Nursery, request: PacedRequest, receive: ASGIReceiveCallable
    ) -> None:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                nursery.cancel_scope.cancel()
                return
            if message["type"] == "http.request":
                request.body.append(message.get("body", b""))
                if not message.get("more_body", False):
                    request.body.set_complete()
                await request.body.wait_room()


def caller() -> str:
    """The name of the token's holder."""
    return str(g.caller)


def reach() -> Scope:
    """What that token lets its holder do."""
    scope: Scope = g.reach
    return scope


async def body_chunks(most_bytes: int) -> AsyncGenerator[bytes, None]:
    """The body as it arrives; `TooLarge` beyond *most_bytes*."""
    if (request.content_length or 0) > most_bytes:
        raise TooLarge(f"the body is larger than {format_size(most_bytes)}")
    received = 0
    async for chunk in request.body:
        received += len(chunk)
        if received > most_bytes:
            raise TooLarge(f"the body is larger than {format_size(most_bytes)}")
        yield chunk


async def json_body(kind: type[T]) -> T:
    """The body as a *kind*, strictly: unknown or mistyped fields are named."""
    return from_json(kind, await json_object(), strict=True)


async def json_object() -> Any:
    """The body's JSON."""
    data = bytearray()
    with trio.move_on_after(BODY_DEADLINE_S) as deadline:
        async for chunk in body_chunks(API_BODY_BYTES):
            data += chunk
    if deadline.cancelled_caught:
        raise CallerError(f"the body did not arrive within {BODY_DEADLINE_S:g} s")
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CallerError(f"the body is not JSON: {error}") from None


class Query:
    """The query string, read name by name; `done` refuses what nobody asked for."""

    def __init__(self) -> None:
        self._args = request.args
        self._known: set[str] = set()

    def text(self, name: str) -> str | None:
        self._known.add(name)
        values = self._args.getlist(name)
        if len(values) > 1:
            raise FieldError(name, "is given more than once")
        return values[0] if values else None

    def texts(self, name: str) -> tuple[str, ...]:
        self._known.add(name)
        return tuple(self._args.getlist(name))

    def flag(self, name: str) -> bool:
        value = self.text(name)
        if value is None or value in FALSE:
            return False
        if value not in TRUE:
            raise FieldError(name, f"{value!r} is neither true nor false")
        return True

    def integer(self, name: str, *, least: int = 0, most: int) -> int | None:
        value = self.text(name)
        if value is None:
            return None
        short = value.isascii() and value.isdigit() and len(value) <= _MOST_DIGITS
        if not short or not least <= int(value) <= most:
            raise FieldError(name, f"{value[:_MOST_DIGITS]!r} is not a whole number from {least} to {most}")
        return int(value)

    def duration(self, name: str, *, most: float = math.inf) -> float | None:
        value = self.text(name)
        seconds = None if value is None else self._parsed(name, parse_duration, value)
        if seconds is not None and seconds > most:
            raise FieldError(name, f"{value!r} is longer than {format_duration(most)}, the most there is")
        return seconds

    def moment(self, name: str, now: float) -> float | None:
        """Unix seconds from RFC 3339, from a number, or from a duration counted back from *now*."""
        value = self.text(name)
        if value is None:
            return None
        number = _number(value)
        if number is not None:
            return number
        try:
            return now - parse_duration(value)
        except ValueError:
            return self._parsed(name, parse_time, value)

    def done(self) -> None:
        for name in self._args:
            if name not in self._known:
                known = ", ".join(sorted(self._known)) or "none"
                raise FieldError(name, f"unknown query parameter; known are: {known}")

    def _parsed(self, name: str, parse: Any, value: str) -> float:
        try:
            return float(parse(value))
        except ValueError as error:
            raise FieldError(name, str(error)) from None


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
