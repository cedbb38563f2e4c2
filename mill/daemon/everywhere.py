"""A node that is a member, and answers for all: its API reaches every task of the cluster, and what it takes in goes where there is room.

The part of `node` that a lone node does without.
"""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from random import SystemRandom
from uuid import UUID

import attrs
import trio

from mill import __version__
from mill.api.core import Core
from mill.api.peer import make_peer_app
from mill.cluster.values import NodeId
from mill.config import Config
from mill.containerd.runtime import Runtime
from mill.daemon import cluster, host, placing, seat
from mill.daemon.clock import SystemClock
from mill.daemon.cluster import Cluster, Doors, Me
from mill.daemon.fleet import Fleet
from mill.daemon.layers import Layer
from mill.daemon.nodes import Nodes
from mill.daemon.offers import Offers
from mill.daemon.seat import Seat
from mill.model import Image, Resources
from mill.security.channel import Channels
from mill.security.keys import Keyring
from mill.store import Store
from mill.tasks.service import Tasks


def doors_of(config: Config, layers: AsyncExitStack) -> tuple[Doors | None, Config]:
    """Where other nodes come, if any are to; and the configuration with the address of that."""
    doors = cluster.bind(config, layers)
    if doors is None:
        return None, config
    return doors, attrs.evolve(config, advertise=doors.membership.address)


async def become_member(
    config: Config,
    doors: Doors | None,
    store: Store,
    channels: Channels,
    ring: Keyring,
    engine: Runtime,
    clock: SystemClock,
    layer: Layer,
) -> Cluster | None:
    """A member of the cluster that somebody told this node of, if anybody did."""
    if doors is None:
        return None
    says = _me(engine, host.capacity_of(config), clock)
    return await cluster.join(config, doors, store, channels, ring, says, clock.now, layer)


def _me(engine: Runtime, capacity: Resources, clock: SystemClock) -> Me:
    """What this node says of itself to all others."""
    meta = {
        "version": __version__,
        "cpu": repr(capacity.cpu),
        "memory": repr(capacity.memory),
        "started": repr(clock.now()),
    }
    return Me(NodeId(UUID(engine.node_id).hex), engine.node_name, meta)


async def answer_for_all(
    member: Cluster | None,
    core: Core,
    store: Store,
    tasks: Tasks,
    nodes: Nodes,
    images: Callable[[], Awaitable[list[Image]]],
    clock: SystemClock,
    layer: Layer,
) -> Core:
    """*core*, as the API of a member has it; from now on other nodes may ask this one. A node that is none has its own."""
    if member is None:
        return core
    here = Seat(member.gossip, member.news)
    fleet = Fleet(here, store, tasks.table, member.peers, trio.current_time)
    offers = Offers(here, tasks.ledger, lambda: nodes.state, SystemRandom())
    await layer(offers.serve, images)
    placement = await layer(
        placing.serve, here, fleet, tasks, member.peers, offers, SystemRandom(), clock.now
    )
    await layer(seat.hang_up, member.news, member.peers)
    made = attrs.evolve(core, fleet=fleet, placement=placement)
    member.door.rest = make_peer_app(member.gossip.deliver, made)
    return made
