"""Tasks as DNS sees them: names and addresses, of this node straight out of its table, of others as they were heard of. Plugged in by `node`."""

import re
from collections.abc import Callable

import attrs

from mill.daemon.others import Others
from mill.dns.names import Known, Name, Unsure
from mill.model import Network
from mill.tasks.table import Table

_ID = re.compile(r"(?=.{6,63}$)[a-z0-9][a-z0-9-]*-[a-z0-9]{4,}")
"""What `tasks.drafts` makes: of other names no node knows anything."""


@attrs.frozen
class TaskNames:
    """As `dns.names.Names`. `address` is the node's, which its tasks of network ``host`` have; *allotted* says what a task
    of the mesh was given that does not run yet.
    """

    table: Table
    address: str
    allotted: Callable[[str], str | None] = lambda _: None
    others: Others | None = None
    ended: Callable[[str], bool] = lambda _: False
    """Whether the end of a task of another node has been heard of."""
    partial: Callable[[], bool] = lambda: False
    """Whether other nodes may know of tasks that this one has not compared with them."""

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
        """One that runs on the mesh has its address from the spawn on, and its owner alone knows it before it runs."""
        if self.others is None:
            return None
        record = self.others.get(task_id)
        if record is None:
            return None if self.ended(task_id) or not _ID.fullmatch(task_id) else Known.UNSURE
        network = record.spec.network
        if network is Network.MESH and record.ip is None:
            return Known.UNSURE
        ip = self.others.host_of(record) if network is Network.HOST else record.ip
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
