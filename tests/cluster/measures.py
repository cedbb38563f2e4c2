"""How long a cluster of any size takes to know: of a crash, and of a rumour. The tests hold bounds against it, the report draws it."""

import math
from collections.abc import Iterator

from mill.cluster.values import MemberState
from tests.cluster.fleet import Fleet, Node

ROUND_S = 0.2
NEVER_S = 120.0


def quantile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


def detections(size: int, trials: int, seed: int, loss: float = 0.0) -> Iterator[float]:
    """Seconds from a crash until every survivor holds it for down. Each comes back before the next, without loss."""
    fleet = Fleet(size, seed)
    fleet.settle(300)
    fleet.simulator.run(60)
    for _ in range(trials):
        victim = fleet.simulator.rng.choice(fleet.nodes)
        fleet.simulator.link.loss = loss
        fleet.simulator.run(fleet.simulator.rng.random())
        yield detect(fleet, victim)
        fleet.simulator.link.loss = 0.0
        fleet.start(victim)
        fleet.settle()
        fleet.changes.clear()
        fleet.others.clear()


def detect(fleet: Fleet, victim: Node) -> float:
    fleet.crash(victim)
    fleet.changes.clear()

    def known() -> bool:
        views = [node.swim.members[victim.id].state for node in fleet.nodes if node.swim is not None]
        return all(state is MemberState.DOWN for state in views)

    began = fleet.simulator.now
    while not known():
        fleet.simulator.run(0.05)
        assert fleet.simulator.now - began < NEVER_S, "never found"
    return fleet.simulator.now - began


def disseminations(size: int, loss: float, rumours: int, seed: int) -> list[float]:
    """Seconds from a rumour's first word until a member heard it, of all pairs of the two; infinite if it did not.

    They settle without loss: of hundreds with it there is always one that is suspected for a moment. Then what is to be said of the
    joins is waited for, which goes before rumours and takes a minute and a half where a thousand join at once.
    """
    fleet = Fleet(size, seed)
    fleet.settle(300)
    fleet.simulator.run(20 + 0.13 * size)
    fleet.simulator.link.loss = loss
    fleet.simulator.run(10)
    told: dict[bytes, float] = {}
    for number in range(rumours):
        payload = number.to_bytes(4, "big") + bytes(60)
        teller = fleet.simulator.rng.choice(fleet.nodes)
        told[payload] = fleet.simulator.now
        fleet.broadcast(teller, f"rumour-{number}", payload)
        fleet.simulator.run(0.5)
        fleet.others.clear()
    fleet.simulator.run(30)
    delays = [when - told[payload] for payload, heard in fleet.heard.items() for when in heard.values()]
    return delays + [math.inf] * (rumours * (size - 1) - len(delays))
