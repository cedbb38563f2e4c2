"""What each node has to offer, out of what it said last and what was sent there since; and what this node says. Wired by `cluster`."""

from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Protocol

import attrs
import structlog
import trio

from mill.cluster import load as loads
from mill.cluster.load import Load
from mill.cluster.values import Member, MemberState, NodeId
from mill.config import IMAGES_EVERY_S
from mill.errors import FieldError, MillError, NoCapacity, Unavailable
from mill.model import NodeState, Resources
from mill.tasks.placement import Lot, Offer, rank
from mill.tasks.service import Tasks

NOTHING = Resources(0.0, 0)
FRESH_S = 0.3
"""What was sent to a node so shortly before its word it may not have counted yet: the order's way, and its word's, at 0.1 s each, and a commit."""
PROMISED_S = 10.0
"""How long what was sent to a node counts, if it says nothing of its load meanwhile."""

log = structlog.get_logger()


class Loads(Protocol):
    """As the cluster's engine has it."""

    @property
    def id(self) -> NodeId: ...

    @property
    def members(self) -> Mapping[NodeId, Member]: ...

    @property
    def loads(self) -> Mapping[NodeId, bytes]:
        """What each said of its load last."""

    def say_load(self, load: Callable[[], bytes]) -> None:
        """What goes out with each answer of this node, asked for then."""


@attrs.define(eq=False)
class _Said:
    """The last word of a node, and what was sent there since, with the time of it."""

    data: bytes
    load: Load | None
    sent: deque[tuple[float, Resources]] = attrs.field(factory=deque)

    def hear(self, data: bytes, now: float) -> None:
        """Its next word, which tells of all that had come there when it was made."""
        if data != self.data:
            self.data, self.load = data, loads.decode(data)
            self._forget(now - FRESH_S)

    def _forget(self, before: float) -> None:
        while self.sent and self.sent[0][0] <= before:
            self.sent.popleft()

    def promised(self, now: float) -> Resources:
        self._forget(now - PROMISED_S)
        return Resources(sum(one.cpu for _, one in self.sent), sum(one.memory for _, one in self.sent))


@attrs.define(eq=False)
class Offers:
    """See the module. *state* is this node's own."""

    _cluster: Loads
    _tasks: Tasks
    _state: Callable[[], NodeState]
    _lot: Lot
    _images: int = 0
    _said: dict[NodeId, _Said] = attrs.field(factory=dict)

    def rank(self, asked: Resources, image: str, *, mine: bool) -> list[NodeId]:
        """The nodes to try, best first, of which the first is taken to get it. `FieldError`, `NoCapacity`.

        *mine*: this node itself gives the order, so that one to itself is in its ledger at once.
        """
        now = trio.current_time()
        offers = [
            offer for node in self._cluster.members if (offer := self._offer(node, image, now)) is not None
        ]
        bare = [attrs.evolve(offer, promised=NOTHING) for offer in offers]
        try:  # what was sent may have ended, or never have come: who has room without it is asked, too, last
            fitting = rank(asked, bare, self._lot)
        except FieldError:
            self._check_heard()
            raise
        with suppress(NoCapacity):
            fitting = [*rank(asked, offers, self._lot), *fitting]
        found = list(dict.fromkeys(NodeId(offer.node_id) for offer in fitting))
        if not (mine and found[0] == self._cluster.id):
            self._said[found[0]].sent.append((now, asked))
        return found

    def arrived(self) -> None:
        """An order that this node, as leader, had others give to it is here: its ledger counts it."""
        said = self._said.get(self._cluster.id)
        if said is not None and said.sent:
            said.sent.popleft()

    def _check_heard(self) -> None:
        """`Unavailable` while a node may be larger than all that are known."""
        for node, member in self._cluster.members.items():
            if node != self._cluster.id and member.state.reachable and self._said[node].load is None:
                raise Unavailable(
                    f"node {member.peer.name} has not said yet what it has; try again in some seconds"
                )

    def _offer(self, node: NodeId, image: str, now: float) -> Offer | None:
        member = self._cluster.members[node]
        if node == self._cluster.id:
            own = self._said.setdefault(node, _Said(b"", None))
            return _offer(member, self.own(), image, own.promised(now))
        said = self._said.setdefault(node, _Said(b"", None))
        said.hear(self._cluster.loads.get(node, b""), now)
        if said.load is None or member.state is MemberState.LEFT:
            return None
        return _offer(member, said.load, image, said.promised(now))

    def own(self) -> Load:
        ledger = self._tasks.ledger
        return Load(ledger.capacity, ledger.free, self._state(), self._images, len(self._tasks.table))

    async def serve(
        self, images: Callable[[], Awaitable[set[str]]], *, task_status: trio.TaskStatus[None]
    ) -> None:
        """Tell the others, until cancelled."""
        self._cluster.say_load(lambda: loads.encode(self.own()))
        task_status.started()
        while True:
            try:
                self._images = loads.of_images(await images())
            except MillError as error:
                log.debug("the images cannot be listed now", why=str(error))
            await trio.sleep(IMAGES_EVERY_S)


def _offer(member: Member, load: Load, image: str, promised: Resources) -> Offer:
    return Offer(
        node_id=member.id,
        name=member.peer.name,
        capacity=load.capacity,
        free=load.free,
        state=load.state,
        away=member.state is not MemberState.ALIVE,
        has_image=load.holds(image),
        promised=promised,
    )
