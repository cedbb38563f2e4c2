"""What this node shows of the cluster's tasks, as rows of its table: those of other nodes, and its own where a verdict reaches them.

There before the first packet is read: what comes while milld is still starting is written like everything later. `cluster` makes
it; `replicated` asks it how the tasks that it writes itself are to be shown.
"""

import json
from collections.abc import Callable, Mapping

import attrs
import structlog

from mill.cluster import entries
from mill.cluster.entries import Entry, Verdict, View
from mill.cluster.records import Records
from mill.cluster.rows import Statement
from mill.cluster.values import NodeId
from mill.convert import from_json, parse_time, to_json
from mill.model import Record, Time
from mill.tasks import rows as task_rows
from mill.tasks.lost import as_lost
from mill.tasks.steps import passed_over

PASSED_OVER_S = 300.0
"""Of tasks that are no older every state is told, also those that passed too quickly to be heard of; the past of others is not news."""

log = structlog.get_logger()


@attrs.define(eq=False)
class Shown:
    """See the module. *wall* is the wall clock."""

    records: Records
    me: NodeId
    wall: Callable[[], float]
    _lost_at: dict[Verdict, float] = attrs.field(factory=dict)

    def condemned(self, since: Mapping[NodeId, float]) -> None:
        """On whom there was a verdict before this milld began, and since when."""
        for owner, at in since.items():
            self._lost_at |= dict.fromkeys(self.records.verdicts_on(owner), at)

    def rows(self, changed: entries.Changed) -> list[Statement]:
        """What is to be written of a task that is shown otherwise now."""
        view = changed.after or changed.before
        if view is None:
            return []
        mine, task = view.entry.owner == self.me, view.entry.task
        if changed.after is None:
            return [(task_rows.DROP_MINE if mine else task_rows.DROP_OTHER, (task,))]
        if not (mine or view.lost):
            return self._rows_of(changed.before, view.entry)
        record = record_of(view.entry) if view.lost else None
        if record is None:  # written by its commit, or of a newer Mill
            return []
        said = to_json(self.of(record, view))
        if mine:
            return [(task_rows.END_MINE, (said["status"], json.dumps(said), task))]
        return [(task_rows.PUT_OTHER, task_rows.other_row(said, json.dumps(said)))]

    def _rows_of(self, before: View | None, entry: Entry) -> list[Statement]:
        """Of a task that its owner alone judges, without making a record of it: there may be thousands."""
        try:
            text = entry.payload.decode()
            said = json.loads(text)
            had = None if before is None else str(json.loads(before.entry.payload)["status"])
            is_news = parse_time(said["times"]["created"]) > self.wall() - PASSED_OVER_S
            steps = [(step, json.dumps(step)) for step in passed_over(said, had)] if is_news else []
            return [(task_rows.PUT_OTHER, task_rows.other_row(*step)) for step in [*steps, (said, text)]]
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            log.warning("another node's record cannot be read", task=entry.task, why=repr(error))
            return []

    def of(self, record: Record, view: View) -> Record:
        """*record*, its owner's word, as *view* has it shown."""
        if view.verdict is None or not view.lost:
            return record
        return as_lost(record, Time(self.lost_at(view.verdict)))

    def lost_at(self, verdict: Verdict) -> float:
        """When it was given; of one that does not say so, when this node learnt of it."""
        return verdict.at or self._lost_at.setdefault(verdict, self.wall())


def record_of(entry: Entry) -> Record | None:
    """None for one that only a newer Mill can read: it is passed on as it is."""
    try:
        return from_json(Record, json.loads(entry.payload))
    except (ExceptionGroup, ValueError, LookupError, TypeError, AttributeError) as error:
        log.warning("another node's record cannot be read", task=entry.task, why=repr(error))
        return None
