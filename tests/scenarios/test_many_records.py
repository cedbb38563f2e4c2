"""A node with many finished records beside an empty one: as `tests.bench records`, with bounds that a loaded machine keeps.

20,000 of them; with ``MILL_LONG=1`` the 100,000 of the promise.
"""

import os

from tests.bench import records
from tests.bench.start import Pair, at

COUNT, ROUNDS = (100_000 if os.environ.get("MILL_LONG") else 20_000), 15
START_OVER_EMPTY_S = 1.0
PAGE_S = 0.3
SPAWN_RATIO = 1.6
MORE_RESIDENT_BYTES = 24 * 2**20


def test_finished_records_by_the_thousand_are_hardly_felt() -> None:
    full, empty = records.measure(COUNT, ROUNDS)
    assert full.start_s < empty.start_s + START_OVER_EMPTY_S
    assert at(full.pages_s, 0.5) < PAGE_S
    assert Pair(full.spawns_s, empty.spawns_s).ratio() < SPAWN_RATIO
    assert full.rss_bytes < empty.rss_bytes + MORE_RESIDENT_BYTES
