"""Events over HTTP: the format of server-sent events, ids that resume, gaps, filters, signs of life, readers that go away."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import trio

from mill.config import EVENTS_BATCH
from mill.convert import format_time, to_json
from mill.model import Record, Status
from mill.tasks import events as events_module
from tests.api.conftest import Served, problem, until
from tests.api.fakes import ENDED, RUNNING, TOKEN, FakeNode, record
from tests.tasks.fakes import EPOCH

Read = Callable[[int], Any]


@asynccontextmanager
async def subscribed(
    api: httpx.AsyncClient, params: dict[str, Any] | None = None, headers: dict[str, str] | None = None
) -> AsyncIterator[Read]:
    """An open stream, and how to read its next blocks."""
    async with api.stream("GET", "/v1/events", params=params, headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["cache-control"] == "no-store"
        chunks = answer.aiter_text()
        text = ""

        async def read(count: int) -> list[str]:
            nonlocal text
            with trio.fail_after(5):
                while text.count("\n\n") < count:
                    text += await anext(chunks)
            *blocks, text = text.split("\n\n", count)
            return blocks

        yield read


def block(seq: int, told: Record) -> str:
    said = {"time": format_time(EPOCH + seq), "task": to_json(told)}
    return f"id: e0-{seq}\nevent: task\ndata: {json.dumps(said)}"


async def test_a_change_is_an_event_with_its_id_its_time_and_the_record(
    api: httpx.AsyncClient, fake: FakeNode
) -> None:
    fake.journal.add(RUNNING)
    async with subscribed(api) as read:
        assert await read(1) == [": the changes of the tasks' states\nid: e0-1"]
        fake.journal.add(ENDED)
        assert await read(2) == [block(2, ENDED), ": here\nid: e0-2"]


async def test_who_has_the_headers_is_told_of_all_that_follows(
    api: httpx.AsyncClient, fake: FakeNode
) -> None:
    async with subscribed(api) as read:
        fake.journal.add(RUNNING)
        assert (await read(2))[1] == block(1, RUNNING)


@pytest.mark.parametrize(
    ("params", "headers"),
    [
        ({"after": "e0-1"}, {}),
        ({}, {"Last-Event-ID": "e0-1"}),
        ({"after": "e0-0"}, {"Last-Event-ID": "e0-1"}),  # as a browser that reconnects: the newer one
        ({"after": "e0-1"}, {"Last-Event-ID": ""}),
    ],
)
async def test_an_id_resumes_by_header_or_query(
    api: httpx.AsyncClient, fake: FakeNode, params: dict[str, Any], headers: dict[str, str]
) -> None:
    fake.journal.add(RUNNING, ENDED, RUNNING)
    async with subscribed(api, params, headers) as read:
        assert await read(3) == [
            ": the changes of the tasks' states\nid: e0-1", block(2, ENDED), block(3, RUNNING),
        ]  # fmt: skip


async def test_a_gap_comes_first_where_changes_are_gone(api: httpx.AsyncClient, fake: FakeNode) -> None:
    fake.journal.add(RUNNING, RUNNING, ENDED)
    fake.journal.forget(1, 2)
    async with subscribed(api, {"after": "e0-0"}) as read:
        _, gap, event, _ = await read(4)
    name, data = gap.split("\n")
    assert (name, json.loads(data.removeprefix("data: "))["missed"]) == ("event: gap", 2)
    assert event == block(3, ENDED)


@pytest.mark.parametrize("unknown", ["another-1", "e0-99", "what", "\u00e4"])
async def test_an_unknown_id_is_a_gap_and_then_all_that_is_kept(
    api: httpx.AsyncClient, fake: FakeNode, unknown: str
) -> None:
    fake.journal.add(RUNNING, ENDED)
    async with subscribed(api, {"after": unknown}) as read:
        gap, begin, first, second = await read(4)
    assert json.loads(gap.partition("data: ")[2])["missed"] is None
    assert begin.endswith("id: e0-0")
    assert [first, second] == [block(1, RUNNING), block(2, ENDED)]


async def test_filters_are_those_of_a_listing_and_task(api: httpx.AsyncClient, fake: FakeNode) -> None:
    web = record("web-0001", Status.STARTING, template="web")
    blue = record(
        "web-0002", Status.FAILED, spec=record("web-0002").spec.__class__("b", "web", labels={"a": "b"})
    )
    fake.journal.add(web, blue)
    for params, expected in (
        ({"task": "web-0002"}, block(2, blue)),
        ({"template": "web"}, block(1, web)),
        ({"label": ["a=b"]}, block(2, blue)),
        ({"status": "failed,stopped"}, block(2, blue)),
    ):
        async with subscribed(api, {**params, "after": "e0-0"}) as read:
            assert (await read(3))[1:] == [expected, ": here\nid: e0-2"], params


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"status": "dead"}, "status"),
        ({"label": "x"}, "label"),
        ({"node": "n"}, "node"),
        ({"task": ["a", "b"]}, "task"),
    ],
)
async def test_a_bad_filter_is_refused_by_name(
    api: httpx.AsyncClient, params: dict[str, Any], field: str
) -> None:
    answer = await api.get("/v1/events", params=params)
    assert problem(answer) == (400, "bad-field", field)


async def test_silence_is_broken_by_a_comment(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "EVENTS_HEARTBEAT_S", 0.02)
    async with subscribed(api) as read:
        assert (await read(3))[1:] == [": here\nid: e0-0"] * 2


async def test_a_reader_that_stops_reading_is_sent_no_more_than_it_takes(
    served: Served, fake: FakeNode
) -> None:
    """The table is not read on for one whose socket is full, and others are served meanwhile."""
    head = f"GET /v1/events?after=e0-0 HTTP/1.1\r\nHost: mill\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    big = record("big-0001", message="x" * 100_000)
    fake.journal.add(*[big] * 600)
    deaf = await served.connect(head.encode())
    async with deaf:
        reads = -1
        while reads != len(fake.journal.reads) or reads < 2:
            reads = len(fake.journal.reads)
            await trio.sleep(0.2)
        assert reads < 600 / EVENTS_BATCH
        other = await served.connect(head.replace("after=e0-0", "task=none").encode())
        async with other:
            assert (await other.receive_some()).startswith(b"HTTP/1.1 200")


async def test_a_reader_that_leaves_is_forgotten(
    served: Served, fake: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "EVENTS_HEARTBEAT_S", 0.01)
    head = f"GET /v1/events HTTP/1.1\r\nHost: mill\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    async with await served.connect(head.encode()) as stream:
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
        await until(lambda: fake.journal._news.statistics().tasks_waiting == 1)
    await until(lambda: fake.journal._news.statistics().tasks_waiting == 0)
