"""The calls of tasks, of their output and of their changes, described. Pure."""

from typing import Any

from mill.api.openapi.calls import (
    IDEMPOTENCY_KEY,
    LAST_EVENT_ID,
    TASK,
    call,
    events_of,
    json_of,
    lines_of,
    list_of,
    maybe_partial,
    query,
)
from mill.api.openapi.schemas import TEXT, ref
from mill.model import Scope, Status

_SPAWNED = {
    "type": "object",
    "properties": {
        **dict.fromkeys(["id", "address", "node"], TEXT),
        "status": {**TEXT, "enum": [str(s) for s in Status]},
    },
    "required": ["id", "address", "node", "status"],
}
_LOCATION = {"Location": {"required": True, "schema": TEXT, "description": "the task's record"}}

_END = {"type": "object", "maxProperties": 0, "description": "the event `end`: nothing comes any more"}
_LOST = {
    "type": "object",
    "properties": {"error": ref("Problem")},
    "required": ["error"],
    "description": "the last line, or the event `error`: the node that has the task was lost in the midst of it",
}


def paths() -> dict[str, Any]:
    listing = query("status", "label", "node", "template", "all", "limit", "after", "usage")
    page = json_of(maybe_partial(list_of("Record", "tasks", next={"type": ["string", "null"]})))
    return {
        "/v1/tasks/spawn": {"post": _spawn()},
        "/v1/tasks": {
            "get": call("listTasks", "tasks", "The tasks, newest first", {200: page}, 503, parameters=listing,
                        about="Those that have not ended, unless `all` or a `status` says otherwise."),
        },
        "/v1/tasks/{id}": {"get": _get(), "delete": _kill()},
        "/v1/tasks/{id}/logs": {"get": _logs("readTaskLogs")},
        "/v1/logs/{id}": {"get": _logs("readLogs")},
        "/v1/tasks/{id}/stats": {
            "get": call("getTaskStats", "tasks", "What a running task uses", {200: json_of(ref("Stats"))}, 404, 409, 503,
                        parameters=[TASK]),
        },
        "/v1/events": {"get": _events()},
    }  # fmt: skip


def _spawn() -> dict[str, Any]:
    made = call(
        "spawnTask", "tasks", "Start a task", {201: json_of(maybe_partial(_SPAWNED))}, 409, 413, 502, 503, 504, 507,
        about="Answers at once: the task is `starting`, or `pulling` where its image is not there yet. What a template "
        "says in `task` is overridden by the other fields. With an Idempotency-Key that is known already nothing is started: "
        "the answer tells that task as it is now.",
        parameters=[IDEMPOTENCY_KEY], body=json_of(ref("SpawnRequest")), scope=Scope.SPAWN,
    )  # fmt: skip
    made["responses"]["201"]["headers"] = _LOCATION
    return made


def _get() -> dict[str, Any]:
    return call(
        "getTask", "tasks", "One task", {200: json_of(maybe_partial(ref("Record")))}, 404, 503,
        about="With `wait` the answer is held back until the task is so far, or `timeout` is over: it then says how the "
        "task is all the same.",
        parameters=[TASK, *query("wait", "timeout")],
    )  # fmt: skip


def _kill() -> dict[str, Any]:
    record = json_of(maybe_partial(ref("Record")))
    return call(
        "killTask", "tasks", "End a task: 202 while it is ending, 200 when it has ended", {200: record, 202: record},
        404, 503, 507,
        about="`signal` instead of the task's stop signal, then SIGKILL after `grace`.",
        parameters=[TASK, *query("grace", "signal")], scope=Scope.SPAWN,
    )  # fmt: skip


def _logs(name: str) -> dict[str, Any]:
    line = lines_of({"anyOf": [ref("LogLine"), _LOST]})
    kinds = {
        "text/plain": {"schema": TEXT},
        "application/x-ndjson": line,
        "text/event-stream": events_of(ref("LogLine"), _LOST, _END),
    }
    asked = query("follow", "tail", "since", "until", "stream", "cursor", "timestamps")
    return call(
        name, "tasks", "A task's output", {200: kinds}, 404, 503,
        about="By the Accept header: the bytes as they are, or an object a line, or server-sent events whose ids are "
        "cursors. A follow with `tail` says first, with an empty text, at which cursor it begins.",
        parameters=[TASK, *asked, LAST_EVENT_ID],
    )  # fmt: skip


def _events() -> dict[str, Any]:
    items = ref("TaskEvent"), ref("EventGap")
    return call(
        "watchEvents", "events", "Every change of a task's state", {200: {"text/event-stream": events_of(*items)}},
        about="From now on or from behind an id (`after`, Last-Event-ID), without an end. Events are `task`, or `gap` where "
        "changes are no longer kept.",
        parameters=[*query("task", "template", "label", "status", "after"), LAST_EVENT_ID],
    )  # fmt: skip
