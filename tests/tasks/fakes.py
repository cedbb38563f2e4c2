"""A world for tasks without containerd, disk or waiting: fakes that fit `mill.tasks.ports`, on trio's mock clock.

Every call that matters leaves a line in one journal, so that a test can read the order of things. A fake container lives
in its fake runtime and goes on while no milld looks, as the real one does.

Over 400 lines because each fake needs the others' journal, and a test reads them as one world.
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import attrs
import trio

from mill.config import KEY_LIFETIME_S
from mill.convert import format_time, to_json
from mill.errors import Conflict, Interrupted, MillError, PullError, StartError
from mill.model import (
    Exit,
    PullProgress,
    Record,
    Resources,
    Spec,
    Stats,
    Task,
    Time,
    Usage,
)
from mill.tasks.filter import Filter, Page, Position
from mill.tasks.journal import Event
from mill.tasks.marks import Marks
from mill.tasks.ports import OpenPipes
from mill.tasks.states import Toll

EPOCH = 1_700_000_000.0
"""Wall time when trio's clock shows 0."""
SIGTERM = 15
SIGKILL = 9
FOREVER = float("inf")
BUSYBOX = "busybox"
CAPACITY = Resources(4.0, 4 * 1024**3)


@attrs.define
class FakeClock:
    """Wall and boot time, both driven by trio's clock."""

    boot_id: str = "boot-1"
    jump_s: float = 0.0
    """How far the wall clock was set forward."""

    def now(self) -> Time:
        return Time(EPOCH + trio.current_time() + self.jump_s)

    def boottime(self) -> float:
        return trio.current_time()


def page_of(records: Iterable[Record], wanted: Filter, after: Position | None, limit: int) -> Page:
    """As the real store cuts it."""
    placed = [((one.times.created, one.id), one) for one in records if wanted.accepts(one)]
    found = sorted((pair for pair in placed if after is None or pair[0] < after), reverse=True)
    return Page([one for _, one in found[:limit]], found[limit - 1][0] if len(found) > limit else None)


@attrs.define
class FakeRecords:
    """Rows in memory. As the real store, a write that was begun is not interrupted."""

    journal: list[str]
    rows: dict[str, Task] = attrs.field(factory=dict)
    write_s: float = 0.0
    failure: MillError | None = None
    """What every write raises while it is set."""

    async def insert(self, task: Task) -> None:
        if task.record.id in self.rows:
            await trio.lowlevel.checkpoint()
            raise Conflict("the id is taken")
        await self._write(task, "insert")

    async def put(self, task: Task) -> None:
        await self._write(task, "put")

    async def amend(self, task: Task) -> None:
        if task.record.id in self.rows:
            await self._write(task, "amend")

    async def _write(self, task: Task, verb: str) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(self.write_s)
        if self.failure is not None:
            raise self.failure
        ending = " ending" if task.owned.ending and not task.record.status.terminal else ""
        self.journal.append(f"{verb} {task.record.status}{ending}")
        self.rows[task.record.id] = task

    async def get(self, task_id: str) -> Task | None:
        await trio.lowlevel.checkpoint()
        return self.rows.get(task_id)

    async def keyed(self, key: str, now: float) -> Record | None:
        await trio.lowlevel.checkpoint()
        made = [task.record for task in self.rows.values() if task.record.keyed is not None]
        found = [record for record in made if record.keyed and record.keyed.key == key]
        return found[0] if found and now < found[0].times.created + KEY_LIFETIME_S else None

    async def live(self) -> list[Task]:
        await trio.lowlevel.checkpoint()
        found = [task for task in self.rows.values() if not task.record.status.terminal]
        return sorted(found, key=lambda task: task.record.times.created)

    async def ids(self, *, live: bool = False) -> set[str]:
        await trio.lowlevel.checkpoint()
        return {task_id for task_id, task in self.rows.items() if not (live and task.record.status.terminal)}

    async def known(self, among: Collection[str]) -> set[str]:
        await trio.lowlevel.checkpoint()
        return self.rows.keys() & set(among)

    async def page(self, wanted: Filter, after: Position | None, limit: int) -> Page:
        await trio.lowlevel.checkpoint()
        return page_of([task.record for task in self.rows.values()], wanted, after, limit)

    async def longest_ended(self, after: tuple[float, str] | None, limit: int) -> list[tuple[float, str]]:
        await trio.lowlevel.checkpoint()
        ended = ((task.record.times.finished, task.record.id) for task in self.rows.values())
        found = sorted((float(time), task_id) for time, task_id in ended if time is not None)
        return [each for each in found if after is None or each > after][:limit]

    async def expired(self, ended_before: float, limit: int, *, boot_id: str, at_s: float) -> list[str]:
        found = []
        for time, task_id in await self.longest_ended(None, len(self.rows)):
            ended = self.rows[task_id].owned.ended
            here = ended is not None and ended.boot_id == boot_id
            if ended.at_s <= at_s if here and ended is not None else time <= ended_before or at_s >= 0:
                found.append(task_id)
        return found[:limit]

    async def delete(self, task_id: str) -> None:
        await trio.lowlevel.checkpoint()
        self.rows.pop(task_id, None)


@attrs.define(eq=False)
class FakeJournal:
    """State changes in memory; `reads` remembers what was asked of the table, `slow_s` is what a read takes."""

    epoch: str = "e0"
    head: int = 0
    kept: list[Event] = attrs.field(factory=list)
    reads: list[tuple[int, int]] = attrs.field(factory=list)
    slow_s: float = 0.0
    _news: trio.Event = attrs.field(factory=trio.Event)

    def add(self, *records: Record) -> None:
        """Committed and told."""
        for record in records:
            self.head += 1
            text = json.dumps(to_json(record))
            self.kept.append(Event(self.head, format_time(EPOCH + self.head), text, record.id))
        self._news.set()
        self._news = trio.Event()

    def forget(self, *seqs: int) -> None:
        self.kept = [event for event in self.kept if event.seq not in seqs]

    async def events(self, after: int, upto: int, limit: int) -> list[Event]:
        await trio.sleep(self.slow_s)
        self.reads.append((after, upto))
        return [event for event in self.kept if after < event.seq <= upto][:limit]

    async def wait_event(self, after: int) -> None:
        while self.head <= after:
            await self._news.wait()


@attrs.frozen
class FakePipes:
    stdout: Path = Path("/fake/stdout")
    stderr: Path = Path("/fake/stderr")

    async def wait_held(self) -> None:
        await trio.lowlevel.checkpoint()


@attrs.define
class FakeLogs:
    journal: list[str]
    opened: set[str] = attrs.field(factory=set)
    failure: OSError | None = None
    drain_failure: MillError | None = None

    async def open(self, task_id: str) -> FakePipes:
        await trio.lowlevel.checkpoint()
        if self.failure is not None:
            raise self.failure
        self.journal.append("open logs")
        self.opened.add(task_id)
        return FakePipes()

    async def drain(self, task_id: str) -> None:
        await trio.lowlevel.checkpoint()
        if self.drain_failure is not None:
            raise self.drain_failure
        self.journal.append("drain logs")
        self.opened.discard(task_id)


@attrs.define
class FakeRoom:
    """A host with room until it is told to refuse."""

    fault: MillError | None = None
    asked: list[int] = attrs.field(factory=list)

    def check(self, starting: int) -> None:
        self.asked.append(starting)
        if self.fault is not None:
            raise self.fault


@attrs.frozen
class Program:
    """What a container's PID 1 does: end with *code* after *runs_s*, and how it takes signals."""

    runs_s: float = FOREVER
    code: int = 0
    ignores: frozenset[int] = frozenset()
    dies_after_s: float = 0.0
    """From a signal it does not ignore to its end."""
    toll: Toll = attrs.field(factory=Toll)
    lost: str | None = None
    """The runtime loses it at its end: nobody can know how it ended."""


@attrs.define(eq=False)
class FakeContainer:
    id: str
    program: Program
    journal: list[str]
    started: Time
    began_s: float
    ends_at: float
    code: int
    stop_signal: int = SIGTERM
    ip: str | None = "192.0.2.7"
    deleted: bool = False
    before_kill: Callable[[], None] = attrs.field(default=lambda: None)
    refuses: int = 0
    """So many signals the runtime refuses."""
    signal_s: float = 0.0
    """How long a signal takes to be delivered."""
    unheard: bool = False
    """The runtime's first answer to a signal is lost: asked again, it says that there is nothing left to signal."""
    _news: trio.Event = attrs.field(factory=trio.Event)

    def end(self, code: int, *, after_s: float = 0.0) -> None:
        """PID 1 ends (unless it ends sooner)."""
        at = trio.current_time() + after_s
        if at < self.ends_at:
            self.ends_at, self.code = at, code
            self._news.set()
            self._news = trio.Event()

    @property
    def alive(self) -> bool:
        return trio.current_time() < self.ends_at

    async def wait(self) -> Exit:
        await trio.lowlevel.checkpoint()
        while self.alive:
            with trio.move_on_at(self.ends_at):
                await self._news.wait()
        if self.program.lost is not None:
            raise Interrupted(self.program.lost)
        return Exit(self.code, Time(EPOCH + self.ends_at))

    async def kill(self, signal: int) -> bool | None:
        self.before_kill()
        await trio.sleep(self.signal_s)
        if not self.alive:
            return None if self.unheard else False
        self.journal.append(f"kill {signal}")
        if self.refuses:
            self.refuses -= 1
            return True
        if signal not in self.program.ignores:
            self.end(128 + signal, after_s=self.program.dies_after_s)
        return None if self.unheard else True

    async def toll(self) -> Toll:
        await trio.lowlevel.checkpoint()
        self.journal.append("toll")
        return self.program.toll

    async def delete(self) -> None:
        await trio.lowlevel.checkpoint()
        self.journal.append("delete")
        self.end(128 + SIGKILL)
        self.deleted = True


@attrs.define(eq=False)
class FakeRuntime:
    """Containers by task id. They outlive the milld that started them."""

    journal: list[str]
    clock: FakeClock
    program: Program = attrs.field(factory=Program)
    images: set[str] = attrs.field(factory=set)
    pull_s: float = 0.0
    pull_error: PullError | None = None
    start_s: float = 0.0
    start_error: StartError | None = None
    launch_s: float = 0.0
    """From the first instruction of PID 1 to the answer of the call that starts it."""
    started_when_cancelled: bool = False
    """PID 1 runs already when the call that starts it is cancelled."""
    lost: str | None = None
    """`adopt` cannot know any more."""
    find_error: MillError | None = None
    ready: dict[str, str] = attrs.field(factory=dict)
    """Ids that part of the work is done for, by name."""
    clean_up_error: MillError | OSError | None = None
    adopt_error: OSError | None = None
    containers: dict[str, FakeContainer] = attrs.field(factory=dict)
    swept: list[str] = attrs.field(factory=list)

    def __getitem__(self, task_id: str) -> FakeContainer:
        return self.containers[task_id]

    async def find_image(self, spec: Spec) -> str | None:
        await trio.lowlevel.checkpoint()
        if self.find_error is not None:
            raise self.find_error
        return spec.image if spec.image in self.images else None

    def ready_id(self, spec: Spec) -> str | None:
        return self.ready.get(spec.name)

    async def pull(self, spec: Spec, on_progress: Callable[[PullProgress], None], marks: Marks) -> str:
        self.journal.append("pull")
        on_progress(PullProgress(1, 2))
        await trio.sleep(self.pull_s)
        if self.pull_error is not None:
            raise self.pull_error
        marks.note(fetched=self.clock.now())
        return spec.image

    def run(self, task_id: str, program: Program | None = None) -> FakeContainer:
        """A container whose PID 1 runs from now on."""
        program = program or self.program
        container = FakeContainer(
            task_id,
            program,
            self.journal,
            self.clock.now(),
            self.clock.boottime(),
            trio.current_time() + program.runs_s,
            program.code,
        )
        self.containers[task_id] = container
        return container

    async def start(self, task: Task, image: object, open_pipes: OpenPipes, marks: Marks) -> FakeContainer:  # noqa: ARG002 -- the port's
        assert task.record.id not in self.containers, "a task runs once"
        await open_pipes()
        self.journal.append("start")
        marks.note(snapshot_made=self.clock.now())
        try:
            await trio.sleep(self.start_s)
        except trio.Cancelled:
            if self.started_when_cancelled:
                self.run(task.record.id)
            raise
        if self.start_error is not None:
            raise self.start_error
        container = self.run(task.record.id)
        await trio.sleep(self.launch_s)
        marks.note(launched=self.clock.now())
        return container

    async def adopt(self, task: Task) -> FakeContainer | None:
        await trio.lowlevel.checkpoint()
        self.journal.append("adopt")
        if self.adopt_error is not None:
            raise self.adopt_error
        if self.lost is not None:
            raise Interrupted(self.lost)
        found = self.containers.get(task.record.id)
        if found is not None and found.deleted:
            del self.containers[task.record.id]
            raise Interrupted("its container has no process any more")
        return found

    async def clean_up(self, task_id: str) -> str | None:
        await trio.lowlevel.checkpoint()
        self.journal.append("clean up")
        if self.clean_up_error is not None:
            raise self.clean_up_error
        if task_id in self.containers:
            self.containers.pop(task_id).end(128 + SIGKILL)
        return None

    async def sweep(self, known: Callable[[str], bool]) -> list[str]:
        await trio.lowlevel.checkpoint()
        strays = [task_id for task_id in self.containers if not known(task_id)]
        for task_id in strays:
            await self.clean_up(task_id)
        self.swept += strays
        return strays

    def usage(self) -> Mapping[str, Usage]:
        return {
            task_id: Usage(0.5, 1024) for task_id, container in self.containers.items() if container.alive
        }

    def stats(self, task_id: str) -> Stats | None:
        container = self.containers.get(task_id)
        if container is None or not container.alive:
            return None
        return Stats(task_id, 0.5, 1.0, 1024, 2048, 1, 0, 0, 0)


@attrs.define
class Suffixes:
    """As `random.Random`, for suffixes: those asked for, then ``0001``, ``0002`` ..."""

    wanted: list[str] = attrs.field(factory=list)
    given: int = 0

    def choices(self, population: str, *, k: int) -> list[str]:  # noqa: ARG002 -- random.Random's
        if self.wanted:
            return list(self.wanted.pop(0))
        self.given += 1
        return list(f"{self.given:0{k}d}")
