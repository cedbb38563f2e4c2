"""What an election knows of members: who they are in the line of those who may lead. Pure."""

import attrs

from mill.cluster.values import Member, MemberState, NodeId

FOUNDER = "founder"
"""Key of a member's meta: set (to anything) by the node that began the cluster."""
PRIORITY = "priority"
"""Key of a member's meta: a whole number; lower ones lead first."""


@attrs.frozen
class Voter:
    """What an election holds of a member."""

    id: NodeId
    state: MemberState
    joined_term: int
    priority: int = 0
    founder: bool = False

    @classmethod
    def of(cls, member: Member) -> "Voter":
        text = member.meta.get(PRIORITY, "0")
        priority = int(text) if text.removeprefix("-").isdecimal() else 0
        return cls(member.id, member.state, member.joined_term, priority, FOUNDER in member.meta)

    @property
    def present(self) -> bool:
        return self.state.reachable

    @property
    def line(self) -> tuple[int, int, NodeId]:
        """The place in the line of those who may lead."""
        return (self.priority, self.joined_term, self.id)
