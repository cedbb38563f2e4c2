"""How the calls of a start are made: several at once, and not to be broken off half-way. Used by `runtime`."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import trio

from mill.errors import MillError

T = TypeVar("T")


async def together(*calls: Callable[[], Awaitable[Any]]) -> list[Any]:
    """The results in the order of *calls*; the first is begun first. When some fail, the first failure is raised once all
    have come to an end: a call that containerd is still working on must not outlive the cleaning up.
    """
    results: list[Any] = [None] * len(calls)
    failures: list[Exception] = []

    async def run(index: int, call: Callable[[], Awaitable[Any]]) -> None:
        try:
            results[index] = await call()
        except (MillError, OSError) as error:
            failures.append(error)

    async with trio.open_nursery() as nursery:
        for index, call in enumerate(calls[1:], 1):
            nursery.start_soon(run, index, call)
        await run(0, calls[0])
    if failures:
        raise failures[0]
    return results


async def finishing(call: Callable[[], Awaitable[T]], *, within_s: float) -> T:
    """The result of *call*, which may still come to its end *within_s* after it was cancelled.

    What containerd is in the middle of, it undoes in its own time, and whoever cleans up at once finds nothing yet.
    """

    async def patience() -> None:
        try:
            await trio.sleep_forever()
        finally:
            scope.deadline = trio.current_time() + within_s

    results: list[T] = []
    failures: list[Exception] = []
    async with trio.open_nursery() as nursery:
        with trio.CancelScope(shield=True) as scope:
            nursery.start_soon(patience)
            try:
                results.append(await call())
            except (MillError, OSError) as error:
                failures.append(error)
        nursery.cancel_scope.cancel()
    await trio.lowlevel.checkpoint_if_cancelled()
    if failures:
        raise failures[0]
    return results[0]
