"""One owner's log as one node holds it: its newest entry of each task, the verdicts on it, and how much of it is known. Pure.

    head    every mark up to it is known, be it an entry that is here, one that was replaced, or one that is forgotten
    ahead   marks beyond it that came by themselves; what lies between has to be asked for
    seen    the last mark of all
    floor   everything up to it is forgotten, and stays so: what comes in below it is refused

Merging takes the higher of each of them and of each task's entries (by rank), and the union of verdicts, so that it commutes,
associates and is idempotent. For floors that needs owners whose tasks go forward only, see `Records`.
`Records` alone calls it.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator
from functools import reduce
from operator import xor

import attrs

from mill.cluster.entries import START, Changed, Delta, Entry, Line, Mark, Verdict, View, Want
from mill.cluster.values import NodeId

MOST_AHEAD = 1024
"""Marks beyond a gap that are remembered one by one; past it they are forgotten (their entries are not) and asked for again."""
_STALE_SLACK = 64
"""Places of replaced entries that may stay in the order, beside as many as there are entries."""


@attrs.define
class OwnerLog:
    """See the module. Every method is instant and leaves it consistent; checksums are kept up to date."""

    owner: NodeId
    head: Mark = START
    seen: Mark = START
    floor: Mark = START
    entries: dict[str, Entry] = attrs.field(factory=dict)
    live: set[str] = attrs.field(factory=set)
    """Tasks whose entry is not terminal."""
    verdicts: list[Verdict] = attrs.field(factory=list)
    """In the order in which they decide."""
    _ahead: set[Mark] = attrs.field(factory=set)
    _order: list[tuple[Mark, str]] = attrs.field(factory=list)
    """The places of all entries in order, and some of entries that were replaced."""
    _entries_sum: int = 0
    _verdicts_sum: int = 0

    def line(self) -> Line:
        return Line(self.owner, self.head, self.seen, self.floor, self._entries_sum, self._verdicts_sum)

    def view(self, task: str) -> View | None:
        entry = self.entries.get(task)
        return None if entry is None else self.judged(entry)

    def judged(self, entry: Entry) -> View:
        if self.verdicts:
            for verdict in self.verdicts:
                if entry.born <= verdict.covers:
                    return View(entry, verdict)
        return View(entry)

    def at_stake(self) -> Iterator[View]:
        """Tasks that neither ended nor are lost."""
        for task in self.live:
            view = self.judged(self.entries[task])
            if not view.terminal:
                yield view

    # -- what comes in ----------------------------------------------------------------------------------------------

    def merge(self, entry: Entry) -> Changed | None:
        """Take *entry* in, whoever told it and in whatever order; None if nothing is shown otherwise."""
        if entry.mark <= self.floor:
            return None
        self._note(entry.mark)
        held = self.entries.get(entry.task)
        if held is not None and entry.rank <= held.rank:
            return None
        before = None if held is None else self.judged(held)
        self._replace(held, entry)
        return Changed(before, self.judged(entry))

    def condemn(self, verdict: Verdict) -> list[Changed]:
        """Take *verdict* in; what it changes of what is shown. One is dropped when another decides wherever it reaches.

        Verdicts outlive the floor: a task that is put again above it was born below.
        """
        if any(other.rank <= verdict.rank and other.covers >= verdict.covers for other in self.verdicts):
            return []
        reached = [self.judged(entry) for entry in self.entries.values() if entry.born <= verdict.covers]
        kept = [
            other for other in self.verdicts if other.rank < verdict.rank or other.covers > verdict.covers
        ]
        self.verdicts = sorted([*kept, verdict], key=lambda other: other.rank)
        self._verdicts_sum = reduce(xor, (other.checksum for other in self.verdicts))
        pairs = [(before, self.judged(before.entry)) for before in reached]
        return [Changed(before, after) for before, after in pairs if before != after]

    def raise_floor(self, floor: Mark) -> list[Changed]:
        """Forget everything up to *floor*."""
        if floor <= self.floor:
            return []
        self.floor = floor
        self.complete(START, floor)
        place = bisect_right(self._order, floor, key=_mark_of)
        gone = []
        for mark, task in self._order[:place]:
            entry = self.entries.get(task)
            if entry is not None and entry.mark == mark:
                gone.append(Changed(self.judged(entry), None))
                self._remove(entry)
        del self._order[:place]
        return gone

    def complete(self, since: Mark, head: Mark) -> None:
        """A series of answers has told all between *since* and *head*."""
        if since <= self.head:
            self._reach(head)
            self._ahead = {mark for mark in self._ahead if mark > self.head}

    # -- what goes out ----------------------------------------------------------------------------------------------

    def after(self, mark: Mark) -> Iterator[Entry]:
        """The entries beyond *mark*, in order."""
        for index in range(bisect_right(self._order, mark, key=_mark_of), len(self._order)):
            place, task = self._order[index]
            entry = self.entries.get(task)
            if entry is not None and entry.mark == place:
                yield entry

    def delta(self, want: Want, limit_bytes: int) -> Delta:
        """At least one entry, if there is any, and no more than *limit_bytes* of them. What has the same mark, for a disk that was
        rolled back gave it twice, stays together: the next answer begins behind it.
        """
        chosen: list[Entry] = []
        size, head = 0, self.head
        for entry in self.after(want.after):
            size += entry.size_bytes
            if chosen and size > limit_bytes and entry.mark > chosen[-1].mark:
                return Delta(self.owner, want.since, tuple(chosen), tuple(self.verdicts), self.floor, None)
            chosen.append(entry)
        return Delta(self.owner, want.since, tuple(chosen), tuple(self.verdicts), self.floor, head)

    def lacks(self, line: Line) -> Want | None:
        """What to ask the node for that holds *line*; None: it has nothing that is missing here."""
        mine = self.line()
        if (
            line.head > mine.head
            or line.seen > mine.seen
            or line.floor > mine.floor
            or line.verdicts != mine.verdicts
        ):
            return Want(self.owner, self.head, self.head)
        same = (line.head, line.seen, line.floor) == (mine.head, mine.seen, mine.floor)
        if same and line.entries != mine.entries:
            after = self.head if mine.gapped else START
            return Want(self.owner, after, after)
        return None

    def known_ends(self, beyond: Mark) -> frozenset[Mark]:
        """Where the tasks ended whose end lies beyond *beyond*."""
        return frozenset(
            entry.ended for entry in self.after(beyond) if entry.ended is not None and entry.ended > beyond
        )

    def retirable(self, expired: Collection[str]) -> tuple[Mark, list[View]]:
        """How far the floor may rise so that only ended tasks of *expired* go; and the live tasks without which it could
        rise over more of them.
        """
        floor, hindering, passed = self.floor, list[View](), list[View]()
        for entry in self.after(self.floor):
            if not entry.terminal:
                passed.append(self.judged(entry))
            elif entry.task not in expired:
                break
            else:
                hindering += passed
                passed = []
                if not hindering:
                    floor = entry.mark
        return floor, hindering

    def outlived(self, expired: Collection[str]) -> Mark:
        """How far the floor may rise, without its owner, so that only tasks of *expired* go that ended or are lost.

        Over marks that nobody has heard of only as far as a verdict reaches: what is there is lost, too.
        """
        floor = self.floor
        reach = max([self.head, *(verdict.covers for verdict in self.verdicts)])
        for entry in self.after(self.floor):
            if entry.mark > reach or entry.task not in expired or not self.judged(entry).terminal:
                break
            floor = entry.mark
        return floor

    # -- inside -----------------------------------------------------------------------------------------------------

    def _replace(self, held: Entry | None, entry: Entry) -> None:
        if held is not None:
            self._remove(held)
        self.entries[entry.task] = entry
        if not entry.terminal:
            self.live.add(entry.task)
        self._entries_sum ^= entry.checksum
        place = (entry.mark, entry.task)
        if not self._order or self._order[-1] < place:
            self._order.append(place)
        else:
            index = bisect_left(self._order, place)
            if self._order[index] != place:
                self._order.insert(index, place)
        if len(self._order) > 2 * len(self.entries) + _STALE_SLACK:
            self._order = sorted((entry.mark, entry.task) for entry in self.entries.values())

    def _remove(self, entry: Entry) -> None:
        del self.entries[entry.task]
        self.live.discard(entry.task)
        self._entries_sum ^= entry.checksum

    def _note(self, mark: Mark) -> None:
        """The entry at *mark* is known."""
        self.seen = max(self.seen, mark)
        if mark <= self.head:
            return
        if mark == Mark(self.head.epoch, self.head.seq + 1):
            self._reach(mark)
        elif len(self._ahead) < MOST_AHEAD:
            self._ahead.add(mark)

    def _reach(self, mark: Mark) -> None:
        """All up to *mark* is known, and what follows it without a gap."""
        self.head = max(self.head, mark)
        while self._ahead:
            following = Mark(self.head.epoch, self.head.seq + 1)
            if following not in self._ahead:
                break
            self._ahead.discard(following)
            self.head = following
        self.seen = max(self.seen, self.head)


def _mark_of(place: tuple[Mark, str]) -> Mark:
    return place[0]
