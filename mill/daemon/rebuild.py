"""Records that were lost or damaged, rebuilt from what containerd knows. Called once at the start, before adoption.

Without it adoption would take every running task for a leftover. What ended before, and templates made over the API, are
gone with the database; logs stay until their time is over.
"""

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import structlog

from mill.containerd.kept import kept_tasks
from mill.containerd.session import Session
from mill.errors import SetupError
from mill.store import Store, damage_of

SUFFIXES = ("", "-wal", "-shm")
"""SQLite's files of one database."""
BEGUN = "begun"
"""The name of the fact that a milld has started with this database."""

log = structlog.get_logger()


def set_aside_damaged(path: Path, now: float) -> None:
    """Rename the database if it is damaged, so that milld starts with a new one; blocks. Nothing is deleted."""
    why = _damage(path) if path.exists() else None
    if why is None:
        return
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    kept = path.with_name(f"{path.name}.damaged-{stamp}")
    try:
        for suffix in reversed(SUFFIXES):  # the database last: a crash in between is gone through again
            file = path.with_name(path.name + suffix)
            if file.exists():
                file.rename(kept.with_name(kept.name + suffix))
    except OSError as error:
        raise SetupError(f"cannot set the damaged database {path} aside: {error.strerror}") from None
    log.warning("the database is damaged; it was set aside", why=why, kept=str(kept))


def _damage(path: Path) -> str | None:
    try:
        with closing(sqlite3.connect(path)) as database:
            return damage_of(database)
    except sqlite3.OperationalError:
        return None  # locked, not readable: the store's to tell
    except sqlite3.DatabaseError as error:
        return str(error)


async def rebuild(store: Store, session: Session, node_id: str, *, told: bool) -> None:
    """Insert the tasks of this node that containerd keeps and no row knows: into a new database, or when *told* to.

    In one that only has no task any more a row is missing because all have forgotten it.
    """
    known: Iterable[str] = await store.ids()
    is_new = not known and await store.fact(BEGUN) is None
    if is_new or told:
        await _insert(store, session, node_id, known)
    await store.put_fact(BEGUN, "1")


async def _insert(store: Store, session: Session, node_id: str, known: Iterable[str]) -> None:
    lost = [task for task in await kept_tasks(session, node_id) if task.record.id not in known]
    for task in lost:
        await store.insert(task)
    if lost:
        log.warning("rebuilt records of tasks that only containerd knew", count=len(lost))
