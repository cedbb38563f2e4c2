"""Links, routes and rules by a real kernel, in a network namespace that the test made."""

import os
from collections.abc import Iterator
from functools import partial
from ipaddress import IPv4Address, IPv4Network

import pytest

from mill.errors import SetupError
from mill.network.addresses import Peer
from mill.network.kernel import NETFILTER, Netlink
from mill.network.links import Links, Names, living, open_links
from mill.network.rules import Rules
from tests import leaks
from tests.world import Host, hosts

RANGE = IPv4Network("10.99.0.0/16")
NODE = "0123456789abcdef"
BRIDGE = "mill-01234567"
ADDRESS = IPv4Address("10.99.0.2")
OTHER = Peer("other", IPv4Address("10.250.9.2"), IPv4Network("10.99.4.0/22"))


_OPEN: list[Links | Rules] = []


@pytest.fixture
def host() -> Iterator[Host]:
    with hosts("10.250.9.1/24") as [host]:
        yield host
    while _OPEN:
        _OPEN.pop().close()


def opened(*, overlay: bool = True, node: str = NODE) -> Links:
    links = open_links(node, RANGE, None, overlay=overlay, underlay="10.250.9.1", port=4789)
    _OPEN.append(links)
    links.ensure()
    return links


def test_names_fit_the_kernel_s_limit() -> None:
    names = Names(NODE[:8])
    every = [names.bridge, names.vxlan, names.task(IPv4Address("10.99.7.255"))]
    assert every == ["mill-01234567", "millx01234567", "m012345673ff"]
    assert max(map(len, every)) <= 15
    assert not names.owns(names.bridge)


def test_a_bridge_with_the_gateway_and_room_for_the_overlay(host: Host) -> None:
    links = host.do(opened)
    shown = host.run("ip", "addr", "show", "mill-01234567")
    assert "inet 10.99.0.1/22" in shown
    assert "mtu 1450" in shown
    assert host.run("cat", "/proc/sys/net/ipv4/ip_forward") == "1\n"
    host.do(links.remove)
    assert host.do(leaks.network_of, NODE[:8]) == ([], [])


def test_without_an_overlay_the_links_are_as_wide_as_what_is_below(host: Host) -> None:
    host.run("ip", "link", "set", "up0", "mtu", "1400")
    links = host.do(opened, overlay=False)
    assert "mtu 1400" in host.run("ip", "link", "show", "mill-01234567")
    host.do(links.remove)


def test_a_second_node_takes_the_next_part(host: Host) -> None:
    first = host.do(opened)
    second = host.do(opened, node="fedcba9876543210")
    assert (str(first.subnet), str(second.subnet)) == ("10.99.0.0/22", "10.99.4.0/22")


def test_a_part_that_another_node_has_taken_meanwhile_is_let_go_unless_it_was_asked_for(host: Host) -> None:
    first = host.do(opened)
    ask = partial(open_links, "fedcba98", RANGE, first.subnet, overlay=True, underlay="", port=4789)
    second = host.do(ask)
    _OPEN.append(second)
    assert str(second.subnet) == "10.99.4.0/22"
    with pytest.raises(SetupError, match=r"10\.99\.0\.0/22 is another node's on this host"):
        host.do(ask, fixed=True)


def test_a_part_that_tasks_of_a_dead_node_have_is_not_taken_even_without_their_bridge(host: Host) -> None:
    first = host.do(opened)
    held = host.do(first.attach, ADDRESS)
    host.run("ip", "link", "delete", BRIDGE)
    ask = partial(open_links, "fedcba98", RANGE, overlay=True, underlay="", port=4789)
    _OPEN.append(second := host.do(ask, None))
    assert str(second.subnet) == "10.99.4.0/22"
    with pytest.raises(SetupError, match=r"10\.99\.0\.0/22 is another node's on this host"):
        host.do(ask, first.subnet, fixed=True)
    _OPEN.append(own := host.do(partial(open_links, NODE, RANGE, None, overlay=True, underlay="", port=4789)))
    assert own.subnet == first.subnet
    os.close(held)
    host.run(
        "ip", "link", "delete", "m01234567002", check=False
    )  # the kernel does that by itself, a moment later
    _OPEN.append(third := host.do(ask, None))
    assert third.subnet == first.subnet


def test_the_first_part_is_none_of_a_peer_s(host: Host) -> None:
    peers = [IPv4Network("10.99.0.0/22"), IPv4Network("10.99.8.0/21")]
    ask = partial(open_links, NODE, RANGE, overlay=True, underlay="", port=4789, peers=peers)
    for had in (None, peers[0]):
        _OPEN.append(made := host.do(ask, had))
        assert str(made.subnet) == "10.99.4.0/22"


def test_a_task_is_on_the_network_while_it_has_its_link(host: Host) -> None:
    links = host.do(opened)
    held = host.do(links.attach, ADDRESS)
    elsewhere = ADDRESS + 1024  # the same last ten bits: its link would have the same name
    assert host.do(living, NODE, [ADDRESS, elsewhere, ADDRESS + 1]) == [ADDRESS]
    assert host.do(living, "fedcba98", [ADDRESS]) == []
    host.do(links.detach, ADDRESS)
    assert host.do(living, NODE, [ADDRESS]) == []
    os.close(held)


def test_somebody_else_s_route_in_the_range_is_refused(host: Host) -> None:
    host.run("ip", "route", "add", "10.96.0.0/12", "via", "10.250.9.2")
    with pytest.raises(SetupError, match=r"overlaps the route to 10\.96\.0\.0/12 by up0"):
        host.do(opened)


def test_a_namespace_has_an_address_a_way_out_and_loopback(host: Host) -> None:
    links = host.do(opened)
    descriptor = host.do(links.attach, ADDRESS)
    inside = ("nsenter", f"--net=/proc/{os.getpid()}/fd/{descriptor}", "ip")
    assert "inet 10.99.0.2/22" in host.run(*inside, "addr", "show", "eth0")
    assert "default via 10.99.0.1 dev eth0" in host.run(*inside, "route")
    assert "inet 127.0.0.1/8" in host.run(*inside, "addr", "show", "lo")
    os.close(descriptor)


def test_an_address_whose_link_is_still_there_can_be_given_again(host: Host) -> None:
    links = host.do(opened)
    first, second = (host.do(links.attach, ADDRESS) for _ in range(2))
    assert host.do(leaks.network_of, NODE[:8])[0] == ["m01234567002"]
    os.close(first)
    os.close(second)


def test_strays_are_swept_and_the_rest_kept(host: Host) -> None:
    links = host.do(opened)
    held = [host.do(links.attach, ADDRESS + n) for n in range(3)]
    assert host.do(links.sweep, [ADDRESS]) == 2
    assert host.do(leaks.network_of, NODE[:8])[0] == ["m01234567002"]
    for descriptor in held:
        os.close(descriptor)


def test_a_bridge_that_was_deleted_comes_back_with_all_that_was_on_it(host: Host) -> None:
    links = host.do(opened)
    held = host.do(links.attach, ADDRESS)
    host.run("ip", "link", "delete", "mill-01234567")
    host.do(links.ensure)
    assert "master mill-01234567" in host.run("ip", "link", "show", "m01234567002")
    host.run("ip", "addr", "flush", "dev", "mill-01234567")
    host.do(links.ensure)
    assert "inet 10.99.0.1/22" in host.run("ip", "addr", "show", "mill-01234567")
    os.close(held)


def test_peers_by_vxlan_have_a_route_a_neighbour_and_a_forwarding_entry_and_lose_them(host: Host) -> None:
    links = host.do(opened)
    host.do(links.set_peers, [OTHER], "vxlan")
    assert "10.99.4.0/22 via 10.99.4.0 dev millx01234567" in host.run("ip", "route")
    assert "dst 10.250.9.2 self permanent" in host.run("bridge", "fdb")
    assert "10.99.4.0 dev millx01234567 lladdr 02:42:0a:63:04:00 PERMANENT" in host.run("ip", "neigh")
    moved = Peer("other", IPv4Address("10.250.9.3"), OTHER.subnet)
    host.do(links.set_peers, [moved], "vxlan")
    assert "10.250.9.2" not in host.run("bridge", "fdb")
    assert "dst 10.250.9.3" in host.run("bridge", "fdb")
    host.run("ip", "route", "flush", "10.99.4.0/22")
    host.do(links.ensure)
    assert "10.99.4.0/22" in host.run("ip", "route")
    host.do(links.set_peers, [], "vxlan")
    assert "10.99.4.0" not in host.run("ip", "route") + host.run("bridge", "fdb") + host.run("ip", "link")
    host.do(links.remove)


def test_peers_on_the_same_link_need_no_overlay(host: Host) -> None:
    links = host.do(opened)
    far = Peer("far", IPv4Address("10.251.0.2"), IPv4Network("10.99.8.0/22"))
    host.run("ip", "route", "add", "10.251.0.0/24", "via", "10.250.9.5")
    host.do(links.set_peers, [OTHER, far], "auto")
    routes = host.run("ip", "route")
    assert "10.99.4.0/22 via 10.250.9.2 dev up0 proto 177 src 10.99.0.1" in routes
    assert "10.99.8.0/22 via 10.99.8.0 dev millx01234567" in routes
    host.do(links.remove)
    assert "proto 177" not in host.run("ip", "route")


def test_rules_are_in_mill_s_table_and_where_something_drops(host: Host) -> None:
    links = host.do(opened)
    host.run("iptables", "-P", "FORWARD", "DROP")
    rules = host.do(lambda: Rules(Netlink.open(NETFILTER), BRIDGE, BRIDGE, RANGE, links.subnet))
    _OPEN.append(rules)
    for _ in range(2):
        host.do(rules.ensure)
        found = host.do(leaks.network_of, NODE[:8])[1]
        assert found.count("rule in filter FORWARD") == 2
        assert len([what for what in found if what.startswith("rule in mill-01234567")]) == 4
    shown = host.run("iptables", "-S", "FORWARD")
    for way in ("-i", "-o"):
        assert f"-A FORWARD {way} mill-01234567 -m comment --comment mill-01234567 -j ACCEPT" in shown
    host.run("iptables", "-F", "FORWARD")
    host.do(rules.ensure)
    assert host.run("iptables", "-S", "FORWARD") == shown
    host.do(rules.remove)
    assert host.run("iptables", "-S", "FORWARD") == "-P FORWARD DROP\n"
