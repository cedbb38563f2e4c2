"""The table of moves, walked in full, and how a container's end is judged."""

from collections.abc import Callable
from itertools import product

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mill.errors import Interrupted, PullError, StartError
from mill.model import Duration, Ended, Exit, Kill, PullProgress, Reason, Record, Status, Time
from mill.tasks.states import (
    IllegalMove,
    Toll,
    faulted,
    judge,
    killed_before_start,
    signal_of,
    to_end,
    to_running,
    to_starting,
)
from tests.tasks.scene import make_record

NOW = Time(1000.0)
KILL = Kill("admin", Time(990.0), Duration(10.0))

LEGAL = {
    Status.PULLING: {"starting", "stopped killed", "failed interrupted", "failed pull_error"},
    Status.STARTING: {"running", "stopped killed", "failed interrupted", "failed start_error"},
    Status.RUNNING: {
        "stopped exit",
        "stopped killed",
        "failed exit",
        "failed signal",
        "failed oom",
        "failed timeout",
        "failed interrupted",
    },
    Status.STOPPED: set(),
    Status.FAILED: set(),
}
"""The design's section 2, written out once more: what may happen to a task in each state."""


def ending(status: Status, reason: Reason) -> Callable[[Record], Record]:
    return lambda record: to_end(record, Ended(status, reason), NOW)


EVENTS: dict[str, Callable[[Record], Record]] = {
    "starting": lambda record: to_starting(record, NOW),
    "running": lambda record: to_running(record, NOW, "192.0.2.1"),
    **{f"{status} {reason}": ending(status, reason) for status, reason in product(Status, Reason)},
}


def test_every_state_takes_the_events_of_the_design_and_refuses_every_other() -> None:
    for status, (name, event) in product(Status, EVENTS.items()):
        record = make_record(status=status)
        before = attrs.evolve(record)
        if name in LEGAL[status]:
            moved = event(record)
            assert str(moved.status) == name.split()[0], (status, name)
            assert moved.version == record.version + 1, (status, name)
        else:
            with pytest.raises(IllegalMove, match=f"web-0000: {status} ->"):
                event(record)
        assert record == before


def test_each_phase_leaves_its_time_and_the_pulls_progress_ends_with_the_pull() -> None:
    record = make_record(pull=PullProgress(1, 2))
    record = to_starting(record, Time(1.0))
    assert (record.times.pulled, record.pull) == (1.0, None)
    record = to_running(record, Time(2.0), "192.0.2.1")
    assert (record.times.started, record.ip) == (2.0, "192.0.2.1")
    seen = to_end(record, Ended(Status.STOPPED, Reason.EXIT, finished=Time(3.0)), NOW)
    assert seen.times.finished == 3.0
    unseen = to_end(record, Ended(Status.FAILED, Reason.INTERRUPTED), NOW)
    assert unseen.times.finished == NOW


def judged(
    code: int, toll: Toll | None = None, *, kill: Kill | None = None, timeout_s: float | None = None
) -> Ended:
    return judge(Exit(code, NOW), toll or Toll(), kill=kill, timeout_s=timeout_s, memory=1024)


@pytest.mark.parametrize(
    ("end", "status", "reason", "detail", "signal"),
    [
        (judged(0), Status.STOPPED, Reason.EXIT, None, None),
        (judged(3), Status.FAILED, Reason.EXIT, None, None),
        (judged(128), Status.FAILED, Reason.EXIT, None, None),
        (judged(255), Status.FAILED, Reason.EXIT, None, None),
        (judged(143), Status.FAILED, Reason.SIGNAL, "SIGTERM", 15),
        (judged(168), Status.FAILED, Reason.SIGNAL, "signal 40", 40),
        (judged(137), Status.FAILED, Reason.SIGNAL, "SIGKILL", 9),
        (judged(137, Toll(oom_kills=1)), Status.FAILED, Reason.OOM, None, 9),
        (judged(137, kill=KILL), Status.STOPPED, Reason.KILLED, "admin", 9),
        (judged(0, kill=KILL), Status.STOPPED, Reason.KILLED, "admin", None),
        (judged(137, Toll(oom_kills=1), kill=KILL), Status.STOPPED, Reason.KILLED, "admin", 9),
        (judged(143, timeout_s=60.0), Status.FAILED, Reason.TIMEOUT, None, 15),
        (judged(0, timeout_s=60.0), Status.FAILED, Reason.TIMEOUT, None, None),
    ],
)
def test_an_end_has_the_cause_that_the_design_gives_it(
    end: Ended, status: Status, reason: Reason, detail: str | None, signal: int | None
) -> None:
    assert (end.status, end.reason, end.detail, end.signal) == (status, reason, detail, signal)
    assert end.finished == NOW
    assert end.message


def test_a_memory_kill_that_pid_1_survives_is_counted_and_not_the_cause() -> None:
    end = judged(0, Toll(oom_kills=2, peak_memory=999))
    assert (end.status, end.reason, end.oom_kills, end.peak_memory) == (Status.STOPPED, Reason.EXIT, 2, 999)
    assert judged(3, Toll(oom_kills=2)).reason is Reason.EXIT


@given(st.integers(0, 255), st.integers(0, 3), st.sampled_from([None, KILL]), st.sampled_from([None, 60.0]))
def test_every_judgement_is_an_end_that_a_running_task_may_come_to(
    code: int, oom_kills: int, kill: Kill | None, timeout_s: float | None
) -> None:
    end = judged(code, Toll(oom_kills), kill=kill, timeout_s=timeout_s)
    moved = to_end(make_record(status=Status.RUNNING), end, NOW)
    assert moved.exit_code == code
    assert moved.status.terminal
    assert moved.signal == signal_of(code)


def test_a_fault_becomes_its_own_end_with_detail_and_message() -> None:
    assert faulted(PullError("auth", "no"), NOW) == Ended(
        Status.FAILED, Reason.PULL_ERROR, "auth", "no", finished=NOW
    )
    assert faulted(StartError("user", "no"), NOW).reason is Reason.START_ERROR
    lost = faulted(Interrupted("gone"), NOW)
    assert (lost.reason, lost.detail, lost.exit_code) == (Reason.INTERRUPTED, None, None)


def test_who_is_killed_before_the_start_has_no_exit_code() -> None:
    end = killed_before_start(KILL, NOW)
    assert (end.status, end.reason, end.detail, end.exit_code) == (
        Status.STOPPED,
        Reason.KILLED,
        "admin",
        None,
    )
