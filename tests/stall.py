"""How long the event loop was held up: a task that sleeps 5 ms at a time and notes how late it wakes.

Time in which the kernel left a thread of this process waiting for a processor (``/proc/self/task/*/schedstat``) is not
the loop's fault on a machine that does other things, and is taken off. Called by tests that promise a lively loop.
"""

import threading
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import attrs
import trio

TICK_S = 0.005
_TASKS = Path("/proc/self/task")


@attrs.define
class Stalls:
    """`worst_s` is what is left of the longest lateness, `worst_raw_s` the longest as a clock on the wall saw it."""

    ticks: int = 0
    worst_s: float = 0.0
    worst_raw_s: float = 0.0


@asynccontextmanager
async def watching() -> AsyncGenerator[Stalls]:
    """Watch the loop for the length of the block."""
    stalls = Stalls()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch, stalls)
        yield stalls
        nursery.cancel_scope.cancel()


async def _watch(stalls: Stalls) -> None:
    while True:
        before, began = _waits_s(), time.perf_counter()
        try:
            await trio.sleep(TICK_S)
        finally:  # a stall that lasts until the block ends counts, too
            late = time.perf_counter() - began - TICK_S
            stalls.ticks += 1
            stalls.worst_raw_s = max(stalls.worst_raw_s, late)
            stalls.worst_s = max(stalls.worst_s, late - _excuse_s(before, _waits_s()))


def _excuse_s(before: dict[int, float], after: dict[int, float]) -> float:
    """How long this thread waited for a processor, and the one other that may have held the interpreter's lock meanwhile."""
    waited = {thread: total - before.get(thread, total) for thread, total in after.items()}
    own = waited.pop(threading.get_native_id(), 0.0)
    return own + max(waited.values(), default=0.0)


def _waits_s() -> dict[int, float]:
    found = {}
    for thread in _TASKS.iterdir():
        with suppress(OSError):  # it has just ended
            found[int(thread.name)] = int((thread / "schedstat").read_text().split()[1]) / 1e9
    return found
