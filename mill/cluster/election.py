"""Who leads, without a consensus: the oldest member, as long as it is there. Pure.

The leader is sticky. When it has left, is down, or has not been heard of for `fresh_s`, the oldest of those present by (priority, joined
term, id) asks the others whether they still hear it lead, and only if they do not claims the next term. Whoever comes, or comes back,
goes to the end of the line. A follower accepts a claim when its own leader is gone, or when the claim weighs more than its leader's:
(quorum, term, age, id). A leader that meets a heavier claim steps down on sight; one that meets a lighter one with a higher
mandate claims a term above it, since nodes may have accepted that and never go below.

A leader is full while a strict majority of known members, or exactly half of them with the founder among these, has
answered it within the lease *and* said in the answer that its mandate is the one they accept. So two leaders cannot both be full for
longer than a lease: a member that has gone over to one no longer counts for the other. Known are all that have not left.

Nothing here makes a double leader impossible for some seconds, and nothing depends on that: placements are checked by the
owner's ledger, and a verdict waits until the lease was held for its whole length (`verdicts`). The engine calls this.
"""

import math
from collections.abc import Collection, Mapping

import attrs

from mill.cluster.claims import (
    NOBODY,
    Broadcast,
    Claim,
    Degraded,
    Effect,
    Follower,
    Full,
    HandOver,
    Leaderless,
    Mandate,
    Persist,
    ProbeFirst,
    Standing,
    StepDown,
)
from mill.cluster.lease import Lease
from mill.cluster.values import Member, MemberState, NodeId
from mill.cluster.voters import Voter


@attrs.frozen
class Tuning:
    """Seconds. Each bound is what the failover of ten seconds leaves room for."""

    lease_s: float = 5.0
    """How long an answer counts for a leader. At least three of its pings."""
    fresh_s: float = 5.0
    """How long a leader may be silent before its heir asks after it. At least the lease, which the silent leader may hold."""
    stable_s: float = 1.0
    """How long membership must have been quiet before a claim; three times that is the longest wait."""
    vouch_s: float = 3.0
    """How lately another must have heard the leader's claim to stop its heir. Less than `fresh_s`, lest failover waits for it."""
    probe_s: float = 1.5
    """How long answers to `ProbeFirst` are waited for: the way there and back, and once more by the stream."""
    patience_s: float = 2.0
    """Between two tries to take over; and how long a leader waits for the claim behind a higher mandate that it was shown."""


class Election:
    """See the module. *highest* is the mandate that was persisted last; members come by `member`, this node among them."""

    def __init__(self, me: NodeId, highest: Mandate, tuning: Tuning, now: float) -> None:
        self.me = me
        self.highest = highest
        self._tuning = tuning
        self._voters: dict[NodeId, Voter] = {}
        self._line: list[NodeId] | None = (
            None  # made anew after a change of members: every deadline asks for the heir
        )
        self._seen = highest.term
        self._incumbent: Claim | None = None
        self._heard_at = now
        self._lease = Lease(me, tuning.lease_s, self.is_quorum)
        self._changed_at = now
        self._vacant_since: float | None = now
        self._asked: dict[NodeId, bool | None] | None = None
        self._not_before = -math.inf
        self._decide_at = math.inf
        self._challenged_at = math.inf
        self._resigned = False

    def __repr__(self) -> str:
        return f"<Election of {self.me[:8]}: incumbent {self._incumbent}, accepted {self.highest}>"

    @property
    def leads(self) -> bool:
        return self._incumbent is not None and self._incumbent.leader == self.me

    @property
    def claim(self) -> Claim | None:
        """What rides on this node's pings, if it leads."""
        return self._incumbent if self.leads else None

    @property
    def incumbent(self) -> Claim | None:
        """The claim of whom this node follows or last followed, its own if it leads."""
        return self._incumbent

    @property
    def voters(self) -> Mapping[NodeId, Voter]:
        return self._voters

    def standing(self, now: float) -> Standing:
        if self.leads:
            if not self._has_quorum(now):
                return Degraded()
            return Full(now if self._lease.since is None else self._lease.since)
        if self._incumbent is None or self._is_vacant(now):
            return Leaderless()
        return Follower(self._incumbent.leader)

    def is_quorum(self, nodes: Collection[NodeId]) -> bool:
        """Whether *nodes* are a strict majority of those who have not left, or exactly half of them and the founder."""
        known = {voter.id: voter for voter in self._voters.values() if voter.state is not MemberState.LEFT}
        there = known.keys() & set(nodes)
        founders = [voter for voter in known.values() if voter.founder]
        founder = min(founders, key=lambda voter: voter.line, default=None)
        half = founder is not None and founder.id in there
        return 2 * len(there) > len(known) or (2 * len(there) == len(known) and half)

    def vouches(self, node: NodeId, now: float) -> bool:
        """What to answer an heir that asks after *node*: whether it was heard to lead lately, not only to be there."""
        follows = self._incumbent is not None and self._incumbent.leader == node and not self._is_vacant(now)
        return follows and now - self._heard_at < self._tuning.vouch_s

    # -- what comes in ----------------------------------------------------------------------------------------------

    def member(self, member: Member, now: float) -> list[Effect]:
        """A member is new or has changed."""
        old, new = self._voters.get(member.id), Voter.of(member)
        self._voters[member.id], self._line = new, None
        if old is None or (old.present, old.joined_term) != (new.present, new.joined_term):
            self._changed_at = now
        if old != new:
            self._lease.doubt()
        return self.tick(now)

    def forget(self, node: NodeId, now: float) -> list[Effect]:
        """A member is forgotten, by somebody's order or because it left long ago: it no longer counts."""
        self._voters.pop(node, None)
        self._line = None
        self._lease.doubt()
        return self.tick(now)

    def hear(self, claim: Claim, now: float) -> list[Effect]:
        """Somebody's claim, first hand or passed on."""
        self._seen = max(self._seen, claim.term)
        voter = self._voters.get(claim.leader)
        if claim.leader == self.me or voter is None or not voter.present:
            return []
        if self._incumbent is not None and claim.mandate == self._incumbent.mandate:
            self._incumbent, self._heard_at, self._asked = claim, now, None
            return []
        if self._incumbent is not None and self.leads:
            return self._meet(claim, self._incumbent, now)
        return self._follow(claim, now) if self._prefers(claim, now) else []

    def answered(self, node: NodeId, accepted: Mandate, sent: float, now: float) -> list[Effect]:
        """*node* has answered the ping that left at *sent*, and *accepted* is the highest mandate it knows."""
        self._seen = max(self._seen, accepted.term)
        claim = self.claim
        if claim is None:
            return self.tick(now)
        if accepted == claim.mandate:
            self._lease.answer(node, sent, now)
        elif accepted > claim.mandate:
            self._challenged_at = min(self._challenged_at, now)
        return self.tick(now)

    def order(self, mandate: Mandate, now: float) -> tuple[bool, list[Effect]]:
        """Whether to obey an order that goes by *mandate*. Nothing lower than what was accepted ever is."""
        self._seen = max(self._seen, mandate.term)
        if self.leads and mandate > self.highest:
            self._challenged_at = min(self._challenged_at, now)
        obeyed = mandate >= self.highest
        return obeyed, [*self._accept(mandate), *self.tick(now)]

    def probed(self, node: NodeId, by: NodeId, now: float, *, vouched: bool) -> list[Effect]:
        """The answer to `ProbeFirst`: what *by* `vouches`."""
        if self._asked is None or self._incumbent is None or node != self._incumbent.leader:
            return []
        if vouched:
            self._postpone(now)
        elif by in self._asked:
            self._asked[by] = False
        return self.tick(now)

    def handed(self, mandate: Mandate, now: float) -> list[Effect]:
        """The leader of *mandate* leaves, and has chosen this node."""
        self._seen = max(self._seen, mandate.term)
        if mandate < self.highest or self._resigned or self.leads or self.me not in self._voters:
            return []
        return self._take(now)

    def resign(self) -> list[Effect]:
        """Called when this node is about to leave or to be away: the next in the line goes on, and it claims no more."""
        self._resigned = True
        claim = self.claim
        if claim is None:
            return []
        self._incumbent = None
        self._lease.clear()
        others = [voter for voter in self._voters.values() if voter.present and voter.id != self.me]
        heir = min(others, key=lambda voter: voter.line, default=None)
        return [StepDown(), *([] if heir is None else [HandOver(heir.id, claim.mandate)])]

    # -- time -------------------------------------------------------------------------------------------------------

    @property
    def next_deadline(self) -> float:
        """When `tick` has something to do at the latest, if nothing comes in."""
        if self.leads:
            lapse = math.inf if self._lease.since is None else self._lease.until
            return min(lapse, self._challenged_at + self._tuning.patience_s)
        if not self._may_claim():
            return math.inf
        if self._asked is not None:
            return self._decide_at
        if self._vacant_since is None:
            return self._heard_at + self._tuning.fresh_s
        return max(self._ready_at(), self._not_before)

    def tick(self, now: float) -> list[Effect]:
        if self._incumbent is not None and self.leads:
            return self._keep_leading(self._incumbent, now)
        if not self._is_vacant(now):
            self._vacant_since = self._asked = None
            return []
        self._vacant_since = now if self._vacant_since is None else self._vacant_since
        if not self._may_claim() or now < self._not_before:
            return []
        if self._asked is not None:
            return self._decide(self._asked, now)
        if self._gone_by_its_word() or self._is_alone_from_the_start():
            return self._take(now)
        return self._ask(now) if now >= self._ready_at() else []

    # -- leading ----------------------------------------------------------------------------------------------------

    def _keep_leading(self, claim: Claim, now: float) -> list[Effect]:
        quorum = self._lease.review(now) and self.highest == claim.mandate
        if now >= self._challenged_at + self._tuning.patience_s:
            return self._take(now)
        if quorum == claim.quorum:
            return []
        self._incumbent = attrs.evolve(claim, quorum=quorum)
        return [Broadcast(self._incumbent)]

    def _has_quorum(self, now: float) -> bool:
        """Whether enough accept this node's claim, itself among them."""
        claim = self._incumbent
        return claim is not None and self.highest == claim.mandate and self._lease.holds(now)

    def _meet(self, claim: Claim, mine: Claim, now: float) -> list[Effect]:
        """Two leaders: one goes. If it is this one and may not go so low, the other will claim again above it."""
        mine = self._incumbent = attrs.evolve(mine, quorum=self._has_quorum(now))
        if claim.weight < mine.weight:
            return self._take(now) if claim.mandate > mine.mandate else [Broadcast(mine)]
        return [StepDown(), *self._follow(claim, now)] if claim.mandate >= self.highest else []

    def _take(self, now: float) -> list[Effect]:
        """Claim the next term."""
        term = self._seen = max(self._seen, self.highest.term) + 1
        self._lease.clear()
        self._asked, self._challenged_at, self._vacant_since = None, math.inf, None
        claim = self._incumbent = Claim(term, self.me, term - self._voters[self.me].joined_term, quorum=False)
        accepted = self._accept(claim.mandate)
        self._incumbent = attrs.evolve(claim, quorum=self._lease.review(now))
        return [*accepted, Broadcast(self._incumbent)]

    # -- following --------------------------------------------------------------------------------------------------

    def _prefers(self, claim: Claim, now: float) -> bool:
        """Whether to go over to *claim*: nothing lower than what was accepted, and nothing lighter than a leader who is there."""
        if claim.mandate < self.highest:
            return False
        current = self._incumbent
        if current is None or current.leader == claim.leader or self._is_vacant(now):
            return True
        return claim.weight > current.weight

    def _follow(self, claim: Claim, now: float) -> list[Effect]:
        self._incumbent, self._heard_at = claim, now
        self._asked = self._vacant_since = None
        self._challenged_at = math.inf
        self._lease.clear()
        return self._accept(claim.mandate)

    def _accept(self, mandate: Mandate) -> list[Effect]:
        if mandate <= self.highest:
            return []
        self.highest = mandate
        return [Persist(mandate)]

    def _is_vacant(self, now: float) -> bool:
        """Whether the leader is gone, has begun a new life, or is silent."""
        claim = self._incumbent
        if claim is None:
            return True
        voter = self._voters.get(claim.leader)
        gone = voter is None or not voter.present or voter.joined_term != claim.joined_term
        return gone or now >= self._heard_at + self._tuning.fresh_s  # as `next_deadline` adds it up

    # -- taking over ------------------------------------------------------------------------------------------------

    def _may_claim(self) -> bool:
        """A node that has not found the others yet is not the only one, unless it founded the cluster."""
        if self._resigned or self._heir() != self.me:
            return False
        return len(self._voters) > 1 or self._voters[self.me].founder

    def _heir(self) -> NodeId | None:
        """The first in the line that is there; a silent leader is not."""
        silent = None if self._incumbent is None or self.leads else self._incumbent.leader
        if self._line is None:
            there = (voter for voter in self._voters.values() if voter.present)
            self._line = [voter.id for voter in sorted(there, key=lambda voter: voter.line)]
        return next((node for node in self._line if node != silent), None)

    def _gone_by_its_word(self) -> bool:
        voter = None if self._incumbent is None else self._voters.get(self._incumbent.leader)
        return voter is not None and voter.state in {MemberState.LEFT, MemberState.AWAY}

    def _is_alone_from_the_start(self) -> bool:
        return self.highest == NOBODY and self._voters.keys() == {self.me} and self._voters[self.me].founder

    def _ready_at(self) -> float:
        """When the view counts as stable."""
        if self._vacant_since is None:
            return math.inf
        stable_s = self._tuning.stable_s
        return min(max(self._changed_at, self._vacant_since) + stable_s, self._vacant_since + 3 * stable_s)

    def _ask(self, now: float) -> list[Effect]:
        """Everybody else is asked whether the leader is there for them; if nobody else is there, there is nobody to harm."""
        node = None if self._incumbent is None else self._incumbent.leader
        relays = tuple(
            sorted(
                voter.id
                for voter in self._voters.values()
                if voter.present and voter.id not in {self.me, node}
            )
        )
        if node is None or not relays:
            return self._take(now)
        self._asked = dict.fromkeys(relays)
        self._decide_at = now + self._tuning.probe_s
        return [ProbeFirst(node, relays)]

    def _decide(self, asked: Mapping[NodeId, bool | None], now: float) -> list[Effect]:
        """More than half of those asked do not hear the leader either, and nobody does: take over. Few answers mean that the
        blind one is this node.
        """
        there = [node for node in asked if node in self._voters and self._voters[node].present]
        deaf = sum(asked[node] is False for node in there)
        if deaf == len(there):
            return self._take(now)
        if now < self._decide_at:
            return []
        if 2 * deaf > len(there):
            return self._take(now)
        self._postpone(now)
        return []

    def _postpone(self, now: float) -> None:
        self._asked = None
        self._not_before = now + self._tuning.patience_s
