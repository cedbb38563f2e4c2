"""Membership: who is there, without anybody in charge. SWIM with Lifeguard, and what a few dozen nodes need beside it. Pure.

Every half second a node probes another one (`probes`); who does not answer is suspected, and is down unless it objects in
time (`opinions`, `suspicion`). All that is learnt is told to three others every 0.2 s and rides on every packet (`voice`,
`broadcasts`), so that it reaches everybody within a dozen rounds; digests on acks tell who missed something after all, and a
full copy by stream mends it. Sources: SWIM (Das et al., 2002), Lifeguard (Dadgar et al., 2018), HashiCorp's memberlist.

Where it differs from memberlist, and why:

* A life is (id, epoch): a death that is still on its way cannot hide a node that was restarted.
* Who is down is pinged now and then, for ever: else two halves that were cut off for long would never find each other.
* Each thing is told 16 times at least, and the one who does not answer is pinged four times: in small clusters under loss
  the objection otherwise often does not arrive.
* Who is not alive in the eyes of the one it talks to hears so in every answer; what it says after that counts at once.
* Streams are probed too, slowly: a node that is alive by UDP alone is of little use, and `PathChanged` says so.
* A node that was stopped for a while blames nobody for the silence.

A shell gives `receive` every packet and calls `tick` at `next_deadline`; it carries out the effects in order.
"""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from mill.cluster.effects import Changed, Effect, Mailed, News
from mill.cluster.messages import (
    MOST_KEY_BYTES,
    MOST_MAIL_BYTES,
    MOST_RUMOUR_BYTES,
    Ack,
    Ask,
    Body,
    Claim,
    Mail,
    Occasion,
    Packet,
    Ping,
    Rumour,
    Sync,
    Told,
)
from mill.cluster.opinions import Opinions
from mill.cluster.probes import Probes
from mill.cluster.tuning import Tuning
from mill.cluster.values import Address, Choice, Member, MemberState, NodeId, Peer
from mill.cluster.voice import Voice

LAST_WORDS = 8
"""Members that are told at once by one that goes: it may not live to the next round."""


def nothing_attached(_occasion: Occasion) -> bytes:
    return b""


class Swim:
    """Every call takes `now` (monotonic seconds) and gives the effects to carry out, in order.

    *attach* gives what rides on each of this node's pings and answers, up to `MOST_ATTACHMENT_BYTES`.
    """

    def __init__(
        self,
        me: Peer,
        rng: Choice,
        tuning: Tuning,
        *,
        now: float,
        joined_term: int = 0,
        meta: Mapping[str, str] | None = None,
        attach: Callable[[Occasion], bytes] = nothing_attached,
    ) -> None:
        self._tuning = tuning
        self._voice = Voice(me, rng, tuning, attach, now)
        self._probes = Probes(self._voice, self._suspect)
        self._opinions = Opinions(self._voice, self._probes.look, joined_term, dict(meta or {}))
        self._seeds: tuple[Address, ...] = ()
        self._joining = False
        self._synced_at = now - tuning.sync_every_s
        self._rumours = 0
        self.members: Mapping[NodeId, Member] = MappingProxyType(self._voice.table.members)
        """All that are known, this node first: alive, suspect, away, down, and those that left not long ago."""

    def __repr__(self) -> str:
        return f"<Swim {'; '.join(map(str, self.members.values()))}>"

    @property
    def me(self) -> Peer:
        return self._voice.me

    @property
    def next_deadline(self) -> float:
        """When `tick` has something to do; any call may change it."""
        return self._voice.timers.next_at

    @property
    def awareness(self) -> int:
        """How much this node doubts itself: 0 is healthy, 7 the most."""
        return self._voice.awareness

    def _suspect(self, node: NodeId) -> None:
        self._opinions.suspect(node)

    # -- the world comes in -----------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Effect]:
        """What is due by *now*."""
        self._wake(now)
        self._voice.timers.run(now)
        return self._done()

    def receive(self, message: Packet, source: Address, now: float) -> list[Effect]:
        """*message* came from *source*, by a datagram or a stream."""
        self._wake(now)
        if message.speaker != self.me.id:
            kind = message.kind
            self._opinions.hear(message, copied=isinstance(kind, Sync))
            self._hear_rumours(message)
            if isinstance(kind, Ping):
                self._probes.receive_ping(message, kind, source)
            elif isinstance(kind, Ack):
                self._probes.receive_ack(message, kind)
                self._compare(message.speaker, kind.digest)
            elif isinstance(kind, Ask):
                self._probes.receive_ask(kind, source)
            elif isinstance(kind, Told):
                self._probes.receive_told(message, kind)
            elif isinstance(kind, Sync) and kind.reply and message.speaker in self.members:
                self._sync(self.members[message.speaker].peer.address, reply=False)
            elif isinstance(kind, Mail) and message.speaker in self.members:
                self._voice.effects.append(Mailed(message.speaker, kind.payload))
        return self._done()

    def _wake(self, now: float) -> None:
        """Who comes far too late was stopped (SIGSTOP, a frozen VM): it was deaf itself."""
        late_s = now - self.next_deadline
        self._voice.now = now
        if late_s > self._tuning.pause_s:
            self._probes.pause()
            self._opinions.grant(late_s)
            self._voice.doubt(+1)

    def _done(self) -> list[Effect]:
        """The effects so far, with what follows from changes for the prober."""
        effects, self._voice.effects = self._voice.effects, []
        for effect in effects:
            if isinstance(effect, Changed):
                self._follow(effect)
        return effects

    def _follow(self, changed: Changed) -> None:
        old, new = changed.old, changed.new
        if old is not None and (new is None or old.peer.epoch != new.peer.epoch):
            self._probes.drop(old.id)
        was_reachable = old is not None and old.state.reachable
        if new is not None and new.id != self.me.id and new.state.reachable and not was_reachable:
            self._probes.add(new.id)

    # -- full copies ------------------------------------------------------------------------------------------------

    def join(self, seeds: Iterable[Address], now: float) -> list[Effect]:
        """Ask *seeds* for all they know, again and again while nobody else is alive, or while they are no members."""
        self._wake(now)
        self._seeds = tuple(seed for seed in seeds if seed != self.me.address)
        if not self._joining:
            self._joining = True
            self._join()
        return self._done()

    def remember(self, members: Iterable[Member], now: float) -> list[Effect]:
        """Those that the disk knows from an earlier life, for down until they are heard of: any word about the life that they
        were in counts for more, and they have a say in what is a majority.
        """
        self._wake(now)
        for member in members:
            if member.id != self.me.id and member.state is not MemberState.LEFT:
                peer = member.peer
                body = Body(peer.name, peer.host, peer.port, 0, member.joined_term, member.meta)
                claim = Claim(member.id, max(0, peer.epoch - 1), 0, MemberState.DOWN, body)
                self._opinions.apply(claim, told_by=self.me.id)
        return self._done()

    def _join(self) -> None:
        """Seeds that are nobody's address are asked on, seldom: they may have formed a cluster of their own meanwhile."""
        voice, tuning = self._voice, self._tuning
        alone = len(voice.table.reachable) <= 1
        voice.timers.at(voice.now + (tuning.join_every_s if alone else tuning.sync_every_s), self._join)
        if voice.takes_part and self._seeds:
            known = set() if alone else {member.peer.address for member in self.members.values()}
            for seed in self._seeds:
                if seed not in known:
                    self._sync(seed, reply=True)

    def _compare(self, speaker: NodeId, digest: int) -> None:
        """Ask *speaker* for a full copy if it holds something else, unless that is probably on its way anyway."""
        voice, tuning = self._voice, self._tuning
        if digest == voice.table.digest or speaker not in self.members:
            return
        since_s = voice.now - self._synced_at
        settled = voice.now - self._opinions.changed_at >= tuning.settled_s
        if since_s >= (tuning.settled_sync_every_s if settled else tuning.sync_every_s):
            self._sync(voice.address(speaker), reply=True)

    def _sync(self, to: Address, *, reply: bool) -> None:
        self._synced_at = self._voice.now
        self._voice.stream(to, Sync(reply), self._opinions.full_copy())

    # -- my own words -----------------------------------------------------------------------------------------------

    def leave(self, now: float) -> list[Effect]:
        """For good. Go on with `receive` and `tick` for a second, so that enough members hear of it."""
        return self._go(MemberState.LEFT, now)

    def say_away(self, now: float, for_s: float) -> list[Effect]:
        """Back within *for_s*, with a new epoch. Go on for a second as with `leave`."""
        return self._go(MemberState.AWAY, now, for_s)

    def _go(self, state: MemberState, now: float, away_s: float = 0.0) -> list[Effect]:
        self._wake(now)
        self._opinions.say(state, away_s=away_s)
        self._voice.tell(LAST_WORDS)
        return self._done()

    def say(
        self, now: float, *, joined_term: int | None = None, meta: Mapping[str, str] | None = None
    ) -> list[Effect]:
        """New words about myself; whoever said it would go, and says something, stays."""
        self._wake(now)
        self._opinions.say(
            MemberState.ALIVE, joined_term=joined_term, meta=None if meta is None else dict(meta)
        )
        return self._done()

    def renew(self, epoch: int, now: float) -> list[Effect]:
        """Begin a new life, whose *epoch* is on disk already: what was said of the old one no longer counts."""
        if epoch <= self.me.epoch:
            raise ValueError(f"epoch {epoch} is no later than {self.me.epoch}")
        self._wake(now)
        self._opinions.renew(epoch)
        return self._done()

    def forget(self, node: NodeId, now: float) -> list[Effect]:
        """By somebody's order: *node* counts no more. If it is alive after all it objects, and is back. `KeyError` for unknown ones."""
        self._wake(now)
        if node == self.me.id:
            raise ValueError("a node leaves, it does not forget itself")
        self._opinions.forget(node)
        return self._done()

    # -- for other cores --------------------------------------------------------------------------------------------

    def ping(self, node: NodeId, now: float) -> list[Effect]:
        """Ask one member at once; its answer comes as `Attached`. `KeyError` for unknown ones."""
        self._wake(now)
        self._probes.ping(node)
        return self._done()

    def mail(self, node: NodeId, payload: bytes, now: float, *, by_stream: bool = True) -> list[Effect]:
        """Say something to one member, which gets it as `Mailed`; by stream also if it is long. `KeyError` for unknown ones."""
        if len(payload) > MOST_MAIL_BYTES:
            raise ValueError(f"mail of {len(payload)} bytes, {MOST_MAIL_BYTES} are allowed")
        self._wake(now)
        voice = self._voice
        by_stream = by_stream or len(payload) > self._tuning.rumour_bytes
        voice.send(voice.address(node), Mail(payload), voice.about(node), by_stream=by_stream)
        return self._done()

    def broadcast(self, key: str, payload: bytes, now: float) -> list[Effect]:
        """Tell all members; each gets it as `News`, most probably once. Of one key only this node's newest is passed on.

        Up to `MOST_RUMOUR_BYTES`, by datagram if it is short.
        """
        if len(payload) > MOST_RUMOUR_BYTES or len(key.encode()) > MOST_KEY_BYTES:
            raise ValueError(
                f"news of {len(payload)} bytes ({key[:MOST_KEY_BYTES]}), {MOST_RUMOUR_BYTES} are allowed"
            )
        self._wake(now)
        self._rumours += 1
        me = self.me
        self._voice.broadcasts.put_rumour(Rumour(me.id, me.epoch, self._rumours, key, payload))
        self._voice.kick()
        return self._done()

    def _hear_rumours(self, packet: Packet) -> None:
        voice = self._voice
        for rumour in packet.rumours:
            if rumour.origin != self.me.id and voice.broadcasts.put_rumour(rumour):
                voice.effects.append(News(rumour.key, rumour.payload, rumour.origin))
                voice.kick()
