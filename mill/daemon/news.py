"""What comes of the cluster, told to those who are to know: the log, and whoever listens. Plugged into `cluster.service` by `cluster`."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import structlog
import trio

from mill.cluster import effects, entries
from mill.cluster.engine import Engine
from mill.cluster.outcomes import Led, Outcome
from mill.cluster.rows import Statement
from mill.cluster.values import Address, Member, MemberState, NodeId
from mill.cluster.verdicts import Held
from mill.daemon.seldom import Seldom
from mill.daemon.shown import Shown
from mill.security.box import Refusal

log = structlog.get_logger()

_WORDS = {
    MemberState.ALIVE: "a node is there",
    MemberState.AWAY: "a node is away; its tasks run on",
    MemberState.DOWN: "a node does not answer any more",
    MemberState.LEFT: "a node has left",
}
_TURNED_AWAY = {
    Refusal.SIZE: "it is none of Mill's",
    Refusal.VERSION: "it is of another version of Mill",
    Refusal.FORGED: "it is forged, or was damaged on its way",
    Refusal.REPLAYED: "it has come before, or comes much too late: somebody replays it",
}
"""Datagrams by another secret are told with who sent them; one's own, sent back, come of a list of members that names all."""


class News:
    """As `cluster.service.Listener`; of use once it is `of` an engine."""

    engine: Engine
    tasks: Shown

    def __init__(self, seeds: Iterable[tuple[str, int]], wall: Callable[[], float]) -> None:
        self.on: dict[type[Any], list[Callable[[Any], None]]] = defaultdict(list)
        """Who hears of outcomes of that type, in their order."""
        self.before_shown: list[Callable[[entries.Changed], None]] = []
        """Who hears of what is about to be shown of a task, before it is committed."""
        self._wall = wall
        self._seeds = {str(Address(*seed)) for seed in seeds}
        self._silent_since: dict[NodeId, float] = {}
        self._joins, self._turned_away = Seldom(), Seldom()
        self._alone = True

    def of(self, engine: Engine) -> "News":
        self.engine = engine
        self.tasks = Shown(engine.records, engine.me.id, self._wall)
        return self

    def address(self, node: NodeId) -> Address | None:
        member = self.engine.members.get(node)
        return None if member is None else member.peer.address

    def at(self, address: Address) -> NodeId | None:
        """The member that is to be found there."""
        found = (member.id for member in self.engine.members.values() if member.peer.address == address)
        return next(found, None)

    def name(self, node: NodeId) -> str:
        member = self.engine.members.get(node)
        return node[:8] if member is None else member.peer.name

    def silent_s(self, node: NodeId) -> float | None:
        """For how long that node has not answered; None: it does."""
        since = self._silent_since.get(node)
        return None if since is None else trio.current_time() - since

    def shown(self, changed: entries.Changed) -> list[Statement]:
        for hear in self.before_shown:
            hear(changed)
        return self.tasks.rows(changed)

    def tell(self, outcome: Outcome) -> None:
        match outcome:
            case effects.Changed(old, new):
                self._member(old, new)
            case Led(leader, full):
                self._led(leader, full=full)
            case Held(nodes):
                log.error(
                    "too many nodes seem to be gone at once: is it the network? Their tasks count on; "
                    "'mill nodes forget' decides by hand",
                    nodes=[self.name(node) for node in nodes],
                )
        for hear in self.on[type(outcome)]:
            hear(outcome)

    def refused(self, why: str, address: Address) -> None:
        """A stream that failed on its way to somebody to join by is worth a line; one to a member is the membership's to judge."""
        if self._alone and str(address) in self._seeds:
            if self._joins.is_news(str(address), why):
                log.error("cannot join; trying on", join=str(address), why=why)
        elif "another secret" in why:
            self.stranger(address.host, why)

    def stranger(self, host: str, why: str) -> None:
        """Somebody at *host* was not let in, or is not whom he is taken for."""
        if self._turned_away.is_news(host, why):
            log.warning("somebody there is not of this cluster: has it another secret?", host=host, why=why)

    def turned_away(self, refusal: Refusal, sender: NodeId | None, address: Address) -> None:
        if refusal is Refusal.KEY:
            self.refused("it has another secret", address)
        why = _TURNED_AWAY.get(refusal)
        if why is not None and self._turned_away.is_news(why, sender or ""):
            named = None if sender is None else self.name(sender)
            log.warning("a datagram was refused", in_the_name_of=named, why=why)

    def _member(self, old: Member | None, new: Member | None) -> None:
        if new is None and old is not None:
            self._silent_since.pop(old.id, None)
        if new is None or new.id == self.engine.me.id:
            return
        if new.state is MemberState.ALIVE:
            self._alone = False
            self._silent_since.pop(new.id, None)
        else:
            self._silent_since.setdefault(new.id, trio.current_time())
        same = old is not None and old.state is new.state and old.peer.epoch == new.peer.epoch
        remembered = old is None and new.state is MemberState.DOWN
        if not (same or remembered or _is_relief(old, new)) and new.state in _WORDS:
            log.info(_WORDS[new.state], node=new.peer.name, address=str(new.peer.address))

    def _led(self, leader: NodeId | None, *, full: bool) -> None:
        if leader == self.engine.me.id:
            log.info("this node leads", majority=full)
        else:
            log.info("who leads", leader=None if leader is None else self.name(leader))


def _is_relief(old: Member | None, new: Member) -> bool:
    """A suspicion came to nothing."""
    return (
        old is not None
        and old.state is MemberState.SUSPECT
        and new.state is MemberState.ALIVE
        and old.peer.epoch == new.peer.epoch
    )
