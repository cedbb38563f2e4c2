"""A node as the API sees it, without containers, disk or network: fakes that fit `mill.api.core`, and records to show.

A fake remembers what it was asked (`asked`) and answers from what the test put into it; `fault`, where set, is raised
instead. Called by the tests of the routes.
"""

from collections.abc import AsyncGenerator, Collection, Mapping
from pathlib import Path
from typing import Any

import attrs
import trio

from mill.api.core import Answered, Core, Exposition, Fleet
from mill.config import SURE_S
from mill.errors import Conflict, MillError, NotFound
from mill.logs.frames import LogChunk, LogRequest
from mill.model import (
    Draft,
    Duration,
    Image,
    JoinCommand,
    Keyed,
    NodeState,
    NodeStatus,
    NodeView,
    PullPolicy,
    PullProgress,
    Reason,
    Record,
    Resources,
    RotatedSecret,
    SpawnRequest,
    Spec,
    Stats,
    Status,
    Template,
    Time,
    Times,
    TokenView,
    Usage,
)
from mill.security.tokens import Tokens, hash_of
from mill.tasks.events import Events
from mill.tasks.filter import Filter, Page, Position
from tests.tasks.fakes import FakeJournal, page_of

TOKEN = "the-token"
NOW = 1_800_000_000.0
DIGEST = "sha256:" + "ab" * 32
BUSYBOX = Image("docker.io/library/busybox:latest", DIGEST, 5, Time(NOW))


def record(task_id: str, status: Status = Status.RUNNING, *, created: float = NOW, **fields: Any) -> Record:
    base = Record(
        id=task_id,
        spec=Spec("docker.io/library/busybox:latest", task_id.rpartition("-")[0]),
        status=status,
        node="node-1",
        node_id="00000000-0000-4000-8000-000000000000",
        address=f"{task_id}.mill:8080",
        times=Times(Time(created)),
    )
    return attrs.evolve(base, **fields)


@attrs.define
class FakeTasks:
    """`fault` is raised by every call that may fail."""

    records: dict[str, Record] = attrs.field(factory=dict)
    asked: list[object] = attrs.field(factory=list)
    fault: BaseException | None = None
    figures: dict[str, Stats] = attrs.field(factory=dict)

    def add(self, *records: Record) -> None:
        self.records |= {one.id: one for one in records}

    async def spawn(
        self, request: SpawnRequest, templates: Mapping[str, Draft], key: Keyed | None = None
    ) -> Record:
        await self._fail()
        self.asked.append((request, dict(templates)) if key is None else (request, dict(templates), key))
        made = record(f"{request.name or 'busybox'}-x7k2", Status.PULLING)
        self.add(made)
        return made

    async def get(self, task_id: str) -> Record:
        await self._fail()
        if task_id not in self.records:
            raise NotFound(f"no task {task_id[:80]!r}")
        return self.records[task_id]

    async def wait(self, task_id: str, condition: str, timeout_s: float) -> Record:
        self.asked.append((task_id, condition, timeout_s))
        return await self.get(task_id)

    def usage(self) -> dict[str, Usage]:
        return {one.id: one.usage for one in self.records.values() if one.usage is not None}

    def live(self, wanted: Filter) -> list[Record]:
        self.asked.append(("live", wanted))
        return [one for one in self._newest_first() if not one.status.terminal and wanted.accepts(one)]

    async def page(self, wanted: Filter, after: Position | None, limit: int) -> Page:
        await self._fail()
        self.asked.append(("page", wanted, after, limit))
        return page_of(self.records.values(), wanted, after, limit)

    async def kill(self, task_id: str, by: str, *, signal: int | None, grace: Duration | None) -> Record:
        self.asked.append((task_id, by, signal, grace))
        return await self.get(task_id)

    def stats(self, task_id: str) -> Stats | None:
        return self.figures.get(task_id)

    async def _fail(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.fault is not None:
            raise self.fault

    def _newest_first(self) -> list[Record]:
        return sorted(self.records.values(), key=lambda one: (one.times.created, one.id), reverse=True)


@attrs.define
class FakeLogs:
    """Gives `chunks`; a follower then waits for `end`. `open` counts the readers that have not been closed."""

    chunks: list[LogChunk] = attrs.field(factory=list)
    asked: list[LogRequest] = attrs.field(factory=list)
    fault: BaseException | None = None
    open: int = 0
    end: trio.Event = attrs.field(factory=trio.Event)
    closed: trio.Event = attrs.field(factory=trio.Event)

    async def read(self, task_id: str, request: LogRequest) -> AsyncGenerator[LogChunk, None]:
        assert task_id
        self.asked.append(request)
        self.open += 1
        try:
            for chunk in self.chunks:
                await trio.lowlevel.checkpoint()
                yield chunk
            if self.fault is not None:
                raise self.fault
            if request.follow:
                await self.end.wait()
        finally:
            self.open -= 1
            self.closed.set()


@attrs.define
class FakeImages:
    """Remembers the bytes of every archive. A pull tells what is in `told`, then waits for `go_on`; `closed` when it is over."""

    loaded: list[tuple[bytes, str | None]] = attrs.field(factory=list)
    paths: list[Path] = attrs.field(factory=list)
    asked: list[object] = attrs.field(factory=list)
    told: list[PullProgress] = attrs.field(factory=list)
    go_on: trio.Event = attrs.field(factory=trio.Event)
    closed: trio.Event = attrs.field(factory=trio.Event)
    fault: MillError | None = None

    async def load(self, archive: Path, *, name: str | None) -> list[Image]:
        self.paths.append(archive)
        self.loaded.append((await trio.Path(archive).read_bytes(), name))
        if self.fault is not None:
            raise self.fault
        return await self.list()

    async def list(self) -> list[Image]:
        await trio.lowlevel.checkpoint()
        return [BUSYBOX]

    async def pull(self, ref: str, policy: PullPolicy) -> AsyncGenerator[PullProgress | Image, None]:
        self.asked.append((ref, policy))
        try:
            for one in self.told:
                yield one
            await self.go_on.wait()
            if self.fault is not None:
                raise self.fault
            yield BUSYBOX
        finally:
            self.closed.set()

    async def remove(self, ref: str) -> None:
        await trio.lowlevel.checkpoint()
        self.asked.append(ref)
        if self.fault is not None:
            raise self.fault


@attrs.define
class FakeTemplates:
    kept: dict[str, Template] = attrs.field(factory=dict)
    fault: MillError | None = None

    def all(self) -> Mapping[str, Template]:
        return self.kept

    def drafts(self) -> Mapping[str, Draft]:
        return {name: template.draft for name, template in self.kept.items()}

    async def put(self, template: Template) -> None:
        await self._fail()
        self.kept[template.name] = template

    async def delete(self, name: str) -> None:
        await self._fail()
        if name not in self.kept:
            raise NotFound(f"no template {name!r}")
        del self.kept[name]

    async def _fail(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.fault is not None:
            raise self.fault


VIEW = NodeView(
    id="00000000-0000-4000-8000-000000000000",
    name="node-1",
    address="192.0.2.1",
    state=NodeState.ALIVE,
    capacity=Resources(2.0, 2**30),
    reserved=Resources(0.25, 2**28),
    version="9.8.7",
    started=Time(NOW),
)


@attrs.define
class FakeNodes:
    view: NodeView
    others: list[NodeView] = attrs.field(factory=list)

    def all(self) -> list[NodeView]:
        return [self.view, *self.others]

    def find(self, node: str) -> NodeView:
        found = [view for view in self.all() if node in {view.id, view.name}]
        if not found:
            raise NotFound(f"no node {node!r} is known here")
        if len(found) > 1:
            raise Conflict(f"{len(found)} nodes have the name {node}")
        return found[0]

    async def drain(self, node: str) -> NodeView:
        return await self._set(node, NodeState.DRAINING)

    async def undrain(self, node: str) -> NodeView:
        return await self._set(node, NodeState.ALIVE)

    async def forget(self, node: str) -> NodeView:
        return await self._set(node, NodeState.LEFT)

    async def rotate_secret(self) -> RotatedSecret:
        await trio.lowlevel.checkpoint()
        return RotatedSecret("0123abcd", tuple(view.name for view in self.all()))

    def join_command(self) -> JoinCommand:
        return JoinCommand("milld --join 192.0.2.1:4401", "/var/lib/mill/cluster.secret")

    async def _set(self, node: str, state: NodeState) -> NodeView:
        await trio.lowlevel.checkpoint()
        if node not in {self.view.id, self.view.name}:
            raise NotFound(f"no node {node!r} is known here")
        self.view = attrs.evolve(self.view, state=state)
        return self.view


@attrs.define
class FakeTokenStore:
    """`kept` by hash, as a store would. `fault` is raised by every write."""

    kept: dict[str, TokenView] = attrs.field(factory=dict)
    fault: MillError | None = None

    async def put_token(self, hashed: str, token: TokenView) -> None:
        await self._fail()
        self.kept[hashed] = token

    async def delete_token(self, hashed: str) -> None:
        await self._fail()
        del self.kept[hashed]

    async def tokens(self) -> dict[str, TokenView]:
        await trio.lowlevel.checkpoint()
        return dict(self.kept)

    async def _fail(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.fault is not None:
            raise self.fault


@attrs.define
class FakeEnds:
    """`doubted` are in doubt; `asked` was asked after."""

    doubted: set[str] = attrs.field(factory=set)
    asked: list[set[str]] = attrs.field(factory=list)
    waited_s: list[float] = attrs.field(factory=list)

    async def in_doubt(self, tasks: Collection[str], within_s: float = SURE_S) -> set[str]:
        await trio.lowlevel.checkpoint()
        self.asked.append(set(tasks))
        self.waited_s.append(within_s)
        return self.doubted & set(tasks)


@attrs.define
class FakeNode:
    """All of them, and the `Core` that the app is made over."""

    uploads: Path
    tasks: FakeTasks = attrs.field(factory=FakeTasks)
    logs: FakeLogs = attrs.field(factory=FakeLogs)
    journal: FakeJournal = attrs.field(factory=FakeJournal)
    images: FakeImages = attrs.field(factory=FakeImages)
    templates: FakeTemplates = attrs.field(factory=FakeTemplates)
    nodes: FakeNodes = attrs.field(factory=lambda: FakeNodes(VIEW))
    kept_tokens: FakeTokenStore = attrs.field(factory=FakeTokenStore)
    healthy: bool = True
    fleet: Fleet | None = None
    ends: FakeEnds | None = None
    answered: list[Answered] = attrs.field(factory=list)

    async def metrics(self, accept: str) -> Exposition:
        await trio.lowlevel.checkpoint()
        return Exposition("text/plain; version=0.0.4; charset=utf-8", f"# {accept}\n".encode())

    @property
    def core(self) -> Core:
        return Core(
            tasks=self.tasks,
            logs=self.logs,
            events=Events(self.journal),
            images=self.images,
            templates=self.templates,
            nodes=self.nodes,
            tokens=Tokens(self.kept_tokens, lambda: NOW, hash_of(TOKEN), dict(self.kept_tokens.kept)),
            status=lambda: STATUS,
            healthy=lambda: self.healthy,
            metrics=self.metrics,
            on_answer=self.answered.append,
            now=lambda: NOW,
            uploads=self.uploads,
            version="9.8.7",
            fleet=self.fleet,
            ends=self.ends,
        )


STATUS = NodeStatus(
    node="node-1",
    node_id="00000000-0000-4000-8000-000000000000",
    version="9.8.7",
    containerd="1.6.20",
    runtime_ok=True,
    capacity=Resources(2.0, 2**30),
    reserved=Resources(0.25, 2**28),
    tasks={"running": 1},
    started=Time(NOW),
)
ENDED = record(
    "done-0001",
    Status.FAILED,
    reason=Reason.OOM,
    message="ran out of memory",
    exit_code=137,
    signal=9,
    times=Times(Time(NOW), Time(NOW + 1), Time(NOW + 2), Time(NOW + 3.5)),
)
RUNNING = record("busy-0001", usage=Usage(0.5, 1000))
STATS = Stats(
    id="busy-0001",
    cpu=0.5,
    cpu_seconds=1.25,
    memory=10,
    memory_limit=20,
    pids=1,
    read_bytes=0,
    written_bytes=0,
    oom_kills=0,
)
