"""Tasks with addresses of their own: they reach each other, other nodes' tasks and the world, and leave nothing behind."""

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from tests import leaks
from tests.node import MakeNode, Node, free_port
from tests.scenarios.mesh import SERVE, SMALL, WITHIN_S, fetch, page, running, said, spawn, until
from tests.world import Host, hosts, run

LONG = bool(os.environ.get("MILL_LONG"))
TRACED = 10


# -- one node -------------------------------------------------------------------------------------------------------


def test_tasks_reach_each_other_by_address_and_the_record_tells_it(node: Node) -> None:
    server = running(node, SERVE)
    assert server["ip"].startswith("10.99.")
    assert said(node, fetch(f"{server['ip']}:8080")) == "hello\n"
    own = said(node, "grep -w $HOSTNAME /etc/hosts; ip -4 -o addr show eth0; echo $MILL_TASK_ADDRESS").split(
        "\n"
    )
    address, name = own[0].split()
    assert f"inet {address}/22" in own[1]
    assert own[2] == f"{name}.mill:8080"
    node.api("DELETE", f"/v1/tasks/{server['id']}")


def test_a_task_without_network_has_no_address(node: Node) -> None:
    record = running(node, "sleep 60", network="none")
    assert record["ip"] is None
    node.api("DELETE", f"/v1/tasks/{record['id']}")


def test_an_address_is_given_back_and_not_given_again_at_once(node: Node) -> None:
    script = "ip -4 -o addr show eth0 | awk '{print $4}'"
    addresses = [said(node, script) for _ in range(6)]
    assert len(set(addresses)) == len(addresses)


# -- published ports ------------------------------------------------------------------------------------------------


def test_a_published_port_leads_to_the_task_and_a_taken_one_is_a_conflict(node: Node) -> None:
    port = free_port()
    record = running(node, SERVE, publish=[{"host": port, "port": 8080}, {"port": 8080}])
    first, second = record["spec"]["publish"]
    assert (first["host"], first["port"], second["port"]) == (port, 8080, 8080)
    assert page(port) == page(second["host"]) == "hello\n"
    refused = node.api(
        "POST", "/v1/tasks/spawn", json={**SMALL, "publish": [{"port": 8080}, {"host": port, "port": 80}]}
    )
    assert refused.status_code == 409
    assert refused.json()["detail"].startswith(f"publish[1].host: port {port} of this node is in use")
    node.api("DELETE", f"/v1/tasks/{record['id']}")
    until(lambda: _free(port))


def _free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def test_the_command_publishes_and_shows_it(node: Node) -> None:
    shown = node.mill("spawn", "--image", "busybox", "--memory", "16M", "-p", "8080", "--", "sh", "-c", SERVE)
    fields = dict(line.split(None, 1) for line in shown.stdout.splitlines())
    port, _, inner = fields["published:"].partition(":")
    assert inner == "8080"
    assert page(int(port)) == "hello\n"
    assert f"{port}:8080" in node.mill("inspect", fields["id:"]).stdout.split()
    node.mill("kill", fields["id:"])


@pytest.mark.parametrize("network", ["host", "none"])
def test_only_a_task_in_the_mesh_can_publish(node: Node, network: str) -> None:
    body = {**SMALL, "network": network, "publish": [{"port": 80}]}
    answer = node.api("POST", "/v1/tasks/spawn", json=body)
    assert (answer.status_code, answer.json()["field"]) == (400, "publish")


# -- crashes, repairs, leftovers ------------------------------------------------------------------------------------


def test_after_many_tasks_and_a_kill_of_milld_nothing_is_left(make_node: MakeNode) -> None:
    node = make_node(name="many")
    kept = running(node, SERVE, publish=[{"port": 8080}])
    count = 300 if LONG else 24
    for number in range(count):
        spawn(node, "true", cpu=0.01)
        if number == count // 2:
            node.restart("kill9")
    port = kept["spec"]["publish"][0]["host"]
    assert page(port) == "hello\n"
    assert node.api("GET", f"/v1/tasks/{kept['id']}").json()["ip"] == kept["ip"]
    assert said(node, fetch(f"{kept['ip']}:8080")) == "hello\n"
    node.end_all()
    assert node.leaks() == []
    _, rest = leaks.network_of(node.node_id[:8])
    assert f"link mill-{node.node_id[:8]}" in rest
    node.terminate()
    until(lambda: leaks.network_of(node.node_id[:8]) == ([], []))


def test_a_stop_leaves_the_network_of_running_tasks_alone(make_node: MakeNode) -> None:
    node = make_node(name="stays")
    server = running(node, SERVE)
    client = running(node, f"while :; do wget -qO- http://{server['ip']}:8080/ >> /got; sleep 0.05; done")
    node.terminate()
    _, rest = leaks.network_of(node.node_id[:8])
    assert f"link mill-{node.node_id[:8]}" in rest
    assert page(8080, server["ip"]) == "hello\n"
    node.start()
    assert node.api("GET", f"/v1/tasks/{client['id']}").json()["status"] == "running"
    other = running(node, "sleep 60")
    assert other["ip"] not in {server["ip"], client["ip"]}


def test_what_others_delete_is_put_back(make_node: MakeNode) -> None:
    node = make_node(name="mends")
    server = running(node, SERVE)
    bridge = f"mill-{node.node_id[:8]}"
    rules = leaks.network_of(node.node_id[:8])[1]
    run("ip", "link", "delete", bridge)
    leaks.remove_rules(node.node_id[:8])
    until(lambda: sorted(leaks.network_of(node.node_id[:8])[1]) == sorted(rules))
    assert said(node, fetch(f"{server['ip']}:8080")) == "hello\n"


# -- several hosts --------------------------------------------------------------------------------------------------


@contextmanager
def pair(link: str) -> Iterator[list[tuple[Host, Node]]]:
    """Two nodes, each with a containerd of its own, on two hosts that know of each other."""
    with hosts("10.250.0.1/24", "10.250.0.2/24") as made, ExitStack() as nodes:
        found = []
        for number, host in enumerate(made):
            other = f"10.250.0.{2 - number}"
            config = f'[peer.other]\naddress = "{other}"\nsubnet = "10.99.{4 * (1 - number)}.0/22"\n'
            options = {
                "cpu": "8", "memory": "8G", "advertise": f"10.250.0.{number + 1}", "mesh-link": link,
                "mesh-subnet": f"10.99.{4 * number}.0/22",
            }  # fmt: skip
            node = Node(name=f"h{number}", config=config, options=options)
            nodes.callback(host.do, node.stop)
            host.do(lambda node=node: node.start().load_busybox())
            found.append((host, node))
        yield found


@pytest.mark.parametrize("link", ["vxlan", "routes", "auto"])
def test_tasks_of_two_nodes_reach_each_other(link: str) -> None:
    with pair(link) as [(here, a), (there, b)]:
        size = 1024 if LONG else 64
        make = f"mkdir /w && dd if=/dev/urandom of=/w/big bs=1M count={size} 2>/dev/null && echo bytes >/w/index.html"
        server = here.do(
            running, a, f"{make}; md5sum < /w/big; exec httpd -f -p 8080 -h /w", cpu=1, memory="256M"
        )
        there.do(said, b, fetch(f"{server['ip']}:8080", tries=300))
        began = time.monotonic()
        got = there.do(said, b, f"wget -qO- http://{server['ip']}:8080/big | md5sum", cpu=1, memory="256M")
        print(f"{link}: {size} MiB in {time.monotonic() - began:.1f} s")
        path = f"/v1/tasks/{server['id']}/logs"
        assert got == here.do(a.api, "GET", path, headers={"Accept": "text/plain"}).text
        vxlan = f"millx{a.node_id[:8]}"
        assert (vxlan in here.run("ip", "link")) == (link == "vxlan")


def test_tasks_reach_the_world_by_the_node_s_own_address_and_the_world_does_not_reach_them() -> None:
    with hosts("10.250.1.1/24", "10.250.1.9/24") as [home, world], ExitStack() as nodes:
        node = Node(name="home", options={"cpu": "8", "memory": "8G", "advertise": "10.250.1.1"})
        nodes.callback(home.do, node.stop)
        home.do(lambda: node.start().load_busybox())
        heard = world.do(_listener)
        got = home.do(spawn, node, "nc 10.250.1.9 7000 < /dev/null")
        connection, (source, _) = world.do(heard.accept)
        assert source == "10.250.1.1"
        connection.close()
        heard.close()
        assert got
        server = home.do(running, node, SERVE)
        world.run("ip", "route", "add", "10.99.0.0/16", "via", "10.250.1.1")
        assert home.do(page, 8080, server["ip"]) == "hello\n"
        with pytest.raises(httpx.ConnectTimeout):
            world.do(httpx.get, f"http://{server['ip']}:8080/", timeout=0.5)


def _listener() -> socket.socket:
    made = socket.socket()
    made.settimeout(WITHIN_S)
    made.bind(("10.250.1.9", 7000))
    made.listen()
    return made


def test_a_firewall_that_drops_what_is_forwarded_is_told_to_let_tasks_through() -> None:
    with hosts("10.250.2.1/24", "10.250.2.9/24") as [home, world], ExitStack() as nodes:
        home.run("iptables", "-P", "FORWARD", "DROP")
        home.run("iptables-legacy", "-P", "FORWARD", "DROP")
        node = Node(name="walled", options={"cpu": "8", "memory": "8G", "advertise": "10.250.2.1"})
        nodes.callback(home.do, node.stop)
        home.do(lambda: node.start().load_busybox())
        server = home.do(running, node, SERVE)
        assert home.do(said, node, fetch(f"{server['ip']}:8080")) == "hello\n"
        world.do(subprocess.Popen, ["true"]).wait()
        ping = "ping -c 1 -W 5 10.250.2.9 > /dev/null && echo there"
        assert home.do(said, node, ping) == "there\n"
        home.run("iptables", "-N", "DOCKER-USER")
        home.run("iptables", "-F", "FORWARD")
        home.run("iptables", "-A", "FORWARD", "-j", "DOCKER-USER")
        until(lambda: f"mill-{node.node_id[:8]}" in home.run("iptables", "-S", "DOCKER-USER"))
        assert home.do(said, node, ping) == "there\n"
        home.do(node.end_all)
        assert home.do(node.leaks) == []  # what milld cleans up after still has its addresses
        home.do(node.terminate)
        for tool in ("iptables", "iptables-legacy"):
            assert "mill-" not in home.run(tool, "-S")


# -- bad input ------------------------------------------------------------------------------------------------------


def refused(host: Host, node: Node) -> str:
    done = host.do(subprocess.run, node.command(), capture_output=True, text=True, timeout=60, env=node.env())
    assert done.returncode == 2, done.stderr
    return str(done.stderr.splitlines()[-1])


def test_a_range_that_is_in_use_is_refused_and_its_route_named() -> None:
    with hosts("10.99.7.1/24") as [home]:
        node = Node(name="clash")
        try:
            line = refused(home, node)
            assert line == (
                "milld: the tasks' range 10.99.0.0/16 overlaps the route to 10.99.7.0/24 by up0: "
                "choose another with --mesh-cidr"
            )
        finally:
            node.destroy()


def test_a_range_without_room_refuses_a_spawn_before_anything_is_touched() -> None:
    with hosts("10.250.3.1/24") as [home], ExitStack() as nodes:
        node = Node(name="tiny", options={"cpu": "8", "memory": "8G", "mesh-cidr": "10.98.0.0/28"})
        nodes.callback(home.do, node.stop)
        home.do(lambda: node.start().load_busybox())
        for _ in range(13):
            home.do(spawn, node, "sleep 60", cpu=0.01)
        answer = home.do(node.api, "POST", "/v1/tasks/spawn", json={**SMALL, "args": ["true"]})
        assert answer.status_code == 503
        assert "all 13 of 10.98.0.0/28 are taken" in answer.json()["detail"]
        assert len(home.do(node.records)) == 13
        home.do(node.end_all)
        assert home.do(said, node, "echo again") == "again\n"


def test_two_nodes_of_one_host_share_the_range(make_node: MakeNode) -> None:
    first, second = make_node(name="first"), make_node(name="second")
    server = running(first, SERVE)
    client = running(second, "sleep 60")
    assert server["ip"].rpartition(".")[0] != client["ip"].rpartition(".")[0]
    assert said(second, fetch(f"{server['ip']}:8080")) == "hello\n"


def test_a_crashed_node_s_tasks_keep_their_part_of_the_range_whoever_starts_meanwhile(
    make_node: MakeNode,
) -> None:
    crashed = make_node(name="crashed")
    server = running(crashed, SERVE)
    crashed.kill9()
    run("ip", "link", "delete", f"mill-{crashed.node_id[:8]}")
    other = make_node(name="meanwhile")
    parts = [(node.data_dir / "subnet").read_text() for node in (crashed, other)]
    assert parts[0] != parts[1]
    crashed.start()
    assert crashed.api("GET", f"/v1/tasks/{server['id']}").json()["ip"] == server["ip"]
    assert said(other, fetch(f"{server['ip']}:8080")) == "hello\n"


def test_no_process_is_started_for_a_task_s_network(make_node: MakeNode, tmp_path: Path) -> None:
    """milld's forks and execs while tasks start and end: none, and no thread for each either. What is seen when it does start
    a process shows that the trace sees all."""
    node = make_node(name="traced")
    assert said(node, "echo ran") == "ran\n"  # threads that are kept have been made
    with traced(node, tmp_path / "trace") as lines:
        for _ in range(TRACED):
            assert said(node, "echo ran") == "ran\n"
        started = calls(lines(), "execve", "fork", "vfork", "clone", "clone3")
        threads = [line for line in started if "CLONE_THREAD" in line]
        assert [line for line in started if line not in threads] == []
        assert len(threads) < TRACED
        (containerd,) = [
            pid for pid, line in leaks.processes(node.site()) if line.split()[0].endswith("/containerd")
        ]
        os.kill(containerd, signal.SIGKILL)
        until(lambda: any("/containerd" in line for line in calls(lines(), "execve")))
    assert said(node, "echo ran") == "ran\n"


@contextmanager
def traced(node: Node, path: Path) -> Iterator[Callable[[], list[str]]]:
    """Every start of a process or a thread by milld, a line each; *node*'s threads are all being traced."""
    command = [
        "strace",
        "-f",
        "-e",
        "trace=execve,clone,clone3,fork,vfork",
        "-o",
        str(path),
        "-p",
        str(node.pid),
    ]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    try:
        attached = tracer.stderr.readline()
        assert f"Process {node.pid} attached" in attached, attached
        yield lambda: path.read_text().splitlines()
    finally:
        tracer.terminate()
        tracer.communicate()


def calls(lines: list[str], *names: str) -> list[str]:
    """The lines of strace in which one of the calls begins."""
    return [line for line in lines if re.match(rf"\d+ +({'|'.join(names)})\(", line)]
