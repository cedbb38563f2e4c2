"""SQLite under the records: what returned is committed and stays, commits are shared, and a bad file is one line."""

import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path
from types import FrameType

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from mill import store as store_module
from mill.errors import Conflict, MillError, NoSpace, SetupError, Unavailable
from mill.model import Draft, Duration, Kill, Owned, Size, Status, Task, Template, Time
from mill.store import Store, serve
from mill.tasks.filter import Filter
from tests.tasks.scene import make_record, make_spec

ANY = Filter()
SOON_S = 20.0
"""For what takes milliseconds on an idle machine."""


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Store]:
    async with trio.open_nursery() as nursery:
        yield await nursery.start(serve, path)
        nursery.cancel_scope.cancel()


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes() if path.exists() else b""))


def spoilt(content: bytes) -> bytes:
    """With rubbish at the start of every page but the first ones."""
    changed = bytearray(content)
    for at in range(4096 * 3, len(changed), 4096):
        changed[at : at + 64] = b"\xa5" * 64
    return bytes(changed)


def open_files(path: Path) -> list[str]:
    """This process' open files of the database."""
    found = []
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(OSError):
            found.append(str(fd.readlink()))
    return [name for name in found if name.startswith(str(path))]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mill.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[Store]:
    async with opened(path) as store:
        yield store


def trace(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every statement that SQLite runs, as SQLite itself traces them, for stores opened from now on."""
    traced: list[str] = []
    plain = store_module._open

    def tracing(path: Path) -> sqlite3.Connection:
        connection = plain(path)
        connection.set_trace_callback(traced.append)
        return connection

    monkeypatch.setattr(store_module, "_open", tracing)
    return traced


@pytest.fixture
def statements(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    return trace(monkeypatch)


def task(task_id: str = "web-0000", status: Status = Status.RUNNING, **said: object) -> Task:
    return Task(make_record(task_id, status, **said))


async def put_all(store: Store, tasks: list[Task]) -> None:
    async with trio.open_nursery() as nursery:
        for one in tasks:
            nursery.start_soon(store.put, one)


# -- what is written stays ------------------------------------------------------------------------------------------


async def test_what_was_put_is_there_again_after_reopening(path: Path) -> None:
    whole = Task(
        make_record("web-1", Status.RUNNING, spec=make_spec(labels={"ä": "\u2028"}, extra={"new": [1]})),
        Owned(env={"KEY": "secret"}, kill=Kill("admin", Time(1.5), Duration(2.0))),
    )
    template = Template("agent", Draft(image="busybox", memory=Size(2**30), env={"A": "1"}, extra={"new": 1}))
    async with opened(path) as store:
        await store.insert(whole)
        await store.put(task("web-2", Status.STOPPED))
        await store.put_template(template)
    async with opened(path) as store:
        assert await store.get("web-1") == whole
        assert await store.ids() == {"web-1", "web-2"}
        assert await store.live() == [whole]
        assert await store.templates() == [template]


async def test_a_write_that_has_returned_is_seen_by_every_other_connection(store: Store, path: Path) -> None:
    await store.insert(task())
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT id, status, live FROM tasks").fetchall() == [("web-0000", "running", 1)]


async def test_put_replaces_and_delete_removes(store: Store) -> None:
    await store.put(task(status=Status.RUNNING))
    ended = task(status=Status.FAILED, exit_code=3)
    await store.put(ended)
    assert await store.get("web-0000") == ended
    assert await store.live() == []
    await store.delete("web-0000")
    await store.delete("web-0000")
    assert await store.get("web-0000") is None


async def test_an_insert_of_a_known_id_is_a_conflict_and_changes_nothing(store: Store) -> None:
    first = task(status=Status.STOPPED)
    await store.insert(first)
    with pytest.raises(Conflict):
        await store.insert(task(status=Status.PULLING))
    assert await store.get("web-0000") == first


async def test_live_tasks_come_oldest_first(store: Store) -> None:
    await put_all(store, [task(f"web-{n}", created=1000.0 - n) for n in range(5)])
    await store.put(task("web-2", Status.STOPPED, created=998.0))
    assert [one.record.id for one in await store.live()] == ["web-4", "web-3", "web-1", "web-0"]


async def test_templates_are_replaced_and_removed_by_name(store: Store) -> None:
    for image in ("a", "b"):
        await store.put_template(Template("web", Draft(image=image)))
    assert [one.draft.image for one in await store.templates()] == ["b"]
    await store.delete_template("web")
    assert await store.templates() == []


# -- group commit ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def locked(path: Path) -> AsyncIterator[None]:
    """Another process' write lock on the database."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        try:
            yield
        finally:
            other.execute("ROLLBACK")


async def test_writes_that_wait_together_share_one_commit(statements: list[str], path: Path) -> None:
    async with opened(path) as store:
        await store.put(task("first"))
        async with trio.open_nursery() as nursery, locked(path):
            for n in range(100):
                nursery.start_soon(store.insert, task(f"web-{n:04d}"))
            statements.clear()
            await wait_all_tasks_blocked()  # the writer has the first ones and waits for the lock
        assert 1 <= statements.count("COMMIT") <= 2
        # As a set: SQLite traces a statement again for each trigger that it sets off.
        assert len({statement for statement in statements if "INSERT INTO tasks" in statement}) == 100
        assert len(await store.ids()) == 101


async def test_a_write_alone_does_not_wait_for_company(statements: list[str], path: Path) -> None:
    async with opened(path) as store:
        statements.clear()
        with trio.fail_after(SOON_S):
            for n in range(3):
                await store.put(task(f"web-{n}"))
        assert statements.count("COMMIT") == 3


async def test_only_what_a_power_cut_undoes_anyway_does_not_wait_for_the_disk(
    statements: list[str], path: Path
) -> None:
    async def waits_for_the_disk(write: Callable[[Task], Awaitable[None]], one: Task) -> bool:
        statements.clear()
        await write(one)
        modes = [said for said in statements if said.startswith("PRAGMA synchronous")]
        assert len(modes) == 1
        return modes[0].endswith("FULL")

    async with opened(path) as store:
        assert await waits_for_the_disk(store.insert, task("web-1", Status.STARTING))
        assert not await waits_for_the_disk(store.put, task("web-1", Status.RUNNING))
        for status in (Status.PULLING, Status.STARTING, Status.STOPPED, Status.FAILED):
            assert await waits_for_the_disk(store.put, task("web-2", status))
        async with trio.open_nursery() as nursery, locked(path):
            nursery.start_soon(store.put, task("web-1", Status.RUNNING))
            await wait_all_tasks_blocked()  # the writer has it and waits for the lock
            nursery.start_soon(store.put, task("web-3", Status.RUNNING))
            nursery.start_soon(store.insert, task("web-4", Status.STARTING))
            statements.clear()
            await wait_all_tasks_blocked()
        assert "PRAGMA synchronous = FULL" in statements, "one that must be safe makes its whole commit so"


async def test_a_conflict_in_a_shared_commit_hurts_only_its_own(store: Store, path: Path) -> None:
    await store.insert(task("taken"))
    conflicts: list[str] = []

    async def insert(task_id: str) -> None:
        try:
            await store.insert(task(task_id))
        except Conflict:
            conflicts.append(task_id)

    async with trio.open_nursery() as nursery, locked(path):
        for task_id in ("a", "b", "taken", "c", "b"):
            nursery.start_soon(insert, task_id)
        await wait_all_tasks_blocked()
    assert sorted(conflicts) == ["b", "taken"]
    assert await store.ids() == {"taken", "a", "b", "c"}


async def test_a_value_that_sqlite_cannot_hold_hurts_only_its_own_write(store: Store) -> None:
    with trio.fail_after(SOON_S):
        with pytest.raises(MillError):
            await store.delete("\ud800")
        with pytest.raises(MillError):
            await store.get("\ud800")
        await store.put(task("fine", Status.RUNNING))
    assert await store.ids() == {"fine"}


async def test_a_row_of_a_newer_mill_is_left_alone_and_hides_no_other(store: Store, path: Path) -> None:
    await store.insert(task("old", Status.RUNNING))
    await store.insert(task("new", Status.RUNNING))
    with closing(sqlite3.connect(path)) as other, other:
        other.execute(
            "UPDATE tasks SET record = replace(record, '\"mesh\"', '\"wormhole\"') WHERE id = 'new'"
        )
    assert [one.record.id for one in await store.live()] == ["old"]
    assert await store.get("new") is None
    assert [record.id for record in (await store.page(Filter(), None, 9)).records] == ["old"]
    await store.insert(task("older", created=0.0))
    last_readable = await store.page(Filter(), None, 2)
    assert [record.id for record in last_readable.records] == ["old"], "a page may be short"
    assert last_readable.next is not None, "and is not the last one for that"
    assert [one.id for one in (await store.page(Filter(), last_readable.next, 2)).records] == ["older"]
    await store.delete("older")
    assert await store.ids(live=True) == {"old", "new"}


async def test_a_write_that_was_begun_cannot_be_cancelled_out_of_its_commit(store: Store, path: Path) -> None:
    impatient = trio.CancelScope()

    async def insert() -> None:
        with impatient:
            await store.insert(task())

    async with trio.open_nursery() as nursery, locked(path):
        nursery.start_soon(insert)
        await wait_all_tasks_blocked()
        impatient.cancel()
        await wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 1
    assert await store.ids() == {"web-0000"}


# -- trouble --------------------------------------------------------------------------------------------------------


async def test_a_full_disk_is_told_and_survived(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    connections: list[sqlite3.Connection] = []
    plain = store_module._open

    def keeping(path: Path) -> sqlite3.Connection:
        connections.append(plain(path))
        return connections[-1]

    monkeypatch.setattr(store_module, "_open", keeping)
    async with opened(path) as store:
        await store.put(task("web-1"))
        pages = connections[0].execute("PRAGMA page_count").fetchone()[0]
        connections[0].execute(f"PRAGMA max_page_count = {pages}")
        big = task("web-2", message="x" * 100_000)
        with pytest.raises(NoSpace, match="is full: free some space"):
            await store.put(big)
        assert await store.ids() == {"web-1"}
        connections[0].execute("PRAGMA max_page_count = 1000000")
        await store.put(big)
        assert await store.get("web-2") == big


async def test_a_lock_of_another_process_is_waited_for(store: Store, path: Path) -> None:
    async with trio.open_nursery() as nursery, locked(path):
        nursery.start_soon(store.put, task())
        await trio.sleep(0.05)
        assert await store.ids() == set()
    assert await store.ids() == {"web-0000"}


async def test_a_lock_that_stays_is_unavailable_and_later_writes_work(
    monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    monkeypatch.setattr(store_module, "BUSY_TIMEOUT_S", 0.05)
    async with opened(path) as store:
        async with locked(path):
            with pytest.raises(Unavailable, match="cannot be used now: database is locked"):
                await store.put(task())
        await store.put(task())


async def refused(path: Path) -> str:
    with pytest.RaisesGroup(SetupError, allow_unwrapped=True) as error:
        async with opened(path):
            pass
    said = str(error.value.exceptions[0] if isinstance(error.value, BaseExceptionGroup) else error.value)
    assert "\n" not in said
    assert str(path) in said
    return said


async def test_a_file_that_is_no_database_is_one_line(path: Path) -> None:
    rewrite(path, lambda _: b"no database " * 1000)
    assert "file is not a database" in await refused(path)


async def test_a_directory_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    assert "unable to open" in await refused(tmp_path / "none" / "mill.db")


async def test_a_database_that_another_process_holds_for_itself_is_one_line(
    monkeypatch: pytest.MonkeyPatch, path: Path
) -> None:
    monkeypatch.setattr(store_module, "BUSY_TIMEOUT_S", 0.05)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TABLE t (x)")
        other.execute("BEGIN EXCLUSIVE")
        assert "locked" in await refused(path)


@pytest.mark.parametrize(
    "damage", [spoilt, lambda content: content[: len(content) // 2]], ids=["spoilt", "cut"]
)
async def test_a_damaged_database_is_one_line(path: Path, damage: Callable[[bytes], bytes]) -> None:
    async with opened(path) as store:
        await put_all(store, [task(f"web-{n:04d}", message="x" * 500) for n in range(200)])
    rewrite(path, damage)
    assert "damaged" in (said := await refused(path)) or "malformed" in said


async def test_a_failed_opening_leaves_no_file_open(path: Path) -> None:
    rewrite(path, lambda _: b"no database " * 1000)
    await refused(path)
    assert open_files(path) == []


def stack_of(frame: FrameType | None) -> list[str]:
    """The files that a thread is in; an idle one of trio's pool is in none of ours."""
    files = []
    while frame is not None:
        files.append(frame.f_code.co_filename)
        frame = frame.f_back
    return files


async def test_leaving_finishes_what_was_asked_for_and_leaves_no_thread_and_no_file(path: Path) -> None:
    async with trio.open_nursery() as outer, opened(path) as store:
        for n in range(20):
            outer.start_soon(store.put, task(f"web-{n}"))
        await wait_all_tasks_blocked()
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("SELECT count(*) FROM tasks").fetchone() == (20,)
    assert not [frame for frame in sys._current_frames().values() if store_module.__file__ in stack_of(frame)]
    assert open_files(path) == []


async def test_a_write_after_leaving_is_refused_and_does_not_hang(path: Path) -> None:
    async with opened(path) as store:
        pass
    with trio.move_on_after(SOON_S) as hung, pytest.raises(Unavailable):
        await store.put(task())
    assert not hung.cancelled_caught


async def test_the_store_shows_its_state(store: Store, path: Path) -> None:
    assert repr(store) == f"<Store {path} waiting=0>"
