"""What membership owes its users, in figures: deaths that are none, how soon a crash is known, rumours, heals, bandwidth.

Each in a short form always, and in the long form with ``MILL_LONG=1``; the figures are printed (``pytest -s``). The bounds
are those of the design; where memberlist has a figure of its own, it stands beside.
"""

import os
import resource
import subprocess
import sys

import pytest

from mill.cluster import wire
from mill.cluster.values import MemberState, NodeId
from tests.cluster.fleet import Fleet
from tests.cluster.measures import ROUND_S, detections, disseminations, quantile
from tests.cluster.simulator import Link

LONG = bool(os.environ.get("MILL_LONG"))
HOUR_S = 3600.0

ATTACHMENT = bytes(40)
"""As much as the other cores put on each ping and ack: heads, load, the leader's lease."""


# -- deaths that are none -------------------------------------------------------------------------------------------

HOURS, RUNS = (
    ({3: 25.0, 5: 10.0, 20: 2.0}, {3: 4, 5: 10, 20: 50})
    if LONG
    else ({3: 0.5, 5: 0.3, 20: 0.05}, {3: 1, 5: 1, 20: 1})
)
"""Simulated hours of one run by the number of nodes, and how many runs: in the long form they make 100 hours each."""
ALLOWED_PER_HOUR = 0.2
HEAL_S = 30.0


def live(size: int, loss: float, seed: int) -> tuple[int, float]:
    """How many were held for dead falsely (by whomever), and the longest time until one who did so knew better."""
    fleet = Fleet(size, seed, Link(loss=loss))
    fleet.settle()
    end = fleet.simulator.now + HOURS[size] * HOUR_S
    since: dict[tuple[NodeId, NodeId], float] = {}
    deaths, slowest_s = 0, 0.0
    while fleet.simulator.now < end or since:
        fleet.changes.clear()
        fleet.others.clear()
        fleet.simulator.run(10.0)
        deaths += len({victim.id for _, _, victim in fleet.false_deaths()})
        for now, node, change in fleet.changes:
            assert change.new is not None
            pair = node.id, change.new.id
            if change.new.state is MemberState.DOWN:
                since.setdefault(pair, now)
            elif pair in since:
                slowest_s = max(slowest_s, now - since.pop(pair))
        assert not since or fleet.simulator.now - min(since.values()) < 2 * HEAL_S, "never healed"
    return deaths, slowest_s


def deaths_of(size: int, loss: float) -> tuple[int, float, float]:
    """Of all runs together: false deaths, the longest time until one was put right, the hours."""
    deaths, slowest_s, hours = 0, 0.0, 0.0
    for seed in range(RUNS[size]):
        more, healed_s = live(size, loss, seed)
        deaths, slowest_s, hours = deaths + more, max(slowest_s, healed_s), hours + HOURS[size]
        print(
            f"\n{size} nodes, {loss:.0%} loss: {deaths} false deaths in {hours:g} h, "
            f"healed after {slowest_s:.1f} s at most",
            end="",
        )
    return deaths, slowest_s, hours


@pytest.mark.parametrize("size", RUNS)
def test_nobody_is_held_for_dead_at_a_tenth_of_loss(size: int) -> None:
    deaths, _, _ = deaths_of(size, 0.1)
    assert deaths == 0


@pytest.mark.parametrize("size", RUNS)
def test_at_nearly_a_third_of_loss_a_false_death_is_rare_and_heals(size: int) -> None:
    """memberlist's rules: 46 an hour with 5 nodes (modelled). One is allowed to hours that are too few to tell."""
    deaths, slowest_s, hours = deaths_of(size, 0.3)
    assert deaths <= max(1, ALLOWED_PER_HOUR * hours)
    assert slowest_s <= HEAL_S


# -- crashes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "bound_s", "trials"), [(20, 10.0, (60, 1000)), (100, 15.0, (8, 200))])
def test_a_crash_is_known_by_all_in_time(size: int, bound_s: float, trials: tuple[int, int]) -> None:
    """memberlist's rules: 9.9 s for 20 nodes, 13.8 s for 100 (modelled)."""
    found = list(detections(size, trials[LONG], seed=size))
    median, p99 = quantile(found, 0.5), quantile(found, 0.99)
    print(
        f"\n{size} nodes: a crash is known by all after {median:.1f} s, p99 {p99:.1f} s, longest {max(found):.1f} s"
    )
    assert p99 <= bound_s


# -- rumours --------------------------------------------------------------------------------------------------------


RUMOURS = (
    [(20, 2000, 0.0, 12), (100, 300, 0.0, 12), (100, 300, 0.3, 12), (1000, 10, 0.3, 16)]
    if LONG
    else [(20, 100, 0.0, 12), (100, 20, 0.0, 12), (100, 6, 0.3, 12)]
)


@pytest.mark.parametrize(("size", "rumours", "loss", "bound"), RUMOURS)
def test_a_rumour_reaches_all_but_one_in_ten_thousand_within_a_dozen_rounds(
    size: int, rumours: int, loss: float, bound: int
) -> None:
    """Serf, simulated: 1.7 s for 30 nodes, 3.07 s for 1000 at 30 % loss; a round takes 0.2 s."""
    delays = disseminations(size, loss, rumours, seed=7)
    reached = sum(delay <= bound * ROUND_S for delay in delays) / len(delays)
    rounds = quantile(delays, 0.9999) / ROUND_S
    print(f"\n{size} nodes, {loss:.0%} loss: {reached:.4%} within {bound} rounds, 99.99 % after {rounds:.1f}")
    assert reached >= 0.9999


# -- heals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [3, 20])
@pytest.mark.parametrize("shape", ["one", "halves", "thirds", "one way"])
def test_after_a_partition_all_are_alive_again_within_half_a_minute(size: int, shape: str) -> None:
    fleet = Fleet(size, 3)
    fleet.settle()
    addresses = [node.address for node in fleet.nodes]
    if shape == "one":
        fleet.simulator.partition(addresses[:1])
    elif shape == "halves":
        fleet.simulator.partition(addresses[::2], addresses[1::2])
    elif shape == "thirds":
        fleet.simulator.partition(addresses[::3], addresses[1::3], addresses[2::3])
    else:
        for other in addresses[1:]:
            fleet.simulator.cut(addresses[0], other)
    fleet.simulator.run(120)
    assert not fleet.agreed()
    assert any(change.new and change.new.state is MemberState.DOWN for _, _, change in fleet.changes)
    fleet.simulator.heal()
    healed_s = fleet.settle()
    print(f"\n{size} nodes, {shape}: all alive after {healed_s:.1f} s")
    assert healed_s <= HEAL_S


# -- what it costs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("loss", "bound"), [(0.0, 8.0), (0.3, 32.0)])
def test_membership_of_twenty_takes_few_kilobits(loss: float, bound: float) -> None:
    seconds = 600 if LONG else 60
    fleet = Fleet(
        20,
        5,
        Link(loss=loss),
        attach=lambda _: ATTACHMENT,
        size_of=lambda packet: len(wire.encode(packet, names_speaker=False)),
    )
    fleet.settle()
    fleet.simulator.run(30)  # what was to be said of the joins is said
    for host in fleet.simulator.hosts.values():
        host.sent_bytes = 0
    fleet.simulator.run(seconds)
    rates = [host.sent_bytes * 8 / seconds / 1000 for host in fleet.simulator.hosts.values()]
    print(
        f"\n20 nodes, {loss:.0%} loss: {sum(rates) / len(rates):.1f} kbit/s sent per node, at most {max(rates):.1f}"
    )
    assert max(rates) <= bound


# -- scale, and the same again --------------------------------------------------------------------------------------


SCALE, SCALE_S, SCALE_CPU_S = (1000, 600.0, 300.0) if LONG else (150, 60.0, 30.0)


def test_a_large_cluster_lives_within_a_bound_of_cpu() -> None:
    """They join all at once, live at 5 % loss, and lose ten to crashes; in the long form a thousand for ten minutes."""
    began_s = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    fleet = Fleet(SCALE, 11, Link(loss=0.05))
    joined_s = fleet.settle(120)
    for node in fleet.nodes[100:110]:
        fleet.crash(node)
    fleet.changes.clear()
    fleet.simulator.run(SCALE_S - fleet.simulator.now)
    took_s = resource.getrusage(resource.RUSAGE_SELF).ru_utime - began_s
    print(
        f"\n{SCALE} nodes: joined after {joined_s:.1f} s; {fleet.simulator.events} events in {took_s:.0f} s of CPU"
    )
    assert fleet.agreed()
    assert fleet.false_deaths() == []
    assert took_s <= SCALE_CPU_S


def trace_of(seed: int) -> str:
    fleet = Fleet(7, seed, Link(loss=0.2, duplicates=0.05), trace=True)
    fleet.simulator.run(20)
    fleet.crash(fleet.nodes[3])
    fleet.simulator.run(40)
    return fleet.simulator.trace


def test_the_same_seed_gives_the_same_trace_in_another_process() -> None:
    code = "from tests.cluster.test_membership import trace_of; print(trace_of(1))"
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    other = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment
    )
    assert trace_of(1) == other.stdout.strip()
    assert trace_of(1) != trace_of(2)
