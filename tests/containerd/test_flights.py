"""Work that several want is done once, and ends when nobody wants it any more."""

import pytest
import trio
import trio.testing
from structlog.testing import capture_logs

from mill.containerd.flights import REPORT_EVERY_S, Flights
from mill.containerd.progress import Progress
from mill.errors import PullError
from mill.model import PullProgress


class Work:
    """Counts how often it was begun and ended; ends when told."""

    def __init__(self) -> None:
        self.begun = self.ended = 0
        self.go_on = trio.Event()

    async def __call__(self, progress: Progress) -> str:
        self.begun += 1
        progress.total = 10
        try:
            await self.go_on.wait()
            progress.other = 10
            return "done"
        finally:
            self.ended += 1


def ignore(_: PullProgress) -> None:
    pass


async def test_all_get_the_result_of_one_piece_of_work(nursery: trio.Nursery) -> None:
    work, flights, found = Work(), Flights[str](nursery), list[str]()

    async def join() -> None:
        found.append(await flights.join("key", work, ignore))

    async with trio.open_nursery() as waiters:
        for _ in range(5):
            waiters.start_soon(join)
        await trio.testing.wait_all_tasks_blocked()
        assert flights.under_way("key")
        work.go_on.set()
    assert (work.begun, found) == (1, ["done"] * 5)
    assert flights.outcomes == {"ok": 1}
    assert not flights.under_way("key")


async def test_work_ends_with_its_last_waiter_and_is_begun_anew_by_the_next(nursery: trio.Nursery) -> None:
    work, flights = Work(), Flights[str](nursery)
    scopes = [trio.CancelScope() for _ in range(2)]

    async def join(scope: trio.CancelScope) -> None:
        with scope:
            await flights.join("key", work, ignore)

    async with trio.open_nursery() as waiters:
        for scope in scopes:
            waiters.start_soon(join, scope)
        await trio.testing.wait_all_tasks_blocked()
        scopes[0].cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert work.ended == 0
        scopes[1].cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert (work.begun, work.ended) == (1, 1)
    work.go_on.set()
    assert await flights.join("key", work, ignore) == "done"
    assert work.begun == 2
    assert flights.outcomes == {"cancelled": 1, "ok": 1}


async def test_every_waiter_gets_an_error_of_its_own(nursery: trio.Nursery) -> None:
    async def fail(_: Progress) -> str:
        await trio.lowlevel.checkpoint()
        raise PullError("digest", "wrong")

    flights, errors = Flights[str](nursery), list[PullError]()

    async def join() -> None:
        with pytest.raises(PullError, match="wrong") as caught:
            await flights.join("key", fail, ignore)
        errors.append(caught.value)

    async with trio.open_nursery() as waiters:
        for _ in range(3):
            waiters.start_soon(join)
    assert {error.detail for error in errors} == {"digest"}
    assert len({id(error) for error in errors}) == 3
    assert flights.outcomes == {"digest": 1}


async def test_a_bug_ends_the_pull_that_met_it_and_nothing_else(nursery: trio.Nursery) -> None:
    async def stumble(_: Progress) -> str:
        await trio.lowlevel.checkpoint()
        raise ZeroDivisionError

    flights = Flights[str](nursery)
    with (
        capture_logs() as logs,
        pytest.raises(PullError, match=r"fault of Mill itself .ZeroDivisionError.") as caught,
    ):
        await flights.join("key", stumble, ignore)
    assert caught.value.detail == "invalid"
    assert [entry["log_level"] for entry in logs] == ["error"]
    work = Work()
    work.go_on.set()
    assert await flights.join("key", work, ignore) == "done"
    assert flights.outcomes == {"invalid": 1, "ok": 1}


async def test_progress_is_told_when_it_changes_and_at_the_end(
    nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    async def work(progress: Progress) -> str:
        await trio.sleep(10 * REPORT_EVERY_S)
        progress.total = 100
        for done in range(100):
            progress.other = done
            await trio.sleep(REPORT_EVERY_S / 10)
        progress.other = 100
        return "done"

    told: list[PullProgress] = []
    await Flights[str](nursery).join("key", work, told.append)
    assert 9 <= len(told) <= 12
    assert told[-1] == PullProgress(100, 100)
    assert autojump_clock.current_time() < 30 * REPORT_EVERY_S
