"""The network's own thread: a network namespace is a thread's, so that the one that makes namespaces is used for nothing else.

Not of trio's pool: a thread that could not get back into the host's namespace would serve files and databases from a
wrong one. Started and stopped by `service`; whatever speaks to the kernel runs in it, one job after another.
"""

import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import attrs
import outcome
import trio

T = TypeVar("T")


@attrs.define(eq=False)
class _Job:
    work: Callable[[], Any]
    token: trio.lowlevel.TrioToken
    done: trio.Event = attrs.field(factory=trio.Event)
    result: outcome.Maybe[Any] | None = None


class Worker:
    """Runs blocking work in its thread. `run` is not interrupted: what was made is always handed over."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="mill-network", daemon=True)
        self._thread.start()

    async def run(self, work: Callable[[], T]) -> T:
        job = _Job(work, trio.lowlevel.current_trio_token())
        self._jobs.put(job)
        with trio.CancelScope(shield=True):
            await job.done.wait()
        assert job.result is not None  # noqa: S101 -- set before `done`
        result: T = job.result.unwrap()
        return result

    def stop(self) -> None:
        """Once what was asked for is done."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.result = outcome.capture(job.work)
            job.token.run_sync_soon(job.done.set)
