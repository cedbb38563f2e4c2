"""Settings that all nodes share: templates, hashes of tokens, whatever is configured once for the cluster. Pure.

Of two writes to a key the later one stands, by (time, node). A deletion is a write without a value. It is kept for a
day, and on until all members have been seen to hold the same: then nobody has the old value any more, it goes, and its
time raises `collected`. What comes from before that and is not held here is an old disk's, and refused.

Settings are few, so that two nodes whose `hash` differs exchange all of them: `snapshot` and `merge`. Single changes travel as
rumours (`hear`). The time is the wall clock's; a write always counts as later than what it replaces, so that a clock
that was ahead once makes nothing permanent.
"""

import hashlib
from collections.abc import Iterable, Iterator

import attrs

from mill.cluster.values import NodeId

KEEP_DELETED_S = 86400.0
"""How long a deletion is remembered at least: far beyond what clocks differ by."""
_TICK_S = 0.001
"""The step by which a write is later than one that claims to come from the future."""


@attrs.frozen
class Setting:
    """One write. `value` None: deleted. `extra` is what a newer Mill says beside it, kept and passed on."""

    key: str
    value: bytes | None
    time: float
    node: NodeId
    extra: bytes = b""

    @property
    def rank(self) -> tuple[float, NodeId, bool, bytes, bytes]:
        """The highest of a key stands."""
        return (self.time, self.node, self.value is None, self.value or b"", self.extra)


@attrs.frozen
class Snapshot:
    """All that a node holds. `collected`: deletions up to this time are no longer among them."""

    settings: tuple[Setting, ...]
    collected: float


class Settings:
    """See the module. *stored* is the last snapshot on this node's disk."""

    def __init__(self, me: NodeId, stored: Snapshot | None = None) -> None:
        self.me = me
        stored = stored or Snapshot((), 0.0)
        self._settings = {setting.key: setting for setting in stored.settings}
        self._collected = stored.collected

    def __repr__(self) -> str:
        return f"<Settings: {len(self._settings)}>"

    def __iter__(self) -> Iterator[Setting]:
        """Those that have a value, by key."""
        return iter(setting for _, setting in sorted(self._settings.items()) if setting.value is not None)

    def get(self, key: str) -> Setting | None:
        setting = self._settings.get(key)
        return None if setting is None or setting.value is None else setting

    def put(self, key: str, value: bytes | None, now: float, extra: bytes = b"") -> Setting:
        """Write, or delete with None, at the wall clock's *now*; to be stored, and told to all."""
        held = self._settings.get(key)
        after = self._collected if held is None else max(self._collected, held.time)
        setting = Setting(key, value, max(now, after + _TICK_S), self.me, extra)
        self._settings[key] = setting
        return setting

    def hear(self, setting: Setting) -> list[Setting]:
        """A single write by rumour; what is new of it."""
        held = self._settings.get(setting.key)
        if setting.time <= self._collected if held is None else setting.rank <= held.rank:
            return []
        self._settings[setting.key] = setting
        return [setting]

    def merge(self, snapshot: Snapshot) -> list[Setting]:
        """All that another node holds; what is new, and deletions for what that node knows to be gone."""
        before = dict(self._settings)
        theirs = {setting.key: setting for setting in snapshot.settings}
        for setting in theirs.values():
            self.hear(setting)
        for key, setting in before.items():
            if key not in theirs and setting.time <= snapshot.collected:
                del self._settings[key]
        self._collected = max(self._collected, snapshot.collected)
        self._drop_collected()
        return list(self._changes(before))

    def collect(self, now: float, *, agreed: bool) -> None:
        """Forget deletions that are older than a day by the wall clock's *now*. *agreed*: every member, also those that are down
        or away, has this node's `hash`.
        """
        if not agreed:
            return
        expired = [
            s.time for s in self._settings.values() if s.value is None and s.time <= now - KEEP_DELETED_S
        ]
        self._collected = max([self._collected, *expired])
        self._drop_collected()

    def snapshot(self) -> Snapshot:
        return Snapshot(tuple(setting for _, setting in sorted(self._settings.items())), self._collected)

    def hash(self) -> int:
        """64 bits, the same on two nodes when they hold the same."""
        hasher = hashlib.blake2b(repr(self._collected).encode(), digest_size=8)
        for setting in self.snapshot().settings:
            hasher.update(repr((setting.key, setting.rank)).encode())
        return int.from_bytes(hasher.digest(), "big")

    # -- inside -----------------------------------------------------------------------------------------------------

    def _drop_collected(self) -> None:
        self._settings = {
            key: setting
            for key, setting in self._settings.items()
            if setting.value is not None or setting.time > self._collected
        }

    def _changes(self, before: dict[str, Setting]) -> Iterable[Setting]:
        for key in sorted(before.keys() | self._settings.keys()):
            old, new = before.get(key), self._settings.get(key)
            if new is not None and new != old:
                yield new
            elif old is not None and old.value is not None and new is None:
                yield attrs.evolve(old, value=None)
