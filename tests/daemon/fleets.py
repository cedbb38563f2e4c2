"""Nodes of one cluster in one process: each a fake behind its real API and its real port for peers, over TLS on loopback.

What membership would know, `Members` is told.
"""

import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import attrs
import httpx
import trio

from mill.api import peer_names, server
from mill.api.app import make_app
from mill.api.peer import make_peer_app
from mill.cluster.values import Address, Member, MemberState, NodeId, Peer
from mill.config import DEFAULT_NODE_LOST_S
from mill.daemon import peers
from mill.daemon.fleet import Fleet
from mill.daemon.peers import Peers
from mill.model import Record, Task
from mill.security.channel import Channels, PeerTls
from mill.security.keys import Keyring, Secret
from mill.tasks.table import Table
from tests.api.fakes import TOKEN, FakeNode, record
from tests.dns.book import Book
from tests.tasks.fakes import FakeRecords

RING = Keyring(Secret(b"1" * 32))


@attrs.define(eq=False)
class Members:
    """As `daemon.doubt.Membership`."""

    id: NodeId
    members: dict[NodeId, Member] = attrs.field(factory=dict)
    partial: bool = False
    lost_s: float = DEFAULT_NODE_LOST_S

    def set(self, node: NodeId, state: MemberState, *, ago_s: float = 0.0) -> None:
        since = trio.current_time() - ago_s
        self.members[node] = attrs.evolve(self.members[node], state=state, since=since)


@attrs.define(eq=False)
class Known:
    """The records that have come to a node from others."""

    rows: dict[str, Task] = attrs.field(factory=dict)
    asked: int = 0

    def add(self, *records: Record) -> None:
        self.rows |= {one.id: Task(one) for one in records}

    async def get(self, task_id: str) -> Task | None:
        await trio.lowlevel.checkpoint()
        self.asked += 1
        return self.rows.get(task_id)


@attrs.define(eq=False)
class Node:
    """One of them. `peer` ends its port for the others, and whoever is on it; `stall` has it take requests, and answer none."""

    number: int
    fake: FakeNode
    known: Known = attrs.field(factory=Known)
    names: Book = attrs.field(factory=Book)
    peer: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    peer_closed: trio.Event = attrs.field(factory=trio.Event)
    port: int = 0
    peer_port: int = 0
    go_on: trio.Event = attrs.field(factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        self.go_on.set()

    def stall(self) -> None:
        """Until `go_on` is set."""
        self.go_on = trio.Event()

    @property
    def id(self) -> NodeId:
        return NodeId(f"{self.number:02d}" * 16)

    @property
    def name(self) -> str:
        return f"node-{self.number}"

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.peer_port)

    @property
    def member(self) -> Member:
        life = Peer(self.id, 1, self.name, *self.address)
        return Member(life, MemberState.ALIVE, 0, 0, trio.current_time())

    def own(self, one: Record) -> Record:
        """A task of this node."""
        owned = attrs.evolve(one, node=self.name, node_id=str(UUID(self.id)))
        self.fake.tasks.add(owned)
        return owned

    def client(self, token: str = TOKEN) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{self.port}", headers=headers, timeout=10, trust_env=False
        )

    async def serve_peers(self, *, task_status: trio.TaskStatus[server.EndThose]) -> None:
        sock = server.bind(f"127.0.0.1:{self.peer_port}")
        self.peer_port = sock.getsockname()[1]
        app = make_peer_app(lambda *_: None, self.fake.core)
        app.register_blueprint(peer_names.routes(self.names))

        async def stalling(scope: Any, receive: Any, send: Any) -> None:
            await self.go_on.wait()
            await app(scope, receive, send)

        with trio.CancelScope() as self.peer:
            await server.serve(stalling, sock, server.Load(), PeerTls(self.channels), task_status=task_status)
        self.peer_closed.set()

    @property
    def channels(self) -> Channels:
        return Channels(RING, self.id, (), time.time)

    async def serve_api(self, *, task_status: trio.TaskStatus[server.EndThose]) -> None:
        sock = server.bind("127.0.0.1:0")
        self.port = sock.getsockname()[1]
        await server.serve(make_app(self.fake.core), sock, server.Load(), task_status=task_status)


@attrs.define(eq=False)
class Two:
    """`here` answers for all, `there` has tasks."""

    here: Node
    there: Node
    members: Members
    reached: Peers


@asynccontextmanager
async def two(folder: Path) -> AsyncIterator[Two]:
    here, there = (Node(number, FakeNode(folder / f"{number}")) for number in (1, 2))
    members = Members(here.id)
    async with trio.open_nursery() as nursery:
        await nursery.start(there.serve_peers)
        members.members = {node.id: node.member for node in (here, there)}
        address_of: Mapping[NodeId, Address] = {there.id: there.address}
        reached: Peers = await nursery.start(partial(peers.serve, here.channels, address_of.get))
        here.fake.fleet = Fleet(members, here.known, Table(FakeRecords([])), reached, trio.current_time)
        await nursery.start(here.serve_api)
        yield Two(here, there, members, reached)
        nursery.cancel_scope.cancel()


def task(task_id: str, **fields: Any) -> Record:
    return record(task_id, **fields)
