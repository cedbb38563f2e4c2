"""A spawn whose answer does not come is asked again by the same key, under either event loop."""

import time

import pytest

from mill.client import Client, ConnectionFailed, NoCapacity
from tests.client.conftest import RunAsync
from tests.client.fake_api import TOKEN, FakeApi


@pytest.mark.parametrize("lost", [1, 3])
def test_one_whose_answer_is_lost_is_asked_again_and_makes_one_task(
    api: FakeApi, run_async: RunAsync, lost: int
) -> None:
    async def body() -> None:
        api.lost_answers = lost
        async with Client(api.address, TOKEN) as mill:
            spawned = await mill.spawn(image="busybox")
        assert list(api.tasks) == [spawned.id]

    run_async(body)
    assert len(api.requests) == lost + 1
    assert len({request.headers["idempotency-key"] for request in api.requests}) == 1


def test_one_bears_a_milld_that_is_restarted(api: FakeApi, run_async: RunAsync) -> None:
    async def body() -> None:
        async with Client(api.address, TOKEN) as mill:
            await mill.status()
            api.do(api.stop_listening)
            api.do(lambda: api.comes_back_after(0.3))
            await mill.spawn(image="busybox")

    run_async(body)


def test_one_to_a_milld_that_never_was_fails_at_once(run_async: RunAsync) -> None:
    async def body() -> None:
        async with Client("http://127.0.0.1:9", TOKEN) as mill:
            with pytest.raises(ConnectionFailed):
                await mill.spawn(image="busybox")

    began = time.monotonic()
    run_async(body)
    assert time.monotonic() - began < 5


def test_no_room_is_told_at_once(api: FakeApi, run_async: RunAsync) -> None:
    async def body() -> None:
        async with Client(api.address, TOKEN) as mill:
            await mill.status()
            with pytest.raises(NoCapacity):
                await mill.spawn(image="busybox", cpu=5)

    run_async(body)
    assert len(api.requests) == 2
