"""Network namespaces made ahead of time, so that a start finds one: a few that are ready, refilled in the background.

They are held by descriptors alone. A milld that is killed takes them along, and the kernel removes what hung on them:
there is no file and no mount to be left behind.
"""

import os
from collections import deque
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address

import attrs
import structlog
import trio

from mill.errors import NoCapacity, StartError

SIZE = 8
"""Ready ones: as many as a burst of starts that two cores serve in the time that it takes to make as many again."""
LOW = 4
"""Below it the pool is filled at once; above it, when the start that took one is over."""
PAUSE_S = 0.1
"""About what a start takes, which needs the processor more."""
RETRY_S = 1.0
"""After a namespace could not be made."""

log = structlog.get_logger()


@attrs.frozen
class Ready:
    """A namespace with an address; `holder` is the lease's until a task has it."""

    holder: str
    address: IPv4Address
    descriptor: int

    @property
    def path(self) -> str:
        """Where the OCI runtime finds it, as long as milld holds it."""
        return f"/proc/{os.getpid()}/fd/{self.descriptor}"


@attrs.define(eq=False)
class Pool:
    """*make* makes one; it raises `NoCapacity` while no address is free."""

    _make: Callable[[], Awaitable[Ready]]
    size: int = SIZE
    _ready: deque[Ready] = attrs.field(factory=deque)
    _waiting: int = 0
    _fault: OSError | None = None
    _wanted: trio.Event = attrs.field(factory=trio.Event)
    _news: trio.Event = attrs.field(factory=trio.Event)

    def __len__(self) -> int:
        return len(self._ready)

    async def take(self) -> Ready:
        """One of the ready ones, or the next that is made. `StartError` when none can be made."""
        self._waiting += 1
        self.refresh()
        try:
            while not self._ready:
                await self._news.wait()
                if self._fault is not None:
                    message = f"no network namespace can be made: {self._fault.strerror}"
                    raise StartError("runtime", message)
            return self._ready.popleft()
        finally:
            self._waiting -= 1

    def take_nowait(self) -> Ready | None:
        """One of the ready ones that nobody waits for."""
        if self._waiting or not self._ready:
            return None
        self.refresh()
        return self._ready.popleft()

    def refresh(self) -> None:
        """An address has become free, or a ready one was taken: see whether there is something to do."""
        self._wanted.set()

    async def refill(self) -> None:
        """Until cancelled."""
        while True:
            if not self._waiting and len(self._ready) >= LOW:
                if len(self._ready) >= self.size:
                    await self._wanted.wait()
                self._wanted = trio.Event()
                await trio.sleep(PAUSE_S)
                if len(self._ready) >= self.size:
                    continue
            await self._make_one()

    async def _make_one(self) -> None:
        try:
            self._ready.append(await self._make())
            self._fault = None
        except NoCapacity:
            await self._wanted.wait()
            self._wanted = trio.Event()
        except OSError as error:
            if self._fault is None or self._fault.errno != error.errno:
                log.warning("no network namespace can be made; trying on", why=error.strerror)
            self._fault = error
        news, self._news = self._news, trio.Event()
        news.set()
        if self._fault is not None:
            await trio.sleep(RETRY_S)

    def close(self) -> list[Ready]:
        """The ready ones go; they are returned."""
        gone = list(self._ready)
        self._ready.clear()
        for ready in gone:
            os.close(ready.descriptor)
        return gone
