"""Whole engines that live for hours while packets get lost: nobody who can be reached is condemned, and nobody else leads.

With ``MILL_LONG=1`` as many hours as are demanded, in runs of some hours each; always a few minutes. Figures with ``-s``.
"""

import os

import pytest

from mill.cluster.entries import ENDED, RUNNING
from mill.cluster.values import NodeId
from tests.cluster.engines import Engines

LONG = bool(os.environ.get("MILL_LONG"))
HOUR_S, STRETCH_S = 3600.0, 180.0

VERDICT_RUNS = {3: (40, 25.0), 20: (4, 5.0)} if LONG else {3: (1, 0.5), 20: (1, 0.05)}
"""By the number of nodes: how many runs, and the hours of each. In the long form 1000 h of 3 nodes, 20 h of 20."""
LEADER_HOURS = {3: 24.0, 20: 24.0} if LONG else {3: 0.5, 20: 0.05}


def live(size: int, seed: int, loss: float, hours: float) -> Engines:
    """They settle without loss, then live with it. At any time each has a task at stake; it ends after three minutes."""
    fleet = Engines(size, seed)
    fleet.settle()
    began = fleet.now
    fleet.simulator.link.loss = loss
    for stretch in range(round(hours * HOUR_S / STRETCH_S)):
        for node in fleet.nodes:
            fleet.put(node, f"{node.name}-{stretch}", RUNNING)
            if stretch:
                fleet.put(node, f"{node.name}-{stretch - 1}", ENDED)
        fleet.simulator.run(STRETCH_S)
    deaths = [node.name for _, node, _ in fleet.false_deaths]
    leaderless = [now for now, _, led in fleet.led if now > began and led.leader is None]
    print(
        f"\n{size} nodes, {loss:.0%} loss, {hours:.2f} h: {len(fleet.verdicts)} verdicts, {len(deaths)} false deaths, "
        f"{len(leaders(fleet, began))} other leaders, a node without one {len(leaderless)} times"
    )
    return fleet


def leaders(fleet: Engines, began: float) -> set[NodeId]:
    """Who was held for the leader by anybody since, but for the founder, who led at the beginning."""
    led = {it.leader for now, _, it in fleet.led if now > began and it.leader is not None}
    return led - {fleet.nodes[0].id}


@pytest.mark.parametrize(
    ("size", "seed", "hours"),
    [(size, seed, hours) for size, (runs, hours) in VERDICT_RUNS.items() for seed in range(runs)],
)
def test_nobody_who_can_be_reached_is_condemned_at_nearly_a_third_of_loss(
    size: int, seed: int, hours: float
) -> None:
    assert live(size, seed, 0.3, hours).verdicts == []


@pytest.mark.parametrize(("size", "hours"), LEADER_HOURS.items())
def test_a_tenth_of_loss_brings_no_other_leader(size: int, hours: float) -> None:
    fleet = live(size, 100 + size, 0.1, hours)
    assert {node.core.mandate for node in fleet.nodes} == {fleet.nodes[0].core.mandate}
    assert fleet.nodes[0].core.mandate.leader == fleet.nodes[0].id
    assert leaders(fleet, 60.0) == set()
    assert fleet.verdicts == []
