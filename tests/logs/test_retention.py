"""The log store's limits, on real FIFOs: what goes first, what stays, what a reader is told, and what time takes away."""

import os
import time
from collections.abc import AsyncIterator, Collection
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio
from structlog.testing import capture_logs

from mill.errors import NoSpace
from mill.logs import disuse, retention, segments
from mill.logs.budget import Budget
from mill.logs.store import Logs
from mill.units import KIB
from tests.logs.lab import SOON_S, Writer, read, text, wait_until

SEGMENT = 64 * KIB
BLOCK = b"x" * 1023 + b"\n"


@attrs.define
class Past:
    """Which tasks have ended, and when."""

    ends: dict[str, float] = attrs.field(factory=dict)
    retention_now: float = 0.0
    failure: NoSpace | None = None
    also_known: set[str] = attrs.field(factory=set)

    async def longest_ended(self, after: tuple[float, str] | None, limit: int) -> list[tuple[float, str]]:
        await trio.lowlevel.checkpoint()
        found = sorted((ended, task_id) for task_id, ended in self.ends.items())
        return [each for each in found if after is None or each > after][:limit]

    async def expired(self, retention_s: float, limit: int) -> list[str]:
        await trio.lowlevel.checkpoint()
        return [task_id for task_id, ended in self.ends.items() if ended <= self.retention_now - retention_s][
            :limit
        ]

    async def known(self, among: Collection[str]) -> Collection[str]:
        await trio.lowlevel.checkpoint()
        return {*self.ends, *self.also_known} & set(among)

    async def forget(self, task_id: str) -> None:
        await trio.lowlevel.checkpoint()
        if self.failure is not None:
            raise self.failure
        del self.ends[task_id]


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "SEGMENT_BYTES", SEGMENT)


@pytest.fixture
async def past() -> Past:
    return Past()


@pytest.fixture
async def limited(logs: Logs, past: Past, nursery: trio.Nursery) -> AsyncIterator[Logs]:
    """A store that may hold four segments."""
    serve = partial(retention.serve, logs, past, max_bytes=4 * SEGMENT, retention_s=3600.0)
    await nursery.start(serve)
    yield logs
    nursery.cancel_scope.cancel()


async def write(logs: Logs, task_id: str, blocks: int) -> Writer:
    """A task that writes so many blocks, which are captured when this returns."""
    task = Writer(await logs.open(task_id))
    with trio.fail_after(SOON_S):
        for _ in range(blocks):
            await trio.lowlevel.wait_writable(task.stdout)
            assert os.write(task.stdout, BLOCK) == len(BLOCK)
        while not (chunks := await read(logs, task_id)) or chunks[-1].cursor != f"{blocks * len(BLOCK)}-0":  # noqa: ASYNC110 -- captured elsewhere
            await trio.sleep(0.002)
    return task


async def ended(logs: Logs, past: Past, task_id: str, blocks: int, at: float) -> None:
    (await write(logs, task_id, blocks)).close()
    await logs.drain(task_id)
    past.ends[task_id] = at


def size(data_dir: Path) -> int:
    return disuse.size_of_all(data_dir / "logs")


async def test_the_longest_ended_goes_first_and_its_reader_is_told_how_much(
    limited: Logs, past: Past, data_dir: Path
) -> None:
    await ended(limited, past, "first", 100, at=2.0)
    await ended(limited, past, "before", 60, at=1.0)
    await ended(limited, past, "last", 160, at=3.0)
    await wait_until(lambda: size(data_dir) <= 4 * SEGMENT)
    gone = await read(limited, "before", follow=True)
    assert [chunk.dropped_bytes for chunk in gone] == [60 * KIB]
    partly = await read(limited, "first", follow=True)
    assert partly[0].dropped_bytes == SEGMENT
    assert sum(len(chunk.data) for chunk in partly) == 100 * KIB - SEGMENT
    assert await text(limited, "last") == 160 * BLOCK
    budget = limited.budget
    assert budget.output_bytes == 320 * KIB
    assert 60 * KIB + SEGMENT < budget.dropped_bytes == budget.removed_bytes < 62 * KIB + SEGMENT


async def test_of_running_tasks_the_oldest_segments_go_and_each_ones_newest_stays(
    limited: Logs, data_dir: Path
) -> None:
    tasks = [await write(limited, task_id, 100) for task_id in ("a-1", "a-2")]
    tasks.append(await write(limited, "a-3", 300))
    assert size(data_dir) <= 4 * SEGMENT + 3 * SEGMENT
    for task_id, blocks in (("a-1", 100), ("a-2", 100), ("a-3", 300)):
        chunks = await read(limited, task_id)
        assert chunks[0].dropped_bytes >= SEGMENT
        assert sum(chunk.dropped_bytes + len(chunk.data) for chunk in chunks) == blocks * KIB
        assert chunks[-1].data.endswith(BLOCK)
    for task in tasks:
        task.close()


async def test_who_ends_by_a_clock_that_was_set_back_is_found_at_the_next_count(
    logs: Logs, past: Past, data_dir: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "RECOUNT_S", 0.05)
    await nursery.start(partial(retention.serve, logs, past, max_bytes=4 * SEGMENT, retention_s=3600.0))
    await ended(logs, past, "late", 100, at=9000.0)
    running = await write(logs, "a-1", 300)  # more than fits, though "late" is emptied
    await wait_until(lambda: size(data_dir) <= 4 * SEGMENT)
    await ended(logs, past, "early", 100, at=10.0)
    with trio.fail_after(SOON_S):
        while (await read(logs, "early", follow=True))[0].dropped_bytes == 0:
            await trio.lowlevel.wait_writable(running.stdout)
            os.write(running.stdout, BLOCK)
    running.close()
    nursery.cancel_scope.cancel()


async def test_a_writer_that_outruns_the_cleaning_waits_for_it_and_loses_nothing_new(
    limited: Logs, data_dir: Path
) -> None:
    """Far more than the limit, as fast as it goes: the sum stays bounded at every moment."""
    task = Writer(await limited.open("a-1"))
    worst, blocks = 0, 4000
    with trio.fail_after(4 * SOON_S):
        for _ in range(blocks):
            await trio.lowlevel.wait_writable(task.stdout)
            assert os.write(task.stdout, BLOCK) == len(BLOCK)
            worst = max(worst, size(data_dir))
    task.close()
    await limited.drain("a-1")
    chunks = await read(limited, "a-1", follow=True)
    assert sum(chunk.dropped_bytes + len(chunk.data) for chunk in chunks) == blocks * KIB
    assert worst <= 4 * SEGMENT + 2 * SEGMENT


async def test_a_task_that_ends_makes_room_for_one_that_runs(
    limited: Logs, past: Past, data_dir: Path
) -> None:
    running = [await write(limited, f"a-{n}", 60) for n in range(6)]
    assert size(data_dir) > 4 * SEGMENT, "six newest segments, none of which may go"
    running[0].close()
    await limited.drain("a-0")
    past.ends["a-0"] = 1.0
    running[1].close()
    await limited.drain("a-1")
    past.ends["a-1"] = 2.0
    (await write(limited, "a-6", 10)).close()
    await wait_until(lambda: size(data_dir) <= 5 * SEGMENT)
    for task in running[2:]:
        task.close()


async def test_what_an_earlier_milld_left_counts(
    logs: Logs, past: Past, data_dir: Path, nursery: trio.Nursery
) -> None:
    await ended(logs, past, "old", 600, at=1.0)
    await nursery.start(partial(retention.serve, logs, past, max_bytes=4 * SEGMENT, retention_s=3600.0))
    await wait_until(lambda: size(data_dir) <= 4 * SEGMENT)
    assert (await text(logs, "old")).count(BLOCK) >= 3 * 64
    nursery.cancel_scope.cancel()


async def test_after_its_time_a_task_has_neither_logs_nor_a_record(
    logs: Logs, past: Past, nursery: trio.Nursery
) -> None:
    await ended(logs, past, "young", 1, at=99.5)
    await ended(logs, past, "old", 1, at=98.0)
    past.retention_now = 100.0
    past.failure = NoSpace("the disk is full")
    with capture_logs() as told:
        await nursery.start(partial(retention.serve, logs, past, max_bytes=4 * SEGMENT, retention_s=1.0))
        await wait_until(lambda: told)
        past.failure = None
        await wait_until(lambda: "old" not in past.ends)
    assert [line["event"] for line in told] == ["old logs and records cannot be removed yet; trying on"]
    assert "young" in past.ends
    assert await read(logs, "old") == []
    assert await text(logs, "young") == BLOCK
    nursery.cancel_scope.cancel()


async def test_logs_without_a_record_go_when_they_are_old(
    logs: Logs, past: Past, data_dir: Path, nursery: trio.Nursery
) -> None:
    for task_id in ("stray", "fresh", "known"):
        await ended(logs, past, task_id, 1, at=time.time())
    past.also_known.add("known")
    for task_id in ("stray", "known"):
        for path in (*(data_dir / "logs" / task_id).iterdir(), data_dir / "logs" / task_id):
            os.utime(path, (1.0, time.time() - 10_000))
    past.ends.clear()
    await nursery.start(partial(retention.serve, logs, past, max_bytes=4 * SEGMENT, retention_s=1.0))
    await wait_until(lambda: not (data_dir / "logs" / "stray").exists())
    assert {path.name for path in (data_dir / "logs").iterdir()} == {"fresh", "known"}
    nursery.cancel_scope.cancel()


def test_a_count_of_the_directory_sets_the_sum_right() -> None:
    budget = Budget(max_bytes=100)
    budget.taken_bytes = 50
    budget.removed_bytes = 20
    budget.found(500, taken_before=50)
    assert budget.used_bytes == 500
    budget.taken_bytes += 7
    budget.removed_bytes += 2
    assert (budget.used_bytes, budget.over_bytes) == (505, 405)
    assert Budget().over_bytes == 0
