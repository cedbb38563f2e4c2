"""TLS for the server's connections: the handshake with its deadline, and a plain word to who speaks plain HTTP. Called by `server`.

It knows no certificate: a `Tls`, which the daemon plugs in, has the contexts.
"""

import json
import socket as stdlib_socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Protocol

import trio

from mill.api.problems import PROBLEM_TYPE, needs_tls

HANDSHAKE_S = 10.0
"""For a client to get through it; usual is one round trip."""
LINGER_S = 0.5
"""For a client to notice that its connection ends with the answer that it has got."""
LINGER_BYTES = 65536
Stream = trio.SSLStream[trio.SocketStream]
_TLS_HANDSHAKE = b"\x16"
"""The first byte of every TLS connection (RFC 8446, 5.1); no method of HTTP begins so."""


class Tls(Protocol):
    """As `security.channel` has it for the API, or for peers."""

    def context(self, address: str) -> ssl.SSLContext:
        """For a client that came to *address*."""

    def state(self, certificate: Mapping[str, Any] | None) -> dict[str, Any]:
        """What the application is told of the client (``scope["state"]``); ValueError for one that is let in no further."""

    def refused(self, host: str, why: str) -> None:
        """Somebody from *host* did not get through the handshake, or made none."""


async def secure(plain: trio.SocketStream, tls: Tls) -> tuple[Stream, dict[str, Any]] | None:
    """The connection after its handshake, and what is known of the client; None for one that is not to be had."""
    with trio.move_on_after(HANDSHAKE_S):
        if await _speaks_plainly(plain):
            _note(tls, plain, "it speaks without TLS")
            await _answer_plainly(plain)
            return None
        context = tls.context(plain.socket.getsockname()[0])
        stream = trio.SSLStream(plain, context, server_side=True, https_compatible=True)
        try:
            await stream.do_handshake()
            return stream, tls.state(stream.getpeercert())
        except (trio.BrokenResourceError, ValueError) as error:
            _note(tls, plain, str(error.__cause__ or error))
    return None


def _note(tls: Tls, plain: trio.SocketStream, why: str) -> None:
    with suppress(OSError):  # it may be gone altogether
        tls.refused(plain.socket.getpeername()[0], why)


async def _speaks_plainly(plain: trio.SocketStream) -> bool:
    first = await plain.socket.recv(1, stdlib_socket.MSG_PEEK)
    return first.isalpha() and first != _TLS_HANDSHAKE


async def _answer_plainly(plain: trio.SocketStream) -> None:
    """As nginx does it: nothing that was asked is done, and the word is ours, not the node's."""
    said = json.dumps(needs_tls()).encode()
    head = f"HTTP/1.1 400\r\ncontent-type: {PROBLEM_TYPE}\r\ncontent-length: {len(said)}\r\nconnection: close\r\n\r\n"
    await plain.send_all(head.encode() + said)
    await linger(plain)


async def linger(plain: trio.SocketStream, secured: Stream | None = None) -> None:
    """Take what a client still sends that has its answer: closed at once, the kernel would take the answer back."""
    with trio.move_on_after(LINGER_S):
        if secured is not None:
            with suppress(trio.BrokenResourceError):  # it closed first, or speaks on
                await secured.unwrap()
        await plain.send_eof()
        while await plain.receive_some(LINGER_BYTES):
            pass
