"""Three real nodes as one cluster: they find each other, say the same, and bear the loss of any of them."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import dns.message
import dns.query
import dns.rcode
import pytest

from tests import leaks
from tests.node import ROOT
from tests.pace import stretched
from tests.scenarios.fleet import SLEEP, Placed, everywhere, fleet, make, not_let_in, told_of
from tests.scenarios.mesh import SERVE, fetch, said

Fleet = list[Placed]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    archive = tmp_path_factory.mktemp("images") / "busybox.tar"
    subprocess.run(
        [sys.executable, ROOT / "examples/busybox_image.py", archive], check=True, capture_output=True
    )
    began = time.monotonic()
    with fleet(3, archive) as placed:
        print(f"three nodes after {time.monotonic() - began:.1f} s")
        yield placed


def test_every_node_lists_all_and_knows_who_leads(three: Fleet) -> None:
    for one in three:
        assert one.nodes() == {"n1": "alive", "n2": "alive", "n3": "alive"}
        assert next(line.split()[0] for line in one.mill("nodes").splitlines()[1:]) == one.name
        status = one.get("/v1/status")
        assert (status["nodes"], status["leader"], status["partial"]) == (3, "n1", False)
        assert "3 nodes, n1 leads" in one.mill("status")
    versions = {(v["version"], v["capacity"]["cpu"], v["epoch"]) for v in three[2].get("/v1/nodes")["nodes"]}
    assert len(versions) == 1
    assert versions.pop()[1:] == (8.0, 1)


def test_the_line_to_join_by_names_the_members_and_the_file(three: Fleet) -> None:
    said = three[1].mill("nodes", "join-command").strip()
    joins = " ".join(f"--join {one.address}" for one in three)
    assert sorted(said.split()) == sorted(f"milld {joins} --secret-file cluster.secret".split())


def test_a_node_is_drained_through_another_one_and_all_see_it(three: Fleet) -> None:
    a, _, c = three
    assert "takes no new task" in a.mill("nodes", "drain", "n3")
    everywhere(three, lambda it: it.nodes()["n3"] == "drained", 5)
    placed = c.api("POST", "/v1/tasks/spawn", json={"image": "busybox", "cpu": 0.05, "args": ["true"]})
    assert (placed.status_code, placed.json()["node"] in {"n1", "n2"}) == (201, True)
    a.mill("nodes", "undrain", "n3")
    everywhere(three, lambda it: it.nodes()["n3"] == "alive", 5)


def same(three: Fleet, true: Callable[[dict[str, Any]], object] = lambda record: record) -> dict[str, Any]:
    """The one listing that all show within seconds, by id."""

    def seen(one: Placed) -> dict[str, Any]:
        return {record["id"]: {**record, "usage": None} for record in one.tasks()}

    deadline = time.monotonic() + 10
    while True:
        first, *others = [seen(one) for one in three]
        if all(other == first for other in others) and all(map(true, first.values())):
            return first
        assert time.monotonic() < deadline, [
            (first.get(key), other.get(key))
            for other in others
            for key in {*first, *other}
            if first.get(key) != other.get(key)
        ]
        time.sleep(0.2)


def ended(record: dict[str, Any]) -> bool:
    return record["times"]["cleaned"] is not None


def test_every_node_lists_the_same_tasks_and_no_value_of_an_environment_leaves_its_owner(
    three: Fleet,
) -> None:
    ids = [one.spawn("exit 3", env={"KEY": "hidden-value"}, labels={"of": one.name}) for one in three]
    found = same(three, ended)
    assert set(ids) <= set(found)
    for one, task_id in zip(three, ids, strict=True):
        record = found[task_id]
        assert (record["node"], record["status"], record["exit_code"]) == (one.name, "failed", 3)
        assert record["spec"]["env"] == {"KEY": None}
        for other in three:
            assert other.get(f"/v1/tasks/{task_id}")["status"] == "failed"
            listed = other.get("/v1/tasks", all="true", label=f"of={one.name}")["tasks"]
            assert [row["id"] for row in listed] == [task_id]
    databases = [path for one in three for path in one.node.data_dir.glob("mill.db*")]
    assert any(b"hidden-value" in path.read_bytes() for path in databases)
    only = three[0].spawn("exit 0", env={"KEY": "hidden-of-n1"})
    same(three, lambda record: record["id"] != only or ended(record))
    for one in three[1:]:
        assert not any(b"hidden-of-n1" in path.read_bytes() for path in one.node.data_dir.glob("mill.db*"))


def test_events_of_all_nodes_are_told_by_each(three: Fleet) -> None:
    a, b, _ = three
    task_id = b.spawn("exit 0")
    same(three, lambda record: record["id"] != task_id or ended(record))
    assert a.host.do(told_of, a, task_id)[-2:] == ["running", "stopped"]


def test_templates_and_tokens_made_on_one_node_are_good_on_all(three: Fleet) -> None:
    a, b, c = three
    assert b.api("PUT", "/v1/templates/web", json={"image": "busybox"}).status_code in {200, 201, 204}
    everywhere(three, lambda it: "web" in it.mill("templates", "--json"), 5)
    token = c.api("POST", "/v1/tokens", json={"scope": "read"}).json()["token"]
    headers = {"Authorization": f"Bearer {token}"}
    everywhere([a, b], lambda it: it.api("GET", "/v1/nodes", headers=headers).status_code == 200, 5)
    a.api("DELETE", "/v1/templates/web")
    everywhere(three, lambda it: "web" not in it.mill("templates", "--json"), 5)
    assert not (c.node.data_dir / "admin.token").exists()


def test_tasks_of_all_nodes_reach_each_other_by_name_on_parts_of_the_range_that_differ(three: Fleet) -> None:
    servers = [one.running(SERVE, network="mesh") for one in three]
    parts = {
        one.get(f"/v1/tasks/{task_id}")["ip"].rpartition(".")[0]
        for one, task_id in zip(three, servers, strict=True)
    }
    everywhere(
        three, lambda it: all(it.get(f"/v1/tasks/{task_id}")["status"] == "running" for task_id in servers), 5
    )
    for one in three:
        for task_id in servers:
            assert one.host.do(said, one.node, fetch(f"{task_id}.mill:8080")) == "hello\n"
    subnets = {(one.node.data_dir / "subnet").read_text() for one in three}
    assert (len(subnets), len(parts)) == (3, 3)
    for one, task_id in zip(three, servers, strict=True):
        one.api("DELETE", f"/v1/tasks/{task_id}")


@pytest.mark.parametrize("rumours", ["pass", "are held back"])
def test_a_task_has_its_name_on_every_node_from_its_201(three: Fleet, rumours: str) -> None:
    """By n1, asked of n3 at once: before it has heard of it, and before it runs."""
    a, _, c = three
    dropped = ("INPUT", "-p", "udp", "--dport", "4401", "-j", "DROP")
    if rumours != "pass":
        c.host.run("iptables", "-I", *dropped)
    try:
        ids, took = [], []
        for _ in range(10):
            ids.append(a.spawn())
            began = time.monotonic()
            there = resolve(c, ids[-1])
            took.append(time.monotonic() - began)
            assert there == resolve(a, ids[-1])
            assert there[0] == "NOERROR"
            assert len(there[1]) == 1, there
        assert resolve(c, "nobody-0000") == ("NXDOMAIN", [])
    finally:
        if rumours != "pass":
            c.host.run("iptables", "-D", *dropped)
    print(
        f"rumours {rumours}: resolved elsewhere within {sorted(took)[5] * 1000:.0f} ms, {max(took) * 1000:.0f} at most"
    )
    for task_id in ids:
        a.api("DELETE", f"/v1/tasks/{task_id}")
        a.get(f"/v1/tasks/{task_id}", wait="terminal", timeout=20)
    everywhere(three, lambda it: all(resolve(it, task_id) == ("NXDOMAIN", []) for task_id in ids), 10)


def test_what_nobody_can_be_sure_of_is_a_failure_within_300_ms(three: Fleet) -> None:
    c = three[2]
    dropped = ("OUTPUT", "-p", "tcp", "--dport", "4401", "-j", "DROP")
    c.host.run("iptables", "-I", *dropped)
    try:
        began = time.monotonic()
        assert resolve(c, "nobody-0001") == ("SERVFAIL", [])
        took_s = time.monotonic() - began
    finally:
        c.host.run("iptables", "-D", *dropped)
    print(f"not sure after {took_s * 1000:.0f} ms")
    assert took_s < stretched(1.0)
    everywhere([c], lambda it: resolve(it, "nobody-0002") == ("NXDOMAIN", []), 10)
    everywhere(three, lambda it: set(it.nodes().values()) == {"alive"}, 10)


def resolve(one: Placed, task_id: str) -> tuple[str, list[str]]:
    """As that node's DNS has it."""
    query = dns.message.make_query(f"{task_id}.mill", "A")
    answer = one.host.do(dns.query.udp, query, "127.0.0.1", port=one.node.dns_port, timeout=5)
    addresses = [str(record) for records in answer.answer for record in records]
    return dns.rcode.to_text(answer.rcode()), addresses


def test_a_node_that_answers_cannot_be_forgotten(three: Fleet) -> None:
    answer = three[0].api("DELETE", "/v1/nodes/n2")
    assert answer.status_code == 409
    assert "n2 answers" in answer.json()["detail"]


def test_a_wrong_secret_is_one_line_on_either_side_and_moves_nobody(three: Fleet) -> None:
    a = three[0]
    other = make(9, None, a.address, advertise="127.0.0.1")
    try:
        with not_let_in(a.host, other) as line:
            assert "another secret" in line
            everywhere([a], lambda it: "is not of this cluster" in it.log(), 5)
    finally:
        a.host.do(other.destroy)
    assert set(a.nodes()) == {"n1", "n2", "n3"}


# -- the loss of a node; from here on the fleet is not what it was --------------------------------------------------


def test_a_stop_is_told_as_away_and_costs_no_task(three: Fleet) -> None:
    a, b, c = three
    kept = c.running()
    took_s = c.terminate()
    everywhere([a, b], lambda it: it.nodes()["n3"] == "away", 2)
    row = next(line for line in a.mill("ps").splitlines() if kept in line)
    assert "running (unreachable" in row
    assert took_s < 5
    c.start()
    everywhere([a, b], lambda it: it.nodes()["n3"] == "alive", 10)
    assert {it.get(f"/v1/tasks/{kept}")["status"] for it in three} == {"running"}
    c.api("DELETE", f"/v1/tasks/{kept}")
    everywhere(three, lambda it: it.get(f"/v1/tasks/{kept}")["status"] == "stopped", 5)


def test_the_tasks_of_a_killed_leader_are_lost_on_all_others_and_end_when_it_is_back(three: Fleet) -> None:
    a, b, c = three
    doomed, ended_before, other = a.running(), a.spawn("exit 0"), b.running()
    same(three, lambda record: record["id"] != ended_before or ended(record))
    a.kill9()
    began = time.monotonic()
    led_s = everywhere([b, c], lambda it: it.get("/v1/status")["leader"] in {"n2", "n3"}, 15)
    lost_s = led_s + everywhere([b, c], lambda it: it.get(f"/v1/tasks/{doomed}")["status"] == "failed", 25)
    print(f"a new leader after {led_s:.1f} s, node_lost after {lost_s:.1f} s")
    assert time.monotonic() - began < 20
    for one in (b, c):
        record = one.get(f"/v1/tasks/{doomed}")
        assert (record["reason"], record["unreachable"]) == ("node_lost", None)
        assert one.get(f"/v1/tasks/{ended_before}")["reason"] == "exit"
        assert one.get(f"/v1/tasks/{other}")["status"] == "running"
    a.start()
    everywhere(three, lambda it: set(it.nodes().values()) == {"alive"}, 15)
    everywhere(three, lambda it: it.get(f"/v1/tasks/{doomed}")["reason"] == "node_lost", 10)
    everywhere([a], lambda it: it.host.do(running_containers, it) == [], 10)
    b.api("DELETE", f"/v1/tasks/{other}")


def test_a_drained_node_that_is_stopped_has_left_and_may_come_back(three: Fleet) -> None:
    a, b, c = three
    a.mill("nodes", "drain", "n3", "--wait", "--timeout", "10s")
    c.terminate()
    everywhere([a, b], lambda it: it.nodes()["n3"] == "left", 3)
    assert a.get("/v1/status")["nodes"] == 2
    c.start()
    everywhere([a, b], lambda it: it.nodes()["n3"] == "drained", 10)
    b.mill("nodes", "undrain", "n3")
    everywhere(three, lambda it: it.nodes()["n3"] == "alive", 5)


def running_containers(one: Placed) -> list[str]:
    """Init processes of tasks below the node's containerd."""
    found = leaks.processes(one.node.site())
    return [line for _, line in found if SLEEP in line]
