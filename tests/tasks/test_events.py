"""Subscribers of state changes: each change once and in order at any pace, gaps told, one read of the table for many."""

import itertools
from collections.abc import Sequence

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from mill.config import EVENTS_BATCH, EVENTS_HEARTBEAT_S
from mill.model import Status
from mill.tasks import events as events_module
from mill.tasks.events import Events, Subscription
from mill.tasks.filter import Filter
from mill.tasks.journal import Event
from tests.tasks.fakes import FakeJournal
from tests.tasks.scene import make_record, make_spec

ANY = Filter()


@pytest.fixture
def journal() -> FakeJournal:
    return FakeJournal()


async def numbers(subscription: Subscription, count: int) -> list[int]:
    """Of the next *count* events; anything missed is a failure."""
    found: list[int] = []
    while len(found) < count:
        batch = await subscription.next_batch()
        assert batch.missed == 0
        assert [key for key, _ in batch.events] == [f"e0-{event.seq}" for _, event in batch.events]
        found += [event.seq for _, event in batch.events]
    return found


def fill(journal: FakeJournal, count: int, size: int = 0) -> None:
    for _ in range(count):
        journal.add(make_record(message="x" * size))


async def test_a_subscriber_is_told_what_happens_from_then_on(journal: FakeJournal) -> None:
    fill(journal, 3)
    subscription = Events(journal).subscribe(None, ANY)
    assert (subscription.id, subscription.lost) == ("e0-3", False)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _later() -> None:
            await wait_all_tasks_blocked()
            fill(journal, 2)

        assert await numbers(subscription, 2) == [4, 5]
    assert subscription.id == "e0-5"


async def test_an_id_resumes_behind_its_event(journal: FakeJournal) -> None:
    fill(journal, 200)
    for after in (0, 1, 150, 199):
        subscription = Events(journal).subscribe(f"e0-{after}", ANY)
        assert await numbers(subscription, 200 - after) == list(range(after + 1, 201))


@pytest.mark.parametrize(
    "unknown",
    ["e1-3", "e0-9", "3", "", "e0-", "e0--1", "e0-03", "e0-\u0663", "x" * 5000, "e0-" + "9" * 5000, "\ud800"],
)
async def test_an_id_that_means_nothing_here_begins_with_the_oldest_and_says_so(
    journal: FakeJournal, unknown: str
) -> None:
    fill(journal, 4)
    journal.forget(1)
    subscription = Events(journal).subscribe(unknown, ANY)
    assert subscription.lost
    assert await numbers(subscription, 3) == [2, 3, 4]


async def test_changes_that_are_no_longer_kept_are_counted_before_those_that_are(
    journal: FakeJournal,
) -> None:
    fill(journal, 10)
    journal.forget(3, 4, 5, 8)
    batch = await Events(journal).subscribe("e0-2", ANY).next_batch()
    assert (batch.missed, [event.seq for _, event in batch.events], batch.id) == (4, [6, 7, 9, 10], "e0-10")


async def test_a_journal_whose_end_was_deleted_is_told_once_and_then_waited_on(journal: FakeJournal) -> None:
    fill(journal, 5)
    subscription = Events(journal).subscribe("e0-2", ANY)
    journal.forget(3, 4, 5)
    assert ((batch := await subscription.next_batch()).missed, batch.events) == (3, ())
    assert (batch := await subscription.next_batch()).missed == 0
    assert not batch.events


async def test_silence_is_broken_by_signs_of_life(journal: FakeJournal) -> None:
    subscription = Events(journal).subscribe(None, Filter(task="other"))
    fill(journal, 3)
    began = trio.current_time()
    batch = await subscription.next_batch()
    assert trio.current_time() - began == pytest.approx(EVENTS_HEARTBEAT_S)
    assert (batch.events, batch.id) == ((), "e0-3")  # what was passed over need not be read again


async def test_filters_let_through_what_a_listing_would(journal: FakeJournal) -> None:
    journal.add(
        make_record("web-1", Status.RUNNING, template="web"),
        make_record("web-2", Status.FAILED, template="web"),
        make_record("db-1", Status.RUNNING, spec=make_spec(labels={"team": "blue", "x": "y"})),
    )
    for wanted, expected in {
        Filter(task="web-2"): [2],
        Filter(template="web"): [1, 2],
        Filter(template="web", statuses=("running",)): [1],
        Filter(labels=(("team", "blue"),)): [3],
        Filter(statuses=("failed", "running")): [1, 2, 3],
    }.items():
        found = await numbers(Events(journal).subscribe("e0-0", wanted), len(expected))
        assert found == expected, wanted


async def test_what_only_a_newer_mill_can_read_fits_no_filter_and_passes_without_one(
    journal: FakeJournal,
) -> None:
    journal.add(make_record())
    journal.kept = [
        Event(1, "2030-01-01T00:00:00.000Z", '{"id": "web-0000", "status": "frozen"}', "web-0000")
    ]
    assert not journal.kept[0].fits(Filter(task="web-0000"))
    assert journal.kept[0].fits(ANY)


async def test_many_who_keep_up_share_one_read_of_the_table(journal: FakeJournal) -> None:
    events = Events(journal)
    found: list[list[int]] = []
    async with trio.open_nursery() as nursery:

        async def follow() -> None:
            found.append(await numbers(events.subscribe(None, ANY), 30))

        for _ in range(20):
            nursery.start_soon(follow)
        for _ in range(10):
            await wait_all_tasks_blocked()
            fill(journal, 3)
    assert found == [list(range(1, 31))] * 20
    assert len(journal.reads) == 10


async def test_who_lags_reads_batches_of_the_table_and_holds_up_nobody(journal: FakeJournal) -> None:
    events = Events(journal)
    slow, quick = events.subscribe(None, ANY), events.subscribe(None, ANY)
    for begin in range(0, 3000, 100):
        fill(journal, 100, size=5000)
        assert await numbers(quick, 100) == list(range(begin + 1, begin + 101))
    reads = len(journal.reads)
    assert await numbers(slow, 3000) == list(range(1, 3001))
    assert len(journal.reads) - reads >= 2700 / EVENTS_BATCH


async def test_the_tail_is_bounded_by_bytes_and_by_how_far_it_is_behind(
    journal: FakeJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_module, "EVENTS_TAIL_BYTES", 100_000)
    events = Events(journal)
    subscription = events.subscribe(None, ANY)
    fill(journal, 100, size=9000)
    assert await numbers(subscription, 100) == list(range(1, 101))
    assert 5 <= len(events._tail) <= 11
    assert sum(len(event.record) for event in events._tail) == events._tail_bytes <= 100_000
    fill(journal, 3 * events_module.TAIL_EVENTS)
    assert await numbers(subscription, 1500) == list(range(101, 1601))
    late = events.subscribe(None, ANY)
    fill(journal, 1, size=200_000)  # larger than the tail may be
    assert await numbers(late, 1) == [1601]
    assert repr(events) == "<Events e0: tail 1601 to 1601 of 1601>"


@pytest.mark.parametrize("seed", range(20))
async def test_every_pace_and_any_number_of_resumptions_see_each_change_once(
    journal: FakeJournal, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Writers, a tail of a few events, and readers that break off in the middle of everything."""
    monkeypatch.setattr(events_module, "EVENTS_TAIL_BYTES", 8000)
    monkeypatch.setattr(events_module, "EVENTS_BATCH", 7)
    journal.slow_s = 0.01
    events = Events(journal)
    found: dict[int, list[int]] = {}

    async def write() -> None:
        for pause in itertools.islice(itertools.cycle([0.0, 0.001, 0.05, 0.2]), 150):
            fill(journal, 1 + seed % 4)
            await trio.sleep(pause)

    async def read(pace: int, started: trio.Event) -> None:
        cursor, mine = events.subscribe(None, ANY).id, found.setdefault(pace, [])
        started.set()
        while len(mine) < 150 * (1 + seed % 4):
            subscription = events.subscribe(cursor, ANY)
            with trio.move_on_after(0.013 * pace * (1 + seed)):
                while True:
                    batch = await subscription.next_batch()
                    assert batch.missed == 0
                    mine.extend(event.seq for _, event in batch.events)
                    cursor = batch.id
                    await trio.sleep(0.004 * pace)

    async with trio.open_nursery() as nursery:
        begun: Sequence[trio.Event] = [trio.Event() for _ in range(4)]
        for pace, started in enumerate(begun, 1):
            nursery.start_soon(read, pace, started)
        for started in begun:
            await started.wait()
        nursery.start_soon(write)
    assert set(map(tuple, found.values())) == {tuple(range(1, 150 * (1 + seed % 4) + 1))}
