"""Bodies that arrive at the pace at which they are read, and times in queries; without a server."""

import contextlib
import math
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from quart import request
from quart_trio import QuartTrio

from mill.api import app as app_module
from mill.api.request import BUFFER_BYTES, PacedBody, PacedConnection, PacedRequest, Query
from mill.errors import FieldError
from tests.api.conftest import problem
from tests.api.fakes import NOW, TOKEN, FakeNode

PIECE = bytes(64 * 1024)
SPARE_PIECES = 2
"""The piece that goes over the limit, and the one that was taken when there was just room."""


class Sender:
    """An ASGI `receive` that has always more, and counts what was taken."""

    def __init__(self) -> None:
        self.taken = 0

    async def receive(self) -> dict[str, Any]:
        await trio.lowlevel.checkpoint()
        self.taken += 1
        return {"type": "http.request", "body": PIECE, "more_body": True}


def reading(read: Callable[[], Any]) -> QuartTrio:
    app = QuartTrio("reading", static_folder=None)
    app.asgi_http_class = PacedConnection
    app.request_class = PacedRequest
    app.config["MAX_CONTENT_LENGTH"] = None
    app.config["RESPONSE_TIMEOUT"] = app.config["BODY_TIMEOUT"] = None
    app.post("/")(read)
    return app


SCOPE: Any = {
    "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http", "path": "/",
    "raw_path": b"/", "query_string": b"", "root_path": "", "headers": [(b"host", b"x")], "client": None, "server": None, "extensions": {},
}  # fmt: skip


async def ignore(_: Any) -> None:
    await trio.lowlevel.checkpoint()


async def test_a_body_is_taken_only_as_fast_as_it_is_read(autojump_clock: trio.testing.MockClock) -> None:
    del autojump_clock
    sender, ahead = Sender(), []

    async def read() -> str:
        for count in range(200):
            await trio.sleep(1)
            await anext(request.body)
            ahead.append(sender.taken * len(PIECE) - count)
        return "enough"

    read_app = reading(read)
    await read_app(SCOPE, sender.receive, ignore)  # type: ignore[arg-type]  # an ASGI application
    assert len(ahead) == 200
    # Each read takes all that is buffered, so that n reads never see more than n buffers and what was on its way.
    for count, taken in enumerate(ahead, 1):
        assert taken <= (count + 1) * (BUFFER_BYTES + SPARE_PIECES * len(PIECE))


async def test_what_nobody_reads_waits(autojump_clock: trio.testing.MockClock) -> None:
    del autojump_clock
    sender = Sender()

    async def read() -> str:
        await trio.sleep(10)
        assert sender.taken * len(PIECE) <= BUFFER_BYTES + SPARE_PIECES * len(PIECE)
        assert sender.taken > SPARE_PIECES
        return "not interested"

    sent: list[Any] = []

    async def send(message: Any) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(message)

    await reading(read)(SCOPE, sender.receive, send)  # type: ignore[arg-type]  # an ASGI application
    assert [message["status"] for message in sent if message["type"] == "http.response.start"] == [200]


async def test_an_answer_does_not_wait_behind_a_body_that_nobody_reads() -> None:
    """The server hands on the end of an answer through the queue that the body fills."""
    queue, full = trio.open_memory_channel[Any](10)

    async def read() -> str:
        while queue.statistics().current_buffer_used < 10:
            await trio.lowlevel.checkpoint()
        return "no"

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body" and not message["more_body"]:
            await queue.send({"type": "http.disconnect"})

    async with trio.open_nursery() as nursery:
        with trio.fail_after(5):

            async def fill() -> None:
                for _ in range(BUFFER_BYTES // len(PIECE) + 13):
                    await queue.send({"type": "http.request", "body": PIECE, "more_body": True})

            nursery.start_soon(fill)
            await reading(read)(SCOPE, full.receive, send)
        nursery.cancel_scope.cancel()


async def test_a_body_gives_all_and_ends() -> None:
    body = PacedBody(None, None)
    body.append(b"one")
    assert await anext(body) == b"one"
    body.append(b"two")
    body.append(b"")
    body.set_complete()
    assert [piece async for piece in body] == [b"two"]


async def test_a_dropped_body_keeps_nothing() -> None:
    body = PacedBody(None, None)
    body.append(PIECE * 100)
    body.drop()
    body.append(PIECE)
    await body.wait_room()
    body.set_complete()
    assert [piece async for piece in body] == []


# -- queries --------------------------------------------------------------------------------------------------------


async def asked(query: str, ask: Callable[[Query], object]) -> object:
    app = QuartTrio("asked", static_folder=None)
    async with app.test_request_context(f"/?{query}"):
        return ask(Query())


@pytest.mark.parametrize(("said", "moment"), [
    ("0", 0.0), ("1800000000.25", 1800000000.25), ("10m", NOW - 600), ("1d", NOW - 86400), ("2027-01-15T08:00:00Z", NOW),
    ("2027-01-15T08:00:00", NOW), ("2027-01-15T09:30:00%2B01:30", NOW), ("2027-01-15 08:00:00", NOW),
])  # fmt: skip
async def test_a_moment_is_told_in_three_ways(said: str, moment: float) -> None:
    assert await asked(f"since={said}", lambda query: query.moment("since", NOW)) == moment


@pytest.mark.parametrize("said", ["1", "true", "True", "yes", ""])
async def test_a_flag_may_be_bare(said: str) -> None:
    assert await asked(f"all={said}", lambda query: query.flag("all")) is True


ASKS: list[Callable[[Query], object]] = [
    lambda query: query.flag("x"),
    lambda query: query.integer("x", most=1000),
    lambda query: query.duration("x", most=60.0),
    lambda query: query.moment("x", NOW),
]


@given(st.text(max_size=30))
def test_whatever_a_query_says_is_a_value_or_a_bad_field(text: str) -> None:
    async def main() -> None:
        app = QuartTrio("asked", static_folder=None)
        for ask in ASKS:
            async with app.test_request_context("/?" + str(httpx.QueryParams({"x": text}))):
                with contextlib.suppress(FieldError):
                    value: Any = ask(Query())
                    assert math.isfinite(value)

    trio.run(main)


async def test_a_bug_in_the_auth_hook_is_no_open_door(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, fake: FakeNode
) -> None:
    def broken(_: object) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(app_module, "_caller", broken)
    answer = await api.post(
        "/v1/tasks/spawn", json={"image": "x"}, headers={"Authorization": f"Bearer {TOKEN}"}
    )
    assert problem(answer)[0] == 500
    assert fake.tasks.asked == []
