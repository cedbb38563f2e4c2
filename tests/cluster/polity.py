"""Nodes that elect, in steps of half a second: who reaches whom is given, messages get lost, everything else is the core.

Membership is what a perfect detector with a delay would say: a node is down for another that has not exchanged a message
with it for so long. `Polity.check` holds every step against what must never be.
"""

from random import Random

import attrs

from mill.cluster.claims import (
    NOBODY,
    Broadcast,
    Claim,
    Effect,
    Full,
    HandOver,
    Leaderless,
    Mandate,
    Persist,
    ProbeFirst,
)
from mill.cluster.election import Election, Tuning
from mill.cluster.values import Member, MemberState, NodeId, Peer
from mill.cluster.voters import FOUNDER
from tests.cluster.fabric import node_id

STEP_S = 0.5
DETECT_S = 4.0
TUNING = Tuning()


@attrs.define
class Citizen:
    """One node: its election, what its disk holds, and when it last heard of each other."""

    id: NodeId
    founder: bool
    election: Election
    joined_term: int = 0
    disk: Mandate = NOBODY
    up: bool = True
    state: MemberState = MemberState.ALIVE
    epoch: int = 1
    contact: dict[NodeId, float] = attrs.field(factory=dict)
    obeyed: list[Mandate] = attrs.field(factory=list)
    """The orders that it carried out, over all its lives."""

    def member(self, state: MemberState) -> Member:
        peer = Peer(self.id, self.epoch, self.id[-2:], "127.0.0.1", 4401)
        return Member(peer, state, 0, self.joined_term, 0.0, {FOUNDER: "1"} if self.founder else {})


class Polity:
    """*count* nodes, the first of which is the founder and leads at the start."""

    def __init__(self, count: int, rng: Random, loss: float = 0.0) -> None:
        self.now, self.rng, self.loss = 100.0, rng, loss
        self.citizens = {
            node_id(number + 1): Citizen(
                node_id(number + 1),
                founder=number == 0,
                joined_term=min(number, 1),
                election=Election(node_id(number + 1), NOBODY, TUNING, self.now),
            )
            for number in range(count)
        }
        self.cut: set[tuple[NodeId, NodeId]] = set()
        """Pairs (from, to) between which nothing passes."""
        self.said: list[Claim] = []
        self.last_passed: dict[tuple[NodeId, NodeId], float] = {}
        """When the ping behind the last answer from one to the other was sent."""
        self.broken: list[str] = []
        for citizen in self.citizens.values():
            for other in self.citizens:
                citizen.contact[other] = self.now
            self.look(citizen)

    # -- the world --------------------------------------------------------------------------------------------------

    def passes(self, source: NodeId, to: NodeId) -> bool:
        there = self.citizens[source].up and self.citizens[to].up
        return there and (source, to) not in self.cut and self.rng.random() >= self.loss

    def part(self, *groups: list[NodeId]) -> None:
        """Only those within a group reach each other."""
        self.cut = {
            (a, b) for a in self.citizens for b in self.citizens if not any(a in g and b in g for g in groups)
        }

    def crash(self, node: NodeId) -> None:
        self.citizens[node].up = False

    def leave(self, node: NodeId, state: MemberState) -> None:
        """By its own word: everybody who hears it knows at once."""
        citizen = self.citizens[node]
        self.run(citizen, citizen.election.resign())
        citizen.state = state
        for other in self.citizens.values():
            if other.id != node and self.passes(node, other.id):
                self.run(other, other.election.member(citizen.member(state), self.now))
        citizen.up = False

    def restart(self, node: NodeId) -> None:
        """With its disk, and at the end of the line; the members it knew are down until it hears of them."""
        citizen = self.citizens[node]
        heard = [
            o.election.highest.term for o in self.citizens.values() if (o.id, node) not in self.cut and o.up
        ]
        citizen.joined_term = max([citizen.disk.term, citizen.joined_term + 1, *heard])
        citizen.up, citizen.state, citizen.epoch = True, MemberState.ALIVE, citizen.epoch + 1
        citizen.election = Election(node, citizen.disk, TUNING, self.now)
        citizen.contact = {}
        self.look(citizen)

    # -- one step ---------------------------------------------------------------------------------------------------

    def step(self) -> None:
        self.now += STEP_S
        for citizen in self.citizens.values():
            if citizen.up:
                self.exchange(citizen)
        for citizen in self.citizens.values():
            if citizen.up:
                self.look(citizen)
                due = citizen.election.next_deadline
                effects = citizen.election.tick(self.now)
                if effects and self.now < due:
                    self.broken.append(f"{citizen.id} was due at {due}, and did {effects} at {self.now}")
                self.run(citizen, effects)
        self.check()

    def advance(self, seconds: float) -> None:
        for _ in range(int(seconds / STEP_S)):
            self.step()

    def exchange(self, citizen: Citizen) -> None:
        """It pings everybody; its claim rides on the ping, and the highest accepted mandate on the answer."""
        for other in self.citizens.values():
            if other is citizen or not self.passes(citizen.id, other.id):
                continue
            other.contact[citizen.id] = self.now
            claim = citizen.election.claim
            if claim is not None:
                self.run(other, other.election.hear(claim, self.now))
            if self.passes(other.id, citizen.id):
                citizen.contact[other.id] = self.last_passed[citizen.id, other.id] = self.now
                accepted = other.election.highest
                self.run(citizen, citizen.election.answered(other.id, accepted, self.now, self.now))

    def look(self, citizen: Citizen) -> None:
        """The view of one node is brought up to date."""
        for other in self.citizens.values():
            fresh = self.now - citizen.contact.get(other.id, 0.0) < DETECT_S
            state = other.state
            if other is not citizen and state is MemberState.ALIVE and not fresh:
                state = MemberState.DOWN
            voter = citizen.election.voters.get(other.id)
            if voter is None or voter.state is not state or voter.joined_term != other.joined_term:
                self.run(citizen, citizen.election.member(other.member(state), self.now))

    def run(self, citizen: Citizen, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Persist):
                citizen.disk = effect.mandate
            elif isinstance(effect, Broadcast):
                self.said.append(effect.claim)
                for other in self.citizens.values():
                    if other is not citizen and self.passes(citizen.id, other.id):
                        self.run(other, other.election.hear(effect.claim, self.now))
            elif isinstance(effect, HandOver) and self.passes(citizen.id, effect.to):
                heir = self.citizens[effect.to]
                self.run(heir, heir.election.handed(effect.mandate, self.now))
            elif isinstance(effect, ProbeFirst):
                self.relay(citizen, effect)

    def relay(self, citizen: Citizen, probe: ProbeFirst) -> None:
        for relay in probe.relays:
            if self.passes(citizen.id, relay) and self.passes(relay, citizen.id):
                vouched = self.citizens[relay].election.vouches(probe.node, self.now)
                effects = citizen.election.probed(probe.node, relay, self.now, vouched=vouched)
                self.run(citizen, effects)

    def order(self, mandate: Mandate, to: NodeId) -> bool:
        citizen = self.citizens[to]
        accepted, effects = citizen.election.order(mandate, self.now)
        self.run(citizen, effects)
        if accepted:
            citizen.obeyed.append(mandate)
        return accepted

    # -- what must hold ---------------------------------------------------------------------------------------------

    @property
    def leaders(self) -> list[NodeId]:
        return [citizen.id for citizen in self.citizens.values() if citizen.up and citizen.election.leads]

    @property
    def full(self) -> list[NodeId]:
        """Those who have been full for a lease, and so could give verdicts."""
        found = []
        for citizen in self.citizens.values():
            standing = citizen.election.standing(self.now)
            if citizen.up and isinstance(standing, Full) and self.now - standing.since >= TUNING.lease_s:
                found.append(citizen.id)
        return found

    @property
    def followed(self) -> set[NodeId | None]:
        """Whom the nodes that are up hold for their leader."""
        followed: set[NodeId | None] = set()
        for citizen in self.citizens.values():
            if citizen.up:
                standing = citizen.election.standing(self.now)
                leader = None if isinstance(standing, Leaderless) else getattr(standing, "leader", citizen.id)
                followed.add(leader)
        return followed

    def check(self) -> None:
        if len(self.full) > 1:
            self.broken.append(f"{self.full} are full")
        left = {citizen.id for citizen in self.citizens.values() if citizen.state is MemberState.LEFT}
        for leader in self.full:
            since = self.now - TUNING.lease_s
            there = {node for node in self.citizens if self.last_passed.get((leader, node), 0.0) > since}
            reached = len((there | {leader}) - left)
            known = len(self.citizens.keys() - left)
            if 2 * reached < known:
                self.broken.append(f"{leader} is full with {reached} of {known}")
        for citizen in self.citizens.values():
            if citizen.obeyed != sorted(citizen.obeyed):
                self.broken.append(f"{citizen.id} obeyed {citizen.obeyed[-1]} after {max(citizen.obeyed)}")
            if citizen.up and citizen.election.highest != citizen.disk:
                self.broken.append(f"{citizen.id} accepted {citizen.election.highest} and did not keep it")
