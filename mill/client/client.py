"""The client: one method for each thing that the API does. Called by programs and, the only way to milld, by the CLI.

Plain async/await, for trio and asyncio alike; it starts no task of its own.
"""

import os
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import httpx

from mill.client import calls, events, lines
from mill.client.calls import Call, DraftFields, Page, Spawned, WaitFor
from mill.client.connection import Connection, ConnectionBroke
from mill.client.endpoint import locate
from mill.client.events import EventStream
from mill.client.follow import LogStream
from mill.client.lines import Moment
from mill.client.patience import Patience
from mill.client.pulls import PullStream
from mill.client.streaming import Streaming
from mill.errors import FieldError, MillError, NoCapacity
from mill.model import (
    Draft,
    Image,
    IssuedToken,
    JoinCommand,
    NodeStatus,
    NodeView,
    Record,
    RotatedSecret,
    Scope,
    SpawnRequest,
    Stats,
    Template,
    TokenView,
)

T = TypeVar("T")

DEFAULT_TIMEOUT_S = 30.0
"""For the answer to a usual call, and for milld to take the next bytes of a body."""
DEFAULT_PATIENCE_S = 30.0
"""How long `wait`, `logs` and `events` bear a milld that was there and is gone: a restart takes a second or two."""
CHUNK_BYTES = 1024 * 1024
"""Of an archive, read and sent at once."""
KEY_BYTES = 16  # as a UUID has


def new_key() -> str:
    """An Idempotency-Key that nobody else has."""
    return os.urandom(KEY_BYTES).hex()


Archive = str | os.PathLike[str] | Iterable[bytes] | AsyncIterable[bytes]


class Client:
    """milld at *address* (default: ``MILL_ADDRESS``, else what this node's milld says) with *token* (``MILL_TOKEN``).

    Over TLS its certificate must be by the authority in the file *ca* (``MILL_CA``), which a node finds by itself.
    Use as ``async with``, within one event loop. Calls may run at the same time. Raises `mill.errors` only.
    """

    def __init__(
        self,
        address: str | None = None,
        token: str | None = None,
        *,
        ca: str | os.PathLike[str] | None = None,
        timeout: float = DEFAULT_TIMEOUT_S,
        patience: float = DEFAULT_PATIENCE_S,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._patience_s = patience
        self._connection = Connection(
            locate(address, token, os.environ, ca), timeout_s=timeout, transport=transport
        )
        self._streams: set[Streaming] = set()

    def __repr__(self) -> str:
        return f"<mill.client.Client of {self.address}>"

    @property
    def address(self) -> str:
        """The base URL in use."""
        return self._connection.endpoint.url

    @property
    def partial(self) -> bool:
        """Whether an answer was given by a node without the majority of its cluster: others may know more, or better."""
        return self._connection.partial

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Closes every connection, also those of logs and events that somebody stopped reading."""
        for stream in tuple(self._streams):
            await stream.aclose()
        await self._connection.aclose()

    async def ask(self, call: Call[Any]) -> Any:
        """The JSON that milld answers *call* (one of `mill.client.calls`) with, as it came.

        A call with a key is repeated while milld is away in the midst of it.
        """
        if call.key is None:
            return await self._connection.ask(call)
        patience, there = Patience(self._patience_s), self._connection.reached
        while True:
            patience.begin()
            try:
                return await self._connection.ask(call)
            except NoCapacity:
                raise
            except MillError as error:
                there = there or self._connection.reached or isinstance(error, ConnectionBroke)
                if not there:
                    raise
                await patience.pause(error)

    def decode(self, call: Call[T], data: Any) -> T:
        """What `ask` returned as a typed value."""
        return self._connection.decode(call, data)

    async def do(self, call: Call[T]) -> T:
        return self.decode(call, await self.ask(call))

    async def spawn(
        self,
        task: str | SpawnRequest | None = None,
        /,
        *,
        idempotency_key: str | None = None,
        **fields: Unpack[DraftFields],
    ) -> Spawned:
        """Starts a task from a template's name, from inline fields, or both; returns at once.

        A milld that goes away before it has answered is asked again, once it is back, by the same Idempotency-Key: there is one
        task. Give a key of your own to repeat the call later, or from another process. Raises `FieldError`, `NotFound` (no such
        template), `NoCapacity`, `Conflict` (the key is another request's). After `ConnectionFailed` it may run or not.
        """
        if not isinstance(task, SpawnRequest):
            task = calls.spawn_request(task, fields)
        elif fields:
            raise FieldError(min(fields), "give fields or a SpawnRequest, not both")
        return await self.do(calls.spawn(task, new_key() if idempotency_key is None else idempotency_key))

    async def get(self, task_id: str) -> Record:
        return await self.do(calls.task(task_id))

    async def wait(
        self, task_id: str, until: WaitFor = "terminal", *, timeout: float | None = None
    ) -> Record:
        """The record once the task runs (or has ended) or once it has ended; as it stands after *timeout* seconds.

        Survives restarts of milld.
        """
        left_s = timeout
        patience = Patience(self._patience_s)
        while True:
            poll_s = calls.LONG_POLL_S if left_s is None else min(left_s, calls.LONG_POLL_S)
            patience.begin()
            try:
                record = await self.do(calls.wait(task_id, until, poll_s))
            except MillError as error:
                if not self._connection.reached:
                    raise
                await patience.pause(error)
                continue
            patience.reset()
            if record.status.terminal or (until == "running" and record.status == "running"):
                return record
            if left_s is not None:
                left_s -= poll_s
                if left_s <= 0:
                    return record

    async def kill(
        self, task_id: str, *, signal: str | int | None = None, grace: float | str | None = None
    ) -> Record:
        """Asks for the end and returns the record as it stands: SIGKILL follows after *grace*. No effect on one that ended."""
        return await self.do(calls.kill(task_id, signal=signal, grace=grace))

    def logs(
        self,
        task_id: str,
        *,
        follow: bool = True,
        tail: int | None = None,
        since: Moment | None = None,
        until: Moment | None = None,
        stream: str | None = None,
        cursor: str | None = None,
    ) -> LogStream:
        """What the task wrote, as an async iterator of `LogLine`; with *follow* until it has ended, across restarts of milld."""
        wanted = lines.query(follow=follow, tail=tail, since=since, until=until, stream=stream, cursor=cursor)
        patience = Patience(self._patience_s)
        log = LogStream(self._connection, task_id, wanted, patience, self._streams.discard)
        self._streams.add(log)
        return log

    def events(
        self,
        *,
        task: str | None = None,
        template: str | None = None,
        label: str | Iterable[str] = (),
        status: str | Iterable[str] = (),
        after: str | None = None,
    ) -> EventStream:
        """Every change of a task's state, as an async iterator of `TaskEvent` and `EventGap`, across restarts of milld.

        From now on, or behind the event whose id is *after*; *label* is ``key=value``, and all of several must fit.
        """
        filters = events.params(task=task, template=template, label=_several(label), status=_several(status))
        patience = Patience(self._patience_s)
        stream = EventStream(self._connection, filters, after, patience, self._streams.discard)
        self._streams.add(stream)
        return stream

    async def stats(self, task_id: str) -> Stats:
        """One sample; `Conflict` unless it runs."""
        return await self.do(calls.stats(task_id))

    def tasks(
        self,
        *,
        status: str | Iterable[str] = (),
        label: str | Iterable[str] = (),
        node: str | None = None,
        template: str | None = None,
        all: bool = False,  # noqa: A002 -- the name that the API gives it
        usage: bool = False,
        page_size: int | None = None,
    ) -> "TaskPages":
        """Records, newest first, as an async iterator that fetches page by page; without *all* those not ended.

        *label* is ``key=value``. With *usage* running records carry what they use now.
        """
        filters = {"status": _several(status), "label": _several(label), "node": node, "template": template}
        return TaskPages(self, {**filters, "all": all, "usage": usage, "limit": page_size})

    async def list_tasks(self, **filters: Any) -> list[Record]:
        """As `tasks`, all at once."""
        return [record async for record in self.tasks(**filters)]

    async def images(self, *, node: str | None = None) -> list[Image]:
        """Of the node that is asked, as with all calls of images, or of another one, by its name or id."""
        return await self.do(calls.images(node))

    async def load_image(
        self, archive: Archive, *, name: str | None = None, size: int | None = None, node: str | None = None
    ) -> list[Image]:
        """Loads an OCI or Docker archive, a path or its bytes in pieces; *size* is their sum where it is known."""
        call = calls.load_image(name, node)
        return self.decode(call, await self.ask_load(archive, name=name, size=size, node=node))

    async def ask_load(
        self, archive: Archive, *, name: str | None = None, size: int | None = None, node: str | None = None
    ) -> Any:
        """As `load_image`, the JSON as it came."""
        if isinstance(archive, str | os.PathLike):
            path = Path(archive)
            size = _size_of(path)
            content: AsyncIterable[bytes] = _read_file(path)
        else:
            content = _pieces(archive)
        headers = {"content-type": "application/x-tar"}
        if size is not None:
            headers["content-length"] = str(size)
        return await self._connection.ask(calls.load_image(name, node), content=content, headers=headers)

    def pull_image(self, ref: str, *, pull: str = "always", node: str | None = None) -> PullStream:
        """Pulls ahead of any task, told as it goes: an async iterator of `PullProgress`, and of the `Image` last.

        With *pull* ``missing`` an image that is there is not asked for again. Raises as `PullStream` is read: `FieldError`,
        or a `ProblemError` that says why it could not be pulled.
        """
        stream = PullStream(self._connection, calls.pull_image(ref, pull, node), self._streams.discard)
        self._streams.add(stream)
        return stream

    async def remove_image(self, ref: str, *, node: str | None = None) -> None:
        """`Conflict` while a task uses it, `NotFound`."""
        await self.do(calls.remove_image(ref, node))

    async def templates(self) -> list[Template]:
        return await self.do(calls.templates())

    async def template(self, name: str) -> Template:
        return await self.do(calls.template(name))

    async def put_template(self, name: str, draft: Draft) -> Template:
        """Makes or replaces it; `Conflict` when the node's configuration file defines it."""
        return await self.do(calls.put_template(name, draft))

    async def delete_template(self, name: str) -> None:
        await self.do(calls.delete_template(name))

    async def tokens(self) -> list[TokenView]:
        return await self.do(calls.tokens())

    async def create_token(
        self, scope: Scope | str, *, name: str | None = None, expires: float | str | None = None
    ) -> IssuedToken:
        """A new one of scope ``read``, ``spawn`` or ``admin``, good for *expires* (for ever); its `token` is told this once."""
        return await self.do(calls.create_token(calls.token_request(scope, name, expires)))

    async def delete_token(self, token_id: str) -> None:
        """Opens nothing from now on; what was begun with it may go on. `NotFound`; `Conflict` for the one in admin.token."""
        await self.do(calls.delete_token(token_id))

    async def status(self) -> NodeStatus:
        return await self.do(calls.status())

    async def nodes(self) -> list[NodeView]:
        return await self.do(calls.nodes())

    async def drain(self, node: str) -> NodeView:
        """The node, by id or name, takes no new task until `undrain`; what runs on it runs on."""
        return await self.do(calls.drain(node))

    async def undrain(self, node: str) -> NodeView:
        return await self.do(calls.undrain(node))

    async def forget_node(self, node: str) -> NodeView:
        """The node, by id or name, will not come back: its tasks are lost. An error while it answers."""
        return await self.do(calls.forget_node(node))

    async def join_command(self) -> JoinCommand:
        return await self.do(calls.join_command())

    async def rotate_secret(self) -> RotatedSecret:
        """All nodes have a new secret, or that of a change which was interrupted; tokens stay good."""
        return await self.do(calls.rotate_secret())


class TaskPages:
    """The records of a listing, one page fetched at a time; holds nothing open in between."""

    def __init__(self, client: Client, filters: dict[str, Any]) -> None:
        self._client = client
        self._filters = filters
        self._page: Page | None = None
        self._ready: deque[Record] = deque()

    def __aiter__(self) -> "TaskPages":
        return self

    async def __anext__(self) -> Record:
        while not self._ready:
            if self._page is not None and self._page.next is None:
                raise StopAsyncIteration
            after = self._page.next if self._page else None
            self._page = await self._client.do(calls.tasks(**self._filters, after=after))
            self._ready.extend(self._page.tasks)
        return self._ready.popleft()


def _several(value: str | Iterable[str]) -> tuple[str, ...]:
    return (str(value),) if isinstance(value, str) else tuple(value)


def _size_of(path: Path) -> int | None:
    """None for a pipe or device: then the body goes out in chunks."""
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError as error:
        raise FieldError("archive", f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None


async def _read_file(path: Path) -> AsyncIterator[bytes]:
    """In pieces, read in a worker thread."""
    import anyio  # noqa: PLC0415 -- only a program that loads an archive pays for it

    try:
        async with await anyio.open_file(path, "rb") as file:
            while piece := await file.read(CHUNK_BYTES):
                yield piece
    except OSError as error:
        raise FieldError("archive", f"cannot read {path}: {(error.strerror or str(error)).lower()}") from None


async def _pieces(archive: Iterable[bytes] | AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    if isinstance(archive, AsyncIterable):
        async for piece in archive:
            yield piece
    else:
        for piece in archive:
            yield piece
