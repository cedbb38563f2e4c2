"""Which names of images must stay: those of live tasks, those a spawn has just found, those a pull or load is writing.

Kept by `images`, which asks before it removes one; the daemon says where the tasks can be asked for. Names are normalised.
"""

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import attrs
import trio

from mill.containerd import reference
from mill.containerd.turns import Turns

FOUND_S = 2.0
"""How long an image that was looked up stays for the task that is being made: the runtime goes by a look for a second, and
then there is one commit."""

LiveImages = Callable[[], Iterable[tuple[str, str]]]
"""(task id, image as its spec says) of every live task."""


@attrs.define(eq=False)
class Holds:
    """One per node. A removal and the beginning of a write of one name take turns; a lookup waits for a removal."""

    _live: LiveImages = tuple
    _known: trio.Event = attrs.field(factory=trio.Event, init=False)
    _written: Counter[str] = attrs.field(factory=Counter, init=False)
    _found: dict[str, float] = attrs.field(factory=dict, init=False)
    _turns: Turns = attrs.field(factory=Turns, init=False)

    def ask_tasks(self, live: LiveImages) -> None:
        """The tasks of this node are known from now on."""
        self._live = live
        self._known.set()

    async def wait_known(self) -> None:
        """Until it can be told what the tasks use; before that nothing may be removed."""
        await self._known.wait()

    def tasks_of(self, name: str) -> list[str]:
        return sorted(task_id for task_id, image in self._live() if normalised(image) == name)

    def written(self, name: str) -> bool:
        """Whether a pull or load that will name it is under way."""
        return self._written[name] > 0

    def held(self) -> frozenset[str]:
        """Every name that must stay now."""
        return self._in_use() | self._lately().keys()

    def found_for_s(self) -> float:
        """How long until nothing is held any more only for having been found."""
        in_use = self._in_use()
        return max((left_s for name, left_s in self._lately().items() if name not in in_use), default=0.0)

    def _in_use(self) -> frozenset[str]:
        return frozenset({normalised(image) for _, image in self._live()} | set(+self._written))

    def _lately(self) -> dict[str, float]:
        """Names that were found, and how long that still counts."""
        now = trio.current_time()
        self._found = {name: at for name, at in self._found.items() if now - at < FOUND_S}
        return {name: at + FOUND_S - now for name, at in self._found.items()}

    def found(self, name: str) -> None:
        """Somebody may make a task of it now."""
        self._found[name] = trio.current_time()

    def removing(self, name: str) -> AbstractAsyncContextManager[None]:
        """For the length of a removal, whose caller has a last look at what must stay within."""
        return self._turns.of(name)

    async def settled(self, name: str) -> None:
        """Until a removal that is under way is over."""
        turn = self._turns.of(name)
        if turn.locked():
            async with turn:
                pass

    @asynccontextmanager
    async def writing(self, names: Sequence[str]) -> AsyncGenerator[None]:
        """For the length of a pull or load that will write *names*."""
        self._written.update(names)  # first: whatever begins to remove one from now on sees it
        try:
            for name in names:
                await self.settled(name)
            yield
        finally:
            self._written.subtract(names)


def normalised(image: str) -> str:
    """As the store names it; a text that is no reference names nothing there."""
    try:
        return reference.parse(image).normalised
    except ValueError:
        return image
