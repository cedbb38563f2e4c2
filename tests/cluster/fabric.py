"""Nodes that hold records and nothing between them but calls: rumours, digests and deltas, each of which may be lost.

It drives the cores directly, without membership or time. What a real cluster would do is decided by the caller, step
by step; `facts` remembers every entry that was ever published, so that what a node claims can be held against it.
"""

from collections.abc import Iterable, Iterator
from random import Random

from mill.cluster.entries import Delta, Digest, Effect, Entry, Put, View
from mill.cluster.records import Records
from mill.cluster.values import NodeId

LIMIT_BYTES = 400
"""A few entries a chunk, so that most answers are series."""


def node_id(number: int) -> NodeId:
    return NodeId(f"{number:032x}")


def shown(records: Records) -> dict[tuple[NodeId, str], View]:
    return {(view.entry.owner, view.entry.task): view for view in records.tasks()}


def held(records: Records) -> tuple[Digest, dict[tuple[NodeId, str], View]]:
    """All that two nodes which hold the same must agree on."""
    digest = {owner: line for owner, line in records.digest().items() if line.seen > (0, 0) or line.verdicts}
    return digest, shown(records)


def dumps(records: Records) -> list[Delta]:
    return [records.dump(owner) for owner in records.owners]


class Fabric:
    """*count* nodes, numbered from 0."""

    def __init__(self, count: int, rng: Random) -> None:
        self.ids = [node_id(number + 1) for number in range(count)]
        self.nodes = [Records(me, 1) for me in self.ids]
        self.rng = rng
        self.facts: list[Entry] = []

    def put(self, number: int, task: str, phase: int, payload: bytes = b"") -> Entry:
        entry = self.nodes[number].put(task, phase, payload)
        self.facts.append(entry)
        return entry

    def rumour(self, entry: Entry, to: Iterable[int]) -> None:
        for number in to:
            self.note(self.nodes[number].merge([entry]))

    def note(self, effects: Iterable[Effect]) -> None:
        self.facts += [effect.entry for effect in effects if isinstance(effect, Put)]

    def pull(self, number: int, source: int, *, chunks: int = 10**9) -> None:
        """Node *number* asks *source* for what it lacks; the connection breaks after so many answers."""
        asker, teller = self.nodes[number], self.nodes[source]
        wants = asker.missing(teller.digest())
        while wants and chunks:
            effects, more = asker.absorb(teller.delta(wants.pop(), LIMIT_BYTES))
            self.note(effects)
            wants += [more] if more is not None else []
            chunks -= 1

    def settle(self, among: Iterable[int] | None = None) -> int | None:
        """Everybody pulls from everybody until all hold the same; how many rounds that took, None if it did not come about."""
        numbers = list(range(len(self.nodes)) if among is None else among)
        for rounds in range(10):
            if len({self.nodes[number].head_hash() for number in numbers}) <= 1:
                return rounds
            for number in numbers:
                for source in numbers:
                    if self.nodes[number].head_hash() != self.nodes[source].head_hash():
                        self.pull(number, source)
        return None

    def overstated(self) -> Iterator[tuple[int, Entry]]:
        """Entries that a node says it knows (by its head) and does not."""
        for number, records in enumerate(self.nodes):
            there, lines = shown(records), records.digest()
            for fact in self.facts:
                line = lines.get(fact.owner)
                if line is not None and line.floor < fact.mark <= line.head:
                    view = there.get((fact.owner, fact.task))
                    if view is None or view.entry.rank < fact.rank:
                        yield number, fact
