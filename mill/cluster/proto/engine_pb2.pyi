from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Mandate(_message.Message):
    __slots__ = ("term", "leader")
    TERM_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    term: int
    leader: bytes
    def __init__(self, term: _Optional[int] = ..., leader: _Optional[bytes] = ...) -> None: ...

class Leading(_message.Message):
    __slots__ = ("term", "leader", "age", "quorum")
    TERM_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    AGE_FIELD_NUMBER: _ClassVar[int]
    QUORUM_FIELD_NUMBER: _ClassVar[int]
    term: int
    leader: bytes
    age: int
    quorum: bool
    def __init__(self, term: _Optional[int] = ..., leader: _Optional[bytes] = ..., age: _Optional[int] = ..., quorum: _Optional[bool] = ...) -> None: ...

class Beat(_message.Message):
    __slots__ = ("records", "settings", "accepted", "claim", "load")
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    CLAIM_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    records: int
    settings: int
    accepted: Mandate
    claim: Leading
    load: bytes
    def __init__(self, records: _Optional[int] = ..., settings: _Optional[int] = ..., accepted: _Optional[_Union[Mandate, _Mapping]] = ..., claim: _Optional[_Union[Leading, _Mapping]] = ..., load: _Optional[bytes] = ...) -> None: ...

class Mark(_message.Message):
    __slots__ = ("epoch", "seq")
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    seq: int
    def __init__(self, epoch: _Optional[int] = ..., seq: _Optional[int] = ...) -> None: ...

class Entry(_message.Message):
    __slots__ = ("owner", "mark", "task", "phase", "payload", "born", "ended")
    OWNER_FIELD_NUMBER: _ClassVar[int]
    MARK_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    BORN_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    owner: bytes
    mark: Mark
    task: str
    phase: int
    payload: bytes
    born: Mark
    ended: Mark
    def __init__(self, owner: _Optional[bytes] = ..., mark: _Optional[_Union[Mark, _Mapping]] = ..., task: _Optional[str] = ..., phase: _Optional[int] = ..., payload: _Optional[bytes] = ..., born: _Optional[_Union[Mark, _Mapping]] = ..., ended: _Optional[_Union[Mark, _Mapping]] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("owner", "head", "term", "leader", "reach", "ended", "at")
    OWNER_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    REACH_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    AT_FIELD_NUMBER: _ClassVar[int]
    owner: bytes
    head: Mark
    term: int
    leader: bytes
    reach: Mark
    ended: _containers.RepeatedCompositeFieldContainer[Mark]
    at: float
    def __init__(self, owner: _Optional[bytes] = ..., head: _Optional[_Union[Mark, _Mapping]] = ..., term: _Optional[int] = ..., leader: _Optional[bytes] = ..., reach: _Optional[_Union[Mark, _Mapping]] = ..., ended: _Optional[_Iterable[_Union[Mark, _Mapping]]] = ..., at: _Optional[float] = ...) -> None: ...

class Line(_message.Message):
    __slots__ = ("owner", "head", "seen", "floor", "entries", "verdicts")
    OWNER_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    SEEN_FIELD_NUMBER: _ClassVar[int]
    FLOOR_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    owner: bytes
    head: Mark
    seen: Mark
    floor: Mark
    entries: int
    verdicts: int
    def __init__(self, owner: _Optional[bytes] = ..., head: _Optional[_Union[Mark, _Mapping]] = ..., seen: _Optional[_Union[Mark, _Mapping]] = ..., floor: _Optional[_Union[Mark, _Mapping]] = ..., entries: _Optional[int] = ..., verdicts: _Optional[int] = ...) -> None: ...

class Want(_message.Message):
    __slots__ = ("owner", "since", "after")
    OWNER_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    owner: bytes
    since: Mark
    after: Mark
    def __init__(self, owner: _Optional[bytes] = ..., since: _Optional[_Union[Mark, _Mapping]] = ..., after: _Optional[_Union[Mark, _Mapping]] = ...) -> None: ...

class Delta(_message.Message):
    __slots__ = ("owner", "since", "entries", "verdicts", "floor", "head")
    OWNER_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    FLOOR_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    owner: bytes
    since: Mark
    entries: _containers.RepeatedCompositeFieldContainer[Entry]
    verdicts: _containers.RepeatedCompositeFieldContainer[Verdict]
    floor: Mark
    head: Mark
    def __init__(self, owner: _Optional[bytes] = ..., since: _Optional[_Union[Mark, _Mapping]] = ..., entries: _Optional[_Iterable[_Union[Entry, _Mapping]]] = ..., verdicts: _Optional[_Iterable[_Union[Verdict, _Mapping]]] = ..., floor: _Optional[_Union[Mark, _Mapping]] = ..., head: _Optional[_Union[Mark, _Mapping]] = ...) -> None: ...

class Setting(_message.Message):
    __slots__ = ("key", "value", "time", "node")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: bytes
    time: float
    node: bytes
    def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ..., time: _Optional[float] = ..., node: _Optional[bytes] = ...) -> None: ...

class Compare(_message.Message):
    __slots__ = ("lines", "reply")
    LINES_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    lines: _containers.RepeatedCompositeFieldContainer[Line]
    reply: bool
    def __init__(self, lines: _Optional[_Iterable[_Union[Line, _Mapping]]] = ..., reply: _Optional[bool] = ...) -> None: ...

class Wants(_message.Message):
    __slots__ = ("wants",)
    WANTS_FIELD_NUMBER: _ClassVar[int]
    wants: _containers.RepeatedCompositeFieldContainer[Want]
    def __init__(self, wants: _Optional[_Iterable[_Union[Want, _Mapping]]] = ...) -> None: ...

class Deltas(_message.Message):
    __slots__ = ("deltas",)
    DELTAS_FIELD_NUMBER: _ClassVar[int]
    deltas: _containers.RepeatedCompositeFieldContainer[Delta]
    def __init__(self, deltas: _Optional[_Iterable[_Union[Delta, _Mapping]]] = ...) -> None: ...

class Copy(_message.Message):
    __slots__ = ("settings", "collected", "reply")
    SETTINGS_FIELD_NUMBER: _ClassVar[int]
    COLLECTED_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    settings: _containers.RepeatedCompositeFieldContainer[Setting]
    collected: float
    reply: bool
    def __init__(self, settings: _Optional[_Iterable[_Union[Setting, _Mapping]]] = ..., collected: _Optional[float] = ..., reply: _Optional[bool] = ...) -> None: ...

class Ask(_message.Message):
    __slots__ = ("leader",)
    LEADER_FIELD_NUMBER: _ClassVar[int]
    leader: bytes
    def __init__(self, leader: _Optional[bytes] = ...) -> None: ...

class Vouch(_message.Message):
    __slots__ = ("leader", "vouched")
    LEADER_FIELD_NUMBER: _ClassVar[int]
    VOUCHED_FIELD_NUMBER: _ClassVar[int]
    leader: bytes
    vouched: bool
    def __init__(self, leader: _Optional[bytes] = ..., vouched: _Optional[bool] = ...) -> None: ...

class Hand(_message.Message):
    __slots__ = ("mandate",)
    MANDATE_FIELD_NUMBER: _ClassVar[int]
    mandate: Mandate
    def __init__(self, mandate: _Optional[_Union[Mandate, _Mapping]] = ...) -> None: ...

class Inquiry(_message.Message):
    __slots__ = ("node",)
    NODE_FIELD_NUMBER: _ClassVar[int]
    node: bytes
    def __init__(self, node: _Optional[bytes] = ...) -> None: ...

class Testimony(_message.Message):
    __slots__ = ("node", "silent_ms", "line")
    NODE_FIELD_NUMBER: _ClassVar[int]
    SILENT_MS_FIELD_NUMBER: _ClassVar[int]
    LINE_FIELD_NUMBER: _ClassVar[int]
    node: bytes
    silent_ms: int
    line: Line
    def __init__(self, node: _Optional[bytes] = ..., silent_ms: _Optional[int] = ..., line: _Optional[_Union[Line, _Mapping]] = ...) -> None: ...

class Hold(_message.Message):
    __slots__ = ("end",)
    END_FIELD_NUMBER: _ClassVar[int]
    end: bytes
    def __init__(self, end: _Optional[bytes] = ...) -> None: ...

class Holds(_message.Message):
    __slots__ = ("task",)
    TASK_FIELD_NUMBER: _ClassVar[int]
    task: str
    def __init__(self, task: _Optional[str] = ...) -> None: ...

class Letter(_message.Message):
    __slots__ = ("compare", "wants", "deltas", "copy", "ask", "vouch", "hand", "inquiry", "testimony", "hold", "holds")
    COMPARE_FIELD_NUMBER: _ClassVar[int]
    WANTS_FIELD_NUMBER: _ClassVar[int]
    DELTAS_FIELD_NUMBER: _ClassVar[int]
    COPY_FIELD_NUMBER: _ClassVar[int]
    ASK_FIELD_NUMBER: _ClassVar[int]
    VOUCH_FIELD_NUMBER: _ClassVar[int]
    HAND_FIELD_NUMBER: _ClassVar[int]
    INQUIRY_FIELD_NUMBER: _ClassVar[int]
    TESTIMONY_FIELD_NUMBER: _ClassVar[int]
    HOLD_FIELD_NUMBER: _ClassVar[int]
    HOLDS_FIELD_NUMBER: _ClassVar[int]
    compare: Compare
    wants: Wants
    deltas: Deltas
    copy: Copy
    ask: Ask
    vouch: Vouch
    hand: Hand
    inquiry: Inquiry
    testimony: Testimony
    hold: Hold
    holds: Holds
    def __init__(self, compare: _Optional[_Union[Compare, _Mapping]] = ..., wants: _Optional[_Union[Wants, _Mapping]] = ..., deltas: _Optional[_Union[Deltas, _Mapping]] = ..., copy: _Optional[_Union[Copy, _Mapping]] = ..., ask: _Optional[_Union[Ask, _Mapping]] = ..., vouch: _Optional[_Union[Vouch, _Mapping]] = ..., hand: _Optional[_Union[Hand, _Mapping]] = ..., inquiry: _Optional[_Union[Inquiry, _Mapping]] = ..., testimony: _Optional[_Union[Testimony, _Mapping]] = ..., hold: _Optional[_Union[Hold, _Mapping]] = ..., holds: _Optional[_Union[Holds, _Mapping]] = ...) -> None: ...
