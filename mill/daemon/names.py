"""The node's tasks as DNS sees them: names and addresses, straight out of the table. Plugged in by `node`."""

from collections.abc import Callable

import attrs

from mill.dns.names import Name
from mill.model import Network
from mill.tasks.table import Table


@attrs.frozen
class TaskNames:
    """As `dns.names.Names`. `address` is the node's, which its tasks of network ``host`` have; *allotted* says what a task
    of the mesh was given that does not run yet.
    """

    table: Table
    address: str
    allotted: Callable[[str], str | None] = lambda _: None

    def lookup(self, task_id: str) -> Name | None:
        """A task is in the table from its commit, before the 201, until after its terminal record."""
        live = self.table.get(task_id)
        if live is None or live.task.record.status.terminal:
            return None
        record = live.task.record
        ip = self.address if record.spec.network is Network.HOST else record.ip or self.allotted(task_id)
        return Name((ip,) if ip is not None else (), record.spec.port)

    def reverse(self, address: str) -> str | None:
        for live in self.table:
            record = live.task.record
            if (
                record.ip == address
                and not record.status.terminal
                and record.spec.network is not Network.HOST
            ):
                return live.id
        return None
