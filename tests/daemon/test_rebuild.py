"""Records that were lost come back from what containerd keeps; what was forgotten does not."""

from pathlib import Path
from typing import Any

import pytest
import trio

from mill.daemon import rebuild
from mill.model import Status, Task
from mill.store import serve
from tests.tasks.scene import make_record

KEPT = Task(make_record("web-0001", Status.RUNNING))


@pytest.fixture(autouse=True)
def one_container(monkeypatch: pytest.MonkeyPatch) -> None:
    """containerd has one of this node's."""

    async def kept_tasks(*_: object) -> list[Task]:
        await trio.lowlevel.checkpoint()
        return [KEPT]

    monkeypatch.setattr(rebuild, "kept_tasks", kept_tasks)


async def rebuilt(path: Path, *, told: bool = False, after: bool = False) -> set[str]:
    """The tasks of the database after a start; *after* one at which the task went, as what all have forgotten goes."""
    session: Any = None
    async with trio.open_nursery() as nursery:
        store = await nursery.start(serve, path)
        if after:
            await rebuild.rebuild(store, session, "node", told=False)
            await store.delete(KEPT.record.id)
        await rebuild.rebuild(store, session, "node", told=told)
        found: set[str] = await store.ids()
        nursery.cancel_scope.cancel()
    return found


async def test_a_new_database_gets_what_containerd_keeps(tmp_path: Path) -> None:
    assert await rebuilt(tmp_path / "mill.db") == {"web-0001"}


async def test_one_that_has_no_task_any_more_does_not(tmp_path: Path) -> None:
    assert await rebuilt(tmp_path / "mill.db", after=True) == set()


async def test_one_that_has_none_any_more_does_when_it_is_told_to(tmp_path: Path) -> None:
    assert await rebuilt(tmp_path / "mill.db", after=True, told=True) == {"web-0001"}
