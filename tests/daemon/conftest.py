"""Two nodes of one cluster, for the tests of calls about another node's task."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.daemon import fleets
from tests.daemon.fleets import Two, task


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Two]:
    """The other node has a task, of which this one has heard."""
    async with fleets.two(tmp_path) as made:
        busy = made.there.own(task("busy-0001"))
        made.here.known.add(busy)
        made.here.fake.tasks.add(busy)
        yield made


@pytest.fixture
async def api(two: Two) -> AsyncIterator[httpx.AsyncClient]:
    async with two.here.client() as client:
        yield client
