"""A history of one node: random steps, a client that does them and looks at everything after each, and its end.

Every history lives in a trio run of its own, on a clock that jumps, with nothing but trio's scheduler to choose by; that one
Hypothesis seeds. So each can be lived again.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType

import attrs
import trio
from hypothesis import strategies as st
from structlog.testing import capture_logs
from trio.testing import MockClock

from mill.errors import MillError, NotFound
from mill.logs.retention import LOOK_S
from mill.model import Duration, Size, SpawnRequest
from mill.tasks.filter import Filter
from mill.tasks.states import Toll
from tests.pace import stretched
from tests.tasks.crashable import CAPACITY, RETENTION_S, CrashableNode
from tests.tasks.fakes import FOREVER, SIGTERM, Program
from tests.tasks.witness import CLIENT, PLAN_LABEL, Broken, Plan, Witness

STEPS = 30
HISTORY_S = stretched(30.0)
"""Of real time: what takes 0.1 s and goes on for so long hangs."""
HOUR_S = 3600.0
SETTLED_S = 90.0
"""After which every task has ended, by its timeout at the latest."""
MEMORY_DIR = "/dev/shm"
"""No disk slows down what lies here."""


# -- steps ----------------------------------------------------------------------------------------------------------


@attrs.frozen
class Wait: ...


@attrs.frozen
class Spawn:
    plan: Plan


@attrs.frozen
class Kill:
    which: int
    grace: float | None


@attrs.frozen
class Exit:
    """PID 1 of a running task ends."""

    which: int
    code: int


@attrs.frozen
class Jump:
    """The wall clock is set."""

    by_s: float


@attrs.frozen
class Down:
    """Milld goes and comes again; meanwhile the wall clock may be set, and the machine be rebooted.

    *committed* is None when it is stopped, else it crashes, and what waited for the disk was still written or was not.
    """

    down_s: float
    committed: bool | None
    jump_s: float = 0.0
    reboot: bool = False


Action = Wait | Spawn | Kill | Exit | Jump | Down
History = list[tuple[Action, float]]
"""Actions, and how long to wait after each (in trio's time, as everything here)."""

which = st.integers(0, 5)
codes = st.sampled_from([0, 3, 137])
jumps = st.sampled_from([HOUR_S, -HOUR_S, 0.2 * HOUR_S, 7 * HOUR_S, -7 * HOUR_S])
programs = st.builds(
    Program,
    runs_s=st.sampled_from([FOREVER, 0.3, 2.0, 20.0, FOREVER]),
    code=codes,
    ignores=st.sampled_from([frozenset[int](), frozenset({SIGTERM})]),
    dies_after_s=st.sampled_from([0.0, 1.0]),
    toll=st.sampled_from([Toll(0, 4096), Toll(1, 8192)]),
)
plans = st.builds(
    Plan,
    programs,
    cpu=st.sampled_from([0.5, 1.0, 2.0]),
    memory=st.sampled_from([2**27, 2**29]),
    timeout=st.sampled_from([10.0, 40.0]),
    cached=st.booleans(),
    pull_s=st.sampled_from([0.1, 1.0, 20.0]),
    pull_fails=st.sampled_from([False, False, False, False, False, True]),
    start_s=st.sampled_from([0.0, 0.3, 1.5]),
    start_fails=st.sampled_from([False, False, False, False, False, True]),
    starts_all_the_same=st.booleans(),
)
spawns = st.builds(Spawn, plans)
kills = st.builds(Kill, which, st.sampled_from([None, 0.0, 2.0]))
downs = st.builds(
    Down,
    st.sampled_from([0.0, 1.0, 30.0]),
    st.sampled_from([False, True, None]),
    st.one_of(st.just(0.0), jumps),
    st.sampled_from([False, False, False, True]),
)
actions = st.one_of(
    st.just(Wait()), spawns, spawns, spawns, kills, kills, st.builds(Exit, which, codes), st.builds(Jump, jumps), downs, downs
)  # fmt: skip
pauses = st.sampled_from([0.1, 0.0, 0.3, 0.1, 0.3, 1.0, 5.0, 5.0, 30.0, 130.0])
histories = st.lists(st.tuples(actions, pauses), min_size=STEPS, max_size=STEPS)


# -- a history is lived -----------------------------------------------------------------------------------------------


@attrs.define(eq=False)
class Client:
    """Does the steps, and looks."""

    node: CrashableNode
    witness: Witness

    async def do(self, action: Action) -> None:
        clients = self.node.milld.clients
        match action:
            case Spawn(plan):
                clients.start_soon(self.spawn, plan)
            case Kill(which, grace):
                alive = [
                    task_id for task_id, record in self.witness.told.items() if not record.status.terminal
                ]
                if alive:
                    clients.start_soon(self.kill, alive[-1 - which % len(alive)], grace)
            case Exit(which, code):
                running = [each for each in self.node.engine.containers.values() if each.alive]
                if running:
                    running[-1 - which % len(running)].end(code)
            case Jump(by_s):
                self.node.clock.jump(by_s)
            case Down():
                await self.down(action)

    async def spawn(self, plan: Plan) -> None:
        tasks, label = self.node.milld.tasks, self.witness.ask(plan)
        request = SpawnRequest(
            image="busybox",
            name="web",
            labels={PLAN_LABEL: label},
            cpu=plan.cpu,
            memory=Size(plan.memory),
            timeout=Duration(plan.timeout),
            pull_timeout=Duration(plan.pull_timeout),
            grace=Duration(plan.grace),
        )
        try:
            record = await tasks.spawn(request, {})
        except MillError:
            return
        self.witness.read(record, self.node.clock)
        ended = await tasks.wait(record.id, "terminal", FOREVER)
        self.witness.read(ended, self.node.clock)

    async def kill(self, task_id: str, grace: float | None) -> None:
        self.witness.wished.setdefault(task_id, trio.current_time())
        patience = None if grace is None else Duration(grace)
        try:
            record = await self.node.milld.tasks.kill(task_id, CLIENT, signal=None, grace=patience)
        except NotFound:
            return
        self.witness.killed.setdefault(task_id, trio.current_time())
        self.witness.read(record, self.node.clock)

    async def down(self, how: Down) -> None:
        if how.committed is None:
            await self.node.stop()
        else:
            await self.node.crash(committed=how.committed)
        if how.reboot:
            self.node.reboot()
        await trio.sleep(how.down_s)
        if how.jump_s:
            self.node.clock.jump(how.jump_s)
        await self.node.start()

    async def look(self) -> None:
        """At everything that there is to see."""
        tasks, clock = self.node.milld.tasks, self.node.clock
        listed = (await tasks.page(Filter(), None, 1000)).records
        for record in listed:
            self.witness.read(record, clock)
        done = self.witness.forgotten | {record.id for record in listed if record.status.terminal}
        for task_id in list(self.witness.told):
            if task_id in done:
                continue
            try:
                self.witness.read(await tasks.get(task_id), clock)
            except NotFound:
                self.witness.miss(task_id, clock)
        self.witness.look_at_ledger(tasks.ledger, [live.record for live in tasks.table])
        self.witness.look_at_containers(trio.current_time())
        self.witness.look_at_logs(self.node.logs.kept, clock)

    async def settle(self) -> None:
        """All tasks end, and their time passes; then nothing is left of them."""
        self.node.clock.jump(self.node.clock.highest_s - self.node.clock.jump_s)
        await trio.sleep(SETTLED_S)
        await self.look()
        for record in self.witness.told.values():
            if not record.status.terminal and record.id not in self.witness.forgotten:
                self.witness.deny(6, f"{record.id} is {record.status}, and nothing goes on")
        await trio.sleep(RETENTION_S + 2 * LOOK_S)
        await self.look()
        tasks, engine = self.node.milld.tasks, self.node.engine
        left = [*self.witness.told.keys() - self.witness.forgotten, *self.node.logs.kept, *engine.containers]
        if left or tasks.ledger.reservations:
            self.witness.deny(7, f"its time is over, and something is left of {left}, {tasks.ledger}")


async def live_through(history: History, path: Path, witness: Witness) -> None:
    async with trio.open_nursery() as nursery:
        client = Client(CrashableNode(path, nursery, witness), witness)
        await client.node.start()
        for action, pause_s in history:
            await client.do(action)
            await trio.sleep(pause_s)
            await client.look()
            if witness.broken:
                break
        else:
            await client.settle()
        await client.node.stop()


@contextmanager
def guarded() -> Iterator[None]:
    """What hangs, be it asleep or busy, ends with an error."""

    def give_up(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 -- a signal handler's
        raise TimeoutError(f"one history took longer than {HISTORY_S:g} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, HISTORY_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def broken_by(history: History) -> list[Broken]:
    """Live through it; what was broken, the first thing first."""
    witness = Witness(CAPACITY, RETENTION_S)
    with TemporaryDirectory(dir=MEMORY_DIR) as directory, guarded(), capture_logs() as logged:
        clock = MockClock(autojump_threshold=0)
        trio.run(live_through, history, Path(directory) / "mill.db", witness, clock=clock)
    assert witness.broken or not [line for line in logged if line["log_level"] in {"error", "critical"}]
    return witness.broken
