"""What a node passes on, least often told first, each so many times. Pure; `swim` fills its packets from it.

Claims go before rumours. What no datagram can hold goes by stream, a few times only, since a stream loses nothing.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

import attrs

from mill.cluster.messages import Body, Claim, Rumour
from mill.cluster.tuning import Tuning

Item = TypeVar("Item", Claim, Rumour)

CLAIM_BYTES = 64
"""A claim on the wire at most, its body and accusers apart: an id, four numbers, tags."""
ACCUSER_BYTES = 18
BODY_BYTES = 40
"""A body's port, two numbers, tags and lengths."""
PAIR_BYTES = 10
RUMOUR_BYTES = 56
"""An origin, two numbers, tags and lengths."""
STREAM_REPEATS = 8
"""With 8 streams from each who has it, one in 3,000 members hears of it otherwise only (its core compares heads)."""
STREAM_BYTES = 65536
"""Long items that are put into one message of a stream: the first whatever its length, further ones up to here."""


def weigh_body(body: Body) -> int:
    pairs = sum(PAIR_BYTES + len(k.encode()) + len(v.encode()) for k, v in body.meta.items())
    return BODY_BYTES + len(body.name.encode()) + len(body.host.encode()) + len(body.extra) + pairs


def weigh(item: Claim | Rumour) -> int:
    """No less than its bytes on the wire."""
    if isinstance(item, Rumour):
        return RUMOUR_BYTES + len(item.key.encode()) + len(item.payload)
    body = weigh_body(item.body) if item.body is not None else 0
    return CLAIM_BYTES + ACCUSER_BYTES * len(item.accusers) + body


@attrs.frozen
class _Queued(Generic[Item]):
    item: Item
    weight: int


class Queue(Generic[Item]):
    """Items by how often they were told. Of one key the newest only; past *most* the oftenest told goes."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._levels: list[dict[Hashable, _Queued[Item]]] = []
        self._level_of: dict[Hashable, int] = {}

    def __len__(self) -> int:
        return len(self._level_of)

    def get(self, key: Hashable) -> Item | None:
        level = self._level_of.get(key)
        return None if level is None else self._levels[level][key].item

    def put(self, key: Hashable, item: Item, weight: int) -> None:
        self.discard(key)
        self._place(key, _Queued(item, weight), 0)
        if len(self) > self._most:
            fullest = next(level for level in reversed(self._levels) if level)
            self.discard(next(iter(fullest)))

    def discard(self, key: Hashable) -> None:
        level = self._level_of.pop(key, None)
        if level is not None:
            del self._levels[level][key]

    def _place(self, key: Hashable, queued: _Queued[Item], level: int) -> None:
        while len(self._levels) <= level:
            self._levels.append({})
        self._levels[level][key] = queued
        self._level_of[key] = level

    def pick(self, room: int, repeats: int, *, at_least_one: bool = False) -> tuple[list[Item], int]:
        """What fits into *room* bytes, told once more now and *repeats* times at most, and the room left."""
        picked: list[tuple[Hashable, _Queued[Item], int]] = []
        unseen = len(self._level_of)
        for level, here in enumerate(self._levels):
            if not here:
                continue
            unseen -= len(here)
            for key, queued in here.items():
                if queued.weight <= room or (at_least_one and not picked):
                    picked.append((key, queued, level))
                    room -= queued.weight
                    if room < RUMOUR_BYTES:
                        break
            if not unseen or room < RUMOUR_BYTES:
                break
        for key, queued, level in picked:
            del self._levels[level][key]
            if level + 1 < repeats:
                self._place(key, queued, level + 1)
            else:
                del self._level_of[key]
        return [queued.item for _, queued, _ in picked], room


class Broadcasts:
    """All that is on its way, and which rumours were heard already."""

    def __init__(self, tuning: Tuning) -> None:
        self._tuning = tuning
        self._claims: Queue[Claim] = Queue(tuning.most_members)
        self._rumours: Queue[Rumour] = Queue(tuning.most_rumours)
        self._long_claims: Queue[Claim] = Queue(tuning.most_members)
        self._long_rumours: Queue[Rumour] = Queue(tuning.most_rumours)
        self._heard: OrderedDict[tuple[str, str], tuple[int, int]] = OrderedDict()

    def __bool__(self) -> bool:
        return self.short or bool(self._long_claims) or bool(self._long_rumours)

    @property
    def short(self) -> bool:
        """Whether there is anything for a datagram."""
        return len(self._claims) > 0 or len(self._rumours) > 0

    def has_body_of(self, node: str) -> bool:
        """Whether a claim with the body of *node* still waits to be told."""
        claim = self._claims.get(node) or self._long_claims.get(node)
        return claim is not None and claim.body is not None

    def put_claim(self, claim: Claim) -> None:
        self._claims.discard(claim.node)
        self._long_claims.discard(claim.node)
        weight = weigh(claim)
        long = weight > self._tuning.rumour_bytes
        (self._long_claims if long else self._claims).put(claim.node, claim, weight)

    def put_rumour(self, rumour: Rumour) -> bool:
        """False, and nothing done, for one that was heard before, or is older than one that was."""
        key, version = (rumour.origin, rumour.key), (rumour.epoch, rumour.number)
        if self._heard.get(key, (-1, -1)) >= version:
            return False
        self._heard[key] = version
        self._heard.move_to_end(key)
        if len(self._heard) > 4 * self._tuning.most_rumours:
            self._heard.popitem(last=False)
        self._rumours.discard(key)
        self._long_rumours.discard(key)
        long = len(rumour.payload) > self._tuning.rumour_bytes
        (self._long_rumours if long else self._rumours).put(key, rumour, weigh(rumour))
        return True

    def pick(self, room: int, repeats: int) -> tuple[tuple[Claim, ...], tuple[Rumour, ...]]:
        """For one datagram with so much *room*, of which rumours are kept half: in a large cluster with loss claims never end."""
        kept = room // 2 if len(self._rumours) else 0
        claims, left = self._claims.pick(room - kept, repeats)
        rumours, _ = self._rumours.pick(left + kept, repeats)
        return tuple(claims), tuple(rumours)

    def pick_long(self) -> tuple[tuple[Claim, ...], tuple[Rumour, ...]]:
        """For one message of a stream; both empty when nothing is so long."""
        claims, room = self._long_claims.pick(STREAM_BYTES, STREAM_REPEATS, at_least_one=True)
        rumours, _ = self._long_rumours.pick(room, STREAM_REPEATS, at_least_one=not claims)
        return tuple(claims), tuple(rumours)
