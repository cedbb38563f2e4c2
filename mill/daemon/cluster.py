"""What makes this node a part of the cluster: gossip, the port where other nodes come, and the connections to them. Wired by `node`.

A node that nobody ever told of others, by ``--advertise`` or ``--join``, opens no port for them and keeps no log for them: it is alone.
"""

import errno
import secrets
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from functools import partial
from http import HTTPStatus
from random import SystemRandom
from socket import AF_INET, AF_INET6, SO_RCVBUF, SOCK_DGRAM, SOL_SOCKET
from socket import socket as Socket  # noqa: N812 -- a class
from typing import Any
from uuid import UUID

import attrs
import trio

from mill import __version__
from mill.api import server as api_server
from mill.api.peer import make_peer_app
from mill.api.server import EndThose, Load
from mill.cluster import service
from mill.cluster.engine import Engine, Tuning
from mill.cluster.outcomes import KeepSettings
from mill.cluster.service import Gossip, Setup
from mill.cluster.values import Address, NodeId
from mill.cluster.verdicts import Tuning as VerdictsTuning
from mill.cluster.voters import FOUNDER
from mill.config import Config
from mill.daemon import membership, peers
from mill.daemon.layers import Layer
from mill.daemon.membership import Membership
from mill.daemon.news import News
from mill.daemon.peers import Peers
from mill.daemon.ring import Ring
from mill.errors import SetupError, Unavailable
from mill.model import Resources
from mill.security.box import ID_BYTES, Opener, Sealer
from mill.security.channel import PeerTls
from mill.security.keys import Keyring
from mill.store import Store

PACKET = "/peer/packet"
ADMIN = "admin"
"""The setting that holds the hash of the admin's token: who has it has joined."""
JOIN_PATIENCE_S = 5.0
"""How long a new node waits for the cluster's settings, without which it knows no token; then it says that it is ready, and tries on."""
OPEN_S = 3.0
"""How long what is asked of a node that is just starting waits for it."""
DISTRUSTED_S = 5.0
"""How long what is under way may still take on a connection that was made while a secret was good that is not any more."""
DATAGRAMS_BYTES = 4 * 1024 * 1024
"""Of the socket's buffer: what comes while a full copy is being read."""


@attrs.frozen
class Doors:
    """Where other nodes come, TCP and UDP; and what this node knew of its being a member."""

    tcp: Socket
    udp: Socket
    membership: Membership


@attrs.frozen
class Me:
    """Who this node is, and what it says of itself to all others."""

    id: NodeId
    name: str
    meta: Mapping[str, str]

    @classmethod
    def of(cls, node_id: str, name: str, capacity: Resources, started: float) -> "Me":
        numbers = {"cpu": repr(capacity.cpu), "memory": repr(capacity.memory), "started": repr(started)}
        return cls(NodeId(UUID(node_id).hex), name, {"version": __version__, **numbers})


def bind(config: Config, layers: AsyncExitStack) -> Doors | None:
    """The ports, or None for a node that is alone. `SetupError`."""
    kept = membership.recall(config)
    if kept is None:
        return None
    address = Address(_listen_on(kept.address), config.peer_port)
    tcp = layers.enter_context(api_server.bind(str(address), "--peer-port"))
    return Doors(tcp, layers.enter_context(_bind_udp(address)), kept)


def _listen_on(address: str) -> str:
    """That address; if it is none of this host's, for a router leads from there to here, all of this host's."""
    family, anywhere = (AF_INET6, "::") if ":" in address else (AF_INET, "0.0.0.0")
    with Socket(family, SOCK_DGRAM) as trial:
        try:
            trial.bind((address, 0))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                return anywhere
    return address


def _bind_udp(address: Address) -> Socket:
    sock = Socket(AF_INET6 if ":" in address.host else AF_INET, SOCK_DGRAM)
    try:
        sock.bind(tuple(address))
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise SetupError(f"{address}/udp is in use: choose another with --peer-port") from None
        raise SetupError(f"cannot listen on {address}/udp: {error.strerror}") from None
    sock.setsockopt(SOL_SOCKET, SO_RCVBUF, DATAGRAMS_BYTES)
    sock.setblocking(False)
    return sock


@attrs.define(eq=False)
class Door:
    """The application of the peers' port: gossip at once, all else once the node is ready for it, which it may be asked for a moment before."""

    packets: Any
    _rest: Any | None = None
    _is_open: trio.Event = attrs.field(factory=trio.Event)

    def open(self, rest: Any) -> None:
        self._rest = rest
        self._is_open.set()

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        app = self.packets
        if scope["type"] == "http" and scope["path"] != PACKET:
            with trio.move_on_after(OPEN_S):
                await self._is_open.wait()
            app = self._rest or app
        await app(scope, receive, send)


@attrs.define(eq=False)
class Cluster:
    """A node as a member."""

    gossip: Gossip
    news: News
    peers: Peers
    door: Door
    wall: Callable[[], float]
    founder: bool
    away_s: float

    @property
    def engine(self) -> Engine:
        return self.gossip.engine

    @property
    def me(self) -> NodeId:
        return self.engine.me.id

    async def wait_ready(self, shutdown: Callable[[], Awaitable[object]]) -> None:
        """Until this node's own tasks may change, and a joiner has joined, or seems not to; no longer than up to *shutdown*."""
        async with trio.open_nursery() as nursery:

            async def end_with(wait: Callable[[], Awaitable[object]]) -> None:
                await wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(end_with, shutdown)
            nursery.start_soon(end_with, self._wait_joined)

    async def _wait_joined(self) -> None:
        await self.gossip.wait_ready()
        if self.founder:
            return
        changed, wake = trio.open_memory_channel[KeepSettings](float("inf"))
        self.news.on[KeepSettings].append(changed.send_nowait)
        with trio.move_on_after(JOIN_PATIENCE_S):
            while self.engine.settings.get(ADMIN) is None:
                await wake.receive()
        self.news.on[KeepSettings].remove(changed.send_nowait)

    def say(self, name: str, value: str | None) -> None:
        """To all other nodes, of this one: None takes it back; what it says already is no news."""
        said = self.engine.members[self.me].meta
        meta = {**said, name: value or ""}
        if value is None:
            del meta[name]
        if meta != said:
            self.gossip.do(lambda now: self.engine.say(meta, now))

    async def set(self, key: str, value: bytes | None) -> None:
        """A setting of the cluster's, or none any more. Returns once it is on this node's disk, or waits there for room."""
        self.gossip.do(lambda now: self.engine.set(key, value, self.wall(), now))
        await self.gossip.settled()

    def go(self, *, for_good: bool) -> None:
        """Tell the others, before the end."""
        if for_good:
            self.gossip.leave()
        else:
            self.gossip.say_away(self.away_s)


async def join(
    config: Config,
    doors: Doors,
    store: Store,
    ring: Ring,
    me: Me,
    wall: Callable[[], float],
    layer: Layer,
) -> Cluster:
    """Be a member, and let other nodes come; what they ask beside gossip waits for `Door.open`."""
    await trio.to_thread.run_sync(membership.remember, config, doors.membership)
    news = News(config.join, wall)
    reached: Peers = await layer(peers.serve, ring.channels, news.address)
    setup = Setup(
        id=me.id,
        name=me.name,
        address=Address(doors.membership.address, config.peer_port),
        meta={**me.meta, **({FOUNDER: "1"} if doors.membership.founder else {})},
        sealer=Sealer(ring.now, me.id, secrets.token_bytes(ID_BYTES)),
        opener=Opener(ring.now, me.id),
        rng=SystemRandom(),
        wall=wall,
        stream=partial(_stream, reached, news),
        tuning=Tuning(verdicts=VerdictsTuning(lost_s=config.node_lost_secs)),
    )
    udp = trio.socket.from_stdlib_socket(doors.udp)
    gossip: Gossip = await layer(service.serve, setup, config.join, store, news.of, udp)
    news.tasks.condemned(gossip.condemned)
    door = Door(make_peer_app(gossip.deliver, refused=news.stranger))
    tls = PeerTls(ring.channels, news.stranger)
    end_those: EndThose = await layer(partial(api_server.serve, door, doors.tcp, Load(), tls))
    hold_to(ring, gossip, reached, end_those)
    return Cluster(gossip, news, reached, door, wall, doors.membership.founder, config.away_secs)


def hold_to(ring: Ring, gossip: Gossip, reached: Peers, end_those: EndThose) -> None:
    """What is said to other nodes, and taken from them, goes by *ring*, as it is at the time."""

    def changed(before: Keyring, after: Keyring) -> None:
        gossip.use(after)
        if set(after).issuperset(before):
            reached.renew()
        else:
            reached.renew(DISTRUSTED_S)
            end_those(DISTRUSTED_S)

    ring.on_change.append(changed)


async def _stream(reached: Peers, news: News, address: Address, packet: bytes) -> None:
    async with reached.open_at(
        address, "POST", PACKET, node=news.at(address), content=packet, timeout_s=None
    ) as answer:
        if answer.status != HTTPStatus.NO_CONTENT:
            raise Unavailable(f"{address} refused a packet ({answer.status})")
        await answer.read()  # to its end: else the connection is not kept
