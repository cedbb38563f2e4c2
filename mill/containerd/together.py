"""Several calls at once, for steps of a start that do not need each other. Used by `runtime`."""

from collections.abc import Awaitable, Callable
from typing import Any

import trio

from mill.errors import MillError


async def together(*calls: Callable[[], Awaitable[Any]]) -> list[Any]:
    """The results in the order of *calls*. When some fail, the first failure is raised once all have come to an end:
    a call that containerd is still working on must not outlive the cleaning up.
    """
    results: list[Any] = [None] * len(calls)
    failures: list[Exception] = []

    async def run(index: int, call: Callable[[], Awaitable[Any]]) -> None:
        try:
            results[index] = await call()
        except (MillError, OSError) as error:
            failures.append(error)

    async with trio.open_nursery() as nursery:
        for index, call in enumerate(calls):
            nursery.start_soon(run, index, call)
    if failures:
        raise failures[0]
    return results
