"""The seat of this node in the cluster: what placing and forwarding read of the engine, and the orders of leaders that it obeys.

It fits `doubt.Membership`, `offers.Loads` and `placing.Cluster`. Wired by `everywhere`.
"""

from collections.abc import Callable, Mapping

import trio

from mill.cluster.claims import NOBODY, Mandate, Persist
from mill.cluster.effects import Changed
from mill.cluster.outcomes import Led, Outcome
from mill.cluster.service import Gossip
from mill.cluster.values import Member, NodeId
from mill.daemon.news import News
from mill.daemon.peers import Peers

OBEY_S = 2.0
"""For a mandate to be on disk; a disk that takes longer takes no orders."""


class Seat:
    """See the module. *lost_s* is MILL_NODE_LOST_SECS."""

    def __init__(self, gossip: Gossip, news: News, lost_s: float) -> None:
        self._gossip = gossip
        self.lost_s = lost_s
        self._kept = NOBODY
        self._more = trio.Event()
        news.on[Persist].append(self._persisted)

    @property
    def id(self) -> NodeId:
        return self._gossip.engine.me.id

    @property
    def members(self) -> Mapping[NodeId, Member]:
        return self._gossip.engine.members

    @property
    def partial(self) -> bool:
        return self._gossip.engine.partial

    @property
    def loads(self) -> Mapping[NodeId, bytes]:
        return self._gossip.engine.loads

    @property
    def led(self) -> Led | None:
        return self._gossip.engine.led

    def say_load(self, load: Callable[[], bytes]) -> None:
        self._gossip.engine.say_load(load)

    async def obey(self, mandate: Mandate) -> bool:
        obeyed, fresh = False, False

        def order(now: float) -> list[Outcome]:
            nonlocal obeyed, fresh
            obeyed, outcomes = self._gossip.engine.obey(mandate, now)
            fresh = any(isinstance(outcome, Persist) for outcome in outcomes)
            return outcomes

        self._gossip.do(order)
        if obeyed and fresh:
            with trio.move_on_after(OBEY_S) as patience:
                while self._kept < mandate:
                    await self._more.wait()
            return not patience.cancelled_caught
        return obeyed

    def _persisted(self, outcome: Persist) -> None:
        self._kept = max(self._kept, outcome.mandate)
        self._more.set()
        self._more = trio.Event()


async def hang_up(news: News, peers: Peers, *, task_status: trio.TaskStatus[None]) -> None:
    """Until cancelled: whoever waits for the answer of a node that is gone hears so when its membership does."""
    async with trio.open_nursery() as nursery:

        def changed(effect: Changed) -> None:
            if effect.new is not None and not effect.new.state.reachable:
                nursery.start_soon(peers.drop, effect.new.id)

        news.on[Changed].append(changed)
        try:
            task_status.started()
            await trio.sleep_forever()
        finally:
            news.on[Changed].remove(changed)
