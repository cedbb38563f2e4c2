"""Following events under trio and asyncio: each change once over broken connections and restarts, gaps, beginning at once."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

import mill.client
from mill.client import Client, EventGap, EventStream, TaskEvent
from mill.model import Status
from tests.client.conftest import RunAsync
from tests.client.fake_api import Cut, FakeApi
from tests.client.test_follow import with_client

Body = Callable[[Client], Awaitable[Any]]


async def some(events: EventStream, count: int) -> list[TaskEvent]:
    """The next *count*, none of which may be a gap."""
    found = []
    for _ in range(count):
        event = await anext(events)
        assert isinstance(event, TaskEvent)
        found.append(event)
    return found


def add(api: FakeApi, count: int) -> None:
    for _ in range(count):
        api.do(lambda: api.add(start=False))


def test_what_happens_once_the_block_is_entered_comes(api: FakeApi, run_async: RunAsync) -> None:
    add(api, 2)

    async def body(client: Client) -> list[TaskEvent]:
        async with client.events() as events:
            task_id = (await client.spawn(image="app", args=["exit 3"])).id
            found = await some(events, 3)
            assert {event.task.id for event in found} == {task_id}
            return found

    found = run_async(with_client(api, body))
    assert [event.task.status for event in found] == [Status.STARTING, Status.RUNNING, Status.FAILED]
    assert [event.id for event in found] == ["e-3", "e-4", "e-5"]
    assert found[0].time == pytest.approx(1767323047.678)
    assert found[2].task.exit_code == 3


def test_filters_are_sent_as_the_api_names_them(api: FakeApi, run_async: RunAsync) -> None:
    async def body(client: Client) -> None:
        async with client.events(
            task="x-1", template="t", label=["a=b", "c=d"], status="failed", after="e-0"
        ):
            pass
        async with client.events(status=["failed", Status.STOPPED]):
            pass

    run_async(with_client(api, body))
    assert api.requests[-1].params == [("status", "failed"), ("status", "stopped")]


@pytest.mark.parametrize("cut", [Cut(0), Cut(1), Cut(3), Cut(3, half=True), Cut(3, clean=True)], ids=str)
def test_a_broken_stream_goes_on_without_loss_or_double(api: FakeApi, run_async: RunAsync, cut: Cut) -> None:
    api.cuts = [Cut(1), cut, Cut(2), Cut(1, half=True), Cut(4)]

    async def body(client: Client) -> list[TaskEvent]:
        async with client.events() as events:
            await anyio.to_thread.run_sync(add, api, 12)
            return await some(events, 12)

    assert [event.id for event in run_async(with_client(api, body))] == [f"e-{n}" for n in range(1, 13)]
    assert not api.cuts


def test_a_stream_outlives_a_restart_of_milld_and_what_happened_meanwhile_comes(
    api: FakeApi, run_async: RunAsync
) -> None:
    async def body(client: Client) -> list[TaskEvent]:
        async with client.events() as events:
            await anyio.to_thread.run_sync(add, api, 2)
            found = await some(events, 2)
            api.do(api.stop_listening)
            await anyio.to_thread.run_sync(add, api, 2)
            api.do(lambda: api.comes_back_after(0.3))
            return found + await some(events, 2)

    assert [event.id for event in run_async(with_client(api, body))] == ["e-1", "e-2", "e-3", "e-4"]


def test_a_break_before_anything_happened_loses_nothing(api: FakeApi, run_async: RunAsync) -> None:
    """The place is known from the stream's first words on."""

    async def body(client: Client) -> list[TaskEvent]:
        async with client.events() as events:
            api.do(api.stop_listening)
            await anyio.to_thread.run_sync(add, api, 1)
            api.do(lambda: api.comes_back_after(0.1))
            return await some(events, 1)

    assert [event.id for event in run_async(with_client(api, body))] == ["e-1"]


def test_a_gap_comes_in_place_of_what_is_gone(api: FakeApi, run_async: RunAsync) -> None:
    add(api, 2)

    async def body(client: Client) -> list[object]:
        async with client.events(after="old-7") as events:
            return [await anext(events) for _ in range(3)]

    gap, first, second = run_async(with_client(api, body))
    assert gap == EventGap(None, "who knows")
    assert (first.id, second.id) == ("e-1", "e-2")


def test_who_was_never_there_is_told_at_once(api: FakeApi, run_async: RunAsync) -> None:
    api.do(api.stop_listening)

    async def body(client: Client) -> None:
        with anyio.fail_after(5), pytest.raises(mill.client.ConnectionFailed):
            async with client.events():
                pass
        assert not client._streams

    run_async(with_client(api, body))


def test_patience_with_a_milld_that_stays_away_has_an_end(api: FakeApi, run_async: RunAsync) -> None:
    async def body(client: Client) -> None:
        async with client.events() as events:
            api.do(api.stop_listening)
            with pytest.raises(mill.client.ConnectionFailed, match="connection refused; is it running"):
                await anext(events)
            with pytest.raises(StopAsyncIteration):
                await anext(events)

    run_async(with_client(api, body, patience=0.4))


@pytest.mark.parametrize(
    "sent",
    [b"event: task\ndata: {}\n\n", b"event: task\ndata: [\n\n", b"event: gap\ndata: 1\n\n", b"\xff\n\n"],
)
def test_an_answer_that_is_none_of_ours_is_one_error(api: FakeApi, run_async: RunAsync, sent: bytes) -> None:
    api.answers["/v1/events"] = (200, sent)

    async def body(client: Client) -> None:
        with pytest.raises(mill.client.ProblemError, match="does it run another version of milld"):
            await anext(client.events())

    run_async(with_client(api, body))


@pytest.mark.filterwarnings("error")
def test_a_loop_that_is_left_early_keeps_nothing_open(api: FakeApi, run_async: RunAsync) -> None:
    add(api, 3)

    async def body(client: Client) -> None:
        async for _ in client.events(after="e-0"):
            break
        assert len(client._streams) == 1

    run_async(with_client(api, body))
