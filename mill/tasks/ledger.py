"""What a node has and what it has promised. Pure: the owner's admission, by which nobody can overcommit a node.

Counts what is reserved, not what is used (design, promise 5). The service calls it before any side effect.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Literal, get_args

import attrs

from mill.errors import FieldError, NoCapacity
from mill.model import Resources
from mill.units import format_size

Refusal = Literal["no_capacity", "never_fits"]
REFUSALS: tuple[Refusal, ...] = get_args(Refusal)
_ROUNDING = 1e-9
"""Sums of decimal fractions of a core: ten times 0.1 must fit one core."""


@attrs.define
class Ledger:
    """Reservations by task id. Every method is instant and leaves the ledger consistent."""

    capacity: Resources
    refusals: Counter[Refusal] = attrs.field(factory=Counter)
    """How many tasks were turned away, since milld started."""
    _reserved: dict[str, Resources] = attrs.field(factory=dict)

    @property
    def reserved(self) -> Resources:
        return Resources(
            cpu=sum(part.cpu for part in self._reserved.values()),
            memory=sum(part.memory for part in self._reserved.values()),
        )

    @property
    def free(self) -> Resources:
        reserved = self.reserved
        return Resources(
            max(0.0, self.capacity.cpu - reserved.cpu), max(0, self.capacity.memory - reserved.memory)
        )

    @property
    def reservations(self) -> Mapping[str, Resources]:
        return self._reserved

    def check_ever_fits(self, asked: Resources) -> None:
        """`FieldError` when even the empty node is too small."""
        if asked.cpu > self.capacity.cpu + _ROUNDING:
            self.refusals["never_fits"] += 1
            raise FieldError("cpu", f"{asked.cpu:g} cores never fit: this node offers {self.capacity.cpu:g}")
        if asked.memory > self.capacity.memory:
            self.refusals["never_fits"] += 1
            most = format_size(self.capacity.memory)
            raise FieldError("memory", f"{format_size(asked.memory)} never fit: this node offers {most}")

    def reserve(self, task_id: str, asked: Resources) -> None:
        """Promise *asked* to the task, or `NoCapacity` that says what is free."""
        free = self.free
        if asked.cpu > free.cpu + _ROUNDING or asked.memory > free.memory:
            self.refusals["no_capacity"] += 1
            raise NoCapacity(
                f"no room for {asked.cpu:g} cores and {format_size(asked.memory)}: "
                f"{free.cpu:.3g} cores and {format_size(free.memory)} are free; wait for tasks to end or ask for less"
            )
        self._reserved[task_id] = asked

    def adopt(self, task_id: str, held: Resources) -> None:
        """A task that runs already holds what it holds, room or not."""
        self._reserved[task_id] = held

    def release(self, task_id: str) -> None:
        self._reserved.pop(task_id, None)
