"""The nodes as the API shows them, draining one, and forgetting one that will not come back.

Draining: a node takes no new task, and what runs on it runs on. That is stored: neither a restart nor an upgrade of milld lets
tasks in again, `undrain` does. A node says to all others whether it is being drained.
"""

import json
import math
from http import HTTPStatus
from uuid import UUID

import attrs
import structlog

from mill import __version__
from mill.cluster.load import decode
from mill.cluster.values import Member, MemberState, NodeId
from mill.containerd.runtime import Runtime
from mill.convert import from_json
from mill.daemon.cluster import Cluster
from mill.daemon.rotation import Rotation
from mill.errors import Conflict, NotFound, Unavailable
from mill.model import JoinCommand, NodeState, NodeView, Resources, RotatedSecret, Time
from mill.store import Store
from mill.tasks.service import Tasks

DRAINING = "draining"
"""The name of the fact in the store; and of what a node says of itself."""
YES, NO = "yes", "no"
NOTHING = Resources(0.0, 0)
_STATES = {
    MemberState.SUSPECT: NodeState.SUSPECT,
    MemberState.DOWN: NodeState.DOWN,
    MemberState.AWAY: NodeState.AWAY,
    MemberState.LEFT: NodeState.LEFT,
}

log = structlog.get_logger()


@attrs.frozen
class Nodes:
    """As `api.core.NodeService`. *cluster* None: the node is alone."""

    _store: Store
    _tasks: Tasks
    _engine: Runtime
    started: Time
    rotation: Rotation
    _cluster: Cluster | None

    @classmethod
    async def load(
        cls,
        store: Store,
        tasks: Tasks,
        engine: Runtime,
        started: Time,
        rotation: Rotation,
        cluster: Cluster | None = None,
    ) -> "Nodes":
        tasks.draining = await store.fact(DRAINING) == YES
        if tasks.draining:
            log.warning("this node is being drained: it takes no new task until it is undrained")
        made = cls(store, tasks, engine, started, rotation, cluster)
        made.say_drained()
        return made

    @property
    def state(self) -> NodeState:
        if not self._tasks.draining:
            return NodeState.ALIVE
        live = any(not live.task.record.status.terminal for live in self._tasks.table)
        return NodeState.DRAINING if live else NodeState.DRAINED

    def all(self) -> list[NodeView]:
        """The own one first, the others by name; those that left are told for as long as members remember them."""
        if self._cluster is None:
            return [self.mine]
        others = [self._other(member) for member in self._members() if member.id != self._cluster.me]
        return [self.mine, *sorted(others, key=lambda view: (view.name, view.id))]

    def find(self, node: str) -> NodeView:
        """By id, with hyphens or without, or by name; `NotFound`, and `Conflict` for a name that several have."""
        member = self._find(node)
        return self.mine if member is None else self._other(member)

    async def drain(self, node: str) -> NodeView:
        """Let no new task in. *node* is an id or a name; `NotFound`."""
        return await self._set(node, draining=True)

    async def undrain(self, node: str) -> NodeView:
        return await self._set(node, draining=False)

    async def forget(self, node: str) -> NodeView:
        """It will not come back: its tasks are lost, and it counts no more in what is a majority. `NotFound`; `Conflict` while it answers."""
        found, cluster = self._find(node), self._cluster
        if cluster is None or found is None:
            raise Conflict("that is the node that was asked: stop its milld, and forget it on another one")
        if found.state.reachable:
            raise Conflict(f"{found.peer.name} answers: drain it, and stop its milld")
        cluster.gossip.do(lambda now: cluster.engine.forget(found.id, cluster.wall(), now))
        await cluster.gossip.settled()
        log.warning("a node was forgotten: its tasks are lost", node=found.peer.name)
        return attrs.evolve(self._other(found), state=NodeState.LEFT)

    def join_command(self) -> JoinCommand:
        """`Conflict` where nobody can join."""
        if self._cluster is None:
            raise Conflict(
                "this node listens for no others: start milld with --advertise IP, the address that they reach it by"
            )
        up = [member for member in self._members() if member.state is MemberState.ALIVE]
        joins = " ".join(f"--join {member.peer.address}" for member in up[:3])
        return JoinCommand(f"milld {joins} --secret-file cluster.secret", str(self.rotation.ring.path))

    async def rotate_secret(self) -> RotatedSecret:
        """All nodes have a new secret. `Conflict` and `Unavailable` say why not, and what to do."""
        return await self.rotation.rotate()

    # -- this node --------------------------------------------------------------------------------------------------

    @property
    def mine(self) -> NodeView:
        ledger, cluster = self._tasks.ledger, self._cluster
        return NodeView(
            id=self._engine.node_id,
            name=self._engine.node_name,
            address=self._engine.ip,
            state=self.state,
            capacity=ledger.capacity,
            reserved=ledger.reserved,
            version=__version__,
            started=self.started,
            epoch=0 if cluster is None else cluster.engine.me.epoch,
            leader=cluster is None or self.leader == cluster.me,
        )

    async def set_own(self, *, draining: bool) -> NodeView:
        if draining != self._tasks.draining:
            await self._store.put_fact(DRAINING, YES if draining else NO)
            self._tasks.draining = draining
            log.info("no new tasks from now on" if draining else "new tasks are let in again")
            self.say_drained()
        return self.mine

    def say_drained(self) -> None:
        """To the other nodes."""
        if self._cluster is not None:
            self._cluster.say(DRAINING, YES if self._tasks.draining else None)

    # -- the others -------------------------------------------------------------------------------------------------

    @property
    def leader(self) -> NodeId | None:
        led = None if self._cluster is None else self._cluster.engine.led
        return None if led is None else led.leader

    @property
    def leader_name(self) -> str | None:
        leader = self.leader
        return None if leader is None or self._cluster is None else self._cluster.news.name(leader)

    @property
    def partial(self) -> bool:
        return self._cluster is not None and self._cluster.engine.partial

    def count(self) -> int:
        return 1 if self._cluster is None else sum(it.state is not MemberState.LEFT for it in self._members())

    def _members(self) -> list[Member]:
        return [] if self._cluster is None else list(self._cluster.engine.members.values())

    def _find(self, node: str) -> Member | None:
        """None: this one."""
        if self._cluster is None:
            if node.replace("-", "") == UUID(self._engine.node_id).hex or node == self._engine.node_name:
                return None
            raise NotFound(f"no node {node[:80]!r} is known here: this one is {self._engine.node_name}")
        found = [member for member in self._members() if node.replace("-", "") == member.id] or [
            member for member in self._members() if node == member.peer.name
        ]
        there = [member for member in found if member.state is not MemberState.LEFT] or found
        if not there:
            raise NotFound(f"no node {node[:80]!r} is known here: 'mill nodes' lists them")
        if len(there) > 1:
            raise Conflict(f"{len(there)} nodes have the name {node}: say which by its id")
        return None if there[0].id == self._cluster.me else there[0]

    async def _set(self, node: str, *, draining: bool) -> NodeView:
        found, cluster = self._find(node), self._cluster
        if cluster is None or found is None:
            return await self.set_own(draining=draining)
        path = "/peer/drain" if draining else "/peer/undrain"
        async with cluster.peers.open(found.id, "POST", path) as answer:
            said = await answer.read()
        if answer.status != HTTPStatus.OK:
            raise Unavailable(f"{found.peer.name} did not do it ({answer.status})")
        return attrs.evolve(from_json(NodeView, json.loads(said)), me=False)

    def _other(self, member: Member) -> NodeView:
        meta, cluster = member.meta, self._cluster
        load = None if cluster is None else decode(cluster.engine.loads.get(member.id, b""))
        state = _STATES.get(member.state, NodeState.ALIVE)
        if state is NodeState.ALIVE and meta.get(DRAINING) == YES:
            state = NodeState.DRAINING if load and load.tasks else NodeState.DRAINED
        return NodeView(
            id=str(UUID(member.id)),
            name=member.peer.name,
            address=member.peer.host,
            state=state,
            capacity=Resources(_number(meta.get("cpu")), int(_number(meta.get("memory")))),
            reserved=load.reserved if load and member.state.reachable else NOTHING,
            version=meta.get("version", ""),
            started=Time(_number(meta.get("started"))),
            epoch=member.peer.epoch,
            leader=self.leader == member.id,
            me=False,
        )


def _number(said: str | None) -> float:
    """0 for what is none."""
    try:
        number = float(said or 0)
    except ValueError:
        return 0.0
    return number if 0 <= number < math.inf else 0.0
