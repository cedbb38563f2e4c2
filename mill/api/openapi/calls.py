"""The words in which the calls are described: parameters, bodies, answers and problems. Pure; every noun's module speaks them.

One name of a query parameter means one thing in all calls, but for those whose calls say otherwise.
"""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from mill.api.openapi.schemas import DURATION, INSTANT, TEXT, ref
from mill.checks import (
    GRACE_KEYWORDS,
    KEY_HEADER,
    LABEL_KEYWORDS,
    MOST_REQUEST_KEY_LENGTH,
    REQUEST_KEY_PATTERN,
    SIGNAL_KEYWORDS,
)
from mill.config import PAGE_LIMIT, PAGE_SIZE
from mill.logs.frames import CURSOR_PATTERN, MOST_LINES
from mill.logs.index import STREAMS
from mill.model import Scope, Status
from mill.units import DURATION_PATTERN

TRUE, FALSE = ("true", "True", "1", "yes", ""), ("false", "False", "0", "no")
"""How a flag of a query may be written; ``?follow`` alone is true."""
CONDITIONS = ("running", "terminal")
"""What a task can be waited for."""

_FLAG: Mapping[str, Any] = {
    "anyOf": [{"type": "boolean"}, {**TEXT, "enum": [*TRUE, *FALSE]}],
    "default": False,
}
_MOMENT: Mapping[str, Any] = {
    "anyOf": [INSTANT, {"type": "number"}, {**TEXT, "minLength": 1, "pattern": f"^{DURATION_PATTERN}$"}],
    "description": "RFC 3339, unix seconds, or a duration back from now such as 10m",
    "examples": ["10m"],
}
_QUERIES: Mapping[str, Mapping[str, Any]] = {
    "after": {**TEXT, "description": "where to go on: `next` of an earlier page, or the id of an event"},
    "all": {**_FLAG, "description": "those that have ended too"},
    "cursor": {
        **TEXT,
        "pattern": f"^{CURSOR_PATTERN}$",
        "description": "goes on behind a line",
        "examples": ["0-0"],
    },
    "follow": {**_FLAG, "description": "goes on until the task has ended"},
    "grace": {**DURATION, **GRACE_KEYWORDS, "examples": ["1s"]},
    "label": {
        "type": "array",
        "items": {**TEXT, "pattern": "^[^=]+=", "description": "KEY=VALUE"},
        "examples": [["a=b"]],
    },
    "limit": {
        "type": "integer",
        "minimum": 1,
        "maximum": PAGE_LIMIT,
        "default": PAGE_SIZE,
        "examples": [10],
    },
    "node": {**TEXT, "description": "a node's name"},
    "signal": {
        "type": ["integer", "string"],
        **SIGNAL_KEYWORDS,
        "description": "a number, or a name such as TERM",
        "examples": ["TERM"],
    },
    "since": _MOMENT,
    "status": {
        "type": "array",
        "items": {**TEXT, "enum": [str(status) for status in Status]},
        "examples": [["running"]],
    },
    "stream": {**TEXT, "enum": list(STREAMS)},
    "task": {**TEXT, "description": "a task's id"},
    "tail": {
        "type": "integer",
        "minimum": 0,
        "maximum": MOST_LINES,
        "description": "the last lines",
        "examples": [10],
    },
    "template": {**TEXT, "description": "a template's name"},
    "timeout": {**DURATION, "examples": [0]},
    "timestamps": {**_FLAG, "description": "each line of plain text begins with its time"},
    "until": _MOMENT,
    "usage": {**_FLAG, "description": "with what each task uses now"},
    "wait": {
        **TEXT,
        "enum": list(CONDITIONS),
        "description": "holds the answer back until then, or for `timeout`",
    },
}
"""Every query parameter that more than one call may take. A list is given by repeating its name."""

TASK: Mapping[str, Any] = {
    "name": "id", "in": "path", "required": True, "schema": TEXT, "example": "coop-agent-x7k2",
    "description": "a task's id",
}  # fmt: skip
TEMPLATE: Mapping[str, Any] = {
    **TASK,
    "name": "name",
    "example": "coop-agent",
    "description": "a template's name",
}
NODE: Mapping[str, Any] = {
    **TASK,
    "name": "node",
    "example": "node-1",
    "description": "a node's id or its name",
}
TOKEN: Mapping[str, Any] = {
    **TASK,
    "example": "3f9a0c12b7de",
    "description": "a token's id",
}
NEW_TEMPLATE: Mapping[str, Any] = {**TEMPLATE, "schema": {**TEXT, "minLength": 1, **LABEL_KEYWORDS}}
LAST_EVENT_ID: Mapping[str, Any] = {
    "name": "Last-Event-ID", "in": "header", "required": False, "schema": TEXT,
    "description": "as a browser sends it that was cut off; it wins over the query",
}  # fmt: skip

_PARTIAL: Mapping[str, Any] = {
    "type": "boolean",
    "description": "the node was without the majority of its cluster, or a task's own node does not answer, or an end is so new that too "
    "few nodes have heard of it: others may know more",
}
IDEMPOTENCY_KEY: Mapping[str, Any] = {
    "name": KEY_HEADER, "in": "header", "required": False,
    "schema": {**TEXT, "minLength": 1, "maxLength": MOST_REQUEST_KEY_LENGTH, "pattern": f"^{REQUEST_KEY_PATTERN}$"},
    "description": "makes the call safe to repeat: the same key with the same request is the same task for 24 hours",
}  # fmt: skip

_RETRY_AFTER = {
    "Retry-After": {"required": True, "schema": {"type": "integer", "minimum": 1}, "description": "seconds"}
}
_CHALLENGE = {"WWW-Authenticate": {"required": True, "schema": TEXT}}
_PROBLEMS: Mapping[int, str] = {
    400: "what was sent is not right; `field` says where",
    401: "no token, one that this node does not know, or one that has expired",
    403: "the token's scope does not reach so far",
    404: "there is no such thing",
    409: "not in the state it is in, or the key of another request",
    413: "the body is too large",
    431: "the headers are too long",
    502: "a registry or containerd refused",
    503: "not now: no room, or a part of the node does not answer; try again",
    504: "containerd did not answer in time; whether it was done is not known",
    507: "a disk is full",
}
_PROBLEM_HEADERS = {401: _CHALLENGE, 503: _RETRY_AFTER}

Content = Mapping[str, Mapping[str, Any]]


def json_of(schema: Mapping[str, Any]) -> Content:
    return {"application/json": {"schema": schema}}


def list_of(name: str, key: str, **more: Mapping[str, Any]) -> dict[str, Any]:
    """An object with a list of *name* under *key*, and *more* fields."""
    properties = {key: {"type": "array", "items": ref(name)}, **more}
    return {"type": "object", "properties": properties, "required": list(properties)}


def maybe_partial(schema: Mapping[str, Any]) -> dict[str, Any]:
    """An answer that tells of other nodes; ``partial`` is left out where all is known."""
    return {"allOf": [schema, {"type": "object", "properties": {"partial": _PARTIAL}}]}


def lines_of(item: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a stream whose lines are JSON of *item*; OpenAPI 3.1 has no word of its own for it."""
    return {"schema": TEXT, "x-item-schema": item}


def events_of(*items: Mapping[str, Any]) -> dict[str, Any]:
    """The body of a stream of server-sent events with JSON of one of *items* as their data; the schema is of one event."""
    item = {"anyOf": [*items]} if len(items) > 1 else items[0]
    data = {**TEXT, "contentMediaType": "application/json", "contentSchema": item}
    event = {"type": "object", "properties": {"id": TEXT, "event": TEXT, "data": data}, "required": ["data"]}
    return {"schema": event}


def query(*names: str) -> list[Mapping[str, Any]]:
    return [query_parameter(name, _QUERIES[name]) for name in names]


def query_parameter(name: str, schema: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"name": name, "in": "query", "required": False, "schema": schema}


def call(
    name: str,
    tag: str,
    summary: str,
    answers: Mapping[int, Content | None],
    *problems: int,
    about: str = "",
    parameters: list[Mapping[str, Any]] | None = None,
    body: Content | None = None,
    scope: Scope | None = Scope.READ,
) -> dict[str, Any]:
    """One operation; *problems* are the statuses that it can fail with, beside those that all have.

    *scope* is what it needs of a token; None: it needs none.
    """
    responses: dict[str, Any] = {
        str(status): {
            "description": HTTPStatus(status).phrase.lower(),
            **({"content": content} if content else {}),
        }
        for status, content in answers.items()
    }
    always = {400, 431, *([] if scope is None else [401]), *([] if scope in {None, Scope.READ} else [403])}
    for status in sorted(always | {*problems}):
        responses[str(status)] = _problem(status)
    made: dict[str, Any] = {"operationId": name, "tags": [tag], "summary": summary, "responses": responses}
    if about:
        made["description"] = about
    if parameters:
        made["parameters"] = parameters
    if body:
        made["requestBody"] = {"required": True, "content": body}
    made["security"] = [] if scope is None else [{"token": [str(scope)]}]
    return made


def _problem(status: int) -> dict[str, Any]:
    made = {
        "description": _PROBLEMS[status],
        "content": {"application/problem+json": {"schema": ref("Problem")}},
    }
    return {**made, "headers": _PROBLEM_HEADERS[status]} if status in _PROBLEM_HEADERS else made
