"""What a member thinks of the others, and how claims change it: suspicions, objections, absences. Pure; a part of `swim`.

alive --no answer--> suspect --no objection in time--> down
alive, suspect, down --its own word, higher incarnation--> alive, away, left
away --its time is over--> suspect          any --a new life (higher epoch)--> alive
"""

from collections.abc import Callable, Mapping

from mill.cluster.broadcasts import weigh_body
from mill.cluster.effects import Changed, Reborn
from mill.cluster.messages import MOST_BODY_BYTES, Body, Claim, Packet
from mill.cluster.suspicion import Suspicion
from mill.cluster.values import Member, MemberState, NodeId, Peer
from mill.cluster.voice import Voice

CHECKERS = 3
"""Members that look for themselves at once when they hear of a suspicion, on average: its confirmation need not wait."""


class Opinions:
    """Changes the table; what it learns it passes on. `look` is called with a member that this node should probe now."""

    def __init__(
        self, voice: Voice, look: Callable[[NodeId], None], joined_term: int, meta: Mapping[str, str]
    ) -> None:
        self._voice = voice
        self._look = look
        self._suspicions: dict[NodeId, Suspicion] = {}
        self._away_until: dict[NodeId, float] = {}
        self.changed_at = voice.now
        """When the last change came; digests that differ right after one say little."""
        self._joined_term = joined_term
        self._meta = meta
        self._say(MemberState.ALIVE, self._body(0, joined_term, meta))

    # -- my own words -----------------------------------------------------------------------------------------------

    def say(
        self,
        state: MemberState,
        *,
        joined_term: int | None = None,
        meta: Mapping[str, str] | None = None,
        away_s: float = 0.0,
    ) -> None:
        """Something new about myself; `ValueError`, and nothing said, if it is too long."""
        reword = joined_term is not None or meta is not None
        body = self._body(
            self._voice.incarnation + 1,
            self._joined_term if joined_term is None else joined_term,
            self._meta if meta is None else meta,
        )
        self._joined_term, self._meta = body.joined_term, body.meta
        self._voice.incarnation += 1
        self._say(state, body if reword else None, away_s)

    def renew(self, epoch: int) -> None:
        """A new life of mine, before which nothing said of me counts."""
        me = self._voice.me
        self._voice.me = Peer(me.id, epoch, me.name, me.host, me.port)
        self._voice.incarnation = 0
        self._say(MemberState.ALIVE, self._body(0, self._joined_term, self._meta))

    def _body(self, said: int, joined_term: int, meta: Mapping[str, str]) -> Body:
        me = self._voice.me
        body = Body(me.name, me.host, me.port, said, joined_term, meta)
        if weigh_body(body) > MOST_BODY_BYTES:
            raise ValueError(f"{weigh_body(body)} bytes about myself, {MOST_BODY_BYTES} are allowed")
        return body

    def _say(self, state: MemberState, body: Body | None = None, away_s: float = 0.0) -> None:
        voice = self._voice
        claim = Claim(voice.me.id, voice.me.epoch, voice.incarnation, state, body, (), away_s)
        changed = voice.table.merge(claim, voice.now)
        if changed is not None:
            self._follow(changed, claim)

    def _about_me(self, claim: Claim) -> None:
        """Others may be wrong about me: I object, with a higher incarnation. What only a life can say that my disk does not know
        of, since it was set back, ends this life: another has used its epoch.
        """
        voice = self._voice
        mine = voice.table.members[voice.me.id]
        if (claim.epoch, claim.incarnation) > (voice.me.epoch, voice.incarnation):
            voice.effects.append(Reborn(claim.epoch + 1))
            self.renew(claim.epoch + 1)
        elif claim.epoch < voice.me.epoch:
            if not voice.broadcasts.has_body_of(voice.me.id):
                self._pass_on(voice.me.id, full=True)
        elif claim.rank > (mine.peer.epoch, mine.incarnation, mine.state):
            if claim.state in {MemberState.SUSPECT, MemberState.DOWN}:
                voice.doubt(+1)
            voice.incarnation += 1
            self._say(mine.state, away_s=self._away_s(mine.id))

    # -- others' words ----------------------------------------------------------------------------------------------

    def hear(self, packet: Packet, *, copied: bool = False) -> None:
        """The claims of a packet; *copied*: they are somebody's full copy, whose deaths may be old, so that they only cast suspicion."""
        is_old = self._voice.table.is_old
        for claim in packet.claims:
            if copied:
                self._copy(claim, packet.speaker)
            elif claim.accusers or not is_old(claim):
                self.apply(claim)
        speaker = self._voice.table.members.get(packet.speaker)
        if (
            speaker is not None
            and speaker.state in {MemberState.SUSPECT, MemberState.DOWN}
            and packet.epoch == speaker.peer.epoch
            and packet.incarnation > speaker.incarnation
        ):
            self.apply(Claim(packet.speaker, packet.epoch, packet.incarnation, MemberState.ALIVE))

    def apply(self, claim: Claim, *, told_by: NodeId | None = None) -> None:
        """Make *claim* mine, if it is news. *told_by*: whose full copy it is from."""
        voice = self._voice
        if claim.accusers and claim.node in self._suspicions:
            self._confirm(claim)
        if voice.table.is_old(claim):
            return
        if claim.node == voice.me.id:
            self._about_me(claim)
            return
        changed = voice.table.merge(claim, voice.now)
        if changed is not None:
            old_hat = changed.old is None and told_by not in {None, claim.node}
            self._follow(changed, claim, passing_on=not old_hat)

    def _copy(self, claim: Claim, speaker: NodeId) -> None:
        """One of a full copy. Whom this node did not know it does not pass on: its speaker did already, or others have copies, too."""
        held = self._voice.table.members.get(claim.node)
        if held is not None and held.state.reachable and claim.state is MemberState.DOWN:
            claim = Claim(claim.node, claim.epoch, claim.incarnation, MemberState.SUSPECT, claim.body)
        self.apply(claim, told_by=speaker)

    def suspect(self, node: NodeId) -> None:
        """It gave no answer to me, nor to those whom I asked."""
        held = self._voice.table.members[node]
        if held.state.reachable:
            me = self._voice.me.id
            self.apply(Claim(node, held.peer.epoch, held.incarnation, MemberState.SUSPECT, accusers=(me,)))

    def forget(self, node: NodeId) -> None:
        held = self._voice.table.members[node]
        self.apply(Claim(node, held.peer.epoch, held.incarnation, MemberState.LEFT))

    def _confirm(self, claim: Claim) -> None:
        held, suspicion = self._voice.table.members[claim.node], self._suspicions[claim.node]
        if claim.rank == (held.peer.epoch, held.incarnation, MemberState.SUSPECT) and suspicion.add(
            claim.accusers
        ):
            self._pass_on(claim.node)
            self._await(held, suspicion)

    def _follow(self, changed: Changed, claim: Claim, *, passing_on: bool = True) -> None:
        """What comes of a change: timers, effects, and that others hear of it."""
        voice, old, new = self._voice, changed.old, changed.new
        assert new is not None  # noqa: S101 -- a merge drops nobody
        self.changed_at = voice.now
        voice.effects.append(changed)
        moved = old is None or (old.state, old.incarnation, old.peer.epoch) != (
            new.state,
            new.incarnation,
            new.peer.epoch,
        )
        if moved:
            self._suspicions.pop(new.id, None)
            self._away_until.pop(new.id, None)
            if new.state is MemberState.SUSPECT:
                self._begin_suspicion(new, claim)
            elif new.state is MemberState.AWAY:
                self._away_until[new.id] = voice.now + claim.away_s
                voice.timers.at(voice.now + claim.away_s, self._back_by_now, new)
            elif new.state is MemberState.LEFT:
                voice.timers.at(voice.now + voice.tuning.left_kept_s, self._drop, new)
        if passing_on:
            self._pass_on(new.id, full=claim.body is not None)

    def _pass_on(self, node: NodeId, *, full: bool = False) -> None:
        """What is held of *node* now, with its body as long as that still waits to be told."""
        voice = self._voice
        suspicion = self._suspicions.get(node)
        voice.broadcasts.put_claim(
            voice.table.claim(
                node,
                full=full or voice.broadcasts.has_body_of(node),
                accusers=suspicion.accusers if suspicion else (),
                away_s=self._away_s(node),
            )
        )
        voice.kick()

    def full_copy(self) -> tuple[Claim, ...]:
        """All that is held, those that left included, so that nobody keeps them for alive."""
        table = self._voice.table
        return tuple(table.claim(node, full=True, away_s=self._away_s(node)) for node in table.members)

    # -- later ------------------------------------------------------------------------------------------------------

    def _begin_suspicion(self, suspect: Member, claim: Claim) -> None:
        voice = self._voice
        reachable = len(voice.table.reachable)
        suspicion = Suspicion.start(voice.now, reachable, voice.tuning, claim.accusers)
        self._suspicions[suspect.id] = suspicion
        self._await(suspect, suspicion)
        if voice.me.id not in claim.accusers and voice.rng.random() * reachable < CHECKERS:
            self._look(suspect.id)

    def _await(self, suspect: Member, suspicion: Suspicion) -> None:
        self._voice.timers.at(suspicion.deadline, self._judge, suspect, suspicion)

    def _judge(self, suspect: Member, suspicion: Suspicion) -> None:
        if self._suspicions.get(suspect.id) is not suspicion:
            return
        if suspicion.deadline > self._voice.now:
            self._await(suspect, suspicion)
        else:
            self.apply(Claim(suspect.id, suspect.peer.epoch, suspect.incarnation, MemberState.DOWN))

    def grant(self, more_s: float) -> None:
        """After a stop of this node: every suspect gets that time on top, for its objection may be waiting to be read."""
        for suspicion in self._suspicions.values():
            suspicion.began += more_s

    def _away_s(self, node: NodeId) -> float:
        return max(0.0, self._away_until.get(node, 0.0) - self._voice.now)

    def _back_by_now(self, absent: Member) -> None:
        held = self._voice.table.members.get(absent.id)
        if held is not None and held.id != self._voice.me.id and _same(held, absent):
            accusers = (self._voice.me.id,)
            self.apply(
                Claim(held.id, held.peer.epoch, held.incarnation, MemberState.SUSPECT, accusers=accusers)
            )

    def _drop(self, gone: Member) -> None:
        held = self._voice.table.members.get(gone.id)
        if held is not None and held.id != self._voice.me.id and _same(held, gone):
            self._voice.effects.append(self._voice.table.drop(gone.id))


def _same(one: Member, other: Member) -> bool:
    """Whether nothing was heard of it since."""
    return (one.peer.epoch, one.incarnation, one.state) == (other.peer.epoch, other.incarnation, other.state)
