"""Who could know an id that this node does not: until each of them has denied it, nobody is told that there is no such task. Pure.

The one rule for the API, by `fleet`, and for DNS, by `questions`.
"""

from collections.abc import Mapping
from typing import Protocol

from mill.cluster.values import Member, MemberState, NodeId


class Membership(Protocol):
    """As the cluster's engine has it."""

    @property
    def id(self) -> NodeId:
        """Of this node."""

    @property
    def members(self) -> Mapping[NodeId, Member]:
        """All nodes, this one among them."""

    @property
    def partial(self) -> bool:
        """Whether others may know of ends that this node does not."""

    @property
    def lost_s(self) -> float:
        """MILL_NODE_LOST_SECS."""


def who_could_know(cluster: Membership, now: float) -> set[NodeId]:
    """Nodes whose word is needed; *now* is on the clock of the members' `since`. With this node itself in it nobody's word is enough.

    For a node that is with a minority, or cannot tell, that is whoever has not left; and if it knows of no others, they are still to be found.
    With a majority it is who takes part, and who was silent for no longer than it takes to condemn it: what it told anybody is by
    then with those who take part. Who is away has told all before it stopped, and makes nothing new until it is back.
    """
    others = [member for node, member in cluster.members.items() if node != cluster.id]
    if cluster.partial:
        return {member.id for member in others if member.state is not MemberState.LEFT} or {cluster.id}
    return {member.id for member in others if member.state.reachable or _is_lately_down(cluster, member, now)}


def _is_lately_down(cluster: Membership, member: Member, now: float) -> bool:
    return member.state is MemberState.DOWN and now - member.since <= cluster.lost_s
