"""What a client may rely on: the design's promises that one node can break, each checked against what was told and done.

The `Witness` knows what was asked for (plans, kills), what the engine did, and every answer that a client got. What contradicts
a promise is kept in `broken`: it is told inside milld's own tasks too, where raising would only fail a task.
"""

import json
from collections.abc import Collection
from typing import Protocol

import attrs
import trio

from mill.convert import from_json
from mill.model import Reason, Record, Resources, Status, Time
from mill.tasks.events import Events
from mill.tasks.filter import Filter
from mill.tasks.ledger import Ledger
from tests.tasks.fakes import Program

PLAN_LABEL = "plan"
CLIENT = "client"
SLACK_S = 3.0
"""For the few commits on the way to a signal."""
MILLISECOND = 0.0011
"""Times come back from JSON in whole ones."""
OWN_ENDS = {Reason.EXIT, Reason.SIGNAL, Reason.OOM}
ORDER = [Status.PULLING, Status.STARTING, Status.RUNNING, Status.STOPPED, Status.FAILED]


@attrs.frozen
class Plan:
    """A task as it is asked for, and what becomes of it when nobody interferes."""

    program: Program
    cpu: float = 1.0
    memory: int = 128 * 1024**2
    timeout: float = 60.0
    grace: float = 5.0
    pull_timeout: float = 30.0
    cached: bool = True
    pull_s: float = 0.0
    pull_fails: bool = False
    start_s: float = 0.0
    start_fails: bool = False
    starts_all_the_same: bool = False
    """PID 1 runs although the call that starts it was cut off."""

    @property
    def resources(self) -> Resources:
        return Resources(self.cpu, self.memory)


class Container(Protocol):
    """What the witness knows of a container's true life."""

    began: float
    ends_at: float
    code: int
    lost: bool

    @property
    def alive(self) -> bool: ...


class Clock(Protocol):
    def latest(self) -> Time: ...

    def was_set_since(self, at: float) -> bool: ...

    def wall(self, at: float) -> Time: ...


@attrs.define
class Broken(AssertionError):
    """A promise was not kept."""

    promise: int
    text: str

    def __str__(self) -> str:
        return f"promise {self.promise}: {self.text}"


@attrs.define(eq=False)
class Witness:
    """Everything is by task id, and in trio's time unless it says otherwise."""

    capacity: Resources
    retention_s: float
    plans: list[Plan] = attrs.field(factory=list)
    asked: list[float] = attrs.field(factory=list)
    """When each plan was asked for."""
    ran: dict[str, Plan] = attrs.field(factory=dict)
    """Of every task whose PID 1 was started."""
    told: dict[str, Record] = attrs.field(factory=dict)
    """The last answer about each task that a client knows of."""
    heard: dict[str, Status] = attrs.field(factory=dict)
    """The last event."""
    alive_at: dict[str, float] = attrs.field(factory=dict)
    """When a client last read of it that it has not ended."""
    wished: dict[str, float] = attrs.field(factory=dict)
    """When a client asked to kill it."""
    killed: dict[str, float] = attrs.field(factory=dict)
    """When the answer to that came."""
    touches: dict[str, float] = attrs.field(factory=dict)
    """When milld first laid hands on its living container."""
    containers: dict[str, Container] = attrs.field(factory=dict)
    forgotten: set[str] = attrs.field(factory=set)
    up_since: float = 0.0
    reboots: list[float] = attrs.field(factory=list)
    broken: list[Broken] = attrs.field(factory=list)
    _last_event: str | None = None

    def deny(self, promise: int, text: str) -> None:
        self.broken.append(Broken(promise, text))

    def ask(self, plan: Plan) -> str:
        """What to label the request with."""
        self.plans.append(plan)
        self.asked.append(trio.current_time())
        return str(len(self.plans) - 1)

    def plan_of(self, record: Record) -> Plan:
        return self.plans[int(record.spec.labels[PLAN_LABEL])]

    # -- what the engine does -------------------------------------------------------------------------------------------

    def launched(self, record: Record, alive: Collection[str]) -> None:
        """PID 1 of *record* is about to run beside those that are *alive*."""
        plan = self.plan_of(record)
        if record.id in self.containers:
            self.deny(1, f"{record.id} was started a second time")
        if Resources(record.spec.cpu, record.spec.memory) != plan.resources:
            self.deny(4, f"{record.id} got limits that nobody asked for: {record.spec}")
        self.ran[record.id] = plan
        together = [plan, *(self.ran[each] for each in alive)]
        cpu, memory = sum(each.cpu for each in together), sum(each.memory for each in together)
        if cpu > self.capacity.cpu or memory > self.capacity.memory:
            self.deny(5, f"{record.id} runs beside {sorted(alive)}: {cpu:g} cores, {memory} bytes")

    def touched(self, task_id: str, now: float) -> None:
        """Milld signals or removes a container whose PID 1 lives."""
        if task_id in self.touches:
            return
        self.touches[task_id] = now
        container = self.containers[task_id]
        due = container.began + self.ran[task_id].timeout
        if task_id in self.wished:
            return
        if now < due - MILLISECOND:
            self.deny(
                6, f"{task_id} was ended {due - now:g} s before its timeout, and nobody had asked for it"
            )
        if now > max(due, self.up_since) + SLACK_S:
            self.deny(6, f"{task_id} ran on for {now - due:g} s after its timeout")

    def rebooted(self) -> None:
        self.reboots.append(trio.current_time())

    # -- what a client reads --------------------------------------------------------------------------------------------

    def read(self, record: Record, clock: Clock) -> None:
        """An answer of milld's, the newest that there is of this task."""
        before = self.told.get(record.id)
        self.told[record.id] = record
        if not record.status.terminal:
            self.alive_at[record.id] = trio.current_time()
        if record.id in self.forgotten:
            self.deny(2, f"{record.id} was gone, and is {record.status}")
        if before is None:
            before = attrs.evolve(record, status=Status.PULLING, version=0)
        if before.status.terminal and ending(before) != ending(record):
            self.deny(2, f"{record.id} had ended: {ending(before)}; now {ending(record)}")
        elif ORDER.index(record.status) < ORDER.index(before.status) or record.version < before.version:
            self.deny(2, f"{record.id} was {before.status} ({before.version}), and is {record.status}")
        if record.status.terminal and not before.status.terminal:
            self.judge(record, clock)

    async def listen(self, events: Events) -> None:
        """To all changes, from where it was the last time."""
        subscription = events.subscribe(self._last_event, Filter())
        while True:
            batch = await subscription.next_batch()
            self._last_event = batch.id
            for _, event in batch.events:
                record = from_json(Record, json.loads(event.record))
                said = self.heard.get(record.id)
                if said is not None and (said.terminal or ORDER.index(record.status) <= ORDER.index(said)):
                    self.deny(2, f"{record.id}: an event said {said}, and the next one {record.status}")
                self.heard[record.id] = record.status

    def judge(self, record: Record, clock: Clock) -> None:
        """Promise 3, by what the engine knows of the true end."""
        found = [*self.missing(record), *self.untrue(record, clock)]
        if found:
            self.deny(3, f"{record.id} {ending(record)}: {'; '.join(found)}")

    def missing(self, record: Record) -> list[str]:
        """What every end must tell."""
        told: dict[str, object] = {
            "reason": record.reason,
            "message": record.message,
            "time": record.times.finished,
            "time of its pull": record.times.pulled or record.reason in {Reason.PULL_ERROR, Reason.KILLED, Reason.INTERRUPTED},
        }  # fmt: skip
        if record.reason in OWN_ENDS | {Reason.TIMEOUT}:
            told |= {
                "start": record.times.started,
                "exit code": record.exit_code,
                "memory": record.peak_memory,
            }
        return [f"no {name}" for name, value in told.items() if value is None or value is False]

    def untrue(self, record: Record, clock: Clock) -> list[str]:
        """Where the end contradicts what happened."""
        plan, container, id_ = self.plan_of(record), self.containers.get(record.id), record.id
        ours = id_ in self.touches
        vague = container is not None and clock.was_set_since(
            container.began
        )  # whose signal a restarted milld cannot tell
        overran = (
            container is not None and container.ends_at - container.began >= plan.timeout
        )  # while no milld was there
        possible: dict[Reason | None, bool] = {
            Reason.PULL_ERROR: container is None and not plan.cached and (plan.pull_fails or self.too_long(record)),
            Reason.START_ERROR: container is None and plan.start_fails,
            Reason.INTERRUPTED: container is not None and container.lost,
            Reason.KILLED: id_ in self.wished and record.detail == CLIENT and (container is None or ours or container.ends_at >= self.wished[id_]),
            Reason.TIMEOUT: ours or vague or overran,
            **dict.fromkeys(OWN_ENDS, container is not None and (vague or not ours)),
        }  # fmt: skip
        found = [] if possible.get(record.reason, False) else ["it was not so"]
        if container is not None and record.reason is not Reason.INTERRUPTED:
            if record.exit_code != container.code:
                found.append(f"the exit code was {container.code}")
            finished, true = record.times.finished or 0.0, clock.wall(container.ends_at)
            if abs(finished - true) > MILLISECOND:
                found.append(f"it ended {true - finished:g} s later")
        if record.reason is Reason.OOM and not plan.program.toll.oom_kills:
            found.append("no memory kill was counted")
        return found

    def too_long(self, record: Record) -> bool:
        """Whether its pull may have come to its deadline."""
        pulled_s = trio.current_time() - self.asked[int(record.spec.labels[PLAN_LABEL])]
        return record.detail == "timeout" and pulled_s > self.plan_of(record).pull_timeout - MILLISECOND

    # -- what must be so at any moment -----------------------------------------------------------------------------------

    def look_at_ledger(self, ledger: Ledger, live: Collection[Record]) -> None:
        """Each live task holds what it was given, no more is held than there is."""
        for record in live:
            held = ledger.reservations.get(record.id)
            if held is None:
                self.deny(5, f"{record.id} is {record.status}, and holds nothing")
            elif held != self.plan_of(record).resources:
                self.deny(4, f"{record.id} holds {held}")
        if ledger.reserved.cpu > self.capacity.cpu or ledger.reserved.memory > self.capacity.memory:
            self.deny(5, f"{ledger.reserved} is promised")

    def look_at_containers(self, now: float) -> None:
        """Whoever has to end does, with a milld there to see to it."""
        for task_id, container in self.containers.items():
            plan = self.ran[task_id]
            due = min(container.began + plan.timeout, self.killed.get(task_id, now))
            patience = plan.grace + plan.program.dies_after_s + 2 * SLACK_S
            if container.alive and now > max(due, self.up_since) + patience:
                self.deny(6, f"{task_id} runs on {now - due:g} s after it was to end")

    def miss(self, task_id: str, clock: Clock) -> None:
        """Its record is gone."""
        if task_id not in self.forgotten and not self.is_over(task_id, clock):
            self.deny(7, f"the record of {task_id} is gone before its time")
        self.forgotten.add(task_id)

    def is_over(self, task_id: str, clock: Clock) -> bool:
        """Whether the time that its log and record are kept for has passed."""
        container, now = self.containers.get(task_id), trio.current_time()
        ended = max(self.alive_at.get(task_id, 0.0), container.ends_at if container is not None else 0.0)
        if self.reboots and self.reboots[-1] >= ended:  # then only the wall clock is left to go by
            record = self.told.get(task_id)
            finished = record.times.finished if record is not None else None
            return finished is None or clock.latest() - finished >= self.retention_s - MILLISECOND
        return now - ended >= self.retention_s - MILLISECOND

    def look_at_logs(self, kept: Collection[str], clock: Clock) -> None:
        """A log goes when its time is over, and right after it the record."""
        for task_id in self.ran:
            if task_id not in kept and not self.is_over(task_id, clock):
                self.deny(7, f"the log of {task_id} is gone before its time")
        for task_id in kept:
            if task_id in self.forgotten:
                self.deny(7, f"the log of {task_id} outlives its record")


def ending(record: Record) -> tuple[object, ...]:
    """All that an end says, which never changes."""
    return (
        record.status,
        record.reason,
        record.detail,
        record.message,
        record.exit_code,
        record.signal,
        record.oom_kills,
        record.peak_memory,
        record.times.finished,
    )
