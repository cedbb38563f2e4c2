"""Which records a listing or a subscriber wants, and a page of them.

Pure: the API parses it; the service, the store and the journal judge by it.
"""

import attrs

from mill.model import Record


@attrs.frozen
class Filter:
    """Which records are wanted; empty means any."""

    statuses: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    node: str | None = None
    template: str | None = None
    task: str | None = None

    def accepts(self, record: Record) -> bool:
        """The same judgement as `Store.page` makes in SQL, for records in memory."""
        return (
            (self.task is None or record.id == self.task)
            and (not self.statuses or record.status in self.statuses)
            and (self.node is None or self.node in {record.node, record.node_id})
            and (self.template is None or record.template == self.template)
            and all(record.spec.labels.get(key) == value for key, value in self.labels)
        )


Position = tuple[float, str]
"""(created, id) of a record: what comes next lies behind it."""


@attrs.frozen
class Page:
    """Records, newest first. `next` is where the next page begins, or None.

    A page that is short, or empty, need not be the last: there may be rows that cannot be read.
    """

    records: list[Record]
    next: Position | None = None
