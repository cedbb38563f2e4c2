"""What engines say to each other beside membership, as values: beats, and letters. Pure: `codec` turns them into bytes and back.

A `Beat` rides on every ping and ack. Letters go to one member, by datagram or by stream; each question is answered by the letter
named after it. Single changes (entries, settings, claims, verdicts) travel as rumours by themselves.
"""

import attrs

from mill.cluster.claims import Claim, Mandate
from mill.cluster.entries import Delta, Entry, Line, Want
from mill.cluster.settings import Snapshot
from mill.cluster.values import NodeId

MOST_LOAD_BYTES = 128
"""What a node says of its own load on each beat."""


@attrs.frozen
class Beat:
    """What its speaker holds (`Records.head_hash`, `Settings.hash`), whom it obeys, its claim if it leads, and its load (opaque).

    With an answer all of it; with a leader's ping only its claim, since whoever is asked has it from answers too.
    """

    records: int
    settings: int
    accepted: Mandate
    claim: Claim | None = None
    load: bytes = b""


@attrs.frozen
class Compare:
    """The digest of the speaker's records; it would like the same if it says *reply*."""

    lines: tuple[Line, ...]
    reply: bool


@attrs.frozen
class Wants:
    """Of what its receiver holds, please. Answered by `Deltas`, as far as these fit into one letter."""

    wants: tuple[Want, ...]


@attrs.frozen
class Deltas:
    deltas: tuple[Delta, ...]


@attrs.frozen
class Copy:
    """All settings of the speaker; it would like the same if it says *reply*."""

    snapshot: Snapshot
    reply: bool


@attrs.frozen
class Ask:
    """Do you hear *leader* lead? Answered by `Vouch`."""

    leader: NodeId


@attrs.frozen
class Vouch:
    leader: NodeId
    vouched: bool


@attrs.frozen
class Hand:
    """The speaker led by *mandate* and goes; the receiver may lead at once."""

    mandate: Mandate


@attrs.frozen
class Inquiry:
    """How long have you not heard of *node*, and what do you hold of its log? Answered by `Testimony`."""

    node: NodeId


@attrs.frozen
class Testimony:
    node: NodeId
    silent_s: float
    line: Line


@attrs.frozen
class Hold:
    """The end of a task of the speaker's. Answered by `Holds`."""

    end: Entry


@attrs.frozen
class Holds:
    """The speaker knows the end of *task*, which is its receiver's."""

    task: str


Letter = Compare | Wants | Deltas | Copy | Ask | Vouch | Hand | Inquiry | Testimony | Hold | Holds
