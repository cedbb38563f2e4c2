"""The replicated log: what this node knows of every task of the cluster, merged so that all nodes come to know the same. Pure.

Only a task's owner writes about it. `draft` gives its next entry a place, the store commits it, `publish` makes it seen; `put`
is both. What others know comes in by `merge` (rumours), `condemn` (verdicts) and `absorb` (answers to a `Want`), in any
order and any number of times. Two nodes compare their `head_hash` on every ack; where it differs they exchange digests, each asks
the other for what it is `missing`, and gets it as `delta`s of at most so many bytes.

Nothing is ever deleted by name: an owner raises the floor of its log over what has expired (`retire`), having put again what is
still live below it, and everybody refuses what lies below a floor. So no old copy brings anything back. For an owner that is gone for longer
than ended tasks are kept others raise it (`outlive`).

**A disk that was rolled back** shows when another node knows more of this node's log than it does itself. Then the log
goes on in a new epoch, into which everything is put again; and whatever else of the own past turns up later, with anybody, is put
again as well if it tells more than what is here. Until that has happened a task may be shown as further than its owner knows
it, never as less far. Two things make that whole: an epoch that was never used before, at every start, so that no mark is given twice;
and asking the others before the first `draft`, so that a disk older than the retention hears of the floor first.

What the owner has to do when its own live task changes: kill it, if it is lost or forgotten now; end it as interrupted, if
it does not run here. The engine calls this module.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping

import attrs

from mill.cluster.entries import (
    START,
    Delta,
    Digest,
    Effect,
    Entry,
    Line,
    Mark,
    Opened,
    Put,
    Verdict,
    View,
    Want,
)
from mill.cluster.ownerlog import OwnerLog
from mill.cluster.values import NodeId
from mill.errors import MillError


class Backwards(MillError):
    """A bug of ours: a task would go back to an earlier phase. Nothing was changed."""


class Overtaken(MillError):
    """The entry's place lies behind the log's head (it moved to another epoch meanwhile): draft it anew."""


class Records:
    """See the module. *stored* is what the disk holds: of each owner one `dump`, this node's own among them."""

    def __init__(self, me: NodeId, epoch: int, stored: Iterable[Delta] = ()) -> None:
        self.me = me
        self._logs: dict[NodeId, OwnerLog] = {}
        self._unhashed: set[NodeId] = set()
        self._hashes: dict[NodeId, int] = {}
        self._hash = 0
        for dump in stored:
            self._take(self._log(dump.owner), dump)
        own = self._log(me)
        own.complete(START, own.seen)
        self.epoch = max(epoch, own.head.epoch)
        self._drafted = own.head
        self._seen_by_others = START
        """The last mark of this node's own log that anybody holds, or held before it was replaced there."""

    def __repr__(self) -> str:
        return f"<Records of {self.me[:8]}.{self.epoch}: {len(self)} tasks of {len(self._logs)} owners>"

    def __len__(self) -> int:
        return sum(len(log.entries) for log in self._logs.values())

    # -- this node's own tasks --------------------------------------------------------------------------------------

    def draft(self, task: str, phase: int, payload: bytes, extra: bytes = b"") -> Entry:
        """The next entry of this node's log, which nobody sees yet. One of a task at a time; one that is never published
        leaves a gap that does no harm. `Backwards` if the task is further already.
        """
        held = self._log(self.me).entries.get(task)
        mark = self._drafted = self._next()
        if held is None:
            entry = Entry(self.me, mark, task, phase, payload, born=mark, extra=extra)
        else:
            if phase < held.phase:
                raise Backwards(f"{task}: phase {phase} after phase {held.phase}")
            entry = attrs.evolve(held, mark=mark, phase=phase, payload=payload, extra=extra)
        if entry.terminal and entry.ended is None:
            entry = attrs.evolve(entry, ended=mark)
        return entry

    def publish(self, entry: Entry) -> list[Effect]:
        """The draft is committed: it counts from now on. Drafts are published in the order they were made."""
        log = self._log(self.me)
        if entry.mark <= log.head:
            raise Overtaken(f"{entry.task}: {entry.mark} was drafted, and the log is at {log.head} already")
        self._unhashed.add(self.me)
        change = log.merge(entry)
        log.complete(START, entry.mark)
        return [] if change is None else [change]

    def put(self, task: str, phase: int, payload: bytes, extra: bytes = b"") -> Entry:
        """Draft and publish at once, for who has no store between."""
        entry = self.draft(task, phase, payload, extra)
        self.publish(entry)
        return entry

    def retire(self, expired: Collection[str]) -> list[Effect]:
        """Forget the oldest of this node's ended tasks, as far as they are all among *expired* and no live task's last
        change is older (`hindering`). Everybody forgets with the floor.
        """
        self._unhashed.add(self.me)
        log = self._log(self.me)
        return [*log.raise_floor(log.retirable(expired)[0])]

    def hindering(self, expired: Collection[str]) -> list[View]:
        """Live tasks of this node that have to be put again, as they are, before all of *expired* can retire."""
        return self._log(self.me).retirable(expired)[1]

    # -- what others know -------------------------------------------------------------------------------------------

    def merge(self, entries: Iterable[Entry]) -> list[Effect]:
        effects: list[Effect] = []
        for entry in entries:
            if entry.owner == self.me:
                effects += self._recall(entry)
                continue
            self._unhashed.add(entry.owner)
            change = self._log(entry.owner).merge(entry)
            if change is not None:
                effects.append(change)
        return effects

    def condemn(self, verdict: Verdict) -> list[Effect]:
        """Take a verdict in, from whomever."""
        self._unhashed.add(verdict.owner)
        return [*self._log(verdict.owner).condemn(verdict)]

    def verdict(self, owner: NodeId, term: int, at: float = 0.0) -> Verdict:
        """What this node, as leader, would say of *owner* at the wall clock's *at*: all that is not known to have ended is lost.
        What stands already is not said again, with another time.
        """
        log = self._log(owner)
        said = Verdict(owner, log.head, term, self.me, log.seen, log.known_ends(log.head), at=at)
        standing = (
            it for it in log.verdicts if (it.head, it.reach, it.ended) == (said.head, said.reach, said.ended)
        )
        return next(standing, said)

    def outlive(self, owner: NodeId, expired: Collection[str]) -> list[Effect]:
        """Forget the oldest tasks of an owner that is gone, as far as they are all among *expired*, ended or lost, and
        nothing lies between that may still be heard of. When it returns it forgets them, too, and kills what of them still runs there.
        """
        self._unhashed.add(owner)
        log = self._log(owner)
        return [*log.raise_floor(log.outlived(expired))]

    # -- comparing with others --------------------------------------------------------------------------------------

    def head_hash(self) -> int:
        """64 bits, the same on two nodes when they hold the same."""
        while self._unhashed:
            owner = self._unhashed.pop()
            line = self._logs[owner].line()
            new = 0 if line == Line(owner, START, START, START, 0, 0) else line.checksum
            self._hash ^= self._hashes.pop(owner, 0) ^ new
            self._hashes[owner] = new
        return self._hash

    def digest(self) -> Digest:
        return {owner: log.line() for owner, log in self._logs.items()}

    def missing(self, digest: Digest) -> list[Want]:
        """What to ask the node for that sent *digest*; one answer leads to the next, see `absorb`."""
        if self.me in digest:
            self._seen_by_others = max(self._seen_by_others, digest[self.me].seen)
        wants = [self._log(owner).lacks(line) for owner, line in digest.items()]
        return [want for want in wants if want is not None]

    def delta(self, want: Want, limit_bytes: int) -> Delta:
        """The answer to *want*. A single entry may be larger than the limit; else it is kept."""
        return self._log(want.owner).delta(want, limit_bytes)

    def absorb(self, delta: Delta) -> tuple[list[Effect], Want | None]:
        """Take an answer in; the wish that continues it goes to the same node."""
        if delta.owner == self.me:
            effects = self._remember(delta)
        else:
            effects = self._take(self._log(delta.owner), delta)
        if delta.head is None and delta.entries:
            return effects, Want(delta.owner, delta.since, delta.entries[-1].mark)
        return effects, None

    def dump(self, owner: NodeId) -> Delta:
        """All there is of one owner, as `Records` takes it back from the disk."""
        log = self._log(owner)
        entries = tuple(log.after(START))
        return Delta(owner, START, entries, tuple(log.verdicts), log.floor, log.head)

    # -- reading ----------------------------------------------------------------------------------------------------

    @property
    def owners(self) -> Collection[NodeId]:
        return self._logs.keys()

    def lookup(self, task: str) -> View | None:
        """The task of that id. If two halves of a cluster gave the same id: a live one, then the lower owner's."""
        found = [view for log in self._logs.values() if (view := log.view(task)) is not None]
        return min(found, key=lambda view: (view.terminal, view.entry.owner), default=None)

    def tasks(self, owner: NodeId | None = None) -> Iterator[View]:
        """All tasks, or one owner's."""
        logs: Mapping[NodeId, OwnerLog] = self._logs
        chosen = logs.values() if owner is None else [logs[owner]] if owner in logs else []
        for log in chosen:
            for entry in log.entries.values():
                yield log.judged(entry)

    def in_order(self, owner: NodeId) -> Iterator[View]:
        """One owner's tasks by their last change, the oldest first."""
        log = self._log(owner)
        return map(log.judged, log.after(START))

    def at_stake(self, owner: NodeId) -> Iterator[View]:
        """The owner's tasks that neither ended nor are lost: what a verdict on it would end."""
        return self._logs[owner].at_stake() if owner in self._logs else iter(())

    def line(self, owner: NodeId) -> Line:
        """What is held of one owner's log."""
        return (self._logs.get(owner) or OwnerLog(owner)).line()

    def verdicts_on(self, owner: NodeId) -> tuple[Verdict, ...]:
        """In the order in which they decide."""
        return tuple(self._logs[owner].verdicts) if owner in self._logs else ()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _log(self, owner: NodeId) -> OwnerLog:
        log = self._logs.get(owner)
        if log is None:
            log = self._logs[owner] = OwnerLog(owner)
        return log

    def _next(self) -> Mark:
        last = max(self._drafted, self._log(self.me).head)
        return Mark(self.epoch, last.seq + 1 if last.epoch == self.epoch else 1)

    def _take(self, log: OwnerLog, delta: Delta) -> list[Effect]:
        """An answer about another's log, or anything from the disk."""
        self._unhashed.add(delta.owner)
        effects: list[Effect] = [*log.raise_floor(delta.floor)]
        for verdict in delta.verdicts:
            effects += log.condemn(verdict)
        effects += [change for change in map(log.merge, delta.entries) if change is not None]
        if delta.head is not None:
            log.complete(delta.since, delta.head)
        return effects

    def _remember(self, delta: Delta) -> list[Effect]:
        """An answer about this node's own log. The floor comes first: what is forgotten must not be put again."""
        log = self._log(self.me)
        marks = [entry.mark for entry in delta.entries]
        last = max(delta.floor, delta.head or START, self._seen_by_others, *marks)
        behind = last > log.head
        self._unhashed.add(self.me)
        effects: list[Effect] = [*log.raise_floor(delta.floor)]
        for verdict in delta.verdicts:
            effects += log.condemn(verdict)
        if behind:
            self.epoch = max(self.epoch, last.epoch) + 1
            effects.append(Opened(self.epoch))
            log.complete(START, last)
            for entry in list(log.after(START)):
                effects += self._put_again(entry)
        return effects + self.merge(delta.entries)

    def _recall(self, entry: Entry) -> list[Effect]:
        """An entry of this node's own comes from another, and tells more than there is here: the disk has lost it.

        One from beyond the head waits for the answer that brings the floor with it.
        """
        log = self._log(self.me)
        held = log.entries.get(entry.task)
        if not log.floor < entry.mark <= log.head or (held is not None and entry.rank <= held.rank):
            return []
        return self._put_again(entry)

    def _put_again(self, entry: Entry) -> list[Effect]:
        again = attrs.evolve(entry, mark=self._next())
        self._drafted = again.mark
        return [Put(again), *self.publish(again)]
