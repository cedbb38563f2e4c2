"""Which images go when they take more room than they may. Pure: names, times and sizes in, names out. Called by `budget`.

Images share parts (blobs, snapshots), so that what one frees depends on which others stay.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import attrs

Part = tuple[str, str]
"""What takes room: ("blob", digest) or ("snapshot", chain id)."""
Parts = Mapping[Part, int]
"""And how many bytes."""


@attrs.frozen
class Kept:
    """One image of the store; `used` is when it was last pulled or started from, in unix seconds."""

    name: str
    used: float
    parts: Parts


@attrs.frozen
class Plan:
    """`names` to remove in this order; afterwards *size* bytes are taken, which may still be too many."""

    names: tuple[str, ...]
    size: int


class OverBudget(Exception):
    """It does not fit, whatever is removed; `str()` says what it needs, what there is, and what to do."""


def size_of(several: Iterable[Parts]) -> int:
    """Bytes of all together, each part once."""
    return sum(union(several).values())


def union(several: Iterable[Parts]) -> dict[Part, int]:
    together: dict[Part, int] = {}
    for parts in several:
        for part, size in parts.items():
            together[part] = max(size, together.get(part, 0))
    return together


def plan(images: Sequence[Kept], held: frozenset[str], claims: Sequence[Parts], limit_bytes: int) -> Plan:
    """The least recently used first, until the rest and *claims* fit; those *held* stay, and those whose going frees nothing."""
    everything = [*claims, *(image.parts for image in images)]
    sizes, owners = union(everything), Counter(part for parts in everything for part in parts)
    size, going = sum(sizes.values()), list[Kept]()
    for image in sorted(images, key=lambda image: (image.used, image.name)):
        if size <= limit_bytes:
            break
        if image.name not in held:
            going.append(image)
            owners.subtract(list(image.parts))
            size -= sum(sizes[part] for part in image.parts if not owners[part])
    for image in going[::-1]:
        if all(owners[part] for part in image.parts):
            going.remove(image)
            owners.update(list(image.parts))
    return Plan(tuple(image.name for image in going), size)
