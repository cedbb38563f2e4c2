"""JSON schemas of the model's classes, with the constraints that their validators state, and of what no class describes. Pure.

A class that people write (`ASKED`) is closed, takes null for what is not said, and sizes and durations as text too; one
that is answered with has every field, and plain numbers.
"""

from collections.abc import Mapping
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import attrs

from mill.checks import KEYWORDS, check_mount
from mill.convert import to_json
from mill.logs.index import STREAMS
from mill.model import (
    Draft,
    Duration,
    Image,
    JoinCommand,
    Mount,
    NodeStatus,
    NodeView,
    Publish,
    PullProgress,
    PullRequest,
    Record,
    RotatedSecret,
    Size,
    SpawnRequest,
    Spec,
    Stats,
    Template,
    Time,
    TokenRequest,
    TokenView,
)
from mill.units import DURATION_PATTERN, MOST_SIZE_BYTES, NUMBER_PATTERN, SIZE_PATTERN

TEXT: Mapping[str, Any] = {"type": "string"}
INSTANT: Mapping[str, Any] = {"type": "string", "format": "date-time"}
SIZE: Mapping[str, Any] = {
    "type": ["integer", "string"],
    "minimum": 0,
    "maximum": MOST_SIZE_BYTES,
    "pattern": f"^{SIZE_PATTERN}$",
    "description": "bytes, or a size such as 512M",
}
DURATION: Mapping[str, Any] = {
    "type": ["number", "string"],
    "minimum": 0,
    "minLength": 1,
    "pattern": f"^(?:{NUMBER_PATTERN}|{DURATION_PATTERN})$",
    "description": "seconds, or a duration such as 1h30m",
}
_SCALARS: Mapping[Any, Mapping[str, Any]] = {
    str: TEXT,
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    object: {},
    Time: INSTANT,
}
_WRITTEN: Mapping[Any, Mapping[str, Any]] = {Size: SIZE, Duration: DURATION}
_ANSWERED: Mapping[Any, Mapping[str, Any]] = {
    Size: {"type": "integer", "description": "bytes"},
    Duration: {"type": "number", "description": "seconds"},
}
ASKED = (SpawnRequest, Draft, Mount, Publish, PullRequest, TokenRequest)
ANSWERED = (
    PullProgress,
    Record,
    Stats,
    Image,
    Template,
    NodeStatus,
    NodeView,
    JoinCommand,
    RotatedSecret,
    TokenView,
)
EXAMPLES: Mapping[type, Mapping[str, Any]] = {
    SpawnRequest: {"image": "busybox", "args": ["echo", "hello"], "memory": "32M", "timeout": "1m"},
    Draft: {"image": "busybox", "args": ["sleep", "60"], "cpu": 0.1, "env": {"MODE": "agent"}},
    PullRequest: {"image": "busybox", "pull": "missing"},
    TokenRequest: {"scope": "spawn", "name": "ci", "expires": "30d"},
}
_WHOLE: Mapping[type, Mapping[str, Any]] = {
    SpawnRequest: {
        "anyOf": [
            {"required": [name], "properties": {name: {"type": "string"}}} for name in ("image", "task")
        ]
    },
    Mount: KEYWORDS[check_mount],
}
"""Rules between the fields of a class."""
_PROBLEM = {
    "type": "object",
    "description": "What went wrong (RFC 9457): `type` is for programs, `detail` one line for people.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {**TEXT, "pattern": "^urn:mill:problem:[a-z-]+$"},
        "title": TEXT,
        "status": {"type": "integer", "minimum": 400, "maximum": 599},
        "detail": {**TEXT, "minLength": 1},
        "field": {**TEXT, "description": "the field or parameter that is to blame, such as mounts[0].target"},
    },
    "additionalProperties": False,
}
_LOG_LINE = {
    "type": "object",
    "description": "A line of a task's output, or a part of a long one; `base64` instead of `text` where it is no UTF-8.",
    "required": ["stream", "time", "cursor"],
    "properties": {
        "stream": {**TEXT, "enum": list(STREAMS)},
        "time": INSTANT,
        "text": TEXT,
        "base64": {**TEXT, "contentEncoding": "base64"},
        "cursor": {**TEXT, "description": "resumes right behind it"},
        "dropped_bytes": {
            "type": "integer",
            "minimum": 1,
            "description": "so much is missing here, for lack of room",
        },
    },
    "additionalProperties": False,
}
_TASK_EVENT = {
    "type": "object",
    "description": "What became of a task, and when.",
    "required": ["time", "task"],
    "properties": {
        "time": INSTANT,
        "task": {"$ref": "#/components/schemas/Record"},
        "partial": {
            "type": "boolean",
            "description": "left out where it is certain; else others may know better",
        },
    },
}
_EVENT_GAP = {
    "type": "object",
    "description": "Changes are missing here; `missed` says how many, where that is known.",
    "required": ["missed", "message"],
    "properties": {"missed": {"type": ["integer", "null"]}, "message": TEXT},
}


_PULL_NEWS = {
    "type": "object",
    "description": "News of a pull; the last is the image, or the error that ended it.",
    "properties": {
        name: {"$ref": f"#/components/schemas/{schema}"}
        for name, schema in (("progress", "PullProgress"), ("image", "Image"), ("error", "Problem"))
    },
    "minProperties": 1,
    "maxProperties": 1,
    "additionalProperties": False,
}


def components() -> dict[str, Any]:
    """Every schema that the document names."""
    schemas: dict[str, Any] = {
        "Problem": _PROBLEM,
        "LogLine": _LOG_LINE,
        "TaskEvent": _TASK_EVENT,
        "EventGap": _EVENT_GAP,
        "PullNews": _PULL_NEWS,
    }
    for cls in (*ASKED, *ANSWERED):
        _register(cls, schemas)
    return schemas


def ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _register(cls: type, schemas: dict[str, Any]) -> dict[str, str]:
    """A reference to *cls*' schema, made if missing."""
    if cls.__name__ not in schemas:
        schemas[cls.__name__] = {}
        schemas[cls.__name__] = _object(cls, schemas)
    return ref(cls.__name__)


def _object(cls: type, schemas: dict[str, Any]) -> dict[str, Any]:
    hints = get_type_hints(cls)
    fields = [field for field in attrs.fields(cls) if field.name != "extra"]
    asked = cls in ASKED
    made: dict[str, Any] = {
        "type": "object",
        "description": (cls.__doc__ or "").strip(),
        "properties": {
            field.name: _field(field, hints[field.name], schemas, asked=asked) for field in fields
        },
        "required": [field.name for field in fields if not asked or field.default is attrs.NOTHING],
    }
    if asked:
        made |= {"additionalProperties": False, **_WHOLE.get(cls, {})}
    if cls in EXAMPLES:
        made["examples"] = [EXAMPLES[cls]]
    return made


def _field(field: Any, kind: Any, schemas: dict[str, Any], *, asked: bool) -> dict[str, Any]:
    schema = _schema(kind, schemas, asked=asked)
    if asked:
        schema |= KEYWORDS.get(field.validator, {})
        default = _default(field)
        if default is not None:
            schema["default"] = to_json(default)
    return schema


def _default(field: Any) -> Any:
    """What counts where *field* is not said: of a draft, what the spec makes of it."""
    said = field.default
    if said is None:
        said = getattr(attrs.fields_dict(Spec).get(field.name), "default", None)
    return said if isinstance(said, str | int | float) else None


def _schema(kind: Any, schemas: dict[str, Any], *, asked: bool) -> dict[str, Any]:
    scalar = (_WRITTEN if asked else _ANSWERED).get(kind) or _SCALARS.get(kind)
    if scalar is not None:
        return dict(scalar)
    origin, args = get_origin(kind), get_args(kind)
    if origin in {Union, UnionType}:
        (inner,) = [arg for arg in args if arg is not NoneType]
        return _or_null(_schema(inner, schemas, asked=asked))
    if origin is tuple:
        return {"type": "array", "items": _schema(args[0], schemas, asked=asked)}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _schema(args[1], schemas, asked=asked)}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return {"type": "string", "enum": [member.value for member in kind]}
    return _register(kind, schemas)


def _or_null(schema: dict[str, Any]) -> dict[str, Any]:
    """*schema*, and null: keywords of one type say nothing of another, an enumeration does."""
    if "type" not in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    made = {**schema, "type": [*types, "null"]}
    if "enum" in schema:
        made["enum"] = [*schema["enum"], None]
    return made
