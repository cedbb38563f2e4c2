"""The values of the replicated log: marks, entries, verdicts, and what two nodes say to find what one of them lacks. Pure.

Every node owns one log, in which only it writes. An entry is the whole public record of one task as of one change; a
later entry of the same task takes its place. A `Mark` is a place in the log: (epoch, seq), ordered so. The epoch of a log
outlives milld's process; it rises only when its owner's disk turns out to be older than what others know.

What is shown of a task is a function of two parts that are merged apart, `View`: the owner's newest entry, and the verdict on
the owner, if one reaches the task. `records` holds and merges them, `verdicts` decides on them.
"""

import hashlib
import struct
from collections.abc import Mapping
from typing import NamedTuple

import attrs

from mill.cluster.values import NodeId

PULLING, STARTING, RUNNING, ENDED = range(4)
"""The phases of a task, each after the ones before. What a newer Mill may add beyond is an end as well."""


class Mark(NamedTuple):
    """A place in an owner's log, from 1 on in each epoch."""

    epoch: int
    seq: int


START = Mark(0, 0)
"""Before every log's first entry."""


@attrs.frozen
class Entry:
    """A task as of `mark` in its owner's log.

    `payload` is the public record in the store's form, opaque here; `extra` is what a newer Mill says beside it, kept and
    passed on. `born` is the mark of the task's first entry and `ended` that of its first terminal one: they tell a verdict
    which tasks it reaches and which ends it knew of, and stay the same when the entries that they name are long replaced.
    """

    owner: NodeId
    mark: Mark
    task: str
    phase: int
    payload: bytes = attrs.field(repr=lambda payload: f"<{len(payload)} B>")
    born: Mark
    ended: Mark | None = None
    extra: bytes = b""

    @property
    def owner_epoch(self) -> int:
        return self.mark.epoch

    @property
    def seq(self) -> int:
        return self.mark.seq

    @property
    def terminal(self) -> bool:
        return self.phase >= ENDED

    @property
    def size_bytes(self) -> int:
        """About what it takes on the wire."""
        return len(self.payload) + len(self.extra) + len(self.task) + _FRAME_BYTES

    @property
    def rank(self) -> tuple[object, ...]:
        """Which of two entries of a task stands: the higher rank, whoever compares them in whatever order.

        The later phase; of two ends the one that came first, since a client may have read it; then the later mark. The rest
        only decides between the two futures of a disk that was rolled back.
        """
        ended = self.ended or START
        return (
            self.phase, -ended.epoch, -ended.seq, self.mark, -self.born.epoch, -self.born.seq, self.payload, self.extra,
        )  # fmt: skip

    @property
    def checksum(self) -> int:
        """64 bits of all that it says."""
        head = f"{self.owner}{self.mark}{self.task}\0{self.phase}{self.born}{self.ended}"
        return _checksum(head.encode(), self.payload, self.extra)


_FRAME_BYTES = 64
"""Marks, the phase and the fields' tags."""
_AT_ON_WIRE, _AT_TAG = struct.Struct("<Bd"), 7 << 3 | 1
"""Protobuf's field 7, of 64 bits."""


@attrs.frozen
class Verdict:
    """The tasks of `owner` that were born up to `reach` are lost, save those whose end was known when it was given.

    Known was every mark up to `head`, and beyond it the ends at the marks `ended`: what lies between had reached nobody who
    could be asked, so that an end which turns up there later is kept beside the verdict and does not overturn it. `at` is when it
    was given, by its leader's wall clock in unix seconds; 0: by an older Mill, which does not say.
    """

    owner: NodeId
    head: Mark
    term: int
    leader: NodeId
    reach: Mark = START
    ended: frozenset[Mark] = frozenset()
    extra: bytes = b""
    at: float = 0.0

    @property
    def owner_epoch(self) -> int:
        return self.head.epoch

    @property
    def covers(self) -> Mark:
        """The last birth that it reaches."""
        return max(self.head, self.reach)

    @property
    def rank(self) -> tuple[object, ...]:
        """The lowest of those that reach a task decides."""
        return (
            self.term, self.covers, self.head, sorted(self.ended), self.leader, self.reach, self.at, self.extra,
        )  # fmt: skip

    @property
    def checksum(self) -> int:
        """The same for an older Mill, to which the time is something unknown that it holds as it stands on the wire."""
        head = f"{self.owner}{self.head}{self.term}{self.leader}{self.reach}{sorted(self.ended)}"
        return _checksum(head.encode(), _AT_ON_WIRE.pack(_AT_TAG, self.at) if self.at else b"", self.extra)

    def loses(self, entry: Entry) -> bool:
        """Whether the task of *entry*, which it reaches, counts as lost."""
        return entry.ended is None or not (entry.ended <= self.head or entry.ended in self.ended)


@attrs.frozen
class View:
    """What is to be shown of a task: `entry` is its owner's word, `verdict` the one that reaches it, if any."""

    entry: Entry
    verdict: Verdict | None = None

    @property
    def lost(self) -> bool:
        """It failed with `node_lost`; `entry` tells what became of it in truth, once that is known."""
        return self.verdict is not None and self.verdict.loses(self.entry)

    @property
    def terminal(self) -> bool:
        return self.entry.terminal or self.lost


@attrs.frozen
class Line:
    """What a node holds of one owner's log: all up to `head`, and something up to `seen`; nothing up to `floor` any more.

    `entries` and `verdicts` are checksums of what it holds.
    """

    owner: NodeId
    head: Mark
    seen: Mark
    floor: Mark
    entries: int
    verdicts: int

    @property
    def gapped(self) -> bool:
        return self.seen > self.head

    @property
    def checksum(self) -> int:
        head = f"{self.owner}{self.head}{self.seen}{self.floor}{self.entries}{self.verdicts}"
        return _checksum(head.encode())


@attrs.frozen
class Want:
    """A wish for what lies after `after` in an owner's log. `since` is where the first wish of a series began; all of a
    series must go to one node: only then does its last answer tell that nothing is missing.
    """

    owner: NodeId
    since: Mark
    after: Mark


@attrs.frozen
class Delta:
    """The answer: entries in the order of their marks, all verdicts and the floor. `head` None: there is more, ask again
    after the last entry. Else the asker, once it has merged this, holds all up to `head` that it did not hold at `since`.
    """

    owner: NodeId
    since: Mark
    entries: tuple[Entry, ...]
    verdicts: tuple[Verdict, ...]
    floor: Mark
    head: Mark | None


@attrs.frozen
class Changed:
    """What is shown of a task has changed; None: it was unknown, or is forgotten."""

    before: View | None
    after: View | None


@attrs.frozen
class Put:
    """An entry of this node's own log is new without a `put` from outside: store it, then tell it on."""

    entry: Entry


@attrs.frozen
class Opened:
    """The log of this node goes on in another epoch: store that before anything that follows."""

    epoch: int


Effect = Changed | Put | Opened
Digest = Mapping[NodeId, Line]


def _checksum(*parts: bytes) -> int:
    hasher = hashlib.blake2b(digest_size=8)
    for part in parts:
        hasher.update(part)
    return int.from_bytes(hasher.digest(), "big")
