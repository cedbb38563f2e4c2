"""Other nodes as witnesses of ends: an end is told for certain once those who could be a majority without this node know of it, too.

`cluster.ends` says which are in doubt, and who has to be given which. `replicated` tells this of every end before it is shown, the API asks
before it tells one, and other nodes ask after this node's own ends by ``/peer/ends``. Wired by `joining`.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import partial

import trio

from mill.api.peer_ends import ENDS
from mill.cluster.ends import Ends
from mill.cluster.entries import Changed, Entry
from mill.cluster.outcomes import Witnessed
from mill.cluster.service import Gossip
from mill.cluster.values import NodeId
from mill.config import SURE_S
from mill.daemon.fleet import ask_one
from mill.daemon.news import News
from mill.daemon.peers import Peers

TURN_S = 0.1
"""Between two looks, while an end of this node is in doubt..."""
LOOK_S = 1.0
"""... and at any other time: whether this node was in touch all the while."""


class Witnesses:
    """See the module."""

    def __init__(self, gossip: Gossip, news: News, peers: Peers) -> None:
        engine = gossip.engine
        news.before_shown.append(self.learn)
        news.on[Witnessed].append(self._taken)
        self.ends = Ends(engine.me.id, engine.members, engine.is_quorum)
        self._gossip = gossip
        self._peers = peers
        self._more = trio.Event()
        self._news = trio.Event()

    # -- what happens here ------------------------------------------------------------------------------------------

    @contextmanager
    def of(self, entry: Entry) -> Iterator[None]:
        """An entry of this node is committed, and published, in here."""
        if entry.ended != entry.mark:
            yield
            return
        self.ends.expect(entry.task, trio.current_time())
        try:
            yield
        finally:
            self.ends.forget_unpublished(entry.task)

    def publish(self, entry: Entry) -> None:
        """It is committed, and told."""
        if entry.terminal:
            self.ends.publish(entry, trio.current_time())
            self._more.set()

    def learn(self, changed: Changed) -> None:
        """Something else is about to be shown of a task."""
        before, after = changed.before, changed.after
        if after is None or not after.entry.terminal or (before is not None and before.terminal):
            return
        if after.entry.owner != self.ends.me:
            self.ends.hear(after.entry.task, after.entry.owner, trio.current_time())

    # -- who asks ---------------------------------------------------------------------------------------------------

    async def in_doubt(self, tasks: Collection[str], within_s: float = SURE_S) -> set[str]:
        """Those of *tasks* whose end a verdict could still pass over; *within_s* at most for that to change, and none while cut off."""
        doubted = self.ends.in_doubt(tasks)
        if not doubted or self._gossip.engine.partial:
            return doubted
        with trio.move_on_after(within_s):
            async with trio.open_nursery() as nursery:
                for owner in {self.ends.owner(task) for task in doubted} - {self.ends.me}:
                    nursery.start_soon(self._ask, owner, [t for t in doubted if self.ends.owner(t) == owner])
                while self.ends.in_doubt(doubted) and not self._gossip.engine.partial:
                    await self._news.wait()
                nursery.cancel_scope.cancel()
        return self.ends.in_doubt(doubted)

    async def _ask(self, owner: NodeId, tasks: list[str]) -> None:
        """Who ended them knows whether enough others know."""
        said = await ask_one(self._peers, owner, ENDS, _tasks, {"tasks": tasks})
        if said is not None:
            self.ends.close(set(tasks) - said)
            self._tell()

    # -- giving -----------------------------------------------------------------------------------------------------

    async def serve(self, *, task_status: trio.TaskStatus["Witnesses"]) -> None:
        """Give ends to those who are owed them, until cancelled."""
        task_status.started(self)
        while True:
            with trio.move_on_after(TURN_S if self.ends.waiting else LOOK_S):
                await self._more.wait()
            self._more = trio.Event()
            self._turn()

    def _turn(self) -> None:
        before, now, in_touch = len(self.ends), trio.current_time(), not self._gossip.engine.partial
        self.ends.turn(now, in_touch=in_touch)
        if len(self.ends) < before or not in_touch:
            self._tell()
        for node, ends in self.ends.owed(now).items() if in_touch else ():
            for end in ends:
                self._gossip.do(partial(self._gossip.engine.hand_over, node, end))

    def _taken(self, witnessed: Witnessed) -> None:
        self.ends.taken(witnessed.task, witnessed.node)
        self._more.set()

    def _tell(self) -> None:
        """Those who wait: some are in doubt no longer, or it is no use to wait."""
        self._news.set()
        self._news = trio.Event()


def _tasks(said: object) -> set[str]:
    """What a node has answered; raises one of `fleet.UNREADABLE`."""
    if not isinstance(said, dict):
        raise TypeError("it is no object")
    return set(map(str, said["in_doubt"]))
