"""How tasks lie in SQLite: the table, what is asked of it, and rows to and from values. Pure; the store runs it.

A record's times are texts of one form, so that they sort as the moments do.
"""

import json
from typing import Any

from mill.convert import format_time, from_json, parse_time, to_json
from mill.model import Owned, Record, Task
from mill.tasks.filter import Filter

_BOOT = "coalesce(json_extract(owned, '$.ended.boot_id'), '')"
SCHEMA = f"""
CREATE TABLE IF NOT EXISTS tasks (
    id TEXT PRIMARY KEY NOT NULL, created REAL NOT NULL, live INTEGER NOT NULL, status TEXT NOT NULL,
    node TEXT NOT NULL, template TEXT, record TEXT NOT NULL, owned TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS tasks_by_age ON tasks (created, id);
CREATE INDEX IF NOT EXISTS tasks_live ON tasks (live) WHERE live;
CREATE INDEX IF NOT EXISTS tasks_by_end ON tasks (json_extract(record, '$.times.finished'), id) WHERE NOT live;
CREATE INDEX IF NOT EXISTS tasks_by_boot ON tasks ({_BOOT}, json_extract(owned, '$.ended.at_s')) WHERE NOT live;
CREATE TABLE IF NOT EXISTS templates (name TEXT PRIMARY KEY, draft TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tokens (hash TEXT PRIMARY KEY, token TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
PUT = """
INSERT INTO tasks (id, created, live, status, node, template, record, owned) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
PUT_OVER = (
    PUT + "ON CONFLICT (id) DO UPDATE SET live=excluded.live, status=excluded.status, "
    "record=excluded.record, owned=excluded.owned"
)
AMEND = "UPDATE tasks SET record = ? WHERE id = ?"

ENDED = "SELECT json_extract(record, '$.times.finished'), id FROM tasks WHERE NOT live"
BEHIND = """ AND json_extract(record, '$.times.finished') >= ?
    AND (json_extract(record, '$.times.finished'), id) > (?, ?)"""  # the first half lets SQLite begin there
EXPIRED = f"""
SELECT id FROM tasks WHERE NOT live AND {_BOOT} = :boot AND json_extract(owned, '$.ended.at_s') <= :at_s
UNION ALL
SELECT id FROM tasks WHERE NOT live AND json_extract(record, '$.times.finished') <= :before AND {_BOOT} <> :boot
UNION ALL
SELECT id FROM tasks WHERE NOT live AND {_BOOT} < :boot AND :at_s >= 0
UNION ALL
SELECT id FROM tasks WHERE NOT live AND {_BOOT} > :boot AND :at_s >= 0
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


def record_of(row: tuple[Any, ...]) -> Record:
    return from_json(Record, json.loads(row[0]))


def task_of(row: tuple[Any, ...]) -> Task:
    return Task(record_of(row), from_json(Owned, json.loads(row[1])))
