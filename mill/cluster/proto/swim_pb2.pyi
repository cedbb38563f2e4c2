from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class State(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ALIVE: _ClassVar[State]
    AWAY: _ClassVar[State]
    SUSPECT: _ClassVar[State]
    DOWN: _ClassVar[State]
    LEFT: _ClassVar[State]
ALIVE: State
AWAY: State
SUSPECT: State
DOWN: State
LEFT: State

class Packet(_message.Message):
    __slots__ = ("speaker", "epoch", "incarnation", "claims", "rumours", "ping", "ack", "ask", "told", "gossip", "sync", "mail")
    SPEAKER_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    CLAIMS_FIELD_NUMBER: _ClassVar[int]
    RUMOURS_FIELD_NUMBER: _ClassVar[int]
    PING_FIELD_NUMBER: _ClassVar[int]
    ACK_FIELD_NUMBER: _ClassVar[int]
    ASK_FIELD_NUMBER: _ClassVar[int]
    TOLD_FIELD_NUMBER: _ClassVar[int]
    GOSSIP_FIELD_NUMBER: _ClassVar[int]
    SYNC_FIELD_NUMBER: _ClassVar[int]
    MAIL_FIELD_NUMBER: _ClassVar[int]
    speaker: bytes
    epoch: int
    incarnation: int
    claims: _containers.RepeatedCompositeFieldContainer[Claim]
    rumours: _containers.RepeatedCompositeFieldContainer[Rumour]
    ping: Ping
    ack: Ack
    ask: Ask
    told: Told
    gossip: Gossip
    sync: Sync
    mail: Mail
    def __init__(self, speaker: _Optional[bytes] = ..., epoch: _Optional[int] = ..., incarnation: _Optional[int] = ..., claims: _Optional[_Iterable[_Union[Claim, _Mapping]]] = ..., rumours: _Optional[_Iterable[_Union[Rumour, _Mapping]]] = ..., ping: _Optional[_Union[Ping, _Mapping]] = ..., ack: _Optional[_Union[Ack, _Mapping]] = ..., ask: _Optional[_Union[Ask, _Mapping]] = ..., told: _Optional[_Union[Told, _Mapping]] = ..., gossip: _Optional[_Union[Gossip, _Mapping]] = ..., sync: _Optional[_Union[Sync, _Mapping]] = ..., mail: _Optional[_Union[Mail, _Mapping]] = ...) -> None: ...

class Claim(_message.Message):
    __slots__ = ("node", "epoch", "incarnation", "state", "body", "accusers", "away_ms")
    NODE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    ACCUSERS_FIELD_NUMBER: _ClassVar[int]
    AWAY_MS_FIELD_NUMBER: _ClassVar[int]
    node: bytes
    epoch: int
    incarnation: int
    state: State
    body: Body
    accusers: _containers.RepeatedScalarFieldContainer[bytes]
    away_ms: int
    def __init__(self, node: _Optional[bytes] = ..., epoch: _Optional[int] = ..., incarnation: _Optional[int] = ..., state: _Optional[_Union[State, str]] = ..., body: _Optional[_Union[Body, _Mapping]] = ..., accusers: _Optional[_Iterable[bytes]] = ..., away_ms: _Optional[int] = ...) -> None: ...

class Body(_message.Message):
    __slots__ = ("name", "host", "port", "said", "joined_term", "meta")
    class MetaEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    SAID_FIELD_NUMBER: _ClassVar[int]
    JOINED_TERM_FIELD_NUMBER: _ClassVar[int]
    META_FIELD_NUMBER: _ClassVar[int]
    name: str
    host: str
    port: int
    said: int
    joined_term: int
    meta: _containers.ScalarMap[str, str]
    def __init__(self, name: _Optional[str] = ..., host: _Optional[str] = ..., port: _Optional[int] = ..., said: _Optional[int] = ..., joined_term: _Optional[int] = ..., meta: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Rumour(_message.Message):
    __slots__ = ("origin", "epoch", "number", "key", "payload")
    ORIGIN_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    origin: bytes
    epoch: int
    number: int
    key: str
    payload: bytes
    def __init__(self, origin: _Optional[bytes] = ..., epoch: _Optional[int] = ..., number: _Optional[int] = ..., key: _Optional[str] = ..., payload: _Optional[bytes] = ...) -> None: ...

class Ping(_message.Message):
    __slots__ = ("number", "target", "attachment", "by_stream")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    ATTACHMENT_FIELD_NUMBER: _ClassVar[int]
    BY_STREAM_FIELD_NUMBER: _ClassVar[int]
    number: int
    target: bytes
    attachment: bytes
    by_stream: bool
    def __init__(self, number: _Optional[int] = ..., target: _Optional[bytes] = ..., attachment: _Optional[bytes] = ..., by_stream: _Optional[bool] = ...) -> None: ...

class Ack(_message.Message):
    __slots__ = ("number", "digest", "attachment")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    ATTACHMENT_FIELD_NUMBER: _ClassVar[int]
    number: int
    digest: int
    attachment: bytes
    def __init__(self, number: _Optional[int] = ..., digest: _Optional[int] = ..., attachment: _Optional[bytes] = ...) -> None: ...

class Ask(_message.Message):
    __slots__ = ("number", "target")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    number: int
    target: bytes
    def __init__(self, number: _Optional[int] = ..., target: _Optional[bytes] = ...) -> None: ...

class Told(_message.Message):
    __slots__ = ("number", "target", "answered")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    ANSWERED_FIELD_NUMBER: _ClassVar[int]
    number: int
    target: bytes
    answered: bool
    def __init__(self, number: _Optional[int] = ..., target: _Optional[bytes] = ..., answered: _Optional[bool] = ...) -> None: ...

class Gossip(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Sync(_message.Message):
    __slots__ = ("reply",)
    REPLY_FIELD_NUMBER: _ClassVar[int]
    reply: bool
    def __init__(self, reply: _Optional[bool] = ...) -> None: ...

class Mail(_message.Message):
    __slots__ = ("payload",)
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    payload: bytes
    def __init__(self, payload: _Optional[bytes] = ...) -> None: ...
