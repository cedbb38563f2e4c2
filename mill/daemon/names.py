"""Tasks as DNS sees them: names and addresses, of this node straight out of its table, of others as they were heard of. Plugged in by `node`."""

from collections.abc import Callable

import attrs

from mill.daemon.others import Others
from mill.dns.names import Known, Name, Unsure
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
    others: Others | None = None
    partial: Callable[[], bool] = lambda: False
    """Whether other nodes may know of tasks that this one has not heard of."""

    def lookup(self, task_id: str) -> Name | Unsure | None:
        """A task is in the table from its commit, before the 201, until after its terminal record; another node's, from when
        it was heard of until its end was.
        """
        live = self.table.get(task_id)
        if live is None:
            return self._elsewhere(task_id)
        if live.task.record.status.terminal:
            return None
        record = live.task.record
        ip = self.address if record.spec.network is Network.HOST else record.ip or self.allotted(task_id)
        return Name((ip,) if ip is not None else (), record.spec.port)

    def _elsewhere(self, task_id: str) -> Name | Unsure | None:
        record = None if self.others is None else self.others.get(task_id)
        if record is None or self.others is None:
            return Known.UNSURE if self.partial() else None
        on_host = record.spec.network is Network.HOST
        ip = self.others.host_of(record) if on_host else record.ip
        return Name((ip,) if ip is not None else (), record.spec.port)

    def reverse(self, address: str) -> str | Unsure | None:
        for live in self.table:
            record = live.task.record
            if (
                record.ip == address
                and not record.status.terminal
                and record.spec.network is not Network.HOST
            ):
                return live.id
        for other in [] if self.others is None else self.others.live():
            if other.ip == address and other.spec.network is not Network.HOST:
                return other.id
        return Known.UNSURE if self.partial() else None
