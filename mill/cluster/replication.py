"""How records and settings become the same everywhere: rumours for what changes, comparisons for what was missed. Pure.

Beats carry a hash of either. Where that of another differs for a while, the two exchange digests, and each pulls what it lacks, one
answer after the other, from the other (`Pull`); no log from two others at once. Settings are few: they are exchanged whole.

It also knows how far this node's answers can be trusted: `whole` once its records were compared with a majority, since it has
seen one; until then others may have heard of ends and verdicts that it has not. `engine` calls this.
"""

from collections.abc import Callable, Collection, Iterable

import attrs

from mill.cluster import codec, entries
from mill.cluster.entries import Delta, Entry, Line, Opened, Put, Verdict, Want
from mill.cluster.letters import Beat, Compare, Copy, Deltas, Hold, Holds, Wants
from mill.cluster.outcomes import KeepEpoch, KeepLog, KeepSettings, Kill, Ready, Surfaced, Witnessed
from mill.cluster.post import Post
from mill.cluster.records import Records
from mill.cluster.rumours import entry_key, setting_key, verdict_key
from mill.cluster.settings import Setting, Settings
from mill.cluster.values import MemberState, NodeId
from mill.errors import MillError


class NotReady(MillError):
    """The others have not been asked yet what they know of this node's own tasks; `Ready` comes within seconds."""


class Overfull(MillError):
    """A setting is too long, or all of them together would be. Nothing was changed."""


MOST_SETTING_BYTES = 256 * 1024
MOST_SETTINGS_BYTES = 1024 * 1024
"""They are exchanged whole, in one letter; halves of a cluster may each have written as many while they were apart."""


@attrs.frozen
class Tuning:
    """Seconds and bytes."""

    compare_every_s: float = 1.0
    """Between two questions for a digest, at least (28 to 60 bytes an owner)..."""
    hurry_s: float = 0.2
    """... but while this node's answers are partial,"""
    settled_s: float = 1.0
    """... and once nothing new has come for so long: a rumour that is on its way makes hashes differ, too..."""
    busy_compare_every_s: float = 5.0
    """... or after this time in any case."""
    answer_s: float = 5.0
    """A pull whose next answer is not there by then is given up. The next one from the same node goes on where it stood, and so does
    it itself when the answer comes after all: a node that is slow gets there, too."""
    letter_bytes: int = 262144
    """Entries in one letter, about: a fraction of a second on any link, so that nothing else waits for long. Each costs a round trip,
    and a commit at either end: with a quarter of this a new node takes half as long again."""
    most_wants: int = 256
    """Owners asked after in one letter."""
    ready_s: float = 5.0
    """How long a node that starts again waits for a majority to tell it of its own log. Then it goes on: what a disk that was
    rolled back does not know is put again when it turns up."""


@attrs.define
class Pull:
    """What is still awaited from one node. `full`: it began with all that the node has and this one lacks."""

    pending: dict[NodeId, Want]
    until: float
    full: bool
    on_fetched: dict[NodeId, Callable[[], None]] = attrs.field(factory=dict)


class Replication:
    """See the module. *is_quorum* is the election's; *ready*: nobody else can know of this node's own tasks.

    *in_touch*: it leads with a majority, or follows one who does. *on_verdict* hears of each owner on whom there is a new verdict.
    """

    def __init__(
        self,
        post: Post,
        records: Records,
        settings: Settings,
        tuning: Tuning,
        is_quorum: Callable[[Collection[NodeId]], bool],
        in_touch: Callable[[], bool],
        on_verdict: Callable[[NodeId], None],
        *,
        ready: bool,
    ) -> None:
        self.records = records
        self.settings = settings
        self.ready = ready
        self._post = post
        self._tuning = tuning
        self._is_quorum = is_quorum
        self._in_touch = in_touch
        self._on_verdict = on_verdict
        self._began = self._learnt_at = post.now
        self._compared_at = self._copied_at = post.now - tuning.busy_compare_every_s
        self._compared: set[NodeId] = set()
        self._pulls: dict[NodeId, Pull] = {}
        self._given_up: dict[NodeId, Pull] = {}
        self._settings_of: dict[NodeId, int] = {}
        self.settings_hash = settings.hash()

    # -- this node's own words --------------------------------------------------------------------------------------

    def draft(self, task: str, phase: int, payload: bytes, extra: bytes = b"") -> Entry:
        if not self.ready:
            raise NotReady("this node is still asking the others what they know of its own tasks")
        return self.records.draft(task, phase, payload, extra)

    def publish(self, entry: Entry, *, told: bool = True) -> None:
        """It is on disk already, so that nothing of it is to be kept."""
        changes = self.records.publish(entry)
        self._post.emit(*[change for change in changes if isinstance(change, entries.Changed)])
        if told:
            self._tell(entry)

    def retire(self, expired: Collection[str]) -> None:
        self._take(self._post.me, lambda: self.records.retire(expired))

    def outlive(self, owner: NodeId, expired: Collection[str]) -> None:
        self._take(owner, lambda: self.records.outlive(owner, expired))

    def condemn(self, verdict: Verdict) -> None:
        """By this node itself: everybody shall hear it."""
        self._take(verdict.owner, lambda: self.records.condemn(verdict))
        self._post.tell(verdict_key(verdict), codec.verdict(verdict))

    def set(self, key: str, value: bytes | None, wall: float) -> Setting:
        """Write a setting, or delete it; `Overfull` if that is more than can be passed on."""
        others = sum(len(it.value or b"") for it in self.settings if it.key != key)
        size, room = len(value or b""), MOST_SETTINGS_BYTES - others
        if size > min(MOST_SETTING_BYTES, room) or len(key.encode()) > codec.MOST_SETTING_KEY_BYTES:
            raise Overfull(f"{key}: {size} bytes, {max(0, min(MOST_SETTING_BYTES, room))} are free")
        setting = self.settings.put(key, value, wall)
        self._keep_settings([setting])
        self._post.tell(setting_key(setting), codec.setting(setting))
        return setting

    def collect(self, wall: float) -> None:
        """Forget old deletions, if every member is known to hold the same settings as this node."""
        known = [m.id for m in self._post.swim.members.values() if m.state is not MemberState.LEFT]
        same = {node for node, held in self._settings_of.items() if held == self.settings_hash}
        before = self.settings_hash
        self.settings.collect(wall, agreed=same.issuperset(node for node in known if node != self._post.me))
        if self.settings.hash() != before:
            self._keep_settings([], anyhow=True)

    # -- rumours ----------------------------------------------------------------------------------------------------

    def hear_entry(self, entry: Entry) -> None:
        self._take(entry.owner, lambda: self.records.merge([entry]))

    def hold(self, node: NodeId, letter: Hold) -> None:
        """*node* is told that its end counts here, unless it comes too late for that."""
        self.hear_entry(letter.end)
        view = self.records.lookup(letter.end.task)
        if view is None or not view.lost:
            self._post.mail(node, Holds(letter.end.task), by_stream=False)

    def holds(self, node: NodeId, letter: Holds) -> None:
        self._post.emit(Witnessed(node, letter.task))

    def hear_verdict(self, verdict: Verdict) -> None:
        self._take(verdict.owner, lambda: self.records.condemn(verdict))

    def hear_setting(self, setting: Setting) -> None:
        self._keep_settings(self.settings.hear(setting))

    # -- comparing --------------------------------------------------------------------------------------------------

    def beat(self, node: NodeId, beat: Beat) -> None:
        """What *node* holds now; whether that is a reason to ask."""
        self._settings_of[node] = beat.settings
        now, tuning = self._post.now, self._tuning
        if beat.records == self.records.head_hash():
            self._agree(node)
        elif self._may_compare(node):
            self._compared_at = now
            self._compare(node, reply=True)
        if beat.settings != self.settings_hash and now - self._copied_at >= tuning.compare_every_s:
            self._copied_at = now
            self._post.mail(node, Copy(self.settings.snapshot(), reply=True), by_stream=True)

    def _may_compare(self, node: NodeId) -> bool:
        now, tuning = self._post.now, self._tuning
        if node in self._pulls:
            return False
        since_s = now - self._compared_at
        if not (self.ready and self.whole):
            return since_s >= tuning.hurry_s and node not in self._compared
        settled = now - self._learnt_at >= tuning.settled_s
        return since_s >= (tuning.compare_every_s if settled else tuning.busy_compare_every_s)

    def _compare(self, node: NodeId, *, reply: bool) -> None:
        lines = tuple(self.records.digest().values())
        self._post.mail(node, Compare(lines, reply), by_stream=True)

    def compare(self, node: NodeId, letter: Compare) -> None:
        """The digest of *node*: answer it, and pull what is missing here."""
        if letter.reply:
            self._compare(node, reply=False)
        wants = self.records.missing({line.owner: line for line in letter.lines})
        if not wants:
            self._agree(node)
        elif node not in self._pulls:
            elsewhere = {owner for pull in self._pulls.values() for owner in pull.pending}
            mine = [want for want in wants if want.owner not in elsewhere]
            if mine:
                self._pull(node, mine, full=mine == wants)

    def lacks(self, line: Line) -> bool:
        """Whether who holds *line* of a log holds something that is missing here."""
        return bool(self.records.missing({line.owner: line}))

    def fetch(self, owner: NodeId, line: Line, source: NodeId, on_fetched: Callable[[], None]) -> None:
        """Get what *source* holds of *owner*'s log, as its *line* says."""
        pull = self._pulls.get(source)
        if pull is None:
            wants = self.records.missing({owner: line})
            if not wants:
                on_fetched()
                return
            pull = self._pull(source, wants, full=False)
        if owner in pull.pending:
            pull.on_fetched[owner] = on_fetched

    def _pull(self, node: NodeId, wants: Iterable[Want], *, full: bool) -> Pull:
        pull = self._pulls[node] = Pull({want.owner: want for want in wants}, 0.0, full)
        before = self._given_up.pop(node, None)
        if before is not None:
            for owner in pull.pending.keys() & before.pending.keys():
                if before.pending[owner].since <= pull.pending[owner].since:
                    pull.pending[owner] = before.pending[owner]
        self._ask(node, pull)
        return pull

    def _ask(self, node: NodeId, pull: Pull) -> None:
        pull.until = self._post.now + self._tuning.answer_s
        wants = tuple(pull.pending.values())[: self._tuning.most_wants]
        self._post.mail(node, Wants(wants), by_stream=True)

    def give(self, node: NodeId, letter: Wants) -> None:
        """As much as fits into a letter of what *node* wants; it asks again for the rest."""
        deltas: list[Delta] = []
        room = self._tuning.letter_bytes
        for want in letter.wants:
            delta = self.records.delta(want, room)
            size = sum(entry.size_bytes for entry in delta.entries)
            if deltas and size > room:
                break
            deltas.append(delta)
            room -= size
            if room <= 0:
                break
        self._post.mail(node, Deltas(tuple(deltas)), by_stream=True)

    def absorb(self, node: NodeId, letter: Deltas) -> None:
        pull = self._pulls.get(node) or self._given_up.pop(node, None)
        if pull is None:
            return
        self._pulls[node] = pull
        for delta in letter.deltas:
            want = pull.pending.get(delta.owner)
            if want is None or want.since != delta.since:
                continue
            more = self._absorb(delta)
            del pull.pending[delta.owner]
            if more is not None:
                pull.pending[delta.owner] = more
            elif delta.owner in pull.on_fetched:
                pull.on_fetched.pop(delta.owner)()
        if pull.pending and letter.deltas:
            self._ask(node, pull)
            return
        del self._pulls[node]
        if pull.full and not pull.pending:
            self._agree(node)

    def _absorb(self, delta: Delta) -> Want | None:
        more: list[Want] = []

        def absorb() -> list[entries.Effect]:
            effects, want = self.records.absorb(delta)
            more.extend([] if want is None else [want])
            return effects

        self._take(delta.owner, absorb)
        return more[0] if more else None

    def copy(self, node: NodeId, letter: Copy) -> None:
        """All settings of *node*; it gets this node's if they are still others."""
        before = self.settings.snapshot()
        self._keep_settings(
            self.settings.merge(letter.snapshot), anyhow=letter.snapshot.collected > before.collected
        )
        mine = self.settings.snapshot()
        if letter.reply and mine != letter.snapshot:
            self._post.mail(node, Copy(mine, reply=False), by_stream=True)

    # -- how far answers can be trusted -----------------------------------------------------------------------------

    @property
    def majority(self) -> bool:
        """Whether this node is with one. One that was cut off doubts itself, and is slow to hold others for down; so suspects
        do not count, and a leader with a majority must have been heard.
        """
        alive = [m.id for m in self._post.swim.members.values() if m.state is MemberState.ALIVE]
        return self._in_touch() and self._is_quorum(alive)

    @property
    def whole(self) -> bool:
        return self._is_quorum({*self._compared, self._post.me})

    def _agree(self, node: NodeId) -> None:
        """All that *node* holds is here."""
        if node not in self._compared:
            self._compared.add(node)
            self.turn()

    def turn(self) -> None:
        """What time alone changes."""
        now = self._post.now
        for node in [node for node, pull in self._pulls.items() if pull.until <= now]:
            self._given_up[node] = self._pulls.pop(node)
        if not self.majority:
            self._compared.clear()
        if not self.ready and (self.whole or now - self._began >= self._tuning.ready_s):
            self.ready = True
            self._post.emit(Ready())

    # -- inside -----------------------------------------------------------------------------------------------------

    def _take(self, owner: NodeId, change: Callable[[], Iterable[entries.Effect]]) -> None:
        """Do *change* to the owner's log, and say what has to be kept, known, done and told of it, in this order."""
        before = self.records.line(owner)
        effects = list(change())
        after = self.records.line(owner)
        changes = [effect for effect in effects if isinstance(effect, entries.Changed)]
        again = [effect.entry for effect in effects if isinstance(effect, Put)]
        emit = self._post.emit
        emit(*[KeepEpoch(effect.epoch) for effect in effects if isinstance(effect, Opened)])
        if before == after and not changes:
            return
        self._learnt_at = self._post.now
        emit(self._kept(owner, changes, after))
        emit(*changes)
        if before.verdicts != after.verdicts:
            self._on_verdict(owner)
        if owner == self._post.me:
            emit(*[Kill(_task_of(it)) for it in changes if _must_end(it)])
            emit(*[Surfaced(entry) for entry in again if not entry.terminal])
        for entry in again:
            self._tell(entry)

    def _kept(self, owner: NodeId, changes: Iterable[entries.Changed], line: Line) -> KeepLog:
        written: dict[str, Entry] = {}
        gone: dict[str, None] = {}
        for change in changes:
            task = _task_of(change)
            if change.after is None:
                written.pop(task, None)
                gone[task] = None
            elif change.before is None or change.before.entry != change.after.entry:
                gone.pop(task, None)
                written[task] = change.after.entry
        verdicts = self.records.verdicts_on(owner)
        return KeepLog(owner, tuple(written.values()), tuple(gone), verdicts, line.floor, line.head)

    def _keep_settings(self, changed: list[Setting], *, anyhow: bool = False) -> None:
        if not changed and not anyhow:
            return
        self.settings_hash = self.settings.hash()
        self._post.emit(KeepSettings(tuple(changed), self.settings.snapshot().collected))

    def _tell(self, entry: Entry) -> None:
        self._post.tell(entry_key(entry), codec.entry(entry))


def _task_of(change: entries.Changed) -> str:
    view = change.after or change.before
    return "" if view is None else view.entry.task


def _must_end(change: entries.Changed) -> bool:
    """A task of this node that its owner holds for live, and all others no longer do."""
    if change.after is None:
        return change.before is not None and not change.before.entry.terminal
    return change.after.lost and not change.after.entry.terminal
