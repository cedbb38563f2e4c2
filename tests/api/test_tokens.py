"""Tokens over the API: made, listed, revoked; and how far each scope reaches, for every route there is."""

import json

import httpx
import pytest

from mill.api import scopes
from mill.api.app import make_app
from mill.api.openapi import document
from mill.errors import NoSpace
from mill.model import Scope
from tests.api.conftest import problem
from tests.api.fakes import RUNNING, FakeNode

READ, SPAWN, ADMIN = Scope.READ, Scope.SPAWN, Scope.ADMIN
NEEDED = {
    ("POST", "/v1/tasks/spawn"): SPAWN, ("DELETE", "/v1/tasks/{id}"): SPAWN, ("POST", "/v1/images/pull"): SPAWN,
    ("POST", "/v1/images/load"): ADMIN, ("DELETE", "/v1/images/{ref}"): ADMIN,
    ("PUT", "/v1/templates/{name}"): ADMIN, ("DELETE", "/v1/templates/{name}"): ADMIN,
    ("POST", "/v1/nodes/{node}/drain"): ADMIN, ("POST", "/v1/nodes/{node}/undrain"): ADMIN,
    ("DELETE", "/v1/nodes/{node}"): ADMIN, ("GET", "/v1/join-command"): ADMIN, ("POST", "/v1/rotate-secret"): ADMIN,
    ("GET", "/v1/tokens"): ADMIN, ("POST", "/v1/tokens"): ADMIN, ("DELETE", "/v1/tokens/{id}"): ADMIN,
}  # fmt: skip
"""What does not only look. All else is `read`."""
CALLS = [
    (method.upper(), path, call)
    for path, methods in document("1")["paths"].items()
    for method, call in methods.items()
    if path != "/healthz"
]


async def make(api: httpx.AsyncClient, **fields: object) -> dict[str, str]:
    answer = await api.post("/v1/tokens", json=fields)
    assert answer.status_code == 201, answer.text
    made: dict[str, str] = answer.json()
    return made


@pytest.fixture
async def holders(api: httpx.AsyncClient) -> dict[Scope, dict[str, str]]:
    """For each scope the header that a holder sends."""
    return {
        scope: {"Authorization": f"Bearer {(await make(api, scope=scope, name=f'of-{scope}'))['token']}"}
        for scope in Scope
    }


# -- made, listed, revoked ------------------------------------------------------------------------------------------


async def test_one_is_made_and_told_once(api: httpx.AsyncClient, anyone: httpx.AsyncClient) -> None:
    made = await make(api, scope="spawn", name="ci", expires="30d")
    assert (made["scope"], made["name"]) == ("spawn", "ci")
    answer = await anyone.get("/v1/tasks", headers={"Authorization": f"Bearer {made['token']}"})
    assert answer.status_code == 200
    listed = (await api.get("/v1/tokens")).json()["tokens"]
    assert [one["id"] for one in listed] == ["admin", made["id"]]
    assert {key: value for key, value in made.items() if key != "token"} == listed[1]
    assert made["token"] not in json.dumps(listed)


async def test_a_revoked_one_is_refused_at_once(api: httpx.AsyncClient, anyone: httpx.AsyncClient) -> None:
    made = await make(api, scope="read")
    headers = {"Authorization": f"Bearer {made['token']}"}
    assert (await anyone.get("/v1/tasks", headers=headers)).status_code == 200
    assert (await api.delete(f"/v1/tokens/{made['id']}")).status_code == 204
    assert problem(await anyone.get("/v1/tasks", headers=headers)) == (401, "unauthorized", None)
    assert problem(await api.delete(f"/v1/tokens/{made['id']}")) == (404, "not-found", None)
    assert problem(await api.delete("/v1/tokens/admin")) == (409, "conflict", None)


@pytest.mark.parametrize(
    ("body", "field"),
    [({}, "scope"), ({"scope": "root"}, "scope"), ({"scope": None}, "scope"), ({"scope": "read", "expires": "soon"}, "expires"),
     ({"scope": "read", "expires": 0}, "expires"), ({"scope": "read", "expires": "400d"}, "expires"),
     ({"scope": "read", "name": "No Label"}, "name"), ({"scope": "read", "hash": "x"}, "hash"), ({"scope": ["read"]}, "scope")],
)  # fmt: skip
async def test_a_bad_field_is_named(api: httpx.AsyncClient, fake: FakeNode, body: object, field: str) -> None:
    assert problem(await api.post("/v1/tokens", json=body)) == (400, "bad-field", field)
    assert fake.kept_tokens.kept == {}


async def test_a_full_disk_is_told(api: httpx.AsyncClient, fake: FakeNode) -> None:
    fake.kept_tokens.fault = NoSpace("the disk is full")
    assert problem(await api.post("/v1/tokens", json={"scope": "read"})) == (507, "no-space", None)


async def test_who_killed_a_task_is_the_token_s_name(
    anyone: httpx.AsyncClient, holders: dict[Scope, dict[str, str]], fake: FakeNode
) -> None:
    fake.tasks.add(RUNNING)
    await anyone.delete(f"/v1/tasks/{RUNNING.id}", headers=holders[SPAWN])
    assert fake.tasks.asked == [(RUNNING.id, "of-spawn", None, None)]


# -- how far each reaches -------------------------------------------------------------------------------------------


def test_what_needs_more_than_looking_is_just_this() -> None:
    found = {(method, path): call["security"] for method, path, call in CALLS}
    assert set(NEEDED) <= set(found)
    assert found == {call: [{"token": [str(NEEDED.get(call, READ))]}] for call in found}


@pytest.mark.parametrize(("method", "path", "call"), CALLS, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("scope", Scope)
async def test_a_route_lets_in_whom_the_document_says(
    anyone: httpx.AsyncClient,
    holders: dict[Scope, dict[str, str]],
    method: str,
    path: str,
    call: dict[str, object],
    scope: Scope,
) -> None:
    needed = NEEDED.get((method, path), READ)
    url = path.replace("{id}", "none").replace("{name}", "one").replace("{ref}", "x").replace("{node}", "x")
    async with anyone.stream(
        method,
        url,
        headers=holders[scope],
        params={"unheard-of": "1"},
        content=b"{}" if method != "GET" else None,
    ) as answer:
        if scope.covers(needed):
            assert answer.status_code == 400  # it came so far that its query was read
        else:
            assert "403" in call["responses"]  # type: ignore[operator]  # of a document
            await answer.aread()
            assert problem(answer) == (403, "forbidden", None)
            assert f"--scope {needed}" in answer.json()["detail"]


async def test_with_the_least_scope_an_unknown_path_is_just_unknown(
    anyone: httpx.AsyncClient, holders: dict[Scope, dict[str, str]]
) -> None:
    assert problem(await anyone.get("/v1/nothing", headers=holders[READ])) == (404, "not-found", None)
    assert problem(await anyone.post("/v1/tasks", headers=holders[READ])) == (405, "method-not-allowed", None)


def test_a_route_that_declares_no_scope_keeps_the_application_from_being_made(fake: FakeNode) -> None:
    app = make_app(fake.core)
    scopes.check_declared(app)

    @app.get("/v1/forgotten")
    async def forgotten() -> str:
        return ""

    with pytest.raises(TypeError, match="forgotten declares no scope"):
        scopes.check_declared(app)
