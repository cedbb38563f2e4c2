"""A fake API on loopback, and both event loops to run a client under."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
import trio

from tests.client import fake_api
from tests.client.fake_api import FakeApi

RunAsync = Callable[[Callable[[], Awaitable[Any]]], Any]


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with fake_api.running() as api:
        yield api


@pytest.fixture(params=["trio", "asyncio"])
def run_async(request: pytest.FixtureRequest) -> RunAsync:
    """Runs an async function to its end under one of the two."""
    if request.param == "trio":
        return trio.run

    def run(body: Callable[[], Awaitable[Any]]) -> Any:
        async def main() -> Any:
            return await body()

        return asyncio.run(main())

    return run
