"""How long a suspect has to object: the more who noticed it, the shorter. Pure.

Lifeguard (Dadgar et al., 2018), section IV-B, as memberlist does it. `swim` keeps one per suspect.
"""

import math
from collections.abc import Iterable

import attrs

from mill.cluster.tuning import Tuning
from mill.cluster.values import NodeId


@attrs.define
class Suspicion:
    """Of one member in one incarnation, as this node has it since `began`."""

    began: float
    needed: int
    """How many beside the first accuser make the time shortest."""
    least_s: float
    most_s: float
    accusers: tuple[NodeId, ...] = ()

    @classmethod
    def start(cls, now: float, reachable: int, tuning: Tuning, accusers: Iterable[NodeId]) -> "Suspicion":
        """With *reachable* members, this node and the suspect included. So few that nobody could confirm it need not wait for that."""
        needed = tuning.confirmations if reachable - 2 >= tuning.confirmations else 0
        least_s = tuning.suspicion_factor * max(1.0, math.log10(max(1, reachable)))
        made = cls(now, needed, least_s, least_s * tuning.suspicion_stretch)
        made.add(accusers)
        return made

    def add(self, accusers: Iterable[NodeId]) -> bool:
        """Whether any of them is new, and counts."""
        room = self.needed + 1 - len(self.accusers)
        fresh = [node for node in accusers if node not in self.accusers][: max(0, room)]
        self.accusers += tuple(fresh)
        return bool(fresh)

    @property
    def deadline(self) -> float:
        """When it is down unless it objected."""
        if not self.needed:
            return self.began + self.least_s
        confirmed = max(0, len(self.accusers) - 1)
        shorter = math.log(confirmed + 1) / math.log(self.needed + 1)
        return self.began + max(self.least_s, self.most_s - (self.most_s - self.least_s) * shorter)
