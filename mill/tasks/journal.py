"""The journal of state changes: what an event is, what its id means, and how SQLite keeps it. Pure; the store and `events` call it.

Triggers write it, so that a task's row and the event of its change are one transaction, whoever writes the row: one event
for each new task and each change of a status, none for anything else. A task's events go with its record.
"""

import json

import attrs

from mill.config import EVENTS_KEPT
from mill.convert import from_json
from mill.model import Record
from mill.tasks.filter import Filter

_NEW = """
    INSERT INTO events (at, task_id, record) VALUES (
        coalesce(
            json_extract(new.record, '$.times.finished'), json_extract(new.record, '$.times.started'),
            json_extract(new.record, '$.times.pulled'), json_extract(new.record, '$.times.created')
        ), new.id, new.record);
"""
"""An event's time is that of the state it tells: when it began to be true, which milld may have learnt later."""

SCHEMA = f"""
CREATE TABLE IF NOT EXISTS events (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, task_id TEXT NOT NULL, record TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS events_by_task ON events (task_id);
CREATE TABLE IF NOT EXISTS event_epoch (epoch TEXT NOT NULL);
INSERT INTO event_epoch SELECT lower(hex(randomblob(4))) WHERE NOT EXISTS (SELECT * FROM event_epoch);
DROP TRIGGER IF EXISTS task_made;
CREATE TRIGGER task_made AFTER INSERT ON tasks BEGIN {_NEW} END;
DROP TRIGGER IF EXISTS task_changed;
CREATE TRIGGER task_changed AFTER UPDATE OF status ON tasks WHEN new.status IS NOT old.status BEGIN {_NEW} END;
DROP TRIGGER IF EXISTS task_deleted;
CREATE TRIGGER task_deleted AFTER DELETE ON tasks BEGIN DELETE FROM events WHERE task_id = old.id; END;
DROP TRIGGER IF EXISTS event_made;
CREATE TRIGGER event_made AFTER INSERT ON events BEGIN DELETE FROM events WHERE seq <= new.seq - {EVENTS_KEPT}; END;
"""  # noqa: S608 -- all of it is ours
"""Triggers are made anew at each start: an older milld's are no guide."""

EPOCH = "SELECT epoch FROM event_epoch"
"""Names the life of this database: a number alone would mean something else in the next one."""
HEAD = "SELECT seq FROM sqlite_sequence WHERE name = 'events'"
"""The number of the last event there ever was; AUTOINCREMENT gives none twice, also after deletions."""
BETWEEN = "SELECT seq, at, record, task_id FROM events WHERE seq > ? AND seq <= ? ORDER BY seq LIMIT ?"


@attrs.frozen
class Event:
    """One change. `at` (RFC 3339) and `record` (JSON) are the texts that were committed: they go out as they are."""

    seq: int
    at: str
    record: str
    task: str

    def fits(self, wanted: Filter) -> bool:
        """Whether the record is one that *wanted* accepts; one that only a newer Mill can read fits no filter."""
        if wanted == Filter():
            return True
        try:
            return wanted.accepts(from_json(Record, json.loads(self.record)))
        except (ExceptionGroup, ValueError, LookupError, TypeError, AttributeError):
            return False


def event_id(epoch: str, seq: int) -> str:
    """What clients resume by."""
    return f"{epoch}-{seq}"


def seq_of(text: str, epoch: str, head: int) -> int | None:
    """The number in an id that was given out by this database, or None."""
    said, _, number = text.rpartition("-")
    known = said == epoch and number.isascii() and number.isdigit() and number == str(int(number[:20]))
    return int(number) if known and int(number) <= head else None
