"""Three real nodes, of which one is cut off for longer than a verdict takes, and found again. Minutes long: under MILL_LONG=1."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.node import ROOT
from tests.scenarios.fleet import Placed, everywhere, fleet
from tests.scenarios.test_fleet import running_containers

pytestmark = pytest.mark.skipif(not os.environ.get("MILL_LONG"), reason="takes minutes; MILL_LONG=1")

CUT_S = 40


def cut(one: Placed, others: list[Placed], how: str) -> None:
    """Whatever passes between *one* and *others* is dropped (``-I``), or no longer (``-D``)."""
    for other in others:
        address = other.node.options["advertise"]
        one.host.run("iptables", how, "INPUT", "-s", address, "-j", "DROP")
        one.host.run("iptables", how, "OUTPUT", "-d", address, "-j", "DROP")


@pytest.mark.parametrize("lone", [2, 0])
def test_who_is_cut_off_loses_what_it_had_and_keeps_what_it_begins_meanwhile(
    lone: int, tmp_path: Path
) -> None:
    archive = tmp_path / "busybox.tar"
    subprocess.run(
        [sys.executable, ROOT / "examples/busybox_image.py", archive], check=True, capture_output=True
    )
    with fleet(3, archive) as three:
        alone, *majority = three[lone], *(one for one in three if one is not three[lone])
        old, kept = alone.running(), [one.running() for one in majority]
        everywhere(three, lambda it: len(it.get("/v1/tasks")["tasks"]) == 3, 5)
        cut(alone, majority, "-I")
        began = time.monotonic()
        partial_s = everywhere([alone], lambda it: it.get("/v1/status")["partial"], 20)
        lost_s = partial_s + everywhere(
            majority, lambda it: it.get(f"/v1/tasks/{old}")["status"] == "failed", 30
        )
        time.sleep(max(0.0, CUT_S - (time.monotonic() - began)))
        record = alone.get(f"/v1/tasks/{old}")
        assert record["status"] == "running", record
        later, there = alone.running("sleep 2000002"), majority[0].running()
        everywhere(majority, lambda it: it.get(f"/v1/tasks/{there}")["status"] == "running", 5)
        cut(alone, majority, "-D")
        healed = time.monotonic()
        everywhere(three, lambda it: set(it.nodes().values()) == {"alive"}, 30)
        alive_s = time.monotonic() - healed
        everywhere(three, lambda it: it.get(f"/v1/tasks/{old}")["reason"] == "node_lost", 10)
        everywhere([alone], lambda it: it.host.do(running_containers, it) == [], 10)
        killed_s = time.monotonic() - healed
        everywhere(three, lambda it: "has told since" in it.get(f"/v1/tasks/{old}")["message"], 10)
        everywhere(
            three,
            lambda it: all(
                it.get(f"/v1/tasks/{task_id}")["status"] == "running" for task_id in (*kept, later, there)
            ),
            20,
        )
        everywhere(three, lambda it: not it.get("/v1/status")["partial"], 20)
        leaders = {one.get("/v1/status")["leader"] for one in three}
        assert len(leaders) == 1
        print(
            f"partial after {partial_s:.1f} s, lost after {lost_s:.1f} s; healed: alive after {alive_s:.1f} s, "
            f"condemned ones dead after {killed_s:.1f} s, all as one after {time.monotonic() - healed:.1f} s"
        )
