"""What 100,000 finished records cost: the start, the first page, a spawn, memory; beside an empty node, in one run.

The records are copies of one that the node has made, with ids and times of their own, and the newest of them stand in the
journal of events too. Written by SQL while milld is away. The bounds are the design's (section 9), and its 3 s for a start.
"""

import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import attrs

from mill.config import EVENTS_KEPT
from tests.bench.start import QUICK, Pair, at, spawn, verdict, wait
from tests.bench.wire import Wire
from tests.node import Node

START_BOUND_S = 3.0
PAGE_BOUND_S = 0.1
SPAWN_BOUND = 1.2
PAGES = 20

_SILENCE = "DROP TRIGGER task_made; DROP TRIGGER event_made"  # milld makes its triggers anew at each start
_COPY = """
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count),
    one AS (SELECT * FROM tasks WHERE id = :id),
    new AS (SELECT i, printf('many-%06d', i) AS id, strftime('%Y-%m-%dT%H:%M:%fZ', created - i / 2.0, 'unixepoch') AS at FROM n, one)
INSERT INTO tasks (id, created, live, status, node, template, record, owned)
    SELECT new.id, created - i / 2.0, live, status, node, template,
        json_set(record, '$.id', new.id, '$.address', new.id || '.mill:8080', '$.times.created', at, '$.times.finished', at), owned
    FROM new, one
"""
_TELL = """
INSERT INTO events (at, task_id, record)
    SELECT json_extract(record, '$.times.finished'), id, record FROM tasks ORDER BY created DESC LIMIT :count
"""


def fill(database: Path, model: str, count: int) -> None:
    """*count* records more, all as that of the task *model*, which has ended. No milld may be at it."""
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.executescript(_SILENCE)
        connection.execute(_COPY, {"id": model, "count": count})
        connection.execute(_TELL, {"count": min(count, EVENTS_KEPT)})


@attrs.define
class Side:
    """One of the two nodes, and what was seen of it."""

    node: Node
    start_s: float = 0.0
    pages_s: list[float] = attrs.field(factory=list)
    spawns_s: list[float] = attrs.field(factory=list)
    rss_bytes: int = 0

    def client(self) -> Wire:
        return Wire(self.node.address, self.node.token)

    def prepare(self, count: int) -> None:
        """A task of its own for the model, then *count* copies; milld is down afterwards."""
        self.node.start().load_busybox()
        with self.client() as http:
            model = spawn(http, QUICK)
            wait(http, model, "terminal")
        self.node.leaks()  # returns once milld has cleaned up after it
        self.node.terminate()
        if count:
            fill(self.node.data_dir / "mill.db", model, count)

    def start(self) -> None:
        began = time.perf_counter()
        self.node.start()
        self.start_s = time.perf_counter() - began

    def list_once(self, http: Wire) -> dict[str, Any]:
        began = time.perf_counter()
        answer = http.get("/v1/tasks", params={"all": "true"})
        page: dict[str, Any] = answer.json()
        self.pages_s.append(time.perf_counter() - began)
        return page

    def spawn_once(self, http: Wire) -> None:
        """And wait until milld has cleaned up after it, so that its work is in nobody's measurement."""
        began = time.perf_counter()
        id_ = spawn(http, QUICK)
        self.spawns_s.append(time.perf_counter() - began)
        while wait(http, id_, "terminal")["times"]["cleaned"] is None:
            time.sleep(0.01)

    def stop(self) -> None:
        """Without its records, each of which would be asked for; what is left of a task is seen all the same."""
        self.node.terminate()
        for file in self.node.data_dir.glob("mill.db*"):
            file.unlink()
        self.node.stop()


def measure(count: int, rounds: int) -> tuple[Side, Side]:
    """The full node and the empty one, by turns."""
    full, empty = (
        Side(Node(name=name, options={"cpu": "64", "memory": "64G"})) for name in ("full", "empty")
    )
    try:
        full.prepare(count)
        empty.prepare(0)
        empty.start()
        full.start()
        with full.client() as many, empty.client() as few:
            for _ in range(PAGES):
                page = full.list_once(many)
                assert page["next"] is not None
                empty.list_once(few)
            for _ in range(rounds):
                full.spawn_once(many)
                empty.spawn_once(few)
        for side in (full, empty):
            side.rss_bytes = side.node.rss_bytes()
            side.stop()
    finally:
        full.node.destroy()
        empty.node.destroy()
    return full, empty


def row(what: str, values: Sequence[float], scale: float = 1000) -> str:
    return f"  {what:<38}" + "".join(f"{value * scale:10.2f}" for value in values)


def main(count: int, rounds: int) -> bool:
    """Print the table; whether every bound holds."""
    full, empty = measure(count, rounds)
    load = os.getloadavg()[0]
    print(
        f"{count} finished records beside none; {rounds} spawns each by turns, {os.cpu_count()} cores, load {load:.1f}"
    )
    print(f"  {'milliseconds':<38}{'full':>10}{'empty':>10}")
    print(row("start, to the ready line", [full.start_s, empty.start_s]))
    print(row("first page, median", [at(full.pages_s, 0.5), at(empty.pages_s, 0.5)]))
    print(row("first page, the slowest", [max(full.pages_s), max(empty.pages_s)]))
    print(row("POST to 201, median", [at(full.spawns_s, 0.5), at(empty.spawns_s, 0.5)]))
    print(row("POST to 201, p90", [at(full.spawns_s, 0.9), at(empty.spawns_s, 0.9)]))
    print(row("resident MiB", [full.rss_bytes, empty.rss_bytes], 2**-20))
    bounds = [
        ("start, seconds", full.start_s, START_BOUND_S),
        ("first page, seconds", at(full.pages_s, 0.5), PAGE_BOUND_S),
        ("to 201: median / empty median", Pair(full.spawns_s, empty.spawns_s).ratio(), SPAWN_BOUND),
    ]
    print("\n".join(verdict(*bound) for bound in bounds))
    return all(value <= bound for _, value, bound in bounds)
