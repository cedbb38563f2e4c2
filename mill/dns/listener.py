"""The two sockets of an address that DNS is asked at, UDP and TCP on one port. Used by `service`; the daemon binds early."""

import errno
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import ip_address
from socket import (
    AF_INET,
    AF_INET6,
    IPPROTO_IP,
    IPPROTO_IPV6,
    IPV6_RECVPKTINFO,
    SO_RCVBUF,
    SO_REUSEADDR,
    SOCK_DGRAM,
    SOCK_STREAM,
    SOL_SOCKET,
)
from socket import socket as Socket  # noqa: N812 -- a class
from typing import Any, Self

import attrs

from mill.dns.limits import RECEIVE_BUFFER_BYTES
from mill.dns.upstream import Address
from mill.errors import SetupError
from mill.units import parse_address

QUERY_BYTES = 4096
"""A name, and options: a datagram that is longer is no query."""
BACKLOG = 128
_SO_RCVBUFFORCE = 33
"""Past the host's limit, which fits programs that do nothing but wait for datagrams (asm-generic/socket.h)."""
_IP_PKTINFO = 8
_ANCILLARY_BYTES = 128
_PORT_TRIES = 20

Sender = tuple[Any, Iterable[Any]]
"""Where a datagram came from, and by which of our addresses, as the kernel takes both back."""


@attrs.frozen(eq=False)
class Listener:
    """Both sockets, bound. `everywhere`: on all addresses; an answer must then leave by the one that was asked."""

    udp: Socket
    tcp: Socket
    everywhere: bool

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.udp.close()
        self.tcp.close()

    @property
    def address(self) -> Address:
        host, port = self.tcp.getsockname()[:2]
        return host, port

    @property
    def shown(self) -> str:
        """The address, as people write it."""
        host, port = self.address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def receive(self) -> tuple[bytes, Sender]:
        """The next datagram; `OSError` if there is none for now."""
        if not self.everywhere:
            wire, client = self.udp.recvfrom(QUERY_BYTES)
            return wire, (client, ())
        wire, ancillary, _, client = self.udp.recvmsg(QUERY_BYTES, _ANCILLARY_BYTES)
        return wire, (client, ancillary)

    def send(self, wire: bytes, sender: Sender) -> None:
        """Lost if the kernel cannot take it, as any datagram may be."""
        client, ancillary = sender
        with suppress(OSError):
            if ancillary:
                self.udp.sendmsg([wire], ancillary, 0, client)
            else:
                self.udp.sendto(wire, client)


def bind(listen: str) -> Listener:
    """The sockets of *listen*, or `SetupError` that says why not; with port 0 one that is free for both."""
    host, port = parse_address(listen)
    family = AF_INET6 if ":" in host else AF_INET
    for tries_left in reversed(range(1 if port else _PORT_TRIES)):
        listener = Listener(
            Socket(family, SOCK_DGRAM), Socket(family, SOCK_STREAM), ip_address(host).is_unspecified
        )
        try:
            _bind(listener, host, port)
        except OSError as error:
            listener.__exit__()
            if error.errno != errno.EADDRINUSE:
                raise SetupError(f"cannot listen on {listen} for DNS: {error.strerror}") from None
            if not tries_left:
                raise SetupError(
                    f"{listen} (DNS) is in use: stop what listens there, or choose another with --dns-listen"
                ) from None
        else:
            return listener
    raise AssertionError  # the last try returns or raises


def _bind(listener: Listener, host: str, port: int) -> None:
    listener.tcp.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1)
    listener.tcp.bind((host, port))
    listener.udp.bind((host, listener.address[1]))
    listener.tcp.listen(BACKLOG)
    try:
        listener.udp.setsockopt(SOL_SOCKET, _SO_RCVBUFFORCE, RECEIVE_BUFFER_BYTES)
    except OSError:  # without CAP_NET_ADMIN: as much as the host allows
        listener.udp.setsockopt(SOL_SOCKET, SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    if listener.everywhere:
        listener.udp.setsockopt(IPPROTO_IP, _IP_PKTINFO, 1)
        if listener.udp.family == AF_INET6:
            listener.udp.setsockopt(IPPROTO_IPV6, IPV6_RECVPKTINFO, 1)
    listener.udp.setblocking(False)
    listener.tcp.setblocking(False)
