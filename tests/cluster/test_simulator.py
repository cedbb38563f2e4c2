"""The simulator does to packets what it was told, and drives anything that is a core."""

import time
from itertools import pairwise
from typing import Any

import attrs
import pytest

from mill.cluster.effects import Send, SendStream
from mill.cluster.values import Address
from tests.cluster.fleet import Fleet
from tests.cluster.simulator import DATAGRAM, STREAM, Link, Simulator

A, B = Address("10.0.0.1", 1), Address("10.0.0.2", 1)


@attrs.define(eq=False)
class Metronome:
    """Sends its count each second, and keeps what it gets with the time at which it came."""

    to: Address
    way: type = Send
    count: int = 0
    got: list[tuple[float, Any]] = attrs.field(factory=list)
    next_deadline: float = 0.0

    def tick(self, now: float) -> list[Any]:
        self.next_deadline = now + 1.0
        self.count += 1
        return [self.way(self.to, self.count)]

    def receive(self, message: Any, source: Address, now: float) -> list[Any]:
        assert source == self.to
        self.got.append((now, message))
        return []


def pair(link: Link | None = None, way: type = Send) -> tuple[Simulator, Metronome, Metronome]:
    simulator = Simulator(1, link)
    one, other = Metronome(B, way), Metronome(A, way)
    simulator.start(A, one)
    simulator.start(B, other)
    return simulator, one, other


def test_so_many_are_lost_doubled_and_late_as_was_said() -> None:
    simulator, _, other = pair(Link(loss=0.3, duplicates=0.1, delay_s=0.4, jitter_s=0.5))
    simulator.run(5000)
    numbers = [number for _, number in other.got]
    assert 0.68 < len(set(numbers)) / 5000 < 0.72
    assert 0.08 < len(numbers) / len(set(numbers)) - 1 < 0.12
    assert sum(later < earlier for earlier, later in pairwise(numbers)) > 100
    assert min(when - (number - 1) for when, number in other.got) >= 0.4


def test_a_cut_takes_one_way_a_partition_both_and_each_way_by_itself() -> None:
    simulator, one, other = pair()
    simulator.cut(A, B, DATAGRAM)
    simulator.run(9.5)
    assert (len(one.got), len(other.got)) == (10, 0)
    simulator.heal()
    simulator.partition([A])
    simulator.run(10)
    assert (len(one.got), len(other.got)) == (10, 0)
    simulator.heal()
    simulator.cut(A, B, STREAM)
    simulator.run(10)
    assert (len(one.got), len(other.got)) == (20, 10)


def test_a_stream_needs_both_ways_and_waits_for_what_was_lost_but_not_for_ever() -> None:
    simulator, one, other = pair(Link(loss=0.3), SendStream)
    simulator.run(1000)
    late = sum(when - (number - 1) > 1.0 for when, number in other.got)
    assert 900 < len(other.got) < 970
    assert 400 < late < 600
    simulator.cut(A, B, STREAM)
    simulator.run(20)
    before = len(one.got)
    simulator.run(100)
    assert len(one.got) == before


def test_who_is_stopped_reads_later_and_who_crashed_never() -> None:
    simulator, one, other = pair()
    simulator.run(4.5)
    simulator.pause(B)
    simulator.run(10)
    assert (len(other.got), other.count) == (5, 5)
    simulator.resume(B)
    assert len(other.got) == 15
    simulator.run(1)
    assert other.count == 7
    simulator.crash(B)
    simulator.run(10)
    assert len(one.got) == 7


@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_it_is_fast_enough_for_hours(loss: float) -> None:
    """Printed, and bounded only so that a slip by an order of magnitude shows: machines differ."""
    fleet = Fleet(20, 1, Link(loss=loss))
    fleet.settle()
    before, began = fleet.simulator.events, time.process_time()
    fleet.simulator.run(60)
    rate = (fleet.simulator.events - before) / (time.process_time() - began)
    print(f"\n20 nodes, {loss:.0%} loss: {rate:,.0f} events/s")
    assert rate > 10_000
