"""Who was cut off, or is new, gets what it missed in time: records by the thousand. Figures with ``-s``.

The short form misses two thousand records and joins twenty thousand; with ``MILL_LONG=1`` it is ten thousand and a hundred thousand.
"""

import os
import time
from itertools import islice

import pytest

from mill.cluster.entries import ENDED
from tests.cluster.engines import Engines, Node

LONG = bool(os.environ.get("MILL_LONG"))
MISSED, HELD = (10_000, 100_000) if LONG else (2_000, 20_000)
PAYLOAD = b"x" * 400
ALIVE_S, LEADER_S, RECORDS_S = 30.0, 5.0, 30.0
PAGE, PAGE_S = 100, 0.1


def put_quietly(fleet: Engines, node: Node, task: str) -> None:
    """As what came in bulk: nobody is told, all find it when they compare."""
    entry = node.core.draft(task, ENDED, PAYLOAD)
    node.disk.write(entry)
    fleet.act(node, lambda engine, now: engine.publish(entry, now, told=False))


@pytest.mark.parametrize("seed", range(5 if LONG else 1))
@pytest.mark.parametrize("size", [3, 20] if LONG else [3])
def test_who_was_cut_off_is_alive_led_and_up_to_date_soon_after(size: int, seed: int) -> None:
    """Each bound counts from the moment at which the network is whole; the leader's from when all are alive."""
    fleet = Engines(size, seed)
    fleet.settle()
    half = fleet.nodes[: size // 2]
    rest = fleet.nodes[size // 2 :]
    fleet.partition(half, rest)
    fleet.simulator.run(60.0)
    for number in range(MISSED):
        put_quietly(fleet, rest[number % len(rest)], f"task-{number}")
    fleet.until(lambda: all(len(node.core.records) == MISSED for node in rest), 60.0, 0.5)
    fleet.simulator.heal()
    healed = fleet.now
    alive_s = fleet.until(fleet.all_alive, ALIVE_S)
    led_s = fleet.until(fleet.led_by_one, LEADER_S)
    fleet.until(lambda: all(len(node.core.records) == MISSED for node in fleet.up), 2 * RECORDS_S, 0.5)
    took_s = fleet.now - healed
    print(
        f"\n{size} nodes: all alive after {alive_s:.1f} s, one leader {led_s:.1f} s later, {MISSED} missed records after {took_s:.1f} s"
    )
    assert took_s <= RECORDS_S
    fleet.settle()


def test_a_new_node_gets_every_record_there_is_and_a_first_page_at_once() -> None:
    fleet = Engines(3, 1)
    fleet.settle()
    for number in range(HELD):
        put_quietly(fleet, fleet.nodes[number % 3], f"task-{number}")
    copied_s = fleet.until(fleet.equal, 600.0, 0.5)
    began = time.process_time()
    joiner = fleet.add()
    took_s = fleet.until(lambda: len(joiner.core.records) == HELD, 600.0, 0.5)
    cpu_s = time.process_time() - began
    page_s = min(timed_page(joiner) for _ in range(3))
    print(
        f"\n{HELD} records: three nodes hold the same after {copied_s:.1f} s, a fourth {took_s:.1f} s after it began to join "
        f"({cpu_s:.0f} s of CPU for all four); a first page in {page_s * 1000:.1f} ms"
    )
    assert page_s <= PAGE_S
    fleet.settle()


def timed_page(node: Node) -> float:
    began = time.process_time()
    assert len(list(islice(node.core.records.tasks(), PAGE))) == PAGE
    return time.process_time() - began
