"""An end that too few nodes have heard of is told as partial, by whatever call; nothing else is held up for that."""

import json

import httpx
import pytest
import trio

from mill.config import SURE_S
from tests.api.fakes import ENDED, RUNNING, FakeEnds, FakeNode

ENDS = "/v1/tasks/done-0001"


@pytest.fixture
def fake(fake: FakeNode) -> FakeNode:
    """In a cluster, with a task that has ended and one that runs."""
    fake.tasks.add(ENDED, RUNNING)
    fake.journal.add(RUNNING, ENDED)
    fake.ends = FakeEnds()
    return fake


@pytest.fixture
def ends(fake: FakeNode) -> FakeEnds:
    assert fake.ends is not None
    return fake.ends


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ENDS), ("GET", f"{ENDS}?wait=terminal"), ("DELETE", ENDS), ("GET", "/v1/tasks?all=true")],
)
async def test_an_end_in_doubt_is_partial(
    api: httpx.AsyncClient, ends: FakeEnds, method: str, path: str
) -> None:
    assert "partial" not in (await api.request(method, path)).json()
    ends.doubted = {ENDED.id}
    assert (await api.request(method, path)).json()["partial"] is True
    assert ends.asked == [{ENDED.id}, {ENDED.id}]


async def test_who_waits_for_an_end_waits_for_its_certainty_as_long_as_it_said(
    api: httpx.AsyncClient, ends: FakeEnds
) -> None:
    await api.get(f"{ENDS}?wait=terminal&timeout=7")
    await api.get(f"{ENDS}?wait=terminal&timeout=0.1")
    await api.get(ENDS)
    assert ends.waited_s == [pytest.approx(7.0, abs=0.5), SURE_S, SURE_S]


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/v1/tasks/busy-0001"), ("DELETE", "/v1/tasks/busy-0001"), ("GET", "/v1/tasks")],
)
async def test_what_has_not_ended_is_told_as_ever(
    api: httpx.AsyncClient, ends: FakeEnds, method: str, path: str
) -> None:
    ends.doubted = {ENDED.id, RUNNING.id}
    assert "partial" not in (await api.request(method, path)).json()
    assert ends.asked == []


async def test_an_event_of_an_end_in_doubt_is_partial(api: httpx.AsyncClient, ends: FakeEnds) -> None:
    ends.doubted = {ENDED.id}
    told = []
    async with api.stream("GET", "/v1/events?after=e0-0") as answer:
        with trio.fail_after(5):
            async for line in answer.aiter_lines():
                told += [json.loads(line.removeprefix("data: "))] if line.startswith("data: ") else []
                if len(told) == 2:
                    break
    assert [(one["task"]["id"], one.get("partial")) for one in told] == [(RUNNING.id, None), (ENDED.id, True)]
