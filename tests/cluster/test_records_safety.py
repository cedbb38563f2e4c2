"""What must hold at every step of every run: no end is taken back, nothing forgotten returns, no node claims too much.

Random runs of a few nodes in changing partitions: puts, rumours that get lost, pulls that break off, verdicts of majorities,
retirement, restarts. Each invariant has bugs planted against it, which the same search has to find.

A node's answers count (are not marked partial) while it is with a majority that has compared its records since it came
together. That is what the runs do when they draw a new partition, and what the engine owes. What only nodes had read that were cut off
together with the owner, before the rest compared records, does not count: it is told with a doubt (`test_ends`).
"""

import os
import re
from collections.abc import Callable, Collection, Iterator
from random import Random

import attrs
import pytest

from mill.cluster.entries import (
    ENDED,
    PULLING,
    START,
    STARTING,
    Changed,
    Delta,
    Entry,
    Mark,
    Verdict,
    View,
    Want,
)
from mill.cluster.ownerlog import OwnerLog
from mill.cluster.records import Records
from mill.cluster.values import NodeId
from tests.cluster.fabric import Fabric, dumps, shown

LONG = bool(os.environ.get("MILL_LONG"))
RUNS, STEPS = 5000 if LONG else 60, 60
PLANTED_RUNS = 1000

Key = tuple[NodeId, str]


@attrs.define
class Run:
    """One random run. `broken` collects what was violated."""

    fabric: Fabric
    rng: Random
    group: list[int]
    """The nodes that are together and a majority."""
    term: int = 0
    born: int = 0
    read: dict[Key, tuple[object, set[int]]] = attrs.field(factory=dict)
    """Each task's end as clients were told it, and by which nodes."""
    forgotten: list[set[Key]] = attrs.field(factory=list)
    outlived: set[Key] = attrs.field(factory=set)
    """What others have forgotten for a node that was gone for long."""
    broken: list[str] = attrs.field(factory=list)

    @classmethod
    def seeded(cls, seed: int) -> "Run":
        rng = Random(seed)
        count = rng.choice([3, 4, 5])
        run = cls(Fabric(count, rng), rng, list(range(count)))
        run.forgotten = [set() for _ in range(count)]
        return run

    def steps(self) -> Iterator[Callable[[], None]]:
        kinds = (
            [self.walk] * 10
            + [self.pull] * 2
            + [self.late] * 2
            + [self.part, self.part, self.judge, self.judge, self.retire, self.outlive, self.restart]
        )
        while True:
            yield self.rng.choice(kinds)

    def together(self, number: int) -> list[int]:
        """Those that *number* can talk to; who is not of the majority is alone."""
        return [other for other in self.group if other != number] if number in self.group else []

    def walk(self) -> None:
        """A task of some node comes or moves on; each other node that can hear it does so or not."""
        number = self.rng.randrange(len(self.fabric.nodes))
        records = self.fabric.nodes[number]
        live = [view for view in records.tasks(records.me) if not view.entry.terminal]
        ended = [
            view
            for view in records.tasks(records.me)
            if view.entry.terminal and (records.me, view.entry.task) not in self.outlived
        ]
        if ended and self.rng.random() < 0.2:
            view = self.rng.choice(ended)
            entry = self.fabric.put(number, view.entry.task, ENDED, b"cleaned")
        elif live and self.rng.random() < 0.7:
            view = self.rng.choice(live)
            entry = self.fabric.put(
                number, view.entry.task, min(ENDED, view.entry.phase + self.rng.choice([1, 2, 3]))
            )
        else:
            self.born += 1
            entry = self.fabric.put(number, f"t-{self.born}", self.rng.choice([PULLING, STARTING]))
        self.fabric.rumour(entry, [other for other in self.together(number) if self.rng.random() < 0.6])

    def pull(self) -> None:
        number = self.rng.randrange(len(self.fabric.nodes))
        if others := self.together(number):
            self.fabric.pull(number, self.rng.choice(others), chunks=self.rng.choice([1, 2, 10]))

    def part(self) -> None:
        """Another majority comes together, and compares what it holds before its answers count."""
        count = len(self.fabric.nodes)
        group = self.rng.sample(range(count), self.rng.randint(count // 2 + 1, count))
        staying = set(self.group) & set(group)
        self.settle(sorted(staying))
        self.read = {key: (end, readers) for key, (end, readers) in self.read.items() if readers & staying}
        self.read = {key: (end, set(range(count))) for key, (end, _) in self.read.items()}
        self.group = group
        self.settle(self.group)

    def settle(self, numbers: list[int]) -> None:
        if self.fabric.settle(numbers) is None:
            self.broken.append(f"{numbers} do not come to hold the same")

    def late(self) -> None:
        """Something old is heard once more."""
        number = self.rng.randrange(len(self.fabric.nodes))
        records = self.fabric.nodes[number]
        old = [fact for fact in self.fabric.facts if fact.mark <= records.line(fact.owner).head]
        if old:
            self.fabric.rumour(self.rng.choice(old), [number])

    def judge(self) -> None:
        """A leader of the majority pulls from everybody there and gives its verdict on a node that is not."""
        gone = [number for number in range(len(self.fabric.nodes)) if number not in self.group]
        if not gone:
            return
        leader, owner = self.rng.choice(self.group), self.fabric.ids[self.rng.choice(gone)]
        for number in self.group:
            self.fabric.pull(leader, number)
        self.term += 1
        verdict = self.fabric.nodes[leader].verdict(owner, self.term)
        for number in self.group:
            self.fabric.nodes[number].condemn(verdict)

    def retire(self) -> None:
        number = self.rng.randrange(len(self.fabric.nodes))
        records = self.fabric.nodes[number]
        ended = {view.entry.task for view in records.tasks(records.me) if view.entry.terminal}
        expired = {task for task in sorted(ended) if self.rng.random() < 0.8}
        for view in records.hindering(expired):
            self.fabric.put(number, view.entry.task, view.entry.phase, view.entry.payload)
        records.retire(expired)

    def outlive(self) -> None:
        """A leader of the majority forgets for a node that is not there what is lost, or ended so long ago that nothing more is said of it."""
        gone = [number for number in range(len(self.fabric.nodes)) if number not in self.group]
        if not gone:
            return
        leader, owner = (self.fabric.nodes[self.rng.choice(numbers)] for numbers in (self.group, gone))
        known = {view.entry.task: view.entry for view in leader.tasks(owner.me) if view.terminal}
        expired = {task for task in sorted(known) if self.rng.random() < 0.8}
        said = {view.entry.task: view.entry for view in owner.tasks(owner.me) if view.entry.terminal}
        expired -= {task for task in expired & said.keys() if said[task] != known[task]}
        before = {key for key, view in shown(leader).items() if view.terminal}
        leader.outlive(owner.me, expired)
        self.outlived |= before - set(shown(leader))

    def restart(self) -> None:
        number = self.rng.randrange(len(self.fabric.nodes))
        records = self.fabric.nodes[number]
        self.fabric.nodes[number] = Records(
            records.me, records.epoch + self.rng.choice([0, 1]), dumps(records)
        )

    def check(self) -> None:
        self.broken += [f"{number} does not know {entry}" for number, entry in self.fabric.overstated()]
        for number, records in enumerate(self.fabric.nodes):
            there = shown(records)
            self.broken += [f"{key} is back at {number}" for key in self.forgotten[number] & there.keys()]
            self.check_forgotten(number, there.keys())
            if number in self.group:
                for key, view in there.items():
                    self.check_end(number, key, view)

    def check_forgotten(self, number: int, there: Collection[Key]) -> None:
        below = [
            fact
            for fact in self.fabric.facts
            if fact.mark <= self.fabric.nodes[number].line(fact.owner).floor
        ]
        ended = {(fact.owner, fact.task) for fact in below if fact.terminal}
        gone = {(fact.owner, fact.task) for fact in below} - set(there)
        me = self.fabric.nodes[number]
        reach = max((verdict.covers for verdict in me.verdicts_on(me.me)), default=START)
        mine = {fact.task for fact in below if fact.owner == me.me and fact.born > reach}
        self.broken += [
            f"{key} was forgotten alive" for key in gone - ended if key[0] == me.me and key[1] in mine
        ]
        self.forgotten[number] |= gone & ended

    def check_end(self, number: int, key: Key, view: View) -> None:
        if view.terminal:
            now = "lost" if view.lost else view.entry.ended
            end, readers = self.read.setdefault(key, (now, set()))
            readers.add(number)
            if now != end:
                self.broken.append(f"{key} ended with {end}, and now with {now}")


def violations(seed: int) -> list[str]:
    """What one run broke first; at its end all nodes meet and hold the same."""
    run = Run.seeded(seed)
    for step, _ in zip(run.steps(), range(STEPS), strict=False):
        step()
        run.check()
        if run.broken:
            return run.broken
    run.settle(list(range(len(run.fabric.nodes))))
    run.group = list(range(len(run.fabric.nodes)))
    run.check()
    return run.broken


def test_no_run_takes_an_end_back_brings_back_what_was_forgotten_or_claims_too_much() -> None:
    assert {seed: broken for seed in range(RUNS) if (broken := violations(seed))} == {}


def rolled_back(seed: int, *, new_epochs: bool) -> str | None:
    """A run in which nodes restart with an old disk now and then, and go on before they hear of anybody; what is wrong at its end.

    An end that was forgotten meanwhile does not count: a disk older than the retention needs to hear of the floor first.
    """
    run = Run.seeded(seed)
    nodes, rng = run.fabric.nodes, run.rng
    disks: list[list[list[Delta]]] = [[] for _ in nodes]
    for step, index in zip(run.steps(), range(STEPS), strict=False):
        number = rng.randrange(len(nodes))
        if rng.random() < 0.1:
            disks[number].append(dumps(nodes[number]))
        if rng.random() < 0.05 and disks[number]:
            epoch = 1000 * (index + 1) if new_epochs else 1
            nodes[number] = Records(nodes[number].me, epoch, rng.choice(disks[number]))
        else:
            step()
    ends = [(key, view.entry) for records in nodes for key, view in shown(records).items() if view.terminal]
    if run.fabric.settle() is None:
        return "they do not come to hold the same"
    kept = {key for key, entry in ends if entry.mark > nodes[0].line(entry.owner).floor}
    live = {key for records in nodes for key, view in shown(records).items() if not view.terminal}
    return f"{kept & live} live again" if kept & live else None


@pytest.mark.parametrize("new_epochs", [False, True])
def test_with_disks_that_are_rolled_back_all_come_to_hold_the_same_and_what_ended_stays_so(
    new_epochs: bool,  # noqa: FBT001 -- a parameter of the test
) -> None:
    """With an epoch that others know already, and with one that is new at every start."""
    wrong = {seed: found for seed in range(RUNS) if (found := rolled_back(seed, new_epochs=new_epochs))}
    assert wrong == {}


# -- planted --------------------------------------------------------------------------------------------------------

TRUE_DELTA = OwnerLog.delta
TRUE_OUTLIVED = OwnerLog.outlived


def chunk_claims_all(log: OwnerLog, want: Want, limit_bytes: int) -> Delta:
    """Each chunk is taken for the last."""
    return attrs.evolve(TRUE_DELTA(log, want, limit_bytes), head=log.head)


def merge_below_the_floor(log: OwnerLog, entry: Entry) -> Changed | None:
    log._note(entry.mark)
    held = log.entries.get(entry.task)
    if held is not None and entry.rank <= held.rank:
        return None
    log._replace(held, entry)
    return Changed(None if held is None else log.judged(held), log.judged(entry))


def any_verdict_beats_any_end(_: Verdict, __: Entry) -> bool:
    return True


def later_ends_overturn(_: Verdict, entry: Entry) -> bool:
    return not entry.terminal


def judged_by_the_last_change(verdict: Verdict, entry: Entry) -> bool:
    return not (entry.terminal and entry.mark <= verdict.head)


def gaps_count_as_known(verdict: Verdict, entry: Entry) -> bool:
    return entry.ended is None or not entry.ended <= verdict.covers


def floor_passes_the_living(log: OwnerLog, expired: set[str]) -> tuple[Mark, list[View]]:
    marks = [entry.mark for entry in log.after(log.floor) if entry.terminal and entry.task in expired]
    return max(marks, default=log.floor), []


def outlives_the_living(log: OwnerLog, expired: set[str]) -> Mark:
    return max((entry.mark for entry in log.after(log.floor) if entry.task in expired), default=log.floor)


def outlives_what_lies_in_a_gap(log: OwnerLog, expired: set[str]) -> Mark:
    log.head = max(log.head, log.seen)
    return TRUE_OUTLIVED(log, expired)


PLANTED = [
    (OwnerLog, "delta", chunk_claims_all, "does not know|the same"),
    (OwnerLog, "merge", merge_below_the_floor, "is back"),
    (Verdict, "loses", any_verdict_beats_any_end, "and now"),
    (Verdict, "loses", later_ends_overturn, "and now"),
    (Verdict, "loses", judged_by_the_last_change, "and now"),
    (Verdict, "loses", gaps_count_as_known, "and now"),
    (OwnerLog, "retirable", floor_passes_the_living, "forgotten alive"),
    (OwnerLog, "outlived", outlives_the_living, "forgotten alive"),
    (OwnerLog, "outlived", outlives_what_lies_in_a_gap, "forgotten alive|does not know"),
]


@pytest.mark.parametrize(
    ("owner", "name", "bug", "said"), PLANTED, ids=lambda value: getattr(value, "__name__", None)
)
def test_a_planted_bug_is_found(
    owner: type, name: str, bug: Callable[..., object], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, name, bug)
    for seed in range(PLANTED_RUNS):
        broken = [line for line in violations(seed) if re.search(said, line)]
        if broken:
            print(f"found by run {seed}: {broken[0]}")
            return
    raise AssertionError(f"{PLANTED_RUNS} runs did not find it")
