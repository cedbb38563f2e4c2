"""Logs over HTTP: three formats, resuming by cursor, and readers that go away."""

import base64
import json
from typing import Any

import httpx
import pytest
import trio
from structlog.testing import capture_logs

from mill.logs.frames import LogChunk, LogRequest
from tests.api.conftest import Served, problem
from tests.api.fakes import NOW, RUNNING, TOKEN, FakeNode

LOGS = "/v1/tasks/busy-0001/logs"
NDJSON = {"Accept": "application/x-ndjson"}
SSE = {"Accept": "text/event-stream"}
CHUNKS = [
    LogChunk("stdout", NOW, b"one\ntwo\n", "8-0"),
    LogChunk("stderr", NOW + 1, b"oh\n", "8-3"),
    LogChunk("stdout", NOW + 2, b"\xff\n", "10-3"),
    LogChunk("stdout", NOW + 3, b"", "110-3", dropped_bytes=100),
    LogChunk("stdout", NOW + 4, b"no end", "116-3"),
]


@pytest.fixture(autouse=True)
def _some_logs(fake: FakeNode) -> None:
    fake.tasks.add(RUNNING)
    fake.logs.chunks[:] = CHUNKS


@pytest.mark.parametrize(
    "accept", [None, "*/*", "text/plain", "text/*", "application/json", "garbage", "text/plain;q=x"]
)
@pytest.mark.parametrize("path", [LOGS, "/v1/logs/busy-0001"])
async def test_plain_text_is_what_the_task_wrote(
    api: httpx.AsyncClient, path: str, accept: str | None
) -> None:
    answer = await api.get(path, headers={} if accept is None else {"Accept": accept})
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.content == b"one\ntwo\noh\n\xff\n[100B of stdout were dropped here]\nno end"


async def test_timestamps_begin_each_line_of_plain_text(api: httpx.AsyncClient) -> None:
    lines = (await api.get(f"{LOGS}?timestamps=true")).content.splitlines()
    assert lines[:3] == [
        b"2027-01-15T08:00:00.000Z one",
        b"2027-01-15T08:00:00.000Z two",
        b"2027-01-15T08:00:01.000Z oh",
    ]


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


async def test_ndjson_is_one_object_a_line(api: httpx.AsyncClient) -> None:
    answer = await api.get(LOGS, headers=NDJSON)
    assert answer.headers["content-type"] == "application/x-ndjson; charset=utf-8"
    said = objects(answer.text)
    assert said[0] == {
        "stream": "stdout", "time": "2027-01-15T08:00:00.000Z", "text": "one\n", "cursor": "4-0",
    }  # fmt: skip
    assert [one.get("text") for one in said] == ["one\n", "two\n", "oh\n", None, "", "no end"]
    assert base64.b64decode(said[3]["base64"]) == b"\xff\n"
    assert said[4]["dropped_bytes"] == 100
    assert [one["cursor"] for one in said] == ["4-0", "8-0", "8-3", "10-3", "110-3", "116-3"]


async def test_half_a_character_at_the_end_is_not_lost(api: httpx.AsyncClient, fake: FakeNode) -> None:
    fake.logs.chunks[:] = [LogChunk("stdout", NOW, "é".encode()[:1], "1-0")]
    for accept in (NDJSON, SSE):
        answer = await api.get(LOGS, headers=accept)
        assert base64.b64encode(b"\xc3").decode() in answer.text


async def test_sse_carries_cursors_as_ids_and_says_when_it_is_over(api: httpx.AsyncClient) -> None:
    answer = await api.get(LOGS, headers=SSE)
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    blocks = [block.splitlines() for block in answer.text.split("\n\n") if block]
    assert blocks[0][0].startswith(":")
    assert blocks[1][:2] == ["id: 4-0", "event: log"]
    assert json.loads(blocks[1][2].removeprefix("data: "))["text"] == "one\n"
    assert blocks[-1] == ["event: end", "data: {}"]
    assert [block[0] for block in blocks[1:-1]] == [
        f"id: {c}" for c in ("4-0", "8-0", "8-3", "10-3", "110-3", "116-3")
    ]


async def test_a_carriage_return_in_a_line_breaks_no_event(api: httpx.AsyncClient, fake: FakeNode) -> None:
    fake.logs.chunks[:] = [LogChunk("stdout", NOW, b"a\rb\r\n\n\ndata: x\n", "15-0")]
    answer = await api.get(LOGS, headers=SSE)
    data = [line for line in answer.text.splitlines() if line.startswith("data: ")]
    assert [json.loads(line[6:]).get("text") for line in data] == ["a\rb\r\n", "\n", "\n", "data: x\n", None]


@pytest.mark.parametrize(("query", "wanted"), [
    ("", LogRequest()),
    ("follow=true", LogRequest(follow=True)),
    ("follow", LogRequest(follow=True)),
    ("follow=0&tail=0", LogRequest(tail=0)),
    ("tail=100&stream=stderr", LogRequest(tail=100, stream="stderr")),
    ("since=10m", LogRequest(since=NOW - 600)),
    ("since=2027-01-15T08:00:00Z&until=1800000000.5", LogRequest(since=NOW, until=NOW + 0.5)),
    ("since=2027-01-15T09:00:00%2B01:00", LogRequest(since=NOW)),
    ("until=2027-01-15", LogRequest(until=NOW - 8 * 3600)),
    ("cursor=4-0", LogRequest(cursor="4-0")),
])  # fmt: skip
async def test_what_is_asked_reaches_the_store(
    api: httpx.AsyncClient, fake: FakeNode, query: str, wanted: LogRequest
) -> None:
    fake.logs.end.set()
    assert (await api.get(f"{LOGS}?{query}")).status_code == 200
    assert fake.logs.asked == [wanted]


async def test_the_last_event_id_is_the_cursor_of_sse_alone(api: httpx.AsyncClient, fake: FakeNode) -> None:
    last = {"Last-Event-ID": "8-3"}
    await api.get(f"{LOGS}?cursor=4-0", headers=SSE | last)
    await api.get(f"{LOGS}?cursor=4-0", headers=NDJSON | last)
    await api.get(f"{LOGS}?cursor=4-0", headers=SSE)
    assert [asked.cursor for asked in fake.logs.asked] == ["8-3", "4-0", "4-0"]


@pytest.mark.parametrize(("query", "field"), [
    ("follow=perhaps", "follow"), ("tail=-1", "tail"), ("tail=x", "tail"), ("tail=" + "9" * 5000, "tail"), ("tail=1e3", "tail"),
    ("stream=both", "stream"), ("stream=", "stream"), ("cursor=x", "cursor"), ("cursor=1", "cursor"), ("cursor=-1-0", "cursor"),
    ("since=yesterday", "since"), ("since=nan", "since"), ("until=inf", "until"), ("until=", "until"),
    ("since=2027-13-01", "since"), ("lines=5", "lines"), ("timestamps=2", "timestamps"), ("tail=1&tail=2", "tail"),
])  # fmt: skip
@pytest.mark.parametrize("accept", [SSE, NDJSON, {}], ids=["sse", "ndjson", "text"])
async def test_a_bad_query_is_named(
    api: httpx.AsyncClient, fake: FakeNode, query: str, field: str, accept: dict[str, str]
) -> None:
    assert problem(await api.get(f"{LOGS}?{query}", headers=accept)) == (400, "bad-field", field)
    assert fake.logs.asked == []


async def test_a_bad_last_event_id_is_a_bad_cursor(api: httpx.AsyncClient, fake: FakeNode) -> None:
    assert problem(await api.get(LOGS, headers=SSE | {"Last-Event-ID": "x"})) == (400, "bad-field", "cursor")
    assert fake.logs.asked == []


async def test_an_unknown_task_is_404_before_any_reading(api: httpx.AsyncClient, fake: FakeNode) -> None:
    assert problem(await api.get("/v1/tasks/nope/logs")) == (404, "not-found", None)
    assert problem(await api.get("/v1/logs/nope")) == (404, "not-found", None)
    assert fake.logs.asked == []


@pytest.mark.parametrize("accept", ["text/plain", "application/x-ndjson", "text/event-stream"])
async def test_a_follower_of_a_silent_task_gets_its_headers_at_once(
    api: httpx.AsyncClient, fake: FakeNode, accept: str
) -> None:
    fake.logs.chunks.clear()
    with trio.fail_after(5):
        async with api.stream("GET", f"{LOGS}?follow=true", headers={"Accept": accept}) as answer:
            assert answer.status_code == 200
            fake.logs.end.set()
            await answer.aread()


@pytest.mark.parametrize("accept", ["text/plain", "application/x-ndjson", "text/event-stream"])
async def test_a_follower_that_goes_away_ends_its_reading(
    served: Served, fake: FakeNode, accept: str
) -> None:
    head = f"GET {LOGS}?follow=true HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nAccept: {accept}\r\n\r\n"
    stream = await served.connect(head.encode())
    answer = b""
    while b"no end" not in answer:
        answer += await stream.receive_some()
    assert fake.logs.open == 1
    await stream.aclose()
    with trio.fail_after(5):
        await fake.logs.closed.wait()
    assert fake.logs.open == 0


async def test_a_follower_gets_a_line_when_it_comes(api: httpx.AsyncClient, fake: FakeNode) -> None:
    async with api.stream("GET", f"{LOGS}?follow=true", headers=NDJSON) as answer:
        lines = answer.aiter_lines()
        for chunk in CHUNKS[:2]:
            for _ in chunk.data.splitlines():
                assert json.loads(await anext(lines))["stream"] == chunk.stream
        assert not fake.logs.closed.is_set()
        fake.logs.end.set()
        rest = [json.loads(line) async for line in lines]
    assert rest[-1]["text"] == "no end"


async def test_a_fault_in_the_middle_cuts_the_answer_and_is_logged(
    api: httpx.AsyncClient, fake: FakeNode
) -> None:
    """An answer that ended well would tell the reader that the log is complete."""
    fake.logs.fault = RuntimeError("disk on fire")
    with capture_logs() as logged:
        for accept in (NDJSON, SSE, {}):
            with pytest.raises(httpx.RemoteProtocolError):
                await api.get(LOGS, headers=accept)
    assert [entry["log_level"] for entry in logged] == ["error"] * 3
    assert "disk on fire" in str(logged[0]["exc_info"].exceptions)
    assert fake.logs.open == 0
    assert (await api.get("/v1/status")).status_code == 200
