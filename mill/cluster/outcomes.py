"""What the engine wants done or known, in order. Pure; the shell carries it out.

`Send` and `SendStream` go to the network. What begins with `Keep`, and `Persist`, is on disk before anything that follows in the list
is done. All else is for the rest of milld: members, tasks, settings, the leader.
"""

import attrs

from mill.cluster import entries
from mill.cluster.claims import Mandate, Persist
from mill.cluster.effects import Changed, PathChanged, Send, SendStream
from mill.cluster.entries import Entry, Mark, Verdict
from mill.cluster.settings import Setting
from mill.cluster.values import NodeId
from mill.cluster.verdicts import Held


@attrs.frozen
class KeepEpoch:
    """The highest epoch that this node has used, be it for a life or for its log; the next process begins one above it."""

    epoch: int


@attrs.frozen
class KeepLog:
    """What has changed of *owner*'s log, in one transaction: entries to write, tasks to forget, and the log's own line.

    With it belongs the time, for verdicts: the next life gives the engine whom they were on, and when.
    """

    owner: NodeId
    entries: tuple[Entry, ...]
    gone: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    floor: Mark
    head: Mark


@attrs.frozen
class KeepSettings:
    """Settings to write (those without a value included), and up to when deletions are forgotten: these may go."""

    changed: tuple[Setting, ...]
    collected: float


@attrs.frozen
class Kill:
    """A task of this node counts as lost or is forgotten: what of it runs here must end."""

    task: str


@attrs.frozen
class Surfaced:
    """A live task of this node that its disk did not know, or not as it was: if it does not run here, it was interrupted."""

    entry: Entry


@attrs.frozen
class Witnessed:
    """*node* knows the end of this node's *task*."""

    node: NodeId
    task: str


@attrs.frozen
class Led:
    """Who leads, as far as this node knows: nobody, if None. *full*: this node leads, and a majority answers it.

    *mandate* goes with every order that this node gives as leader.
    """

    leader: NodeId | None
    full: bool
    mandate: Mandate


@attrs.frozen
class Ready:
    """The others were asked for what they know of this node's log: `draft` may be called from now on."""


Outcome = (
    Send
    | SendStream
    | Changed
    | PathChanged
    | Persist
    | KeepEpoch
    | KeepLog
    | KeepSettings
    | entries.Changed
    | Kill
    | Surfaced
    | Witnessed
    | Led
    | Ready
    | Held
)
