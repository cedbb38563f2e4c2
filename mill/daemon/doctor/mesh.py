"""What the mesh needs: links and rules of the kernel, forwarding, a range that is nobody's, firewalls that let tasks through.

What the kernel can do is tried, in a network namespace that goes with the trial. All else is only read.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import attrs

from mill.daemon.doctor.findings import Finding, ok, problem, warning
from mill.daemon.doctor.host import Host, read
from mill.network import legacy, links
from mill.network import nftables as nft
from mill.network import rtnetlink as rt
from mill.network.kernel import NETFILTER, ROUTE, Netlink, namespace, new_namespace
from mill.network.links import Names
from mill.network.rules import FILTER, accepted

_NAME, _ALIAS, _MTU, _HARDWARE, _VNI, _PORT = "doctor", "mill doctor", 1500, b"\x02\x42\0\0\0\1", 1, 4789
_MODULES = {
    "bridge": "bridge",
    "veth": "veth",
    "masquerade": "nf_tables nft_chain_nat nft_masq",
    "vxlan": "vxlan",
}
"""What is tried, and the modules it may take."""
_OVERLAY = "vxlan"
_NAMES = ("iifname", "oifname")
_KEYS = {"bridge": ("meta ibrname", "meta obrname")}
"""How nft calls the two sides of a packet; to a bridge's own tables the links are its ports, and Mill's bridge is none of those."""
_FORWARD, _BRIDGED = "sys/net/ipv4/ip_forward", "sys/net/bridge/bridge-nf-call-iptables"


# -- the kernel -----------------------------------------------------------------------------------------------------


def kernel(host: Host) -> Iterator[Finding]:
    del host
    with ThreadPoolExecutor(
        1
    ) as thread:  # a namespace is a thread's: one of its own, that serves nothing else
        yield from judge_kernel(thread.submit(_refused).result())


def judge_kernel(refused: Mapping[str, str]) -> Iterator[Finding]:
    """*refused* says why, by what was tried."""
    for what, why in refused.items():
        module = _MODULES.get(what, "")
        if what == _OVERLAY:
            found = (
                f"the kernel refuses a vxlan ({why}): tasks of several nodes cannot reach each other by it"
            )
            yield warning("mesh", found, f"modprobe {module}, or --mesh-link routes where nodes share a link")
        else:
            found = f"the kernel refuses a {what} ({why}): tasks of network mesh cannot start"
            advice = f"modprobe {module}" if module else "give milld the right to make network namespaces"
            yield warning("mesh", found, f"{advice}; tasks of network host and none do without")
    if not refused:
        yield ok("mesh", f"the kernel has {', '.join(_MODULES)}")


def _refused() -> dict[str, str]:
    home = namespace()
    try:
        with new_namespace(home) as made:
            try:
                return _tried(made)
            finally:
                os.close(made)
    except OSError as error:
        return {"network namespace": error.strerror or str(error)}
    finally:
        os.close(home)


def _tried(made: int) -> dict[str, str]:
    with closing(Netlink.open(ROUTE)) as route, closing(Netlink.open(NETFILTER)) as rules:
        tries: dict[str, Callable[[], None]] = {
            "bridge": lambda: route.do(*rt.new_bridge(_NAME, _ALIAS, _MTU, _HARDWARE)),
            "veth": lambda: route.do(*rt.new_pair(f"{_NAME}0", _ALIAS, 0, _MTU, made, _HARDWARE)),
            "masquerade": lambda: rules.do_together(
                nft.new_table(_NAME),
                nft.new_chain(_NAME, _NAME, "nat", nft.POSTROUTING, 100),
                nft.new_rule(_NAME, _NAME, nft.masquerade(), comment=_NAME),
            ),
            "vxlan": lambda: route.do(*rt.new_vxlan(f"{_NAME}x", _ALIAS, _HARDWARE, _MTU, _VNI, _PORT)),
        }
        refused = {}
        for what, attempt in tries.items():
            try:
                attempt()
            except OSError as error:
                refused[what] = error.strerror or str(error)
        return refused


# -- forwarding -----------------------------------------------------------------------------------------------------


def forwarding(host: Host) -> Iterator[Finding]:
    path = host.proc / _FORWARD
    on = read(path).strip() == "1"
    runs = host.milld_of(host.data_dir) is not None
    yield judge_forwarding(on=on, writable=os.access(path, os.W_OK), runs=runs)


def judge_forwarding(*, on: bool, writable: bool, runs: bool) -> Finding:
    """*runs*: a milld that turns it on, if it can."""
    if on:
        return ok("forwarding", "IPv4 is forwarded")
    if not writable:
        found = (
            "IPv4 is not forwarded, and that cannot be changed from here: tasks of network mesh cannot start"
        )
        return warning("forwarding", found, "on the host itself: sysctl -w net.ipv4.ip_forward=1")
    if runs:
        found = (
            "IPv4 is not forwarded although milld turns that on: tasks of network mesh reach nobody outside"
        )
        return warning("forwarding", found, "see what sets net.ipv4.ip_forward to 0, as in /etc/sysctl.d")
    return ok("forwarding", "IPv4 is not forwarded; milld turns that on")


# -- the range ------------------------------------------------------------------------------------------------------


def routes(host: Host) -> Iterator[Finding]:
    range_ = host.config.mesh_cidr
    with closing(Netlink.open(ROUTE)) as route:
        known = {link.index: link for link in map(rt.read_link, route.dump(rt.get_links()))}
        found = [rt.read_route(answer) for answer in route.dump(rt.get_routes())]
    clashes = list(links.clashes(range_, found, known))
    for to, link in clashes:
        overlaps = f"the tasks' range {range_} overlaps the route to {to} by {link}"
        yield problem("routes", overlaps, "choose another with --mesh-cidr, the same on all nodes")
    if not clashes:
        yield ok("routes", f"no route leads into the tasks' range {range_}")


# -- firewalls ------------------------------------------------------------------------------------------------------


@attrs.frozen
class Firewall:
    """What becomes of forwarded packets. *lets_tasks* None: no milld runs that could."""

    foreign: tuple[nft.Chain, ...] = ()
    """Chains that drop them, and that Mill cannot open."""
    drops: bool = False
    """iptables' FORWARD does, as Docker has it."""
    no_tool: bool = False
    """It is that of the old iptables, and their tool is missing."""
    bridged: bool = False
    """br_netfilter is on: what one task says to another on the same node is forwarded, too."""
    lets_tasks: bool | None = None


def firewall(host: Host) -> Iterator[Finding]:
    with closing(Netlink.open(NETFILTER)) as netlink:
        chains = [nft.read_hooked(answer) for answer in netlink.dump(nft.get_hooked())]
        drops = [
            one for one in chains if one is not None and one.hook == nft.FORWARD and one.policy == nft.DROP
        ]
        bridge = Names(host.node_id[:8]).bridge
        there = accepted(netlink, bridge) if host.node_id else False
    own = [one for one in drops if (one.family, one.table, one.name) == ("ip", FILTER, "FORWARD")]
    old = legacy.drops()
    runs = host.milld_of(host.data_dir) is not None
    yield from judge_firewall(
        Firewall(
            foreign=tuple(one for one in drops if one not in own),
            drops=bool(own) or old,
            no_tool=old and host.which(legacy.TOOL) is None,
            bridged=read(host.proc / _BRIDGED).strip() == "1",
            lets_tasks=(there or not own) and (legacy.accepts(bridge) or not old) if runs else None,
        )
    )


def judge_firewall(seen: Firewall) -> Iterator[Finding]:
    whom = "nobody outside, and each other neither (br_netfilter is on)" if seen.bridged else "nobody outside"
    for chain in seen.foreign:
        where = f"{chain.family} {chain.table} {chain.name}"
        yield warning(
            "firewall",
            f"the chain {where} drops what is forwarded, whatever other tables accept: tasks of network mesh reach {whom}",
            "let tasks through, there and where that firewall keeps its rules:",
            *(f'nft insert rule {where} {key} "mill-*" accept' for key in _KEYS.get(chain.family, _NAMES)),
        )
    if seen.no_tool:
        found = f"FORWARD of the old iptables drops what is forwarded: tasks of network mesh reach {whom}"
        yield warning(
            "firewall", found, f"apt-get install iptables: milld lets tasks through by {legacy.TOOL}"
        )
    elif seen.drops and seen.lets_tasks is False:
        found = f"FORWARD drops what is forwarded, and Mill's rules are missing there: tasks of network mesh reach {whom}"
        yield warning(
            "firewall", found, "milld puts them there within seconds; if it does not, its log says why"
        )
    elif seen.drops:
        does = "milld lets tasks through" if seen.lets_tasks is None else "Mill's rules let tasks through"
        yield ok("firewall", f"FORWARD drops what is forwarded, as Docker has it; {does}")
    elif not seen.foreign:
        yield ok("firewall", "nothing drops what is forwarded")
