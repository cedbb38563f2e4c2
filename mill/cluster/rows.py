"""How a node's part in the cluster lies in SQLite: its tables, what an outcome writes, and what a new process reads. Pure; the store runs it.

Entries, verdicts and settings are kept in the form that they travel in, so that what a newer Mill says of them is kept too.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from mill.cluster import codec
from mill.cluster.claims import Mandate, Persist
from mill.cluster.effects import Changed
from mill.cluster.engine import Kept
from mill.cluster.entries import START, Delta, Entry
from mill.cluster.outcomes import KeepEpoch, KeepLog, KeepSettings
from mill.cluster.settings import Snapshot
from mill.cluster.values import Member, MemberState, NodeId, Peer

Statement = tuple[str, Sequence[Any]]
"""SQL and its parameters."""
Row = tuple[Any, ...]
Keep = KeepEpoch | KeepLog | KeepSettings | Persist | Changed
"""What is written of the outcomes."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS cluster_logs (
    owner TEXT PRIMARY KEY NOT NULL, log BLOB NOT NULL, verdicts TEXT NOT NULL, condemned REAL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cluster_entries (
    owner TEXT NOT NULL, task TEXT NOT NULL, entry BLOB NOT NULL, PRIMARY KEY (owner, task)
);
CREATE TABLE IF NOT EXISTS cluster_settings (
    key TEXT PRIMARY KEY NOT NULL, time REAL NOT NULL, deleted INTEGER NOT NULL, setting BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS cluster_members (node TEXT PRIMARY KEY NOT NULL, member TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cluster_facts (name TEXT PRIMARY KEY NOT NULL, value TEXT NOT NULL) WITHOUT ROWID;
"""
LOGS = "SELECT owner, log, condemned FROM cluster_logs"
ENTRIES = "SELECT entry FROM cluster_entries"
SETTINGS = "SELECT setting FROM cluster_settings"
MEMBERS = "SELECT node, member FROM cluster_members"
FACTS = "SELECT name, value FROM cluster_facts"

_EPOCH, _MANDATE, _COLLECTED = "epoch", "mandate", "collected"

_PUT_EPOCH = """INSERT INTO cluster_facts VALUES ('epoch', ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value
WHERE CAST(excluded.value AS INTEGER) > CAST(value AS INTEGER)"""
_PUT_FACT = "INSERT OR REPLACE INTO cluster_facts VALUES (?, ?)"
_PUT_ENTRY = "INSERT OR REPLACE INTO cluster_entries VALUES (?, ?, ?)"
_DROP_ENTRY = "DELETE FROM cluster_entries WHERE owner = ? AND task = ?"
_PUT_LOG = """INSERT INTO cluster_logs VALUES (?, ?, ?, ?) ON CONFLICT (owner) DO UPDATE SET
log = excluded.log, verdicts = excluded.verdicts,
condemned = CASE WHEN excluded.verdicts = verdicts THEN condemned ELSE excluded.condemned END"""
_PUT_SETTING = "INSERT OR REPLACE INTO cluster_settings VALUES (?, ?, ?, ?)"
_DROP_COLLECTED = "DELETE FROM cluster_settings WHERE deleted AND time <= ?"
_PUT_MEMBER = "INSERT OR REPLACE INTO cluster_members VALUES (?, ?)"
_DROP_MEMBER = "DELETE FROM cluster_members WHERE node = ?"


# -- out ------------------------------------------------------------------------------------------------------------


def statements(keep: Keep, wall: float) -> list[Statement]:
    """What keeps it; *wall*, in unix seconds, is when."""
    match keep:
        case KeepEpoch(epoch):
            return [(_PUT_EPOCH, (str(epoch),))]
        case Persist(mandate):
            return [(_PUT_FACT, (_MANDATE, json.dumps(mandate)))]
        case KeepSettings(changed, collected):
            written = [(_PUT_SETTING, (s.key, s.time, s.value is None, codec.setting(s))) for s in changed]
            return [*written, (_DROP_COLLECTED, (collected,)), (_PUT_FACT, (_COLLECTED, repr(collected)))]
        case KeepLog():
            return _log(keep, wall)
        case Changed(old, new):
            return _member(old, new)


def write(entry: Entry) -> Statement:
    """A draft of this node's own, together with the task's row."""
    return _PUT_ENTRY, (entry.owner, entry.task, codec.entry(entry))


def _log(keep: KeepLog, wall: float) -> list[Statement]:
    line = codec.delta(Delta(keep.owner, START, (), keep.verdicts, keep.floor, keep.head))
    given = json.dumps([(verdict.term, verdict.leader) for verdict in keep.verdicts])
    gone: list[Statement] = [(_DROP_ENTRY, (keep.owner, task)) for task in keep.gone]
    put: Statement = (_PUT_LOG, (keep.owner, line, given, wall if keep.verdicts else None))
    return [*gone, *map(write, keep.entries), put]


def _member(old: Member | None, new: Member | None) -> list[Statement]:
    if new is None:
        return [] if old is None else [(_DROP_MEMBER, (old.id,))]
    if old is not None and attrs.evolve(old, incarnation=0, since=0.0) == attrs.evolve(
        new, incarnation=0, since=0.0
    ):
        return []
    peer = new.peer
    said = {
        "epoch": peer.epoch, "name": peer.name, "host": peer.host, "port": peer.port, "state": int(new.state),
        "joined_term": new.joined_term, "meta": dict(new.meta),
    }  # fmt: skip
    return [(_PUT_MEMBER, (new.id, json.dumps(said)))]


# -- in -------------------------------------------------------------------------------------------------------------


@attrs.frozen
class Tables:
    """All rows of the tables."""

    logs: Sequence[Row]
    entries: Sequence[Row]
    settings: Sequence[Row]
    members: Sequence[Row]
    facts: Sequence[Row]

    @property
    def epoch(self) -> int:
        """The highest that was used; 0 at the first start."""
        return int(self._fact(_EPOCH, "0"))

    @property
    def condemned(self) -> Mapping[NodeId, float]:
        """Owners on whom there is a verdict, and when this node learnt of it, in unix seconds."""
        return {NodeId(owner): at for owner, _, at in self.logs if at is not None}

    def kept(self, now: float, wall: float) -> Kept:
        """As the engine takes it, whose clock says *now* when the wall's says *wall*."""
        term, leader = json.loads(self._fact(_MANDATE, '[0, ""]'))
        written = tuple(codec.read_setting(row[0]) for row in self.settings)
        settings = Snapshot(written, float(self._fact(_COLLECTED, "0")))
        return Kept(
            Mandate(term, NodeId(leader)),
            tuple(self._dumps()),
            settings,
            tuple(_read_member(node, json.loads(said), now) for node, said in self.members),
            {owner: now - max(0.0, wall - at) for owner, at in self.condemned.items()},
        )

    def _fact(self, name: str, otherwise: str) -> str:
        return next((str(value) for key, value in self.facts if key == name), otherwise)

    def _dumps(self) -> Iterator[Delta]:
        """Of each owner one; entries are committed with their tasks' rows, so that a log's line may be missing, or lag behind."""
        found: dict[NodeId, list[Entry]] = defaultdict(list)
        for row in self.entries:
            entry = codec.read_entry(row[0])
            found[entry.owner].append(entry)
        lines = {NodeId(owner): codec.read_delta(log) for owner, log, _ in self.logs}
        for owner in found.keys() | lines.keys():
            line = lines.get(owner) or Delta(owner, START, (), (), START, START)
            yield attrs.evolve(line, entries=tuple(sorted(found[owner], key=lambda entry: entry.mark)))


def _read_member(node: str, said: Mapping[str, Any], now: float) -> Member:
    peer = Peer(NodeId(node), said["epoch"], said["name"], said["host"], said["port"])
    return Member(peer, MemberState(said["state"]), 0, said["joined_term"], now, said["meta"])
