"""All that a node holds of the members, and how a claim changes it. Pure.

Of each member two parts that only grow: its state, ordered by (epoch, incarnation, state), and its body, ordered by (epoch,
incarnation that said it). Merging commutes, associates and is idempotent, but for one thing: of a life without a body
nothing is kept, so that such a claim is lost, as a datagram may be. A full copy makes up for it: digests tell that one is due.
"""

from hashlib import blake2b

from mill.cluster.effects import Changed
from mill.cluster.messages import Body, Claim
from mill.cluster.values import Member, MemberState, NodeId, Peer

DIGEST_BYTES = 8
_MASK = (1 << 8 * DIGEST_BYTES) - 1
LOST = frozenset({MemberState.DOWN, MemberState.AWAY})


class Pool:
    """A set in which drawing lots takes constant time; its order depends on what was done to it only."""

    def __init__(self) -> None:
        self.nodes: list[NodeId] = []
        self._place: dict[NodeId, int] = {}

    def __len__(self) -> int:
        return len(self.nodes)

    def keep(self, node: NodeId, *, inside: bool) -> None:
        """Let *node* be in it, or not; of the others the last takes the place of one that goes."""
        if inside == (node in self._place):
            return
        if inside:
            self._place[node] = len(self.nodes)
            self.nodes.append(node)
            return
        place, last = self._place.pop(node), self.nodes.pop()
        if last != node:
            self.nodes[place] = last
            self._place[last] = place


class Table:
    """Members by id. `digest` is equal where two nodes hold the same, suspicions, incarnations and who left apart."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.members: dict[NodeId, Member] = {}
        self.digest = 0
        self.reachable = Pool()
        """Those that are alive or suspect."""
        self.lost = Pool()
        """Those that are down or away."""
        self._bodies: dict[NodeId, Body] = {}
        self._summands: dict[NodeId, int] = {}

    def is_old(self, claim: Claim) -> bool:
        """Whether *claim* says nothing new, as nearly all do: what `merge` finds out, at a third of the cost."""
        held = self.members.get(claim.node)
        if held is None or claim.epoch != held.peer.epoch or claim.incarnation > held.incarnation:
            return False
        if claim.incarnation == held.incarnation and claim.state > held.state:
            return False
        return claim.body is None or claim.body.said <= self._bodies[claim.node].said

    def merge(self, claim: Claim, now: float) -> Changed | None:
        """What *claim* changed; None for one that says nothing new."""
        held = self.members.get(claim.node)
        if held is None:
            return self._add(claim, now)
        body = self._bodies[claim.node]
        outranks, rewords = self.outranks(claim, held), self._rewords(claim, held, body)
        if not (outranks or rewords) or (claim.epoch > held.peer.epoch and claim.body is None):
            return None
        state, incarnation, since = held.state, held.incarnation, held.since
        if outranks:
            since = since if claim.state is state and claim.epoch == held.peer.epoch else now
            state, incarnation = claim.state, claim.incarnation
        if rewords and claim.body is not None:
            new = _member(claim, claim.body, state, incarnation, since)
            body = claim.body
        else:
            new = Member(held.peer, state, incarnation, held.joined_term, since, held.meta)
        self._put(new, body)
        return Changed(held, new)

    def outranks(self, claim: Claim, held: Member) -> bool:
        """Whether *claim* says more of the member's state than what is *held*."""
        return claim.rank > (held.peer.epoch, held.incarnation, held.state)

    @staticmethod
    def _rewords(claim: Claim, held: Member, body: Body) -> bool:
        return claim.body is not None and (claim.epoch, claim.body.said) > (held.peer.epoch, body.said)

    def _add(self, claim: Claim, now: float) -> Changed | None:
        """Nobody who left is let in again by the memory of others."""
        if claim.body is None or claim.state is MemberState.LEFT or len(self.members) >= self._most:
            return None
        new = _member(claim, claim.body, claim.state, claim.incarnation, now)
        self._put(new, claim.body)
        return Changed(None, new)

    def _put(self, new: Member, body: Body) -> None:
        self.members[new.id] = new
        self._bodies[new.id] = body
        self._sum_up(new.id, _summand(new, body))
        self.reachable.keep(new.id, inside=new.state.reachable)
        self.lost.keep(new.id, inside=new.state in LOST)

    def drop(self, node: NodeId) -> Changed:
        """It was never there."""
        old = self.members.pop(node)
        del self._bodies[node]
        self._sum_up(node, 0)
        self.reachable.keep(node, inside=False)
        self.lost.keep(node, inside=False)
        return Changed(old, None)

    def claim(
        self, node: NodeId, *, full: bool = False, accusers: tuple[NodeId, ...] = (), away_s: float = 0.0
    ) -> Claim:
        """What is held of it, as a claim that can be passed on; *full*: with its body."""
        held = self.members[node]
        body = self._bodies[node] if full else None
        return Claim(node, held.peer.epoch, held.incarnation, held.state, body, accusers, away_s)

    def body(self, node: NodeId) -> Body:
        return self._bodies[node]

    def _sum_up(self, node: NodeId, summand: int) -> None:
        before = self._summands.get(node, 0)
        if before != summand:
            self.digest = (self.digest - before + summand) & _MASK
            self._summands[node] = summand


def _member(claim: Claim, body: Body, state: MemberState, incarnation: int, since: float) -> Member:
    peer = Peer(claim.node, claim.epoch, body.name, body.host, body.port)
    return Member(peer, state, incarnation, body.joined_term, since, body.meta)


def _summand(member: Member, body: Body) -> int:
    """The same on every node that holds the same of the member, in every process."""
    if member.state is MemberState.LEFT:
        return 0
    state = MemberState.ALIVE if member.state is MemberState.SUSPECT else member.state
    text = f"{member.id} {member.peer.epoch} {state:d} {body.said}"
    return int.from_bytes(blake2b(text.encode(), digest_size=DIGEST_BYTES).digest(), "big")
