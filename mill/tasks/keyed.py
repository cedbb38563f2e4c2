"""Idempotency keys of spawns: what a key and a request are kept as, and how SQLite keeps them. Pure; API, service and store call it.

The same key with the same request is the same task for `KEY_LIFETIME_S`, also when its record is gone before. The header is that
of draft-ietf-httpapi-idempotency-key-header. Triggers write the table, as they do the journal: a task's row and its key are one
transaction, whoever writes the row. Records are seen by every node, so they hold hashes: the key's, and the request's keyed by the
key itself, so that the values of its environment cannot be tried out by who does not have the key.
"""

import hashlib
import hmac
import json
from typing import Any

from mill.checks import KEY_HEADER
from mill.config import KEY_LIFETIME_S
from mill.convert import to_json
from mill.errors import Conflict
from mill.model import Keyed, Record, SpawnRequest

HASH_LENGTH = 32
"""Hex digits that are kept of a hash: 128 bits."""

SCHEMA = f"""
CREATE TABLE IF NOT EXISTS spawn_keys (
    key TEXT PRIMARY KEY NOT NULL, task_id TEXT NOT NULL, until REAL NOT NULL, record TEXT
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS spawn_keys_by_task ON spawn_keys (task_id);
CREATE INDEX IF NOT EXISTS spawn_keys_by_end ON spawn_keys (until);
DROP TRIGGER IF EXISTS task_keyed;
CREATE TRIGGER task_keyed AFTER INSERT ON tasks WHEN json_extract(new.record, '$.keyed') IS NOT NULL BEGIN
    DELETE FROM spawn_keys WHERE until <= new.created;
    INSERT INTO spawn_keys (key, task_id, until)
        VALUES (json_extract(new.record, '$.keyed.key'), new.id, new.created + {KEY_LIFETIME_S})
        ON CONFLICT (key) DO NOTHING;
END;
DROP TRIGGER IF EXISTS keyed_task_deleted;
CREATE TRIGGER keyed_task_deleted AFTER DELETE ON tasks WHEN json_extract(old.record, '$.keyed') IS NOT NULL BEGIN
    UPDATE spawn_keys SET record = old.record WHERE task_id = old.id;
END;
"""  # noqa: S608 -- all of it is ours
FIND = """
SELECT coalesce(tasks.record, spawn_keys.record) FROM spawn_keys LEFT JOIN tasks ON tasks.id = spawn_keys.task_id
WHERE spawn_keys.key = ? AND spawn_keys.until > ?
"""
"""The record of the task that a key made, as it is or, once it is forgotten, as it was at last."""


def sign(key: str, request: SpawnRequest) -> Keyed:
    """What is kept of *key*, and of *request* as it means, not as it was spelt."""
    said = json.dumps(_said(to_json(request)), sort_keys=True, separators=(",", ":"))
    body = hmac.new(key.encode(), said.encode("utf-8", "surrogatepass"), hashlib.sha256)
    return Keyed(hashlib.sha256(key.encode()).hexdigest()[:HASH_LENGTH], body.hexdigest()[:HASH_LENGTH])


def check_same(made: Record, key: Keyed) -> None:
    """`Conflict` unless *key* came with the request that *made* was made by."""
    if made.keyed is None or made.keyed.body != key.body:
        raise Conflict(
            f"the {KEY_HEADER} was used for another request, which made {made.id}: take a new key for each task"
        )


def _said(data: Any) -> Any:
    """Without what is not said: a newer Mill, which may know more fields, makes the same of the same request."""
    if isinstance(data, dict):
        return {name: _said(value) for name, value in data.items() if value is not None}
    return [_said(value) for value in data] if isinstance(data, list) else data
