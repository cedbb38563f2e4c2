"""Ends of tasks that a verdict could still pass over, since a majority may be found none of whom has heard of them. Pure.

What is told of such an end is no promise: a node that is cut off notices it after some seconds, and has told it until then. So its
owner gives the entry at once to as many others as every majority without it needs one of (`owed`, `taken`); and
what has been told to everybody for `settled_s`, in touch with a majority, has got around. Until either, and in any case until the node was in touch with a
majority for `again_s`, since a verdict may be on its way, answers with that end are partial. In a cluster of four or more the same goes for a node that has heard of another's end: it and the
owner may be cut off together. It asks the owner then, `daemon.witnesses` does. A lone node, or one without whom there is no majority, is never in doubt.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import islice

import attrs

from mill.cluster.entries import Entry
from mill.cluster.values import Member, MemberState, NodeId

MOST_HEARD = 1000
"""Ends of others that are in doubt at once, the newest; a full copy brings old ones by the thousand."""
MOST_OWED = 64
"""Ends that are given to one node at once; the rest follows soon."""


@attrs.frozen
class Tuning:
    """Seconds."""

    settled_s: float = 15.0
    """By three more than a node of many may take to notice that it is cut off (`election.fresh_s` and `reign.touch_s`)."""
    again_s: float = 3.0
    hurry_s: float = 0.1
    """Whoever was given an end has taken it by then; else all others are given it, and it once more..."""
    slower: float = 1.5
    """... each time after so many times as long."""


@attrs.define(eq=False)
class End:
    """Of the task of *owner*; `entry` once it may be told."""

    owner: NodeId
    since: float
    entry: Entry | None = None
    holders: set[NodeId] = attrs.field(factory=set)
    given: dict[NodeId, tuple[float, float]] = attrs.field(factory=dict)
    """To whom not before when again, and after how long the next time."""


class Ends:
    """See the module. *is_quorum* is the election's."""

    def __init__(
        self,
        me: NodeId,
        members: Mapping[NodeId, Member],
        is_quorum: Callable[[Collection[NodeId]], bool],
        tuning: Tuning | None = None,
    ) -> None:
        self.me = me
        self._members = members
        self._is_quorum = is_quorum
        self._tuning = tuning or Tuning()
        self._open: dict[str, End] = {}
        self._out_of_touch_at = -self._tuning.again_s

    def __repr__(self) -> str:
        return f"<Ends {self._open}>"

    def __len__(self) -> int:
        return len(self._open)

    def in_doubt(self, tasks: Collection[str]) -> set[str]:
        """Those of *tasks* whose end may be passed over."""
        return {task for task in tasks if task in self._open} if self._open else set()

    @property
    def waiting(self) -> bool:
        """Whether there are any that others may be owed."""
        return any(end.owner == self.me for end in self._open.values())

    def owner(self, task: str) -> NodeId:
        """Of a task in doubt."""
        return self._open[task].owner

    # -- what happens -----------------------------------------------------------------------------------------------

    def expect(self, task: str, now: float) -> None:
        """A task of this node is about to be shown as ended."""
        self._doubt(task, End(self.me, now))

    def forget_unpublished(self, task: str) -> None:
        """It was expected, and did not come."""
        if task in self._open and self._open[task].entry is None:
            del self._open[task]

    def publish(self, entry: Entry, now: float) -> None:
        """It may be told from now on, if it was expected."""
        end = self._open.get(entry.task)
        if end is not None:
            end.entry, end.since = entry, now

    def hear(self, task: str, owner: NodeId, now: float) -> None:
        """The end of another's task is about to be shown here."""
        self._doubt(task, End(owner, now))
        if len(self._open) > MOST_HEARD:
            heard = (task for task, end in self._open.items() if end.owner != self.me)
            self.close([*islice(heard, 1)])  # none, where a node was cut off for long: all are its own

    def _doubt(self, task: str, end: End) -> None:
        if self._may_be_passed_over(end.owner, end.holders):
            self._open[task] = end

    def taken(self, task: str, by: NodeId) -> None:
        """*by* knows the end of *task* now."""
        if task in self._open:
            self._open[task].holders.add(by)

    def close(self, tasks: Collection[str]) -> None:
        """No doubt about these."""
        for task in self.in_doubt(tasks):
            del self._open[task]

    def turn(self, now: float, *, in_touch: bool) -> None:
        """Close those that are safe; called after each `taken`, every second, and more often while something is `waiting`.

        *in_touch*: no answer of this node is partial.
        """
        if not in_touch:
            self._out_of_touch_at = now
        in_touch_s = now - self._out_of_touch_at
        if self._open and in_touch_s >= self._tuning.again_s:
            settled = in_touch_s >= self._tuning.settled_s
            before = now - self._tuning.settled_s if settled else -math.inf
            self.close([task for task, end in self._open.items() if self._is_safe(end, before)])

    def _is_safe(self, end: End, before: float) -> bool:
        """It was told *before*, or has enough holders. An own one that is not on the disk yet was told to nobody."""
        if end.owner != self.me:
            return end.since <= before
        told = end.entry is not None
        held = bool(end.holders) and not self._may_be_passed_over(end.owner, end.holders)
        return told and (end.since <= before or held)

    # -- who is to be told ------------------------------------------------------------------------------------------

    def owed(self, now: float) -> dict[NodeId, list[Entry]]:
        """Whom to give which ends of this node now. That it is done counts from here on."""
        found: dict[NodeId, list[Entry]] = {}
        order = list(self._order()) if self._open else []
        for end in self._open.values():
            if end.entry is None:
                continue
            if order and all(len(found.get(node, ())) >= MOST_OWED for node in order):
                break
            for node in order if now - end.since >= self._tuning.hurry_s else self._fewest(order, end):
                not_before, pause_s = end.given.get(node, (now, self._tuning.hurry_s))
                if node in end.holders or now < not_before or len(found.get(node, ())) >= MOST_OWED:
                    continue
                found.setdefault(node, []).append(end.entry)
                end.given[node] = now + pause_s, pause_s * self._tuning.slower
        return found

    def _order(self) -> Iterator[NodeId]:
        """All others who seem to be there, beginning at another place on each node."""
        there = sorted(node for node, one in self._members.items() if one.state is MemberState.ALIVE)
        yield from [node for node in there if node > self.me]
        yield from [node for node in there if node < self.me]

    def _fewest(self, order: Collection[NodeId], end: End) -> Iterator[NodeId]:
        """The first of *order* who are enough."""
        holders: set[NodeId] = set(end.holders)
        for node in order:
            if not self._may_be_passed_over(end.owner, holders):
                return
            holders.add(node)
            yield node

    def _may_be_passed_over(self, owner: NodeId, holders: Collection[NodeId]) -> bool:
        """Whether those who have not heard of an end are enough for a verdict. This node has, but is where its owner is."""
        known = {node for node, one in self._members.items() if one.state is not MemberState.LEFT}
        return self._is_quorum(known - {owner, self.me, *holders})
