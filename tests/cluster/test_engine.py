"""Whole engines together: records reach all, leaders are replaced, the dead are condemned, halves heal, joiners catch up.

Short forms always, longer ones with ``MILL_LONG=1``; the figures are printed (``pytest -s``). The bounds are those of the design.
"""

import os
import subprocess
import sys
from functools import partial
from random import Random

import pytest

from mill.cluster import wire
from mill.cluster.engine import Tuning
from mill.cluster.entries import ENDED, RUNNING
from mill.cluster.messages import Mail, Packet
from mill.cluster.replication import NotReady
from mill.cluster.replication import Tuning as Replication
from tests.cluster.engines import Engines, Node
from tests.cluster.simulator import Link

LONG = bool(os.environ.get("MILL_LONG"))
ROUND_S = 0.2
SEEDS = range(20 if LONG else 2)
PAYLOAD = b"x" * 400


@pytest.mark.parametrize("size", [3, 5, 20] if LONG else [3, 5])
def test_a_record_put_on_one_node_is_on_all_within_a_dozen_rounds(size: int) -> None:
    fleet = Engines(size, 1)
    took_s = fleet.settle()
    slowest = 0.0
    for number in range(10):
        task = f"task-{number}"
        fleet.put(fleet.nodes[number % size], task, RUNNING, PAYLOAD)
        slowest = max(slowest, fleet.until(partial(fleet.all_know, task), 10.0))
    print(f"\n{size} nodes: one cluster after {took_s:.1f} s, a record on all after {slowest:.2f} s at most")
    assert slowest <= 12 * ROUND_S


@pytest.mark.parametrize("seed", SEEDS)
def test_a_leader_that_crashes_is_replaced_within_ten_seconds(seed: int) -> None:
    fleet = Engines(3, seed)
    fleet.settle()
    leader = fleet.led_by_one()
    assert leader is fleet.nodes[0]
    fleet.crash(leader)
    took_s = fleet.until(fleet.led_by_one, 10.0)
    print(f"\na new leader after {took_s:.1f} s")
    fleet.start(leader)
    fleet.settle()
    assert fleet.led_by_one() is not leader, "who comes back goes to the end of the line"


@pytest.mark.parametrize("seed", SEEDS)
def test_the_tasks_of_a_dead_node_are_condemned_and_die_when_it_returns(seed: int) -> None:
    fleet = Engines(3, seed)
    fleet.settle()
    dead = fleet.nodes[2]
    fleet.put(dead, "runs", RUNNING)
    fleet.put(dead, "ended", RUNNING)
    fleet.put(dead, "ended", ENDED)
    fleet.until(fleet.equal, 5.0)
    fleet.crash(dead)
    took_s = fleet.until(lambda: all(n.core.records.lookup("runs").lost for n in fleet.up), 40.0)  # type: ignore[union-attr]
    print(f"\nlost after {took_s:.1f} s")
    assert 15.0 <= took_s <= 22.0
    assert [node for _, node, _ in fleet.verdicts] == [fleet.nodes[0]]
    assert not any(n.core.records.lookup("ended").lost for n in fleet.up)  # type: ignore[union-attr]
    fleet.start(dead)
    fleet.settle()
    assert fleet.killed == [(dead.id, "runs")]


def test_a_minority_condemns_nobody_however_long_it_lasts() -> None:
    fleet = Engines(3, 1)
    fleet.settle()
    for number, node in enumerate(fleet.nodes):
        fleet.put(node, f"task-{number}", RUNNING)
    fleet.until(fleet.equal, 5.0)
    fleet.crash(fleet.nodes[0])
    fleet.crash(fleet.nodes[1])
    fleet.simulator.run(600.0 if LONG else 90.0)
    assert fleet.verdicts == []
    assert fleet.nodes[2].core.partial


def test_who_says_that_it_is_away_is_not_condemned() -> None:
    fleet = Engines(3, 1)
    fleet.settle()
    gone = fleet.nodes[0]
    fleet.put(gone, "runs", RUNNING)
    fleet.until(fleet.equal, 5.0)
    fleet.act(gone, lambda engine, now: engine.say_away(now, 600.0))
    fleet.simulator.run(1.0)
    fleet.crash(gone)
    took_s = fleet.until(fleet.led_by_one, 5.0)
    print(f"\nhanded over in {took_s:.1f} s after the second of its leaving")
    fleet.simulator.run(60.0)
    assert fleet.verdicts == []
    fleet.start(gone)
    fleet.settle()
    view = gone.core.records.lookup("runs")
    assert view is not None
    assert not view.terminal
    assert fleet.killed == []


@pytest.mark.parametrize("seed", SEEDS)
def test_halves_that_heal_hold_the_same_within_thirty_seconds_under_one_leader(seed: int) -> None:
    fleet = Engines(3, seed)
    fleet.settle()
    for number, node in enumerate(fleet.nodes):
        fleet.put(node, f"before-{number}", RUNNING)
    fleet.until(fleet.equal, 5.0)
    alone = fleet.nodes[seed % 3]
    rest = [node for node in fleet.nodes if node is not alone]
    fleet.partition([alone], rest)
    fleet.simulator.run(8.0)
    for node in fleet.nodes:
        for number in range(100):
            fleet.put(node, f"{node.name}-{number}", RUNNING, PAYLOAD)
    fleet.act(rest[0], lambda engine, now: engine.set("template/a", b"majority", 1000.0, now))
    fleet.act(alone, lambda engine, now: engine.set("template/a", b"minority", 1001.0, now))
    fleet.until(lambda: alone.core.partial, 4.5)  # 12.5 s: before anybody may say that its tasks are lost
    fleet.simulator.run(35.0)
    assert alone.core.partial
    assert not rest[0].core.partial
    assert {node.id for _, node, _ in fleet.verdicts} <= {node.id for node in rest}
    fleet.simulator.heal()
    took_s = fleet.settle(30.0)
    print(f"\none cluster after {took_s:.1f} s, {len(fleet.killed)} condemned tasks killed")
    assert sorted(task for _, task in fleet.killed) == sorted(
        [f"before-{seed % 3}"]  # what began behind the partition nobody had heard of
    )
    held = {node.core.settings.get("template/a") for node in fleet.nodes}
    assert [setting.value for setting in held if setting is not None] == [b"minority"]


def test_a_joiner_gets_a_thousand_records() -> None:
    fleet = Engines(2, 1)
    fleet.settle()
    for number in range(1000):
        fleet.put(fleet.nodes[number % 2], f"task-{number}", ENDED, PAYLOAD)
    fleet.until(fleet.equal, 30.0)
    joiner = fleet.add()
    took_s = fleet.until(lambda: len(joiner.core.records) == 1000, 30.0)
    print(f"\na thousand records after {took_s:.2f} s")
    fleet.settle()


def test_a_joiner_copies_each_log_from_one_node_alone() -> None:
    fleet = filled(3, 3000, Tuning())
    fleet.simulator.link = Link(delay_s=0.05)
    before = sum(host.sent_bytes for host in fleet.simulator.hosts.values())
    joiner = fleet.add()
    fleet.until(lambda: len(joiner.core.records) == 3000, 60.0)
    sent = sum(host.sent_bytes for host in fleet.simulator.hosts.values()) - before
    copies = sent / (3000 * len(PAYLOAD))
    print(f"\nas many bytes as {copies:.2f} copies of the payloads take")
    assert copies < 1.5


@pytest.mark.parametrize("answer_s", [0.01, 0.3])
def test_a_joiner_whose_answers_all_come_late_gets_there_all_the_same(answer_s: float) -> None:
    fleet = filled(2, 3000, Tuning(replication=Replication(answer_s=answer_s, letter_bytes=65536)))
    fleet.simulator.link = Link(delay_s=0.2)
    joiner = fleet.add()
    took_s = fleet.until(lambda: len(joiner.core.records) == 3000, 60.0)
    print(f"\nafter {took_s:.1f} s")


def letters_bytes(packet: Packet) -> int:
    return len(wire.encode(packet)) if isinstance(packet.kind, Mail) else 0


def filled(size: int, records: int, tuning: Tuning) -> Engines:
    fleet = Engines(size, 1, tuning=tuning, size_of=letters_bytes)
    fleet.settle()
    for number in range(records):
        fleet.put(fleet.nodes[number % size], f"task-{number}", ENDED, PAYLOAD)
    fleet.until(fleet.equal, 60.0)
    return fleet


@pytest.mark.parametrize("seed", SEEDS)
def test_a_third_of_loss_brings_no_verdict_and_no_other_leader(seed: int) -> None:
    fleet = Engines(3, seed)
    fleet.settle()
    for number, node in enumerate(fleet.nodes):
        fleet.put(node, f"task-{number}", RUNNING)
    fleet.until(fleet.equal, 5.0)
    before = {node.core.mandate for node in fleet.nodes}
    fleet.simulator.link.loss = 0.3
    fleet.simulator.run(3600.0 if LONG else 240.0)
    assert fleet.verdicts == []
    assert {node.core.mandate for node in fleet.nodes} == before


def test_a_disk_that_was_rolled_back_hears_of_its_own_tasks_before_it_writes() -> None:
    fleet = Engines(3, 1)
    fleet.settle()
    node = fleet.nodes[2]
    fleet.put(node, "early", RUNNING)
    old = node.disk.kept()
    epoch = node.disk.epoch
    fleet.crash(node)
    fleet.start(node)
    with pytest.raises(NotReady):
        node.core.draft("too-soon", RUNNING, b"")
    fleet.until(lambda: node.core.ready, 10.0)
    fleet.put(node, "late", RUNNING)
    fleet.until(fleet.equal, 10.0)
    fleet.crash(node)
    node.disk = type(node.disk)(epoch, old.mandate, members={m.id: m for m in old.members})
    fleet.start(node)
    fleet.until(lambda: node.core.ready, 10.0)
    assert node.core.records.lookup("late") is not None
    assert "late" in {entry.task for entry in fleet.surfaced}
    fleet.put(node, "late", ENDED)
    fleet.settle()
    assert all(n.core.records.lookup("late").entry.terminal for n in fleet.nodes)  # type: ignore[union-attr]


def disturb(fleet: Engines, rng: Random) -> None:
    """One thing that the world does: a crash, a restart, a partition, a heal, a stop of up to 25 s, or nothing."""
    node = rng.choice(fleet.nodes)
    simulator = fleet.simulator
    match rng.randrange(8):
        case 0 if node.engine is not None:
            fleet.crash(node)
        case 1 | 2 if node.engine is None:
            fleet.start(node)
        case 3:
            halves: list[list[Node]] = [[], []]
            for each in fleet.nodes:
                halves[rng.randrange(2)].append(each)
            fleet.partition(*halves)
        case 4:
            simulator.heal()
        case 5 if node.engine is not None:
            simulator.pause(node.address)
            simulator.run(rng.choice([1, 5, 25]))
            simulator.resume(node.address)


def work(fleet: Engines, rng: Random, number: int) -> None:
    """Every node that may begins a task, and perhaps ends one."""
    for node in fleet.up:
        if node.core.ready:
            fleet.put(node, f"{node.name}-{number}", RUNNING)
            live = [view.entry for view in node.core.records.tasks(node.id) if not view.entry.terminal]
            if rng.random() < 0.5:
                fleet.put(node, rng.choice(live).task, ENDED)


@pytest.mark.parametrize("seed", range(100 if LONG else 2))
def test_whatever_happens_the_rules_hold_and_in_the_end_all_is_one(seed: int) -> None:
    rng = Random(seed)
    fleet = Engines(rng.choice([3, 4, 5]), seed, Link(loss=rng.choice([0.0, 0.1, 0.3])))
    fleet.settle()
    for number in range(40 if LONG else 15):
        fleet.simulator.run(rng.random() * 12)
        disturb(fleet, rng)
        work(fleet, rng, number)
    fleet.simulator.heal()
    fleet.simulator.link.loss = 0.0
    for node in fleet.nodes:
        if node.engine is None:
            fleet.start(node)
    took_s = fleet.settle(35.0)
    print(f"\n{len(fleet.nodes)} nodes: one after {took_s:.1f} s, {len(fleet.verdicts)} verdicts")


def trace(seed: int) -> str:
    fleet = Engines(3, seed, Link(loss=0.1), trace=True)
    fleet.simulator.run(10.0)
    fleet.put(fleet.nodes[1], "task", RUNNING, PAYLOAD)
    fleet.crash(fleet.nodes[0])
    fleet.simulator.run(20.0)
    return fleet.simulator.trace


def test_the_same_seed_gives_the_same_trace_in_another_process() -> None:
    here = trace(7)
    program = "from tests.cluster.test_engine import trace; print(trace(7))"
    other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == here
    assert trace(8) != here
