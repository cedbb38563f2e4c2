"""A fleet whose link is cut while clients work on both sides, and healed: what is measured, and what has to hold. Called by the tests of it."""

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from tests.pace import stretched
from tests.scenarios.crowd import LASTING, LIST, READ, SPAWN, Crowd, taken_back
from tests.scenarios.fleet import Placed, everywhere
from tests.scenarios.weather import BOTH, LOST, amiss, containers, cut, differences, end_all, records

KILLED_S = stretched(10)
SAME_S = stretched(30)


def briefly_or_for_good() -> float | None:
    """How long a task lives: every third for good, the others ending at any time of a cut."""
    return None if random.random() < 1 / 3 else random.uniform(1, 25)


@attrs.define
class Parting:
    """The *minority* is cut off from the rest for *cut_s*, in both directions or in one of them alone."""

    placed: Sequence[Placed]
    minority: Sequence[Placed]
    cut_s: float
    chains: Sequence[str] = BOTH
    each_s: float = 1.5
    """Tasks spawned in a second, on all sides together."""
    condemned: set[str] = attrs.field(factory=set)
    partial_s: float | None = None
    lost_s: float | None = None
    killed_s: float = 0.0
    same_s: float = 0.0

    @property
    def majority(self) -> list[Placed]:
        return [one for one in self.placed if one not in self.minority]

    def run(self) -> Crowd:
        """All of it; what the clients were told."""
        crowd = Crowd(self.placed, briefly_or_for_good, name="parted")
        with crowd.at_work(**{SPAWN: self.each_s, READ: 2 * self.each_s, LIST: 1.0}):
            before = {one.name: [one.running(LASTING) for _ in range(2)] for one in self.placed}
            time.sleep(3)
            with cut(self.minority, self.majority, self.chains):
                began = time.monotonic()
                self._watch(before[self.minority[0].name][0], began)
                later = {one.name: one.running(LASTING, network="none") for one in self.placed}
                self.condemned = _lost(self.majority[0])
                crowd.stop(SPAWN)
            healed = time.monotonic()
            self.killed_s = _until(lambda: not self.condemned & _held(self.minority), KILLED_S, healed)
            self.same_s = _until(lambda: not differences(self.placed), SAME_S, healed, self._not_the_same)
        self._check(before, later)
        refusals = {f"{one.status} {one.what} through {one.through}: {one.why}" for one in crowd.failures()}
        back = taken_back(crowd.told)
        print(self._figures(), crowd.summary(), *sorted(refusals)[:20], *back, sep="\n")
        assert [one for one in crowd.failures() if not one.why or not one.status] == []
        assert back == [], back
        return crowd

    def _watch(self, doomed: str, began: float) -> None:
        """Until the cut is over: when the minority knew of it, and when the rest held its tasks for lost."""
        lone, full = self.minority[0], self.majority[0]
        while (passed_s := time.monotonic() - began) < self.cut_s:
            if self.partial_s is None and lone.get("/v1/status")["partial"]:
                self.partial_s = passed_s
            if self.lost_s is None and full.get("/v1/status") and doomed in _lost(full):
                self.lost_s = passed_s
            time.sleep(0.2)

    def _check(self, before: dict[str, list[str]], later: dict[str, str]) -> None:
        known = records(self.placed[0])
        lost = {key for key, record in known.items() if record["reason"] == LOST}
        assert lost == self.condemned, (lost, self.condemned)
        assert all(known[key]["node"] in {one.name for one in self.minority} for key in lost)
        kept = [key for one in self.majority for key in before[one.name]]
        ended: list[Any] = [
            known[key] for key in (*kept, *later.values()) if known[key]["status"] != "running"
        ]
        assert ended == [], ended
        if lost:
            assert {key for one in self.minority for key in before[one.name]} <= lost
        _until(lambda: not amiss(self.placed), KILLED_S, time.monotonic(), lambda: str(amiss(self.placed)))
        everywhere(list(self.placed), lambda it: not it.get("/v1/status")["partial"])
        assert len({one.get("/v1/status")["leader"] for one in self.placed}) == 1
        end_all(self.placed)

    def _not_the_same(self) -> str:
        return str(differences(self.placed)[:3])

    def _figures(self) -> str:
        told = [("partial", self.partial_s), ("lost", self.lost_s)]
        after = ", ".join(f"{what} after {s:.1f} s" if s is not None else f"never {what}" for what, s in told)
        return (
            f"{after}; healed: {len(self.condemned)} condemned ones dead after {self.killed_s:.1f} s, "
            f"all nodes show the same after {self.same_s:.1f} s"
        )


def _lost(one: Placed) -> set[str]:
    return {key for key, record in records(one).items() if record["reason"] == LOST}


def _held(placed: Sequence[Placed]) -> set[str]:
    return {task_id for one in placed for task_id in containers(one)}


def _until(
    true: Callable[[], bool], within_s: float, since: float, why: Callable[[], str] = lambda: ""
) -> float:
    """How long after *since* it was true."""
    while not true():
        assert time.monotonic() - since < within_s, why()
        time.sleep(0.2)
    return time.monotonic() - since
