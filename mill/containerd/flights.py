"""One piece of work for everybody who wants the same: whoever comes while it runs waits for it instead of beginning anew.

Knows nothing of images; `images` is its caller. A waiter may be cancelled on its own; when the last one is, the work is.
"""

from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable
from contextlib import aclosing
from typing import Generic, TypeVar

import attrs
import structlog
import trio

from mill.containerd.progress import Progress
from mill.errors import PullError
from mill.model import PullProgress

REPORT_EVERY_S = 0.1  # a waiter hears of progress no more often
OK, CANCELLED = "ok", "cancelled"
"""How work ends, apart from errors; it is cancelled when nobody waits for it any more."""

T = TypeVar("T")

log = structlog.get_logger()


@attrs.frozen
class Landed(Generic[T]):
    """The end of a piece of work that went well."""

    result: T


@attrs.define(eq=False)
class _Flight(Generic[T]):
    progress: Progress = attrs.field(factory=Progress)
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    done: trio.Event = attrs.field(factory=trio.Event)
    waiters: int = 0
    result: T | None = None
    error: PullError | None = None

    @property
    def outcome(self) -> str:
        if self.error is not None:
            return self.error.detail
        return OK if self.result is not None else CANCELLED


@attrs.define(eq=False)
class Flights(Generic[T]):
    """The work under way, by key. It runs in *nursery*, not in a waiter's."""

    nursery: trio.Nursery
    outcomes: Counter[str] = attrs.field(factory=Counter, init=False)
    """How often work ended in which way, since milld started: `OK`, `CANCELLED`, or an error's detail."""
    _flights: dict[Hashable, _Flight[T]] = attrs.field(factory=dict, init=False)

    def under_way(self, key: Hashable) -> bool:
        return key in self._flights

    async def join(
        self,
        key: Hashable,
        work: Callable[[Progress], Awaitable[T]],
        on_progress: Callable[[PullProgress], None],
    ) -> T:
        """The result of the *work* that is under way for *key*, begun here if there is none."""
        async with aclosing(self.watch(key, work, REPORT_EVERY_S)) as told:
            async for news in told:
                if isinstance(news, Landed):
                    return news.result
                on_progress(news)
        raise AssertionError("a watch ends with what has landed")

    async def watch(
        self, key: Hashable, work: Callable[[Progress], Awaitable[T]], every_s: float
    ) -> AsyncGenerator[PullProgress | Landed[T], None]:
        """As `join`, told as it goes: progress where it has changed, each *every_s* at most, and last the result.

        Close it, else the work goes on for nobody.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight()
            self.nursery.start_soon(self._fly, key, flight, work)
        flight.waiters += 1
        try:
            told: PullProgress | None = None
            over = False
            while not over:
                with trio.move_on_after(every_s):
                    await flight.done.wait()
                over, value = flight.done.is_set(), flight.progress.value()
                if value != told and value.total is not None:
                    yield value
                    told = value
        finally:
            flight.waiters -= 1
            if not flight.waiters and not flight.done.is_set():
                self._forget(key, flight)  # whoever comes now begins anew
                flight.scope.cancel()
        if flight.error is not None:
            raise PullError(flight.error.detail, flight.error.message) from flight.error
        if flight.result is None:
            await trio.sleep_forever()  # the service is being cancelled, so this waiter will be
        assert flight.result is not None  # noqa: S101 -- for the type checker
        yield Landed(flight.result)

    async def _fly(self, key: Hashable, flight: _Flight[T], work: Callable[[Progress], Awaitable[T]]) -> None:
        try:
            with flight.scope:
                flight.result = await work(flight.progress)
        except PullError as error:
            flight.error = error
        except Exception as bug:  # a registry that finds a hole in Mill shall end its pull, not milld
            log.exception("a pull failed in a way that nobody foresaw", key=str(key))
            message = (
                f"the pull failed by a fault of Mill itself ({type(bug).__name__}): milld's log has more"
            )
            flight.error = PullError("invalid", message)
        finally:
            self._forget(key, flight)
            self.outcomes[flight.outcome] += 1
            flight.done.set()

    def _forget(self, key: Hashable, flight: _Flight[T]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]
