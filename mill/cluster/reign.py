"""Who leads, and what a leader does: keep its lease, ask about nodes that are gone, condemn them. Pure.

The election and the verdicts decide; this carries out what they want, through the post. A leader pings every member by itself,
since the membership's own probes come round too seldom in a large cluster. `engine` calls this.
"""

import math
from functools import partial

import attrs

from mill.cluster import claims, codec, verdicts
from mill.cluster.claims import Claim, Degraded, Follower, Full, Mandate, Standing
from mill.cluster.effects import Changed
from mill.cluster.election import Election
from mill.cluster.letters import Ask, Beat, Hand, Inquiry, Testimony, Vouch
from mill.cluster.outcomes import Led
from mill.cluster.post import Post
from mill.cluster.replication import Replication
from mill.cluster.rumours import CLAIM_KEY
from mill.cluster.values import MemberState, NodeId
from mill.cluster.verdicts import Verdicts

UNJOINED = 2**48
"""The joined term of a node that has not heard yet what term it is: behind everybody."""


@attrs.frozen
class Tuning:
    """Seconds."""

    ask_every_s: float = 2.6
    """How old a member's last answer is when the leader asks again: twice before its lease lapses. Of 20 nodes it costs
    the leader 6 kbit/s, and with the repeats at nearly a third of loss 11."""
    ask_again_s: float = 0.5
    """Between two questions to one that has not answered: five of them, at a third of loss, before the lease lapses."""
    touch_s: float = 7.0
    """How long this node counts itself to the majority without a leader who has one: longer than a failover leaves it
    leaderless, and with the leader's silence before it less than a verdict on this node takes."""


class Reign:
    """See the module. *joined_term* is what this node says of itself so far."""

    def __init__(
        self,
        post: Post,
        election: Election,
        courts: Verdicts,
        replication: Replication,
        tuning: Tuning,
        joined_term: int,
    ) -> None:
        self.election = election
        self._verdicts = courts
        self._post = post
        self._replication = replication
        self._tuning = tuning
        self._joined_term = joined_term
        self._joined = False
        self._listens_since = self._led_at = post.now
        self._heard_at: dict[NodeId, float] = {}
        self._asked_at: dict[NodeId, float] = {}
        self._answered_at: dict[NodeId, float] = {}
        self.led: Led | None = None
        """What `look` said last."""

    @property
    def standing(self) -> Standing:
        return self.election.standing(self._post.now)

    @property
    def in_touch(self) -> bool:
        """Whether this node leads with a majority, or follows one who does, or did so a moment ago."""
        return self._is_led or self._post.now - self._led_at < self._tuning.touch_s

    @property
    def _is_led(self) -> bool:
        standing, claim = self.standing, self.election.incumbent
        return isinstance(standing, Full) or (
            isinstance(standing, Follower) and claim is not None and claim.quorum
        )

    # -- what comes in ----------------------------------------------------------------------------------------------

    def heard(self, node: NodeId) -> None:
        """*node* itself has said something, whatever it is."""
        self._heard_at[node] = self._post.now

    def was_deaf(self) -> None:
        """Called after a stop of this node: it cannot say that others were silent meanwhile."""
        self._listens_since = self._post.now

    def member(self, changed: Changed) -> None:
        old, new, now = changed.old, changed.new, self._post.now
        if new is not None:
            self._do(self.election.member(new, now))
        elif old is not None:
            self._do(self.election.forget(old.id, now))

    def beat(self, node: NodeId, beat: Beat, rtt_s: float | None) -> None:
        """*rtt_s*: it came with the answer to a ping of so long ago; None: with a ping."""
        now = self._post.now
        self._join(beat.accepted)
        if rtt_s is not None:
            self._answered_at[node] = now
            self._do(self.election.answered(node, beat.accepted, now - rtt_s, now))
        if beat.claim is not None:
            self._do(self.election.hear(beat.claim, now))

    def claim(self, claim: Claim) -> None:
        self._do(self.election.hear(claim, self._post.now))

    def _join(self, accepted: Mandate) -> None:
        """The first word of a term in this life puts this node at the end of the line, unless it leads already."""
        if self._joined or accepted.term == 0:
            return
        self._joined = True
        if self.election.leads or not (self._joined_term == UNJOINED or accepted.term > self._joined_term):
            return
        self._joined_term = max(accepted.term, self.election.highest.term)
        self._post.say(joined_term=self._joined_term)

    # -- letters ----------------------------------------------------------------------------------------------------

    def ask(self, node: NodeId, letter: Ask) -> None:
        vouched = self.election.vouches(letter.leader, self._post.now)
        self._post.mail_twice(node, Vouch(letter.leader, vouched))

    def vouch(self, node: NodeId, letter: Vouch) -> None:
        self._do(self.election.probed(letter.leader, node, self._post.now, vouched=letter.vouched))

    def hand(self, _node: NodeId, letter: Hand) -> None:
        self._do(self.election.handed(letter.mandate, self._post.now))

    def inquiry(self, node: NodeId, letter: Inquiry) -> None:
        self._post.mail(node, self._testimony(letter.node), by_stream=False)

    def _testimony(self, node: NodeId) -> Testimony:
        since = max(self._heard_at.get(node, self._listens_since), self._listens_since)
        return Testimony(node, self._post.now - since, self._replication.records.line(node))

    def testimony(self, by: NodeId, letter: Testimony) -> None:
        more = self._replication.lacks(letter.line)
        effects = self._verdicts.testify(letter.node, by, letter.silent_s, self._post.now, more=more)
        for effect in effects:
            if isinstance(effect, verdicts.Fetch):
                fetched = partial(self._verdicts.fetched, effect.node, effect.source)
                self._replication.fetch(effect.node, letter.line, effect.source, fetched)

    # -- orders -----------------------------------------------------------------------------------------------------

    def order(self, mandate: Mandate) -> bool:
        obeyed, effects = self.election.order(mandate, self._post.now)
        self._do(effects)
        return obeyed

    def resign(self) -> None:
        self._do(self.election.resign())

    # -- time -------------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        self._do(self.election.tick(self._post.now))

    def turn(self) -> None:
        """Every half second."""
        self.tick()
        if self._is_led:
            self._led_at = self._post.now
        if self.election.leads:
            self._keep_lease()
        members = self._post.swim.members
        records = self._replication.records
        gone = [node for node, member in members.items() if member.state is MemberState.DOWN]
        at_stake = [node for node in gone if next(records.at_stake(node), None) is not None]
        for effect in self._verdicts.tick(self.standing, members, at_stake, self._post.now):
            self._judge(effect)

    def look(self) -> None:
        """Say who leads, where that is new."""
        match self.standing:
            case Full():
                led = Led(self._post.me, full=True, mandate=self.election.highest)
            case Degraded():
                led = Led(self._post.me, full=False, mandate=self.election.highest)
            case Follower(leader):
                led = Led(leader, full=False, mandate=self.election.highest)
            case _:
                led = Led(None, full=False, mandate=self.election.highest)
        if led != self.led:
            self.led = led
            self._post.emit(led)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _keep_lease(self) -> None:
        now, tuning = self._post.now, self._tuning
        for node, voter in self.election.voters.items():
            if node == self._post.me or not voter.present:
                continue
            asked_at = self._asked_at.get(node, -math.inf)
            answered_at = self._answered_at.get(node, -math.inf)
            due_at = max(answered_at + tuning.ask_every_s, asked_at + tuning.ask_again_s)
            if now >= due_at:
                self._asked_at[node] = now
                self._post.ping(node)

    def _do(self, effects: list[claims.Effect]) -> None:
        for effect in effects:
            match effect:
                case claims.Persist():
                    self._post.emit(effect)
                case claims.Broadcast(claim):
                    self._post.tell(CLAIM_KEY, codec.claim(claim))
                    self._asked_at.clear()
                    self._keep_lease()
                case claims.ProbeFirst(node, relays):
                    for relay in relays:
                        self._post.mail_twice(relay, Ask(node))
                case claims.HandOver(to, mandate):
                    self._post.mail_twice(to, Hand(mandate))
                case claims.StepDown():
                    self._asked_at.clear()

    def _judge(self, effect: verdicts.Effect) -> None:
        match effect:
            case verdicts.Inquire(node, of):
                for witness in of:
                    if witness == self._post.me:
                        self.testimony(witness, self._testimony(node))
                    else:
                        self._post.mail(witness, Inquiry(node), by_stream=False)
            case verdicts.Condemn(node):
                records, term = self._replication.records, self.election.highest.term
                self._replication.condemn(records.verdict(node, term, self._post.wall))
            case verdicts.Held():
                self._post.emit(effect)
            case verdicts.Fetch():
                pass
