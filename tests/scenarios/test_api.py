"""The API as programs meet it: who may, what is where, listings, templates, room on the node."""

import httpx
import pytest

from mill.client import Client
from tests.images import busybox_image, large_layer, write_oci_archive
from tests.node import MakeNode, Node
from tests.scenarios.acts import end_of, problem_of, run, running, said, spawn


def test_without_a_token_only_the_liveness_is_told(node: Node) -> None:
    assert httpx.get(f"{node.address}/healthz").json() == {"status": "ok"}
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": node.token}):
        answer = httpx.get(f"{node.address}/v1/status", headers=headers)
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"
        problem_of(answer.text)


def test_the_token_is_for_its_owner_only(node: Node) -> None:
    assert (node.data_dir / "admin.token").stat().st_mode & 0o777 == 0o600
    assert len(node.token) >= 32


def test_the_schema_names_every_call(node: Node) -> None:
    schema = node.api("GET", "/v1/openapi.json").json()
    assert schema["openapi"].startswith("3.")
    paths = schema["paths"]
    for path in (
        "/v1/tasks/spawn",
        "/v1/tasks",
        "/v1/tasks/{id}",
        "/v1/templates/{name}",
        "/v1/images/load",
        "/v1/status",
    ):
        assert path in paths
    assert {"get", "delete"} <= set(paths["/v1/tasks/{id}"])


@pytest.mark.parametrize(("method", "path", "status"), [
    ("GET", "/v1/tasks/nope-1234", 404), ("DELETE", "/v1/tasks/nope-1234", 404), ("GET", "/v1/tasks/nope-1234/stats", 404),
    ("GET", "/v1/nothing", 404), ("POST", "/v1/status", 405), ("GET", "/v1/templates/nope", 404), ("DELETE", "/v1/templates/nope", 404),
])  # fmt: skip
def test_what_is_not_there_is_a_problem_too(node: Node, method: str, path: str, status: int) -> None:
    answer = node.api(method, path)
    assert answer.status_code == status
    assert problem_of(answer.text)["status"] == status


async def test_listing_filters_and_pages(client: Client, node: Node) -> None:
    ids = [await spawn(client, "true", name="listed", labels={"group": "g1", "n": str(n)}) for n in range(5)]
    for task_id in ids:
        await end_of(client, task_id)
    live = await running(client, "sleep", "100", name="listed", labels={"group": "g1"})
    found = await client.list_tasks(label="group=g1", all=True, page_size=2)
    assert [record.id for record in found] == [live, *reversed(ids)]
    assert [record.id for record in await client.list_tasks(label="group=g1")] == [live]
    assert [r.id for r in await client.list_tasks(label=["group=g1", "n=3"], all=True)] == [ids[3]]
    assert [r.id for r in await client.list_tasks(label="group=g1", status="running")] == [live]
    assert await client.list_tasks(label="group=g1", node="another") == []
    page = node.api("GET", "/v1/tasks?label=group=g1&all=true&limit=4").json()
    assert len(page["tasks"]) == 4
    assert page["next"]
    await client.kill(live, grace=0)
    await end_of(client, live)


async def test_a_wait_that_is_over_answers_with_the_record_as_it_stands(client: Client, node: Node) -> None:
    task_id = await running(client, "sleep", "100")
    answer = node.api("GET", f"/v1/tasks/{task_id}?wait=terminal&timeout=0.2").json()
    assert answer["status"] == "running"
    await client.kill(task_id, grace=0)
    await end_of(client, task_id)
    assert node.api("GET", f"/v1/tasks/{task_id}/stats").status_code == 409


def test_templates_of_the_file_are_read_only_and_a_request_wins_over_them(make_node: MakeNode) -> None:
    config = '[task.greeter]\nimage = "busybox"\nargs = ["sh", "-c", "echo $GREETING"]\nmemory = "32M"\n[task.greeter.env]\nGREETING = "hello"\n'
    node = make_node(name="templates", config=config)
    assert node.mill("run", "greeter").stdout == "hello\n"
    assert node.mill("run", "greeter", "--env", "GREETING=bye").stdout == "bye\n"
    assert node.api("GET", "/v1/templates/greeter").json()["source"] == "config"
    for method in ("PUT", "DELETE"):
        assert node.api(method, "/v1/templates/greeter", json={"image": "busybox"}).status_code == 409
    assert node.api("PUT", "/v1/templates/mine", json={"image": "busybox", "cpu": 1}).status_code == 200
    assert {t["name"] for t in node.api("GET", "/v1/templates").json()["templates"]} == {"greeter", "mine"}
    node.restart()
    assert node.api("GET", "/v1/templates/mine").json()["draft"]["cpu"] == 1
    assert node.api("DELETE", "/v1/templates/mine").is_success
    assert node.api("GET", "/v1/templates/mine").status_code == 404


async def test_a_full_node_says_what_is_free_and_too_large_a_task_never_fits(make_node: MakeNode) -> None:
    node = make_node(name="small", options={"cpu": "1", "memory": "128M"})
    async with Client(node.address, node.token) as client:
        first = await spawn(client, "sleep", "100", cpu=0.6, memory="64M")
        full = node.api("POST", "/v1/tasks/spawn", json={"image": "busybox", "cpu": 0.6, "memory": "32M"})
        assert full.status_code == 503
        assert int(full.headers["retry-after"]) >= 1
        assert "0.4" in problem_of(full.text)["detail"]
        for fields, field in (
            ({"cpu": 1.5, "memory": "32M"}, "cpu"),
            ({"cpu": 0.1, "memory": "129M"}, "memory"),
        ):
            never = node.api("POST", "/v1/tasks/spawn", json={"image": "busybox", **fields})
            assert (never.status_code, problem_of(never.text)["field"]) == (400, field)
        status = await client.status()
        assert (status.reserved.cpu, status.reserved.memory) == (0.6, 64 * 1024**2)
        await client.kill(first, grace=0)
        await end_of(client, first)
        assert (await run(client, "true", cpu=1, memory="128M")).exit_code == 0
        assert len(node.records()) == 2


async def test_an_archive_of_100_mb_loads_and_runs(client: Client, node: Node) -> None:
    image = busybox_image(Cmd=["wc", "-c", "/large"])
    archive = write_oci_archive(
        node.home / "large.tar",
        {"example.com/large:1": type(image)([*image.layers, large_layer(100 * 1024**2)], image.config)},
    )
    node.mill("images", "load", str(archive))
    archive.unlink()
    assert await said(client, "wc -c </large", image="example.com/large:1") == f"{100 * 1024**2}\n"
