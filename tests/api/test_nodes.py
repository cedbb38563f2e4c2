"""``/v1/nodes``: the list, and draining by id or name."""

import httpx

from mill.convert import to_json
from tests.api.conftest import problem
from tests.api.fakes import VIEW


async def test_the_nodes_are_listed(api: httpx.AsyncClient) -> None:
    assert (await api.get("/v1/nodes")).json() == {"nodes": [to_json(VIEW)]}


async def test_a_node_is_drained_and_undrained_by_name_or_id(api: httpx.AsyncClient) -> None:
    assert (await api.post("/v1/nodes/node-1/drain")).json() == {**to_json(VIEW), "state": "draining"}
    assert (await api.get("/v1/nodes")).json()["nodes"][0]["state"] == "draining"
    assert (await api.post(f"/v1/nodes/{VIEW.id}/undrain")).json()["state"] == "alive"


async def test_an_unknown_node_is_not_found(api: httpx.AsyncClient) -> None:
    for verb in ("drain", "undrain"):
        assert problem(await api.post(f"/v1/nodes/node-9/{verb}"))[0] == 404
    assert problem(await api.get("/v1/nodes/node-1/drain"))[0] == 405


async def test_the_secret_is_changed_and_its_key_is_told(api: httpx.AsyncClient) -> None:
    assert (await api.post("/v1/rotate-secret")).json() == {"key_id": "0123abcd", "nodes": ["node-1"]}
    assert problem(await api.get("/v1/rotate-secret"))[0] == 405
    assert problem(await api.post("/v1/rotate-secret?now=1"))[0] == 400


async def test_a_node_is_forgotten_and_the_line_to_join_by_is_told(api: httpx.AsyncClient) -> None:
    assert (await api.delete("/v1/nodes/node-1")).json()["state"] == "left"
    assert problem(await api.delete("/v1/nodes/node-9"))[0] == 404
    said = (await api.get("/v1/join-command")).json()
    assert said == {
        "command": "milld --join 192.0.2.1:4401",
        "secret_file": "/var/lib/mill/cluster.secret",
    }
