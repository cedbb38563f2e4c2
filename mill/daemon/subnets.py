"""Which part of the mesh's range each node owns, and the ways to the others' parts, as members come and go. Wired by `node`.

A leader with a majority gives a joiner its part, and writes that down as a setting of the cluster first: so no two get the same,
whoever leads next. A node keeps the part that it had, or that it is configured with, and tells it to all.
"""

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import suppress
from http import HTTPStatus
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from pathlib import Path
from typing import Protocol

import attrs
import structlog
import trio

from mill.cluster import effects
from mill.cluster.outcomes import Led
from mill.cluster.settings import Setting
from mill.cluster.values import Member, MemberState, NodeId
from mill.daemon.cluster import Cluster
from mill.daemon.peers import Unreachable
from mill.errors import Unavailable
from mill.network.addresses import Peer, first_free, subnets_of
from mill.network.service import stored_subnet

KEY = "subnet/"
"""What the settings' keys begin with; then the node's id."""
SAID = "subnet"
"""In what a member says of itself."""
ASK_FOR_S = 5.0
"""How long a joiner looks for a leader who gives it a part; then it takes one that seems free, which is told."""
ASK_AGAIN_S = 0.2
UNKNOWN_S = 3600.0
"""How long after it was given its part a node that no member knows counts as one that will come: it takes seconds."""
WAYS_AGAIN_S = 3.0
"""Between two tries to make the ways to the others: as often as the mesh looks after the rest of what it has."""

log = structlog.get_logger()


class Ways(Protocol):
    """As `network.service.Mesh`."""

    @property
    def subnet(self) -> IPv4Network: ...

    async def set_peers(self, peers: Iterable[Peer]) -> None: ...


@attrs.define(eq=False)
class Subnets:
    """*range* is all nodes', *fixed* those of nodes that are no members."""

    _cluster: Cluster
    _range: IPv4Network
    _fixed: tuple[Peer, ...]
    _assigning: trio.Lock = attrs.field(factory=trio.Lock)
    _clashes: set[str] = attrs.field(factory=set)

    # -- a joiner ---------------------------------------------------------------------------------------------------

    async def own(self, configured: IPv4Network | None, data_dir: Path) -> IPv4Network | None:
        """The part that this node is to have; None: the first that is free on this host, as a founder takes it."""
        if configured is not None:
            return configured
        stored = await trio.to_thread.run_sync(stored_subnet, data_dir)
        if self._cluster.founder or (stored is not None and not self._is_taken(stored)):
            return stored
        with trio.move_on_after(ASK_FOR_S):
            while True:
                given = await self._ask()
                if given is not None:
                    return given
                await trio.sleep(ASK_AGAIN_S)
        seed = int(self._cluster.me, 16)
        parts = [part for part in subnets_of(self._range) if not self._is_taken(part)]
        taken = parts[seed % len(parts)] if parts else None
        log.error(
            "no leader has given this node a part of the mesh's range; it takes one that seems free",
            subnet=str(taken),
        )
        return taken

    async def _ask(self) -> IPv4Network | None:
        led = self._cluster.engine.led
        if led is None or led.leader is None:
            return None
        if led.leader == self._cluster.me:
            return await self.assign(led.leader)
        with suppress(Unreachable, ValueError, LookupError):
            async with self._cluster.peers.open(led.leader, "POST", "/peer/subnet") as answer:
                said = await answer.read()
            if answer.status == HTTPStatus.OK:
                return IPv4Network(json.loads(said)["subnet"])
        return None

    def tell(self, subnet: IPv4Network) -> None:
        """To all: this node's tasks have their addresses there."""
        self._cluster.say(SAID, str(subnet))

    # -- the leader -------------------------------------------------------------------------------------------------

    async def assign(self, node: NodeId) -> IPv4Network:
        """A part for *node*: the one that it was given before, or the first that nobody has. `Unavailable` without a majority."""
        async with self._assigning:
            led = self._cluster.engine.led
            if led is None or not led.full:
                raise Unavailable("this node does not lead a majority: it gives no subnet away")
            taken = list(self._taken(but=node))
            before = self._given().get(node)
            free = (
                before
                if before is not None and not _overlap(before, taken)
                else first_free(self._range, taken)
            )
            for gone in self._gone():
                await self._cluster.set(KEY + gone, None)
            if free is None:
                raise Unavailable(
                    f"no part of {self._range} is free for another node: forget those that are gone"
                )
            if free != before:
                await self._cluster.set(KEY + node, str(free).encode())
            return free

    def _given(self) -> dict[NodeId, IPv4Network]:
        """What leaders gave to those who are not gone."""
        found = {}
        for node, setting in self._kept().items():
            if setting.value is not None and not self._is_gone(node, setting):
                with suppress(ValueError):
                    found[node] = IPv4Network(setting.value.decode())
        return found

    def _gone(self) -> list[NodeId]:
        """Whose parts are still written down for nothing."""
        return [node for node, setting in self._kept().items() if self._is_gone(node, setting)]

    def _kept(self) -> dict[NodeId, Setting]:
        kept = [it for it in self._cluster.engine.settings if it.key.startswith(KEY) and it.value is not None]
        return {NodeId(setting.key.removeprefix(KEY)): setting for setting in kept}

    def _is_gone(self, node: NodeId, setting: Setting) -> bool:
        """Members forget after a day who has left; but who was given a part just now may not be known as a member yet."""
        member = self._cluster.engine.members.get(node)
        if member is None:
            return self._cluster.wall() - setting.time > UNKNOWN_S
        return member.state is MemberState.LEFT

    def _taken(self, but: NodeId) -> Iterator[IPv4Network]:
        """By members, who may be down or away, and by those that are none."""
        members = self._cluster.engine.members
        gone = {node for node, member in members.items() if member.state is MemberState.LEFT}
        yield from (part for node, part in self._given().items() if node != but)
        yield from (peer.subnet for peer in self._fixed)
        for node, member in members.items():
            said = _said(member)
            if said is not None and node not in {but, *gone}:
                yield said

    def _is_taken(self, subnet: IPv4Network) -> bool:
        return _overlap(subnet, self._taken(but=self._cluster.me))

    # -- the ways ---------------------------------------------------------------------------------------------------

    async def lead(self, mesh: Ways, *, task_status: trio.TaskStatus[None]) -> None:
        """Ways to all members' parts, within moments of what changes, until cancelled. What fails is tried again."""
        changed, wake = trio.open_memory_channel[None](1)

        def tell(_outcome: object) -> None:
            with suppress(trio.WouldBlock):
                changed.send_nowait(None)

        for kind in (effects.Changed, Led):
            self._cluster.news.on[kind].append(tell)
        self.tell(mesh.subnet)
        task_status.started()
        made: tuple[Peer, ...] | None = ()
        fault: str | None = None
        while True:
            peers = tuple(self._peers(mesh.subnet))
            if peers != made:
                told, fault = fault, await _fault_of(mesh, peers)
                made = peers if fault is None else None
                if fault is not None and fault != told:
                    log.warning("the ways to other nodes could not be made; trying on", why=fault)
                elif fault is None and told is not None:
                    log.info("the ways to other nodes are made")
            with trio.move_on_after(math.inf if fault is None else WAYS_AGAIN_S):
                await wake.receive()

    def _peers(self, own: IPv4Network) -> Iterator[Peer]:
        yield from self._fixed
        held: list[IPv4Network] = [own, *(peer.subnet for peer in self._fixed)]
        members = self._cluster.engine.members
        for node, member in sorted(members.items(), key=lambda item: (item[1].joined_term, item[0])):
            subnet = _said(member)
            if node == self._cluster.me or subnet is None or member.state is MemberState.LEFT:
                continue
            if _overlap(subnet, held):
                self._clash(member, subnet)
                continue
            held.append(subnet)
            with suppress(AddressValueError):
                yield Peer(node, IPv4Address(member.peer.host), subnet)

    def _clash(self, member: Member, subnet: IPv4Network) -> None:
        key = f"{member.id} {subnet}"
        if key not in self._clashes:
            self._clashes.add(key)
            log.error(
                "another node's tasks have the addresses of a node that is known already: they are not reached; "
                "drain it, stop it, and start it with another --mesh-subnet",
                node=member.peer.name,
                subnet=str(subnet),
            )


async def _fault_of(mesh: Ways, peers: tuple[Peer, ...]) -> str | None:
    """Why the ways to *peers* could not be made; None: they are."""
    try:
        await mesh.set_peers(peers)
    except Unavailable as error:
        return str(error)
    return None


def _said(member: Member) -> IPv4Network | None:
    try:
        return IPv4Network(member.meta[SAID])
    except (KeyError, ValueError):
        return None


def _overlap(subnet: IPv4Network, others: Iterable[IPv4Network]) -> bool:
    return any(subnet.overlaps(other) for other in others)
