"""Records of nodes that have gone: what such a node would have forgotten by now, the leader forgets for it, and so all others do.

A node that comes back after that hears of it first; what of it still runs there ends. `replicated` runs it.
"""

import json
from collections.abc import Iterator
from itertools import islice

import attrs
import trio

from mill.cluster.entries import View
from mill.cluster.outcomes import Outcome
from mill.cluster.values import MemberState, NodeId
from mill.convert import parse_time
from mill.daemon.cluster import Cluster
from mill.daemon.shown import Shown

SLACK = 1 / 24
"""Of the retention, an hour of a day: as much longer than the node itself the others keep what it had, for clocks differ."""
LOOK_S = 60.0
LEAST_LOOK_S = 1.0
MOST_AT_ONCE = 500
"""Records that are read without a pause: some milliseconds."""


@attrs.frozen
class Bygone:
    """*kept_s*: how long the record of a task that has ended is kept."""

    _cluster: Cluster
    _shown: Shown
    _kept_s: float

    async def serve(self) -> None:
        """Until cancelled."""
        while True:
            await trio.sleep(min(LOOK_S, max(LEAST_LOOK_S, self._kept_s / 4)))
            led = self._cluster.engine.led
            if led is not None and led.full:
                for owner in self._gone():
                    await self._forget(owner)

    def _gone(self) -> list[NodeId]:
        """Owners who are no members, or have not been heard of; who is away will be back."""
        engine = self._cluster.engine
        states = {node: member.state for node, member in engine.members.items()}
        gone = {MemberState.DOWN, MemberState.LEFT, None}
        return [owner for owner in engine.records.owners if states.get(owner) in gone]

    async def _forget(self, owner: NodeId) -> None:
        gossip = self._cluster.gossip
        before = self._cluster.wall() - self._kept_s * (1 + SLACK)
        records = gossip.engine.records
        while expired := set(islice(self._expired(owner, before), MOST_AT_ONCE)):
            floor = records.line(owner).floor

            def outlive(now: float, expired: set[str] = expired) -> list[Outcome]:
                return gossip.engine.outlive(owner, expired, now)

            gossip.do(outlive)
            await gossip.settled()
            if records.line(owner).floor == floor:
                return

    def _expired(self, owner: NodeId, before: float) -> Iterator[str]:
        """The tasks of *owner* from its oldest word on, up to the first that lives or ended not long ago enough."""
        for view in self._cluster.engine.records.in_order(owner):
            ended = self._ended(view)
            if ended is None or ended > before:
                return
            yield view.entry.task

    def _ended(self, view: View) -> float | None:
        if not view.terminal:
            return None
        if view.verdict is not None and view.lost:
            return self._shown.lost_at(view.verdict)
        try:
            return parse_time(json.loads(view.entry.payload)["times"]["finished"])
        except (ValueError, LookupError, TypeError, AttributeError):
            return None
