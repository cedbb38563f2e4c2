"""The node's own calls: status, liveness, and the schema, which must say what the app does."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from schemathesis.specs.openapi.definitions import OPENAPI_31

from mill.api.app import make_app
from mill.api.openapi import calls as words
from mill.api.openapi import document
from mill.convert import from_json, to_json
from mill.errors import FieldError
from mill.logs.frames import Frames, LogChunk
from mill.model import SpawnRequest, Spec
from tests.api.conftest import problem
from tests.api.fakes import ENDED, NOW, RUNNING, STATS, STATUS, VIEW, FakeNode


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
    assert (await anyone.delete("/healthz")).status_code == 405


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
        (re.sub(r"<(?:\w+:)?(?:\w+_)?(\w+)>", r"{\1}", rule.rule), method)
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
    for path, _, call in operations():
        assert (call["security"] == []) == (path == "/healthz")
        assert {"400", *([] if path == "/healthz" else ["401"])} <= set(call["responses"])
        assert any(status.startswith("2") for status in call["responses"])


SAMPLES = {
    "tail": "1", "limit": "1", "follow": "0", "all": "1", "usage": "1", "timestamps": "1", "stream": "stdout", "cursor": "0-0",
    "since": "1m", "until": "1m", "status": "running", "label": "a=b", "wait": "running", "timeout": "0", "grace": "1s", "signal": "TERM",
    "node": "node-1",
}  # fmt: skip


async def test_every_query_parameter_is_understood_and_no_other_is(
    api: httpx.AsyncClient, fake: FakeNode
) -> None:
    fake.tasks.add(RUNNING)
    fake.tasks.figures[RUNNING.id] = STATS
    for path, method, call in operations():
        url = path.replace("{id}", RUNNING.id).replace("{name}", "one")
        body = {"POST": b'{"image": "busybox"}', "PUT": b"{}"}.get(method)
        for parameter in call.get("parameters", ()):
            if parameter["in"] == "query" and parameter["name"] != "after":
                name = parameter["name"]
                params = {name: SAMPLES.get(name, "x")}
                async with api.stream(method, url, params=params, content=body) as begun:  # some never end
                    assert begun.is_success, (url, name)
        if path != "/healthz":
            answer = await api.request(method, url, params={"unheard-of": "1"}, content=body)
            assert problem(answer)[0] in {400, 404}, (method, path)
            known = answer.json()["detail"].rpartition("known are: ")[2].split(", ")
            documented = {one["name"] for one in call.get("parameters", ()) if one["in"] == "query"}
            assert documented == set(known) - {"none"}, (method, path)


def fits(value: Any, schema: dict[str, Any]) -> bool:
    return jsonschema_rs.Draft202012Validator({**schema, "components": DOCUMENT["components"]}).is_valid(
        value
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [("Record", RUNNING), ("Record", ENDED), ("Stats", STATS), ("NodeStatus", STATUS), ("NodeView", VIEW)],
)
def test_what_is_answered_fits_its_schema(name: str, value: object) -> None:
    schema = DOCUMENT["components"]["schemas"][name]
    said = to_json(value)
    assert fits(said, schema)
    assert fits({**said, "of_a_newer_mill": 1}, schema)
    assert not fits({key: said[key] for key in list(said)[1:]}, schema)


def test_nullable_fields_are_those_that_may_be_none() -> None:
    fields = DOCUMENT["components"]["schemas"]["Record"]["properties"]
    nullable = {name for name, schema in fields.items() if fits(None, schema)}
    assert nullable == {
        "template", "ip", "reason", "detail", "message", "exit_code", "signal", "peak_memory", "pull", "usage",
            "keyed",
        "unreachable",
    }  # fmt: skip


def test_every_query_parameter_that_is_described_is_used() -> None:
    used = {
        one["name"]
        for _, _, call in operations()
        for one in call.get("parameters", ())
        if one["in"] == "query"
    }
    assert used == {*words._QUERIES, "name"}


def test_every_call_has_a_name_of_its_own_a_tag_and_a_summary() -> None:
    names = [call["operationId"] for _, _, call in operations()]
    assert len(set(names)) == len(names)
    assert {tag for _, _, call in operations() for tag in call["tags"]} == {
        tag["name"] for tag in DOCUMENT["tags"]
    }
    assert all(call["summary"] for _, _, call in operations())


def test_every_failure_is_declared_as_a_problem_with_the_headers_that_it_has() -> None:
    for path, method, call in operations():
        assert "default" not in call["responses"]
        for status, said in call["responses"].items():
            if status >= "4" and path != "/healthz":
                assert list(said["content"]) == ["application/problem+json"], (method, path)
                assert ("Retry-After" in said.get("headers", {})) == (status == "503")


def test_the_document_keeps_the_rules_of_openapi() -> None:
    rules = jsonschema_rs.Draft202012Validator(OPENAPI_31)
    assert [str(error) for error in rules.iter_errors(DOCUMENT)] == []
    assert not rules.is_valid({**DOCUMENT, "paths": {"/x": {"get": {"responses": []}}}})


def test_every_example_fits_its_schema() -> None:
    schemas = DOCUMENT["components"]["schemas"]
    found = [(example, schema) for schema in schemas.values() for example in schema.get("examples", ())]
    found += [
        (example, one["schema"])
        for _, _, call in operations()
        for one in call.get("parameters", ())
        for example in one["schema"].get("examples", [one["example"]] if "example" in one else [])
    ]
    assert len(found) > 20
    for example, schema in found:
        assert fits(example, schema), example


# -- what requests may hold -----------------------------------------------------------------------------------------

RIGHT: dict[str, list[Any]] = {
    "image": ["busybox", "a.b:5/c/d:e"],
    "name": ["a", "x" * 58, "a-1"],
    "command": [["sh"], ["sh", ""]],
    "args": [[], ["", "é"]],
    "env": [{}, {"A": "", "b c": "d=e\n"}],
    "cpu": [0.01, 1, 64.5],
    "memory": [6 * 2**20, "6M", "1.5 GiB", "512mb", 2**63 - 1],
    "timeout": [0.001, "1h30m", "2d", "250ms", "90", "1e3", 366 * 86400],
    "pull_timeout": ["1s"],
    "port": [1, 65535],
    "labels": [{}, {"a" * 253: "b" * 4096}],
    "user": ["root", "0", "1:2", "a:b"],
    "workdir": ["/", "/a\nb"],
    "network": ["host", "none"],
    "stop_signal": ["TERM", "sigkill", "9", "SIGRTMIN+3", "rtmax-1", "USR1", " int "],
    "grace": [0, "0", 86400],
    "pull": ["missing", "always", "never"],
    "publish": [[], [{"port": 8080}], [{"port": 80, "host": 8000}]],
    "mounts": [
        [],
        [{"target": "/x", "source": "/y"}],
        [{"target": "//a/..b", "type": "tmpfs", "size": "1M"}],
    ],
    "read_only": [True],
    "init": [False],
}
WRONG: dict[str, list[Any]] = {
    "image": ["", " ", 5, "a" * 513],
    "name": ["", "A", "x" * 59, "-a", "a-", "a_b", "a\n"],
    "command": [[], [""], ["a\0"], "sh", [1]],
    "args": ["a", ["a\0"], [None]],
    "env": [{"": "a"}, {"A=B": "c"}, {"A": 5}, {"A": None}, ["A=b"], {"A": "\0"}],
    "cpu": [0, -1, "many", True],
    "memory": [-5, 0, 2**63, "2 Gigs", "-1M", 1.5, True, "", "1P"],
    "timeout": [0, -1, "soon", "", "1h30", "-1s", 366 * 86400 + 1],
    "pull_timeout": ["1 s", []],
    "port": [0, 65536, 1.5, "80"],
    "labels": [{"": "a"}, {"a=b": "c"}, {"a" * 254: "b"}, {"a": "b" * 4097}],
    "user": ["", "a b", ":", "a:", "a:b:c"],
    "workdir": ["", "relative", "/\0"],
    "network": ["bridge", ""],
    "stop_signal": ["", "-9", "TERM!", 9],
    "grace": [-1, 86401, [1]],
    "pull": ["sometimes", True],
    "publish": [[{"port": 0}], [{"host": 80}], [{"port": 80, "host": 65536}], "8080", [8080]],
    "mounts": [[{"target": "/"}], [{"target": "/a", "type": "bind"}], [{"target": "/a/../b", "type": "tmpfs"}], [{"type": "tmpfs"}],
               [{"target": "/a", "source": "/b", "size": 1}], [{"target": "/a", "source": "/b", "type": "tmpfs"}], {}, [{"target": "/a", "type": "tmpfs", "x": 1}]],
    "read_only": ["yes", 1],
    "init": [0],
}  # fmt: skip


def accepted(fields: dict[str, Any]) -> bool:
    try:
        from_json(SpawnRequest, fields, strict=True)
    except FieldError:
        return False
    return True


@pytest.mark.parametrize(
    "name", sorted(set(DOCUMENT["components"]["schemas"]["SpawnRequest"]["properties"]) - {"task"})
)
def test_the_schema_of_a_field_and_its_check_agree(name: str) -> None:
    schema = {"$ref": "#/components/schemas/SpawnRequest"}
    for value in [*RIGHT[name], None]:
        body = {"image": "busybox", "task": "one", name: value}
        assert accepted(body), value
        assert fits(body, schema), value
    for value in WRONG[name]:
        body = {"image": "busybox", "task": "one", name: value}
        assert not accepted(body), value
        assert not fits(body, schema), value


def test_a_spawn_without_image_and_template_or_with_an_unknown_field_does_not_fit() -> None:
    schema = {"$ref": "#/components/schemas/SpawnRequest"}
    assert fits({"task": "one"}, schema)
    wrong: list[Any] = [{}, {"task": None}, {"image": None}, {"image": "busybox", "memroy": "1G"}, []]
    for body in wrong:
        assert not fits(body, schema), body


def test_the_defaults_are_those_of_a_spec() -> None:
    fields = DOCUMENT["components"]["schemas"]["SpawnRequest"]["properties"]
    spec = to_json(Spec("busybox", "one"))
    said = {name: schema["default"] for name, schema in fields.items() if "default" in schema}
    assert said == {name: spec[name] for name in said}
    assert said.keys() >= {
        "cpu",
        "memory",
        "timeout",
        "pull_timeout",
        "port",
        "grace",
        "network",
        "pull",
        "init",
    }


@given(st.text(max_size=12) | st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_no_schema_is_stricter_than_its_check(value: object) -> None:
    schema = {"$ref": "#/components/schemas/SpawnRequest"}
    for name in RIGHT:
        body = {"image": "busybox", name: value}
        assert not accepted(body) or fits(body, schema) or value != str(value).strip(), (name, value)


def test_a_line_of_a_log_fits_its_schema() -> None:
    frames = Frames()
    chunks = [
        LogChunk("stdout", NOW, b"a\nb", "3-0"),
        LogChunk("stderr", NOW, b"\xff", "3-1"),
        LogChunk("stdout", NOW, b"", "9-1", 6),
    ]
    said = [frame.as_object() for chunk in chunks for frame in frames.receive(chunk)]
    assert len(said) == 4
    assert all(fits(one, {"$ref": "#/components/schemas/LogLine"}) for one in said)
