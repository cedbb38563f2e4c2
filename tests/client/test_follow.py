"""Following a log under trio and asyncio: live lines, broken connections, milld's restart, early leaving, cancellation."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

import mill.client
from mill.client import Client, LogLine
from tests.client.conftest import RunAsync
from tests.client.fake_api import TOKEN, Cut, FakeApi

Body = Callable[[Client], Awaitable[Any]]


def with_client(api: FakeApi, body: Body, **options: Any) -> Callable[[], Awaitable[Any]]:
    async def run() -> Any:
        async with Client(api.address, TOKEN, **options) as client:
            return await body(client)

    return run


def numbered(count: int) -> list[str]:
    return [f"out {number}" for number in range(count)]


def texts(lines: list[LogLine]) -> list[str]:
    return [line.data.decode().strip() for line in lines]


async def everything(client: Client, task_id: str, **options: Any) -> list[LogLine]:
    return [line async for line in client.logs(task_id, **options)]


def test_a_follow_brings_every_byte_and_ends_with_the_task(api: FakeApi, run_async: RunAsync) -> None:
    async def body(client: Client) -> list[LogLine]:
        spawned = await client.spawn(image="app", args=["out one", "err two", "out- part", "exit 3"])
        return await everything(client, spawned.id)

    lines = run_async(with_client(api, body))
    assert [(line.stream, line.data) for line in lines] == [
        ("stdout", b"one\n"), ("stderr", b"two\n"), ("stdout", b"part"),
    ]  # fmt: skip
    assert [line.cursor for line in lines] == ["c1", "c2", "c3"]
    assert lines[0].time == pytest.approx(1767323045.678)


def test_lines_come_while_the_task_runs(api: FakeApi, run_async: RunAsync) -> None:
    async def body(client: Client) -> None:
        task_id = (await client.spawn(image="app", args=["out ready", "hold", "out done"])).id
        async with client.logs(task_id) as log:
            assert (await anext(log)).data == b"ready\n"
            api.do(api.tasks[task_id].go_on.set)
            assert (await anext(log)).data == b"done\n"
            with pytest.raises(StopAsyncIteration):
                await anext(log)

    run_async(with_client(api, body))


@pytest.mark.parametrize(
    "cut", [Cut(3), Cut(0), Cut(3, half=True), Cut(3, clean=True), Cut(3, lost=True)], ids=str
)
def test_a_broken_follow_goes_on_without_loss_or_double(api: FakeApi, run_async: RunAsync, cut: Cut) -> None:
    api.cuts = [cut, Cut(2), Cut(1, half=True)]
    task_id = api.do(lambda: api.add(*numbered(9), "hold", *numbered(3)))

    async def body(client: Client) -> list[LogLine]:
        found = []
        async with client.logs(task_id) as log:
            async for line in log:
                found.append(line)
                if len(found) == 9:
                    api.do(api.tasks[task_id].go_on.set)
        return found

    lines = run_async(with_client(api, body))
    assert texts(lines) == [str(number) for number in (*range(9), *range(3))]
    assert not api.cuts


def test_a_follow_whose_node_stays_lost_fails_with_its_word(api: FakeApi, run_async: RunAsync) -> None:
    api.cuts = [Cut(2, lost=True), *(Cut(0, lost=True) for _ in range(100))]
    task_id = api.do(lambda: api.add(*numbered(9), "hold"))
    found: list[LogLine] = []

    async def body(client: Client) -> None:
        async with client.logs(task_id) as log:
            async for line in log:
                found.append(line)  # noqa: PERF401 -- what came before the end counts

    with pytest.raises(mill.client.Unavailable, match="node-9 is lost"):
        run_async(with_client(api, body, patience=0.5))
    assert texts(found) == ["0", "1"]


def test_a_follow_outlives_a_restart_of_milld(api: FakeApi, run_async: RunAsync) -> None:
    task_id = api.do(lambda: api.add(*numbered(5), "hold", *numbered(5)))

    async def body(client: Client) -> list[LogLine]:
        found = []
        async with client.logs(task_id) as log:
            async for line in log:
                found.append(line)
                if len(found) == 5:
                    api.do(api.stop_listening)
                    api.do(api.tasks[task_id].go_on.set)
                    api.do(lambda: api.comes_back_after(0.3))
        return found

    lines = run_async(with_client(api, body))
    assert [line.cursor for line in lines] == [f"c{number}" for number in range(1, 11)]


def test_a_follow_that_milld_ends_politely_at_its_shutdown_goes_on(api: FakeApi, run_async: RunAsync) -> None:
    """And when the task ends while milld is away, what it wrote meanwhile is fetched too."""
    task_id = api.do(lambda: api.add(*numbered(4), "hold", *numbered(4)))
    api.cuts = [Cut(4, clean=True)]

    async def body(client: Client) -> list[LogLine]:
        found = []
        async with client.logs(task_id) as log:
            for _ in range(4):
                found.append(await anext(log))  # noqa: PERF401 -- an async for would read on
            api.do(api.tasks[task_id].go_on.set)
            found += [line async for line in log]
        return found

    assert len(run_async(with_client(api, body))) == 8


def test_patience_with_a_milld_that_stays_away_has_an_end(api: FakeApi, run_async: RunAsync) -> None:
    task_id = api.do(lambda: api.add("out 1", "hold"))

    async def body(client: Client) -> None:
        async with client.logs(task_id) as log:
            await anext(log)
            api.do(api.stop_listening)
            with pytest.raises(mill.client.ConnectionFailed, match="connection refused; is it running"):
                await anext(log)
            with pytest.raises(StopAsyncIteration):
                await anext(log)

    run_async(with_client(api, body, patience=0.4))


def test_who_was_never_there_is_told_at_once(api: FakeApi, run_async: RunAsync) -> None:
    api.do(api.stop_listening)

    async def body(client: Client) -> None:
        with anyio.fail_after(5), pytest.raises(mill.client.ConnectionFailed):
            await anext(client.logs("x"))

    run_async(with_client(api, body))


def test_an_unknown_task_is_told(api: FakeApi, run_async: RunAsync) -> None:
    async def body(client: Client) -> None:
        with pytest.raises(mill.client.NotFound, match="no task nobody"):
            await anext(client.logs("nobody"))

    run_async(with_client(api, body))


def test_a_log_removed_right_after_the_end_is_no_error(api: FakeApi, run_async: RunAsync) -> None:
    task_id = api.do(lambda: api.add("out 1", "hold"))

    async def body(client: Client) -> list[LogLine]:
        log = client.logs(task_id)
        found = [await anext(log)]
        task = api.tasks.pop(task_id)
        api.do(task.go_on.set)
        return found + [line async for line in log]

    assert texts(run_async(with_client(api, body))) == ["1"]


def test_without_follow_it_is_what_is_there(api: FakeApi, run_async: RunAsync) -> None:
    task_id = api.do(lambda: api.add(*numbered(6), "err oops", "hold"))

    async def body(client: Client) -> None:
        await client.wait(task_id, "running")
        assert len(await everything(client, task_id, follow=False)) == 7
        assert texts(await everything(client, task_id, follow=False, tail=2)) == ["5", "oops"]
        assert texts(await everything(client, task_id, follow=False, stream="stderr")) == ["oops"]
        assert texts(await everything(client, task_id, follow=False, cursor="c5")) == ["5", "oops"]

    run_async(with_client(api, body))


def test_a_marker_without_data_is_shown_and_an_empty_object_only_moves_the_cursor(
    api: FakeApi, run_async: RunAsync
) -> None:
    task_id = api.do(lambda: api.add(start=False))
    task = api.tasks[task_id]

    def write() -> None:
        api.write(task, "stdout", b"")
        api.write(task, "stdout", b"", dropped=9)
        api.write(task, "stdout", b"\xff\n")

    api.do(write)

    async def body(client: Client) -> list[LogLine]:
        return await everything(client, task_id, follow=False)

    lines = run_async(with_client(api, body))
    assert [(line.data, line.dropped_bytes, line.cursor) for line in lines] == [
        (b"", 9, "c2"),
        (b"\xff\n", 0, "c3"),
    ]


def test_a_reader_that_is_cancelled_resumes_without_loss(api: FakeApi, run_async: RunAsync) -> None:
    task_id = api.do(lambda: api.add("out 1", "hold", "out 2"))

    async def body(client: Client) -> list[str]:
        async with client.logs(task_id) as log:
            first = await anext(log)
            with anyio.move_on_after(0.1) as scope:
                await anext(log)
            assert scope.cancelled_caught
            api.do(api.tasks[task_id].go_on.set)
            return texts([first, *[line async for line in log]])

    assert run_async(with_client(api, body)) == ["1", "2"]


@pytest.mark.filterwarnings("error")
def test_a_loop_that_is_left_early_keeps_nothing_open(api: FakeApi, run_async: RunAsync) -> None:
    task_id = api.do(lambda: api.add("out 1", "hold"))

    async def body(client: Client) -> None:
        async for _ in client.logs(task_id):
            break
        assert len(client._streams) == 1
        async for _ in client.logs(task_id):
            break

    run_async(with_client(api, body))
    api.do(api.tasks[task_id].go_on.set)


def test_many_followers_at_once_do_not_starve_each_other_or_other_calls(
    api: FakeApi, run_async: RunAsync
) -> None:
    task_id = api.do(lambda: api.add("out 1", "hold"))
    count = 120

    async def body(client: Client) -> None:
        async with anyio.create_task_group() as group:
            logs = [client.logs(task_id) for _ in range(count)]
            for log in logs:
                group.start_soon(log.__anext__)
        with anyio.fail_after(5):
            assert (await client.get(task_id)).status == "running"

    run_async(with_client(api, body))


def test_the_life_of_a_task(api: FakeApi, run_async: RunAsync) -> None:
    async def body(client: Client) -> None:
        task = await client.spawn(image="registry/app:v1", args=["hold"], labels={"team": "blue"}, cpu=1)
        assert (await client.wait(task.id, "running")).spec.labels == {"team": "blue"}
        assert [record.id for record in await client.list_tasks(label="team=blue")] == [task.id]
        assert (await client.stats(task.id)).pids == 7
        await client.kill(task.id, grace=5)
        assert (await client.wait(task.id)).reason == "killed"
        with pytest.raises(mill.client.Conflict):
            await client.stats(task.id)
        assert (await client.status()).node == "node-3"

    run_async(with_client(api, body))
