"""Clients that read ends of tasks from all nodes of a cluster in the simulator, while its links are cut and healed: none is told one, and later another.

The shell of `cluster.ends` is modelled: what a node is owed goes out as a letter, whose answer comes, or does not; an end of another's task
is asked after there.
"""

from functools import partial
from random import Random

import attrs

from mill.cluster.ends import Ends
from mill.cluster.engine import Engine
from mill.cluster.entries import ENDED, RUNNING, Changed, Entry, View
from mill.cluster.outcomes import Outcome, Witnessed
from mill.cluster.values import NodeId
from tests.cluster.engines import Engines, Node
from tests.cluster.fleet import Broken
from tests.cluster.simulator import Host, Link

STEP_S = 0.05


@attrs.define
class Task:
    owner: Node
    ends_at: float


class Readers:
    """*size* nodes; every step a task may begin, one may end, and all that have ended are read through all nodes."""

    def __init__(self, size: int, seed: int, loss: float = 0.05) -> None:
        self.rng = Random(seed)
        self.fleet = Engines(size, seed, Link(loss=loss))
        self.fleet.settle()
        self.running: dict[str, Task] = {}
        self.ended: dict[str, float] = {}
        self.certain: dict[str, tuple[str, str]] = {}
        """What was told first without a doubt, and by whom."""
        self.seen: dict[str, set[str]] = {}
        self.ends = {node.id: self._ends_of(node) for node in self.fleet.nodes}
        self._made = 0
        self._apart: list[list[Node]] = []
        self.fleet.simulator.observers.append(self._hear)

    def _ends_of(self, node: Node) -> Ends:
        return Ends(node.id, node.core.members, node.core.is_quorum)

    def _hear(self, host: Host, outcome: object, now: float) -> None:
        node = next(one for one in self.fleet.nodes if one.address == host.address)
        if isinstance(outcome, Witnessed):
            self.ends[node.id].taken(outcome.task, outcome.node)
        if isinstance(outcome, Changed) and outcome.after is not None:
            entry, before = outcome.after.entry, outcome.before
            if entry.owner != node.id and entry.terminal and not (before is not None and before.terminal):
                self.ends[node.id].hear(entry.task, entry.owner, now)

    # -- the world --------------------------------------------------------------------------------------------------

    def run(self, seconds: float) -> None:
        """With a new cut every now and then; whole again at the end of it, and for as long as it takes to agree."""
        until = self.fleet.now + seconds
        change_at = self.fleet.now + 5
        while self.fleet.now < until:
            if self.fleet.now >= change_at:
                change_at = self.fleet.now + self._change()
            self.step()
        self._heal()
        self.fleet.settle(120)
        for _ in range(int(10 / STEP_S)):
            self.step(work=False)

    def _change(self) -> float:
        """For how long it stays so."""
        if self._apart:
            self._heal()
            return self.rng.uniform(5, 15)
        nodes = self.rng.sample(self.fleet.nodes, len(self.fleet.nodes))
        at = self.rng.randrange(1, len(nodes))
        self._apart = [nodes[:at], nodes[at:]]
        self.fleet.partition(*self._apart)
        return self.rng.choice([self.rng.uniform(0.5, 10), self.rng.uniform(20, 40)])

    def _heal(self) -> None:
        self._apart = []
        self.fleet.simulator.heal()

    def _hears(self, one: NodeId, other: NodeId) -> bool:
        sides = [{node.id for node in side} for side in self._apart]
        return not any(one in side and other not in side for side in sides)

    # -- a step -----------------------------------------------------------------------------------------------------

    def step(self, *, work: bool = True) -> None:
        self.fleet.simulator.run(STEP_S)
        if work and self.rng.random() < 0.05:
            self._begin()
        for name, task in list(self.running.items()):
            if task.ends_at <= self.fleet.now:
                del self.running[name]
                self._end(name, task.owner)
        for node in self.fleet.nodes:
            self._turn(node)
            if not node.core.partial:
                for name in self.ended:
                    self._read(name, node)
        self.ended = {name: at for name, at in self.ended.items() if not self._is_old(at, work=work)}

    def _is_old(self, at: float, *, work: bool) -> bool:
        return work and self.fleet.now - at > 45

    def _begin(self) -> None:
        owner = self.rng.choice(self.fleet.nodes)
        if owner.core.ready:
            self._made += 1
            name = f"task-{self._made}"
            self.fleet.put(owner, name, RUNNING)
            self.running[name] = Task(owner, self.fleet.now + self.rng.uniform(0.5, 20))

    def _end(self, name: str, owner: Node) -> None:
        held, ends = owner.core.records.lookup(name), self.ends[owner.id]
        if held is None or held.entry.terminal:
            return
        self.ended[name] = self.fleet.now
        ends.expect(name, self.fleet.now)
        ends.publish(self.fleet.put(owner, name, ENDED), self.fleet.now)

    def _turn(self, node: Node) -> None:
        ends, in_touch = self.ends[node.id], not node.core.partial
        ends.turn(self.fleet.now, in_touch=in_touch)
        if not in_touch:
            return
        for target, owed in ends.owed(self.fleet.now).items():
            for end in owed:
                self.fleet.act(node, partial(_hand_over, target, end))

    # -- who reads --------------------------------------------------------------------------------------------------

    def _read(self, name: str, node: Node) -> None:
        view = node.core.records.lookup(name)
        if view is None or not view.terminal:
            return
        told = _shown(view)
        self.seen.setdefault(name, set()).add(told)
        if self._is_doubted(name, node):
            return
        before, by = self.certain.setdefault(name, (told, node.name))
        if before != told:
            raise Broken(f"{name} was {before} by {by}, and is {told} by {node.name} at {self.fleet.now:.2f}")

    def _is_doubted(self, name: str, node: Node) -> bool:
        ends = self.ends[node.id]
        if not ends.in_doubt([name]):
            return False
        owner = ends.owner(name)
        if owner != node.id and self._hears(node.id, owner) and not self.ends[owner].in_doubt([name]):
            ends.close([name])
        return bool(ends.in_doubt([name]))

    def lost_after_all(self) -> set[str]:
        """Tasks whose end somebody told, with a doubt, and that are held for lost."""
        return {name for name, shown in self.seen.items() if len(shown) > 1}


def _hand_over(target: NodeId, end: Entry, engine: Engine, now: float) -> list[Outcome]:
    return engine.hand_over(target, end, now)


def _shown(view: View) -> str:
    return "node_lost" if view.lost else "exit"
