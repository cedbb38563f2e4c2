"""Nodes that place tasks on each other: each the real task service over a fake world, real ports for peers, and no API.

Who leads, and what each has heard of the others' load, the test says.
"""

import random
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from uuid import UUID

import attrs
import trio

from mill.api import server
from mill.api.peer import make_peer_app
from mill.cluster import load as loads
from mill.cluster.claims import Mandate
from mill.cluster.outcomes import Led
from mill.cluster.values import Address, Member, MemberState, NodeId, Peer
from mill.config import DEFAULT_NODE_LOST_S
from mill.daemon import peers, placing
from mill.daemon.fleet import Fleet
from mill.daemon.offers import Offers
from mill.daemon.peers import Peers
from mill.daemon.placing import Placing
from mill.model import Draft, NodeState, Record, Resources, Time
from mill.security.channel import Channels, PeerTls
from mill.security.keys import Keyring, Secret
from mill.tasks.orders import Identity, Order
from mill.tasks.service import Tasks
from tests.api.fakes import FakeNode
from tests.tasks.scene import Scene

LATE = Order(Draft(image="busybox"), Time(0.0), task_id="late-0001")
RING = Keyring(Secret(b"1" * 32))
ROOM = Resources(4.0, 4 * 1024**3)


@attrs.define(eq=False)
class Court:
    """As `daemon.placing.Cluster`, of one node. `refuses`: it knows a higher mandate than any that comes."""

    id: NodeId
    members: dict[NodeId, Member] = attrs.field(factory=dict)
    loads: dict[NodeId, bytes] = attrs.field(factory=dict)
    led: Led | None = None
    partial: bool = False
    lost_s: float = DEFAULT_NODE_LOST_S
    refuses: bool = False
    obeyed: list[Mandate] = attrs.field(factory=list)

    def say_load(self, load: Callable[[], bytes]) -> None:
        raise NotImplementedError

    async def obey(self, mandate: Mandate) -> bool:
        await trio.lowlevel.checkpoint()
        self.obeyed.append(mandate)
        return not self.refuses


@attrs.define(eq=False)
class Guest:
    """One node. `port` ends its port for the others and whoever is on it. `lose_answers`: it does what it is asked, and says nothing."""

    number: int
    scene: Scene
    court: Court
    peer_port: int = 0
    port: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    asked: list[str] = attrs.field(factory=list)
    lose_answers: bool = False
    tasks: Tasks = attrs.field(init=False)
    placing: Placing = attrs.field(init=False)
    offers: Offers = attrs.field(init=False)
    go_on: trio.Event = attrs.field(factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        self.go_on.set()

    def stall(self) -> None:
        """Keep answers back until `go_on` is set."""
        self.go_on = trio.Event()

    @property
    def id(self) -> NodeId:
        return self.court.id

    @property
    def address(self) -> Address:
        return Address("127.0.0.1", self.peer_port)

    @property
    def ids(self) -> set[str]:
        return set(self.scene.records.rows)

    async def serve(self, folder: Path, *, task_status: trio.TaskStatus[server.EndThose]) -> None:
        sock = server.bind(f"127.0.0.1:{self.peer_port}")
        self.peer_port = sock.getsockname()[1]
        core = attrs.evolve(FakeNode(folder).core, tasks=self.tasks, placement=self.placing)
        app = make_peer_app(lambda *_: None, core)

        async def watched(scope: object, receive: object, send: object) -> None:
            self.asked.append(scope["path"])  # type: ignore[index]
            await self.go_on.wait()
            if self.lose_answers:
                with trio.CancelScope(shield=True), trio.move_on_after(0.5):
                    await app(scope, receive, swallow)  # type: ignore[arg-type]
                raise trio.BrokenResourceError
            await app(scope, receive, send)  # type: ignore[arg-type]

        async def swallow(_: object) -> None:
            await trio.lowlevel.checkpoint()

        tls = PeerTls(Channels(RING, self.id, (), time.time))
        with trio.CancelScope() as self.port:
            await server.serve(watched, sock, server.Load(), tls, task_status=task_status)


@attrs.define(eq=False)
class Party:
    guests: list[Guest]

    def __getitem__(self, number: int) -> Guest:
        return self.guests[number - 1]

    def lead(self, number: int | None, *, term: int = 7) -> None:
        leader = None if number is None else self[number].id
        for guest in self.guests:
            mandate = Mandate(term, leader or NodeId(""))
            guest.court.led = Led(leader, full=guest.id == leader, mandate=mandate)

    def beat(self) -> None:
        """Everybody hears of everybody's load."""
        said = {guest.id: loads.encode(guest.offers.own()) for guest in self.guests}
        for guest in self.guests:
            guest.court.loads = {node: load for node, load in said.items() if node != guest.id}

    def down(self, number: int) -> None:
        for guest in self.guests:
            old = guest.court.members[self[number].id]
            guest.court.members[old.id] = attrs.evolve(old, state=MemberState.DOWN)

    @property
    def spread(self) -> list[int]:
        """How many tasks each has."""
        return [len(guest.ids) for guest in self.guests]

    def where(self, record: Record) -> list[int]:
        return [guest.number for guest in self.guests if record.id in guest.ids]


@asynccontextmanager
async def party(
    folder: Path, count: int = 3, room: Mapping[int, Resources] | None = None
) -> AsyncIterator[Party]:
    """*count* nodes that know each other, the first of which leads."""
    async with trio.open_nursery() as nursery, AsyncExitStack() as stack:
        guests = []
        for number in range(1, count + 1):
            node = NodeId(f"{number:02d}" * 16)
            scene = Scene(Identity(str(UUID(node)), f"node-{number}", "192.0.2.1"))
            scene.choice.given = 100 * number
            scene.capacity = (room or {}).get(number, ROOM)
            scene.runtime.images = {"busybox"}
            guest = Guest(number, scene, Court(node))
            guest.tasks = await stack.enter_async_context(scene.milld())
            guests.append(guest)
        made = Party(guests)
        for guest in guests:
            await _seat(guest, made, nursery, folder)
        members = {
            guest.id: Member(
                Peer(guest.id, 1, f"node-{guest.number}", *guest.address), MemberState.ALIVE, 0, 0, 0.0
            )
            for guest in guests
        }
        for guest in guests:
            guest.court.members = dict(members)
        made.beat()
        made.lead(1)
        yield made
        nursery.cancel_scope.cancel()


async def _seat(guest: Guest, made: Party, nursery: trio.Nursery, folder: Path) -> None:
    def address_of(node: NodeId) -> Address | None:
        return next((other.address for other in made.guests if other.id == node), None)

    channels = Channels(RING, guest.id, (), time.time)
    reached: Peers = await nursery.start(partial(peers.serve, channels, address_of))
    lot = random.Random(guest.number)
    guest.offers = Offers(guest.court, guest.tasks, lambda: NodeState.ALIVE, lot)
    fleet = Fleet(guest.court, guest.scene.records, guest.tasks.table, reached, trio.current_time)
    parts = (guest.court, fleet, guest.tasks, reached, guest.offers, random.Random(100 + guest.number))
    guest.placing = await nursery.start(placing.serve, *parts, guest.scene.clock.now)
    await nursery.start(guest.serve, folder / str(guest.number))
