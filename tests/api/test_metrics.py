"""``/v1/metrics`` over HTTP, and what is told of each request: by route, method and status, and how long it took."""

import httpx
import pytest
import trio
from structlog.testing import capture_logs

from mill.api.app import make_app
from mill.api.core import Answered
from mill.api.openapi import document
from mill.api.server import Load
from mill.model import Record
from tests.api.conftest import Served, problem, serve, until
from tests.api.fakes import RUNNING, TOKEN, FakeNode, FakeTasks

LONG_S = 0.3


def told(fake: FakeNode) -> list[tuple[str, str, int]]:
    return [(one.route, one.method, one.status) for one in fake.answered]


async def test_the_page_is_the_nodes_in_the_format_that_was_asked_for(api: httpx.AsyncClient) -> None:
    answer = await api.get("/v1/metrics", headers={"Accept": "application/openmetrics-text"})
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.text == "# application/openmetrics-text\n"


async def test_the_page_needs_a_token_and_takes_no_query(
    anyone: httpx.AsyncClient, api: httpx.AsyncClient
) -> None:
    assert problem(await anyone.get("/v1/metrics")) == (401, "unauthorized", None)
    assert problem(await api.get("/v1/metrics?name=x")) == (400, "bad-field", "name")


async def test_requests_are_told_by_the_route_as_the_document_writes_it(
    api: httpx.AsyncClient, fake: FakeNode
) -> None:
    fake.tasks.add(RUNNING)
    for path, calls in document("1")["paths"].items():
        for method in calls:
            query = {"nobody-asked": "1"} if path == "/v1/events" else {}  # refused: its answer would not end
            asked = path.replace("{id}", RUNNING.id)
            await api.request(method.upper(), asked, content=b"{}", params=query)
            assert told(fake)[-1][:2] == (path, method.upper())


async def test_refusals_are_told_too_and_strangers_cannot_make_up_routes_or_methods(
    api: httpx.AsyncClient, anyone: httpx.AsyncClient, fake: FakeNode
) -> None:
    await api.get("/v1/tasks/nope-1234")
    await anyone.get("/v1/tasks/nope-1234")
    await api.get("/v1/one")
    await api.request("BREW", "/v1/two")
    await api.post("/v1/status")
    fake.tasks.fault = ZeroDivisionError()
    with capture_logs():
        await api.get("/v1/tasks/nope-1234")
    assert told(fake) == [
        ("/v1/tasks/{id}", "GET", 404),
        ("/v1/tasks/{id}", "GET", 401),
        ("other", "GET", 404),
        ("other", "other", 404),
        ("other", "POST", 405),
        ("/v1/tasks/{id}", "GET", 500),
    ]


async def test_a_wait_for_a_task_is_told_without_its_length(
    api: httpx.AsyncClient, fake: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def wait(tasks: FakeTasks, task_id: str, *_: object) -> Record:
        await trio.sleep(LONG_S)
        return tasks.records[task_id]

    monkeypatch.setattr(FakeTasks, "wait", wait)
    fake.tasks.add(RUNNING)
    await api.get(f"/v1/tasks/{RUNNING.id}?wait=terminal")
    await api.get(f"/v1/tasks/{RUNNING.id}")
    assert fake.answered[0] == Answered("/v1/tasks/{id}", "GET", 200, None)
    seconds = fake.answered[1].seconds
    assert seconds is not None
    assert 0 < seconds < LONG_S


async def test_a_follow_is_told_when_its_answer_begins_and_counts_until_it_ends(
    fake: FakeNode, nursery: trio.Nursery
) -> None:
    load = Load()
    served: Served = await nursery.start(serve, make_app(fake.core), load)
    fake.tasks.add(RUNNING)
    request = f"GET /v1/tasks/{RUNNING.id}/logs?follow=1 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    stream = await served.connect(request.encode())
    assert b" 200 " in await stream.receive_some(4096)
    await until(lambda: fake.logs.open == 1)
    (answered,) = fake.answered
    assert (answered.route, answered.status) == ("/v1/tasks/{id}/logs", 200)
    assert answered.seconds is not None
    assert answered.seconds < 5
    idle = await served.connect()
    await until(lambda: load.connections == 2)
    assert load.requests == 1
    await idle.aclose()
    await until(lambda: load.connections == 1)
    await stream.aclose()
    await until(lambda: (load.connections, load.requests) == (0, 0))
    assert len(fake.answered) == 1
    nursery.cancel_scope.cancel()
