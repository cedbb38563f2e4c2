"""Nodes that run whole engines in the simulator, each with a disk, and an observer that keeps what it is told to and holds the rules.

The rules, at every step: a verdict comes from a leader alone that a majority has answered for a whole lease; what a node showed as
ended never lives again there; a mandate that is kept never gets lower.
"""

from collections.abc import Callable
from random import Random
from typing import Any

import attrs

from mill.cluster import effects, entries
from mill.cluster.claims import NOBODY, Full, Mandate, Persist
from mill.cluster.engine import Engine, Kept, Tuning
from mill.cluster.entries import START, Delta, Entry, Mark, Verdict
from mill.cluster.outcomes import KeepEpoch, KeepLog, KeepSettings, Kill, Led, Surfaced
from mill.cluster.settings import Setting, Snapshot
from mill.cluster.values import Address, Member, MemberState, NodeId, Peer
from mill.cluster.voters import FOUNDER
from tests.cluster.fleet import Broken
from tests.cluster.simulator import Host, Link, Simulator

TUNING = Tuning()


@attrs.define
class LogOnDisk:
    entries: dict[str, Entry] = attrs.field(factory=dict)
    verdicts: tuple[Verdict, ...] = ()
    floor: Mark = START
    head: Mark = START

    def dump(self, owner: NodeId) -> Delta:
        ordered = tuple(sorted(self.entries.values(), key=lambda entry: entry.mark))
        return Delta(owner, START, ordered, self.verdicts, self.floor, self.head)


@attrs.define
class Disk:
    """What a data directory holds, as a store would."""

    epoch: int = 0
    mandate: Mandate = NOBODY
    logs: dict[NodeId, LogOnDisk] = attrs.field(factory=dict)
    settings: dict[str, Setting] = attrs.field(factory=dict)
    collected: float = 0.0
    members: dict[NodeId, Member] = attrs.field(factory=dict)
    condemned: dict[NodeId, float] = attrs.field(factory=dict)

    def kept(self) -> Kept:
        logs = tuple(log.dump(owner) for owner, log in self.logs.items())
        settings = Snapshot(tuple(self.settings.values()), self.collected)
        return Kept(self.mandate, logs, settings, tuple(self.members.values()), dict(self.condemned))

    def keep(self, outcome: Any, now: float) -> None:
        match outcome:
            case KeepEpoch(epoch):
                self.epoch = max(self.epoch, epoch)
            case Persist(mandate):
                self.mandate = mandate
            case KeepLog():
                self._keep_log(outcome, now)
            case KeepSettings(changed, collected):
                self.settings |= {setting.key: setting for setting in changed}
                self.collected = collected
            case effects.Changed(old, new):
                if new is not None:
                    self.members[new.id] = new
                elif old is not None:
                    self.members.pop(old.id, None)

    def _keep_log(self, kept: KeepLog, now: float) -> None:
        log = self.logs.setdefault(kept.owner, LogOnDisk())
        if kept.verdicts != log.verdicts:
            self.condemned[kept.owner] = now
        for task in kept.gone:
            log.entries.pop(task, None)
        self.write(*kept.entries)
        log.verdicts, log.floor, log.head = kept.verdicts, kept.floor, kept.head

    def write(self, *written: Entry) -> None:
        for entry in written:
            self.logs.setdefault(entry.owner, LogOnDisk()).entries[entry.task] = entry


@attrs.define(eq=False)
class Node:
    id: NodeId
    address: Address
    name: str
    disk: Disk = attrs.field(factory=Disk)
    engine: Engine | None = None

    @property
    def core(self) -> Engine:
        assert self.engine is not None, f"{self.name} is down"
        return self.engine


class Engines:
    """*size* nodes, of which the first founded the cluster; the others join by it."""

    def __init__(
        self, size: int, seed: int, link: Link | None = None, *, tuning: Tuning = TUNING, **options: Any
    ) -> None:
        self.simulator = Simulator(seed, link, **options)
        self._tuning = tuning
        self.nodes: list[Node] = []
        self.by_id: dict[NodeId, Node] = {}
        self._at: dict[Address, Node] = {}
        self.verdicts: list[tuple[float, Node, Verdict]] = []
        """When and by whom each was given."""
        self.led: list[tuple[float, Node, Led]] = []
        self.false_deaths: list[tuple[float, Node, Member]] = []
        """When and by whom each was held for dead in a life that it was leading."""
        self.killed: list[tuple[NodeId, str]] = []
        self.surfaced: list[Entry] = []
        self.simulator.observers += [self._observe, self._note_death]
        for _ in range(size):
            self.add()

    @property
    def now(self) -> float:
        return self.simulator.now

    def add(self) -> Node:
        number = len(self.nodes) + 1
        node = Node(
            NodeId(f"{self.simulator.rng.getrandbits(128):032x}"),
            Address(f"10.0.0.{number}", 4401),
            f"node-{number}",
        )
        self.nodes.append(node)
        self.by_id[node.id] = self._at[node.address] = node
        self.start(node)
        return node

    def start(self, node: Node) -> None:
        """A process more on this disk."""
        node.disk.epoch += 1
        now, founder = self.now, node is self.nodes[0]
        peer = Peer(node.id, node.disk.epoch, node.name, node.address.host, node.address.port)
        rng = Random(self.simulator.rng.getrandbits(64))
        meta = {FOUNDER: "1"} if founder else {}
        node.engine = Engine(peer, rng, self._tuning, now=now, meta=meta, kept=node.disk.kept())
        seeds = () if founder else (self.nodes[0].address,)
        self.simulator.start(node.address, node.engine, node.engine.start(seeds, now))

    def crash(self, node: Node) -> None:
        node.engine = None
        self.simulator.crash(node.address)

    def act(self, node: Node, do: Callable[[Engine, float], list[Any]]) -> None:
        self.simulator.act(node.address, do)

    def put(self, node: Node, task: str, phase: int, payload: bytes = b"{}") -> Entry:
        """As milld does: draft, commit, publish."""
        entry = node.core.draft(task, phase, payload)
        node.disk.write(entry)
        self.act(node, lambda engine, now: engine.publish(entry, now))
        return entry

    def partition(self, *groups: list[Node]) -> None:
        self.simulator.partition(*([node.address for node in group] for group in groups))

    # -- what is true -----------------------------------------------------------------------------------------------

    @property
    def up(self) -> list[Node]:
        return [node for node in self.nodes if node.engine is not None]

    def led_by_one(self) -> Node | None:
        """The node that all that are up hold for their leader, and that is full."""
        led = [node.core.led for node in self.up]
        heads = {None if it is None else it.leader for it in led}
        head = heads.pop() if len(heads) == 1 else None
        leader = None if head is None else self.by_id[head]
        full = any(it is not None and it.full for it in led)
        return leader if full and leader is not None and leader.engine is not None else None

    def all_alive(self) -> bool:
        return all(
            sum(member.state is MemberState.ALIVE for member in node.core.members.values()) == len(self.up)
            for node in self.up
        )

    def equal(self) -> bool:
        held = {(node.core.records.head_hash(), node.core.settings.hash()) for node in self.up}
        return len(held) == 1

    def all_know(self, task: str) -> bool:
        return all(node.core.records.lookup(task) is not None for node in self.up)

    def until(self, done: Callable[[], object], within: float, step_s: float = 0.05) -> float:
        """How long it took, looked at each 0.05 s; fails if it did not come about."""
        began = self.now
        while not done():
            assert self.now - began < within, f"not within {within:g} s\n" + "\n".join(
                f"{node.name} {node.core.led} partial={node.core.partial} {node.core.records.head_hash():x} "
                f"{node.core.settings.hash():x} {node.engine!r}"
                for node in self.up
            )
            self.simulator.run(step_s)
        return self.now - began

    def settle(self, within: float = 60.0) -> float:
        return self.until(
            lambda: (
                self.all_alive()
                and self.led_by_one()
                and self.equal()
                and not any(node.core.partial for node in self.up)
            ),
            within,
        )

    # -- what must hold ---------------------------------------------------------------------------------------------

    def _observe(self, host: Host, outcome: Any, now: float) -> None:
        node = self._at[host.address]
        if isinstance(outcome, Persist):
            if outcome.mandate < node.disk.mandate:
                raise Broken(f"{node.name} accepts {outcome.mandate} after {node.disk.mandate}")
        elif isinstance(outcome, KeepLog):
            for verdict in outcome.verdicts:
                held = node.disk.logs.get(outcome.owner, LogOnDisk()).verdicts
                if verdict.leader == node.id and verdict not in held:
                    self._check_verdict(node, verdict, now)
        elif isinstance(outcome, entries.Changed):
            self._check_task(node, outcome)
        elif isinstance(outcome, Led):
            self.led.append((now, node, outcome))
        elif isinstance(outcome, Kill):
            self.killed.append((node.id, outcome.task))
        elif isinstance(outcome, Surfaced):
            self.surfaced.append(outcome.entry)
        node.disk.keep(outcome, now)

    def _note_death(self, host: Host, outcome: Any, now: float) -> None:
        if not isinstance(outcome, effects.Changed) or outcome.new is None:
            return
        new, was_down = outcome.new, outcome.old is not None and outcome.old.state is MemberState.DOWN
        subject = self.by_id[new.id].engine
        if new.state is MemberState.DOWN and not was_down and subject and subject.me.epoch == new.peer.epoch:
            self.false_deaths.append((now, self._at[host.address], new))

    def _check_verdict(self, node: Node, verdict: Verdict, now: float) -> None:
        self.verdicts.append((now, node, verdict))
        standing = node.core.standing(now)
        if not (isinstance(standing, Full) and now - standing.since >= self._tuning.verdicts.lease_s):
            raise Broken(f"{node.name} condemns as {standing}")

    def _check_task(self, node: Node, changed: entries.Changed) -> None:
        """Once ended by its owner's word, a task shows nothing else, whatever comes of its owner."""
        before, after = changed.before, changed.after
        if before is not None and after is not None and before.terminal and not after.terminal:
            raise Broken(f"on {node.name} {after.entry.task} lives again")
