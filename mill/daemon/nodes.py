"""The nodes as the API shows them, and draining one: it takes no new task, and what runs on it runs on. Today it is this node alone.

That a node is being drained is stored: neither a restart nor an upgrade of milld lets tasks in again, `undrain` does.
"""

import attrs
import structlog

from mill import __version__
from mill.containerd.runtime import Runtime
from mill.errors import NotFound
from mill.model import NodeState, NodeView, Time
from mill.store import Store
from mill.tasks.service import Tasks

DRAINING = "draining"
"""The name of the fact in the store."""
YES, NO = "yes", "no"

log = structlog.get_logger()


@attrs.frozen
class Nodes:
    """As `api.core.NodeService`."""

    _store: Store
    _tasks: Tasks
    _engine: Runtime
    started: Time

    @classmethod
    async def load(cls, store: Store, tasks: Tasks, engine: Runtime, started: Time) -> "Nodes":
        tasks.draining = await store.fact(DRAINING) == YES
        if tasks.draining:
            log.warning("this node is being drained: it takes no new task until it is undrained")
        return cls(store, tasks, engine, started)

    @property
    def state(self) -> NodeState:
        if not self._tasks.draining:
            return NodeState.READY
        live = any(not live.task.record.status.terminal for live in self._tasks.table)
        return NodeState.DRAINING if live else NodeState.DRAINED

    def all(self) -> list[NodeView]:
        return [self._view()]

    async def drain(self, node: str) -> NodeView:
        """Let no new task in. *node* is an id or a name; `NotFound`."""
        return await self._set(node, draining=True)

    async def undrain(self, node: str) -> NodeView:
        return await self._set(node, draining=False)

    async def _set(self, node: str, *, draining: bool) -> NodeView:
        if node not in {self._engine.node_id, self._engine.node_name}:
            raise NotFound(f"no node {node!r} is known here: this one is {self._engine.node_name}")
        if draining != self._tasks.draining:
            await self._store.put_fact(DRAINING, YES if draining else NO)
            self._tasks.draining = draining
            log.info("no new tasks from now on" if draining else "new tasks are let in again")
        return self._view()

    def _view(self) -> NodeView:
        return NodeView(
            id=self._engine.node_id,
            name=self._engine.node_name,
            address=self._engine.ip,
            state=self.state,
            capacity=self._tasks.ledger.capacity,
            reserved=self._tasks.ledger.reserved,
            version=__version__,
            started=self.started,
        )
