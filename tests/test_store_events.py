"""The journal in SQLite: one event for each change of a status, in the transaction of its row, numbered for ever."""

import json
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from mill import store as store_module
from mill.config import EVENTS_KEPT
from mill.convert import format_time, from_json, to_json
from mill.errors import Conflict, NoSpace
from mill.model import Duration, Kill, Owned, Record, Status, Task, Time, Times
from mill.store import Store
from mill.tasks import journal
from tests.tasks.scene import make_record, make_spec
from tests.test_store import locked, opened, put_all, task, trace

Connect = Callable[[], sqlite3.Connection]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mill.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[Store]:
    async with opened(path) as store:
        yield store


def moved(record: Record, status: Status, **times: float) -> Task:
    times = {**attrs.asdict(record.times), **times}
    return Task(attrs.evolve(record, status=status, times=Times(**times), version=record.version + 1))  # type: ignore[arg-type]


async def told(store: Store, after: int = 0) -> list[tuple[int, str, Status]]:
    events = await store.events(after, store.head, 10_000)
    records = [from_json(Record, json.loads(event.record)) for event in events]
    return [(event.seq, record.id, record.status) for event, record in zip(events, records, strict=True)]


async def test_each_change_of_a_status_is_one_event_with_the_time_from_which_it_was_true(
    store: Store,
) -> None:
    first = make_record("web-1", Status.PULLING, created=1000.0)
    await store.insert(Task(first))
    steps = [
        (Status.STARTING, {"pulled": 1001.5}),
        (Status.RUNNING, {"started": 1002.25}),
        (Status.FAILED, {"finished": 1003.125}),
    ]
    for status, times in steps:
        await store.put(moved(first, status, **times))
    events = await store.events(0, 99, 99)
    assert [event.seq for event in events] == [1, 2, 3, 4] == list(range(1, store.head + 1))
    assert [event.at for event in events] == [format_time(at) for at in (1000.0, 1001.5, 1002.25, 1003.125)]
    assert json.loads(events[2].record) == to_json(moved(first, *steps[1][:1], started=1002.25).record)


async def test_what_changes_no_status_makes_no_event(store: Store) -> None:
    running = task("web-1", Status.RUNNING)
    await store.insert(running)
    await store.put(running)
    await store.put(Task(running.record, Owned(kill=Kill("admin", Time(1.0), Duration(2.0)))))
    ended = moved(running.record, Status.STOPPED, finished=5.0)
    await store.put(ended)
    await store.put(ended)  # as a milld would that did not see its first try succeed
    await store.amend(Task(attrs.evolve(ended.record, version=9)))
    assert [status for *_, status in await told(store)] == [Status.RUNNING, Status.STOPPED]


async def test_an_event_holds_no_value_of_the_environment(store: Store) -> None:
    spec = make_spec(env={"KEY": "hunter2"}).without_env_values()
    await store.insert(Task(make_record("web-1", spec=spec), Owned(env={"KEY": "hunter2"})))
    (event,) = await store.events(0, 9, 9)
    assert json.loads(event.record)["spec"]["env"] == {"KEY": None}
    assert "hunter2" not in event.record


async def test_an_insert_that_is_refused_leaves_no_event_and_no_hole(store: Store, path: Path) -> None:
    await store.insert(task("taken"))
    refused: list[str] = []

    async def insert(task_id: str) -> None:
        try:
            await store.insert(task(task_id))
        except Conflict:
            refused.append(task_id)

    async with trio.open_nursery() as nursery, locked(path):
        for task_id in ("a", "taken", "b", "taken", "c"):
            nursery.start_soon(insert, task_id)
        await wait_all_tasks_blocked()
    assert refused == ["taken"] * 2
    assert [seq for seq, *_ in await told(store)] == [1, 2, 3, 4]
    assert sorted(task_id for _, task_id, _ in await told(store)) == ["a", "b", "c", "taken"]


async def test_a_change_that_could_not_be_stored_is_not_told(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connections = kept_connections(monkeypatch)
    async with opened(path) as store:
        await store.insert(task("web-1"))
        pages = connections()[0].execute("PRAGMA page_count").fetchone()[0]
        connections()[0].execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(NoSpace):
            await store.put(task("web-1", Status.FAILED, message="x" * 100_000))
        assert (store.head, await told(store)) == (1, [(1, "web-1", Status.RUNNING)])


def kept_connections(monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[sqlite3.Connection]]:
    opened_ones: list[sqlite3.Connection] = []
    plain = store_module._open

    def keeping(path: Path) -> sqlite3.Connection:
        opened_ones.append(plain(path))
        return opened_ones[-1]

    monkeypatch.setattr(store_module, "_open", keeping)
    return lambda: opened_ones


async def test_nobody_is_told_of_a_change_before_its_write_has_returned(store: Store) -> None:
    """Of a commit that many share, all are back once one event of it may be told."""
    back: set[str] = set()

    async def put(task_id: str) -> None:
        await store.put(task(task_id))
        back.add(task_id)

    async def watch() -> None:
        seen = 0
        while seen < 200:
            await store.wait_event(seen)
            found = await told(store, seen)
            assert {task_id for _, task_id, _ in found} <= back
            seen += len(found)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch)
        for n in range(200):
            nursery.start_soon(put, f"web-{n}")
            if n % 7 == 0:
                await trio.lowlevel.checkpoint()


async def test_a_deleted_task_takes_its_events_along_and_numbers_are_never_given_twice(path: Path) -> None:
    async with opened(path) as store:
        await put_all(store, [task("web-1"), task("web-2")])
        for task_id in ("web-2", "web-1"):
            await store.delete(task_id)
        assert (store.head, await told(store)) == (2, [])
        epoch = store.epoch
    async with opened(path) as store:
        assert (store.head, store.epoch) == (2, epoch)
        await store.insert(task("web-3"))
        assert await told(store) == [(3, "web-3", Status.RUNNING)]


async def test_another_database_has_another_epoch(tmp_path: Path, store: Store) -> None:
    async with opened(tmp_path / "other.db") as other:
        assert other.epoch != store.epoch


async def test_the_journal_keeps_the_newest_only(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"new.seq - {EVENTS_KEPT}" in journal.SCHEMA
    monkeypatch.setattr(journal, "SCHEMA", journal.SCHEMA.replace(str(EVENTS_KEPT), "100"))
    async with opened(path) as store:
        await put_all(store, [task(f"web-{n}") for n in range(250)])
        assert [seq for seq, *_ in await told(store)] == list(range(151, 251))


async def test_a_database_from_before_the_journal_gets_one(path: Path) -> None:
    async with opened(path) as store:
        await store.insert(task("old"))
    with closing(sqlite3.connect(path)) as other:
        for trigger in ("task_made", "task_changed", "task_deleted", "event_made"):
            other.execute(f"DROP TRIGGER {trigger}")
        other.execute("DROP TABLE events")
        other.execute("DROP TABLE event_epoch")
    async with opened(path) as store:
        assert (store.head, await told(store)) == (0, [])
        await store.put(task("old", Status.STOPPED))
        assert await told(store) == [(1, "old", Status.STOPPED)]


# -- writes that ride along -------------------------------------------------------------------------------------------


async def message(store: Store, task_id: str) -> str | None:
    found = await store.get(task_id)
    assert found is not None
    return found.record.message


async def test_what_rides_along_shares_the_commit_of_another(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "RIDE_ALONG_S", 60.0)
    statements = trace(monkeypatch)
    async with opened(path) as store:
        await put_all(store, [task(f"web-{n}", Status.STOPPED) for n in range(5)])
        statements.clear()
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for n in range(5):
                    nursery.start_soon(store.amend, task(f"web-{n}", Status.STOPPED, message="amended"))
                await wait_all_tasks_blocked()
                await store.put(task("web-9"))
        assert statements.count("COMMIT") == 1
        assert {await message(store, f"web-{n}") for n in range(5)} == {"amended"}


async def test_what_rides_along_is_committed_soon_when_nobody_else_writes_and_when_milld_leaves(
    path: Path,
) -> None:
    async with opened(path) as store:
        await store.insert(task("web-1", Status.STOPPED))
        with trio.fail_after(20):
            await store.amend(task("web-1", Status.STOPPED, message="alone"))
    async with trio.open_nursery() as outer, opened(path) as store:
        assert await message(store, "web-1") == "alone"
        outer.start_soon(store.amend, task("web-1", Status.STOPPED, message="leaving"))
        await wait_all_tasks_blocked()
    async with opened(path) as store:
        assert await message(store, "web-1") == "leaving"


async def test_an_amendment_brings_no_deleted_record_back(store: Store) -> None:
    await store.insert(task("web-1", Status.STOPPED))
    await store.delete("web-1")
    await store.amend(task("web-1", Status.STOPPED))
    assert (await store.ids(), await told(store)) == (set(), [])
