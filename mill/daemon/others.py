"""The tasks of other nodes that have not ended, in memory, for listings and names. Fed by `replicated`; as `tasks.ports.Others`."""

from collections.abc import Callable, Iterator
from uuid import UUID

import attrs
import trio

from mill.cluster.values import Address, NodeId
from mill.model import Record


@attrs.define(eq=False)
class Others:
    """*silent_s* says for how long a node has not answered; *address*, where it is."""

    silent_s: Callable[[NodeId], float | None]
    address: Callable[[NodeId], Address | None]
    _live: dict[str, Record] = attrs.field(factory=dict)
    _news: trio.Event = attrs.field(factory=trio.Event)

    def learn(self, task_id: str, record: Record | None) -> None:
        """None: it has ended, or is forgotten."""
        if record is None:
            self._live.pop(task_id, None)
        else:
            self._live[task_id] = record
        self._news.set()
        self._news = trio.Event()

    def get(self, task_id: str) -> Record | None:
        return self._live.get(task_id)

    def live(self) -> Iterator[Record]:
        return map(self.shown, list(self._live.values()))

    def shown(self, record: Record) -> Record:
        if record.status.terminal:
            return record
        return attrs.evolve(record, unreachable=self.silent_s(owner_of(record)))

    async def wait_change(self) -> None:
        await self._news.wait()

    def host_of(self, record: Record) -> str | None:
        """The address of its node."""
        address = self.address(owner_of(record))
        return None if address is None else address.host


def owner_of(record: Record) -> NodeId:
    return NodeId(UUID(record.node_id).hex)
