"""Locks by key, each kept as long as somebody holds it or waits for it. Called by `pull` and `unpack`."""

from weakref import WeakValueDictionary

import attrs
import trio


@attrs.define(eq=False)
class Turns:
    """``async with turns.of(key):`` -- one at a time for each key, in the order they came."""

    _locks: "WeakValueDictionary[str, trio.Lock]" = attrs.field(factory=WeakValueDictionary, init=False)

    def of(self, key: str) -> trio.Lock:
        return self._locks.setdefault(key, trio.Lock())
