"""milld killed with SIGKILL at every named point of a task's life, and at random instants under load.

What must hold afterwards: one true end for each task, the same deadline, no task that ran twice, all of its output, and
nothing left over. Each task writes a line into a file of its own on the host when it begins, so that a second start shows.
``MILL_LONG=1``: every point twenty times, and two hundred random kills.
"""

import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio

from mill.convert import parse_time
from tests import images, registry
from tests.node import Node
from tests.scenarios.crashing_milld import POINTS

LONG = bool(os.environ.get("MILL_LONG"))
ROUNDS = 20 if LONG else 1
RANDOM_KILLS = 200 if LONG else 5
SPAWNS_PER_S = 5.0
CRASHES_WITHIN_S = 20.0
CODE = 7
MILLD = [sys.executable, "-m", "tests.scenarios.crashing_milld"]
SCRIPT = 'echo ran >> "/ran/$MILL_TASK_ID"; echo one; sleep {s}; echo two; exit 7'


@attrs.define
class Lab:
    """One node that crashes again and again, and a folder in which its tasks leave a line each time they begin."""

    node: Node
    ran: Path
    registry: registry.Registry
    tasks: dict[str, str] = attrs.field(factory=dict)
    """How each task is meant to end: ``exit``, ``killed`` or ``timeout``."""
    wrong: list[str] = attrs.field(factory=list)

    def spawn(self, name: str, how: str = "exit", **fields: Any) -> str | None:
        """A task's id, or None when milld died before its answer."""
        lasts = {"exit": "0.2", "timeout": "60", "killed": "60"}[how]
        body = {
            "image": "busybox", "name": name, "args": ["sh", "-c", SCRIPT.format(s=lasts)], "cpu": 0.1, "memory": "32M", "grace": 0.2,
            "mounts": [{"target": "/ran", "source": str(self.ran)}], **({"timeout": 2} if how == "timeout" else {}), **fields,
        }  # fmt: skip
        try:
            answer = self.node.api("POST", "/v1/tasks/spawn", json=body)
        except httpx.HTTPError:
            return None
        assert answer.status_code == 201, answer.text
        task_id = str(answer.json()["id"])
        self.tasks[task_id] = how
        return task_id

    def crash(self, point: str, name: str) -> None:
        """One task, in the midst of whose life milld dies at *point*; then a milld again that knows of nothing."""
        self.node.environ = {"CRASH_AT": point, "CRASH_NAME": name}
        self.node.start()
        how = "killed" if point in {"after the kill wish is recorded", "after the signal"} else "exit"
        fields: dict[str, Any] = {}
        if point == "mid-pull":
            fields["image"] = self.fresh_image(name)
        if point in {"while running", "after running is recorded"}:
            how = "timeout"
        task_id = self.spawn(name, how, **fields)
        if task_id is not None and how != "exit":
            with suppress(httpx.HTTPError):
                self.node.api("GET", f"/v1/tasks/{task_id}", params={"wait": "running", "timeout": "20"})
        if task_id is not None and how == "killed":
            with suppress(httpx.HTTPError):
                self.node.api("DELETE", f"/v1/tasks/{task_id}")
        assert self.node.process is not None
        if point == "while running":
            self.node.process.kill()
        assert self.node.process.wait(CRASHES_WITHIN_S) == -9, f"no crash {point}"
        self.node.kill9()

    def fresh_image(self, name: str) -> str:
        layer = images.large_layer(3 * 2**20, name.encode())
        made = images.OciImage([images.busybox_layer(), layer])
        trio.run(images.push, made, self.registry.host, f"crash/{name}", "v1")
        return f"{self.registry.host}/crash/{name}:v1"

    def check(self) -> None:
        """Once all have ended: each exactly as it was meant to, having run once, with all that it said."""
        records = {record["id"]: record for record in self.node.records()}
        self.wrong += [f"{task_id}: there is no record of it" for task_id in self.tasks.keys() - records]
        for task_id, record in records.items():
            self.wrong += [
                f"{task_id}: {what}: {record}"
                for what in self.faults(record, self.tasks.get(task_id, "exit"))
            ]

    def faults(self, record: dict[str, Any], how: str) -> Iterator[str]:
        file = self.ran / record["id"]
        ran = len(file.read_text().splitlines()) if file.exists() else 0
        if ran != 1:
            yield f"it ran {ran} times"
        if record["reason"] != how or (how == "exit" and record["exit_code"] != CODE):
            yield f"it should have ended by {how}"
        text = self.node.api("GET", f"/v1/logs/{record['id']}").text
        if text != ("one\ntwo\n" if how == "exit" else "one\n"):
            yield f"it printed {text!r}"
        if how == "timeout":
            started, finished = (parse_time(record["times"][key]) for key in ("started", "finished"))
            if not 1.9 <= finished - started <= 2 + CRASHES_WITHIN_S:
                yield f"its deadline moved: it ran for {finished - started:.1f} s"

    def settle(self) -> None:
        """Wait for the end of all."""
        for record in self.node.records():
            ended = self.node.api(
                "GET", f"/v1/tasks/{record['id']}", params={"wait": "terminal", "timeout": "60"}
            ).json()
            assert ended["status"] in {"stopped", "failed"}, ended


@pytest.fixture
def lab(registry: registry.Registry, tmp_path: Path) -> Iterator[Lab]:
    ran = tmp_path / "ran"
    ran.mkdir(mode=0o777)
    node = Node(
        name="crash", program=MILLD, options={"cpu": "64", "memory": "64G", "allow-mounts": str(tmp_path)}
    )
    lab = Lab(node, ran, registry)
    try:
        node.start().load_busybox()
        node.kill9()
        yield lab
        node.stop()
    finally:
        node.destroy()


def test_a_crash_at_each_point_of_a_life_changes_no_end(lab: Lab) -> None:
    """Each milld adopts what the one before left half-done, and dies in the midst of a task of its own."""
    for index, point in enumerate(POINTS):
        for number in range(ROUNDS):
            lab.crash(point, f"p{index}-r{number}")
    lab.node.environ = {}
    lab.node.start()
    lab.settle()
    lab.check()
    for index, point in enumerate(POINTS):
        wrong = sum(line.startswith(f"p{index}-") for line in lab.wrong)
        print(f"crash {point}: {ROUNDS} times, {wrong} wrong")
    assert lab.wrong == []


def test_a_crash_at_any_instant_under_load_changes_no_end(lab: Lab) -> None:
    choice = random.Random(7)
    lab.node.environ = {}
    unanswered = 0
    for number in range(RANDOM_KILLS):
        lab.node.start()
        lasts_s = choice.uniform(0.0, 1.5)
        until = time.monotonic() + lasts_s
        killer = threading.Timer(lasts_s, os.kill, (lab.node.pid, signal.SIGKILL))
        killer.start()
        while time.monotonic() < until:
            unanswered += lab.spawn(f"k{number}") is None
            time.sleep(1 / SPAWNS_PER_S)
        killer.join()
        lab.node.kill9()
    lab.node.start()
    lab.settle()
    lab.check()
    ends = Counter(f"{record['status']} ({record['reason']})" for record in lab.node.records())
    print(
        f"crash at {RANDOM_KILLS} random instants: {len(lab.tasks)} answered, {unanswered} not, {dict(ends)}, {len(lab.wrong)} wrong"
    )
    assert lab.wrong == []
