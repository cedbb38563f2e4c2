"""HTTP to other nodes: mutual TLS by the cluster's secret, and the answer as a stream. The daemon's parts that talk to peers call it.

The node asked is named by its id: who answers at its address with another's certificate is not talked to. Each node has
connections of its own, which are kept. Whatever goes wrong is `Unreachable`, one line.
"""

import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

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
    """The connections to one node, by the certificate of a while."""

    context: ssl.SSLContext
    client: httpx.AsyncClient


class Peers:
    """Other nodes. *address_of* knows the members."""

    def __init__(self, channels: Channels, address_of: Callable[[NodeId], Address | None]) -> None:
        self._channels = channels
        self._address_of = address_of
        self._pools: dict[NodeId | Address, _Pool] = {}

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
        client = await self._client(address if node is None else node)
        request = client.build_request(
            method,
            f"https://{address}{path}",
            headers={"accept-encoding": "identity", **(headers or {})},
            content=content,
            extensions={"sni_hostname": node_name(node)},
            timeout=httpx.Timeout(None, connect=_connect_s(timeout_s)),
        )
        response = await _sent(client, request, whom, timeout_s)
        try:
            yield Answer(response.status_code, response.headers, response, whom)
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S):
                await response.aclose()

    async def _client(self, key: NodeId | Address) -> httpx.AsyncClient:
        context = self._channels.peer_client()
        pool = self._pools.get(key)
        if pool is None or pool.context is not context:
            pool = self._pools[key] = _Pool(context, _new_client(context))
        return pool.client

    async def drop(self, node: NodeId) -> None:
        """Its connections are of no use any more: whoever waits for its answers hears so."""
        pool = self._pools.pop(node, None)
        if pool is not None:
            await _close(pool)

    async def close(self) -> None:
        for pool in self._pools.values():
            await _close(pool)
        self._pools.clear()


async def serve(
    channels: Channels, address_of: Callable[[NodeId], Address | None], *, task_status: trio.TaskStatus[Peers]
) -> None:
    """Connections to other nodes, until cancelled."""
    peers = Peers(channels, address_of)
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
            return await client.send(request, stream=True)
    except trio.TooSlowError:
        raise Unreachable(f"{whom} did not answer within {timeout_s:g} s") from None
    except (httpx.HTTPError, httpx.StreamError) as error:
        raise _translated(error, whom) from None


def _connect_s(timeout_s: float | None) -> float:
    """For TCP, and for TLS again: who is out of time gives up here, for a handshake that is cancelled leaves its socket open."""
    return CONNECT_S if timeout_s is None else min(CONNECT_S, timeout_s / 2)


async def _close(pool: _Pool) -> None:
    with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_S):
        await pool.client.aclose()


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
