"""A leader's lease: who has answered it lately, and since when and until when these are a quorum. Pure.

An answer counts from when it was asked for. While the lease is known to hold until some moment nothing is counted anew, so that
an answer costs the same in a large cluster; whatever could change that says `doubt`. `election` owns one.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Collection

import attrs

from mill.cluster.values import NodeId


@attrs.define
class Lease:
    """See the module. A break is noticed by `review` before any later answer can hide it."""

    me: NodeId
    lease_s: float
    is_quorum: Callable[[Collection[NodeId]], bool]
    since: float | None = None
    """When the quorum that holds was reached."""
    until: float = -math.inf
    """Up to when it holds without another answer."""
    _answers: dict[NodeId, float] = attrs.field(factory=dict)

    def clear(self) -> None:
        """Nobody has answered yet: another mandate, or none."""
        self._answers = {}
        self.since, self.until = None, -math.inf

    def doubt(self) -> None:
        """Members have changed: count again."""
        self.until = -math.inf

    def answer(self, node: NodeId, sent: float, now: float) -> None:
        """*node* has answered what was asked at *sent*."""
        self.review(now)
        self._answers[node] = max(sent, self._answers.get(node, sent))
        if self.since is None:
            self.review(now)

    def holds(self, now: float) -> bool:
        return now < self.until or self.is_quorum({*self._valid(now), self.me})

    def review(self, now: float) -> bool:
        """Whether it holds; to be called at `until`, if nothing else comes."""
        if now < self.until:
            return True
        self._answers = {node: self._answers[node] for node in self._valid(now)}
        if not self.is_quorum({*self._answers, self.me}):
            self.since, self.until = None, -math.inf
            return False
        self.since = now if self.since is None else self.since
        self.until = self._sure_until()
        return True

    def _valid(self, now: float) -> list[NodeId]:
        return [node for node, sent in self._answers.items() if sent + self.lease_s > now]

    def _sure_until(self) -> float:
        """When the last answer lapses without which the latest ones are no quorum."""
        latest = sorted(self._answers, key=lambda node: -self._answers[node])
        needed = bisect_left(
            range(len(latest) + 1), 1, key=lambda count: self.is_quorum({*latest[:count], self.me})
        )
        return self._answers[latest[needed - 1]] + self.lease_s if needed else math.inf
