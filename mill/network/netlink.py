"""Netlink's messages as bytes, and their attributes (netlink(7)). Pure; `links` and `rules` say what is in them, `kernel` sends them.

By hand and not by a library: two dozen messages are all that Mill says, each of a few fixed fields, and a start waits for
them.
"""

import struct
from collections.abc import Iterator

import attrs

REQUEST, ACK, DUMP, EXCL, CREATE, REPLACE, APPEND = 0x1, 0x4, 0x300, 0x200, 0x400, 0x100, 0x800
ERROR, DONE = 2, 3
NESTED = 0x8000
_KIND = 0x3FFF

HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_CODE = struct.Struct("=i")


@attrs.frozen
class Request:
    """One thing asked of the kernel. Errors in `tolerated` mean that it is as it should be."""

    kind: int
    body: bytes
    flags: int = 0
    tolerated: frozenset[int] = frozenset()

    def pack(self, sequence: int, flags: int) -> bytes:
        return (
            HEADER.pack(HEADER.size + len(self.body), self.kind, self.flags | flags, sequence, 0) + self.body
        )


@attrs.frozen
class Answer:
    kind: int
    sequence: int
    body: bytes

    @property
    def error(self) -> int | None:
        """The errno of an error, 0 for an acknowledgement, None for anything else."""
        return -_CODE.unpack_from(self.body)[0] if self.kind == ERROR else None


def unpack(data: bytes) -> Iterator[Answer]:
    """The messages of one datagram."""
    at = 0
    while at + HEADER.size <= len(data):
        length, kind, _, sequence, _ = HEADER.unpack_from(data, at)
        if length < HEADER.size:
            return
        yield Answer(kind, sequence, data[at + HEADER.size : at + length])
        at += (length + 3) & ~3


def attribute(kind: int, value: bytes) -> bytes:
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def nested(kind: int, *inner: bytes) -> bytes:
    return attribute(kind | NESTED, b"".join(inner))


def text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def number(kind: int, value: int) -> bytes:
    """32 bits in the host's order, as rtnetlink has them."""
    return attribute(kind, struct.pack("=I", value))


def big(kind: int, value: int) -> bytes:
    """32 bits in network order, as nftables has them."""
    return attribute(kind, struct.pack(">i" if value < 0 else ">I", value))


def attributes(body: bytes, offset: int = 0) -> dict[int, bytes]:
    """Attributes by kind; of one that comes twice, the last."""
    found = {}
    while offset + _ATTRIBUTE.size <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if length < _ATTRIBUTE.size:
            break
        found[kind & _KIND] = body[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    return found


def name_in(value: bytes) -> str:
    """A string of the kernel's, without its NUL."""
    return value.partition(b"\0")[0].decode(errors="replace")
