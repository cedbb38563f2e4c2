"""Sockets to the kernel and the system calls for network namespaces that Python 3.11 lacks. Called by `worker`'s thread only.

Everything here blocks, for microseconds as a rule; a namespace is the calling thread's, which is why it is one thread.
"""

import ctypes
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import NoReturn

import attrs

from mill.network import netlink
from mill.network.netlink import Answer, Request

ROUTE, NETFILTER = 0, 12
ANSWER_S = 10.0
"""The kernel answers at once; it waits only for its own locks, which a busy machine may hold for a second."""
_BUFFER_BYTES = 1 << 18
_CLONE_NEWNET = 0x40000000
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NFTABLES = struct.pack(">BBH", 0, 0, 10)
"""nfgenmsg of a batch: for the subsystem nftables (linux/netfilter/nfnetlink.h)."""

_libc = ctypes.CDLL(None, use_errno=True)


@attrs.define
class Netlink:
    """One netlink socket, of the network namespace that the thread was in when it was made."""

    _socket: socket.socket
    _sequence: Iterator[int] = attrs.field(factory=lambda: count(1))

    @classmethod
    def open(cls, family: int) -> "Netlink":
        made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, family)
        made.settimeout(ANSWER_S)
        made.bind((0, 0))
        return cls(made)

    def close(self) -> None:
        self._socket.close()

    def do(self, *requests: Request) -> None:
        """All of them, in order; OSError for the first that the kernel refuses, once all are answered."""
        numbered = {next(self._sequence): request for request in requests}
        flags = netlink.REQUEST | netlink.ACK
        self._socket.send(b"".join(request.pack(number, flags) for number, request in numbered.items()))
        self._acknowledge(numbered)

    def do_together(self, *requests: Request) -> None:
        """A batch of nftables: all or nothing."""
        begin, end = (Request(kind, _NFTABLES) for kind in (_BATCH_BEGIN, _BATCH_END))
        first = next(self._sequence)
        numbered = {next(self._sequence): request for request in requests}
        flags = netlink.REQUEST | netlink.ACK
        packed = [request.pack(number, flags) for number, request in numbered.items()]
        last = end.pack(next(self._sequence), netlink.REQUEST)
        self._socket.send(b"".join([begin.pack(first, netlink.REQUEST), *packed, last]))
        self._acknowledge(numbered, first)

    def _acknowledge(self, numbered: dict[int, Request], batch: int = -1) -> None:
        waiting = dict(numbered)
        refused = 0
        while waiting:
            for answer in self._receive():
                error = answer.error
                if error is None:
                    continue
                if answer.sequence == batch and error:
                    raise OSError(error, os.strerror(error))
                request = waiting.pop(answer.sequence, None)
                if request is not None and error and error not in request.tolerated:
                    refused = refused or error
        if refused:
            raise OSError(refused, os.strerror(refused))

    def ask(self, request: Request) -> Answer:
        """The one answer to *request*."""
        number = next(self._sequence)
        self._socket.send(request.pack(number, netlink.REQUEST))
        while True:
            for answer in self._receive():
                if answer.sequence == number:
                    if answer.error:
                        raise OSError(answer.error, os.strerror(answer.error))
                    return answer

    def dump(self, request: Request) -> Sequence[Answer]:
        """All that there is of what *request* asks for."""
        number = next(self._sequence)
        self._socket.send(request.pack(number, netlink.REQUEST | netlink.DUMP))
        found: list[Answer] = []
        while True:
            for answer in self._receive():
                if answer.sequence != number:
                    continue
                if answer.error:
                    raise OSError(answer.error, os.strerror(answer.error))
                if answer.kind in {netlink.DONE, netlink.ERROR}:
                    return found
                found.append(answer)

    def _receive(self) -> list[Answer]:
        return list(netlink.unpack(self._socket.recv(_BUFFER_BYTES)))


def namespace() -> int:
    """A descriptor of the network namespace that the calling thread is in."""
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


@contextmanager
def new_namespace(home: int) -> Iterator[int]:
    """The calling thread in a new network namespace for the block, with its descriptor; then back in *home*."""
    if _libc.unshare(_CLONE_NEWNET):
        _fail()
    try:
        yield namespace()
    finally:
        if _libc.setns(home, _CLONE_NEWNET):
            _fail()


def _fail() -> NoReturn:
    error = ctypes.get_errno()
    raise OSError(error, os.strerror(error))
