"""Several real nodes, each on a host of its own (a network namespace) with a containerd of its own, all on one link. Used by the tests of the cluster.

The first node founds the cluster; the others join by whichever is said, and have no token but the first one's.
"""

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx

from mill.api.forward import CALLER, SCOPE
from mill.security.certificates import ANY_NODE
from mill.security.channel import Channels
from mill.security.secret_file import read
from tests.node import TERMINAL, Node
from tests.world import Host, hosts

SUBNET = "10.250.40"
WITHIN_S = 30.0
SLEEP = f"sleep {70_000 + os.getpid() % 10_000}"
"""A task that does nothing, and is told from those of other runs on this machine."""


@attrs.define
class FleetNode(Node):
    """One node, spoken to from its own host."""

    first: Node | None = None

    @property
    def token(self) -> str:
        own = self.data_dir / "admin.token"
        return (own if self.first is None else self.first.data_dir / "admin.token").read_text().strip()

    def env(self) -> dict[str, str]:
        return {**super().env(), **({} if self.first is None else {"MILL_TOKEN": self.token})}


@attrs.frozen
class Placed:
    """A node and its host."""

    host: Host
    node: FleetNode

    @property
    def name(self) -> str:
        return self.node.name

    @property
    def address(self) -> str:
        return f"{self.node.options['advertise']}:4401"

    def api(self, method: str, path: str, **request: Any) -> httpx.Response:
        return self.host.do(self.node.api, method, path, **request)

    def get(self, path: str, **params: Any) -> Any:
        answer = self.api("GET", path, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def mill(self, *args: str, check: bool = True) -> str:
        return self.host.do(self.node.mill, *args, check=check).stdout

    def nodes(self) -> dict[str, str]:
        """The state of each, as this one sees it."""
        return {view["name"]: view["state"] for view in self.get("/v1/nodes")["nodes"]}

    def task(self, task_id: str) -> dict[str, Any] | None:
        """Its record as this node shows it; None where it is not known."""
        found = [record for record in self.tasks() if record["id"] == task_id]
        return found[0] if found else None

    def tasks(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.host.do(self.node.records)
        return found

    def spawn(self, script: str = SLEEP, **fields: Any) -> str:
        """On this very node: by the port where nodes ask each other for what each has."""
        body = {
            "image": "busybox", "cpu": 0.05, "memory": "16M", "grace": 0.2, "args": ["sh", "-c", script], **fields
        }  # fmt: skip
        answer = self.host.do(self._as_a_node, "POST", "/v1/tasks/spawn", json=body)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    def _as_a_node(self, method: str, path: str, **request: Any) -> httpx.Response:
        ring = read(self.node.data_dir / "cluster.secret")
        assert ring is not None
        channels = Channels(ring, "f" * 32, (), time.time)
        asked = httpx.Request(
            method,
            f"https://{self.address}{path}",
            headers={CALLER: "admin", SCOPE: "admin"},
            extensions={"sni_hostname": ANY_NODE},
            **request,
        )
        with httpx.Client(verify=channels.peer_client(), trust_env=False, timeout=30) as client:
            return client.send(asked)

    def running(self, script: str = SLEEP, **fields: Any) -> str:
        task_id = self.spawn(script, **fields)
        record = self.get(f"/v1/tasks/{task_id}", wait="running", timeout=20)
        assert record["status"] == "running", record
        return task_id

    def start(self) -> None:
        self.host.do(self.node.start)

    def kill9(self) -> None:
        self.host.do(self.node.kill9)

    def terminate(self) -> float:
        return self.host.do(self.node.terminate)

    def log(self) -> str:
        return self.node.log.read_text(errors="replace")


def make(number: int, first: Node | None, join: str | None, **options: str) -> FleetNode:
    said = {"cpu": "8", "memory": "8G", "advertise": f"{SUBNET}.{number}", **options}
    environ = {}
    if join is not None:
        said["join"] = join
    if first is not None:
        environ["MILL_SECRET"] = (first.data_dir / "cluster.secret").read_text().split()[0]
    return FleetNode(name=f"n{number}", options=said, environ=environ, first=first)


@contextmanager
def fleet(size: int, archive: Path | None = None, **options: str) -> Iterator[list[Placed]]:
    """That many nodes, all alive in each other's eyes; with busybox, if its archive is given. *options* are milld's."""
    with (
        hosts(*(f"{SUBNET}.{number}/24" for number in range(1, size + 1))) as made,
        fleet_on(made, archive, **options) as placed,
    ):
        yield placed


@contextmanager
def fleet_on(made: list[Host], archive: Path | None = None, **options: str) -> Iterator[list[Placed]]:
    """One node on each of these hosts, whose addresses are the first of `SUBNET`."""
    size = len(made)
    with ExitStack() as nodes:
        placed: list[Placed] = []
        for number, host in enumerate(made, 1):
            first = placed[0].node if placed else None
            node = make(number, first, placed[-1].address if placed else None, **options)
            nodes.callback(host.do, node.destroy)
            placed.append(Placed(host, node))
            if number == 1:
                placed[0].start()
        with ThreadPoolExecutor(size) as pool:
            list(pool.map(Placed.start, placed[1:]))
            if archive is not None:
                list(pool.map(lambda it: load(it, archive), placed))
        everywhere(placed, lambda it: set(it.nodes().values()) == {"alive"} and len(it.nodes()) == size)
        try:
            yield placed
        finally:
            print("\n".join(one.log()[-2500:] for one in placed))


@contextmanager
def not_let_in(host: Host, node: FleetNode) -> Iterator[str]:
    """A node whose milld runs on *host* and cannot join: the line that says so, while it tries on."""
    command, env = node.command(), {**node.env(), **node.environ}
    milld = host.do(
        subprocess.Popen, command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        assert milld.stderr is not None
        yield next(line for line in milld.stderr if "cannot join" in line)
    finally:
        milld.terminate()
        milld.communicate(timeout=10)


def load(placed: Placed, archive: Path) -> None:
    assert placed.api("POST", "/v1/images/load", content=archive.read_bytes()).status_code == 200


def everywhere(placed: list[Placed], true: Callable[[Placed], object], within_s: float = WITHIN_S) -> float:
    """How long it took until it was true on each of them."""
    began = time.monotonic()
    waiting = list(placed)
    while waiting := [one for one in waiting if not true(one)]:
        assert time.monotonic() - began < within_s, [one.name for one in waiting]
        time.sleep(0.1)
    return time.monotonic() - began


def told_of(one: Placed, task_id: str) -> list[str]:
    """The states that the journal tells of a task, from its oldest event on to the end of that one."""
    headers = {"Authorization": f"Bearer {one.node.token}"}
    url = f"{one.node.address}/v1/events?task={task_id}&after=from-the-start"
    states: list[str] = []
    with httpx.stream("GET", url, headers=headers, timeout=20) as answer:
        for line in answer.iter_lines():
            if line.startswith('data: {"time'):
                states.append(json.loads(line.removeprefix("data: "))["task"]["status"])
            if states and states[-1] in TERMINAL:
                break
    return states
