"""Idempotency keys in SQLite: written with the task's row, whoever writes it, and good for a day, whatever becomes of the row."""

import sqlite3
from contextlib import closing
from pathlib import Path

import attrs

from mill.config import KEY_LIFETIME_S
from mill.model import Keyed, Status, Task
from tests.tasks.scene import make_record
from tests.test_store import opened


async def test_a_key_finds_its_task_also_when_that_is_forgotten_and_for_a_day(tmp_path: Path) -> None:
    async with opened(tmp_path / "mill.db") as store:
        key, created = Keyed("k", "b"), 1000.0
        made = make_record("web-1", Status.RUNNING, keyed=key, created=created)
        await store.insert(Task(made))
        await store.insert(Task(make_record("web-2", created=created)))
        assert await store.keyed("k", created) == made
        ended = attrs.evolve(made, status=Status.STOPPED)
        await store.put(Task(ended))
        assert await store.keyed("k", created) == ended
        await store.delete("web-1")
        await store.delete("web-2")
        assert await store.keyed("k", created + KEY_LIFETIME_S - 1) == ended
        assert await store.keyed("k", created + KEY_LIFETIME_S) is None
        assert await store.keyed("other", created) is None


async def test_a_key_stands_for_the_first_task_it_came_with_until_it_is_forgotten(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path / "mill.db") as store:
        key = Keyed("k", "b")
        await store.insert(Task(make_record("web-1", keyed=key, created=1000.0)))
        await store.insert(Task(make_record("web-2", keyed=key, created=1001.0)))
        found = await store.keyed("k", 1001.0)
        assert found is not None
        assert found.id == "web-1"
        later = 1000.0 + KEY_LIFETIME_S
        await store.insert(Task(make_record("web-3", keyed=key, created=later)))
        found = await store.keyed("k", later)
        assert found is not None
        assert found.id == "web-3"
        with closing(sqlite3.connect(tmp_path / "mill.db")) as other:
            assert other.execute("SELECT count(*) FROM spawn_keys").fetchone() == (1,)
