"""What each of twenty nodes sends with whole engines and nothing to tell: headers, and what sealing adds, are counted.

The short form measures a minute, ``MILL_LONG=1`` ten for each of five clusters. Figures with ``-s``.
"""

import os

import pytest

from mill.cluster import wire
from mill.cluster.entries import RUNNING
from mill.cluster.messages import Packet
from tests.cluster.engines import Engines

LONG = bool(os.environ.get("MILL_LONG"))
SIZE, MEASURE_S, SEEDS = 20, 600.0 if LONG else 60.0, range(1, 6 if LONG else 2)
LOAD = bytes(61)
"""As long as what a node with four images says of its load."""


def sealed(packet: Packet) -> int:
    """By stream it says the speaker too, twenty bytes of some hundreds."""
    return len(wire.encode(packet, names_speaker=False))


def rates(seed: int, loss: float) -> tuple[float, list[float]]:
    """kbit/s that the leader sends, and that the others do."""
    fleet = Engines(SIZE, seed, size_of=sealed)
    fleet.settle()
    for node in fleet.nodes:
        node.core.say_load(lambda: LOAD)
        fleet.put(node, f"task-of-{node.name}", RUNNING)
    fleet.until(fleet.equal, 60.0)
    fleet.simulator.link.loss = loss
    fleet.simulator.run(60.0)  # what was to be said of the joins is said
    before = {address: host.sent_bytes for address, host in fleet.simulator.hosts.items()}
    fleet.simulator.run(MEASURE_S)
    assert fleet.nodes[0].core.mandate.leader == fleet.nodes[0].id
    sent = [fleet.simulator.hosts[node.address].sent_bytes - before[node.address] for node in fleet.nodes]
    leader, *others = [size * 8 / MEASURE_S / 1000 for size in sent]
    return leader, others


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("loss", "leader_bound", "bound"), [(0.0, 16.0, 8.0), (0.3, 32.0, 32.0)])
def test_a_node_of_twenty_says_little_and_their_leader_not_much_more(
    loss: float, leader_bound: float, bound: float, seed: int
) -> None:
    leader, others = rates(seed, loss)
    print(
        f"\n{SIZE} nodes, {loss:.0%} loss: the leader sends {leader:.1f} kbit/s, others {sum(others) / len(others):.1f}, "
        f"at most {max(others):.1f}"
    )
    assert leader <= leader_bound
    assert max(others) <= bound
