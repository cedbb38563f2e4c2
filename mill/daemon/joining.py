"""A node's way into its cluster, in the order in which it goes: members, its own log, its part of the mesh's range. Called by `node`."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from ipaddress import IPv4Address, IPv4Network

import attrs

from mill.config import Config
from mill.daemon import cluster, datadir, host
from mill.daemon.clock import SystemClock
from mill.daemon.cluster import Cluster, Doors, Me
from mill.daemon.layers import Layer
from mill.daemon.replicated import Replicated
from mill.daemon.ring import Ring
from mill.daemon.seat import Seat
from mill.daemon.subnets import Subnets
from mill.daemon.witnesses import Witnesses
from mill.network.addresses import Peer
from mill.store import Store


@attrs.frozen
class Joined:
    """What a node in a cluster has beside what every node has."""

    cluster: Cluster
    subnets: Subnets
    store: Replicated
    seat: Seat
    witnesses: Witnesses


async def join(
    config: Config,
    doors: Doors,
    store: Store,
    ring: Ring,
    clock: SystemClock,
    shutdown: Callable[[], Awaitable[object]],
    layers: AsyncExitStack,
    layer: Layer,
) -> tuple[Joined, Config]:
    """As a member that may change its own tasks; and the configuration with the subnet that it was given."""
    node_id, name = datadir.node_id(config.data_dir), host.name_of(config)
    says = Me.of(node_id, name, host.capacity_of(config), clock.now())
    member = await cluster.join(config, doors, store, ring, says, clock.now, layer)
    await member.wait_ready(shutdown)
    layers.push_async_callback(member.gossip.linger)
    subnets = Subnets(member, config.mesh_cidr, fixed_peers(config))
    subnet = await subnets.own(config.mesh_subnet, config.data_dir)
    seat = Seat(member.gossip, member.news, config.node_lost_secs)
    witnesses = Witnesses(member.gossip, member.news, member.peers)
    await layer(witnesses.serve)
    joined = Joined(member, subnets, Replicated(store, member, witnesses), seat, witnesses)
    return joined, attrs.evolve(config, mesh_subnet=subnet)


def fixed_peers(config: Config) -> tuple[Peer, ...]:
    """Other nodes that are configured, and so known beforehand."""
    return tuple(
        Peer(name, IPv4Address(peer.address), IPv4Network(peer.subnet)) for name, peer in config.peers.items()
    )
