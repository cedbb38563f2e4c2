"""A node in memory: tasks that play a script, templates, images. What `fake_api` serves over HTTP.

A task does what its args say, one step each:

    out TEXT, err TEXT      writes a line (``\\n`` added); out- and err- write a piece without a line end
    hold                    goes on when released or killed; `stubborn` only when killed with grace 0
    pull DONE TOTAL         as first steps of an image with "unpulled" in its name: so far it is, until released or killed
    exit N, signal N        its end; without one it exits 0
    fail REASON DETAIL MESSAGE...

Anything else does nothing.
"""

import base64
import math
from typing import Any

import attrs
import trio

from mill.convert import format_time
from mill.errors import Conflict
from mill.model import (
    Draft,
    Image,
    LayerProgress,
    LayerState,
    NodeStatus,
    PullProgress,
    Reason,
    Record,
    Resources,
    Spec,
    Stats,
    Status,
    Template,
    Time,
    Times,
)

EPOCH = 1_767_323_045.678  # 2026-01-02T03:04:05.678Z


@attrs.define(eq=False)
class FakeTask:
    record: Record
    env: dict[str, str]
    steps: list[str]
    log: list[dict[str, Any]] = attrs.field(factory=list)
    drained: bool = False
    killed_with: list[tuple[str | None, float | None]] = attrs.field(factory=list)
    go_on: trio.Event = attrs.field(factory=trio.Event)
    killed: trio.Event = attrs.field(factory=trio.Event)
    shot: trio.Event = attrs.field(factory=trio.Event)


class FakeNode:
    def __init__(self) -> None:
        self.tasks: dict[str, FakeTask] = {}
        self.templates: dict[str, Template] = {}
        self.images: list[Image] = []
        self.told: list[Record] = []
        self.changed = trio.Event()
        self.nursery: trio.Nursery | None = None

    def add(self, *steps: str, name: str = "app", start: bool = True, **said: Any) -> str:
        """A task that nobody spawned over the API."""
        return self.spawn(
            Draft(**{"image": "busybox", "name": name, "args": steps, **said}), None, start=start
        )

    def spawn(self, draft: Draft, template: str | None, *, start: bool = True) -> str:
        said = {key: value for key, value in attrs.asdict(draft, recurse=False).items() if value is not None}
        said.pop("task", None)
        image = said["image"]
        name = said.setdefault("name", template or image.rpartition("/")[2].partition(":")[0])
        task_id = f"{name}-{len(self.tasks) + 1:04d}"
        env = dict(said.pop("env", {}))
        spec = Spec(**said, env=dict.fromkeys(env))
        times = Times(Time(EPOCH), started=Time(EPOCH + 0.25))
        record = Record(
            task_id,
            spec,
            Status.STARTING,
            "node-3",
            "n3",
            f"{task_id}.mill:{spec.port}",
            times,
            template=template,
        )
        if "unpulled" in image:
            pull = PullProgress(300, 1000)
            record = attrs.evolve(record, status=Status.PULLING, pull=pull, times=Times(Time(EPOCH)))
        steps = [step for step in said.get("args", ()) if step]
        self.tasks[task_id] = FakeTask(record, env, list(steps))
        self.told.append(record)
        self.wake()
        if start:
            assert self.nursery is not None
            self.nursery.start_soon(self._play, self.tasks[task_id])
        return task_id

    def change(self, task: FakeTask, **changes: Any) -> None:
        before = task.record.status
        task.record = attrs.evolve(task.record, version=task.record.version + 1, **changes)
        if task.record.status is not before:
            self.told.append(task.record)
        self.wake()

    def wake(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    def write(self, task: FakeTask, stream: str, data: bytes, *, dropped: int = 0) -> None:
        said: dict[str, Any] = {"stream": stream, "time": format_time(EPOCH + len(task.log))}
        try:
            said["text"] = data.decode()
        except UnicodeDecodeError:
            said["base64"] = base64.b64encode(data).decode()
        said["cursor"] = f"c{len(task.log) + 1}"
        if dropped:
            said["dropped_bytes"] = dropped
        task.log.append(said)
        self.wake()

    async def _play(self, task: FakeTask) -> None:
        await trio.lowlevel.checkpoint()
        await self._fetch_image(task)
        if task.record.status is Status.PULLING and task.killed.is_set():
            return self.end(task, Reason.KILLED, detail="admin")
        if not task.steps or not task.steps[0].startswith("fail"):
            self._run(task)
        for step in task.steps:
            verb, _, rest = step.partition(" ")
            if verb in {"out", "err", "out-", "err-"}:
                end = "" if verb.endswith("-") else "\n"
                self.write(task, "stdout" if verb.startswith("out") else "stderr", f"{rest}{end}".encode())
            elif verb == "hold":
                await self._either(task.go_on, task.killed)
            elif verb == "stubborn":
                await task.shot.wait()
            elif verb in {"exit", "signal", "fail"}:
                return self._end_as(task, verb, rest)
            if verb == "hold" and task.killed.is_set():
                break
        if task.killed.is_set():
            number = 9 if task.shot.is_set() else 15
            return self.end(task, Reason.KILLED, exit_code=128 + number, signal=number, detail="admin")
        return self.end(task, Reason.EXIT, exit_code=0)

    async def _fetch_image(self, task: FakeTask) -> None:
        while task.steps and task.steps[0].startswith("pull ") and not task.killed.is_set():
            done, total = map(int, task.steps.pop(0).split()[1:])
            layer = LayerProgress(f"sha256:{'ab' * 32}", LayerState.DOWNLOADING, done, total)
            self.change(task, pull=PullProgress(done, total, (layer,)))
            await self._either(task.go_on, task.killed)
            task.go_on = trio.Event()

    def _run(self, task: FakeTask) -> None:
        times = task.record.times
        if task.record.status is Status.PULLING:
            times = attrs.evolve(times, pulled=Time(EPOCH + 0.25), started=Time(EPOCH + 0.5))
        self.change(task, status=Status.RUNNING, pull=None, times=times)

    def _end_as(self, task: FakeTask, verb: str, rest: str) -> None:
        if verb == "exit":
            self.end(task, Reason.EXIT, exit_code=int(rest))
        elif verb == "signal":
            self.end(task, Reason.SIGNAL, exit_code=128 + int(rest), signal=int(rest))
        else:
            reason, detail, *message = rest.split(" ")
            self.end(
                task, Reason(reason), detail=None if detail == "-" else detail, message=" ".join(message)
            )

    async def _either(self, *events: trio.Event) -> None:
        async with trio.open_nursery() as nursery:

            async def one(event: trio.Event) -> None:
                await event.wait()
                nursery.cancel_scope.cancel()

            for event in events:
                nursery.start_soon(one, event)

    def end(self, task: FakeTask, reason: Reason, **facts: Any) -> None:
        task.drained = True
        good = reason is Reason.KILLED or (reason is Reason.EXIT and facts.get("exit_code") == 0)
        times = attrs.evolve(task.record.times, finished=Time(EPOCH + 720.0))
        status = Status.STOPPED if good else Status.FAILED
        self.change(task, status=status, reason=reason, times=times, pull=None, **facts)

    def status(self) -> NodeStatus:
        full, used = Resources(4.0, 8 * 1024**3), Resources(1.25, 3 * 1024**3)
        counts = {
            "running": sum(not task.record.status.terminal for task in self.tasks.values()),
            "failed": 0,
        }
        return NodeStatus("node-3", "n3", "0.1.0", "1.6.20", True, full, used, counts, Time(EPOCH))

    def kill(self, task: FakeTask, signal: str | None, grace_s: float | None) -> None:
        task.killed_with.append((signal, grace_s))
        task.killed.set()
        if grace_s is not None and math.isclose(grace_s, 0.0):
            task.shot.set()

    def stats(self, record: Record) -> Stats:
        if record.status is not Status.RUNNING:
            raise Conflict(f"{record.id} does not run: it is {record.status}")
        return Stats(record.id, 0.8, 12.5, 1_288_490_189, 2 * 1024**3, 7, 4096, 8192, 0)
