"""The promises that one node can break (the design's section 1), whatever may happen to it: a hundred random histories.

A history is thirty steps: tasks are spawned and killed, end by themselves, milld is restarted and crashed, the machine
rebooted, its clock set. That it would find what breaks a promise is shown by bugs that are planted. ``MILL_LONG=1``: a
thousand histories.
"""

import math
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs
import pytest
import trio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from mill.model import Deadline, Ended, Record, Resources, Task, Time
from mill.store import Store, _Job
from mill.tasks import lifecycle, rows, states
from mill.tasks.ledger import Ledger
from mill.tasks.lifecycle import _Life
from mill.tasks.service import Tasks
from tests.tasks.history import History, broken_by, histories
from tests.tasks.witness import Broken

LONG = bool(os.environ.get("MILL_LONG"))
ALWAYS = 100
each_history = partial(settings, deadline=None, derandomize=not LONG, suppress_health_check=list(HealthCheck))


@each_history(max_examples=1000 if LONG else ALWAYS)
@given(histories, st.random_module())
def test_no_promise_is_broken_whatever_happens(history: History, seed: object) -> None:  # noqa: ARG001 -- trio's
    found = broken_by(history)
    if found:
        raise found[0]


# -- planted bugs -----------------------------------------------------------------------------------------------------


Patch = pytest.MonkeyPatch


def what_was_started_is_not_looked_for(patch: Patch) -> None:
    async def adopt(self: _Life) -> None: ...

    patch.setattr(_Life, "_adopt", adopt)


def an_end_is_told_before_it_is_stored(patch: Patch) -> None:
    async def put(self: Store, task: Task) -> None:
        await trio.lowlevel.checkpoint()
        self._jobs.put(
            _Job([(rows.PUT_OVER, rows.row_of(task))], trio.lowlevel.current_trio_token(), synced=True)
        )

    patch.setattr(Store, "put", put)


def an_end_has_no_reason(patch: Patch) -> None:
    def to_end(record: Record, end: Ended, now: Time) -> Record:
        return attrs.evolve(states.to_end(record, end, now), reason=None)

    patch.setattr(lifecycle, "to_end", to_end)


def the_signal_of_a_milld_that_left_does_not_count(patch: Patch) -> None:
    patch.setattr(_Life, "_was_reached", lambda *_: False)


def half_of_the_cores_is_reserved(patch: Patch) -> None:
    reserve = Ledger.reserve

    def reserve_half(self: Ledger, task_id: str, asked: Resources) -> None:
        reserve(self, task_id, attrs.evolve(asked, cpu=asked.cpu / 2))

    patch.setattr(Ledger, "reserve", reserve_half)


def what_is_adopted_holds_nothing(patch: Patch) -> None:
    patch.setattr(Ledger, "adopt", lambda *_: None)


def a_restart_counts_the_timeout_anew(patch: Patch) -> None:
    adopt = _Life._adopt

    async def adopt_anew(self: _Life) -> None:
        await adopt(self)
        clock, spec = self.world.clock, self.live.task.record.spec
        deadline = Deadline(clock.boot_id, clock.boottime() + spec.timeout)
        self.live.task = attrs.evolve(
            self.live.task, owned=attrs.evolve(self.live.task.owned, deadline=deadline)
        )

    patch.setattr(_Life, "_adopt", adopt_anew)


def the_timeout_goes_by_the_wall_clock(patch: Patch) -> None:
    def remaining_s(self: _Life, deadline: Deadline | None) -> float:
        started = self.live.task.record.times.started
        if deadline is None or started is None:
            return math.inf
        return max(0.0, started + self.live.task.record.spec.timeout - self.world.clock.now())

    patch.setattr(_Life, "_remaining_s", remaining_s)


def retention_goes_by_the_wall_clock(patch: Patch) -> None:
    plain = Store.expired

    async def expired(self: Store, ended_before: float, limit: int, **clock: Any) -> list[str]:
        return await plain(self, ended_before, limit, **{**clock, "at_s": math.inf})

    patch.setattr(Store, "expired", expired)


def nothing_ever_expires(patch: Patch) -> None:
    async def expired(self: Tasks, retention_s: float, limit: int) -> list[str]:  # noqa: ARG001 -- what it stands for has them
        return []

    patch.setattr(Tasks, "expired", expired)


PLANTS: list[tuple[int, Callable[[Patch], None]]] = [
    (1, what_was_started_is_not_looked_for),
    (2, an_end_is_told_before_it_is_stored),
    (3, an_end_has_no_reason),
    (3, the_signal_of_a_milld_that_left_does_not_count),
    (4, half_of_the_cores_is_reserved),
    (5, what_is_adopted_holds_nothing),
    (6, a_restart_counts_the_timeout_anew),
    (6, the_timeout_goes_by_the_wall_clock),
    (7, retention_goes_by_the_wall_clock),
    (7, nothing_ever_expires),
]


@pytest.mark.parametrize(("promise", "plant"), PLANTS, ids=lambda value: getattr(value, "__name__", None))
def test_a_planted_bug_is_found(promise: int, plant: Callable[[Patch], None], monkeypatch: Patch) -> None:
    plant(monkeypatch)
    searching = each_history(
        max_examples=ALWAYS, phases=[Phase.generate], derandomize=True, report_multiple_bugs=False
    )

    @searching
    @given(histories, st.random_module())
    def search(history: History, _seed: object) -> None:
        for broken in broken_by(history):
            if broken.promise == promise:
                raise broken

    with pytest.raises(Broken):
        search()
