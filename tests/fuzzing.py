"""Schemathesis over the API's document, on a real node: many requests, right and wrong ones, none of which leaves this machine.

What it makes up is bent before it is sent (`_bend`): images lie in a registry of loopback where nobody listens, so that what is
not on the node cannot be fetched; tasks are small and short; waits end at once; and of what JSON Schema cannot say
(that ``1K`` is too little memory, that a host's path needs the node's leave) a right value takes the place.
Called by `scenarios.test_schema`.
"""

import io
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import attrs
import jsonschema_rs
import pytest
import requests
import schemathesis
import urllib3
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import events, from_schema
from schemathesis.hooks import GLOBAL_HOOK_DISPATCHER

from mill.checks import MOST_STRING_BYTES
from mill.containerd import reference
from mill.units import parse_duration
from tests.node import Node

IMAGE = "localhost:1/fuzz/busybox:latest"
ABSENT = "localhost:1/fuzz/absent:latest"
LOADED = "localhost:1/fuzz/loaded:latest"
FINE = {
    "image": IMAGE, "cpu": 0.01, "memory": "16M", "timeout": 1, "pull_timeout": 1, "grace": 0, "stop_signal": "TERM",
    "network": "none",
}  # fmt: skip
BIND = {
    "type": "object",
    "required": ["source"],
    "properties": {"type": {"enum": ["bind"]}, "source": {"type": "string"}},
}
PUBLISH = {"type": ["array", "null"], "items": {"type": "object"}}
OVERLAPPING = ["POST /v1/tasks/spawn", "POST /v1/images/load", "POST /v1/images/pull"]
"""Their paths are also those of a task or an image with that name: more methods are allowed there than each of them has."""
SEED = 20260102


@attrs.define
class Found:
    """What a run saw: requests by phase, answers by operation and status, and what was wrong with which."""

    cases: Counter[str] = attrs.field(factory=Counter)
    answers: Counter[tuple[str, int]] = attrs.field(factory=Counter)
    wrong: dict[str, str] = attrs.field(factory=dict)


def fuzz(node: Node, *, with_token: bool, examples: int, coverage: bool) -> Found:
    """So many *examples* of each operation, right and wrong ones; with *coverage* also each constraint broken by itself."""
    archive = (node.home / "busybox.tar").read_bytes()
    config = SchemathesisConfig.from_dict(_settings(examples, coverage=coverage))
    config.projects.default.update(
        base_url=node.address,
        headers={"Authorization": f"Bearer {node.token}"} if with_token else {},
        request_timeout=20,
    )
    schema = schemathesis.openapi.from_dict(
        _lighter(node.api("GET", "/v1/openapi.json").json()), config=config
    )

    @schemathesis.hook
    def before_call(context: Any, case: Any, kwargs: Any) -> None:  # noqa: ARG001 -- schemathesis looks at the names
        _bend(case, archive)

    found = Found()
    try:
        with _watch():
            for event in from_schema(schema).execute():
                _take(event, found)
    finally:
        GLOBAL_HOOK_DISPATCHER.unregister(before_call)
    return found


def _lighter(document: Any) -> Any:
    """Without the kernel's limit for one string: to make up what is longer takes a second a time."""
    if isinstance(document, dict):
        return {
            key: _lighter(value)
            for key, value in document.items()
            if (key, value) != ("maxLength", MOST_STRING_BYTES)
        }
    return [_lighter(one) for one in document] if isinstance(document, list) else document


def _settings(examples: int, *, coverage: bool) -> dict[str, Any]:
    return {
        "seed": SEED,
        "phases": {
            "stateful": {"enabled": False},
            "coverage": {"enabled": coverage, "generate-duplicate-query-parameters": True},
        },
        "generation": {
            "max-examples": examples,
            "no-shrink": True,
            "deterministic": True,
            "database": "none",
        },
        "max-stream-events": 1,
        "continue-on-failure": True,
        "operations": [
            {"include-name": OVERLAPPING, "checks": {"allow_header_conformance": {"enabled": False}}}
        ],
    }


def _take(event: Any, found: Found) -> None:
    if isinstance(event, events.ScenarioFinished):
        record = event.recorder
        found.cases[str(event.phase)] += len(record.interactions)
        for key, interaction in record.interactions.items():
            if interaction.response is not None:
                found.answers[record.label, interaction.response.status_code] += 1
            for check in record.checks.get(key, ()):
                if check.failure_info is not None:
                    failure = check.failure_info.failure
                    found.wrong.setdefault(
                        f"{record.label}: {check.name}: {failure.title}: {failure.message[:160]}",
                        check.failure_info.code_sample[:600]
                        + " -> "
                        + str(interaction.response and interaction.response.content[:300]),
                    )
    elif isinstance(event, events.NonFatalError):
        found.wrong[f"{event.label}: {event.info.title}"] = str(event.value)[:1000]
    elif isinstance(event, events.FatalError):
        raise event.exception


def _bend(case: Any, archive: bytes) -> None:
    right = case.meta is not None and case.meta.generation.mode == GenerationMode.POSITIVE
    query = case.query if isinstance(case.query, dict) else {}
    if _is_duration(query.get("timeout")):
        query["timeout"] = 0.01
    if right:
        query.pop("after", None)
        query.update({name: said for name, said in (("signal", "TERM"), ("grace", 0)) if name in query})
    if right and case.operation.label == "POST /v1/tokens" and isinstance(case.body, dict):
        case.body.update({name: 60 for name in ("expires",) if case.body.get(name) is not None})
    if case.operation.label == "DELETE /v1/images/{ref}":
        ref = str(case.path_parameters.get("ref"))
        case.path_parameters["ref"] = ABSENT if right or "fuzz" in ref else ref
    elif case.operation.label == "POST /v1/images/load":
        if "name" in query and (right or _is_reference(query["name"])):
            query["name"] = LOADED
        case.body = archive if right else case.body
    elif isinstance(case.body, dict):
        case.body = _bent(case.body, case.operation.schema.raw_schema["components"]["schemas"])
        if case.operation.label == "POST /v1/tasks/spawn":
            case.body.setdefault("network", "none")  # what was made up shall talk to nobody


def _bent(body: dict[str, Any], schemas: Any) -> dict[str, Any]:
    """Whatever the document calls right, small and harmless; what it calls wrong as it is."""
    made = dict(body)
    for name, fine in FINE.items():
        if isinstance(made.get(name), str | int | float) and _fits(
            made[name], schemas["SpawnRequest"]["properties"][name]
        ):
            made[name] = fine
    if isinstance(body.get("image"), str) and _is_reference(made["image"]):
        made["image"] = ABSENT if len(body["image"]) % 16 == 9 else IMAGE  # two seconds each
    if "pull" in made or set(body) == {"image"}:
        made["pull"] = "missing" if made.get("pull", "always") == "always" else made["pull"]
    if isinstance(made.get("task"), str):
        del made["task"]
        made.setdefault("image", IMAGE)
    if isinstance(made.get("mounts"), list):
        made["mounts"] = [mount for mount in made["mounts"] if not _fits(mount, BIND)]
    if "publish" in made and _fits(made["publish"], PUBLISH):
        del made["publish"]  # only a network of its own can have it, and a port only once
    return made


def _fits(value: object, schema: dict[str, Any]) -> bool:
    return jsonschema_rs.is_valid(schema, value)


def _is_reference(value: object) -> bool:
    try:
        reference.parse(str(value))
    except ValueError:
        return False
    return True


def _is_duration(value: object) -> bool:
    try:
        parse_duration(value)
    except ValueError:
        return False
    return True


@contextmanager
def _watch() -> Iterator[None]:
    """Over every request of this process: one that would have the node look for an image elsewhere is never sent."""
    send = requests.Session.send

    def watched(
        session: requests.Session, request: requests.PreparedRequest, **kwargs: Any
    ) -> requests.Response:
        outside = _outside(request.body)
        assert outside is None, outside
        answer = send(session, request, **kwargs)
        if str(request.path_url).startswith("/v1/events") and answer.status_code == HTTPStatus.OK:
            _cut(answer)
        return answer

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requests.Session, "send", watched)
        yield


def _cut(answer: requests.Response) -> None:
    """What an answer without an end has told so far, as the whole of it."""
    said = answer.raw.read1(65536)
    answer.raw.close()
    answer.raw = urllib3.HTTPResponse(io.BytesIO(said), headers=answer.raw.headers, preload_content=False)


def _outside(body: Any) -> str | None:
    """The image of *body* that is none of loopback's."""
    try:
        image = json.loads(body)["image"]
        host = reference.parse(image).host
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return None if reference.is_loopback(host) else image
