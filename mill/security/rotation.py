"""A change of the cluster's secret: which step is due, by the rings of all nodes as they are. Pure.

    some lack the new secret                  INSTALL it there
    all have it, some do not use it yet       USE it there
    all use it, some still understand others  REMOVE these there

Nothing else is kept of a change than the rings themselves. They are read before each step, by whoever makes it: so a change that
was interrupted is ended by the next who asks for one, wherever that is, and between any two steps every node understands all
others. Which secret is the new one is told from the former ones that a ring remembers: a change is never led back. `daemon`
reads the rings and does the steps.
"""

from collections.abc import Mapping
from enum import StrEnum

import attrs

from mill.errors import Conflict
from mill.model import Kept
from mill.security.keys import Keyring


class Step(StrEnum):
    INSTALL = "install"
    USE = "use"
    REMOVE = "remove"


@attrs.frozen
class RingView(Kept):
    """What a node says of its ring: key ids in hex, which tell nothing of the secrets."""

    used: str
    others: tuple[str, ...] = ()
    retired: tuple[str, ...] = ()

    @classmethod
    def of(cls, ring: Keyring) -> "RingView":
        others = tuple(secret.key_id.hex() for secret in ring.others)
        return cls(ring.used.key_id.hex(), others, tuple(key_id.hex() for key_id in ring.retired))

    @property
    def known(self) -> frozenset[str]:
        return frozenset((self.used, *self.others))


@attrs.frozen
class Work:
    """*step* of the secret *key_id*, on *node*."""

    node: str
    step: Step
    key_id: str


def begun(rings: Mapping[str, RingView]) -> str | None:
    """The key id that a change leads to which has begun; None where all have one secret, the same.

    Two changes that began at once, on two sides, are one from here on: the other one's secret was never used. `Conflict` for
    rings that no change leads to.
    """
    used, known, former = _all(rings)
    coming = (known - used if len(used) == 1 else used) - former
    if coming:
        return min(coming)
    if len(used) > 1:
        raise Conflict(
            "the nodes have secrets of different times in use, and none that is new: "
            "copy cluster.secret of one to all, and restart their milld"
        )
    return next(iter(used)) if len(known) > 1 else None


def due(rings: Mapping[str, RingView], key_id: str) -> list[Work]:
    """What is to be done next towards *key_id*, node by node; nothing once all use it and understand no former one."""
    used, known, former = _all(rings)
    nodes = sorted(rings.items())

    def remove(key_ids: frozenset[str]) -> list[Work]:
        return [Work(node, Step.REMOVE, it) for node, ring in nodes for it in sorted(ring.known & key_ids)]

    strays = frozenset[str]() if key_id in used else known - used - former - {key_id}
    return (
        remove(strays)
        or [Work(node, Step.INSTALL, key_id) for node, ring in nodes if key_id not in ring.known]
        or [Work(node, Step.USE, key_id) for node, ring in nodes if ring.used != key_id]
        or remove(former - {key_id})
    )


def _all(rings: Mapping[str, RingView]) -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """What is in use, known, or of former times anywhere."""
    views = rings.values()
    return (
        frozenset(ring.used for ring in views),
        frozenset[str]().union(*(ring.known for ring in views)),
        frozenset[str]().union(*(ring.retired for ring in views)),
    )
