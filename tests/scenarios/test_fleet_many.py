"""Ten thousand records on three real nodes, and a fourth that joins: how soon it has them, what all cost when nothing happens. Under MILL_LONG=1."""

import json
import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import attrs
import pytest

from mill.model import Deadline, Owned, Reason, Status, Task, Time, Times
from mill.tasks import rows
from tests.scenarios.fleet import SUBNET, Placed, everywhere, make
from tests.tasks.scene import make_record, make_spec
from tests.world import hosts

pytestmark = pytest.mark.skipif(not os.environ.get("MILL_LONG"), reason="takes minutes; MILL_LONG=1")

RECORDS = 10_000
SETTLED_S = 20.0
IDLE_S = 30.0
MOST_KBITS, MOST_BYTES = 8.0, 150e6
SYNC_S, PAGE_S = 30.0, 0.1
SPEC = make_spec(args=("sh", "-c", "echo hello; sleep 1"))


def ended(one: Placed, number: int, now: float, owned: Owned) -> Task:
    """As if it had run there some minutes ago."""
    bare = make_record(
        f"many-{number:06d}", Status.STOPPED, spec=attrs.evolve(SPEC, labels={"n": str(number % 7)})
    )
    began = Time(now - 3600 + number / 100)
    times = Times(began, pulled=began, started=began, finished=Time(now - 1000 + number / 100))
    record = attrs.evolve(
        bare, node=one.name, node_id=one.node.node_id, reason=Reason.EXIT, exit_code=0,
        message="exited with code 0", times=times,
    )  # fmt: skip
    return Task(record, owned)


def fill(one: Placed) -> None:
    """Its milld is stopped, and finds them when it starts."""
    one.terminate()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    owned = Owned(ended=Deadline(boot, float(Path("/proc/uptime").read_text().split()[0])))
    now = time.time()
    with closing(sqlite3.connect(one.node.data_dir / "mill.db")) as database, database:
        database.executemany(
            rows.PUT, (rows.row_of(ended(one, number, now, owned)) for number in range(RECORDS))
        )
    one.start()


def count(one: Placed) -> int:
    with closing(sqlite3.connect(f"file:{one.node.data_dir / 'mill.db'}?mode=ro", uri=True)) as database:
        return int(database.execute("SELECT count(*) FROM tasks").fetchone()[0])


def sent_bytes(one: Placed) -> int:
    """By its host's only link."""
    counted = one.host.do(Path("/proc/thread-self/net/dev").read_text)
    return int(counted.split("up0:")[1].split()[8])


def page_s(one: Placed) -> float:
    """The first page of all records, asked for by a client that is there already."""
    began = time.monotonic()
    assert len(one.get("/v1/tasks", all="true")["tasks"]) > 0
    return time.monotonic() - began


def test_ten_thousand_records_are_soon_on_a_new_node_and_cost_little() -> None:
    with hosts(*(f"{SUBNET}.{number}/24" for number in range(1, 5))) as made:
        placed: list[Placed] = []
        try:
            for number, host in enumerate(made[:3], 1):
                first = placed[0].node if placed else None
                placed.append(Placed(host, make(number, first, placed[0].address if placed else None)))
                placed[-1].start()
            fill(placed[0])
            everywhere(placed, lambda it: count(it) == RECORDS, 60)
            pages = [min(page_s(one) for _ in range(3)) for one in placed]
            placed.append(Placed(made[3], make(4, placed[0].node, placed[1].address)))
            began = time.monotonic()
            placed[3].start()
            everywhere(placed[3:], lambda it: count(it) == RECORDS, 60)
            synced_s = time.monotonic() - began
            time.sleep(SETTLED_S)
            before = {one.name: sent_bytes(one) for one in placed}
            time.sleep(IDLE_S)
            kbits = {one.name: (sent_bytes(one) - before[one.name]) * 8 / 1000 / IDLE_S for one in placed}
            resident = {one.name: one.host.do(one.node.rss_bytes) for one in placed}
            print(json.dumps({"pages_s": pages, "synced_s": synced_s, "kbit/s": kbits, "resident": resident}))
        finally:
            for one in placed:
                one.host.do(one.node.destroy)
    assert max(pages) <= PAGE_S
    assert synced_s <= SYNC_S
    assert max(kbits.values()) <= MOST_KBITS
    assert max(resident.values()) <= MOST_BYTES
