"""What the world does to a fleet, by lot: crashes with each kind of disk, pauses, cuts, loss; in the end it all mends."""

from collections.abc import Callable
from random import Random

from mill.cluster.values import MemberState
from tests.cluster.fleet import Fleet, Node
from tests.cluster.simulator import DATAGRAM, STREAM

LOSSES = (0.0, 0.0, 0.05, 0.3)
SETTLED_S = 90.0


class Chaos:
    """*steps* acts on *fleet*, then peace; the fleet's rules hold at every step, and all agree at the end."""

    def __init__(self, fleet: Fleet, seed: int) -> None:
        self._fleet = fleet
        self._lot = Random(seed)
        self._acts: list[Callable[[], None]] = [
            self.crash, self.crash, self.crash, self.restart, self.restart, self.restart_set_back, self.replace,
            self.bounce, self.pause, self.resume, self.halve, self.isolate, self.cut_one_way, self.heal, self.leave,
            self.say_away, self.say, self.lose, self.gossip,
        ]  # fmt: skip

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self._lot.choice(self._acts)()
            self._fleet.simulator.run(self._lot.random() ** 2 * 20)
        self.make_peace()
        self._fleet.settle(SETTLED_S)

    def make_peace(self) -> None:
        """Nobody can be found by those who begin anew unless the seeds run."""
        self.heal()
        self._fleet.simulator.link.loss = 0.0
        for seed in self._fleet.seeds:
            node = next(node for node in reversed(self._fleet.nodes) if node.address == seed)
            if not node.up:
                self._fleet.start(node)
        for node in self._fleet.nodes:
            if node.up:
                self._fleet.simulator.resume(node.address)
                if node.swim is not None and not node.swim.members[node.id].state.reachable:
                    self._fleet.act(node, lambda swim, now: swim.say(now))

    def _one(self, *, up: bool) -> Node | None:
        nodes = [node for node in self._fleet.nodes if node.up is up and not self._is_replaced(node)]
        return self._lot.choice(nodes) if nodes else None

    def _is_replaced(self, node: Node) -> bool:
        return (
            next(other for other in reversed(self._fleet.nodes) if other.address == node.address) is not node
        )

    def crash(self) -> None:
        node = self._one(up=True)
        if node and sum(other.up for other in self._fleet.nodes) > 1:
            self._fleet.crash(node)

    def restart(self) -> None:
        if node := self._one(up=False):
            self._fleet.start(node)

    def bounce(self) -> None:
        """Back at once, before anybody has noticed."""
        if node := self._one(up=True):
            self._fleet.crash(node)
            self._fleet.start(node)

    def restart_set_back(self) -> None:
        """From a copy of its disk that is some starts old."""
        if node := self._one(up=False):
            node.epoch = max(0, node.epoch - self._lot.randrange(1, 4))
            self._fleet.start(node)

    def replace(self) -> None:
        """Its disk is lost: somebody else at the same address."""
        if node := self._one(up=False):
            self._fleet.add(node.address)

    def pause(self) -> None:
        if node := self._one(up=True):
            self._fleet.simulator.pause(node.address)

    def resume(self) -> None:
        for node in self._fleet.nodes:
            if node.up:
                self._fleet.simulator.resume(node.address)

    def halve(self) -> None:
        addresses = [node.address for node in self._fleet.nodes]
        self._lot.shuffle(addresses)
        self._fleet.simulator.partition(addresses[::2], addresses[1::2])

    def isolate(self) -> None:
        if node := self._one(up=True):
            self._fleet.simulator.partition([node.address])

    def cut_one_way(self) -> None:
        one, other = self._lot.choice(self._fleet.nodes), self._lot.choice(self._fleet.nodes)
        self._fleet.simulator.cut(one.address, other.address, self._lot.choice((DATAGRAM, STREAM)))

    def heal(self) -> None:
        self._fleet.simulator.heal()

    def leave(self) -> None:
        self._go(lambda node: self._fleet.act(node, lambda swim, now: swim.leave(now)))

    def say_away(self) -> None:
        self._go(lambda node: self._fleet.act(node, lambda swim, now: swim.say_away(now, 20.0)))

    def _go(self, how: Callable[[Node], None]) -> None:
        node = self._one(up=True)
        if (
            node
            and not self._fleet.simulator.hosts[node.address].paused
            and sum(n.up for n in self._fleet.nodes) > 1
        ):
            how(node)
            if self._lot.random() < 0.7:
                self._fleet.simulator.run(1.0)
                self._fleet.crash(node)

    def say(self) -> None:
        node = self._one(up=True)
        if node and node.swim and node.swim.members[node.id].state is MemberState.ALIVE:
            word = str(self._lot.random())
            self._fleet.act(node, lambda swim, now: swim.say(now, meta={"word": word}))

    def lose(self) -> None:
        self._fleet.simulator.link.loss = self._lot.choice(LOSSES)

    def gossip(self) -> None:
        if node := self._one(up=True):
            word = self._lot.randbytes(self._lot.choice((8, 2000)))
            self._fleet.act(node, lambda swim, now: swim.broadcast("word", word, now))
