"""When a leader may say that a node is gone and its tasks are lost. Pure.

That cannot be taken back, so everything has to agree: the leader has been full for a whole lease; the node is down, and not away
or gone by its own word; every member that is there has been asked, they are a quorum, none has heard of the node for `lost_s`, and
the leader holds all that any of them holds of the node's log. And not too many at once: when a quarter of the cluster seems to be
gone it is rather a switch that failed, so that the rest waits and somebody is told.

The engine asks (`Inquire`), fetches (`Fetch`), and makes the verdict (`Condemn`, see `Records.verdict`); it says on each tick which owners have
tasks at stake. While the leader is not full, nothing is remembered: the next one asks anew.
"""

from collections.abc import Callable, Collection, Mapping

import attrs

from mill.cluster.claims import Full, Standing
from mill.cluster.values import Member, MemberState, NodeId


@attrs.frozen
class Tuning:
    """Times in seconds."""

    lease_s: float = 5.0
    """How long a leader must have been full: the lease of `election`, after which no other can be full."""
    lost_s: float = 15.0
    """MILL_NODE_LOST_SECS: how long nobody may have heard of a node. More than a crashed milld takes to come back."""
    testimony_s: float = 3.0
    """How long a testimony counts. A few round trips, for those who did not answer at once are asked again."""
    ask_every_s: float = 0.5
    """Between two questions to a member that has not answered."""
    window_s: float = 300.0
    """Over which verdicts are counted."""
    share: float = 0.25
    """The part of all known members that may be condemned within the window; one always may."""


@attrs.frozen
class Inquire:
    """Ask each of `of`, this node among them, what it holds of `node`'s log, and how long it has heard nothing from it: nobody
    can tell more than the time since its own milld began.
    """

    node: NodeId
    of: tuple[NodeId, ...]


@attrs.frozen
class Fetch:
    """`source` holds some of `node`'s log that this node does not: get it, then say `fetched`."""

    node: NodeId
    source: NodeId


@attrs.frozen
class Condemn:
    """The tasks of `node` are lost."""

    node: NodeId


@attrs.frozen
class Held:
    """These nodes seem to be gone, and are too many for now: alert. The next verdict is possible at `until`, or by hand."""

    nodes: tuple[NodeId, ...]
    until: float


Effect = Inquire | Fetch | Condemn | Held


@attrs.define
class _Case:
    """What is known against one node."""

    not_before: float = 0.0
    asked_at: dict[NodeId, float] = attrs.field(factory=dict)
    testified_at: dict[NodeId, float] = attrs.field(factory=dict)
    owing: set[NodeId] = attrs.field(factory=set)
    """Those who hold more of the log than this node."""


class Verdicts:
    """See the module. *is_quorum* is the election's, *given* what was learnt in the last life, by when (on the clock of now)."""

    def __init__(
        self,
        me: NodeId,
        tuning: Tuning,
        is_quorum: Callable[[Collection[NodeId]], bool],
        given: Mapping[NodeId, float] | None = None,
    ) -> None:
        self.me = me
        self._tuning = tuning
        self._is_quorum = is_quorum
        self._cases: dict[NodeId, _Case] = {}
        self._given = dict(given or {})
        self._told: set[NodeId] = set()

    def __repr__(self) -> str:
        return f"<Verdicts: {len(self._cases)} cases, {len(self._given)} given lately>"

    def learnt(self, owner: NodeId, now: float) -> None:
        """A verdict is new here, this node's own or another leader's: it counts for the limit."""
        self._given.setdefault(owner, now)

    def testify(self, node: NodeId, by: NodeId, silent_s: float, now: float, *, more: bool) -> list[Effect]:
        """*by* has not heard of *node* for *silent_s*; *more*: it holds some of its log that this node does not."""
        case = self._cases.get(node)
        if case is None:
            return []
        if silent_s < self._tuning.lost_s:
            self._cases[node] = _Case(not_before=now + self._tuning.lost_s - silent_s)
            return []
        case.testified_at[by] = now
        if not more:
            case.owing.discard(by)
            return []
        case.owing.add(by)
        return [Fetch(node, by)]

    def fetched(self, node: NodeId, source: NodeId) -> None:
        """All that *source* held of *node*'s log when it testified is here now."""
        if node in self._cases:
            self._cases[node].owing.discard(source)

    def tick(
        self, standing: Standing, members: Mapping[NodeId, Member], at_stake: Collection[NodeId], now: float
    ) -> list[Effect]:
        """Called at least every `ask_every_s` while this node leads. *at_stake*: owners with tasks to lose."""
        if not (isinstance(standing, Full) and now - standing.since >= self._tuning.lease_s):
            self._cases.clear()
            return []
        suspects = [
            node for node, member in members.items() if member.state is MemberState.DOWN and node in at_stake
        ]
        self._cases = {node: self._cases.get(node) or _Case() for node in suspects}
        witnesses = {node for node, member in members.items() if member.state.reachable} | {self.me}
        effects: list[Effect] = []
        proven: list[NodeId] = []
        for node, case in self._cases.items():
            if now >= case.not_before:
                effects += self._inquire(node, case, witnesses, now)
                if self._is_proven(case, witnesses, now):
                    proven.append(node)
        known = sum(member.state is not MemberState.LEFT for member in members.values())
        return [*effects, *self._condemn(proven, known, now)]

    # -- inside -----------------------------------------------------------------------------------------------------

    def _inquire(self, node: NodeId, case: _Case, witnesses: set[NodeId], now: float) -> list[Effect]:
        """Whose word is missing, or about to be too old, is asked; but nobody too often."""
        soon = now - self._tuning.testimony_s + 2 * self._tuning.ask_every_s
        pause_s = self._tuning.ask_every_s
        of = tuple(
            witness
            for witness in sorted(witnesses)
            if case.testified_at.get(witness, soon - 1) < soon
            and now - case.asked_at.get(witness, now - pause_s) >= pause_s
        )
        case.asked_at |= dict.fromkeys(of, now)
        return [Inquire(node, of)] if of else []

    def _is_proven(self, case: _Case, witnesses: set[NodeId], now: float) -> bool:
        since = now - self._tuning.testimony_s
        heard = {witness for witness, at in case.testified_at.items() if at >= since}
        return witnesses <= heard and not case.owing & witnesses and self._is_quorum(witnesses)

    def _condemn(self, proven: list[NodeId], known: int, now: float) -> list[Effect]:
        """As many as may be; of the rest it is told once."""
        since = now - self._tuning.window_s
        self._given = {node: at for node, at in self._given.items() if at > since}
        most = max(1, int(self._tuning.share * known))
        effects: list[Effect] = []
        held: list[NodeId] = []
        for node in sorted(proven):
            if node in self._given or len(self._given) < most:
                self._given.setdefault(node, now)
                del self._cases[node]
                effects.append(Condemn(node))
            else:
                held.append(node)
        self._told &= self._cases.keys()
        if not self._told.issuperset(held):
            effects.append(Held(tuple(held), min(self._given.values()) + self._tuning.window_s))
            self._told.update(held)
        return effects
