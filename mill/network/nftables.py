"""Tables, chains and rules of nftables as messages (linux/netfilter/nf_tables.h). Pure; `rules` says which, `kernel` sends them."""

import errno
import struct
from ipaddress import IPv4Network

import attrs

from mill.network.netlink import (
    APPEND,
    CREATE,
    Answer,
    Request,
    attribute,
    attributes,
    big,
    name_in,
    nested,
    text,
)

_SUBSYSTEM = 10 << 8
_NEW_TABLE, _DEL_TABLE, _GET_TABLE = 0, 2, 1
_NEW_CHAIN, _GET_CHAIN, _NEW_RULE, _GET_RULE, _DEL_RULE = 3, 4, 6, 7, 8
_GET_GENERATION = 16
_IPV4 = 2
_FAMILIES = {1: "inet", _IPV4: "ip", 7: "bridge"}
_HEADER = struct.pack(">BBH", _IPV4, 0, 0)
FORWARD, POSTROUTING = 2, 4
"""Numbers of netfilter's hooks (linux/netfilter.h)."""
IN_NAME, OUT_NAME = 6, 7
"""Keys of the expression meta: names of the interfaces."""
SOURCE, DESTINATION = 12, 16
"""Offsets in IPv4's header (RFC 791)."""
DROP, ACCEPT = 0, 1
_REGISTER = 1
_ESTABLISHED_OR_RELATED = 0b110
"""Bits of conntrack's state as nftables counts them: invalid, established, related."""
_GONE = frozenset({errno.ENOENT})


@attrs.frozen
class Rule:
    """One that was found: its chain, its handle, its bytes, and the comment that says whose it is."""

    chain: str
    handle: int
    comment: str


@attrs.frozen
class Chain:
    """One that a hook of the kernel leads to: *policy* is its verdict on what no rule decides."""

    family: str
    table: str
    name: str
    hook: int
    policy: int


def _request(kind: int, *said: bytes, how: int = 0, tolerated: frozenset[int] = frozenset()) -> Request:
    return Request(_SUBSYSTEM | kind, _HEADER + b"".join(said), how, tolerated)


def new_table(table: str) -> Request:
    return _request(_NEW_TABLE, text(1, table), how=CREATE)


def delete_table(table: str) -> Request:
    return _request(_DEL_TABLE, text(1, table), tolerated=_GONE)


def new_chain(table: str, chain: str, kind: str, hook: int, priority: int) -> Request:
    where = nested(4, big(1, hook), big(2, priority))
    return _request(_NEW_CHAIN, text(1, table), text(3, chain), where, text(7, kind), how=CREATE)


def new_rule(table: str, chain: str, *expressions: bytes, comment: str, first: bool = False) -> Request:
    """At the end of *chain*, or as its first."""
    said = comment.encode() + b"\0"
    userdata = attribute(7, bytes([0, len(said)]) + said)
    how = CREATE if first else CREATE | APPEND
    return _request(_NEW_RULE, text(1, table), text(2, chain), nested(4, *expressions), userdata, how=how)


def delete_rule(table: str, chain: str, handle: int) -> Request:
    return _request(
        _DEL_RULE, text(1, table), text(2, chain), attribute(3, struct.pack(">Q", handle)), tolerated=_GONE
    )


def get_chains() -> Request:
    return _request(_GET_CHAIN)


def get_hooked() -> Request:
    """The chains of all families."""
    return Request(_SUBSYSTEM | _GET_CHAIN, struct.pack(">BBH", 0, 0, 0))


def get_rules(table: str) -> Request:
    return _request(_GET_RULE, text(1, table))


def get_generation() -> Request:
    return _request(_GET_GENERATION)


def read_generation(answer: Answer) -> int:
    """The number of the rule set's last change."""
    return int.from_bytes(attributes(answer.body, len(_HEADER))[1], "big")


def read_chain(answer: Answer) -> tuple[str, str]:
    found = attributes(answer.body, len(_HEADER))
    return name_in(found[1]), name_in(found[3])


def read_hooked(answer: Answer) -> Chain | None:
    """A chain that a hook leads to, of a family that sees what is forwarded as IPv4; else None."""
    found = attributes(answer.body, len(_HEADER))
    family = _FAMILIES.get(answer.body[0])
    if family is None or 4 not in found:  # noqa: PLR2004 -- NFTA_CHAIN_HOOK
        return None
    hook = int.from_bytes(attributes(found[4])[1], "big")
    return Chain(
        family, name_in(found[1]), name_in(found[3]), hook, int.from_bytes(found.get(5, b"\1"), "big")
    )


def read_rule(answer: Answer) -> Rule:
    found = attributes(answer.body, len(_HEADER))
    userdata = found.get(7, b"")
    comment = name_in(userdata[2 : 2 + userdata[1]]) if len(userdata) > 2 and userdata[0] == 0 else ""  # noqa: PLR2004 -- type and length
    return Rule(name_in(found[2]), int.from_bytes(found[3], "big"), comment)


# -- expressions ----------------------------------------------------------------------------------------------------


def _expression(name: str, *data: bytes) -> bytes:
    return nested(1, text(1, name), nested(2, *data))


def _compare(value: bytes, *, same: bool) -> bytes:
    return _expression("cmp", big(1, _REGISTER), big(2, 0 if same else 1), nested(3, attribute(1, value)))


def _mask(mask: bytes) -> bytes:
    return _expression(
        "bitwise", big(1, _REGISTER), big(2, _REGISTER), big(3, len(mask)),
        nested(4, attribute(1, mask)), nested(5, attribute(1, bytes(len(mask)))),
    )  # fmt: skip


def interface(key: int, name: str, *, same: bool = True) -> bytes:
    """``iifname`` or ``oifname`` is, or is not, *name*."""
    return _expression("meta", big(2, key), big(1, _REGISTER)) + _compare(name.encode() + b"\0", same=same)


def address(offset: int, network: IPv4Network, *, same: bool = True) -> bytes:
    """The source or the destination is, or is not, in *network*."""
    load = _expression("payload", big(1, _REGISTER), big(2, 1), big(3, offset), big(4, 4))
    masked = _mask(network.netmask.packed) if network.prefixlen < 32 else b""  # noqa: PLR2004 -- bits of IPv4
    return load + masked + _compare(network.network_address.packed, same=same)


def answers() -> bytes:
    """Part of a connection that was allowed before."""
    load = _expression("ct", big(2, 0), big(1, _REGISTER))
    mask = _ESTABLISHED_OR_RELATED.to_bytes(4, "little")
    return load + _mask(mask) + _compare(bytes(4), same=False)


def verdict(code: int) -> bytes:
    return _expression("immediate", big(1, 0), nested(2, nested(2, big(1, code))))


def masquerade() -> bytes:
    return _expression("masq")


def counter() -> bytes:
    return _expression("counter")
