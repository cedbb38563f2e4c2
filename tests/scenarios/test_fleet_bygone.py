"""What a node had that never returned, or returns after all that time: with ``MILL_LONG=1``, for most of it is waiting."""

import os
from pathlib import Path

import pytest

from tests import leaks
from tests.scenarios.fleet import SLEEP, Placed, everywhere, fleet

KEPT_S = 12

pytestmark = pytest.mark.skipif(not os.environ.get("MILL_LONG"), reason="takes a minute; MILL_LONG=1")


def ids(one: Placed) -> set[str]:
    return {record["id"] for record in one.tasks()}


def test_what_a_lost_node_had_is_forgotten_in_time_and_does_not_come_back_with_it(
    busybox_archive: Path,
) -> None:
    with fleet(3, busybox_archive, **{"log-retention-secs": str(KEPT_S)}) as three:
        a, b, c = three
        stays, doomed, ended = b.running(), c.running(), c.spawn("exit 0")
        everywhere(three, lambda it: (it.task(ended) or {"times": {"cleaned": None}})["times"]["cleaned"])
        c.kill9()
        lost_s = everywhere([a, b], lambda it: (it.task(doomed) or {}).get("reason") == "node_lost")
        gone_s = everywhere([a, b], lambda it: ids(it) == {stays})
        print(f"lost after {lost_s:.1f} s, all of it forgotten {gone_s:.1f} s later")
        assert gone_s >= KEPT_S
        c.start()
        everywhere(three, lambda it: set(it.nodes().values()) == {"alive"})
        everywhere([c], lambda it: not any(SLEEP in line for _, line in leaks.processes(it.node.site())))
        assert [ids(one) for one in three] == [{stays}] * 3
        c.terminate()
        c.start()
        later = c.running()
        everywhere(three, lambda it: ids(it) == {stays, later})
        assert {one.get(f"/v1/tasks/{stays}")["status"] for one in three} == {"running"}
