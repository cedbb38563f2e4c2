"""The node's bridge, the tasks' links on it, and the ways to other nodes. Blocking: called in the network's thread only.

Everything of ours is recognised by its name, which holds the node's id: two nodes may share a host, and what a killed milld
left is found again.
"""

import errno
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import attrs
import structlog

from mill.errors import SetupError
from mill.network import rtnetlink as rt
from mill.network.addresses import Peer, first_free, gateway_of, hardware_address
from mill.network.kernel import ROUTE, Netlink, namespace, new_namespace

PREFIX = "mill"
_FORWARD = Path("/proc/sys/net/ipv4/ip_forward")
LEAST_MTU, USUAL_MTU, LOOPBACK_MTU = 576, 1500, 65536
OVERLAY_BYTES = 50
"""What VXLAN puts around each packet (RFC 7348): Ethernet, IP, UDP and its own header."""
VNI = 4400
_TASK = re.compile(r"mill node (?P<node>[0-9a-f]{8}) (?P<address>[0-9.]+)")
"""As `Names.alias` has it."""

log = structlog.get_logger()


@attrs.frozen
class Names:
    """Of one node's links: at most 15 characters each (IFNAMSIZ)."""

    node: str
    """The first eight characters of the node's id."""

    @property
    def bridge(self) -> str:
        return f"{PREFIX}-{self.node}"

    @property
    def vxlan(self) -> str:
        return f"{PREFIX}x{self.node}"

    @property
    def table(self) -> str:
        return f"{PREFIX}-{self.node}"

    def task(self, address: IPv4Address) -> str:
        """``m`` and the node, then the last ten bits of the address, which the node's subnet leaves free."""
        return f"m{self.node}{int(address) & 0x3FF:03x}"

    def alias(self, address: IPv4Address) -> str:
        """Of the same link: whose it is, for people, and for other nodes of this host."""
        return f"mill node {self.node} {address}"

    def owns(self, name: str) -> bool:
        return name.startswith(f"m{self.node}")


@attrs.define
class Links:
    """What the kernel has of one node's network; every method may be called again and then changes nothing."""

    _netlink: Netlink
    _home: int
    names: Names
    subnet: IPv4Network
    range: IPv4Network
    mtu: int
    port: int
    _bridge: rt.Link | None = None
    _peers: tuple[tuple[Peer, bool], ...] = ()
    """Each with whether VXLAN leads to it."""

    @property
    def gateway(self) -> IPv4Address:
        return gateway_of(self.subnet)

    def close(self) -> None:
        self._netlink.close()
        os.close(self._home)

    # -- the bridge -------------------------------------------------------------------------------------------------

    def ensure(self) -> None:
        """The bridge with its address and whatever was on it, the ways to the peers, and forwarding."""
        if _FORWARD.read_text(encoding="ascii").strip() != "1":
            _FORWARD.write_text("1")
        bridge = self._find(self.names.bridge)
        again = self._bridge is not None and (bridge is None or bridge.index != self._bridge.index)
        if bridge is None:
            alias = f"mill node {self.names.node}"
            self._netlink.do(
                *rt.new_bridge(self.names.bridge, alias, self.mtu, hardware_address(self.gateway))
            )
            bridge = self._get(self.names.bridge)
        elif not bridge.up:
            self._netlink.do(rt.up(self.names.bridge))
        self._bridge = bridge
        found = [rt.read_address(answer) for answer in self._netlink.dump(rt.get_addresses())]
        if (bridge.index, self.gateway) not in {(index, address) for index, address, _ in found}:
            self._netlink.do(rt.new_address(bridge.index, self.gateway, self.subnet.prefixlen))
            again = True
        if again:
            self._take_back(bridge.index)
            self._lead_to_peers()
        elif self._peers:
            self._lead_to_peers()

    def _take_back(self, bridge: int) -> None:
        """Onto a bridge that was made anew come the links of the tasks that run."""
        mine = [link for link in self._links() if self.names.owns(link.name) and link.master != bridge]
        if mine:
            self._netlink.do(*(rt.enslave(link.index, bridge) for link in mine))
            log.warning("the tasks' links were put back on the bridge", count=len(mine))

    def remove(self) -> None:
        """Everything of this node's."""
        for link in self._links():
            if self.names.owns(link.name):
                self._netlink.do(rt.delete_link(link.name))
        self.set_peers((), "vxlan")
        self._netlink.do(rt.delete_link(self.names.bridge))

    # -- tasks ------------------------------------------------------------------------------------------------------

    def attach(self, address: IPv4Address) -> int:
        """A new network namespace with *address*, ready for a task; its descriptor."""
        try:
            return self._attach(address)
        except FileExistsError:  # one that its task's end has not taken away yet
            self.detach(address)
            return self._attach(address)

    def _attach(self, address: IPv4Address) -> int:
        assert self._bridge is not None  # noqa: S101 -- `ensure` comes first
        with new_namespace(self._home) as made:
            try:
                inside = Netlink.open(ROUTE)
                try:
                    self._netlink.do(*rt.new_pair(
                        self.names.task(address), self.names.alias(address),
                        self._bridge.index, self.mtu, made, hardware_address(address),
                    ))  # fmt: skip
                    self._furnish(inside, address)
                finally:
                    inside.close()
            except BaseException:
                os.close(made)
                raise
        return made

    def _furnish(self, inside: Netlink, address: IPv4Address) -> None:
        """Of the namespace's own: loopback, the address, the way out."""
        inside.do(rt.without_link_local("eth0"), rt.up("eth0"), rt.up("lo"))
        index = rt.read_link(inside.ask(rt.get_link("eth0"))).index
        out = rt.Route(IPv4Network("0.0.0.0/0"), index, self.gateway)
        inside.do(rt.new_address(index, address, self.subnet.prefixlen), rt.new_route(out))

    def detach(self, address: IPv4Address) -> None:
        """Nothing reaches that address any more, whoever still holds its namespace."""
        self._netlink.do(rt.delete_link(self.names.task(address)))

    def sweep(self, kept: Iterable[IPv4Address]) -> int:
        """Links of this node's tasks without those of *kept* go; how many did."""
        names = {self.names.task(address) for address in kept}
        stray = [link.name for link in self._links() if self.names.owns(link.name) and link.name not in names]
        for name in stray:
            self._netlink.do(rt.delete_link(name))
        return len(stray)

    # -- other nodes ------------------------------------------------------------------------------------------------

    def set_peers(self, peers: Iterable[Peer], how: str) -> None:
        """These are the other nodes from now on; *how* is vxlan, routes, or auto: routes to those on a common link."""
        self._peers = tuple(
            (peer, how == "vxlan" or (how == "auto" and not self._near(peer))) for peer in peers
        )
        self._lead_to_peers()

    def _near(self, peer: Peer) -> bool:
        """Whether no gateway is between us."""
        route = rt.read_route(self._netlink.ask(rt.get_route_to(peer.address)))
        return route is not None and route.via is None

    def _lead_to_peers(self) -> None:
        device = self._overlay()
        wanted = {route.to: route for route in self._ways(device)}
        for route in self._own_routes():
            if wanted.get(route.to) != route:
                self._netlink.do(rt.delete_route(route))
            else:
                del wanted[route.to]
        if device is not None:
            self._tell_overlay(device)
        self._netlink.do(*(rt.new_route(route) for route in wanted.values())) if wanted else None

    def _ways(self, device: int | None) -> Iterator[rt.Route]:
        for peer, overlay in self._peers:
            if overlay and device is not None:
                yield rt.Route(peer.subnet, device, peer.subnet.network_address, self.gateway)
                continue
            try:
                route = rt.read_route(self._netlink.ask(rt.get_route_to(peer.address)))
            except OSError as error:
                log.warning("a peer cannot be reached", peer=str(peer.address), why=error.strerror)
                continue
            if route is not None:
                yield rt.Route(peer.subnet, route.index, peer.address, self.gateway)

    def _own_routes(self) -> list[rt.Route]:
        routes = [rt.read_route(answer) for answer in self._netlink.dump(rt.get_routes())]
        return [
            route for route in routes if route and route.protocol == rt.OURS and route.source == self.gateway
        ]

    def _overlay(self) -> int | None:
        """The VXLAN's index, made or removed as there is use for it."""
        device = self._find(self.names.vxlan)
        if not any(overlay for _, overlay in self._peers):
            self._netlink.do(rt.delete_link(self.names.vxlan)) if device is not None else None
            return None
        if device is None:
            own = hardware_address(self.subnet.network_address)
            self._netlink.do(
                *rt.new_vxlan(self.names.vxlan, f"mill node {self.names.node}", own, self.mtu, VNI, self.port)
            )
            device = self._get(self.names.vxlan)
        return device.index

    def _tell_overlay(self, device: int) -> None:
        """Who is where: each peer's end of the overlay has its subnet's first address, and the hardware address of that."""
        wanted = {
            (hardware_address(peer.subnet.network_address), peer.address): peer.subnet.network_address
            for peer, overlay in self._peers
            if overlay
        }
        found = {
            (hardware, underlay)
            for index, hardware, underlay in map(
                rt.read_forwarding, self._netlink.dump(rt.get_forwarding(device))
            )
            if index == device and underlay is not None
        }
        for hardware, underlay in found - wanted.keys():
            self._netlink.do(rt.forwarding(device, hardware, underlay, gone=True))
        for (hardware, underlay), end in wanted.items():
            self._netlink.do(rt.forwarding(device, hardware, underlay), rt.neighbour(device, end, hardware))

    # -- looking ----------------------------------------------------------------------------------------------------

    def _links(self) -> list[rt.Link]:
        return [rt.read_link(answer) for answer in self._netlink.dump(rt.get_links())]

    def _find(self, name: str) -> rt.Link | None:
        try:
            return self._get(name)
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise
            return None

    def _get(self, name: str) -> rt.Link:
        return rt.read_link(self._netlink.ask(rt.get_link(name)))


def open_links(
    node_id: str,
    range_: IPv4Network,
    subnet: IPv4Network | None,
    *,
    fixed: bool = False,
    peers: Iterable[IPv4Network] = (),
    overlay: bool,
    underlay: str,
    port: int,
) -> Links:
    """The node's network as it will be: nothing is made yet. *subnet* None, or another Mill's and not *fixed*: the first
    that is free, and none of *peers*.

    Another Mill's is also what tasks of its have addresses of: they go on while its milld is dead, and without its bridge.
    `SetupError` when the range is in use by somebody else.
    """
    names = Names(node_id[:8])
    with closing(Netlink.open(ROUTE)) as looking:
        links = {link.index: link for link in map(rt.read_link, looking.dump(rt.get_links()))}
        addresses = list(map(rt.read_address, looking.dump(rt.get_addresses())))
        routes = [rt.read_route(answer) for answer in looking.dump(rt.get_routes())]
    _check_unused(range_, routes, links)
    others = [net for at, _, net in addresses if at in links and links[at].name != names.bridge]
    others += _of_other_nodes_tasks(links.values(), names)
    avoided = others if fixed else [*others, *peers]
    if subnet is not None and any(subnet.overlaps(other) for other in avoided):
        if fixed:
            raise SetupError(
                f"{subnet} is another node's on this host: choose a free part with --mesh-subnet"
            )
        subnet = None
    subnet = subnet or first_free(range_, avoided)
    if subnet is None:
        raise SetupError(f"no part of {range_} is free: other nodes on this host have them all")
    under = next(
        (links[at].mtu for at, address, _ in addresses if at in links and str(address) == underlay), USUAL_MTU
    )
    mtu = (under if under < LOOPBACK_MTU else USUAL_MTU) - (OVERLAY_BYTES if overlay else 0)
    return Links(Netlink.open(ROUTE), namespace(), names, subnet, range_, max(LEAST_MTU, mtu), port)


def _of_other_nodes_tasks(links: Iterable[rt.Link], names: Names) -> Iterator[IPv4Network]:
    for link in links:
        match = _TASK.fullmatch(link.alias)
        if match is not None and match["node"] != names.node:
            yield IPv4Network(match["address"])


def living(node_id: str, addresses: Iterable[IPv4Address]) -> list[IPv4Address]:
    """Those of *addresses* that a task of the node is on the network with."""
    names = Names(node_id[:8])
    with closing(Netlink.open(ROUTE)) as looking:
        there = {link.name: link.alias for link in map(rt.read_link, looking.dump(rt.get_links()))}
    return [address for address in addresses if there.get(names.task(address)) == names.alias(address)]


def _check_unused(
    range_: IPv4Network, routes: Iterable[rt.Route | None], links: Mapping[int, rt.Link]
) -> None:
    for to, name in clashes(range_, routes, links):
        message = f"the tasks' range {range_} overlaps the route to {to} by {name}"
        raise SetupError(f"{message}: choose another with --mesh-cidr")


def clashes(
    range_: IPv4Network, routes: Iterable[rt.Route | None], links: Mapping[int, rt.Link]
) -> Iterator[tuple[IPv4Network, str]]:
    """Where somebody else's routes into *range_* lead, and by which link. *links* by their index."""
    for route in routes:
        if route is not None and _foreign(route, links) and route.to.overlaps(range_):
            yield route.to, links[route.index].name if route.index in links else f"link {route.index}"


def _foreign(route: rt.Route, links: Mapping[int, rt.Link]) -> bool:
    """Neither the way out nor of any Mill."""
    by = links.get(route.index)
    ours = route.protocol == rt.OURS or (by is not None and by.name.startswith(PREFIX))
    return bool(route.to.prefixlen) and not ours
