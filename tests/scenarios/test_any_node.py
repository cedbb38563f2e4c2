"""Three real nodes: whichever is asked, the answer is the same; and a leader that is killed while others spawn costs nobody a task."""

import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests import leaks
from tests.node import MILL, ROOT, TERMINAL
from tests.pace import stretched
from tests.scenarios.fleet import Placed, everywhere, fleet
from tests.world import _enter

Fleet = list[Placed]
LONG = os.environ.get("MILL_LONG") == "1"
SPAWNS_A_SECOND = 5
SPAWNING_S = 30.0 if LONG else 5.0
SLOW_S = stretched(2.0)
HEARD_S = 5.0
"""Who has which image is said now and then, and nobody tells when it was heard."""
TASK: dict[str, Any] = {"image": "busybox", "memory": "16M", "cpu": 0.05, "network": "none", "grace": 0.2}
_SHIM = re.compile(r"containerd-shim\S* .*-id (\S+)")


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    archive = tmp_path_factory.mktemp("images") / "busybox.tar"
    subprocess.run(
        [sys.executable, ROOT / "examples/busybox_image.py", archive], check=True, capture_output=True
    )
    with fleet(3, archive) as placed:
        time.sleep(HEARD_S)
        yield placed


def containers(three: Fleet, prefix: str) -> list[str]:
    """The id of every container that there is, once for each, sorted; of those whose ids begin so."""
    lines = [line for one in three for _, line in leaks.processes(one.node.site())]
    found = [match[1] for line in lines if (match := _SHIM.search(line))]
    return sorted(one for one in found if one.startswith(prefix))


def spawn(
    one: Placed, script: str = "sleep 1000", *, key: str | None = None, **fields: Any
) -> dict[str, Any]:
    headers = {} if key is None else {"Idempotency-Key": key}
    body = {**TASK, "args": ["sh", "-c", script], **fields}
    answer = one.api("POST", "/v1/tasks/spawn", json=body, headers=headers)
    assert answer.status_code == 201, answer.text
    said: dict[str, Any] = answer.json()
    return said


def wait_for(three: Fleet, prefix: str, ids: list[str]) -> None:
    everywhere(three[:1], lambda _: containers(three, prefix) == sorted(ids))


def test_tasks_spread_and_every_node_answers_for_each(three: Fleet) -> None:
    made = [spawn(three[1], f"echo {number}; sleep 1000", name="many") for number in range(30)]
    at = Counter(task["node"] for task in made)
    print(f"30 tasks through n2: {dict(at)}")
    assert set(at) == {"n1", "n2", "n3"}
    assert min(at.values()) >= 5
    wait_for(three, "many-", [task["id"] for task in made])
    everywhere(three, lambda it: {task["id"] for task in made} <= {record["id"] for record in it.tasks()})
    for one in three:
        for number in (0, 7, 14, 21, 28):
            task = made[number]
            record = one.get(f"/v1/tasks/{task['id']}", wait="running", timeout=20)
            assert (record["node"], record["status"]) == (task["node"], "running")
            assert one.api("GET", f"/v1/logs/{task['id']}").text == f"{number}\n"
            assert one.get(f"/v1/tasks/{task['id']}/stats")["pids"] >= 1
    for number, one in enumerate(three):
        path = f"/v1/tasks/{made[number]['id']}"
        assert one.api("DELETE", path, params={"grace": 0}).status_code == 202
        for other in three:
            assert other.get(path, wait="terminal", timeout=20)["message"] == "killed by admin with SIGKILL"


def test_the_command_is_the_same_on_any_node(three: Fleet) -> None:
    options = ("--image", "busybox", "--memory", "16M", "--network", "none", "--cpu", "0.05")
    for one in three:
        script = ("sh", "-c", "echo out; sleep 0.3; echo more; exit 3")
        done = one.host.do(one.node.mill, "run", "-q", *options, "--", *script, check=False)
        assert (done.returncode, done.stdout) == (3, "out\nmore\n"), done.stderr
    a, b, c = three
    for one, watcher, killer in ((a, b, c), (c, a, b)):
        said = one.mill("spawn", *options, "--", "sh", "-c", "echo hello; sleep 1000")
        task_id = said.split()[1]
        follow = watcher.host.do(follow_of, watcher, task_id)
        first = follow.stdout.readline()
        killer.mill("kill", "--grace", "0", task_id)
        assert watcher.host.do(watcher.node.mill, "wait", task_id, check=False).returncode == 137
        assert first + follow.communicate(timeout=20)[0] == "hello\n"
        assert "killed by admin" in one.mill("inspect", task_id)


def follow_of(one: Placed, task_id: str) -> Any:
    """`mill logs -f` on the host of *one*."""
    return subprocess.Popen(
        [*MILL, "logs", "-f", task_id], env=one.node.env(), stdout=subprocess.PIPE, text=True
    )


def test_events_and_an_end_that_was_told_are_the_same_on_every_node(three: Fleet) -> None:
    task_id = spawn(three[0], "exit 5", name="told")["id"]
    for one in three:
        assert one.get(f"/v1/tasks/{task_id}", wait="terminal", timeout=20)["exit_code"] == 5
        assert one.get(f"/v1/tasks/{task_id}")["status"] == "failed"
    everywhere(three, lambda it: (it.task(task_id) or {}).get("status") == "failed", 10)


@pytest.mark.parametrize("turn", range(3))
def test_one_key_at_all_nodes_at_once_is_one_task(three: Fleet, turn: int) -> None:
    def ask(one: Placed) -> str:
        return str(spawn(one, name=f"once{turn}", key=f"all-at-once-{turn}")["id"])

    with ThreadPoolExecutor(6) as pool:
        ids = set(pool.map(ask, three * 2))
    assert len(ids) == 1
    wait_for(three, f"once{turn}-", [*ids])
    for one in three:
        other = one.api(
            "POST",
            "/v1/tasks/spawn",
            json={"image": "busybox"},
            headers={"Idempotency-Key": f"all-at-once-{turn}"},
        )
        assert (other.status_code, next(iter(ids)) in other.json()["detail"]) == (409, True)


# -- the loss of the leader; from here on the fleet is not what it was ------------------------------------------------


class Spawner:
    """Spawns through *one*, as `mill.client` does: by a key, and again where it is refused. For threads that are on its host."""

    def __init__(self, one: Placed) -> None:
        self.one = one
        self.took: list[float] = []
        self.ids: list[str] = []
        self.nodes: dict[str, str] = {}
        self.failed: list[str] = []

    def once(self, number: int) -> None:
        began = time.monotonic()
        while time.monotonic() - began < 30:
            body = {**TASK, "args": ["sleep", "1000"], "name": "under"}
            answer = self.one.node.api(
                "POST", "/v1/tasks/spawn", json=body, headers={"Idempotency-Key": f"under-{number}"}
            )
            if answer.status_code == 201:
                said = answer.json()
                self.ids.append(said["id"])
                self.nodes[said["id"]] = said["node"]
                break
            self.failed.append(answer.text)
        self.took.append(time.monotonic() - began)


def test_a_leader_that_is_killed_while_others_spawn_costs_no_task(three: Fleet) -> None:
    """Nobody sees an error, and what was answered exists once."""
    leads = three[0].get("/v1/status")["leader"]
    leader = next(one for one in three if one.name == leads)
    others = [one for one in three if one is not leader]
    spawner = Spawner(others[0])
    count = int(SPAWNS_A_SECOND * SPAWNING_S)
    led_s: list[float] = []

    def kill() -> None:
        leader.kill9()
        led_s.append(everywhere(others, lambda it: it.get("/v1/status")["leader"] not in {leads, None}))

    killing = threading.Thread(target=kill)
    with ThreadPoolExecutor(16, initializer=_enter, initargs=(spawner.one.host.name,)) as pool:
        for number in range(count):
            pool.submit(spawner.once, number)
            if number == SPAWNS_A_SECOND:
                killing.start()
            time.sleep(1 / SPAWNS_A_SECOND)
    killing.join()
    took = sorted(spawner.took)
    print(
        f"{len(spawner.ids)} of {count} spawned, {len(spawner.failed)} asked again; median {took[len(took) // 2] * 1000:.0f} ms, "
        f"slowest {took[-1]:.2f} s, over 2 s {sum(seconds > 2 for seconds in took)}; a new leader after {led_s[0]:.1f} s"
    )
    assert len(set(spawner.ids)) == len(spawner.ids) == count
    assert not spawner.failed, spawner.failed
    assert sum(seconds > SLOW_S for seconds in took) <= 1, took[-5:]
    elsewhere = {task_id for task_id, node in spawner.nodes.items() if node != leads}
    everywhere(three[:1], lambda _: once(containers(three, "under-"), elsewhere))
    leader.start()
    everywhere(three, lambda it: set(it.nodes().values()) == {"alive"})
    everywhere(three[:1], lambda it: containers(three, "under-") == sorted(alive(it, spawner.ids)))
    ended = set(spawner.ids) - alive(three[0], spawner.ids)
    print(f"{len(ended)} of the leader's {count - len(elsewhere)} ended with it")
    assert not ended & elsewhere


def once(there: list[str], ids: set[str]) -> bool:
    return ids <= set(there) and len(set(there)) == len(there)


def alive(one: Placed, ids: list[str]) -> set[str]:
    """Those that the leader's death did not end: it takes tasks along that it had only just begun, and, where it is away for long, all."""
    return {record["id"] for record in one.tasks() if record["status"] not in TERMINAL} & set(ids)
