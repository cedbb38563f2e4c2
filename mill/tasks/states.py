"""The states of a task and the only moves between them. Pure: every change of a record's status is made here.

    pulling -> starting -> running -> stopped | failed
    pulling -> failed (pull_error)      starting -> failed (start_error)
    any state that is not terminal -> stopped (killed), failed (interrupted)

Called by the lifecycle (moves) and by nobody else; `judge` turns what was seen of a container's end into its cause.
"""

from collections.abc import Mapping

import attrs

from mill.checks import signal_name
from mill.errors import MillError, RuntimeFault
from mill.model import Ended, Exit, Kill, Reason, Record, Status, Time

LIVE = (Status.PULLING, Status.STARTING, Status.RUNNING)

ENDS: Mapping[tuple[Status, Reason], frozenset[Status]] = {
    (Status.STOPPED, Reason.EXIT): frozenset({Status.RUNNING}),
    (Status.STOPPED, Reason.KILLED): frozenset(LIVE),
    (Status.FAILED, Reason.EXIT): frozenset({Status.RUNNING}),
    (Status.FAILED, Reason.SIGNAL): frozenset({Status.RUNNING}),
    (Status.FAILED, Reason.OOM): frozenset({Status.RUNNING}),
    (Status.FAILED, Reason.TIMEOUT): frozenset({Status.RUNNING}),
    (Status.FAILED, Reason.PULL_ERROR): frozenset({Status.PULLING}),
    (Status.FAILED, Reason.START_ERROR): frozenset({Status.STARTING}),
    (Status.FAILED, Reason.INTERRUPTED): frozenset(LIVE),
}
"""Each end, and the states it may come from."""

_SIGNAL_BASE = 128
"""containerd and every shell report death by signal n as 128+n."""
_MOST_SIGNAL = 64
_SIGKILL = 9


class IllegalMove(MillError):
    """A bug of ours; the record is unchanged."""


def to_starting(record: Record, now: Time) -> Record:
    """The image is there, the container is being made."""
    if record.status is not Status.PULLING:
        raise IllegalMove(f"{record.id}: {record.status} -> starting")
    times = attrs.evolve(record.times, pulled=now)
    return attrs.evolve(record, status=Status.STARTING, times=times, pull=None, version=record.version + 1)


def to_running(record: Record, started: Time, ip: str | None) -> Record:
    """PID 1 was started at *started*."""
    if record.status is not Status.STARTING:
        raise IllegalMove(f"{record.id}: {record.status} -> running")
    times = attrs.evolve(record.times, started=started)
    return attrs.evolve(record, status=Status.RUNNING, ip=ip, times=times, version=record.version + 1)


def to_end(record: Record, end: Ended, now: Time) -> Record:
    """The terminal record; *now* stands in for a finish that nobody saw."""
    if record.status not in ENDS.get((end.status, end.reason), frozenset()):
        raise IllegalMove(f"{record.id}: {record.status} -> {end.status} ({end.reason})")
    return attrs.evolve(
        record,
        status=end.status,
        reason=end.reason,
        detail=end.detail,
        message=end.message,
        exit_code=end.exit_code,
        signal=end.signal,
        oom_kills=end.oom_kills,
        peak_memory=end.peak_memory,
        times=attrs.evolve(record.times, finished=end.finished if end.finished is not None else now),
        pull=None,
        version=record.version + 1,
    )


def cleaned(record: Record, now: Time) -> Record:
    """Nothing is left of the task that has ended. No move: all else stays as it is."""
    if not record.status.terminal:
        raise IllegalMove(f"{record.id}: {record.status}, and cleaned up")
    times = attrs.evolve(record.times, cleaned=now)
    return attrs.evolve(record, times=times, version=record.version + 1)


@attrs.frozen
class Toll:
    """What the container's cgroup told between its exit and its deletion; None where it could not be read."""

    oom_kills: int = 0
    peak_memory: int | None = None


def judge(exit_: Exit, toll: Toll, *, kill: Kill | None, timeout_s: float | None, memory: int) -> Ended:
    """Why a container that ran has ended. *kill* and *timeout_s* only if they reached it alive."""
    number = signal_of(exit_.code)
    seen = Ended(
        status=Status.FAILED,
        reason=Reason.EXIT,
        exit_code=exit_.code,
        signal=number,
        oom_kills=toll.oom_kills,
        peak_memory=toll.peak_memory,
        finished=exit_.at,
    )
    if kill is not None:
        how = f" with {signal_name(number)}" if number is not None else f"; it exited with code {exit_.code}"
        return attrs.evolve(
            seen,
            status=Status.STOPPED,
            reason=Reason.KILLED,
            detail=kill.by,
            message=f"killed by {kill.by}{how}",
        )
    if timeout_s is not None:
        return attrs.evolve(
            seen, reason=Reason.TIMEOUT, message=f"ran longer than its timeout of {timeout_s:g} s"
        )
    if toll.oom_kills and number == _SIGKILL:
        message = f"ran out of memory: its limit is {memory} bytes; give it more with --memory"
        return attrs.evolve(seen, reason=Reason.OOM, message=message)
    if exit_.code == 0:
        return attrs.evolve(seen, status=Status.STOPPED, message="exited with code 0")
    if number is not None:
        return attrs.evolve(
            seen, reason=Reason.SIGNAL, detail=signal_name(number), message=f"died of {signal_name(number)}"
        )
    return attrs.evolve(seen, message=f"exited with code {exit_.code}")


def signal_of(code: int) -> int | None:
    """The signal that an exit status of 128+n stands for. A program that exits with such a code itself looks the same."""
    number = code - _SIGNAL_BASE
    return number if 1 <= number <= _MOST_SIGNAL else None


def killed_before_start(kill: Kill, now: Time) -> Ended:
    """Nothing had run yet, so that there is no exit code."""
    return Ended(
        Status.STOPPED,
        Reason.KILLED,
        detail=kill.by,
        message=f"killed by {kill.by} before it ran",
        finished=now,
    )


def faulted(fault: RuntimeFault, now: Time) -> Ended:
    """The end that a pull error, a start error or a lost runtime makes."""
    reasons = {
        "pull-error": Reason.PULL_ERROR,
        "start-error": Reason.START_ERROR,
        "interrupted": Reason.INTERRUPTED,
    }
    return Ended(
        Status.FAILED, reasons[fault.slug], detail=fault.detail or None, message=fault.message, finished=now
    )
