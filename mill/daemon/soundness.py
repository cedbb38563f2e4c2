"""A large database is read whole while milld is at work, so that its start need not wait; damage is told, and tasks run on.

A small one the store has read before. Of a large one a cut file, and damage in what a start needs (the schema, the tasks
that live), is an error at the start itself.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

import structlog
import trio

from mill.store import CHECKED_FIRST_BYTES, damage_of

ADVICE = "stop milld and mend it (sqlite3's .recover), or move it away to go on without its records"

log = structlog.get_logger()


async def serve(path: Path, *, task_status: trio.TaskStatus[None]) -> None:
    """One check of the database at *path*, if it is large; then idle until cancelled."""
    size = (await trio.Path(path).stat()).st_size
    task_status.started()
    if size > CHECKED_FIRST_BYTES:
        with closing(sqlite3.connect(path, check_same_thread=False)) as connection:
            why = await _check(connection)
        if why is None:
            log.debug("the database is sound", path=str(path))
        else:
            log.error(
                "the database is damaged: some records cannot be read", path=str(path), why=why, advice=ADVICE
            )
    await trio.sleep_forever()


async def _check(connection: sqlite3.Connection) -> str | None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_interrupt_at_end, connection)
        why = await trio.to_thread.run_sync(_damage_if_any, connection)
        nursery.cancel_scope.cancel()
    return why


async def _interrupt_at_end(connection: sqlite3.Connection) -> None:
    """Milld does not wait for a check that is under way."""
    try:
        await trio.sleep_forever()
    finally:
        connection.interrupt()


def _damage_if_any(connection: sqlite3.Connection) -> str | None:
    """As `damage_of`; None too when it was interrupted, or another process has locked the database."""
    try:
        return damage_of(connection)
    except sqlite3.OperationalError:
        return None
    except sqlite3.DatabaseError as error:
        return str(error)
