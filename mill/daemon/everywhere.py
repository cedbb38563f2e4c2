"""A node that is a member, and answers for all: its API reaches every task of the cluster, and what it takes in goes where there is room.

The part of `node` that a lone node does without.
"""

from collections.abc import Awaitable, Callable
from random import SystemRandom

import attrs
import trio

from mill.api import peer_ends, peer_names, peer_nodes, peer_secret
from mill.api.core import Core
from mill.api.peer import make_peer_app
from mill.daemon import placing, seat
from mill.daemon.clock import SystemClock
from mill.daemon.fleet import Fleet
from mill.daemon.joining import Joined
from mill.daemon.layers import Layer
from mill.daemon.names import TaskNames
from mill.daemon.nodes import Nodes
from mill.daemon.offers import Offers
from mill.store import Store
from mill.tasks.service import Tasks


async def answer_for_all(
    joined: Joined | None,
    core: Core,
    own: TaskNames,
    store: Store,
    tasks: Tasks,
    nodes: Nodes,
    images: Callable[[], Awaitable[set[str]]],
    clock: SystemClock,
    layer: Layer,
) -> Core:
    """*core*, as the API of a member has it; from now on other nodes may ask this one. A node that is none has its own."""
    if joined is None:
        return core
    member, here = joined.cluster, joined.seat
    fleet = Fleet(here, store, tasks.table, member.peers, trio.current_time)
    offers = Offers(here, tasks, lambda: nodes.state, SystemRandom())
    await layer(offers.serve, images)
    placement = await layer(
        placing.serve, here, fleet, tasks, member.peers, offers, SystemRandom(), clock.now
    )
    await layer(seat.hang_up, member.news, member.peers)
    made = attrs.evolve(core, fleet=fleet, placement=placement, ends=joined.witnesses)
    app = make_peer_app(member.gossip.deliver, made)
    app.register_blueprint(peer_nodes.routes(nodes, joined.subnets))
    app.register_blueprint(peer_secret.routes(nodes.rotation))
    app.register_blueprint(peer_names.routes(own))
    app.register_blueprint(peer_ends.routes(joined.witnesses))
    member.door.open(app)
    return made
