"""The node's own calls: status, liveness, and the schema, which must say what the app does."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from mill.api import openapi
from mill.api.app import OPEN_PATHS, make_app
from mill.api.openapi import document
from mill.convert import to_json
from tests.api.conftest import problem
from tests.api.fakes import ENDED, RUNNING, STATS, STATUS, FakeNode


async def test_the_status_is_the_nodes(api: httpx.AsyncClient) -> None:
    said = (await api.get("/v1/status")).json()
    assert said == to_json(STATUS)
    assert said["tasks"] == {"running": 1}
    assert problem(await api.get("/v1/status?verbose=1")) == (400, "bad-field", "verbose")


async def test_liveness_needs_no_token_and_says_when_containerd_is_away(
    anyone: httpx.AsyncClient, fake: FakeNode
) -> None:
    assert (await anyone.get("/healthz")).json() == {"status": "ok"}
    fake.healthy = False
    answer = await anyone.get("/healthz")
    assert (answer.status_code, answer.json()) == (503, {"status": "containerd does not answer"})


async def test_the_schema_is_served(api: httpx.AsyncClient) -> None:
    said = (await api.get("/v1/openapi.json")).json()
    assert said == document("9.8.7")
    assert said["info"]["version"] == "9.8.7"
    assert problem(await api.get("/v1/openapi.json?x=1"))[0] == 400


# -- the document ---------------------------------------------------------------------------------------------------

DOCUMENT = document("1")


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, calls in DOCUMENT["paths"].items():
        for method, call in calls.items():
            yield path, method.upper(), call


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every object anywhere in *value*."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes(inner)


def test_every_route_is_in_the_document_and_nothing_else(fake: FakeNode) -> None:
    served = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule).replace("{task_id}", "{id}"), method)
        for rule in make_app(fake.core).url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert served == {(path, method) for path, method, _ in operations()}


def test_every_reference_leads_somewhere() -> None:
    found = [node["$ref"] for node in nodes(DOCUMENT) if "$ref" in node]
    assert len(found) > 20
    for ref in found:
        where: Any = DOCUMENT
        for part in ref.removeprefix("#/").split("/"):
            where = where[part]
        assert where["type"] == "object"


def test_every_schema_is_used() -> None:
    used = {node["$ref"].rpartition("/")[2] for node in nodes(DOCUMENT) if "$ref" in node}
    assert used == set(DOCUMENT["components"]["schemas"])


def test_every_parameter_of_a_path_is_declared_and_required() -> None:
    for path, method, call in operations():
        declared = [one["name"] for one in call.get("parameters", ()) if one["in"] == "path"]
        assert sorted(declared) == sorted(re.findall(r"{(\w+)}", path)), (method, path)
        assert all(one["required"] for one in call.get("parameters", ()) if one["in"] == "path")
        names = [one["name"] for one in call.get("parameters", ())]
        assert len(names) == len(set(names))


def test_every_call_but_the_liveness_names_the_token_and_the_problem() -> None:
    assert DOCUMENT["security"] == [{"token": []}]
    for path, _, call in operations():
        assert ("security" in call) == (path in OPEN_PATHS)
        assert "application/problem+json" in call["responses"]["default"]["content"]
        assert any(status.startswith("2") for status in call["responses"])


SAMPLES = {
    "tail": "1", "limit": "1", "follow": "0", "all": "1", "usage": "1", "timestamps": "1", "stream": "stdout", "cursor": "0-0",
    "since": "1m", "until": "1m", "status": "running", "label": "a=b", "wait": "running", "timeout": "0", "grace": "1s", "signal": "TERM",
}  # fmt: skip


async def test_every_query_parameter_is_understood_and_no_other_is(
    api: httpx.AsyncClient, fake: FakeNode
) -> None:
    fake.tasks.add(RUNNING)
    fake.tasks.figures[RUNNING.id] = STATS
    for path, method, call in operations():
        url = path.replace("{id}", RUNNING.id).replace("{name}", "one")
        body = {"POST": b"{}", "PUT": b"{}"}.get(method)
        for parameter in call.get("parameters", ()):
            if parameter["in"] == "query" and parameter["name"] != "after":
                name = parameter["name"]
                params = {name: SAMPLES.get(name, "x")}
                async with api.stream(method, url, params=params, content=body) as begun:  # some never end
                    assert begun.is_success, (url, name)
        if path not in OPEN_PATHS:
            answer = await api.request(method, url, params={"unheard-of": "1"}, content=body)
            assert problem(answer)[0] in {400, 404}, (method, path)
            known = answer.json()["detail"].rpartition("known are: ")[2].split(", ")
            documented = {one["name"] for one in call.get("parameters", ()) if one["in"] == "query"}
            assert documented == set(known) - {"none"}, (method, path)


def fits(value: Any, schema: dict[str, Any]) -> bool:
    """As much of JSON Schema as the document uses."""
    if "$ref" in schema:
        schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    if "anyOf" in schema:
        return any(fits(value, one) for one in schema["anyOf"])
    kinds = schema.get("type")
    names = kinds if isinstance(kinds, list) else [kinds] if kinds else []
    types: dict[str, Any] = {
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "array": list,
        "object": dict,
        "null": type(None),
    }
    if names and not any(
        isinstance(value, types[name]) and not (name != "boolean" and isinstance(value, bool))
        for name in names
    ):
        return False
    if "enum" in schema and value not in schema["enum"]:
        return False
    if isinstance(value, list):
        return all(fits(one, schema.get("items", {})) for one in value)
    if isinstance(value, dict):
        known = schema.get("properties", {})
        other = schema.get("additionalProperties", not known)
        return set(schema.get("required", ())) <= set(value) and all(
            fits(one, known[key]) if key in known else other if isinstance(other, bool) else fits(one, other)
            for key, one in value.items()
        )
    return True


@pytest.mark.parametrize(
    ("name", "value"), [("Record", RUNNING), ("Record", ENDED), ("Stats", STATS), ("NodeStatus", STATUS)]
)
def test_what_is_answered_fits_its_schema(name: str, value: object) -> None:
    schema = DOCUMENT["components"]["schemas"][name]
    said = to_json(value)
    assert fits(said, schema)
    assert not fits({**said, "unheard_of": 1}, schema)
    assert not fits({key: said[key] for key in list(said)[1:]}, schema)


def test_nullable_fields_are_those_that_may_be_none() -> None:
    fields = DOCUMENT["components"]["schemas"]["Record"]["properties"]
    nullable = {name for name, schema in fields.items() if {"type": "null"} in schema.get("anyOf", ())}
    assert nullable == {
        "template", "ip", "reason", "detail", "message", "exit_code", "signal", "peak_memory", "pull", "usage",
    }  # fmt: skip


def test_one_query_parameter_means_one_thing() -> None:
    used = {
        one["name"]
        for _, _, call in operations()
        for one in call.get("parameters", ())
        if one["in"] == "query"
    }
    assert used == set(openapi._QUERIES)
