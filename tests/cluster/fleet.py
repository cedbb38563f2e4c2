"""Nodes that run `Swim` in the simulator, each with a disk, and an observer that holds what must be true at every step.

The rules: of a life that a node holds, nothing ever gets less (epoch, incarnation, state); and nobody holds a life, or an
incarnation of it, that its subject has not had.
"""

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import attrs

from mill.cluster.effects import Attached, Changed, News, Reborn
from mill.cluster.messages import Occasion
from mill.cluster.swim import Swim, nothing_attached
from mill.cluster.tuning import Tuning
from mill.cluster.values import Address, Member, MemberState, NodeId, Peer
from tests.cluster.simulator import Host, Link, Simulator

TUNING = Tuning()


class Broken(AssertionError):
    """One of the rules does not hold."""


@attrs.define(eq=False)
class Node:
    """A data directory at an address, and the process that uses it, if one runs."""

    id: NodeId
    address: Address
    epoch: int = 0
    swim: Swim | None = None
    crashed_at: float | None = None

    @property
    def up(self) -> bool:
        return self.swim is not None


class Fleet:
    """*size* nodes that joined by the first one, *swim* their core."""

    def __init__(
        self,
        size: int,
        seed: int,
        link: Link | None = None,
        *,
        swim: Callable[..., Swim] = Swim,
        tuning: Tuning = TUNING,
        attach: Callable[[Occasion], bytes] = nothing_attached,
        **options: Any,
    ) -> None:
        self.simulator = Simulator(seed, link, **options)
        self._swim = swim
        self._tuning = tuning
        self._attach = attach
        self.nodes: list[Node] = []
        self.by_id: dict[NodeId, Node] = {}
        self.changes: list[tuple[float, Node, Changed]] = []
        self.heard: dict[bytes, dict[NodeId, float]] = {}
        self.others: list[tuple[float, Node, Any]] = []
        self._said: dict[tuple[NodeId, int], int] = {}
        self._at: dict[Address, Node] = {}
        self.simulator.observers.append(self._observe)
        for _ in range(size):
            self.add()

    def add(self, address: Address | None = None) -> Node:
        """A new data directory, started."""
        number = len(self.nodes)
        where = address or Address(f"10.0.{number // 250}.{number % 250 + 1}", 4401)
        node = Node(NodeId(f"{self.simulator.rng.getrandbits(128):032x}"), where)
        self.nodes.append(node)
        self.by_id[node.id] = node
        self.start(node)
        return node

    def start(self, node: Node, *, seeds: tuple[Address, ...] | None = None, **options: Any) -> None:
        """A process more on this disk, whose epoch it raises first; it joins by the fleet's seeds if not told others."""
        now = self.simulator.now
        node.epoch += 1
        self._at[node.address] = node
        name = f"node-{self.nodes.index(node) + 1}"
        peer = Peer(node.id, node.epoch, name, node.address.host, node.address.port)
        rng = Random(self.simulator.rng.getrandbits(64))
        node.swim = self._swim(peer, rng, self._tuning, now=now, attach=self._attach, **options)
        node.crashed_at = None
        self.simulator.start(
            node.address, node.swim, node.swim.join(self.seeds if seeds is None else seeds, now)
        )

    @property
    def seeds(self) -> tuple[Address, ...]:
        return tuple(dict.fromkeys(node.address for node in self.nodes[:2]))

    def crash(self, node: Node) -> None:
        node.swim, node.crashed_at = None, self.simulator.now
        self.simulator.crash(node.address)

    def act(self, node: Node, do: Callable[[Swim, float], list[Any]]) -> None:
        self.simulator.act(node.address, do)

    def broadcast(self, node: Node, key: str, payload: bytes) -> None:
        self.act(node, lambda swim, now: swim.broadcast(key, payload, now))

    # -- what is true -----------------------------------------------------------------------------------------------

    def _observe(self, host: Host, effect: Any, now: float) -> None:
        node = self._at[host.address]
        if isinstance(effect, Changed):
            self._check(node, effect)
            self.changes.append((now, node, effect))
        elif isinstance(effect, News):
            self.heard.setdefault(effect.payload, {}).setdefault(node.id, now)
        elif not isinstance(effect, Attached):  # those come by the million
            if isinstance(effect, Reborn):
                node.epoch = effect.epoch
            self.others.append((now, node, effect))

    def _check(self, node: Node, changed: Changed) -> None:
        old, new = changed.old, changed.new
        if new is None:
            return
        if old is not None and order(new) < order(old):
            raise Broken(f"{node.address} takes back: {old} -> {new}")
        life = new.id, new.peer.epoch
        if new.id == node.id:
            self._said[life] = max(new.incarnation, self._said.get(life, 0))
        elif new.incarnation > self._said.get(life, -1):
            raise Broken(f"{node.address} holds what {new.id[:8]} never said: {new}")

    def views(self) -> Mapping[NodeId, Mapping[NodeId, Member]]:
        return {node.id: node.swim.members for node in self.nodes if node.swim is not None}

    def agreed(self) -> bool:
        """Whether every node that is up holds exactly those alive that are, in their present lives."""
        up = [node for node in self.nodes if node.swim is not None]
        for node in up:
            assert node.swim is not None
            members = node.swim.members
            for other in up:
                held = members.get(other.id)
                if held is None or held.state is not MemberState.ALIVE or held.peer.epoch != other.epoch:
                    return False
            if sum(member.state is MemberState.ALIVE for member in members.values()) != len(up):
                return False
        return True

    def settle(self, within: float = 60.0) -> float:
        """Run until all agree (looked at each 0.1 s), and how long that took."""
        began = self.simulator.now
        while self.simulator.now - began < within:
            if self.agreed():
                return self.simulator.now - began
            self.simulator.run(0.1)
        assert self.agreed(), "\n".join(f"{node.address} {node.swim!r}" for node in self.nodes if node.up)
        return within

    def false_deaths(self, since: float = 0.0) -> list[tuple[float, Node, Member]]:
        """Members that were held for dead in a life that they were leading, each time by each who did."""
        return [
            (now, node, changed.new)
            for now, node, changed in self.changes
            if now >= since
            and changed.new is not None
            and changed.new.state is MemberState.DOWN
            and (changed.old is None or changed.old.state is not MemberState.DOWN)
            and self.by_id[changed.new.id].up
            and self.by_id[changed.new.id].epoch == changed.new.peer.epoch
        ]


def order(member: Member) -> tuple[int, int, int]:
    return member.peer.epoch, member.incarnation, member.state
