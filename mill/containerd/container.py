"""One container whose PID 1 was started: wait for it, signal it, read its toll, delete it. Made by `runtime` only.

Every call is patient while containerd is away: the shim keeps the process, so that its end is only told later.
"""

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import attrs
import structlog
import trio
from google.protobuf.timestamp_pb2 import Timestamp

from mill.config import KILL_TIMEOUT_S
from mill.containerd import rpcs
from mill.containerd.cgroups import Meter
from mill.containerd.faults import RpcError, RpcFailedPrecondition, RpcNotFound, RpcTimeout, RpcUnavailable
from mill.containerd.proto import task_pb2, tasks_pb2
from mill.containerd.session import Session
from mill.errors import Interrupted
from mill.model import Exit, Time
from mill.tasks.ports import Clock
from mill.tasks.states import Toll

T = TypeVar("T")

RETRY_S = 0.2
"""Pause before the next try after containerd did not answer."""
SIGKILL = 9

log = structlog.get_logger()


def unix_time(stamp: Timestamp) -> Time:
    return Time(stamp.seconds + stamp.nanos / 1e9)


async def patiently(session: Session, call: Callable[[], Awaitable[T]]) -> T:
    """*call* until it reaches containerd, however long that is; whoever cannot wait sets a deadline."""
    while True:
        await session.wait_connected()
        try:
            return await call()
        except (RpcUnavailable, RpcTimeout):
            await trio.sleep(RETRY_S)


@attrs.define(eq=False)
class TaskContainer:
    """As `tasks.ports.Container`."""

    id: str
    started: Time
    began_s: float
    stop_signal: int
    meter: Meter
    _session: Session
    _forget: Callable[[str], None]
    ip: str | None = None
    exit: Exit | None = None

    async def wait(self) -> Exit:
        """Its exit; asked again through restarts of containerd. `Interrupted` if its shim or containerd lost it."""
        if self.exit is None:
            request = tasks_pb2.WaitRequest(container_id=self.id)
            try:
                answer = await patiently(
                    self._session, lambda: self._session.call(rpcs.TASKS_WAIT, request, timeout_s=None)
                )
            except RpcNotFound:
                message = "it ended while containerd was away, and containerd did not keep its exit code"
                raise Interrupted(message) from None
            except RpcError as fault:
                raise Interrupted(
                    f"its shim was lost, so that its exit code is unknown ({fault.message})"
                ) from None
            self.exit = Exit(answer.exit_status, unix_time(answer.exited_at))
        return self.exit

    async def kill(self, signal: int) -> bool | None:
        """Send *signal* to PID 1; False if there was nothing left to signal, None if a call before may have ended it unheard."""
        request, calls = tasks_pb2.KillRequest(container_id=self.id, signal=signal), 0

        async def call() -> None:
            nonlocal calls
            calls += 1
            await self._session.call(rpcs.TASKS_KILL, request)

        try:
            await patiently(self._session, call)
        except RpcNotFound:
            return False if calls == 1 else None
        except RpcError as fault:
            log.warning("a signal was refused", task=self.id, signal=signal, why=fault.message)
        return True

    async def toll(self) -> Toll:
        return self.meter.toll()

    async def delete(self) -> None:
        """Out of containerd, killed if need be. What a lost shim leaves is containerd's to clean."""
        await delete_task(self._session, self.id, ended=self.exit is not None)
        self._forget(self.id)
        self.meter.close()  # of one that was adopted when it had ended, nobody else knows


async def delete_task(session: Session, task_id: str, *, ended: bool) -> None:
    """Tasks.Delete, with SIGKILL first unless it has *ended*; no task is success.

    A task that was created and never started could be deleted as it is, but containerd then takes two seconds.
    """
    request = tasks_pb2.DeleteTaskRequest(container_id=task_id)
    with trio.move_on_after(KILL_TIMEOUT_S):
        if not ended:
            await _kill_all(session, task_id)
        while True:
            try:
                await patiently(session, lambda: session.call(rpcs.TASKS_DELETE, request))
            except RpcNotFound:
                return
            except RpcFailedPrecondition:
                await _kill_all(session, task_id)
            except RpcError as fault:
                log.warning(
                    "containerd could not delete a task; trying again", task=task_id, why=fault.message
                )
                await _kill_all(session, task_id)
                await trio.sleep(RETRY_S)
            else:
                return
    log.error("containerd keeps a task that should be gone", task=task_id)


async def _kill_all(session: Session, task_id: str) -> None:
    kill = tasks_pb2.KillRequest(container_id=task_id, signal=SIGKILL, all=True)
    wait = tasks_pb2.WaitRequest(container_id=task_id)
    try:
        await patiently(session, lambda: session.call(rpcs.TASKS_KILL, kill))
        await patiently(session, lambda: session.call(rpcs.TASKS_WAIT, wait, timeout_s=KILL_TIMEOUT_S))
    except RpcError:
        return  # gone already, or the next Delete says what is wrong


def started_at(process: task_pb2.Process, clock: Clock, *, ended: bool) -> tuple[Time, float]:
    """When a process started that nobody saw start, by both clocks: the kernel knows while it lives."""
    now, now_s = clock.now(), clock.boottime()
    if ended:
        return unix_time(process.exited_at), now_s
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return now, now_s
    began_s = min(now_s, int(fields[19]) / os.sysconf("SC_CLK_TCK"))  # proc(5): starttime
    return Time(now - (now_s - began_s)), began_s


async def process_of(session: Session, task_id: str) -> task_pb2.Process | None:
    """What containerd knows of PID 1, or None when it has no such task."""
    try:
        answer = await patiently(
            session, lambda: session.call(rpcs.TASKS_GET, tasks_pb2.GetRequest(container_id=task_id))
        )
    except RpcNotFound:
        return None
    return answer.process
