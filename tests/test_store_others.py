"""Rows of other nodes' tasks beside this node's own: shown alike, and left alone by all that rules its own."""

import json
import sqlite3
from functools import partial
from pathlib import Path

import pytest
import trio

from mill.cluster.rows import Statement
from mill.convert import to_json
from mill.errors import MillError
from mill.model import Status
from mill.tasks import rows
from mill.tasks.filter import Filter
from tests.test_store import opened, task


def other(task_id: str, status: Status) -> Statement:
    said = to_json(task(task_id, status).record)
    return rows.PUT_OTHER, rows.other_row(said, json.dumps(said))


async def test_they_are_listed_and_told_but_neither_adopted_nor_swept_nor_retained(tmp_path: Path) -> None:
    async with opened(tmp_path / "mill.db") as store:
        await store.insert(task("mine-1"))
        await store.keep([other("theirs-1", Status.RUNNING), other("theirs-2", Status.STOPPED)], synced=True)
        assert {record.id for record in (await store.page(Filter(), None, 10)).records} == {
            "mine-1", "theirs-1", "theirs-2",
        }  # fmt: skip
        assert [live.record.id for live in await store.live()] == ["mine-1"]
        assert await store.ids() == await store.ids(live=True) == {"mine-1"}
        assert await store.longest_ended(None, 10) == []
        assert await store.expired(4e9, 10, boot_id="b", at_s=4e9) == []
        assert len(await store.events(0, store.head, 10)) == 3


async def test_nobody_s_word_changes_an_own_row(tmp_path: Path) -> None:
    async with opened(tmp_path / "mill.db") as store:
        await store.insert(task("web-1", Status.RUNNING))
        await store.keep([other("web-1", Status.STOPPED), (rows.DROP_OTHER, ("web-1",))], synced=True)
        found = await store.get("web-1")
        assert found is not None
        assert found.record.status is Status.RUNNING


async def test_a_table_from_before_there_were_others_holds_own_tasks(tmp_path: Path) -> None:
    path = tmp_path / "mill.db"
    async with opened(path) as store:
        await store.insert(task("old-1"))
    with sqlite3.connect(path) as connection:
        connection.execute("DROP INDEX mine_by_end")
        connection.execute("DROP INDEX mine_by_boot")
        connection.execute("ALTER TABLE tasks DROP COLUMN mine")
    async with opened(path) as store:
        assert await store.ids() == {"old-1"}


async def test_a_commit_is_told_in_the_order_of_the_writes(tmp_path: Path) -> None:
    asked: list[int] = []
    told: list[int] = []

    async def write(number: int) -> None:
        asked.append(number)
        await store.insert(task(f"web-{number}"), then=partial(told.append, number))

    async with opened(tmp_path / "mill.db") as store, trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(write, number)
    assert told == asked


@pytest.mark.parametrize("broken", ["\ud800", 2**63])
async def test_a_write_of_several_statements_is_all_or_nothing(tmp_path: Path, broken: object) -> None:
    put = "INSERT OR REPLACE INTO facts VALUES (?, ?)"
    async with opened(tmp_path / "mill.db") as store:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.put_fact, "beside", "kept")
            with pytest.raises(MillError):
                await store.keep([(put, ("first", "lost")), (put, ("second", broken))], synced=True)
        await store.keep([(put, ("third", "kept")), (put, ("fourth", "kept"))], synced=True)
        found = {name: await store.fact(name) for name in ("beside", "first", "second", "third", "fourth")}
    assert found == {"beside": "kept", "first": None, "second": None, "third": "kept", "fourth": "kept"}
