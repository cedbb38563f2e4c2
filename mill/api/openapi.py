"""``/v1/openapi.json``: the API described (OpenAPI 3.1), its schemas made of the same attrs classes that parse requests. Pure."""

from collections.abc import Mapping
from enum import Enum
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import attrs

from mill.config import PAGE_LIMIT, PAGE_SIZE
from mill.model import (
    Draft,
    Duration,
    Image,
    NodeStatus,
    PullRequest,
    Record,
    Size,
    SpawnRequest,
    Stats,
    Status,
    Template,
    Time,
)

_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "field": {"type": "string"},
    },
}
_SCALARS: Mapping[Any, dict[str, Any]] = {
    str: {"type": "string"},
    int: {"type": "integer"},
    float: {"type": "number"},
    bool: {"type": "boolean"},
    object: {},
    Time: {"type": "string", "format": "date-time"},
    Size: {"type": ["integer", "string"], "description": "bytes, or a size such as 512M"},
    Duration: {"type": ["number", "string"], "description": "seconds, or a duration such as 1h30m"},
}
_ID = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
_NAME = {**_ID, "name": "name"}
_REF = {**_ID, "name": "ref", "description": "an image's name, with or without its slashes quoted"}
_TEXT: dict[str, Any] = {"type": "string"}
_FLAG: dict[str, Any] = {"type": "boolean"}
_MOMENT = {**_TEXT, "description": "RFC 3339, unix seconds, or a duration back from now such as 10m"}
_QUERIES: Mapping[str, dict[str, Any]] = {
    "after": {**_TEXT, "description": "what an earlier page gave as next, or the id of an event"},
    "all": _FLAG,
    "cursor": _TEXT,
    "follow": _FLAG,
    "grace": _SCALARS[Duration],
    "label": {"type": "array", "items": {**_TEXT, "description": "KEY=VALUE"}},
    "limit": {"type": "integer", "minimum": 1, "maximum": PAGE_LIMIT, "default": PAGE_SIZE},
    "name": _TEXT,
    "node": _TEXT,
    "signal": {"type": ["integer", "string"], "description": "a number, or a name such as TERM"},
    "since": _MOMENT,
    "status": {"type": "array", "items": {**_TEXT, "enum": [str(status) for status in Status]}},
    "stream": {**_TEXT, "enum": ["stdout", "stderr"]},
    "task": _TEXT,
    "tail": {"type": "integer", "minimum": 0},
    "template": _TEXT,
    "timeout": _SCALARS[Duration],
    "timestamps": _FLAG,
    "until": _MOMENT,
    "usage": _FLAG,
    "wait": {**_TEXT, "enum": ["running", "terminal"]},
}
"""Every query parameter; one name means one thing in all calls. A list is given by repeating its name."""


def document(version: str) -> dict[str, Any]:
    """The whole document; *version* is milld's."""
    schemas: dict[str, Any] = {"Problem": _PROBLEM}
    for cls in (SpawnRequest, PullRequest, Draft, Record, Stats, Image, Template, NodeStatus):
        _register(cls, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Mill", "version": version, "license": {"name": "Apache-2.0"}},
        "paths": _paths(),
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def _register(cls: type, schemas: dict[str, Any]) -> dict[str, str]:
    """A reference to *cls*' schema, made if missing."""
    if cls.__name__ not in schemas:
        schemas[cls.__name__] = {}
        hints = get_type_hints(cls)
        fields = [field for field in attrs.fields(cls) if field.name != "extra"]
        schemas[cls.__name__] = {
            "type": "object",
            "description": (cls.__doc__ or "").strip(),
            "properties": {field.name: _schema(hints[field.name], schemas) for field in fields},
            "required": [field.name for field in fields if field.default is attrs.NOTHING],
        }
    return {"$ref": f"#/components/schemas/{cls.__name__}"}


def _schema(kind: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    if kind in _SCALARS:
        return dict(_SCALARS[kind])
    origin, args = get_origin(kind), get_args(kind)
    if origin in {Union, UnionType}:
        inner = [_schema(arg, schemas) for arg in args if arg is not NoneType]
        return {"anyOf": [*inner, {"type": "null"}]}
    if origin is tuple:
        return {"type": "array", "items": _schema(args[0], schemas)}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _schema(args[1], schemas)}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return {"type": "string", "enum": [member.value for member in kind]}
    return _register(kind, schemas)


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _list_of(name: str, key: str) -> dict[str, Any]:
    return {"type": "object", "properties": {key: {"type": "array", "items": _ref(name)}}, "required": [key]}


def _query(*names: str) -> list[dict[str, Any]]:
    return [{"name": name, "in": "query", "required": False, "schema": _QUERIES[name]} for name in names]


def _call(
    summary: str,
    answers: Mapping[int, dict[str, Any] | None],
    *,
    parameters: list[dict[str, Any]] | None = None,
    body: dict[str, Any] | None = None,
) -> dict[str, Any]:
    responses: dict[str, Any] = {
        str(status): {"description": summary, **({"content": content} if content else {})}
        for status, content in answers.items()
    }
    problem = {"application/problem+json": {"schema": _ref("Problem")}}
    responses["default"] = {"description": "a problem (RFC 9457)", "content": problem}
    call: dict[str, Any] = {"summary": summary, "responses": responses}
    if parameters:
        call["parameters"] = parameters
    if body:
        call["requestBody"] = {"required": True, "content": body}
    return call


def _paths() -> dict[str, Any]:
    return {**_task_paths(), **_store_paths(), **_node_paths()}


def _task_paths() -> dict[str, Any]:
    said = ["id", "address", "node", "status"]
    spawned = {"type": "object", "properties": dict.fromkeys(said, _TEXT), "required": said}
    page = _list_of("Record", "tasks")
    page["properties"]["next"] = {"type": ["string", "null"]}
    page["required"].append("next")
    kinds = ("text/plain", "application/x-ndjson", "text/event-stream")
    logs = _call(
        "A task's output",
        {200: {kind: {"schema": _TEXT} for kind in kinds}},
        parameters=[_ID, *_query("follow", "tail", "since", "until", "stream", "cursor", "timestamps")],
    )
    listing = _query("status", "label", "node", "template", "all", "limit", "after", "usage")
    record = _json(_ref("Record"))
    kill = _call(
        "End a task: 202 while it is ending, 200 when it has ended",
        {200: record, 202: record},
        parameters=[_ID, *_query("grace", "signal")],
    )
    return {
        "/v1/tasks/spawn": {
            "post": _call("Start a task", {201: _json(spawned)}, body=_json(_ref("SpawnRequest")))
        },
        "/v1/tasks": {"get": _call("The tasks, newest first", {200: _json(page)}, parameters=listing)},
        "/v1/tasks/{id}": {
            "get": _call(
                "One task; `wait` long-polls", {200: record}, parameters=[_ID, *_query("wait", "timeout")]
            ),
            "delete": kill,
        },
        "/v1/tasks/{id}/logs": {"get": logs},
        "/v1/logs/{id}": {"get": logs},
        "/v1/tasks/{id}/stats": {
            "get": _call("What a running task uses", {200: _json(_ref("Stats"))}, parameters=[_ID])
        },
    }


def _store_paths() -> dict[str, Any]:
    template = _json(_ref("Template"))
    archive = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
    images = {200: _json(_list_of("Image", "images"))}
    line = {
        name: _ref(cls)
        for name, cls in (("progress", "PullProgress"), ("image", "Image"), ("error", "Problem"))
    }
    told = {"type": "object", "properties": line, "minProperties": 1, "maxProperties": 1}
    pulled = {kind: {"schema": told} for kind in ("application/x-ndjson", "text/event-stream")}
    return {
        "/v1/images": {"get": _call("The images of this node", images)},
        "/v1/images/load": {
            "post": _call("Load an archive", images, parameters=_query("name"), body=archive)
        },
        "/v1/images/pull": {
            "post": _call(
                "Pull an image: a line of progress whenever there is some, then one of the image or the error",
                {200: pulled},
                body=_json(_ref("PullRequest")),
            )
        },
        "/v1/images/{ref}": {
            "delete": _call("Remove an image that no task uses", {204: None}, parameters=[_REF])
        },
        "/v1/templates": {"get": _call("The templates", {200: _json(_list_of("Template", "templates"))})},
        "/v1/templates/{name}": {
            "get": _call("One template", {200: template}, parameters=[_NAME]),
            "put": _call(
                "Make or change a template", {200: template}, parameters=[_NAME], body=_json(_ref("Draft"))
            ),
            "delete": _call("Remove a template", {204: None}, parameters=[_NAME]),
        },
    }


def _node_paths() -> dict[str, Any]:
    anything = _json({"type": "object"})
    health = _json({"type": "object", "properties": {"status": _TEXT}, "required": ["status"]})
    exposition = {kind: {"schema": _TEXT} for kind in ("text/plain", "application/openmetrics-text")}
    events = _call(
        "Every change of a task's state, from now on or from an id (`after`, Last-Event-ID)",
        {200: {"text/event-stream": {"schema": _TEXT}}},
        parameters=_query("task", "template", "label", "status", "after"),
    )
    return {
        "/v1/events": {"get": events},
        "/v1/metrics": {"get": _call("Metrics of the node for Prometheus, by Accept", {200: exposition})},
        "/v1/status": {"get": _call("The node", {200: _json(_ref("NodeStatus"))})},
        "/v1/openapi.json": {"get": _call("This document", {200: anything})},
        "/healthz": {"get": {**_call("Liveness", {200: health, 503: health}), "security": []}},
    }
