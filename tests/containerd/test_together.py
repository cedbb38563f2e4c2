"""Calls at once, and calls that may come to their end although nobody waits any more."""

from collections.abc import Awaitable, Callable

import pytest
import trio

from mill.containerd.together import finishing, together
from mill.errors import NotFound


def after(delay_s: float, result: str, done: list[str]) -> Callable[[], Awaitable[str]]:
    async def call() -> str:
        await trio.sleep(delay_s)
        done.append(result)
        if result == "fails":
            raise NotFound(result)
        return result

    return call


async def test_results_come_in_the_order_of_the_calls(autojump_clock: trio.testing.MockClock) -> None:
    done: list[str] = []
    began = autojump_clock.current_time()
    assert await together(after(3, "a", done), after(1, "b", done), after(2, "c", done)) == ["a", "b", "c"]
    assert done == ["b", "c", "a"]
    assert autojump_clock.current_time() - began == 3


async def test_a_failure_waits_for_the_others(autojump_clock: trio.testing.MockClock) -> None:
    """What containerd is still working on must not outlive the cleaning up."""
    del autojump_clock
    done: list[str] = []
    with pytest.raises(NotFound):
        await together(after(1, "fails", done), after(5, "late", done))
    assert done == ["fails", "late"]


async def test_finishing_gives_the_result_or_the_error(autojump_clock: trio.testing.MockClock) -> None:
    done: list[str] = []
    assert await finishing(after(5, "whole", done), within_s=1) == "whole"
    with pytest.raises(NotFound):
        await finishing(after(5, "fails", done), within_s=1)
    assert autojump_clock.current_time() == 10


@pytest.mark.parametrize(
    ("takes_s", "done_s", "ended"), [(2.5, 2.5, ["x"]), (9.0, 3.0, []), (0.5, 0.5, ["x"])]
)
async def test_a_cancelled_call_has_its_time_and_no_more(
    autojump_clock: trio.testing.MockClock, takes_s: float, done_s: float, ended: list[str]
) -> None:
    done: list[str] = []
    with trio.move_on_after(2) as scope:
        await finishing(after(takes_s, "x", done), within_s=1)
    assert scope.cancelled_caught == (takes_s > 2)
    assert autojump_clock.current_time() == pytest.approx(done_s)
    assert done == ended


async def test_an_error_after_the_cancelling_is_nobodys(autojump_clock: trio.testing.MockClock) -> None:
    del autojump_clock
    with trio.move_on_after(1) as scope:
        await finishing(after(1.5, "fails", []), within_s=1)
    assert scope.cancelled_caught
