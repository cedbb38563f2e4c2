"""The log store of one node: `open` when a task starts, `drain` at its end, `read` at any time.

Wires the capture thread, the holder and the readers; the files it keeps are described in `index`. `daemon` serves it, the
lifecycle opens and drains, the API reads. Of a task under way it keeps two FIFOs, up to four files and a few kilobytes;
of others nothing.
"""

import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from time import monotonic as monotonic_clock

import attrs
import structlog
import trio

from mill.errors import NoSpace, NotFound, SetupError, Unavailable
from mill.logs import disuse, pipes
from mill.logs.budget import Budget
from mill.logs.capture import Capture, Clock, Goal, Source
from mill.logs.frames import LogChunk, LogRequest
from mill.logs.holder import FIFOS_NAME
from mill.logs.holding import HolderLink
from mill.logs.index import END_NAME, Stream
from mill.logs.news import News, NewsDesk, Seen
from mill.logs.pipes import TaskPipes
from mill.logs.reader import TaskReader
from mill.logs.seek import start_of
from mill.logs.segments import SegmentWriter

__all__ = ["HeldPipes", "Logs", "serve"]

LOGS_NAME = "logs"
CAPTURE_NAME = "mill-logs"
"""The capture thread's name, in at most the 15 characters that the kernel shows."""
DRAIN_S = 2.0
"""For reading a task's last bytes. It takes so long only if a process that outlived its task still holds a FIFO open."""

log = structlog.get_logger()


@attrs.frozen
class HeldPipes(TaskPipes):
    """A task's FIFOs, which are read already; the holder may be about to have them."""

    _held: trio.Event = attrs.field(factory=trio.Event, kw_only=True, eq=False)

    async def wait_held(self) -> None:
        """Until what is written to them outlives milld (or the holder did not answer, which it has been warned of)."""
        await self._held.wait()


@attrs.define(eq=False)
class _Live:
    """A task under capture. `kept` holds its place at the news desk."""

    pipes: HeldPipes
    sources: list[Source]
    kept: ExitStack


class Logs:
    """The handle that `serve` starts with. Methods that change something are safe to repeat, also after a crash."""

    _holding: trio.Nursery
    """Where the holder is asked while a start goes on."""

    def __init__(self, data_dir: Path, now: Clock, monotonic: Clock, token: trio.lowlevel.TrioToken) -> None:
        self._logs = data_dir / LOGS_NAME
        self._fifos = data_dir / FIFOS_NAME
        self._now = now
        self._monotonic = monotonic
        self._token = token
        self._news = NewsDesk(token)
        self.budget = Budget()
        self._over = trio.Event()
        self._capture = Capture(now, monotonic, self._on_fault, self.budget, self._on_over)
        self._holder = HolderLink(data_dir)
        self._live: dict[str, _Live] = {}
        self._busy: dict[str, trio.Lock] = {}
        self._faulty: dict[str, OSError] = {}
        self._unmarked: set[str] = set()
        self._closed = False
        self._quiet = trio.Event()
        self._holder_scope = trio.CancelScope()

    def __repr__(self) -> str:
        return f"<Logs {self._logs} live={len(self._live)}>"

    async def open(self, task_id: str) -> HeldPipes:
        """Make the task's FIFOs and begin to capture what comes; or go on where an earlier milld was stopped.

        The holder is asked meanwhile: whoever starts the task waits for `HeldPipes.wait_held` first. Raises `OSError` if
        the files cannot be made.
        """
        async with self._alone(task_id):
            live = self._live.get(task_id)
            if live is None:
                live = await self._attach(task_id)
                self._holding.start_soon(self._hold, task_id, live.pipes)
                self._unmarked.discard(task_id)
                self._news.change(task_id)
            return live.pipes

    async def _hold(self, task_id: str, opened: HeldPipes) -> None:
        try:
            await self._holder.hold(task_id)
        finally:
            opened._held.set()  # noqa: SLF001 -- its maker

    async def drain(self, task_id: str) -> None:
        """Take what the task wrote last, and end its log: readers that follow it come to their end.

        To be called once no writer is left (after containerd's Tasks.Delete); for every task, even one that never
        started. It is not interrupted, and takes `DRAIN_S` and a little at most. While the disk takes no more it raises
        `NoSpace`: what is left stays in the FIFOs, for the next call.
        """
        with trio.CancelScope(shield=True):
            async with self._alone(task_id):
                try:
                    await self._drain(task_id)
                except OSError as error:
                    if error.errno in pipes.FULL:
                        raise NoSpace(f"{self._logs}: {error.strerror}") from None
                    log.warning("the end of the log cannot be written", task=task_id, why=error.strerror)
                    self._unmarked.add(task_id)
                    self._news.change(task_id)

    async def remove(self, task_id: str) -> None:
        """The task's logs are gone; who follows them comes to an end."""
        with trio.CancelScope(shield=True):
            async with self._alone(task_id):
                fifos, logs = self._places(task_id)
                if task_id in self._live or fifos.exists():
                    await self._drain(task_id)
                self.budget.removed_bytes += await trio.to_thread.run_sync(disuse.remove, logs)
                self._unmarked.discard(task_id)
                self._news.change(task_id, removed=True)

    # -- within its limit, for `retention` ------------------------------------------------------------------------------

    async def wait_over(self) -> None:
        """Until there may be more than the budget allows."""
        await self._over.wait()
        self._over = trio.Event()

    def resume(self) -> None:
        """All that could go has gone: streams that waited for it go on."""
        self._capture.resume()

    async def drop_ended(self, task_id: str, need_bytes: int) -> int:
        """Remove the oldest segments of a task that has ended, until so much is freed or none is left; bytes freed."""
        if task_id in self._live:
            return 0
        _, logs = self._places(task_id)
        return self._freed(await trio.to_thread.run_sync(disuse.drop_ended, logs, need_bytes))

    async def drop_running(self, need_bytes: int) -> int:
        """As `drop_ended`, of the running tasks together; the newest segment of each stream stays."""
        if need_bytes <= 0:
            return 0
        directories = [self._logs / task_id for task_id in self._live]
        return self._freed(await trio.to_thread.run_sync(disuse.drop_running, directories, need_bytes))

    async def recount(self) -> None:
        """Count what is on the disk; it may take seconds where many tasks have logs."""
        before = self.budget.taken_bytes
        size = await trio.to_thread.run_sync(disuse.size_of_all, self._logs)
        self.budget.found(size, taken_before=before)
        if self.budget.over_bytes > 0:
            self._say_over()

    async def remove_orphans(
        self, known: Callable[[Collection[str]], Awaitable[Collection[str]]], age_s: float
    ) -> None:
        """The logs of tasks that *known* leaves out and that are older than that; a few at a time, however many there are."""
        with os.scandir(self._logs) as entries:
            while names := await trio.to_thread.run_sync(disuse.next_names, entries):
                unknown = names - set(await known(names)) - self._live.keys()
                old = await trio.to_thread.run_sync(disuse.orphans, self._logs, unknown, self._now() - age_s)
                for task_id in old:
                    await self.remove(task_id)
                if old:
                    log.info("removed logs that no record knows", count=len(old), ids=old[:10])

    def _freed(self, size_bytes: int) -> int:
        self.budget.removed_bytes += size_bytes
        self.budget.dropped_bytes += size_bytes
        return size_bytes

    def _on_over(self) -> None:
        """From the capture thread."""
        self._token.run_sync_soon(self._say_over)

    def _say_over(self) -> None:
        self._over.set()

    # -- reading ----------------------------------------------------------------------------------------------------

    async def read(self, task_id: str, request: LogRequest) -> AsyncGenerator[LogChunk, None]:
        """The chunks that *request* asks for; with `follow`, also those to come, up to the end of the log.

        A task that has not written yet has an empty log. Callers wrap it in `contextlib.aclosing`.
        """
        _, directory = self._places(task_id)
        with self._news.of(task_id) as news:
            reader = await trio.to_thread.run_sync(_reader_for, directory, request)
            try:
                if request.asks_place:
                    yield reader.place(self._now())
                seen = None
                while True:
                    before, seen = seen, news.seen
                    over = not request.follow or self._is_over(task_id, news)
                    late = request.until is not None and self._now() >= request.until
                    for chunk in await _next_batch(reader, seen.fresh_since(before)):
                        yield chunk
                    if not reader.dry:
                        await trio.lowlevel.checkpoint()
                    elif over or late:
                        break
                    else:
                        await self._wait_newer(news, seen, request.until)
                final = pipes.final_cursor(directory)
                if final is not None:
                    for chunk in reader.lost(*final):
                        yield chunk
            finally:
                reader.close()

    async def _wait_newer(self, news: News, seen: Seen, until: float | None) -> None:
        if until is None:
            await news.wait_newer(seen)
        else:
            with trio.move_on_after(max(0.0, until - self._now())):
                await news.wait_newer(seen)

    def _is_over(self, task_id: str, news: News) -> bool:
        if task_id in self._live:
            return False
        return news.removed or task_id in self._unmarked or (self._logs / task_id / END_NAME).exists()

    def _places(self, task_id: str) -> tuple[Path, Path]:
        """The directories of its FIFOs and of its logs."""
        if not task_id or not task_id.replace("-", "a").isalnum() or not task_id.isascii():
            raise NotFound(f"{task_id[:80]!r} is no task's id")
        return self._fifos / task_id, self._logs / task_id

    @asynccontextmanager
    async def _alone(self, task_id: str) -> AsyncIterator[None]:
        """One change at a time for each task."""
        if self._closed:
            raise Unavailable("the log store is shutting down")
        lock = self._busy.setdefault(task_id, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked() and not lock.statistics().tasks_waiting:
                self._busy.pop(task_id, None)
                self._quiet.set()

    async def _attach(self, task_id: str) -> _Live:
        made, attached = await trio.to_thread.run_sync(_make_and_attach, *self._places(task_id))
        kept = ExitStack()
        ring = partial(self._news.ring, kept.enter_context(self._news.of(task_id)))
        sources = [Source(task_id, fifo, writer, partial(ring, writer.stream)) for fifo, writer in attached]
        sources[0].twin, sources[1].twin = sources[1], sources[0]
        live = self._live[task_id] = _Live(HeldPipes(made.stdout, made.stderr), sources, kept)
        for source in sources:
            self._capture.add(source)
        return live

    async def _drain(self, task_id: str) -> None:
        """In this order, so that a crash in between loses nothing: read all, let the holder go, read to the end."""
        fifos, logs = self._places(task_id)
        live = self._live.get(task_id)
        if live is None and fifos.exists():
            if pipes.final_cursor(logs) is None:
                live = await self._attach(task_id)
                live.pipes._held.set()  # noqa: SLF001 -- nobody writes any more: there is nothing to hold it for
            else:
                await self._holder.release(task_id)
        if live is not None:
            await (
                live.pipes.wait_held()
            )  # else the holder might be asked to hold what it was just asked to release
            deadline = self._monotonic() + DRAIN_S
            await self._reach(live, Goal.EMPTY, deadline)
            for fault in filter(None, (self._faulty.get(_name(source)) for source in live.sources)):
                if fault.errno in pipes.FULL:
                    raise fault
            await self._holder.release(task_id)
            await self._reach(live, Goal.END, deadline)
        try:
            await trio.to_thread.run_sync(pipes.finish, fifos, logs)
        finally:
            if live is not None:
                del self._live[task_id]
                live.kept.close()
                for source in live.sources:
                    self._faulty.pop(_name(source), None)
        self._news.change(task_id)

    async def _reach(self, live: _Live, goal: Goal, deadline: float) -> None:
        reached = [trio.Event() for _ in live.sources]
        for source, event in zip(live.sources, reached, strict=True):
            self._capture.reach(source, goal, deadline, partial(self._token.run_sync_soon, event.set))
        for event in reached:
            await event.wait()

    def _on_fault(self, source: Source, fault: OSError | None) -> None:
        """From the capture thread."""
        self._token.run_sync_soon(self._report, source, fault)

    def _report(self, source: Source, fault: OSError | None) -> None:
        """One line when a stream cannot be written, one when it can again."""
        name = _name(source)
        if fault is None and name in self._faulty:
            del self._faulty[name]
            log.info("the log can be written again", task=source.task_id, stream=source.stream)
        elif fault is not None and name not in self._faulty:
            self._faulty[name] = fault
            log.warning(
                "the log cannot be written; its task waits",
                task=source.task_id,
                stream=source.stream,
                why=fault.strerror or str(fault),
            )

    async def serve(self, *, task_status: trio.TaskStatus["Logs"]) -> None:
        """Capture until cancelled. What FIFOs hold then stays in them, for the next milld."""
        async with trio.open_nursery() as nursery:
            self._holding = nursery
            nursery.start_soon(self._run_capture)
            try:
                await nursery.start(self._run_holder)
                self._holder_scope.shield = True
                task_status.started(self)
                await trio.sleep_forever()
            finally:
                self._closed = True
                with trio.CancelScope(shield=True):  # a drain that has begun needs both to come to its end
                    await self._wait_quiet()
                self._holder_scope.cancel()
                self._capture.stop()

    async def _run_holder(self, *, task_status: trio.TaskStatus[None]) -> None:
        with self._holder_scope:
            await self._holder.serve(task_status=task_status)

    async def _wait_quiet(self) -> None:
        """Until no change of any task is under way; there will be no new ones."""
        while self._busy:
            self._quiet = trio.Event()
            await self._quiet.wait()

    async def _run_capture(self) -> None:
        with trio.CancelScope(shield=True):  # only `stop` ends it, and it closes what it was made with
            await trio.to_thread.run_sync(
                self._capture.run, limiter=trio.CapacityLimiter(1), thread_name=CAPTURE_NAME
            )


async def serve(
    data_dir: Path, now: Clock, *, monotonic: Clock = monotonic_clock, task_status: trio.TaskStatus[Logs]
) -> None:
    """The log store under *data_dir*; *now* gives unix seconds. Both clocks are read in the capture thread."""
    try:
        for name in (LOGS_NAME, FIFOS_NAME):
            (data_dir / name).mkdir(pipes.DIRECTORY_MODE, parents=True, exist_ok=True)
    except OSError as error:
        raise SetupError(f"cannot keep logs in {data_dir}: {error.strerror}; see --data-dir") from None
    await Logs(data_dir, now, monotonic, trio.lowlevel.current_trio_token()).serve(task_status=task_status)


def _make_and_attach(fifos: Path, logs: Path) -> tuple[TaskPipes, list[tuple[int, SegmentWriter]]]:
    made = pipes.make(fifos, logs)
    return made, pipes.attach(made, logs)


def _reader_for(directory: Path, request: LogRequest) -> TaskReader:
    """Finding the place may read a lot; from there on it goes in small steps."""
    reader = TaskReader(directory, request.streams, start_of(directory, request), request.until)
    reader.find_place()
    return reader


async def _next_batch(reader: TaskReader, fresh: tuple[Stream, ...]) -> list[LogChunk]:
    """From the page cache right here; in a thread if the kernel would have to wait for the disk, or cannot tell."""
    try:
        return reader.batch(os.RWF_NOWAIT, fresh)
    except BlockingIOError:
        return await trio.to_thread.run_sync(reader.batch, 0, fresh)


def _name(source: Source) -> str:
    return f"{source.task_id}/{source.stream}"
