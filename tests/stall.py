"""How long the event loop was held up: a task that sleeps 5 ms at a time and notes how late it wakes.

Time in which the kernel left a thread of this process waiting for a processor (``/proc/self/task/*/schedstat``) is not
the loop's fault on a machine that does other things, and is taken off; so is the time in which the hypervisor ran
something else (`steal` of ``/proc/stat``). Called by tests that promise a lively loop.
"""

import os
import threading
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from operator import sub
from pathlib import Path

import attrs
import trio

TICK_S = 0.005
SUSPECT_S = 0.005
_TASKS = Path("/proc/self/task")
_STAT = Path("/proc/stat")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


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
        before, stolen, began = _waits_s(), _stolen_s(), time.perf_counter()
        try:
            await trio.sleep(TICK_S)
        finally:  # a stall that lasts until the block ends counts, too
            late = time.perf_counter() - began - TICK_S
            stalls.ticks += 1
            stalls.worst_raw_s = max(stalls.worst_raw_s, late)
            if late > SUSPECT_S:  # looking closer costs a while itself
                late -= _excuse_s(before, _waits_s())
                late -= max(map(sub, _stolen_s(), stolen), default=0.0)
            stalls.worst_s = max(stalls.worst_s, late)


def _excuse_s(before: dict[int, float], after: dict[int, float]) -> float:
    """How long this thread waited for a processor, and the one other that may have held the interpreter's lock meanwhile."""
    waited = {thread: total - before.get(thread, total) for thread, total in after.items()}
    own = waited.pop(threading.get_native_id(), 0.0)
    return own + max(waited.values(), default=0.0)


def _stolen_s() -> list[float]:
    """Of each processor, in steps of 10 ms (proc(5))."""
    lines = _STAT.read_text().splitlines()[1:]
    return [int(line.split()[8]) / _TICKS_PER_S for line in lines if line.startswith("cpu")]


def _waits_s() -> dict[int, float]:
    found = {}
    for thread in _TASKS.iterdir():
        with suppress(OSError):  # it has just ended
            found[int(thread.name)] = int((thread / "schedstat").read_text().split()[1]) / 1e9
    return found
