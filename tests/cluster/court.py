"""A polity whose leaders give verdicts: every node can, and each `Condemn` is held against what is true.

Of records only counts are modelled: an owner's log grows with every step, others learn how far when it reaches them.
"""

from random import Random

from mill.cluster.claims import Standing
from mill.cluster.values import Member, MemberState, NodeId
from mill.cluster.verdicts import Condemn, Effect, Fetch, Held, Inquire, Tuning, Verdicts
from tests.cluster.polity import STEP_S, Citizen, Polity

COURT = Tuning()


class Court(Polity):
    def __init__(self, count: int, rng: Random, loss: float = 0.0) -> None:
        super().__init__(count, rng, loss)
        self.given: list[tuple[float, NodeId, NodeId]] = []
        """When, by whom, on whom."""
        self.judges = {node: self.judge(node) for node in self.citizens}
        self.began = dict.fromkeys(self.citizens, self.now)
        self.log = dict.fromkeys(self.citizens, 0)
        self.known = {node: dict.fromkeys(self.citizens, 0) for node in self.citizens}
        self.held: list[Held] = []

    def judge(self, node: NodeId) -> Verdicts:
        given = {owner: at for at, by, owner in self.given if by == node}
        return Verdicts(node, COURT, self.citizens[node].election.is_quorum, given)

    def restart(self, node: NodeId) -> None:
        super().restart(node)
        self.judges[node] = self.judge(node)
        self.began[node] = self.now

    def members(self, citizen: Citizen) -> dict[NodeId, Member]:
        voters = citizen.election.voters
        return {node: self.citizens[node].member(voter.state) for node, voter in voters.items()}

    def standing(self, citizen: Citizen) -> Standing:
        return citizen.election.standing(self.now)

    def exchange(self, citizen: Citizen) -> None:
        self.log[citizen.id] += 1
        self.known[citizen.id][citizen.id] = self.log[citizen.id]
        super().exchange(citizen)
        for other in self.citizens.values():
            if other.contact.get(citizen.id) == self.now and self.rng.random() < 0.7:
                self.known[other.id][citizen.id] = self.log[citizen.id]

    def step(self) -> None:
        super().step()
        for citizen in self.citizens.values():
            if citizen.up:
                judge = self.judges[citizen.id]
                stake = [node for node in self.citizens if node not in self.lost_at(citizen.id)]
                effects = judge.tick(self.standing(citizen), self.members(citizen), stake, self.now)
                self.judged(citizen, effects)

    def lost_at(self, node: NodeId) -> set[NodeId]:
        """Those whose tasks are lost already, as far as *node* knows; who came back has new ones."""
        return {owner for at, by, owner in self.given if by == node and self.began[owner] < at}

    def judged(self, citizen: Citizen, effects: list[Effect]) -> None:
        judge = self.judges[citizen.id]
        for effect in effects:
            match effect:
                case Inquire(node, of):
                    for witness in of:
                        self.ask(citizen, node, witness)
                case Fetch(node, source):
                    if self.passes(source, citizen.id):
                        known = self.known[citizen.id]
                        known[node] = max(known[node], self.known[source][node])
                        judge.fetched(node, source)
                case Condemn(node):
                    self.check_verdict(citizen, node)
                    self.given.append((self.now, citizen.id, node))
                case Held():
                    self.held.append(effect)

    def ask(self, citizen: Citizen, node: NodeId, witness: NodeId) -> None:
        own = witness == citizen.id
        if own or (self.passes(citizen.id, witness) and self.passes(witness, citizen.id)):
            heard = max(self.citizens[witness].contact.get(node, 0.0), self.began[witness])
            more = self.known[witness][node] > self.known[citizen.id][node]
            judge = self.judges[citizen.id]
            self.judged(citizen, judge.testify(node, witness, self.now - heard, self.now, more=more))

    def check_verdict(self, citizen: Citizen, node: NodeId) -> None:
        """A majority was with the leader, nobody there had heard of the node, and nobody there knew more of it."""
        since = self.now - COURT.lease_s - STEP_S
        there = {n for n in self.citizens if self.last_passed.get((citizen.id, n), 0.0) > since} | {
            citizen.id
        }
        left = {c.id for c in self.citizens.values() if c.state is MemberState.LEFT}
        if 2 * len(there - left) < len(self.citizens.keys() - left):
            self.broken.append(f"{node} was condemned by a minority: {there}")
        if self.citizens[node].state is not MemberState.ALIVE:
            self.broken.append(f"{node} was condemned, and had said that it goes")
        if self.full != [citizen.id]:
            self.broken.append(f"{node} was condemned while {self.full} were full")
        recent = {
            n for n in there if self.last_passed.get((citizen.id, n), 0.0) > self.now - COURT.testimony_s
        }
        for witness in recent | {citizen.id}:
            heard = self.citizens[witness].contact.get(node, 0.0)
            if witness != node and self.now - heard < COURT.lost_s - COURT.testimony_s:
                self.broken.append(f"{node} was condemned, and {witness} had heard of it")
            if self.known[witness][node] > self.known[citizen.id][node] and witness != node:
                self.broken.append(f"{node} was condemned, and {witness} knew more")
        window = [
            owner for at, by, owner in self.given if by == citizen.id and at > self.now - COURT.window_s
        ]
        if len({*window, node}) > max(1, int(COURT.share * len(self.citizens.keys() - left))):
            self.broken.append(f"{node} was condemned after {window}: too many")
