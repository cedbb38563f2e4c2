"""One node of the cluster as a core: membership, records, settings, election and verdicts put together. Pure.

The parts hear each other through this: the heads of the records, the leader's claim and whom a node obeys ride on pings and acks
(`Beat`); changes, claims and verdicts are the membership's rumours; everything else is mail (`letters`).

The shell gives it every packet and calls `tick` at `next_deadline`; every call gives `outcomes`, to be carried out in order, each
that keeps something before the next one. To change a task it takes a `draft`, commits that, and says `publish`. What it owes a new
process of this node:

* an epoch above every `KeepEpoch` there ever was, kept before the engine is made;
* all that `KeepLog`, `KeepSettings` and `Persist` told it to keep, and the members it heard of last;
* on whom verdicts were given, and when, on the clock of `now`.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import attrs

from mill.cluster import codec, effects
from mill.cluster.claims import NOBODY, Mandate, Standing
from mill.cluster.effects import Attached, Changed, Mailed, News, PathChanged, Reborn, Send, SendStream
from mill.cluster.election import Election
from mill.cluster.election import Tuning as ElectionTuning
from mill.cluster.entries import Delta, Entry
from mill.cluster.letters import (
    Ask,
    Beat,
    Compare,
    Copy,
    Deltas,
    Hand,
    Hold,
    Holds,
    Inquiry,
    Letter,
    Testimony,
    Vouch,
    Wants,
)
from mill.cluster.messages import Occasion, Packet
from mill.cluster.outcomes import KeepEpoch, Led, Outcome
from mill.cluster.post import Post
from mill.cluster.records import Records
from mill.cluster.reign import UNJOINED, Reign
from mill.cluster.reign import Tuning as ReignTuning
from mill.cluster.replication import Replication
from mill.cluster.replication import Tuning as ReplicationTuning
from mill.cluster.rumours import CLAIM_KEY, ENTRY, SETTING, VERDICT
from mill.cluster.settings import Settings, Snapshot
from mill.cluster.swim import Swim
from mill.cluster.tuning import Tuning as SwimTuning
from mill.cluster.values import Address, Choice, Member, MemberState, NodeId, Peer
from mill.cluster.verdicts import Tuning as VerdictsTuning
from mill.cluster.verdicts import Verdicts
from mill.cluster.voters import FOUNDER
from mill.cluster.wire import BadPacket


@attrs.frozen
class Tuning:
    """Of all parts."""

    swim: SwimTuning = attrs.field(factory=SwimTuning)
    election: ElectionTuning = attrs.field(factory=ElectionTuning)
    verdicts: VerdictsTuning = attrs.field(factory=VerdictsTuning)
    replication: ReplicationTuning = attrs.field(factory=ReplicationTuning)
    reign: ReignTuning = attrs.field(factory=ReignTuning)
    turn_s: float = 0.5
    """Between two looks at what time alone changes: no longer than a verdict's `ask_every_s`."""


@attrs.frozen
class Kept:
    """What the disk holds of this node's earlier lives; nothing at its first start."""

    mandate: Mandate = NOBODY
    logs: tuple[Delta, ...] = ()
    settings: Snapshot | None = None
    members: tuple[Member, ...] = ()
    verdicts: Mapping[NodeId, float] = attrs.field(factory=dict)
    """On whom one was given lately, and when on the clock of `now`."""


class Engine:
    """See the module. *me* has an epoch that was never used; *meta* says whether this node founded the cluster."""

    def __init__(
        self,
        me: Peer,
        rng: Choice,
        tuning: Tuning,
        *,
        now: float,
        meta: Mapping[str, str] | None = None,
        kept: Kept | None = None,
    ) -> None:
        kept, meta = kept or Kept(), dict(meta or {})
        self._tuning = tuning
        self._load: Callable[[], bytes] = bytes
        self._loads: dict[NodeId, bytes] = {}
        self._beats: dict[Occasion, tuple[Beat, bytes]] = {}
        self._remembered = tuple(member for member in kept.members if member.id != me.id)
        joined_term = kept.mandate.term if kept.mandate != NOBODY or FOUNDER in meta else UNJOINED
        self._swim = Swim(
            me, rng, tuning.swim, now=now, joined_term=joined_term, meta=meta, attach=self._attach
        )
        self._post = Post(self._swim, self._run, now)
        self._election = Election(me.id, kept.mandate, tuning.election, now)
        courts = Verdicts(me.id, tuning.verdicts, self._election.is_quorum, kept.verdicts)
        self._replication = Replication(
            self._post,
            Records(me.id, me.epoch, kept.logs),
            Settings(me.id, kept.settings),
            tuning.replication,
            self._election.is_quorum,
            lambda: self._reign.in_touch,
            lambda owner: courts.learnt(owner, self._post.now),
            ready=me.epoch == 1,
        )
        self._reign = Reign(self._post, self._election, courts, self._replication, tuning.reign, joined_term)
        self._letters: Mapping[type[Letter], Callable[[NodeId, Any], None]] = {
            Compare: self._replication.compare,
            Wants: self._replication.give,
            Deltas: self._replication.absorb,
            Copy: self._replication.copy,
            Ask: self._reign.ask,
            Vouch: self._reign.vouch,
            Hand: self._reign.hand,
            Inquiry: self._reign.inquiry,
            Testimony: self._reign.testimony,
            Hold: self._replication.hold,
            Holds: self._replication.holds,
        }
        self._turn_at = now + tuning.turn_s

    def __repr__(self) -> str:
        return f"<Engine {self._election!r} {self.records!r} {self._swim!r}>"

    # -- reading ----------------------------------------------------------------------------------------------------

    @property
    def me(self) -> Peer:
        return self._swim.me

    @property
    def members(self) -> Mapping[NodeId, Member]:
        return self._swim.members

    @property
    def records(self) -> Records:
        """To read from; what changes them goes through the engine."""
        return self._replication.records

    @property
    def settings(self) -> Settings:
        """To read from, as `records`."""
        return self._replication.settings

    @property
    def loads(self) -> Mapping[NodeId, bytes]:
        """What each said of its load last; a leader hears it every few seconds."""
        return self._loads

    @property
    def ready(self) -> bool:
        """Whether `draft` may be called."""
        return self._replication.ready

    @property
    def partial(self) -> bool:
        """Whether others may know of ends that this node does not: it is with a minority, or has not compared its records with a
        majority since.
        """
        return not (self._replication.majority and self._replication.whole)

    def is_quorum(self, nodes: Collection[NodeId]) -> bool:
        """Whether *nodes* are enough for a verdict."""
        return self._election.is_quorum(nodes)

    def standing(self, now: float) -> Standing:
        return self._election.standing(now)

    @property
    def led(self) -> Led | None:
        """What was said of the leader last."""
        return self._reign.led

    @property
    def mandate(self) -> Mandate:
        """The highest that this node has accepted; its own, if it leads."""
        return self._election.highest

    # -- the world comes in -----------------------------------------------------------------------------------------

    @property
    def next_deadline(self) -> float:
        """When `tick` has something to do; any call may change it."""
        return min(self._swim.next_deadline, self._election.next_deadline, self._turn_at)

    def start(self, seeds: Iterable[Address], now: float) -> list[Outcome]:
        """Join by *seeds* and by all that were members when this node last ran."""
        return self._do(now, lambda: self._start(tuple(seeds)))

    def _start(self, seeds: tuple[Address, ...]) -> None:
        now = self._post.now
        known = [member.peer.address for member in self._remembered if member.state is not MemberState.LEFT]
        self._run(self._swim.remember(self._remembered, now))
        self._run(self._swim.join(dict.fromkeys((*seeds, *known)), now))
        if not (seeds or known):
            self._replication.turn()

    def receive(self, message: Packet, source: Address, now: float) -> list[Outcome]:
        """*message* came from *source*, by a datagram or a stream."""

        def receive() -> None:
            if message.speaker != self.me.id:
                self._reign.heard(message.speaker)
                self._run(self._swim.receive(message, source, now))

        return self._do(now, receive)

    def tick(self, now: float, wall: float = 0.0) -> list[Outcome]:
        """What is due by *now*. *wall* is what a verdict says of when it was given; 0: nothing."""
        self._post.wall = wall
        return self._do(now, self._tick)

    def _tick(self) -> None:
        now = self._post.now
        if now >= self._swim.next_deadline:
            self._run(self._swim.tick(now))
        if now >= self._turn_at:
            self._turn_at = now + self._tuning.turn_s
            self._reign.turn()
            self._replication.turn()
        elif now >= self._election.next_deadline:
            self._reign.tick()

    # -- this node's own words --------------------------------------------------------------------------------------

    def draft(self, task: str, phase: int, payload: bytes, extra: bytes = b"") -> Entry:
        """A change of a task of this node, to be committed, then to be published. `NotReady`, `Backwards`."""
        return self._replication.draft(task, phase, payload, extra)

    def publish(self, entry: Entry, now: float, *, told: bool = True) -> list[Outcome]:
        """The draft is on disk: it counts, and is *told* to all; else they find it when they compare. `Overtaken`: draft it anew."""
        return self._do(now, lambda: self._replication.publish(entry, told=told))

    def hand_over(self, node: NodeId, end: Entry, now: float) -> list[Outcome]:
        """Give *node* a published *end*; `Witnessed` says that it knows it. Either may be lost."""
        return self._do(now, lambda: self._post.mail(node, Hold(end), by_stream=False))

    def retire(self, expired: Collection[str], now: float) -> list[Outcome]:
        """Forget the oldest of this node's ended tasks, as `Records.retire` says."""
        return self._do(now, lambda: self._replication.retire(expired))

    def outlive(self, owner: NodeId, expired: Collection[str], now: float) -> list[Outcome]:
        """Forget the oldest tasks of another node that is gone, as `Records.outlive` says."""
        return self._do(now, lambda: self._replication.outlive(owner, expired))

    def set(self, key: str, value: bytes | None, wall: float, now: float) -> list[Outcome]:
        """Write a setting, or delete it, at the wall clock's *wall*. `Overfull`."""
        return self._do(now, lambda: self._replication.set(key, value, wall))

    def collect(self, wall: float, now: float) -> list[Outcome]:
        """Forget deleted settings, once in a while."""
        return self._do(now, lambda: self._replication.collect(wall))

    def say_load(self, load: Callable[[], bytes]) -> None:
        """What rides on each answer from now on, asked for then; up to `MOST_LOAD_BYTES`."""
        self._load = load

    def say(self, meta: Mapping[str, str], now: float) -> list[Outcome]:
        """All that this node says of itself from now on."""
        return self._do(now, lambda: self._run(self._swim.say(now, meta=meta)))

    def obey(self, mandate: Mandate, now: float) -> tuple[bool, list[Outcome]]:
        """Whether an order that goes by *mandate* is to be carried out, once the outcomes are."""
        obeyed: list[bool] = []
        outcomes = self._do(now, lambda: obeyed.append(self._reign.order(mandate)))
        return obeyed[0], outcomes

    def say_away(self, now: float, for_s: float) -> list[Outcome]:
        """Back within *for_s*. Go on with `receive` and `tick` for a second, so that enough members hear of it."""
        return self._go(now, lambda: self._swim.say_away(now, for_s))

    def leave(self, now: float) -> list[Outcome]:
        """For good; go on for a second as with `say_away`."""
        return self._go(now, lambda: self._swim.leave(now))

    def _go(self, now: float, go: Callable[[], list[effects.Effect]]) -> list[Outcome]:
        def resign_and_go() -> None:
            self._reign.resign()
            self._run(go())

        return self._do(now, resign_and_go)

    def forget(self, node: NodeId, wall: float, now: float) -> list[Outcome]:
        """By somebody's order, at the wall clock's *wall*: *node* is no member any more, and its tasks are lost. `KeyError` for unknown ones."""

        def forget() -> None:
            self._run(self._swim.forget(node, now))
            self._replication.condemn(self.records.verdict(node, self.mandate.term, wall))

        return self._do(now, forget)

    # -- inside -----------------------------------------------------------------------------------------------------

    def _do(self, now: float, act: Callable[[], object]) -> list[Outcome]:
        """Let *act* run at *now*; what came of it."""
        if now - self.next_deadline > self._tuning.swim.pause_s:
            self._reign.was_deaf()
        self._post.now = now
        act()
        self._reign.look()
        outcomes, self._post.outcomes = self._post.outcomes, []
        return outcomes

    def _attach(self, occasion: Occasion) -> bytes:
        """Nothing, if a follower probes; a leader's pings, of which there are many, say that it leads."""
        held, claim = self._replication, self._election.claim
        if occasion is Occasion.PROBE and claim is None:
            return b""
        answers = occasion is Occasion.ANSWER
        tells = answers or claim is None
        beat = Beat(
            held.records.head_hash() if tells else 0,
            held.settings_hash if tells else 0,
            self._election.highest,
            claim,
            self._load() if answers else b"",
        )
        if self._beats.get(occasion, (None, b""))[0] != beat:
            self._beats[occasion] = beat, codec.beat(beat)
        return self._beats[occasion][1]

    def _run(self, done: Sequence[effects.Effect]) -> None:
        """What the membership wants: each with all that follows from it, before the next."""
        for effect in done:
            match effect:
                case Send() | SendStream() | PathChanged():
                    self._post.emit(effect)
                case Changed():
                    self._post.emit(effect)
                    self._reign.member(effect)
                case Reborn(epoch):
                    self.records.epoch = max(self.records.epoch, epoch)
                    self._post.emit(KeepEpoch(epoch))
                case Attached(node, payload, rtt_s):
                    self._beat(node, payload, rtt_s)
                case News(key, payload):
                    self._news(key, payload)
                case Mailed(node, payload):
                    self._mail(node, payload)

    def _beat(self, node: NodeId, payload: bytes, rtt_s: float | None) -> None:
        """One that cannot be read is a newer Mill's, or says nothing: its speaker is a member all the same."""
        try:
            beat = codec.read_beat(payload, node)
        except BadPacket:
            return
        if beat.load:
            self._loads[node] = beat.load
        self._reign.beat(node, beat, rtt_s)
        if rtt_s is not None or beat.claim is None:
            self._replication.beat(node, beat)

    def _news(self, key: str, payload: bytes) -> None:
        try:
            if key == CLAIM_KEY:
                self._reign.claim(codec.read_claim(payload))
            elif key.startswith(ENTRY):
                self._replication.hear_entry(codec.read_entry(payload))
            elif key.startswith(VERDICT):
                self._replication.hear_verdict(codec.read_verdict(payload))
            elif key.startswith(SETTING):
                self._replication.hear_setting(codec.read_setting(payload))
        except BadPacket:
            return

    def _mail(self, node: NodeId, payload: bytes) -> None:
        try:
            letter = codec.read_letter(payload)
        except BadPacket:
            return
        self._letters[type(letter)](node, letter)
