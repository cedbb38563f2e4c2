"""The life of one task, from pulling to its end, as one function that reads like the diagram in `states`.

Two cancellations mean two things: the task's own `kill_scope` ends it; any other means that milld is leaving, and then
nothing is recorded or touched: the next milld enters here again at the phase it finds. Every side effect is preceded by
its record; every step of the way out may be repeated.
"""

import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TypeVar

import attrs
import structlog
import trio

from mill.config import KILL_AGAIN_S, KILL_TIMEOUT_S, START_TIMEOUT_S
from mill.errors import MORE_FILES, OUT_OF_FILES, Interrupted, NoSpace, PullError, RuntimeFault, StartError
from mill.model import Deadline, Ended, Exit, Kill, Status
from mill.tasks.marks import Marks
from mill.tasks.ports import Clock, Container, Logs, Mesh, Pipes, Runtime
from mill.tasks.states import (
    Toll,
    faulted,
    judge,
    killed_before_start,
    signal_of,
    to_end,
    to_running,
    to_starting,
)
from mill.tasks.table import RETRY_COMMIT_S, LiveTask

T = TypeVar("T")

SIGKILL = 9

log = structlog.get_logger()


@attrs.frozen
class World:
    """What a life needs: the runtime, the log store, the clocks, the network, and the right to start (a few containers at once)."""

    runtime: Runtime
    logs: Logs
    clock: Clock
    starting: trio.CapacityLimiter
    mesh: Mesh


async def run_task(live: LiveTask, world: World, *, adopted: bool = False) -> None:
    """Pulling -> starting -> running -> stopped | failed, entered at the record's status; returns once the end is public.

    *adopted*: an earlier milld left it at that status, and a container of it may exist. A new one may be begun while its row is
    being committed: containerd's side of it, which is swept if there is no row. `Unrecorded` if there never will be.
    """
    life = _Life(live, world, adopted, live.kill if adopted else None)
    fault: RuntimeFault | None = None
    try:
        with live.kill_scope:
            if live.task.owned.ending is None:
                await life.live_on()
    except RuntimeFault as error:
        fault = error
    await live.stored()
    end = await life.finish(fault)
    told = Deadline(world.clock.boot_id, world.clock.boottime())
    await live.advance(lambda record: to_end(record, end, world.clock.now()), ended=told)
    log.info("task ended", task=live.id, status=end.status, reason=end.reason, why=end.message)


def _unprepared(error: OSError) -> StartError:
    """A start that the host had no room for."""
    if error.errno in OUT_OF_FILES:
        return StartError("runtime", MORE_FILES)
    return StartError("disk", f"cannot prepare the task's files: {error.strerror}")


@attrs.define
class _Life:
    """The state of one passage through `run_task`."""

    live: LiveTask
    world: World
    adopted: bool
    left_kill: Kill | None
    """The wish that an earlier milld left: only that one may have been seen to already."""
    container: Container | None = None
    exit: Exit | None = None

    @property
    def status(self) -> Status:
        return self.live.task.record.status

    async def live_on(self) -> None:
        """Up to the exit, or to the deadline."""
        if self.adopted and self.status is not Status.PULLING:
            await self._adopt()
        if self.container is None:
            self.container = await self._start(await self._image())
        if self.status is Status.STARTING:
            await self._now_running(self.container)
        with trio.move_on_after(self._remaining_s(self.live.task.owned.deadline)):
            self.exit = await self.container.wait()

    async def _adopt(self) -> None:
        await self._patient(self.world.logs.open, "cannot go on reading a task's output yet; trying on")
        self.container = await self._found()
        if self.container is None and self.status is Status.RUNNING:
            raise Interrupted("the container is gone from the runtime: was its state removed?")

    async def _found(self) -> Container | None:
        """What the runtime has of the task."""
        look = lambda _: self.world.runtime.adopt(self.live.task)  # noqa: E731
        return await self._patient(look, "cannot look for a task's container yet; trying on")

    async def _image(self) -> object:
        """The image, pulled if need be; a start that is resumed looks it up again."""
        if self.live.image is not None:
            return self.live.image
        try:
            image = await self._pull()
        except PullError as error:
            if self.status is Status.PULLING:
                raise
            raise StartError("runtime", f"the image was removed meanwhile: {error.message}") from None
        if self.status is Status.PULLING:
            self.live.progress = None
            await self.live.advance(lambda record: to_starting(record, self.world.clock.now()))
        return image

    async def _pull(self) -> object:
        """The pull's own deadline counts on through restarts of milld; a reboot, or a resumed start, sets it anew."""
        spec, left_s, marks = self.live.task.record.spec, math.inf, Marks()
        if self.status is Status.PULLING:
            left_s, marks = self._remaining_s(self.live.task.owned.pull_deadline), self.live.marks
            marks.note(pull_began=self.world.clock.now())
        try:
            with trio.fail_after(min(left_s, spec.pull_timeout)):
                return await self.world.runtime.pull(spec, self.live.report, marks)
        except trio.TooSlowError:
            message = f"{spec.image} was not pulled within {spec.pull_timeout:g} s; give it longer with --pull-timeout"
            raise PullError("timeout", message) from None

    async def _start(self, image: object) -> Container:
        container: Container | None = None
        marks = self.live.marks
        marks.note(queued=self.world.clock.now())
        async with self.world.starting:
            marks.note(start_began=self.world.clock.now())
            with trio.CancelScope(shield=True, deadline=trio.current_time() + START_TIMEOUT_S) as scope:
                self.live.start_scope = scope
                try:
                    container = await self.world.runtime.start(self.live.task, image, self._open_pipes, marks)
                except OSError as error:
                    raise _unprepared(error) from None
                finally:
                    self.live.start_scope = None
        if container is None:
            await trio.lowlevel.checkpoint()  # killed, or milld is leaving: says so itself
            raise StartError("runtime", f"the container did not start within {START_TIMEOUT_S:g} s")
        return container

    async def _open_pipes(self) -> Pipes:
        """A log is kept for a task that there is a record of."""
        await self.live.stored()
        return await self.world.logs.open(self.live.id)

    async def _now_running(self, container: Container) -> None:
        timeout_s = self.live.task.record.spec.timeout
        deadline = Deadline(self.world.clock.boot_id, container.began_s + timeout_s)
        await self.live.advance(lambda record: to_running(record, container.started, container.ip), deadline)

    def _remaining_s(self, deadline: Deadline | None) -> float:
        if deadline is None or deadline.boot_id != self.world.clock.boot_id:
            return math.inf
        return max(0.0, deadline.at_s - self.world.clock.boottime())

    async def finish(self, fault: RuntimeFault | None) -> Ended:
        """Make sure that it is over; then in this order: the end stored, Delete, the logs drained."""
        if self.container is None and self.status is not Status.PULLING:
            try:
                self.container = await self._found()
                if self.container is not None:
                    with suppress(OSError):  # a full disk: then it is read when its log is drained
                        await self.world.logs.open(self.live.id)  # what it says on its way out is read too
            except Interrupted as error:
                fault = fault or error
        end = self.live.task.owned.ending
        if end is None:
            ran = self.container is not None and self.status is Status.STARTING and fault is None
            end = await self._end(fault)  # first: a kill does not wait for a full disk
            if ran and self.container is not None:
                await self._now_running(
                    self.container
                )  # killed as it started: what ran may have ended by itself
            stored = attrs.evolve(
                end, finished=end.finished if end.finished is not None else self.world.clock.now()
            )
            await self.live.commit(
                lambda task: attrs.evolve(task, owned=attrs.evolve(task.owned, ending=stored))
            )
            end = stored
        if self.container is not None:
            await self.container.delete()
        elif self.status is not Status.PULLING:
            await self._patient(
                self.world.runtime.clean_up, "cannot clean up after a failed start yet; trying on"
            )
        await self._patient(
            self.world.logs.drain, "the end of a task's output cannot be stored yet; holding it"
        )
        return end

    async def _patient(self, call: Callable[[str], Awaitable[T]], complaint: str) -> T:
        """*call* for this task until the host has room for it: no byte is lost, since its pipes keep them."""
        complained = False
        while True:
            try:
                return await call(self.live.id)
            except (OSError, NoSpace) as error:
                if not complained:
                    log.warning(complaint, task=self.live.id, why=str(error))
                complained = True
                await trio.sleep(RETRY_COMMIT_S)

    async def _end(self, fault: RuntimeFault | None) -> Ended:
        """How it ended, after making it end."""
        kill, now = self.live.kill, self.world.clock.now()
        if self.container is None:
            if kill is not None and fault is None and self.status is not Status.RUNNING:
                return killed_before_start(kill, now)
            return faulted(fault or Interrupted("the container is gone from the runtime"), now)
        spec = self.live.task.record.spec
        reached: bool | None = False
        if self.exit is None and fault is None:
            wish = kill or Kill("timeout", now, spec.grace)
            try:
                self.exit, reached = await self._stop(self.container, wish)
                if reached is None:
                    reached = self.exit.at >= wish.at
            except Interrupted as error:
                fault = error
        toll = await self.container.toll()
        if fault is not None or self.exit is None:
            ended = faulted(fault or Interrupted("its exit was not seen"), now)
            return attrs.evolve(ended, oom_kills=toll.oom_kills, peak_memory=toll.peak_memory)
        if not reached and self.adopted and self._was_reached(self.container, self.exit, toll):
            reached, kill = True, self.left_kill
        timeout_s = spec.timeout if reached and kill is None else None
        return judge(self.exit, toll, kill=kill if reached else None, timeout_s=timeout_s, memory=spec.memory)

    def _was_reached(self, container: Container, exit_: Exit, toll: Toll) -> bool:
        """Whether it seems that an earlier milld's signal ended it: that milld left before it could store the end."""
        if self.left_kill is not None:
            return exit_.at >= self.left_kill.at
        spec = self.live.task.record.spec
        overdue = exit_.at - container.started >= spec.timeout and not toll.oom_kills
        return overdue and signal_of(exit_.code) in {container.stop_signal, SIGKILL}

    async def _stop(self, container: Container, kill: Kill) -> tuple[Exit, bool | None]:
        """Signal, grace, SIGKILL; and whether the first signal still found it alive."""
        reached = await container.kill((kill.signal or container.stop_signal) if kill.grace > 0 else SIGKILL)
        if not reached:
            return await container.wait(), reached
        hurried = self.live.kill or kill  # a second wish may have come while the signal was sent
        with trio.move_on_after(min(kill.grace, hurried.grace)) as self.live.grace_scope:
            return await container.wait(), True
        self.live.grace_scope = None
        with trio.move_on_after(KILL_TIMEOUT_S):
            while True:  # the runtime may have refused the signal
                await container.kill(SIGKILL)
                with trio.move_on_after(KILL_AGAIN_S):
                    return await container.wait(), True
        raise Interrupted(
            f"it did not die within {KILL_TIMEOUT_S:g} s of SIGKILL: a process is stuck in the kernel"
        )
