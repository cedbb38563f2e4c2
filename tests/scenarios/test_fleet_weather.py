"""Three real nodes with clients that never rest, while the nodes are restarted one after the other, packets are lost, and the link is cut."""

import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.pace import stretched
from tests.scenarios.crowd import LASTING, LIST, READ, SPAWN, Crowd, taken_back
from tests.scenarios.fleet import Placed, everywhere, fleet
from tests.scenarios.parting import Parting
from tests.scenarios.weather import LOST, amiss, differences, end_all, loss, records

Fleet = list[Placed]
LONG = os.environ.get("MILL_LONG") == "1"
AWAY_S = 120.0 if LONG else 18.0
"""Longer than a node may be silent."""
LOSS_S = 300.0 if LONG else 8.0
CUT_S = 60.0 if LONG else 20.0
BUSY = 1.0 if LONG else 0.5
"""Of the pace of the clients: beside other tests less is enough."""
BACK_S = 3.0
"""How long a node that is back is asked as well, before the next one goes."""
HEARD_S = 5.0
"""Who has which image is said now and then, and nobody tells when it was heard."""


@pytest.fixture(scope="module")
def three(busybox_archive: Path) -> Iterator[Fleet]:
    with fleet(3, busybox_archive) as placed:
        time.sleep(HEARD_S)
        yield placed


def test_a_rolling_restart_ends_no_task_and_fails_no_request(three: Fleet) -> None:
    """The leader is away for longest."""
    crowd = Crowd(three, lambda: random.choice([None, 1, 5, 20]), name="rolled")
    with crowd.at_work(**{SPAWN: 2.0 * BUSY, READ: 6.0 * BUSY, LIST: 1.0 * BUSY}):
        kept = [one.running(LASTING) for one in three for _ in range(2)]
        for one in three:
            crowd.leave(one)
            took_s, began = one.terminate(), time.monotonic()
            time.sleep(AWAY_S if one is three[0] else 0.5)
            one.start()
            print(f"{one.name} stopped within {took_s:.1f} s, was away for {time.monotonic() - began:.1f} s")
            crowd.enter(one)
            time.sleep(BACK_S)
            everywhere(three, lambda it: set(it.nodes().values()) == {"alive"})
        crowd.stop(SPAWN)
        everywhere(three[:1], lambda _: not differences(three))
        everywhere(three[:1], lambda it: not beginning(it))
    print(crowd.summary())
    known = records(three[0])
    assert crowd.failures() == []
    assert [record for record in known.values() if record["reason"] == LOST] == []
    assert {known[task_id]["status"] for task_id in kept} == {"running"}, [known[task_id] for task_id in kept]
    ends = Counter((known[task_id]["status"], known[task_id]["reason"]) for task_id in crowd.ids)
    assert ends.keys() <= {("running", None), ("failed", "exit")}, ends
    assert set(crowd.ids) <= set(known)
    assert len(set(crowd.ids)) == len(crowd.ids)
    everywhere(three[:1], lambda _: not amiss(three), stretched(10))
    assert taken_back(crowd.told) == []
    end_all(three)


def beginning(one: Placed) -> list[str]:
    """Tasks that do not run yet."""
    return [key for key, record in records(one).items() if record["status"] in {"pulling", "starting"}]


def test_loss_of_every_third_packet_condemns_nobody_and_changes_no_leader(three: Fleet) -> None:
    """What is asked meanwhile is answered, or it is said why not."""
    leader = three[0].get("/v1/status")["leader"]
    crowd = Crowd(three, lambda: random.choice([None, 1, 5, 20]), name="rained")
    leaders: Counter[str | None] = Counter()
    states: Counter[str] = Counter()
    partial = 0
    with loss(three, 0.3), crowd.at_work(**{SPAWN: 1.0, READ: 2.0, LIST: 0.5}):
        until = time.monotonic() + LOSS_S
        while time.monotonic() < until:
            for one in three:
                status = one.get("/v1/status")
                leaders[status["leader"]] += 1
                states.update(one.nodes().values())
                partial += status["partial"]
            time.sleep(0.5)
    print(f"leaders seen {dict(leaders)}, states {dict(states)}, partial {partial} times")
    print(crowd.summary())
    print(
        *sorted({f"{it.status} {it.what} through {it.through}: {it.why}" for it in crowd.failures()})[:20],
        sep="\n",
    )
    assert leaders.keys() == {leader}
    everywhere(three[:1], lambda _: not differences(three), stretched(30))
    assert [record for record in records(three[0]).values() if record["reason"] == LOST] == []
    assert [one for one in crowd.failures() if not one.status or not one.why] == []
    everywhere(three[:1], lambda _: not amiss(three), stretched(10))
    end_all(three)


def test_who_is_cut_off_loses_what_it_had_and_keeps_what_it_begins_meanwhile(three: Fleet) -> None:
    parting = Parting(three, [three[2]], CUT_S)
    parting.run()
    assert parting.condemned
