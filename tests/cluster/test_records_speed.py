"""A hundred thousand records cost no more to work with than a thousand, and a bounded amount of memory. Figures with ``-s``."""

import gc
import tracemalloc
from collections.abc import Callable
from time import process_time

from mill.cluster.entries import ENDED, RUNNING, START, Want
from mill.cluster.records import Records
from tests.cluster.fabric import node_id

A, B = node_id(1), node_id(2)
MANY, FEW, SAMPLE = 100_000, 1_000, 2_000
PAYLOAD = b"x" * 600
LIMIT_BYTES = 64 * 1024
FRAME_BYTES = 800
"""What a record may take beside its payload."""


def filled(count: int) -> Records:
    records = Records(A, 1)
    for number in range(count):
        records.put(f"coop-agent-{number:05}", ENDED, PAYLOAD)
    return records


def copied(records: Records) -> Records:
    other, want = Records(B, 1), [Want(A, START, START)]
    while want:
        _, more = other.absorb(records.delta(want.pop(), LIMIT_BYTES))
        want += [more] if more is not None else []
    return other


def each_us(work: Callable[[int], object]) -> float:
    """CPU time of one call; the best of three rounds, for the machine is never quiet."""
    rounds = []
    gc.disable()
    try:
        for turn in range(3):
            begin = process_time()
            for number in range(SAMPLE):
                work(turn * SAMPLE + number)
            rounds.append((process_time() - begin) / SAMPLE * 1e6)
    finally:
        gc.enable()
    return min(rounds)


def costs(records: Records, other: Records) -> dict[str, float]:
    def put(number: int) -> None:
        records.put(f"t-{number}", RUNNING, PAYLOAD)

    def replace(number: int) -> None:
        records.put(f"t-{number}", ENDED, PAYLOAD)

    found = {"put": each_us(put), "put again": each_us(replace)}
    entries = [view.entry for view in records.tasks() if view.entry.task.startswith("t-")]
    found["merge"] = each_us(lambda number: other.merge([entries[number]]))
    found["merge, known"] = each_us(lambda number: other.merge([entries[number]]))
    found["merge and hash"] = each_us(lambda number: (other.merge([entries[number]]), other.head_hash()))
    found["lookup"] = each_us(lambda number: records.lookup(f"t-{number}"))
    return found


def test_a_record_more_costs_the_same_whatever_there_is() -> None:
    few, many = filled(FEW), filled(MANY)
    begin = process_time()
    copy = copied(many)
    print(f"\ncopied in chunks of {LIMIT_BYTES} B: {MANY / (process_time() - begin):,.0f} records/s")
    assert copy.head_hash() == many.head_hash()
    small, large = costs(few, copied(few)), costs(many, copy)
    for name, cost in large.items():
        print(f"{name:>15}: {small[name]:6.1f} us with {FEW:,} records, {cost:6.1f} us with {MANY:,}")
    assert all(cost <= 3 * small[name] + 5 for name, cost in large.items())
    assert max(large.values()) <= 250


def test_memory_is_bounded_by_what_is_there_not_by_what_was() -> None:
    records, count = Records(A, 1), 2_000

    def put_all(turn: int) -> float:
        for number in range(count):
            records.put(f"coop-agent-{number:05}", ENDED, bytes([turn]) * len(PAYLOAD))
        return tracemalloc.get_traced_memory()[0] / count

    tracemalloc.start()
    try:
        one = put_all(0)
        again = max(put_all(turn) for turn in range(1, 10))
        records.retire({view.entry.task for view in records.tasks()})
        gc.collect()
        rest = tracemalloc.get_traced_memory()[0] / count
    finally:
        tracemalloc.stop()
    print(f"\n{one:.0f} B a record with a payload of {len(PAYLOAD)} B")
    print(f"{again:.0f} B after ten changes each, {rest:.0f} B after all were forgotten")
    assert one <= len(PAYLOAD) + FRAME_BYTES
    assert again <= 1.5 * one
    assert rest <= 100
