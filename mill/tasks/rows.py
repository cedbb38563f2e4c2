"""How tasks lie in SQLite: the table, what is asked of it, and rows to and from values. Pure; the store runs it.

A record's times are texts of one form, so that they sort as the moments do.
"""

import json
from typing import Any

from mill.convert import format_time, from_json, parse_time, to_json
from mill.model import Owned, Record, Status, Task
from mill.tasks.filter import Filter

_BOOT = "coalesce(json_extract(owned, '$.ended.boot_id'), '')"
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS tasks (
    id TEXT PRIMARY KEY NOT NULL, created REAL NOT NULL, live INTEGER NOT NULL, status TEXT NOT NULL,
    node TEXT NOT NULL, template TEXT, record TEXT NOT NULL, owned TEXT NOT NULL, mine INTEGER NOT NULL DEFAULT 1
);
CREATE INDEX IF NOT EXISTS tasks_by_age ON tasks (created, id);
CREATE INDEX IF NOT EXISTS tasks_live ON tasks (live) WHERE live;
DROP INDEX IF EXISTS tasks_by_end;
DROP INDEX IF EXISTS tasks_by_boot;
CREATE INDEX IF NOT EXISTS mine_by_end ON tasks (json_extract(record, '$.times.finished'), id) WHERE NOT live AND mine;
CREATE INDEX IF NOT EXISTS mine_by_boot ON tasks ({_BOOT}, json_extract(owned, '$.ended.at_s')) WHERE NOT live AND mine;
CREATE TABLE IF NOT EXISTS templates (name TEXT PRIMARY KEY, draft TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tokens (hash TEXT PRIMARY KEY, token TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
PUT = """
INSERT INTO tasks (id, created, live, status, node, template, record, owned) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
PUT_OVER = (
    PUT + "ON CONFLICT (id) DO UPDATE SET live=excluded.live, status=excluded.status, "
    "record=excluded.record, owned=excluded.owned, mine=1"
)
AMEND = "UPDATE tasks SET record = ? WHERE id = ?"

WITHOUT_MINE = "SELECT count(*) > 0 AND NOT max(name = 'mine') FROM pragma_table_info('tasks')"
ADD_MINE = "ALTER TABLE tasks ADD COLUMN mine INTEGER NOT NULL DEFAULT 1"
"""For a table of an earlier Mill, which knew no others' tasks."""
MINE = "SELECT id, record FROM tasks WHERE mine"
"""This node's own tasks; all others are shown of what their owners say, and only they change them."""

PUT_OTHER = """
INSERT INTO tasks (id, created, live, status, node, template, record, owned, mine) VALUES (?, ?, ?, ?, ?, ?, ?, '{}', 0)
ON CONFLICT (id) DO UPDATE SET live=excluded.live, status=excluded.status, node=excluded.node, record=excluded.record
WHERE NOT mine
"""
DROP_OTHER = "DELETE FROM tasks WHERE id = ? AND NOT mine"
DROP_MINE = "DELETE FROM tasks WHERE id = ? AND mine"
"""All others have forgotten it; else it would be put again at the next start."""
END_MINE = "UPDATE tasks SET live = 0, status = ?, record = ? WHERE id = ? AND mine"
"""The cluster has condemned it; the owner has no say in what is shown any more."""

ENDED = "SELECT json_extract(record, '$.times.finished'), id FROM tasks WHERE NOT live AND mine"
BEHIND = """ AND json_extract(record, '$.times.finished') >= ?
    AND (json_extract(record, '$.times.finished'), id) > (?, ?)"""  # the first half lets SQLite begin there
EXPIRED = f"""
SELECT id FROM tasks WHERE NOT live AND mine AND {_BOOT} = :boot AND json_extract(owned, '$.ended.at_s') <= :at_s
UNION ALL
SELECT id FROM tasks WHERE NOT live AND mine AND json_extract(record, '$.times.finished') <= :before AND {_BOOT} <> :boot
UNION ALL
SELECT id FROM tasks WHERE NOT live AND mine AND {_BOOT} < :boot AND :at_s >= 0
UNION ALL
SELECT id FROM tasks WHERE NOT live AND mine AND {_BOOT} > :boot AND :at_s >= 0
LIMIT :limit
"""  # noqa: S608 -- all of it is ours
"""What ended in this boot, its clock alone decides; what ended before, the wall clock, unless this boot is older than that."""


def where(wanted: Filter) -> tuple[list[str], list[Any]]:
    clauses: list[str] = []
    params: list[Any] = []
    if wanted.task is not None:
        clauses.append("id = ?")
        params.append(wanted.task)
    if wanted.statuses:
        clauses.append(f"status IN ({', '.join('?' * len(wanted.statuses))})")
        params.extend(wanted.statuses)
    if wanted.node is not None:
        clauses.append("(node = ? OR json_extract(record, '$.node_id') = ?)")
        params.extend((wanted.node, wanted.node))
    if wanted.template is not None:
        clauses.append("template = ?")
        params.append(wanted.template)
    for key, value in wanted.labels:
        clauses.append(
            "EXISTS (SELECT 1 FROM json_each(record, '$.spec.labels') WHERE key = ? AND value = ?)"
        )
        params.extend((key, value))
    return clauses, params


def row_of(task: Task) -> tuple[Any, ...]:
    record = task.record
    return (
        record.id,
        parse_time(format_time(record.times.created)),  # as a page's last record tells it to the next page
        not record.status.terminal,
        str(record.status),
        record.node,
        record.template,
        json.dumps(to_json(record)),
        json.dumps(to_json(task.owned)),
    )


def other_row(record: dict[str, Any], text: str) -> tuple[Any, ...]:
    """The row of another node's task, out of its record as JSON; `LookupError` and the like for what is no record."""
    status = record["status"]
    return (
        record["id"],
        parse_time(record["times"]["created"]),
        status not in {Status.STOPPED, Status.FAILED},
        status,
        record["node"],
        record["template"],
        text,
    )


def record_of(row: tuple[Any, ...]) -> Record:
    return from_json(Record, json.loads(row[0]))


def task_of(row: tuple[Any, ...]) -> Task:
    return Task(record_of(row), from_json(Owned, json.loads(row[1])))
