"""Shells of the engine under trio's clock: sockets in memory, disks in SQLite in memory. A `Net` joins them, and hears all that passes."""

import sqlite3
import time
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any

import attrs
import trio

from mill.cluster import entries, rows, service
from mill.cluster.engine import Engine
from mill.cluster.outcomes import Outcome
from mill.cluster.rows import Statement
from mill.cluster.service import Gossip, Setup
from mill.cluster.values import Address, MemberState, NodeId
from mill.cluster.voters import FOUNDER
from mill.cluster.wire import decode
from mill.errors import NoSpace, Unavailable
from mill.security.box import Opener, Refusal, Sealer
from mill.security.keys import Keyring, Secret

RING, FOREIGN = Keyring(Secret(b"1" * 32)), Keyring(Secret(b"2" * 32))
STEP_S = 0.05
WALL = time.time()


@attrs.define(eq=False)
class MemoryDisk:
    """What a data directory holds; `full` refuses, as a disk without room does."""

    connection: sqlite3.Connection = attrs.field(
        factory=lambda: sqlite3.connect(":memory:", isolation_level=None)
    )
    full: bool = False
    commits: list[list[Statement]] = attrs.field(factory=list)

    def __attrs_post_init__(self) -> None:
        self.connection.executescript(rows.SCHEMA)

    async def keep(self, statements: Sequence[Statement], *, synced: bool) -> None:  # noqa: ARG002
        await trio.lowlevel.checkpoint()
        if self.full:
            raise NoSpace("the disk is full")
        for sql, params in statements:
            self.connection.execute(sql, params)
        self.commits.append(list(statements))

    async def rows(self, sql: str) -> list[Any]:
        await trio.lowlevel.checkpoint()
        return self.connection.execute(sql).fetchall()

    def fact(self, name: str) -> str:
        found = self.connection.execute("SELECT value FROM cluster_facts WHERE name = ?", (name,)).fetchone()
        return str(found[0])


@attrs.define(eq=False)
class Ear:
    """What a node's daemon would hear."""

    outcomes: list[Outcome] = attrs.field(factory=list)
    refusals: list[tuple[str, Address]] = attrs.field(factory=list)
    strangers: list[tuple[Refusal, NodeId | None, Address]] = attrs.field(factory=list)

    def shown(self, changed: entries.Changed) -> list[Statement]:  # noqa: ARG002
        return []

    def tell(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def refused(self, why: str, address: Address) -> None:
        self.refusals.append((why, address))

    def turned_away(self, refusal: Refusal, sender: NodeId | None, address: Address) -> None:
        self.strangers.append((refusal, sender, address))


@attrs.define(eq=False)
class Shell:
    """One node: its disk outlives its processes."""

    net: "Net"
    name: str
    ring: Keyring
    founder: bool
    id: NodeId = attrs.field(init=False)
    address: Address = attrs.field(init=False)
    disk: MemoryDisk = attrs.field(factory=MemoryDisk)
    ear: Ear = attrs.field(factory=Ear)
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    running: Gossip | None = None
    boots: int = 0
    ahead_s: float = 0.0
    """How wrong its wall clock is."""

    @property
    def gossip(self) -> Gossip:
        assert self.running is not None, f"{self.name} is down"
        return self.running

    @property
    def engine(self) -> Engine:
        return self.gossip.engine

    def states(self) -> dict[str, MemberState]:
        return {member.peer.name: member.state for member in self.engine.members.values()}

    def wall(self) -> float:
        return self.net.wall() + self.ahead_s

    async def start(self, *seeds: "Shell") -> "Shell":
        self.boots += 1
        boot_id = bytes([len(self.net.shells), self.boots]) * 8
        self.ear, self.scope = Ear(), trio.CancelScope()
        setup = Setup(
            self.id, self.name, self.address, {FOUNDER: "1"} if self.founder else {}, Sealer(self.ring, self.id, boot_id),
            Opener(self.ring, self.id), Random(self.net.rng.random()), self.wall, partial(self.net.stream, self),
        )  # fmt: skip
        made = partial(self._serve, setup, [(seed.address.host, seed.address.port) for seed in seeds])
        self.running = await self.net.nursery.start(made)
        return self

    async def _serve(
        self, setup: Setup, seeds: list[tuple[str, int]], *, task_status: trio.TaskStatus[Gossip]
    ) -> None:
        sock = self.net.socket(self)
        with self.scope:
            await service.serve(setup, seeds, self.disk, lambda _: self.ear, sock, task_status=task_status)

    def crash(self) -> None:
        self.scope.cancel()
        self.running = None

    def put(self, task: str, phase: int = 2) -> None:
        entry = self.gossip.draft(task, phase, b"{}")
        sql, params = rows.write(entry)
        self.disk.connection.execute(sql, params)
        self.gossip.publish(entry)


@attrs.define(eq=False)
class _Socket:
    net: "Net"
    me: Address
    inbox: trio.MemoryReceiveChannel[tuple[bytes, Address]]

    async def recvfrom(self, _bufsize: int, /) -> tuple[bytes, Any]:
        return await self.inbox.receive()

    async def sendto(self, data: bytes, address: Any, /) -> int:
        await trio.lowlevel.checkpoint()
        self.net.send(self.me, Address(*address), data)
        return len(data)


class Net:
    """One link. *tapped* holds every datagram with where it went; `heard` is asked whether it is to arrive."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.rng = Random(7)
        self.shells: list[Shell] = []
        self.tapped: list[tuple[Address, Address, bytes]] = []
        self.cut: set[Shell] = set()
        self._inboxes: dict[Address, trio.MemorySendChannel[tuple[bytes, Address]]] = {}

    def wall(self) -> float:
        return WALL + trio.current_time()

    def add(self, name: str, ring: Keyring = RING) -> Shell:
        shell = Shell(self, name, ring, founder=not self.shells)
        self.shells.append(shell)
        shell.id = NodeId(f"{len(self.shells):032x}")
        shell.address = Address(f"10.0.0.{len(self.shells)}", 4401)
        return shell

    def socket(self, shell: Shell) -> _Socket:
        sender, receiver = trio.open_memory_channel[tuple[bytes, Address]](10_000)
        self._inboxes[shell.address] = sender
        return _Socket(self, shell.address, receiver)

    def send(self, source: Address, to: Address, data: bytes) -> None:
        self.tapped.append((source, to, data))
        if not self._is_cut(source, to) and to in self._inboxes:
            self._inboxes[to].send_nowait((data, source))

    async def stream(self, sender: Shell, to: Address, packet: bytes) -> None:
        """As over mutual TLS: a node of another secret gets no word across, and the speaker is who it says."""
        await trio.sleep(0.001)
        target = next((shell for shell in self.shells if shell.address == to and shell.running), None)
        if target is None or self._is_cut(sender.address, to):
            raise Unavailable(f"{to} cannot be reached")
        if target.ring is not sender.ring:
            raise Unavailable(f"{to} is not of this cluster, or has another secret")
        target.gossip.deliver(decode(packet), Address(sender.address.host, 50000))

    def _is_cut(self, *addresses: Address) -> bool:
        return any(shell.address in addresses for shell in self.cut)

    async def cluster(self, size: int) -> list[Shell]:
        """That many, joined by the first, and settled."""
        first = await self.add("n1").start()
        for number in range(2, size + 1):
            await self.add(f"n{number}").start(first)
        await self.settle()
        return self.shells

    async def settle(self, within_s: float = 30.0) -> None:
        def done() -> bool:
            up = [shell for shell in self.shells if shell.running is not None]
            leaders = {None if shell.engine.led is None else shell.engine.led.leader for shell in up}
            alive = all(
                list(shell.states().values()).count(MemberState.ALIVE) == len(up) and not shell.engine.partial
                for shell in up
            )
            hashes = {(s.engine.records.head_hash(), s.engine.settings.hash()) for s in up}
            return alive and len(leaders) == 1 and None not in leaders and len(hashes) == 1

        await until(done, within_s)


async def until(done: Callable[[], object], within_s: float) -> float:
    """How long it took, by the test's clock."""
    began = trio.current_time()
    while not done():
        assert trio.current_time() - began < within_s, f"not within {within_s:g} s"
        await trio.sleep(STEP_S)
    return trio.current_time() - began
