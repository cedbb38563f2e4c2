"""A web server that does as the test says: answers as written, breaks off, stalls, floods. For the tests of pulling.

Each connection carries one request. A handler writes to the stream itself or returns a `Reply`; what was asked is kept.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial

import attrs
import trio

from mill.containerd.oci import digest_of


@attrs.frozen
class Asked:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def first_byte(self) -> int:
        """Where the range asked for begins, 0 without one."""
        return int(self.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")[0])


@attrs.frozen
class Reply:
    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = attrs.field(factory=dict)
    length: int | None = None
    """What Content-Length says, where that is not the truth."""

    def head(self) -> bytes:
        fields = {
            "Content-Length": str(len(self.body) if self.length is None else self.length),
            "Connection": "close",
        }
        lines = [f"HTTP/1.1 {self.status} X", *(f"{k}: {v}" for k, v in {**fields, **self.headers}.items())]
        return "\r\n".join([*lines, "", ""]).encode()


Handler = Callable[[Asked, trio.SocketStream], Awaitable[Reply | None]]


@attrs.define
class Server:
    host: str
    asked: list[Asked] = attrs.field(factory=list)
    open_connections: int = 0

    def paths(self, part: str = "") -> list[str]:
        return [request.path for request in self.asked if part in request.path]


@asynccontextmanager
async def serving(handler: Handler, *, name: str = "127.0.0.1") -> AsyncGenerator[Server]:
    """A server on a free loopback port, known as *name*."""
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        server = Server(f"{name}:{listeners[0].socket.getsockname()[1]}")
        nursery.start_soon(partial(trio.serve_listeners, partial(_converse, server, handler), listeners))
        yield server
        nursery.cancel_scope.cancel()


async def _converse(server: Server, handler: Handler, stream: trio.SocketStream) -> None:
    server.open_connections += 1
    try:
        asked = await _receive(stream)
        if asked is None:
            return
        server.asked.append(asked)
        reply = await handler(asked, stream)
        if reply is not None:
            await stream.send_all(reply.head() + reply.body)
    except trio.BrokenResourceError:
        pass  # the client had enough
    finally:
        server.open_connections -= 1
        await trio.aclose_forcefully(stream)


async def _receive(stream: trio.SocketStream) -> Asked | None:
    data = b""
    while b"\r\n\r\n" not in data:
        more = await stream.receive_some()
        if not more:
            return None
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", "0")):
        body += await stream.receive_some()
    return Asked(method, path, headers, body)


async def wait_closed(stream: trio.SocketStream) -> None:
    """Until the client closes."""
    try:
        while await stream.receive_some():
            pass
    except trio.BrokenResourceError:
        pass


def partial_content(data: bytes, first: int) -> Reply:
    """The right answer to a range request."""
    if not first:
        return Reply(body=data)
    return Reply(206, data[first:], {"Content-Range": f"bytes {first}-{len(data) - 1}/{len(data)}"})


def blob_path(data: bytes) -> str:
    return f"/v2/x/y/blobs/{digest_of(data)}"
