"""SQLite: one writer thread with group commit, one reader. A state exists once its commit has returned.

Knows the model, not the lifecycle; `tasks` and the daemon call it. What was answered survives a power cut too: its commit
waits for the disk (`synchronous=FULL`; 0.2 to 5 ms, and commits that wait together share one). Only what is written of a
*running* task does not: it survives a kill of milld, and a power cut ends the task whatever its row says, so that the
next milld finds `interrupted` either way. A full disk is `NoSpace`, raised to the one who asked; the writer lives on.
"""

import json
import queue
import sqlite3
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any, TypeVar

import attrs
import structlog
import trio

from mill.cluster import rows as cluster
from mill.cluster.rows import Statement
from mill.convert import format_time, from_json, parse_time, to_json
from mill.errors import Conflict, MillError, NoSpace, SetupError, Unavailable
from mill.model import Draft, Record, Status, Task, Template, TokenView
from mill.tasks import journal, keyed, rows
from mill.tasks.filter import Filter, Page, Position
from mill.tasks.journal import Event

T = TypeVar("T")

log = structlog.get_logger()

BUSY_TIMEOUT_S = 5.0
"""How long a lock of another process (a backup, say) is waited for."""
CHECKED_FIRST_BYTES = 16 * 1024 * 1024
"""A database up to this size is read whole before the start goes on (50 ms); a larger one while milld is at work."""
RIDE_ALONG_S = 0.1
"""How long a write that nothing depends on waits for another's commit before it gets one of its own."""

_HOW_TO_MEND = (
    "start milld with --rebuild-records to set it aside and go on with the tasks that containerd knows"
)
_UNFIT = (UnicodeEncodeError, OverflowError)
"""What the driver raises for a value that SQLite cannot hold: lone surrogates, integers beyond 64 bits."""


@attrs.define
class _Job:
    statements: Sequence[Statement]
    token: trio.lowlevel.TrioToken
    synced: bool
    rides_along: bool = False
    done: trio.Event = attrs.field(factory=trio.Event)
    error: Exception | None = None
    head: int = 0
    """The last event there was at its commit."""
    then: Callable[[], None] | None = None
    """Called once it is committed: before it returns, and in the order in which writes were asked for."""


class Store:
    """What milld remembers. Writes return after the commit; reads see every commit that has returned.

    `head` is the last event whose write has returned, `epoch` names the life of this database.
    """

    def __init__(
        self, path: Path, reader: sqlite3.Connection, jobs: "queue.SimpleQueue[_Job | None]"
    ) -> None:
        self.epoch: str = reader.execute(journal.EPOCH).fetchone()[0]
        self.head = _head(reader)
        self._news = trio.Event()
        self._path = path
        self._reader = reader
        self._jobs = jobs
        self._one_reader = trio.CapacityLimiter(1)
        self._leaving = False

    def __repr__(self) -> str:
        return f"<Store {self._path} waiting={self._jobs.qsize()}>"

    async def insert(self, task: Task, *also: Statement, then: Callable[[], None] | None = None) -> None:
        """A new task; `Conflict` when its id is known already."""
        await self._write((rows.PUT, rows.row_of(task)), *also, then=then)

    async def put(self, task: Task, *also: Statement, then: Callable[[], None] | None = None) -> None:
        """The task as it stands now. With it goes what is *also* to be written, and *then* is called once all is committed."""
        synced = task.record.status is not Status.RUNNING
        await self._write((rows.PUT_OVER, rows.row_of(task)), *also, synced=synced, then=then)

    async def amend(self, task: Task, *also: Statement, then: Callable[[], None] | None = None) -> None:
        """What became known of a task that has ended, unless its row is gone. Shares the next commit that there is."""
        record = json.dumps(to_json(task.record))
        amended = (rows.AMEND, (record, task.record.id))
        await self._write(amended, *also, synced=False, rides_along=True, then=then)

    async def keep(
        self, statements: Sequence[Statement], *, synced: bool, then: Callable[[], None] | None = None
    ) -> None:
        """All of them in one transaction."""
        await self._write(*statements, synced=synced, then=then)

    async def rows(self, sql: str) -> list[Any]:
        return await self._read(sql, ())

    async def delete(self, task_id: str) -> None:
        """The task's row and its events."""
        await self._write(("DELETE FROM tasks WHERE id = ?", (task_id,)))

    async def get(self, task_id: str) -> Task | None:
        found = await self._read("SELECT record, owned FROM tasks WHERE id = ?", (task_id,))
        return _readable(rows.task_of, found[0]) if found else None

    async def keyed(self, key: str, now: float) -> Record | None:
        """The record of the task that the key of that hash made, also where it is forgotten, unless the key is as well."""
        found = await self._read(keyed.FIND, (key, now))
        return _readable(rows.record_of, found[0]) if found else None

    async def live(self) -> list[Task]:
        """Every task of this node that has not ended, oldest first: what adoption starts from."""
        sql = "SELECT record, owned FROM tasks WHERE live AND mine ORDER BY +created"  # +: by tasks_live, not by age
        return [task for row in await self._read(sql, ()) if (task := _readable(rows.task_of, row))]

    async def ids(self, *, live: bool = False) -> set[str]:
        """The id of every task of this node, or of each that has not ended, also of rows that cannot be read."""
        sql = f"SELECT id FROM tasks WHERE mine{' AND live' if live else ''}"  # noqa: S608 -- all of it is ours
        return {row[0] for row in await self._read(sql, ())}

    async def known(self, among: Collection[str]) -> set[str]:
        """Those of the ids *among* that there is a row of."""
        sql = "SELECT id FROM tasks WHERE id IN (SELECT value FROM json_each(?))"
        return {row[0] for row in await self._read(sql, (json.dumps(list(among)),))}

    async def page(self, wanted: Filter, after: Position | None, limit: int) -> Page:
        """Up to *limit* records, newest first, that come after (created, id) *after*."""
        clauses, params = rows.where(wanted)
        if after is not None:
            clauses.append("(created, id) < (?, ?)")
            params.extend(after)
        where = f"WHERE {' AND '.join(clauses)}" if clauses else ""
        sql = f"SELECT record, created, id FROM tasks {where} ORDER BY created DESC, id DESC LIMIT ?"  # noqa: S608 -- clauses are ours
        return await self._read_as(lambda found: _page(found, limit), sql, (*params, limit + 1))

    async def longest_ended(self, after: tuple[float, str] | None, limit: int) -> list[tuple[float, str]]:
        """(time of its end, id) of up to *limit* tasks that have ended, the longest-ended first, behind *after*."""
        behind, params = "", []
        if after is not None:
            finished = format_time(after[0])
            behind, params = rows.BEHIND, [finished, finished, after[1]]
        sql = f"{rows.ENDED}{behind} ORDER BY json_extract(record, '$.times.finished'), id LIMIT ?"
        return [(parse_time(row[0]), row[1]) for row in await self._read(sql, (*params, limit)) if row[0]]

    async def expired(self, ended_before: float, limit: int, *, boot_id: str, at_s: float) -> list[str]:
        """Tasks that ended in this boot before that point of its clock, or in an earlier one before that time."""
        said = {"boot": boot_id, "at_s": at_s, "before": format_time(ended_before), "limit": limit}
        return list(dict.fromkeys(row[0] for row in await self._read(rows.EXPIRED, said)))

    async def events(self, after: int, upto: int, limit: int) -> list[Event]:
        """Up to *limit* events numbered ``after < seq <= upto``, in their order; what is no longer kept is left out."""
        return [Event(*row) for row in await self._read(journal.BETWEEN, (after, upto, limit))]

    async def wait_event(self, after: int) -> None:
        """Until there is one behind *after*."""
        while self.head <= after:
            await self._news.wait()

    async def put_template(self, template: Template) -> None:
        draft = json.dumps(to_json(template.draft))
        await self._write(("INSERT OR REPLACE INTO templates VALUES (?, ?)", (template.name, draft)))

    async def delete_template(self, name: str) -> None:
        await self._write(("DELETE FROM templates WHERE name = ?", (name,)))

    async def templates(self) -> list[Template]:
        found = await self._read("SELECT name, draft FROM templates ORDER BY name", ())
        return [Template(name, from_json(Draft, json.loads(draft))) for name, draft in found]

    async def put_token(self, hashed: str, token: TokenView) -> None:
        """A token by its hash; itself it is not to be kept."""
        await self._write(("INSERT INTO tokens VALUES (?, ?)", (hashed, json.dumps(to_json(token)))))

    async def delete_token(self, hashed: str) -> None:
        await self._write(("DELETE FROM tokens WHERE hash = ?", (hashed,)))

    async def tokens(self) -> dict[str, TokenView]:
        """By their hashes."""
        found = await self._read("SELECT token, hash FROM tokens", ())
        read = (
            (row[1], _readable(lambda row: from_json(TokenView, json.loads(row[0])), row)) for row in found
        )
        return {hashed: token for hashed, token in read if token is not None}

    async def put_fact(self, name: str, value: str) -> None:
        """Something to remember of the node itself."""
        await self._write(("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value)))

    async def fact(self, name: str) -> str | None:
        found = await self._read("SELECT value FROM facts WHERE name = ?", (name,))
        return found[0][0] if found else None

    def leave(self) -> None:
        """No more writes; those that were asked for are still committed."""
        self._leaving = True
        self._jobs.put(None)  # behind everything that was asked for

    async def _write(
        self,
        *statements: Statement,
        synced: bool = True,
        rides_along: bool = False,
        then: Callable[[], None] | None = None,
    ) -> None:
        if self._leaving:
            raise Unavailable(f"the database {self._path} is closed: milld is leaving")
        job = _Job(statements, trio.lowlevel.current_trio_token(), synced, rides_along, then=then)
        self._jobs.put(job)
        with trio.CancelScope(shield=True):  # it will be committed; leaving now would hide that
            await job.done.wait()
        self._now_at(job.head)
        if job.error is not None:
            raise _translated(job.error, self._path)

    def _now_at(self, head: int) -> None:
        """Of the events up to *head* every write returns in this very moment: nobody is told of one before it is there."""
        if head > self.head:
            self.head = head
            self._news.set()
            self._news = trio.Event()

    async def _read(self, sql: str, params: Sequence[Any] | Mapping[str, Any]) -> list[Any]:
        return await self._read_as(list[Any], sql, params)

    async def _read_as(
        self, make: Callable[[list[Any]], T], sql: str, params: Sequence[Any] | Mapping[str, Any]
    ) -> T:
        """What *make* makes of the rows, in the thread that reads them."""

        def read() -> T:
            return make(self._reader.execute(sql, params).fetchall())

        try:
            return await trio.to_thread.run_sync(read, limiter=self._one_reader)
        except (sqlite3.Error, *_UNFIT) as error:
            raise _translated(error, self._path) from None


async def serve(path: Path, *, task_status: trio.TaskStatus[Store]) -> None:
    """Open *path*, made if missing, and write to it until cancelled. `SetupError` when it cannot be used."""
    jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
    writer, reader = await trio.to_thread.run_sync(_open_both, path)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_write_all, writer, jobs)
            store = Store(path, reader, jobs)
            try:
                task_status.started(store)
                await trio.sleep_forever()
            finally:
                store.leave()
    finally:
        reader.close()
        writer.close()


async def _write_all(connection: sqlite3.Connection, jobs: "queue.SimpleQueue[_Job | None]") -> None:
    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(_writer, connection, jobs, limiter=trio.CapacityLimiter(1))


def _writer(connection: sqlite3.Connection, jobs: "queue.SimpleQueue[_Job | None]") -> None:
    """The writer thread: take what waits, commit it together, then tell each."""
    leaving = False
    while not leaving:
        batch: list[_Job] = []
        job = jobs.get()
        while True:
            if job is None:
                leaving = True
            else:
                batch.append(job)
            try:
                job = jobs.get(
                    timeout=0 if leaving or not all(j.rides_along for j in batch) else RIDE_ALONG_S
                )
            except queue.Empty:
                break
        if batch:
            _commit(connection, batch)


def _commit(connection: sqlite3.Connection, batch: list[_Job]) -> None:
    synced = any(job.synced for job in batch)
    try:
        connection.execute(f"PRAGMA synchronous = {'FULL' if synced else 'NORMAL'}")
        connection.execute("BEGIN IMMEDIATE")
        for job in batch:
            try:
                _execute(connection, job.statements)
            except (sqlite3.IntegrityError, *_UNFIT) as error:
                job.error = error  # that write alone is undone; the others are none the worse
        head = _head(connection)
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        head = 0
        for job in batch:
            job.error = error
    batch[0].token.run_sync_soon(_tell, batch, head)


def _execute(connection: sqlite3.Connection, statements: Sequence[Statement]) -> None:
    """All of one write, or nothing of it; a statement alone SQLite undoes by itself."""
    if len(statements) == 1:
        connection.execute(*statements[0])
        return
    connection.execute("SAVEPOINT write")
    try:
        for statement in statements:
            connection.execute(*statement)
    except (sqlite3.IntegrityError, *_UNFIT):
        connection.execute("ROLLBACK TO write")
        raise
    finally:
        if connection.in_transaction:  # a full disk has ended it
            connection.execute("RELEASE write")


def _tell(batch: list[_Job], head: int) -> None:
    """All at once, so that whoever waits sees all of a commit."""
    for job in batch:
        if job.then is not None and job.error is None:
            job.then()
        job.head = head
        job.done.set()


def _head(connection: sqlite3.Connection) -> int:
    row = connection.execute(journal.HEAD).fetchone()
    return row[0] if row else 0


def _translated(error: Exception, path: Path) -> MillError:
    """SQLite's complaint as one of ours; the only place where they are told apart."""
    if isinstance(error, _UNFIT):
        return MillError(f"the database {path} cannot hold such a value: {error}")
    if isinstance(error, sqlite3.IntegrityError):
        return Conflict("the id is taken")
    text = str(error)
    if "full" in text or getattr(error, "sqlite_errorname", "").startswith("SQLITE_IOERR_WRITE"):
        return NoSpace(f"the disk under {path.parent} is full: free some space, nothing was changed")
    return Unavailable(f"the database {path} cannot be used now: {text}")


def _open_both(path: Path) -> tuple[sqlite3.Connection, sqlite3.Connection]:
    with ExitStack() as on_failure:
        try:
            writer = on_failure.enter_context(closing(_open(path)))
            why = damage_of(writer) if path.stat().st_size <= CHECKED_FIRST_BYTES else None
            if why is not None:
                raise SetupError(f"the database {path} is damaged ({why}): {_HOW_TO_MEND}")
            writer.execute("PRAGMA journal_mode = WAL")
            if writer.execute(rows.WITHOUT_MINE).fetchone()[0]:
                writer.execute(rows.ADD_MINE)
            schema = f"{rows.SCHEMA} {journal.SCHEMA} {keyed.SCHEMA} {cluster.SCHEMA}"
            writer.executescript(f"BEGIN IMMEDIATE; {schema} COMMIT;")
            reader = _open(path)
        except sqlite3.Error as error:
            mend = "" if isinstance(error, sqlite3.OperationalError) else f": {_HOW_TO_MEND}"
            raise SetupError(f"cannot use the database {path}: {error}{mend}") from None
        on_failure.pop_all()
        return writer, reader


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)


def damage_of(connection: sqlite3.Connection) -> str | None:
    """What is wrong with the database; reads all of it."""
    found: str = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    return None if found == "ok" else found.splitlines()[-1]  # the first line names the schema


def _page(found: list[tuple[str, float, str]], limit: int) -> Page:
    """Out of the rows of a page and the one behind it; the next page is decided by rows, readable or not."""
    records = [record for row in found[:limit] if (record := _readable(rows.record_of, row))]
    return Page(records, found[limit - 1][1:] if len(found) > limit else None)


def _readable(read: Callable[[tuple[Any, ...]], T], row: tuple[Any, ...]) -> T | None:
    """The row as a value; one that is damaged, or speaks of what only a newer Mill knows, is left alone and told."""
    try:
        return read(row)
    except (ExceptionGroup, ValueError, LookupError, TypeError, AttributeError) as error:
        log.warning("a record cannot be read; leaving it as it is", row=row[0][:200], why=repr(error))
        return None
