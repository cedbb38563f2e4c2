"""What the mesh needs, judged on this kernel and in network namespaces that are broken on purpose."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from mill.config import Config
from mill.daemon.datadir import LOCK_NAME, NODE_NAME
from mill.daemon.doctor import mesh
from mill.daemon.doctor.findings import Finding
from mill.daemon.doctor.host import Host
from mill.network import legacy
from mill.network import nftables as nft
from mill.network.kernel import NETFILTER, Netlink
from mill.network.netlink import CREATE, Request, big, nested, text
from mill.network.rules import Rules
from tests import world
from tests.world import hosts

NODE = "0123456789abcdef"
BRIDGE = "mill-01234567"
RANGE = IPv4Network("10.99.0.0/16")


@pytest.fixture
def home() -> Iterator[world.Host]:
    with hosts("10.250.5.1/24") as [home]:
        yield home


@contextmanager
def running(folder: Path) -> Iterator[Host]:
    """A host on which a milld runs, as far as its data directory can tell."""
    (folder / NODE_NAME).write_text(NODE)
    with (folder / LOCK_NAME).open("w") as lock:
        lock.write(str(os.getpid()))
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield Host(Config(data_dir=folder))


def only(findings: Iterator[Finding]) -> Finding:
    (finding,) = findings
    assert bool(finding.advice) is (finding.level != "ok")
    return finding


# -- the kernel -----------------------------------------------------------------------------------------------------


def test_this_kernel_has_what_tasks_networks_are_made_of_and_nothing_of_the_trial_stays(
    home: world.Host,
) -> None:
    finding = home.do(lambda: only(mesh.kernel(Host(Config()))))
    assert (finding.level, finding.found) == ("ok", "the kernel has bridge, veth, masquerade, vxlan")
    assert "doctor" not in home.run("ip", "link") + home.run("iptables", "-t", "nat", "-S")
    assert not list(Path("/sys/class/net").glob("doctor*"))


def test_each_thing_that_the_kernel_refuses_is_named_with_its_module() -> None:
    why = "Operation not supported"
    found = list(
        mesh.judge_kernel({"bridge": why, "masquerade": why, "vxlan": why, "network namespace": why})
    )
    assert [str(one.level) for one in found] == ["warning"] * 4
    for one, advice in zip(
        found, ("modprobe bridge;", "nft_masq", "--mesh-link routes", "the right"), strict=True
    ):
        assert why in one.found
        assert advice in one.advice[0]


# -- forwarding and routes ------------------------------------------------------------------------------------------


def test_forwarding_that_is_off_is_milld_s_to_turn_on_unless_somebody_turns_it_off_again(
    home: world.Host, tmp_path: Path
) -> None:
    home.run("sysctl", "-w", "net.ipv4.ip_forward=0")
    finding = home.do(lambda: only(mesh.forwarding(Host(Config(data_dir=tmp_path)))))
    assert (finding.level, "milld turns that on" in finding.found) == ("ok", True)
    with running(tmp_path) as host:
        finding = home.do(lambda: only(mesh.forwarding(host)))
        assert (finding.level, "ip_forward" in finding.advice[0]) == ("warning", True)
        home.run("sysctl", "-w", "net.ipv4.ip_forward=1")
        finding = home.do(lambda: only(mesh.forwarding(host)))
        assert (finding.level, finding.found) == ("ok", "IPv4 is forwarded")
    locked = mesh.judge_forwarding(on=False, writable=False, runs=False)
    assert (locked.level, "sysctl -w" in locked.advice[0]) == ("warning", True)


def test_a_route_into_the_range_is_named(home: world.Host) -> None:
    host = Host(Config())
    finding = home.do(lambda: only(mesh.routes(host)))
    assert (finding.level, finding.found) == ("ok", "no route leads into the tasks' range 10.99.0.0/16")
    home.run("ip", "route", "add", "10.96.0.0/12", "via", "10.250.5.2")
    finding = home.do(lambda: only(mesh.routes(host)))
    assert finding.level == "problem"
    assert finding.found == "the tasks' range 10.99.0.0/16 overlaps the route to 10.96.0.0/12 by up0"
    assert "--mesh-cidr" in finding.advice[0]


# -- firewalls ------------------------------------------------------------------------------------------------------


def looked(home: world.Host, host: Host) -> Finding:
    return home.do(lambda: only(mesh.firewall(host)))


@pytest.mark.parametrize("tool", ["iptables-nft", "iptables-legacy"])
def test_a_forward_that_drops_is_told_with_what_milld_does_about_it(
    home: world.Host, tmp_path: Path, tool: str
) -> None:
    assert looked(home, Host(Config(data_dir=tmp_path))).found == "nothing drops what is forwarded"
    home.run(tool, "-P", "FORWARD", "DROP")
    finding = looked(home, Host(Config(data_dir=tmp_path)))
    assert (finding.level, finding.found.endswith("milld lets tasks through")) == ("ok", True)
    with running(tmp_path) as host:
        finding = looked(home, host)
        assert (finding.level, "Mill's rules are missing" in finding.found) == ("warning", True)

        def ensure() -> None:
            with closing(Netlink.open(NETFILTER)) as netlink:
                Rules(netlink, BRIDGE, BRIDGE, RANGE, IPv4Network("10.99.0.0/22")).ensure()

        home.do(ensure)
        finding = looked(home, host)
        assert (finding.level, finding.found.endswith("Mill's rules let tasks through")) == ("ok", True)


def test_what_bridges_pass_to_the_firewall_concerns_tasks_among_themselves(
    home: world.Host, tmp_path: Path
) -> None:
    home.run("iptables", "-P", "FORWARD", "DROP")
    there = Path("/proc/sys/net/bridge").is_dir()  # br_netfilter, which not every kernel has
    with running(tmp_path) as host:
        for value in (0, 1) if there else ():
            home.run("sysctl", "-w", f"net.bridge.bridge-nf-call-iptables={value}")
            assert ("br_netfilter is on" in looked(home, host).found) is bool(value)
    (on,) = mesh.judge_firewall(mesh.Firewall(drops=True, bridged=True, lets_tasks=False))
    assert "br_netfilter is on" in on.found


def test_the_old_iptables_need_their_tool(home: world.Host, tmp_path: Path) -> None:
    home.run("iptables-legacy", "-P", "FORWARD", "DROP")
    finding = looked(home, Host(Config(data_dir=tmp_path), path="/no/such/folder"))
    assert (finding.level, legacy.TOOL in finding.advice[0]) == ("warning", True)


def test_a_chain_of_somebody_else_s_that_drops_is_named_with_the_rules_that_open_it(
    home: world.Host, tmp_path: Path
) -> None:
    def drop() -> None:
        said = (
            text(1, "strict"),
            text(3, "through"),
            nested(4, big(1, nft.FORWARD), big(2, 0)),
            text(7, "filter"),
        )
        with closing(Netlink.open(NETFILTER)) as netlink:
            chain = Request((10 << 8) | 3, b"\2\0\0\0" + b"".join(said) + big(5, nft.DROP), CREATE)
            netlink.do_together(nft.new_table("strict"), chain)

    home.do(drop)
    finding = looked(home, Host(Config(data_dir=tmp_path)))
    assert finding.level == "warning"
    assert "the chain ip strict through drops what is forwarded" in finding.found
    assert finding.advice[1:] == (
        'nft insert rule ip strict through iifname "mill-*" accept',
        'nft insert rule ip strict through oifname "mill-*" accept',
    )
    bridge = nft.Chain("bridge", "filter", "forward", nft.FORWARD, nft.DROP)
    (finding,) = mesh.judge_firewall(mesh.Firewall(foreign=(bridge,)))
    assert finding.advice[1] == 'nft insert rule bridge filter forward meta ibrname "mill-*" accept'
