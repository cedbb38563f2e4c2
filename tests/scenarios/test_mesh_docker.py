"""Docker on the same host: its firewall drops what is forwarded, whoever starts first, and both go on working."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import attrs
import pytest

from tests.node import Node
from tests.scenarios.dockerd import Docker, docker
from tests.scenarios.mesh import SERVE, fetch, running, said, until
from tests.world import Host, hosts

WORLD = "10.250.4.9"
PING = f"ping -c 1 -W 5 {WORLD} > /dev/null && echo out"
BRIDGED = ("net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables")
"""Of br_netfilter: what passes between two ports of a bridge passes the firewall, too."""
BACK_WITHIN_S = 10.0
"""Mill looks every 3 s; other tests run at the same time."""


@attrs.frozen
class Both:
    """A host with a Docker and a node, of which neither is started."""

    home: Host
    docker: Docker
    node: Node
    iptables: str

    def start_docker(self) -> None:
        self.docker.start().load_busybox()

    def start_milld(self) -> None:
        self.home.do(lambda: self.node.start().load_busybox())

    def check(self) -> None:
        """Containers of both reach out, and their own kind."""
        assert "-P FORWARD DROP" in self.home.run(self.iptables, "-S")
        self.check_docker()
        server = self.home.do(running, self.node, SERVE)
        assert self.home.do(said, self.node, PING) == "out\n"
        assert self.home.do(said, self.node, fetch(f"{server['ip']}:8080")) == "hello\n"
        self.home.do(self.node.api, "DELETE", f"/v1/tasks/{server['id']}")

    def check_docker(self) -> None:
        server = self.docker.ask("run", "--rm", "--detach", "busybox", "sh", "-c", SERVE)
        address = self.docker.ask("inspect", "--format={{.NetworkSettings.IPAddress}}", server)
        script = f"{PING}; {fetch(f'{address}:8080')}"
        assert self.docker.ask("run", "--rm", "busybox", "sh", "-c", script) == "out\nhello"
        self.docker.ask("kill", server)

    def accepted(self) -> bool:
        """Both of Mill's rules are where Docker asks others to put them."""
        return self.home.run(self.iptables, "-S", "DOCKER-USER").count(f"mill-{self.node.node_id[:8]} ") >= 2


@contextmanager
def both(iptables: str) -> Iterator[Both]:
    with hosts("10.250.4.1/24", f"{WORLD}/24") as [home, _], docker(home, iptables) as made:
        there = home.run("sysctl", "--all", "--pattern", "^net.bridge.bridge-nf-call", check=False)
        # Forwarding is off: the Docker that turns it on sets the policy, too. Where a kernel has no br_netfilter, none is asked.
        settings = ["net.ipv4.ip_forward=0", *(f"{name}=1" for name in BRIDGED if name in there)]
        home.run("sysctl", "--quiet", "--write", *settings)
        print(f"bridged packets pass the firewall: {BRIDGED[0] in there}")
        options = {"cpu": "8", "memory": "8G", "advertise": "10.250.4.1"}
        with ExitStack() as nodes:
            node = Node(name="beside", options=options)
            nodes.callback(home.do, node.destroy)
            yield Both(home, made, node, iptables)


@pytest.mark.parametrize(("first", "iptables"), [("docker", "iptables-nft"), ("milld", "iptables-legacy")])
def test_docker_and_mill_go_on_working_beside_each_other(first: str, iptables: str) -> None:
    with both(iptables) as beside:
        starts = [beside.start_docker, beside.start_milld]
        for start in starts if first == "docker" else reversed(starts):
            start()
        beside.home.run(
            iptables, "-P", "FORWARD", "DROP"
        )  # Docker's doing only if forwarding was off until it came
        until(beside.accepted, BACK_WITHIN_S)
        beside.check()
        beside.docker.stop()
        for chain in ("FORWARD", "DOCKER-USER"):  # as a firewall that is loaded anew
            beside.home.run(iptables, "--flush", chain)
        beside.docker.start()
        until(beside.accepted, BACK_WITHIN_S)
        beside.check()
        beside.home.do(beside.node.stop)
        assert "mill-" not in beside.home.run(iptables, "-S")
        beside.check_docker()
