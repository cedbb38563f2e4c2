"""What is counted as it happens: ends and phases of tasks, calls, requests, and the event loop's lag."""

import time
from functools import partial
from itertools import pairwise
from typing import Any

import attrs
import pytest
import trio

from mill.api.core import Answered
from mill.containerd import rpcs
from mill.daemon import meters
from mill.daemon.meters import Meters
from mill.model import Record, Status, Time
from mill.tasks.states import ENDS
from tests.tasks.fakes import EPOCH
from tests.tasks.scene import make_record

PHASES = ("pull", "start", "run")


def value(counted: Meters, name: str, **labels: str) -> float | None:
    return counted.registry.get_sample_value(f"mill_{name}", labels)


def phases(counted: Meters) -> dict[str, tuple[float | None, float | None]]:
    """How many went through each phase, and how long they took."""
    names = {phase: f"task_{phase}_duration_seconds" for phase in PHASES}
    return {
        phase: (value(counted, f"{name}_count"), value(counted, f"{name}_sum"))
        for phase, name in names.items()
    }


def at(status: Status, **times: float) -> Record:
    record = make_record(status=status)
    known: dict[str, Any] = {name: Time(EPOCH + after) for name, after in times.items()}
    return attrs.evolve(record, times=attrs.evolve(record.times, **known))


def test_what_resolvers_were_asked_is_timed() -> None:
    counted = Meters.make()
    counted.on_asked(0.02)
    name = "dns_upstream_duration_seconds"
    assert (value(counted, f"{name}_count"), value(counted, f"{name}_sum")) == (1, 0.02)


def test_each_phase_is_measured_once_by_the_times_of_the_record() -> None:
    counted = Meters.make()
    life = [
        at(Status.PULLING),
        at(Status.STARTING, pulled=2.0),
        at(Status.STARTING, pulled=2.0),
        at(Status.RUNNING, pulled=2.0, started=2.5),
        at(Status.RUNNING, pulled=2.0, started=2.5),
        attrs.evolve(at(Status.STOPPED, pulled=2.0, started=2.5, finished=9.5), reason=next(iter(ENDS))[1]),
    ]
    for before, after in pairwise(life):
        counted.on_commit(before, after)
    assert phases(counted) == {"pull": (1, 2.0), "start": (1, 0.5), "run": (1, 7.0)}
    assert value(counted, "task_ends_total", status="stopped", reason="exit") == 1


def test_an_end_before_the_run_is_counted_and_measures_nothing() -> None:
    counted = Meters.make()
    for (status, reason), sources in ENDS.items():
        if Status.RUNNING not in sources or Status.PULLING in sources:
            for source in sources - {Status.RUNNING}:
                ended = attrs.evolve(make_record(status=status), reason=reason)
                counted.on_commit(make_record(status=source), ended)
    assert phases(counted) == dict.fromkeys(PHASES, (0, 0))
    assert value(counted, "task_ends_total", status="failed", reason="interrupted") == 2
    assert value(counted, "task_ends_total", status="failed", reason="pull_error") == 1


def test_a_clock_that_was_set_back_makes_no_negative_length() -> None:
    counted = Meters.make()
    counted.on_commit(at(Status.PULLING), at(Status.STARTING, pulled=-100.0))
    assert phases(counted)["pull"] == (1, 0.0)


def test_every_end_is_a_series_from_the_start() -> None:
    counted = Meters.make()
    for status, reason in ENDS:
        assert value(counted, "task_ends_total", status=status, reason=reason) == 0


def test_calls_are_named_as_containerd_names_them_and_errors_counted_by_code() -> None:
    counted = Meters.make()
    for path, seconds, code in (
        (rpcs.TASKS_CREATE.path, 0.02, "OK"),
        (rpcs.TASKS_CREATE.path, 3.0, "UNKNOWN"),
        (rpcs.TASKS_WAIT.path, 5000.0, "UNAVAILABLE"),
    ):
        counted.on_call(path, seconds, code)
    name = "containerd_call_duration_seconds"
    assert value(counted, f"{name}_count", method="Tasks.Create") == 2
    assert value(counted, f"{name}_bucket", method="Tasks.Create", le="0.025") == 1
    assert value(counted, f"{name}_count", method="Tasks.Wait") is None
    for method, code in (("Tasks.Create", "UNKNOWN"), ("Tasks.Wait", "UNAVAILABLE")):
        assert value(counted, "containerd_call_errors_total", method=method, code=code) == 1


def test_requests_are_counted_by_class_of_status_and_timed_unless_they_wait() -> None:
    counted = Meters.make()
    for status, seconds in ((200, 0.002), (204, 0.2), (200, None), (404, 0.002)):
        counted.on_answer(Answered("/v1/x", "GET", status, seconds))
    count = partial(value, counted, route="/v1/x", method="GET")
    assert count("api_requests_total", code="2xx") == 3
    assert count("api_request_duration_seconds_count", code="2xx") == 2
    assert count("api_request_duration_seconds_sum", code="2xx") == pytest.approx(0.202)
    assert count("api_requests_total", code="4xx") == 1


def test_nodes_of_one_process_share_nothing() -> None:
    one, other = Meters.make(), Meters.make()
    one.on_call(rpcs.TASKS_CREATE.path, 0.1, "OK")
    assert value(other, "containerd_call_duration_seconds_count", method="Tasks.Create") is None


async def test_a_loop_that_is_held_up_is_late(nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meters, "LAG_INTERVAL_S", 0.01)
    counted: Meters = await nursery.start(meters.serve)
    while not value(counted, "event_loop_lag_seconds_count"):  # noqa: ASYNC110 -- a sample announces nothing
        await trio.sleep(0.001)
    before = value(counted, "event_loop_lag_seconds_sum")
    assert before is not None
    held_until = time.perf_counter() + 0.3
    while time.perf_counter() < held_until:
        pass
    await trio.sleep(0.001)
    after = value(counted, "event_loop_lag_seconds_sum")
    assert after is not None
    assert after - before >= 0.25
    nursery.cancel_scope.cancel()


def test_a_call_costs_microseconds() -> None:
    """A call to containerd takes some 400 of them at the least."""
    counted, rounds = Meters.make(), 2000
    counted.on_call(rpcs.TASKS_GET.path, 0.001, "OK")
    fastest = min(_seconds_of(counted, rounds) for _ in range(5)) / rounds
    assert fastest < 20e-6, f"{fastest * 1e6:.1f} us"


def _seconds_of(counted: Meters, rounds: int) -> float:
    began = time.perf_counter()
    for _ in range(rounds):
        counted.on_call(rpcs.TASKS_GET.path, 0.001, "OK")
    return time.perf_counter() - began
