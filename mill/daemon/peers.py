"""HTTP to other nodes: mutual TLS by the cluster's secret, and the answer as a stream. The daemon's parts that talk to peers call it.

The node asked is named by its id: who answers at its address with another's certificate is not talked to. Each node has
connections of its own, which are kept, for as long as this node's certificate and whom it trusts stay the same. Whatever goes
wrong is `Unreachable`, one line.
"""

import math
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

import attrs
import httpx
import trio

from mill.cluster.values import Address, NodeId
from mill.errors import Unavailable
from mill.security.certificates import node_name
from mill.security.channel import Channels

CONNECT_S = 3.0
"""For TCP and TLS: two lost packets, and a busy node."""
ANSWER_S = 10.0
"""Up to the beginning of an answer, unless the caller says otherwise."""
KEPT_S = 60.0
"""Of an idle connection; below the server's own."""
KEPT_CONNECTIONS = 4
CLOSE_S = 0.5
_KEEPALIVE = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 20),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
)
"""For a connection that alone is lost, within 35 s: that a node is gone its membership says sooner (`seat.hang_up`)."""
_STRANGER = "is not of this cluster, or has another secret"


class Unreachable(Unavailable):
    """No answer of that node. *begun*: it may have read, and acted on, some of the request."""

    def __init__(self, message: str, *, begun: bool = True) -> None:
        super().__init__(message)
        self.begun = begun


class Stranger(Unreachable):
    """Who answers there is no node of this cluster, or not the one that was asked."""


@attrs.frozen
class Answer:
    """The head of an answer; its body comes as it is sent."""

    status: int
    headers: Mapping[str, str]
    _response: httpx.Response
    _whom: str

    def chunks(self) -> "Chunks":
        """The body, as it stands on the wire."""
        return Chunks(self._response.aiter_raw(), self._whom)

    async def read(self) -> bytes:
        return b"".join([chunk async for chunk in self.chunks()])


@attrs.define(eq=False)
class Chunks:
    """Of a body; `Unreachable` where it breaks off. No generator: who has enough just leaves it."""

    _source: AsyncIterator[bytes]
    _whom: str

    def __aiter__(self) -> "Chunks":
        return self

    async def __anext__(self) -> bytes:
        try:
            return await anext(self._source)
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise _translated(error, self._whom) from None


@attrs.define(eq=False)
class _Pool:
    """The connections to one node, by the certificate of a while. `under_way` are answers that somebody still reads."""

    key: NodeId | Address
    context: ssl.SSLContext
    client: httpx.AsyncClient
    under_way: int = 0
    leaving: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    _idle: trio.Event = attrs.field(factory=trio.Event)

    @contextmanager
    def used(self) -> Iterator[None]:
        self.under_way += 1
        try:
            yield
        finally:
            self.under_way -= 1
            if not self.under_way:
                self._idle.set()
                self._idle = trio.Event()

    async def leave(self) -> None:
        """Closed with the last answer, or when `leaving` ends."""
        with self.leaving:
            while self.under_way:
                await self._idle.wait()
        await self.close()

    async def close(self) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S):
            await self.client.aclose()


class Peers:
    """Other nodes. *address_of* knows the members."""

    def __init__(
        self, channels: Channels, address_of: Callable[[NodeId], Address | None], nursery: trio.Nursery
    ) -> None:
        self._channels = channels
        self._address_of = address_of
        self._nursery = nursery
        self._pools: dict[NodeId | Address, _Pool] = {}
        self._leaving: set[_Pool] = set()

    @asynccontextmanager
    async def open(
        self,
        node: NodeId,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | AsyncIterator[bytes] = b"",
        timeout_s: float | None = ANSWER_S,
    ) -> AsyncIterator[Answer]:
        """Ask *node* (32 hex digits); *path* with its query. *timeout_s* is for the request and the head of the answer."""
        address = self._address_of(node)
        if address is None:
            raise Unreachable(f"no address is known of node {node[:8]}", begun=False)
        async with self.open_at(
            address, method, path, node=node, headers=headers, content=content, timeout_s=timeout_s
        ) as answer:
            yield answer

    @asynccontextmanager
    async def open_at(
        self,
        address: Address,
        method: str,
        path: str,
        *,
        node: NodeId | None = None,
        headers: Mapping[str, str] | None = None,
        content: bytes | AsyncIterator[bytes] = b"",
        timeout_s: float | None = ANSWER_S,
    ) -> AsyncIterator[Answer]:
        """As `open`; without *node* whichever of the cluster is there."""
        whom = str(address) if node is None else f"node {node[:8]} at {address}"
        pool = self._pool(address if node is None else node)
        request = pool.client.build_request(
            method,
            f"https://{address}{path}",
            headers={"accept-encoding": "identity", **(headers or {})},
            content=content,
            extensions={"sni_hostname": node_name(node)},
            timeout=httpx.Timeout(None, connect=_connect_s(timeout_s)),
        )
        with pool.used():
            response = await _sent(pool.client, request, whom, timeout_s)
            try:
                yield Answer(response.status_code, response.headers, response, whom)
            finally:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S):
                    await response.aclose()

    def _pool(self, key: NodeId | Address) -> _Pool:
        context = self._channels.peer_client()
        pool = self._pools.get(key)
        if pool is None or pool.context is not context:
            if pool is not None:
                self._let_go(pool)
            pool = self._pools[key] = _Pool(key, context, _new_client(context))
        return pool

    def _let_go(self, pool: _Pool) -> None:
        self._leaving.add(pool)
        self._nursery.start_soon(self._see_off, pool)

    async def _see_off(self, pool: _Pool) -> None:
        await pool.leave()
        self._leaving.discard(pool)

    def renew(self, within_s: float = math.inf) -> None:
        """From now on by new connections. Those that are there end with what is under way on them, or *within_s*."""
        for pool in self._pools.values():
            self._let_go(pool)
        self._pools.clear()
        for pool in self._leaving:
            pool.leaving.deadline = min(pool.leaving.deadline, trio.current_time() + within_s)

    async def drop(self, node: NodeId) -> None:
        """Its connections are of no use any more: whoever waits for its answers hears so."""
        pool = self._pools.pop(node, None)
        for leaving in self._leaving:
            if leaving.key == node:
                leaving.leaving.cancel()
        if pool is not None:
            await pool.close()

    async def close(self) -> None:
        for pool in (*self._pools.values(), *self._leaving):
            await pool.close()
        self._pools.clear()


async def serve(
    channels: Channels, address_of: Callable[[NodeId], Address | None], *, task_status: trio.TaskStatus[Peers]
) -> None:
    """Connections to other nodes, until cancelled."""
    async with trio.open_nursery() as nursery:
        peers = Peers(channels, address_of, nursery)
        try:
            task_status.started(peers)
            await trio.sleep_forever()
        finally:
            await peers.close()


def _new_client(context: ssl.SSLContext) -> httpx.AsyncClient:
    limits = httpx.Limits(
        max_connections=None, max_keepalive_connections=KEPT_CONNECTIONS, keepalive_expiry=KEPT_S
    )
    transport = httpx.AsyncHTTPTransport(verify=context, limits=limits, socket_options=_KEEPALIVE)
    return httpx.AsyncClient(transport=transport, trust_env=False)


async def _sent(
    client: httpx.AsyncClient, request: httpx.Request, whom: str, timeout_s: float | None
) -> httpx.Response:
    try:
        with trio.fail_after(float("inf") if timeout_s is None else timeout_s):
            try:
                return await client.send(request, stream=True)
            except httpx.RemoteProtocolError:  # a kept connection that was closed just then (RFC 9110, 9.2.2)
                if request.method != "GET":
                    raise
            return await client.send(request, stream=True)
    except trio.TooSlowError:
        raise Unreachable(f"{whom} did not answer within {timeout_s:g} s") from None
    except (httpx.HTTPError, httpx.StreamError) as error:
        raise _translated(error, whom) from None


def _connect_s(timeout_s: float | None) -> float:
    """For TCP, and for TLS again: who is out of time gives up here, for a handshake that is cancelled leaves its socket open."""
    return CONNECT_S if timeout_s is None else min(CONNECT_S, timeout_s / 2)


def _translated(error: Exception, whom: str) -> Unreachable:
    """The complaint of httpx as one of ours."""
    deepest: BaseException = error
    while (inner := deepest.__cause__ or deepest.__context__) is not None:
        deepest = inner
        if isinstance(inner, ssl.SSLCertVerificationError) or (
            isinstance(inner, ssl.SSLError) and "ALERT" in str(inner).upper()
        ):
            return Stranger(f"{whom} {_STRANGER}", begun=False)
    text = str(error) or str(deepest)
    if isinstance(error, httpx.ConnectTimeout):
        return Unreachable(f"{whom} does not take a connection in time", begun=False)
    if isinstance(error, httpx.ConnectError):
        return Unreachable(f"{whom} cannot be reached: {text or 'no connection'}", begun=False)
    return Unreachable(f"the connection to {whom} broke: {text or type(deepest).__name__}")
