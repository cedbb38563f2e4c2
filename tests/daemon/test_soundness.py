"""A large database: milld starts at once and reads it meanwhile, a damaged one is told, and nothing waits for the end of it."""

import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs

from mill import store as store_module
from mill.daemon import soundness
from mill.model import Status
from tests.test_store import SOON_S, open_files, opened, put_all, refused, rewrite, task

PAGE = 4096
TEXT = b"x" * 2000


def spoil_a_page_of_text(content: bytes) -> bytes:
    page = content.index(TEXT) // PAGE * PAGE
    return content[:page] + b"\xa5" * 64 + content[page + 64 :]


@pytest.fixture
async def large(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Long records of tasks that have ended, and one that lives; more than the store reads at its start."""
    path = tmp_path / "mill.db"
    async with opened(path) as store:
        await put_all(store, [task(f"web-{n:04d}", Status.STOPPED, message="x" * 3000) for n in range(200)])
        await store.put(task("alive"))
    for module in (store_module, soundness):
        monkeypatch.setattr(module, "CHECKED_FIRST_BYTES", PAGE)
    return path


@asynccontextmanager
async def checked(path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[str | None]]:
    """What each check of *path* found, once there is one; then the service goes on."""
    found: list[str | None] = []
    over = trio.Event()
    plain = soundness._check

    async def watched(connection: sqlite3.Connection) -> str | None:
        found.append(await plain(connection))
        trio.lowlevel.spawn_system_task(_set, over)
        return found[-1]

    monkeypatch.setattr(soundness, "_check", watched)
    async with trio.open_nursery() as nursery:
        await nursery.start(soundness.serve, path)
        with trio.fail_after(SOON_S):
            await over.wait()
        yield found
        nursery.cancel_scope.cancel()


async def _set(event: trio.Event) -> None:
    await trio.lowlevel.checkpoint()
    event.set()


async def test_damage_is_one_line_and_the_store_works_on(
    monkeypatch: pytest.MonkeyPatch, large: Path
) -> None:
    rewrite(large, spoil_a_page_of_text)
    with capture_logs() as logged:
        async with opened(large) as store, checked(large, monkeypatch):
            assert [one.record.id for one in await store.live()] == ["alive"]
            await store.put(task("alive", Status.STOPPED))
    assert [(line["log_level"], line["event"]) for line in logged] == [
        ("error", "the database is damaged: some records cannot be read")
    ]
    assert "\n" not in logged[0]["why"]


async def test_a_sound_one_makes_no_noise_and_leaves_no_file_open(
    monkeypatch: pytest.MonkeyPatch, large: Path
) -> None:
    with capture_logs() as logged:
        async with opened(large), checked(large, monkeypatch) as found:
            assert found == [None]
    assert [line["log_level"] for line in logged] == ["debug"]
    assert open_files(large) == []


async def test_one_that_was_cut_off_does_not_start(large: Path) -> None:
    rewrite(large, lambda content: content[: len(content) // 2])
    assert "malformed" in await refused(large)


async def test_nobody_waits_for_the_end_of_a_check(monkeypatch: pytest.MonkeyPatch, large: Path) -> None:
    """This one would never end: only an interruption stops it."""
    began = threading.Event()

    def endless(connection: sqlite3.Connection) -> str | None:
        connection.create_function("began", 0, began.set)
        forever = "WITH RECURSIVE n(i) AS (SELECT began() UNION ALL SELECT 1 FROM n) SELECT count(*) FROM n"
        connection.execute(forever)
        raise AssertionError

    monkeypatch.setattr(soundness, "damage_of", endless)
    with capture_logs() as logged, trio.fail_after(SOON_S):
        async with trio.open_nursery() as nursery:
            await nursery.start(soundness.serve, large)
            await trio.to_thread.run_sync(began.wait)
            nursery.cancel_scope.cancel()
    assert logged == []
    assert open_files(large) == []
