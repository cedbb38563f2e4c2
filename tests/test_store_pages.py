"""Pages of records: as the filter in memory judges, newest first, each once, and quick however many there are."""

import math
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from time import perf_counter

import attrs
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from mill.model import Deadline, Owned, Record, Status, Task
from mill.store import Store
from mill.tasks import rows
from mill.tasks.filter import Filter
from tests.tasks.scene import make_record, make_spec
from tests.test_store import opened, put_all, task, trace

ANY = Filter()

KEYS = ["a", "b.c", "ä", "x y", '"', "[0]", "\\"]
VALUES = ["", "1", "true", "null", "1.0", "ä", '"', "%"]
labels = st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES), max_size=3)
records = st.builds(
    lambda status, labels, node, node_id, template, created: make_record(
        "x", status, spec=make_spec(labels=labels), node=node, node_id=node_id, template=template, created=created
    ),
    st.sampled_from(Status),
    labels,
    st.sampled_from(["n1", "n2"]),
    st.sampled_from(["n1", "n3"]),
    st.sampled_from([None, "agent", "web"]),
    st.sampled_from([1000.0, 1000.5, 1000.001, 1000.0004, 1000.0009, 2000.0]),
)  # fmt: skip
filters = st.builds(
    Filter,
    statuses=st.lists(st.sampled_from([str(status) for status in Status]), max_size=2).map(tuple),
    labels=labels.map(lambda wanted: tuple(wanted.items())),
    node=st.sampled_from([None, "n1", "n2", "n3"]),
    template=st.sampled_from([None, "agent", "none"]),
    task=st.sampled_from([None, None, "web-01", "web-99"]),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(records, max_size=12), st.lists(filters, min_size=1, max_size=8), st.integers(1, 5))
def test_pages_hold_what_the_filter_accepts_newest_first_each_once(
    tmp_path_factory: pytest.TempPathFactory, found: list[Record], wanted: list[Filter], limit: int
) -> None:
    path = tmp_path_factory.mktemp("pages") / "mill.db"
    tasks = [Task(attrs.evolve(record, id=f"web-{n:02d}")) for n, record in enumerate(found)]

    async def check() -> None:
        async with opened(path) as store:
            await put_all(store, tasks)
            for one in wanted:
                await check_filter(store, one)

    async def check_filter(store: Store, one: Filter) -> None:
        page = await store.page(one, None, limit)
        pages = page.records
        while page.next is not None:
            page = await store.page(one, page.next, limit)
            assert 1 <= len(page.records) <= limit
            pages += page.records
        assert pages == (await store.page(one, None, 1000)).records
        accepted = [task.record for task in tasks if one.accepts(task.record)]
        assert {record.id for record in pages} == {record.id for record in accepted}
        order = [(record.times.created, record.id) for record in pages]
        assert order == sorted(order, reverse=True)
        assert len(set(order)) == len(order)

    trio.run(check)


async def test_the_next_page_goes_on_where_the_last_ended_though_json_times_are_milliseconds(
    tmp_path: Path,
) -> None:
    seen: list[str] = []
    after = None
    async with opened(tmp_path / "mill.db") as store:
        await put_all(store, [task(f"web-{n}", created=1000.0 + n * 0.0002) for n in range(20)])
        while page := (await store.page(ANY, after, 3)).records:
            seen += [record.id for record in page]
            after = (page[-1].times.created, page[-1].id)
    assert len(seen) == len(set(seen)) == 20


@pytest.mark.parametrize(
    ("now", "now_s", "over"),
    [
        (10_000.0, 3_000.0, {"earlier"}),
        (
            500_000.0,
            3_000.0,
            {"earlier", "ahead"},
        ),  # the wall clock was set forward: it judges earlier boots only
        (-90_000.0, 3_000.0, set()),  # or back: it knows no better
        (
            -90_000.0,
            5_000.0,
            {"earlier", "ahead"},
        ),  # but this boot is older than an hour, the others all the more
        (-90_000.0, 8_200.0, {"earlier", "ahead", "here"}),
    ],
)
async def test_what_has_ended_goes_by_the_boot_s_clock_and_before_it_by_the_wall_clock(
    tmp_path: Path, now: float, now_s: float, over: set[str]
) -> None:
    ended = {"here": ("b", 4_500.0, 9_500.0), "earlier": ("a", 70.0, 1_000.0), "ahead": ("z", 70.0, 90_000.0)}
    async with opened(tmp_path / "mill.db") as store:
        for task_id, (boot_id, at_s, finished) in ended.items():
            row = task(task_id, Status.STOPPED, created=finished - 1)
            await store.insert(attrs.evolve(row, owned=Owned(ended=Deadline(boot_id, at_s))))
        await store.insert(task("live", created=0.0))
        found = await store.expired(now - 3_600, 10, boot_id="b", at_s=now_s - 3_600)
    assert sorted(found) == sorted(over)


def fill(path: Path, count: int) -> None:
    made = [
        rows.row_of(
            task(f"web-{n:05d}", Status.STOPPED, created=float(n), spec=make_spec(labels={"n": str(n % 7)}))
        )
        for n in range(count)
    ]
    with closing(sqlite3.connect(path)) as other, other:
        other.executemany(rows.PUT, made)


async def best_of(times: int, call: Callable[[], Awaitable[object]]) -> float:
    best = math.inf
    for _ in range(times):
        began = perf_counter()
        await call()
        best = min(best, perf_counter() - began)
    return best


async def test_ten_thousand_ended_records_slow_neither_a_page_nor_a_write(tmp_path: Path) -> None:
    """Far above what it takes (3 to 30 ms), since others use this machine too; the next test shows why it is quick."""
    path = tmp_path / "mill.db"
    probe = task("probe", Status.STOPPED, created=-1.0)
    async with opened(path) as store:
        await trio.to_thread.run_sync(fill, path, 10_000)
        assert await best_of(5, partial(store.page, ANY, None, 100)) < 0.5
        assert await best_of(5, partial(store.page, ANY, (5000.0, "web-05000"), 100)) < 0.5
        assert await best_of(3, partial(store.page, Filter(labels=(("n", "none"),)), None, 100)) < 2.0
        assert await best_of(5, store.live) < 0.2
        assert await best_of(5, partial(store.put, probe)) < 0.5


READS: dict[str, tuple[Callable[[Store], Awaitable[object]], str]] = {
    "the first page": (lambda store: store.page(ANY, None, 100), "SCAN tasks USING INDEX tasks_by_age"),
    "a later page": (lambda store: store.page(ANY, (5.0, "web-05"), 100), "SEARCH tasks USING INDEX tasks_by_age"),
    "one": (lambda store: store.get("web-05"), "SEARCH tasks USING INDEX sqlite_autoindex_tasks_1"),
    "some": (lambda store: store.known(["web-05"]), "SEARCH tasks USING COVERING INDEX sqlite_autoindex_tasks_1"),
    "live tasks": (Store.live, "SCAN tasks USING INDEX tasks_live"),
    "live ids": (lambda store: store.ids(live=True), "SCAN tasks USING INDEX tasks_live"),
    "the longest ended": (lambda store: store.longest_ended(None, 200), "SCAN tasks USING INDEX mine_by_end"),
    "those after them": (lambda store: store.longest_ended((5.0, "a"), 200), "SEARCH tasks USING INDEX mine_by_end"),
    "those whose time is over": (
        lambda store: store.expired(5.0, 200, boot_id="b", at_s=1.0), "COMPOUND QUERY"),
}  # fmt: skip
"""What milld reads of its records, and how SQLite is to find it: by an index, in its order, however many there are."""


@pytest.mark.parametrize("what", READS)
async def test_every_read_is_off_an_index_and_only_live_tasks_are_sorted(
    what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    read, wanted = READS[what]
    path, statements = tmp_path / "mill.db", trace(monkeypatch)
    async with opened(path) as store:
        await trio.to_thread.run_sync(fill, path, 50)
        statements.clear()
        await read(store)
    (asked,) = (statement for statement in statements if statement.lstrip().startswith("SELECT"))
    with closing(sqlite3.connect(path)) as other:
        plan = [row[3] for row in other.execute(f"EXPLAIN QUERY PLAN {asked}")]
    assert plan[0].startswith(wanted), plan
    assert all("USING" in step for step in plan if step.startswith(("SCAN tasks", "SEARCH tasks"))), plan
    assert what == "live tasks" or not any("TEMP B-TREE" in step for step in plan), plan
