"""The API's document against a real node: every call driven from its examples, and thousands that schemathesis makes up.

``MILL_LONG=1``: each constraint of the document broken by itself, and many more examples (some 3,000 requests).
"""

import json
import os
import re
from collections.abc import Iterator
from typing import Any

import httpx
import jsonschema_rs
import pytest

from mill.client import Client
from tests import fuzzing
from tests.fuzzing import IMAGE, Found, fuzz
from tests.node import MakeNode, Node
from tests.scenarios.acts import end_of, running

LONG = bool(os.environ.get("MILL_LONG"))
EXAMPLES = 60 if LONG else 12
PARAMS = {
    "/v1/images/load": {"name": "example.com/driven:1"},
    "/v1/tasks": {"after": "", "label": ""},
}
"""Where the same name of a parameter means something else than in the other calls."""
ORDER = ("post", "put", "get", "delete")
"""What is made is there to be got, and to be removed at the end."""


def example(parameter: dict[str, Any]) -> Any:
    """What the document gives for it, or None."""
    said = parameter.get("example", *parameter["schema"].get("examples", ())[:1] or [None])
    return said[0] if isinstance(said, list) else said


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for method in ORDER:
        for path, calls in document["paths"].items():
            if method in calls:
                yield method.upper(), path, calls[method]


def request_of(
    document: dict[str, Any], path: str, call: dict[str, Any], known: dict[str, Any]
) -> dict[str, Any]:
    """As its examples write it, with what is *known* of this node instead where there is something."""
    values = {
        (one["in"], one["name"]): known.get(one["name"], example(one)) for one in call.get("parameters", ())
    }
    made: dict[str, Any] = {
        "url": re.sub(r"{(\w+)}", lambda match: str(values["path", match[1]]), path),
        "params": {
            name: value for (where, name), value in values.items() if where == "query" and value is not None
        },
    }
    for kind, media in call.get("requestBody", {"content": {}})["content"].items():
        if kind == "application/json":
            name = media["schema"]["$ref"].rpartition("/")[2]
            made["json"] = document["components"]["schemas"][name]["examples"][0]
        else:
            made["content"] = known["archive"]
    return made


def items_of(
    kind: str, media: dict[str, Any], answer: httpx.Response
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Each value of the answer with the schema it must fit; of a stream, the first ones."""
    if kind == "application/json":
        answer.read()
        yield answer.json(), media["schema"]
    elif kind == "application/x-ndjson":
        for line in answer.iter_lines():
            yield json.loads(line), media["x-item-schema"]
    elif kind == "text/event-stream":
        data = (line for line in answer.iter_lines() if line.startswith("data: "))
        yield json.loads(next(data)[6:]), media["schema"]["properties"]["data"]["contentSchema"]
    else:
        answer.read()
        yield answer.text, media["schema"]


async def test_every_call_answers_its_examples_as_the_document_says(client: Client, node: Node) -> None:
    document = node.api("GET", "/v1/openapi.json").json()
    task_id = await running(client, "sh", "-c", "echo hello; exec sleep 100")
    known = {
        "id": task_id,
        "node": node.name,
        "ref": "example.com/driven:1",
        "name": "driven",
        "after": "0-0",
        "until": None,
        "archive": (node.home / "busybox.tar").read_bytes(),
    }
    token = node.api("POST", "/v1/tokens", json={"scope": "read"}).json()["id"]
    driven = 0
    for method, path, call in operations(document):
        if f"{method} {path}" in OF_A_CLUSTER:
            continue
        meant = {**known, "id": token} if path.startswith("/v1/tokens/") else known
        said = request_of(document, path, call, meant)
        said["url"] = node.address + said["url"]
        said["params"] = {
            name: value for name, value in {**said["params"], **PARAMS.get(path, {})}.items() if value != ""
        }
        success = {status: one for status, one in call["responses"].items() if status.startswith("2")}
        kinds = {kind for one in success.values() for kind in one.get("content", {"": None})}
        for kind in sorted(kinds):
            headers = {"Authorization": f"Bearer {node.token}", "Accept": kind}
            with httpx.stream(method, headers=headers, timeout=20, **said) as answer:
                assert str(answer.status_code) in success, (method, path, answer.read())
                if kind:
                    assert answer.headers["content-type"].partition(";")[0] == kind
                    media = success[str(answer.status_code)]["content"][kind]
                    for value, schema in items_of(kind, media, answer):
                        whole = {**schema, "components": document["components"]}
                        jsonschema_rs.Draft202012Validator(whole, validate_formats=True).validate(value)
                driven += 1
    assert driven > 25
    for record in await client.list_tasks():
        await client.kill(record.id, grace=0)
        await end_of(client, record.id)


def test_what_schemathesis_makes_up_is_answered_as_the_document_says(make_node: MakeNode) -> None:
    node = make_node(name="fuzzed")
    node.api(
        "POST", "/v1/images/load", params={"name": IMAGE}, content=(node.home / "busybox.tar").read_bytes()
    )
    node.api("DELETE", "/v1/images/busybox")
    found = fuzz(node, with_token=True, examples=EXAMPLES, coverage=LONG)
    report(found)
    assert found.wrong == {}
    assert {status for _, status in found.answers} <= {200, 201, 202, 204, 400, 401, 404, 405, 409, 413}
    assert {label for label, status in found.answers if status < 300} >= {
        f"{method} {path}" for method, path, _ in operations(node.api("GET", "/v1/openapi.json").json())
    } - UNKNOWN_TO_IT - OF_A_CLUSTER
    assert sum(found.cases.values()) >= (2_000 if LONG else 150)
    assert {record["spec"]["image"] for record in node.records()} <= {fuzzing.IMAGE, fuzzing.ABSENT}


OF_A_CLUSTER = {"DELETE /v1/nodes/{node}", "GET /v1/join-command"}
"""A node that is alone has nobody to forget, and nobody joins it."""
UNKNOWN_TO_IT = {"DELETE /v1/images/{ref}", "GET /v1/tasks/{id}/stats"}
"""What it removes is never there, and no task of a second is asked for its figures in time."""


def test_without_a_token_schemathesis_learns_nothing(node: Node) -> None:
    before = node.records()
    found = fuzz(node, with_token=False, examples=EXAMPLES // 4, coverage=LONG)
    report(found)
    assert found.wrong == {}
    answers = {status for label, status in found.answers if label != "GET /healthz"}
    assert 401 in answers
    assert answers <= {401, 400}  # headers that are none are refused before anybody asks who sent them
    assert node.records() == before


def report(found: Found) -> None:
    statuses = {
        status: sum(n for (_, s), n in found.answers.items() if s == status)
        for _, status in sorted(found.answers)
    }
    print(f"{sum(found.cases.values())} requests {dict(found.cases)}, answers {statuses}")


@pytest.mark.parametrize(
    "body", ['{"image": "busybox"}', '{"image": "registry.example.com/x:1", "pull": "never"}']
)
def test_the_watch_over_schemathesis_lets_no_other_registry_be_named(body: str) -> None:
    assert fuzzing._outside(body) is not None
    assert fuzzing._outside(json.dumps({"image": IMAGE})) is None
