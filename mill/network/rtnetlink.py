"""What is said of links, addresses, routes and neighbours (rtnetlink(7)), one function a message. Pure; `links` sends them."""

import errno
import struct
from ipaddress import IPv4Address, IPv4Network

import attrs

from mill.network.netlink import (
    CREATE,
    EXCL,
    REPLACE,
    Answer,
    Request,
    attribute,
    attributes,
    name_in,
    nested,
    number,
    text,
)

AF_INET, AF_INET6 = 2, 10
_NEW_LINK, _DEL_LINK, _GET_LINK, _SET_LINK = 16, 17, 18, 19
_NEW_ADDRESS, _GET_ADDRESS = 20, 22
_NEW_ROUTE, _DEL_ROUTE, _GET_ROUTE = 24, 25, 26
_NEW_NEIGHBOUR, _DEL_NEIGHBOUR, _GET_NEIGHBOUR = 28, 29, 30
_UP = 1
_PERMANENT = 0x80
_SELF = 2
_BRIDGE_FAMILY = 7
_MAIN_TABLE = 254
OURS = 177
"""The protocol of our routes (rtm_protocol): the kernel passes it on, people see it in `ip route`."""
_ON_LINK = 4

_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_NEIGHBOUR = struct.Struct("=BxHiHBB")

# Kinds of attributes: IFLA_, IFA_, RTA_ and NDA_ of the kernel's headers.
_L_ADDRESS, _L_NAME, _L_MTU, _L_MASTER, _L_INFO, _L_ALIAS, _L_FAMILIES, _L_NAMESPACE = (
    1,
    3,
    4,
    10,
    18,
    20,
    26,
    28,
)
_INFO_KIND, _INFO_DATA, _PEER = 1, 2, 1
_NO_LINK_LOCAL = nested(_L_FAMILIES, nested(AF_INET6, attribute(8, b"\x01")))
"""No IPv6 address of its own making: tasks have IPv4, and looking for duplicates takes a second."""
_NO_SNOOPING = attribute(23, b"\0")

_GONE = frozenset({errno.ENODEV, errno.ESRCH, errno.ENOENT, errno.EADDRNOTAVAIL})
_THERE = frozenset({errno.EEXIST})


@attrs.frozen
class Link:
    index: int
    name: str
    up: bool
    mtu: int
    master: int
    hardware: bytes
    alias: str = ""


@attrs.frozen
class Route:
    """One of the main table. `via` None: on the link itself."""

    to: IPv4Network
    index: int
    via: IPv4Address | None = None
    source: IPv4Address | None = None
    protocol: int = OURS


def _link(
    kind: int, *said: bytes, index: int = 0, flags: int = 0, how: int = 0, **more: frozenset[int]
) -> Request:
    header = _LINK.pack(0, 0, index, flags, flags)
    return Request(kind, header + b"".join(said), how, more.get("tolerated", frozenset()))


def new_bridge(name: str, alias: str, mtu: int, hardware: bytes) -> list[Request]:
    info = nested(_L_INFO, text(_INFO_KIND, "bridge"), nested(_INFO_DATA, _NO_SNOOPING))
    made = _link(
        _NEW_LINK,
        text(_L_NAME, name),
        attribute(_L_ADDRESS, hardware),
        info,
        how=CREATE | EXCL,
        tolerated=_THERE,
    )
    quiet = _link(_SET_LINK, text(_L_NAME, name), text(_L_ALIAS, alias), number(_L_MTU, mtu), _NO_LINK_LOCAL)
    return [made, quiet, up(name)]


def new_vxlan(name: str, alias: str, hardware: bytes, mtu: int, vni: int, port: int) -> list[Request]:
    """Without learning and multicast: who is where is told by `forwarding`."""
    data = nested(_INFO_DATA, number(1, vni), attribute(7, b"\0"), attribute(15, port.to_bytes(2, "big")))
    made = _link(
        _NEW_LINK, text(_L_NAME, name), attribute(_L_ADDRESS, hardware), number(_L_MTU, mtu),
        nested(_L_INFO, text(_INFO_KIND, "vxlan"), data), how=CREATE | EXCL,
    )  # fmt: skip
    quiet = _link(_SET_LINK, text(_L_NAME, name), text(_L_ALIAS, alias), _NO_LINK_LOCAL)
    return [made, quiet, up(name)]


def new_pair(name: str, alias: str, bridge: int, mtu: int, namespace: int, hardware: bytes) -> list[Request]:
    """A veth on *bridge* whose other end is ``eth0`` in *namespace*."""
    inner = _LINK.pack(0, 0, 0, 0, 0) + b"".join(
        (
            text(_L_NAME, "eth0"),
            attribute(_L_ADDRESS, hardware),
            number(_L_MTU, mtu),
            number(_L_NAMESPACE, namespace),
        )
    )
    info = nested(_L_INFO, text(_INFO_KIND, "veth"), nested(_INFO_DATA, attribute(_PEER, inner)))
    made = _link(
        _NEW_LINK,
        text(_L_NAME, name),
        number(_L_MTU, mtu),
        number(_L_MASTER, bridge),
        info,
        how=CREATE | EXCL,
    )
    return [made, _link(_SET_LINK, text(_L_NAME, name), text(_L_ALIAS, alias), _NO_LINK_LOCAL), up(name)]


def up(name: str) -> Request:
    return _link(_SET_LINK, text(_L_NAME, name), flags=_UP)


def without_link_local(name: str) -> Request:
    return _link(_SET_LINK, text(_L_NAME, name), _NO_LINK_LOCAL)


def enslave(index: int, bridge: int) -> Request:
    return _link(_SET_LINK, number(_L_MASTER, bridge), index=index, flags=_UP, tolerated=_GONE)


def delete_link(name: str) -> Request:
    return _link(_DEL_LINK, text(_L_NAME, name), tolerated=_GONE)


def get_link(name: str) -> Request:
    return _link(_GET_LINK, text(_L_NAME, name))


def get_links() -> Request:
    return _link(_GET_LINK)


def read_link(answer: Answer) -> Link:
    _, _, index, flags, _ = _LINK.unpack_from(answer.body)
    found = attributes(answer.body, _LINK.size)
    mtu, master = (int.from_bytes(found.get(kind, b""), "little") for kind in (_L_MTU, _L_MASTER))
    hardware = found.get(_L_ADDRESS, b"")
    alias = name_in(found.get(_L_ALIAS, b""))
    return Link(index, name_in(found[_L_NAME]), bool(flags & _UP), mtu, master, hardware, alias)


def new_address(index: int, address: IPv4Address, prefix: int) -> Request:
    broadcast = IPv4Network((address, prefix), strict=False).broadcast_address
    header = _ADDRESS.pack(AF_INET, prefix, 0, 0, index)
    said = attribute(2, address.packed) + attribute(1, address.packed)
    if prefix < 31:  # noqa: PLR2004 -- RFC 3021: smaller nets have none
        said += attribute(4, broadcast.packed)
    return Request(_NEW_ADDRESS, header + said, CREATE | REPLACE)


def get_addresses() -> Request:
    return Request(_GET_ADDRESS, _ADDRESS.pack(AF_INET, 0, 0, 0, 0))


def read_address(answer: Answer) -> tuple[int, IPv4Address, IPv4Network]:
    """The link's index, the address, and the network that it is in."""
    _, prefix, _, _, index = _ADDRESS.unpack_from(answer.body)
    found = attributes(answer.body, _ADDRESS.size)
    address = IPv4Address(found.get(2) or found[1])
    return index, address, IPv4Network((address, prefix), strict=False)


def _route(kind: int, route: Route, how: int = 0, tolerated: frozenset[int] = frozenset()) -> Request:
    scope = 0 if route.via is not None else 253
    flags = _ON_LINK if route.via is not None else 0
    header = _ROUTE.pack(AF_INET, route.to.prefixlen, 0, 0, _MAIN_TABLE, route.protocol, scope, 1, flags)
    said = number(4, route.index)
    if route.to.prefixlen:
        said += attribute(1, route.to.network_address.packed)
    if route.via is not None:
        said += attribute(5, route.via.packed)
    if route.source is not None:
        said += attribute(7, route.source.packed)
    return Request(kind, header + said, how, tolerated)


def new_route(route: Route) -> Request:
    return _route(_NEW_ROUTE, route, CREATE | REPLACE)


def delete_route(route: Route) -> Request:
    return _route(_DEL_ROUTE, route, tolerated=_GONE)


def get_routes() -> Request:
    return Request(_GET_ROUTE, _ROUTE.pack(AF_INET, 0, 0, 0, 0, 0, 0, 0, 0))


def get_route_to(address: IPv4Address) -> Request:
    header = _ROUTE.pack(AF_INET, 32, 0, 0, 0, 0, 0, 0, 0)
    return Request(_GET_ROUTE, header + attribute(1, address.packed))


def read_route(answer: Answer) -> Route | None:
    """A unicast route of the main table, else None."""
    _, prefix, _, _, table, protocol, _, kind, _ = _ROUTE.unpack_from(answer.body)
    found = attributes(answer.body, _ROUTE.size)
    if table != _MAIN_TABLE or kind != 1 or 4 not in found:  # noqa: PLR2004 -- RTA_OIF
        return None
    to = IPv4Network((found.get(1, b"\0\0\0\0"), prefix), strict=False)
    via = IPv4Address(found[5]) if len(found.get(5, b"")) == 4 else None  # noqa: PLR2004 -- bytes of IPv4
    source = IPv4Address(found[7]) if 7 in found else None  # noqa: PLR2004 -- RTA_PREFSRC
    return Route(to, int.from_bytes(found[4], "little"), via, source, protocol)


def _neighbour(
    kind: int, family: int, index: int, flags: int, destination: IPv4Address, hardware: bytes
) -> Request:
    header = _NEIGHBOUR.pack(family, 0, index, _PERMANENT, flags, 0)
    said = attribute(1, destination.packed) + attribute(2, hardware)
    how, tolerated = (CREATE | REPLACE, frozenset[int]()) if kind == _NEW_NEIGHBOUR else (0, _GONE)
    return Request(kind, header + said, how, tolerated)


def forwarding(index: int, hardware: bytes, underlay: IPv4Address, *, gone: bool = False) -> Request:
    """The entry of a VXLAN's forwarding table: *hardware* is behind *underlay*."""
    kind = _DEL_NEIGHBOUR if gone else _NEW_NEIGHBOUR
    return _neighbour(kind, _BRIDGE_FAMILY, index, _SELF, underlay, hardware)


def neighbour(index: int, address: IPv4Address, hardware: bytes, *, gone: bool = False) -> Request:
    return _neighbour(_DEL_NEIGHBOUR if gone else _NEW_NEIGHBOUR, AF_INET, index, 0, address, hardware)


def get_forwarding(index: int) -> Request:
    return Request(_GET_NEIGHBOUR, _LINK.pack(_BRIDGE_FAMILY, 0, index, 0, 0))


def read_forwarding(answer: Answer) -> tuple[int, bytes, IPv4Address | None]:
    """The device's index, the hardware address and the underlay's address."""
    index = _NEIGHBOUR.unpack_from(answer.body)[2]
    found = attributes(answer.body, _NEIGHBOUR.size)
    underlay = IPv4Address(found[1]) if len(found.get(1, b"")) == 4 else None  # noqa: PLR2004 -- bytes of IPv4
    return index, found.get(2, b""), underlay
