"""Answers from upstream, as long as they hold. Pure: the clock is an argument, and the size is bounded by bytes.

What was used longest ago goes first. `forward` keeps one.
"""

from collections import OrderedDict
from typing import NamedTuple

from mill.dns.message import Question
from mill.dns.upstream import Reply

ENTRY_BYTES = 600
"""What an entry takes beside its message: its key, the offsets of its TTLs, the dictionary's part (measured)."""

Key = tuple[bytes, int, int, bool]


class _Kept(NamedTuple):
    reply: Reply
    since_s: float


class Cache:
    """By question. Times are seconds of any one clock that never goes back."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[Key, _Kept] = OrderedDict()
        self._bytes = 0

    def __repr__(self) -> str:
        return f"<Cache {len(self._kept)} answers, {self._bytes} bytes>"

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def size_bytes(self) -> int:
        return self._bytes

    def get(self, question: Question, now_s: float, *, udp: bool) -> bytes | None:
        """The answer to *question*, its TTLs as old as it is."""
        kept = self._kept.get(question.key)
        if kept is None:
            return None
        age_s = int(now_s - kept.since_s)
        if age_s >= kept.reply.ttl_s:
            self._drop(question.key)
            return None
        self._kept.move_to_end(question.key)
        return kept.reply.to(question, udp=udp, age_s=age_s)

    def put(self, question: Question, reply: Reply, now_s: float) -> None:
        """Keep *reply* if it holds for any time."""
        if reply.ttl_s <= 0 or _size(reply) > self._most_bytes:
            return
        self._drop(question.key)
        self._kept[question.key] = _Kept(reply, now_s)
        self._bytes += _size(reply)
        while self._bytes > self._most_bytes:
            self._drop(next(iter(self._kept)))

    def clear(self) -> None:
        """Forget all: other upstreams may say other things."""
        self._kept.clear()
        self._bytes = 0

    def _drop(self, key: Key) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._bytes -= _size(kept.reply)


def _size(reply: Reply) -> int:
    return len(reply.wire) + 40 * len(reply.ttls) + ENTRY_BYTES
