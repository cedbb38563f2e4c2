"""Which node a task goes to, out of what each last said of itself. Pure.

Nodes that have no room, or take no new tasks, fall out. Of the rest those come first that hold the image already, and among these the
one that would be least full with the task: pulling costs seconds, and tasks that are spread out die together less often.
Equals are drawn by lot, lest every node of a fleet sends its tasks to the same one.

What is known here is always somewhat old. The chosen node's own ledger decides; when it refuses, the next of the list is
tried. Called by whoever places: the leader, or a node that finds none.
"""

from collections.abc import Iterable
from typing import Any, Protocol

import attrs

from mill.errors import FieldError, NoCapacity
from mill.model import NodeState, Resources
from mill.units import format_size

_ROUNDING = 1e-9
"""As in the ledger: ten times a tenth of a core fit one core."""
_NOTHING = Resources(0.0, 0)
_MOST_NAMED = 5
"""Nodes whose free room a refusal spells out: it is one line."""


class Lot(Protocol):
    """As `random.Random`."""

    def shuffle(self, x: list[Any], /) -> None: ...


@attrs.frozen
class Offer:
    """What a node has to give, as far as is known. `promised` is what was sent there since it said so."""

    node_id: str
    name: str
    capacity: Resources
    free: Resources
    state: NodeState = NodeState.ALIVE
    away: bool = False
    has_image: bool = False
    promised: Resources = _NOTHING

    @property
    def open(self) -> bool:
        return self.state is NodeState.ALIVE and not self.away

    @property
    def left(self) -> Resources:
        cpu, memory = self.free.cpu - self.promised.cpu, self.free.memory - self.promised.memory
        return Resources(max(0.0, cpu), max(0, memory))

    def promise(self, asked: Resources) -> "Offer":
        """The offer once a task of that size was sent there."""
        promised = Resources(self.promised.cpu + asked.cpu, self.promised.memory + asked.memory)
        return attrs.evolve(self, promised=promised)

    def fullness(self, asked: Resources) -> float:
        """Of cores or memory, whichever would be scarcer with the task: 1 is full."""
        cpu = 1 - (self.left.cpu - asked.cpu) / self.capacity.cpu
        memory = 1 - (self.left.memory - asked.memory) / self.capacity.memory
        return max(cpu, memory)


def fits(asked: Resources, room: Resources) -> bool:
    return asked.cpu <= room.cpu + _ROUNDING and asked.memory <= room.memory


def rank(asked: Resources, offers: Iterable[Offer], lot: Lot) -> list[Offer]:
    """The nodes to try, best first.

    Raises `FieldError` when not even an empty node is large enough, and `NoCapacity`, which says what is free where, when none has
    room now. The same offers and the same state of *lot* give the same list.
    """
    known = sorted(offers, key=lambda offer: offer.node_id)
    if known and not any(fits(asked, offer.capacity) for offer in known):
        raise _never_fits(asked, known)
    fitting = [offer for offer in known if offer.open and fits(asked, offer.left)]
    if not fitting:
        raise NoCapacity(_refusal(asked, known))
    lot.shuffle(fitting)
    return sorted(fitting, key=lambda offer: (not offer.has_image, round(offer.fullness(asked), 9)))


def _never_fits(asked: Resources, offers: list[Offer]) -> FieldError:
    cpu = max(offer.capacity.cpu for offer in offers)
    memory = max(offer.capacity.memory for offer in offers)
    if asked.cpu > cpu + _ROUNDING:
        return FieldError("cpu", f"{asked.cpu:g} cores never fit: the largest node offers {cpu:g}")
    if asked.memory > memory:
        most = format_size(memory)
        return FieldError("memory", f"{format_size(asked.memory)} never fit: the largest node offers {most}")
    together = f"{asked.cpu:g} cores and {format_size(asked.memory)} together"
    return FieldError("cpu", f"{together} never fit: no node offers both")


def _refusal(asked: Resources, offers: list[Offer]) -> str:
    wanted = f"no room for {asked.cpu:g} cores and {format_size(asked.memory)}"
    ready = sorted((offer for offer in offers if offer.open), key=lambda offer: (-offer.left.cpu, offer.name))
    if not ready:
        return f"{wanted}: no node takes tasks now; undrain one, or wait for those that are away"
    named = "; ".join(_free(offer) for offer in ready[:_MOST_NAMED])
    more = f"; and {len(ready) - _MOST_NAMED} more nodes" if len(ready) > _MOST_NAMED else ""
    return f"{wanted}: free are {named}{more}; wait for tasks to end or ask for less"


def _free(offer: Offer) -> str:
    return f"{offer.left.cpu:.3g} cores and {format_size(offer.left.memory)} on {offer.name}"
