"""The secret of three real nodes is changed while they work: nothing ends, nobody is left behind, and who has the old one is out."""

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest

from mill.daemon.cluster import DISTRUSTED_S
from mill.security.keys import Keyring
from mill.security.secret_file import read
from tests.node import MILL
from tests.scenarios.fleet import SUBNET, Placed, everywhere, fleet_on, make, not_let_in
from tests.scenarios.wiretap import tapped
from tests.world import Host, hosts

SMALL: dict[str, Any] = {"image": "busybox", "cpu": 0.05, "memory": "16M", "args": ["true"]}
COUNTS = "n=0; while true; do echo $n; n=$((n+1)); sleep 0.2; done"


@attrs.frozen
class Scene:
    """Three nodes, and a host that has none."""

    nodes: list[Placed]
    spare: Host


@pytest.fixture(scope="module")
def scene(busybox_archive: Path) -> Iterator[Scene]:
    with (
        hosts(*(f"{SUBNET}.{number}/24" for number in (1, 2, 3, 4))) as made,
        fleet_on(made[:3], busybox_archive) as placed,
    ):
        yield Scene(placed, made[3])


def ring(one: Placed) -> Keyring:
    found = read(one.node.data_dir / "cluster.secret")
    assert found is not None
    return found


def clean(nodes: list[Placed]) -> str:
    """The key id of the one secret that all have, and none of them another."""
    rings = [ring(one) for one in nodes]
    assert all(list(found) == [rings[0].used] for found in rings), rings
    authorities = {(one.node.data_dir / "ca.pem").read_text() for one in nodes}
    assert len(authorities) == 1
    assert authorities.pop().count("BEGIN CERTIFICATE") == 1
    return rings[0].used.key_id.hex()


def whole(one: Placed) -> bool:
    status = one.get("/v1/status")
    return status["leader"] is not None and not status["partial"]


def all_there(nodes: list[Placed]) -> None:
    names = {one.name for one in nodes}
    everywhere(
        nodes, lambda it: {name for name, state in it.nodes().items() if state == "alive"} >= names, 15
    )
    everywhere(nodes, whole, 20)


def test_tasks_run_and_are_spawned_and_followed_while_the_secret_changes(scene: Scene) -> None:
    a, b, c = three = scene.nodes
    old, old_ca = ring(a), (a.node.data_dir / "ca.pem").read_text()
    before = [one.running(COUNTS) for one in three]
    everywhere(three, lambda it: all(it.task(task_id) for task_id in before), 10)
    with followed(b, before[0]) as lines, tapped(*(one.host for one in three)) as wire:
        during, asked = spawning(a), len(lines)
        said = c.mill("nodes", "rotate-secret")
        spawned = during()
        key_id = clean(three)
        assert said == f"secret {key_id} is in use on n1, n2, n3; the one before it is good for nothing\n"
        assert key_id != old.used.key_id.hex()
        assert len(spawned) >= 3
        reached = len(lines)
        time.sleep(DISTRUSTED_S + 1)
        assert len(lines) > reached > asked
        assert [int(line) for line in lines] == list(range(len(lines)))
        assert wire.frames
        for secret in (old.used, ring(a).used):
            assert wire.holds(secret.key.hex()) == []
    for one in three:
        assert (one.node.data_dir / "ca.pem").read_text() != old_ca
        for task_id in before:
            assert one.get(f"/v1/tasks/{task_id}")["status"] == "running"
            assert int(one.api("GET", f"/v1/logs/{task_id}?tail=1").text.split()[-1]) > 20
        assert {record["id"] for record in one.get("/v1/tasks")["tasks"]} >= set(before)
        for task_id in spawned:
            assert one.get(f"/v1/tasks/{task_id}", wait="terminal", timeout=20)["reason"] == "exit"
        assert one.api("POST", "/v1/tasks/spawn", json=SMALL).status_code == 201
    for one in three:
        for secret in (old.used, ring(one).used):
            assert secret.key.hex() not in one.log()
            assert secret.key.hex() not in json.dumps([one.get("/v1/nodes"), one.get("/v1/join-command")])
        assert "another secret" not in one.log()
    for task_id in before:
        a.api("DELETE", f"/v1/tasks/{task_id}")


@contextmanager
def followed(one: Placed, task_id: str) -> Iterator[list[str]]:
    """The lines that `mill logs -f` on *one* has printed so far; it neither ends nor says anything of its own."""
    lines: list[str] = []
    command = [*MILL, "logs", "-f", task_id]
    pipe = subprocess.PIPE
    mill = one.host.do(subprocess.Popen, command, stdout=pipe, stderr=pipe, text=True, env=one.node.env())
    assert mill.stdout is not None
    assert mill.stderr is not None
    reader = threading.Thread(target=lines.extend, args=(mill.stdout,))
    reader.start()
    try:
        everywhere([one], lambda _: lines, 20)
        yield lines
        assert mill.poll() is None
    finally:
        mill.kill()
        reader.join()
        said = mill.stderr.read()
        mill.wait()
        mill.stdout.close()
        mill.stderr.close()
    assert said == ""


def spawning(one: Placed) -> Callable[[], list[str]]:
    """Spawns task after task through *one*, until it is called: then the ids of all, none of which was refused."""
    ids: list[str] = []
    over = threading.Event()

    def spawn() -> None:
        while not over.is_set():
            answer = one.api("POST", "/v1/tasks/spawn", json=SMALL)
            assert answer.status_code == 201, answer.text
            ids.append(answer.json()["id"])

    pool = ThreadPoolExecutor(1)
    spawner = pool.submit(spawn)
    everywhere([one], lambda _: ids or spawner.done(), 20)

    def end() -> list[str]:
        over.set()
        spawner.result(timeout=30)
        pool.shutdown()
        return ids

    return end


def test_who_has_the_old_secret_does_not_join_and_who_has_the_new_one_does(scene: Scene) -> None:
    a = scene.nodes[0]
    late = make(4, a.node, a.address)
    old = scene.nodes[1].node.environ["MILL_SECRET"]
    new = late.environ["MILL_SECRET"]
    assert old != new
    late.environ = {"MILL_SECRET": old}
    placed = Placed(scene.spare, late)
    try:
        with not_let_in(scene.spare, late) as line:
            assert "another secret" in line
            everywhere([a], lambda it: f"{SUBNET}.4" in it.log(), 5)
        assert set(a.nodes()) == {"n1", "n2", "n3"}
        (late.data_dir / "cluster.secret").write_text(f"{new}\n")
        late.environ = {}
        placed.start()
        all_there([*scene.nodes, placed])
        placed.mill("nodes", "drain", "n4")
        placed.terminate()
        everywhere(scene.nodes, lambda it: it.nodes()["n4"] == "left", 10)
    finally:
        scene.spare.do(late.destroy)


def test_it_is_refused_while_a_node_is_not_there_and_nothing_is_touched(scene: Scene) -> None:
    """Which starts again by the options that it had: the secret of old in them is no other cluster's."""
    a, _, c = three = scene.nodes
    before = [ring(one) for one in three]
    c.terminate()
    everywhere([a], lambda it: it.nodes()["n3"] == "away", 5)
    answer = a.api("POST", "/v1/rotate-secret")
    assert answer.status_code == 409
    assert answer.json()["detail"].startswith("n3 is away")
    assert "mill nodes forget n3" in answer.json()["detail"]
    assert [ring(one) for one in three] == before
    c.start()
    all_there(three)


def asked_until_led(one: Placed) -> httpx.Response:
    """A new leader is soon there, and a while later sure of a majority."""
    deadline = time.monotonic() + 20
    while (answer := one.api("POST", "/v1/rotate-secret")).status_code == 503:
        assert "sees no leader" in answer.text
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert answer.status_code == 200, answer.text
    return answer


MOMENTS: dict[str, Callable[[Keyring, Keyring], bool]] = {
    "install": lambda _, now: len(list(now)) == 2,
    "use": lambda before, now: now.used != before.used,
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_one_that_was_cut_off_is_gone_on_with_by_another_node(scene: Scene, moment: str) -> None:
    """Whoever is asked for it is killed as soon as the first of the three has done that step."""
    a, b, c = three = scene.nodes
    all_there(three)
    task_id = c.running()
    before, at = clean(three), ring(a)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(a.api, "POST", "/v1/rotate-secret")
        deadline = time.monotonic() + 20
        while not any(MOMENTS[moment](at, ring(one)) for one in three):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        a.node.kill9()  # not by its host's one thread, which waits for the answer
        assert isinstance(asked.exception(timeout=30), httpx.TransportError)
    rings = [ring(one) for one in three]
    print(moment, rings)
    begun = {secret.key_id.hex() for found in rings for secret in found} - {before}
    assert len(begun) == 1
    for one, other in ((one, other) for one in rings for other in rings):
        assert one.used in list(other)
    a.start()
    all_there(three)
    again = asked_until_led(b)
    assert begun == {again.json()["key_id"]} == {clean(three)}
    all_there(three)
    assert {one.get(f"/v1/tasks/{task_id}")["status"] for one in three} == {"running"}
    b.api("DELETE", f"/v1/tasks/{task_id}")
