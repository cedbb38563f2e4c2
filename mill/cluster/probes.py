"""Who is there: pings, their repeats, others asked to help, and the ways that carry. Pure; a part of `swim`.

One probe over its time, on a healthy node:

    0 s ping   0.25 s ping   0.5 s ping, by stream too, and three others asked   0.75 s ping   1 s suspect

The first answer by any way ends it. A node that doubts itself stretches all of it.
"""

from collections.abc import Callable

import attrs

from mill.cluster.effects import Attached, PathChanged
from mill.cluster.messages import Ack, Ask, Occasion, Packet, Ping, Told
from mill.cluster.values import Address, MemberState, NodeId
from mill.cluster.voice import Voice


@attrs.define(eq=False)
class _Probe:
    """One look at a member in one life."""

    target: NodeId
    epoch: int
    began: float
    span_s: float
    sent: int = 0
    over: bool = False
    asked: int = 0
    told: int = 0


@attrs.define(eq=False)
class _Relay:
    """A ping for somebody else, who called it *number*."""

    to: Address
    number: int
    target: NodeId
    over: bool = False


@attrs.frozen(eq=False)
class _Question:
    """What an answer with its number means. *way*: None where it says nothing of a way (through others)."""

    target: NodeId
    sent: float
    way: str | None
    purpose: _Probe | _Relay | None = None


@attrs.define
class _Path:
    """Failures in a row of each way to a member while another carried."""

    strikes: dict[str, int] = attrs.field(factory=lambda: {"datagrams": 0, "streams": 0})
    broken: set[str] = attrs.field(factory=set)


class Probes:
    """Keeps asking; `suspect` is called with those who do not answer."""

    def __init__(self, voice: Voice, suspect: Callable[[NodeId], None]) -> None:
        self._voice = voice
        self._suspect = suspect
        self._number = 0
        self._order: list[NodeId] = []
        self._questions: dict[int, _Question] = {}
        self._active: dict[NodeId, _Probe] = {}
        self._relays = 0
        self._paths: dict[NodeId, _Path] = {}
        timers, tuning = voice.timers, voice.tuning
        timers.at(voice.now + voice.rng.random() * tuning.probe_every_s, self._turn)
        timers.at(voice.now + voice.rng.random() * tuning.contact_down_every_s, self._contact)
        timers.at(voice.now + voice.rng.random() * tuning.stream_probe_every_s, self._try_stream)

    # -- asking -----------------------------------------------------------------------------------------------------

    def _turn(self) -> None:
        voice = self._voice
        voice.timers.at(voice.now + voice.tuning.probe_every_s * (1 + voice.awareness), self._turn)
        self._expire()
        target = self._next()
        if target is not None and voice.takes_part:
            self.look(target)

    def _next(self) -> NodeId | None:
        """Round robin in an order drawn anew each round: nobody waits for longer than two rounds (SWIM, section 4.3)."""
        members = self._voice.table.members
        for fresh in (False, True):
            if fresh:
                self._order = [
                    node for node in self._voice.table.reachable.nodes if node != self._voice.me.id
                ]
                self._voice.rng.shuffle(self._order)
            while self._order:
                node = self._order.pop()
                if node in members and members[node].state.reachable and node not in self._active:
                    return node
        return None

    def add(self, node: NodeId) -> None:
        """A new member gets its place in this round already."""
        self._order.insert(self._voice.rng.randrange(len(self._order) + 1), node)

    def look(self, target: NodeId) -> None:
        """Probe *target* now, unless that is under way."""
        voice = self._voice
        if target not in self._active:
            span_s = voice.tuning.probe_for_s * (1 + voice.awareness)
            probe = _Probe(target, voice.table.members[target].peer.epoch, voice.now, span_s)
            self._active[target] = probe
            self._step(probe)

    def _step(self, probe: _Probe) -> None:
        voice, pings = self._voice, self._voice.tuning.pings
        if probe.over:
            return
        if probe.target not in voice.table.members or probe.sent == pings:
            self._give_up(probe)
            return
        if probe.sent == pings // 2:
            self._call_for_help(probe)
        self.ping(probe.target, probe)
        probe.sent += 1
        voice.timers.at(probe.began + probe.span_s * probe.sent / pings, self._step, probe)

    def ping(self, target: NodeId, purpose: _Probe | _Relay | None = None, *, by_stream: bool = False) -> int:
        """One ping, of whose answer nothing more is made without a *purpose*; the number it has."""
        voice = self._voice
        number = self._ask(target, "streams" if by_stream else "datagrams", purpose)
        attachment = voice.attachment(Occasion.PROBE if purpose else Occasion.PING)
        ping = Ping(number, target, attachment, by_stream)
        voice.send(voice.address(target), ping, voice.about(target), by_stream=by_stream)
        return number

    def _ask(self, target: NodeId, way: str | None, purpose: _Probe | _Relay | None) -> int:
        self._number += 1
        self._questions[self._number] = _Question(target, self._voice.now, way, purpose)
        return self._number

    def _call_for_help(self, probe: _Probe) -> None:
        voice = self._voice
        for helper in voice.some(voice.tuning.relays, but=probe.target):
            probe.asked += 1
            voice.send(voice.address(helper), Ask(self._ask(helper, None, probe), probe.target))
        self.ping(probe.target, probe, by_stream=True)

    def _give_up(self, probe: _Probe) -> None:
        """The target is suspected, unless it was heard of meanwhile: that it goes, or that it began anew."""
        self._close(probe)
        voice, held = self._voice, self._voice.table.members.get(probe.target)
        if held is None or not held.state.reachable or held.peer.epoch != probe.epoch or not voice.takes_part:
            return
        voice.doubt(max(0, probe.asked - probe.told) if probe.asked else 1)
        self._suspect(probe.target)

    def _close(self, probe: _Probe) -> None:
        probe.over = True
        self._active.pop(probe.target, None)

    def _expire(self) -> None:
        """Questions that nobody answered, oldest first."""
        oldest = self._voice.now - self._voice.tuning.answer_s
        for number, question in list(self._questions.items()):
            if question.sent > oldest and len(self._questions) <= self._voice.tuning.most_questions:
                break
            del self._questions[number]

    def pause(self) -> None:
        """After a stop of this node: who was silent meanwhile is not to blame."""
        for probe in list(self._active.values()):
            self._close(probe)

    # -- those that are lost, and the other way ---------------------------------------------------------------------

    def _contact(self) -> None:
        """One of those that are down or away: it may be back, or may think the same of us."""
        voice = self._voice
        voice.timers.at(voice.now + voice.tuning.contact_down_every_s, self._contact)
        lost = [node for node in voice.table.lost.nodes if node != voice.me.id]
        if lost and voice.takes_part:
            self.ping(voice.rng.sample(lost, 1)[0])

    def _try_stream(self) -> None:
        voice = self._voice
        voice.timers.at(voice.now + voice.tuning.stream_probe_every_s, self._try_stream)
        struck = [
            node
            for node, path in self._paths.items()
            if 0 < path.strikes["streams"] < voice.tuning.path_strikes
        ]
        target = next(iter(struck or voice.some(1)), None)
        held = voice.table.members.get(target) if target else None
        if target and held and held.state is MemberState.ALIVE and voice.takes_part:
            number = self.ping(target, by_stream=True)
            voice.timers.at(
                voice.now + voice.tuning.answer_s, self._no_stream, number, target, held.peer.epoch
            )

    def _no_stream(self, number: int, target: NodeId, epoch: int) -> None:
        held = self._voice.table.members.get(target)
        unanswered = self._questions.pop(number, None) is not None
        if unanswered and held and held.state is MemberState.ALIVE and held.peer.epoch == epoch:
            self._path(target, "streams", carries=False)

    def _path(self, node: NodeId, way: str, *, carries: bool) -> None:
        """*way* to *node* did carry, or did not while another one did."""
        path = self._paths.get(node)
        if path is None:
            if carries:
                return
            path = self._paths[node] = _Path()
        path.strikes[way] = 0 if carries else path.strikes[way] + 1
        before = set(path.broken)
        if carries:
            path.broken.discard(way)
        elif path.strikes[way] >= self._voice.tuning.path_strikes:
            path.broken.add(way)
        if path.broken != before:
            self._voice.effects.append(
                PathChanged(node, "datagrams" not in path.broken, "streams" not in path.broken)
            )
        if not path.broken and not any(path.strikes.values()):
            del self._paths[node]

    def drop(self, node: NodeId) -> None:
        """Another life of it, or none: what was learnt of its ways no longer holds."""
        self._paths.pop(node, None)

    # -- answering, and answers -------------------------------------------------------------------------------------

    def receive_ping(self, packet: Packet, ping: Ping, source: Address) -> None:
        """Only the one who is meant answers: a successor at the same address is somebody else."""
        voice = self._voice
        if ping.target != voice.me.id:
            return
        known = packet.speaker in voice.table.members
        to = source
        if ping.by_stream:  # whence it came is a port of the moment
            if not known:
                return
            to = voice.address(packet.speaker)
        ack = Ack(ping.number, voice.table.digest, voice.attachment(Occasion.ANSWER))
        voice.send(to, ack, voice.about(packet.speaker, packet.epoch), by_stream=ping.by_stream)
        if known and ping.attachment:
            voice.effects.append(Attached(packet.speaker, ping.attachment, None))

    def receive_ack(self, packet: Packet, ack: Ack) -> None:
        question = self._questions.get(ack.number)
        if question is None or question.target != packet.speaker or question.way is None:
            return
        del self._questions[ack.number]
        voice, purpose = self._voice, question.purpose
        voice.effects.append(Attached(packet.speaker, ack.attachment, voice.now - question.sent))
        self._path(packet.speaker, question.way, carries=True)
        if isinstance(purpose, _Probe):
            self._answered(purpose, by=question.way)
        elif isinstance(purpose, _Relay) and not purpose.over:
            self._tell(purpose, answered=True)

    def _answered(self, probe: _Probe, *, by: str | None) -> None:
        if probe.over:
            return
        self._close(probe)
        self._voice.doubt(-1)
        if by != "datagrams":
            self._path(probe.target, "datagrams", carries=False)

    def receive_ask(self, ask: Ask, source: Address) -> None:
        voice, tuning = self._voice, self._voice.tuning
        if (
            ask.target not in voice.table.members
            or ask.target == voice.me.id
            or self._relays >= tuning.most_relayed
        ):
            return
        self._relays += 1
        relay = _Relay(source, ask.number, ask.target)
        self.ping(ask.target, relay)
        voice.timers.at(voice.now + tuning.relay_for_s / 2, self._ping_again, relay)
        voice.timers.at(voice.now + tuning.relay_for_s, self._end_relay, relay)

    def _ping_again(self, relay: _Relay) -> None:
        if not relay.over and relay.target in self._voice.table.members:
            self.ping(relay.target, relay)

    def _end_relay(self, relay: _Relay) -> None:
        self._relays -= 1
        if not relay.over:
            self._tell(relay, answered=False)

    def _tell(self, relay: _Relay, *, answered: bool) -> None:
        relay.over = True
        self._voice.send(relay.to, Told(relay.number, relay.target, answered))

    def receive_told(self, packet: Packet, told: Told) -> None:
        question = self._questions.get(told.number)
        if question is None or question.target != packet.speaker or not isinstance(question.purpose, _Probe):
            return
        del self._questions[told.number]
        question.purpose.told += 1
        if told.answered and told.target == question.purpose.target:
            self._answered(question.purpose, by=None)
