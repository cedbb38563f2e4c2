"""Real nodes that are one cluster, on one host: each at a loopback address of its own, with its own containerd. Called by the scenarios.

Their tasks have no network: what is shown is who answers for whom.
"""

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import attrs

from tests import leaks
from tests.node import Node, free_port
from tests.pace import stretched

POLL_S = 0.05
TOGETHER_WITHIN_S = stretched(20)
HEARD_S = 5.0
TASK: dict[str, Any] = {"image": "busybox", "memory": "16M", "cpu": 0.05, "network": "none"}
"""What a spawn says besides what is of interest; 30 of them fit a small node."""
_SHIM = re.compile(r"containerd-shim\S* .*-id (\S+)")


@attrs.frozen
class Company:
    nodes: list[Node]

    def __getitem__(self, number: int) -> Node:
        return self.nodes[number - 1]

    @property
    def leader(self) -> Node:
        """By the word of the last line that any of them said of it."""
        said = [
            (line["timestamp"], line.get("leader") or node.name)
            for node in self.nodes
            for line in lines(node)
            if line["event"] == "this node leads" or (line["event"] == "who leads" and line["leader"])
        ]
        return next(node for node in self.nodes if node.name == max(said)[1])

    def containers(self, prefix: str = "") -> list[str]:
        """The id of every container that there is, once for each, sorted; of those whose ids begin so."""
        found = []
        for node in self.nodes:
            for _, line in leaks.processes(node.site()):
                if match := _SHIM.search(line):
                    found.append(match[1])
        return sorted(one for one in found if one.startswith(prefix))


def lines(node: Node) -> Iterator[dict[str, Any]]:
    """What its log says."""
    for line in node.log.read_text().splitlines():
        if line.startswith("{"):
            yield json.loads(line)


def wait(what: str, condition: Callable[[], object], within_s: float = TOGETHER_WITHIN_S) -> None:
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until, f"{what} took longer than {within_s:g} s"
        time.sleep(POLL_S)


@contextmanager
def company(count: int = 3) -> Iterator[Company]:
    """*count* nodes that all know each other, with busybox on each; stopped and looked over for leaks at the end."""
    port = free_port()
    nodes: list[Node] = []
    with ExitStack() as made:
        for number in range(1, count + 1):
            options = {"cpu": "8", "memory": "8G", "advertise": f"127.0.0.{number}", "peer-port": str(port)}
            node = Node(name=f"node-{number}", options=options)
            made.callback(node.destroy)
            if nodes:
                node.options = {**options, "join": f"127.0.0.1:{port}"}
                node.data_dir.mkdir(parents=True)
                shutil.copy(nodes[0].data_dir / "cluster.secret", node.data_dir)
            nodes.append(node.start().load_busybox())
        for node in nodes:
            others = {other.name for other in nodes} - {node.name}
            wait("meeting", lambda: others <= _met(node))  # noqa: B023 -- waited for within the turn
        time.sleep(HEARD_S)  # who has the image is said now and then, and nobody tells when it was heard
        yield Company(nodes)
        made.pop_all()
        for node in nodes:  # while all are there
            node.end_all()
    for node in nodes:
        node.stop()


def _met(node: Node) -> set[str]:
    return {line["node"] for line in lines(node) if line["event"] == "a node is there"}
