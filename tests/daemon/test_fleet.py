"""Any node answers for all: calls about another node's task, by two real APIs and mutual TLS between them."""

import json
from uuid import UUID

import attrs
import httpx
import pytest
import trio

from mill.api.forward import CALLER, SCOPE
from mill.cluster.values import MemberState
from mill.logs.frames import LogChunk, LogRequest
from mill.model import Duration, Reason, Status, Usage
from tests.api.conftest import problem, until
from tests.api.fakes import BUSYBOX, NOW, STATS, VIEW
from tests.daemon.fleets import Two, task

CHUNKS = [LogChunk("stdout", NOW, b"one\ntwo\n", "8-0")]


# -- what is asked reaches the owner ----------------------------------------------------------------------------------


async def test_a_kill_is_the_owners_and_names_who_asked(two: Two, api: httpx.AsyncClient) -> None:
    answer = await api.delete("/v1/tasks/busy-0001?grace=5&signal=INT")
    assert answer.status_code == 202, answer.text
    assert answer.json()["node"] == "node-2"
    assert two.there.fake.tasks.asked == [("busy-0001", "admin", 2, Duration(5.0))]
    assert not two.here.fake.tasks.asked


async def test_the_record_the_figures_and_a_wait_come_from_the_owner(
    two: Two, api: httpx.AsyncClient
) -> None:
    two.there.own(task("busy-0001", message="fresh"))
    assert (await api.get("/v1/tasks/busy-0001")).json()["message"] == "fresh"
    two.there.fake.tasks.figures["busy-0001"] = STATS
    assert (await api.get("/v1/tasks/busy-0001/stats")).json()["memory"] == STATS.memory
    await api.get("/v1/tasks/busy-0001?wait=terminal&timeout=7")
    assert two.there.fake.tasks.asked == [("busy-0001", "terminal", 7.0)]


async def test_problems_pass_as_they_are(two: Two, api: httpx.AsyncClient) -> None:
    assert problem(await api.get("/v1/tasks/busy-0001/stats")) == (409, "conflict", None)
    assert problem(await api.get("/v1/tasks/busy-0001/logs?tail=x")) == (400, "bad-field", "tail")
    del two.there.fake.tasks.records["busy-0001"]
    assert problem(await api.get("/v1/logs/busy-0001")) == (404, "not-found", None)


async def test_what_a_token_does_not_reach_it_does_not_reach_elsewhere(
    two: Two, api: httpx.AsyncClient
) -> None:
    made = await api.post("/v1/tokens", json={"scope": "read"})
    async with two.here.client(made.json()["token"]) as reader:
        assert (await reader.get("/v1/tasks/busy-0001")).status_code == 200
        assert (await reader.delete("/v1/tasks/busy-0001")).status_code == 403
    assert not two.there.fake.tasks.asked


async def test_headers_of_a_stranger_change_nobodys_name(two: Two, api: httpx.AsyncClient) -> None:
    await api.delete("/v1/tasks/busy-0001", headers={CALLER: "root", SCOPE: "admin"})
    assert [asked[1] for asked in two.there.fake.tasks.asked] == ["admin"]  # type: ignore[index]


async def test_a_task_that_has_ended_is_answered_here(two: Two, api: httpx.AsyncClient) -> None:
    ended = two.there.own(task("done-0001", status=Status.STOPPED, reason=Reason.EXIT))
    two.here.known.add(ended)
    two.here.fake.tasks.add(ended)
    two.members.set(two.there.id, MemberState.DOWN)
    for query in ("", "?wait=terminal", "?wait=running"):
        answer = await api.get(f"/v1/tasks/done-0001{query}")
        assert (answer.status_code, answer.json()["status"]) == (200, "stopped")
        assert "partial" not in answer.json()


# -- streams --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/tasks/busy-0001/logs", "/v1/logs/busy-0001"])
@pytest.mark.parametrize("accept", ["text/plain", "application/x-ndjson", "text/event-stream"])
async def test_a_log_is_the_same_here_as_there(
    two: Two, api: httpx.AsyncClient, path: str, accept: str
) -> None:
    two.there.fake.logs.chunks = CHUNKS
    headers = {"Accept": accept, "Last-Event-ID": "4-0"}
    answer = await api.get(f"{path}?tail=5", headers=headers)
    assert answer.headers["content-type"] == f"{accept}; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    cursor = "4-0" if accept == "text/event-stream" else None
    assert two.there.fake.logs.asked == [LogRequest(tail=5, cursor=cursor)]
    two.here.fake.logs.chunks, two.here.known.rows = CHUNKS, {}
    del two.there.fake.tasks.records["busy-0001"]
    two.here.fake.tasks.add(task("busy-0001"))
    assert (await api.get(f"{path}?tail=5", headers=headers)).content == answer.content


async def test_a_follow_is_told_each_piece_at_once_and_who_leaves_ends_it_there(
    two: Two, api: httpx.AsyncClient
) -> None:
    two.there.fake.logs.chunks = CHUNKS
    async with api.stream("GET", "/v1/tasks/busy-0001/logs?follow=true") as answer:
        with trio.fail_after(5):
            async for piece in answer.aiter_raw():
                if piece:
                    assert piece == b"one\ntwo\n"
                    break
        assert two.there.fake.logs.open == 1
    with trio.fail_after(5):
        await two.there.fake.logs.closed.wait()


@pytest.mark.parametrize("accept", ["application/x-ndjson", "text/event-stream"])
async def test_an_owner_that_is_lost_in_the_midst_is_told_by_the_last_line(
    two: Two, api: httpx.AsyncClient, accept: str
) -> None:
    two.there.fake.logs.chunks = CHUNKS
    async with api.stream("GET", "/v1/tasks/busy-0001/logs?follow", headers={"Accept": accept}) as answer:
        await until(lambda: two.there.fake.logs.open)
        two.there.peer.cancel()
        body = b"".join([piece async for piece in answer.aiter_raw()]).decode()
    last = body.rstrip("\n").splitlines()[-1].removeprefix("data: ")
    assert "one" in body
    assert (json.loads(last)["error"]["status"], json.loads(last)["error"]["title"]) == (503, "unavailable")
    assert "broke" in json.loads(last)["error"]["detail"]
    if accept == "text/event-stream":
        assert "event: error\n" in body
        assert "event: end" not in body


async def test_plain_text_whose_owner_is_lost_is_cut_off_and_not_ended(
    two: Two, api: httpx.AsyncClient
) -> None:
    two.there.fake.logs.chunks = CHUNKS
    async with api.stream("GET", "/v1/tasks/busy-0001/logs?follow") as answer:
        await until(lambda: two.there.fake.logs.open)
        two.there.peer.cancel()
        with pytest.raises(httpx.RemoteProtocolError):
            _ = [piece async for piece in answer.aiter_raw()]


# -- what others' tasks use -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["usage=true", "usage=true&all=true"])
async def test_what_tasks_of_other_nodes_use_is_listed_if_their_node_says_so(
    two: Two, api: httpx.AsyncClient, query: str
) -> None:
    used = two.there.own(task("busy-0001", usage=Usage(0.5, 1000)))
    two.here.fake.tasks.add(attrs.evolve(used, usage=None))  # as it has come here

    async def listed() -> object:
        return (await api.get(f"/v1/tasks?{query}")).json()["tasks"][0]["usage"]

    assert await listed() == {"cpu": 0.5, "memory": 1000}
    two.there.peer.cancel()
    assert await listed() is None
    assert (await api.get("/v1/tasks")).json()["tasks"][0]["usage"] is None


# -- a minority -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/v1/tasks", "/v1/tasks?all=true", "/v1/nodes", "/v1/tasks/mine-0001"])
async def test_without_a_majority_answers_say_so(two: Two, api: httpx.AsyncClient, path: str) -> None:
    mine = two.here.own(task("mine-0001"))
    two.here.known.add(mine)
    assert "partial" not in (await api.get(path)).json()
    two.members.partial = True
    assert (await api.get(path)).json()["partial"] is True


# -- images of another node -------------------------------------------------------------------------------------------


async def test_images_are_of_the_node_that_is_named(two: Two, api: httpx.AsyncClient) -> None:
    own, other = (
        two.here.fake.nodes.view,
        attrs.evolve(VIEW, id=str(UUID(two.there.id)), name="node-2", me=False),
    )
    two.here.fake.nodes.others = [other]
    there, here = two.there.fake.images, two.here.fake.images
    for name in (other.name, other.id):
        assert (await api.get(f"/v1/images?node={name}")).json()["images"][0]["ref"] == BUSYBOX.ref
        archive = b"oci" * 500_000
        loaded = await api.post(f"/v1/images/load?node={name}&name=x", content=archive)
        assert loaded.status_code == 200, loaded.text
        assert there.loaded.pop() == (archive, "x")
        assert (await api.delete(f"/v1/images/busybox?node={name}")).status_code == 204
    there.go_on.set()
    pulled = await api.post("/v1/images/pull?node=node-2", json={"image": "busybox"})
    assert json.loads(pulled.text.splitlines()[-1])["image"]["ref"] == BUSYBOX.ref
    assert not here.asked
    assert not here.loaded
    assert problem(await api.get("/v1/images?node=nobody")) == (404, "not-found", None)
    await api.delete(f"/v1/images/busybox?node={own.name}")
    assert here.asked == ["busybox"]
    empty = await api.post("/v1/images/load?node=node-2", content=b"")
    assert problem(empty) == (400, "bad-field", "archive")


# -- the port of the nodes ------------------------------------------------------------------------------------------


async def test_who_does_not_say_for_whom_is_not_let_in(two: Two) -> None:
    fleet = two.here.fake.fleet
    assert fleet is not None
    for headers, status in (
        ({}, 401),
        ({CALLER: "ann", SCOPE: "root"}, 401),
        ({CALLER: "ann", SCOPE: "read"}, 403),
    ):
        asked = fleet.open(two.there.id, "DELETE", "/v1/tasks/busy-0001", headers=headers, timeout_s=5)
        async with asked as answer:
            assert answer.status == status
    assert not two.there.fake.tasks.asked


async def test_the_other_node_passes_nothing_on(two: Two) -> None:
    """Two nodes that each take the other for the owner do not ask each other for ever."""
    lost = task("lost-0001", node="node-2", node_id=str(two.there.id))
    two.here.known.add(lost)
    two.there.fake.fleet = two.here.fake.fleet
    async with two.here.client() as api:
        with trio.fail_after(5):
            assert problem(await api.get("/v1/tasks/lost-0001")) == (404, "not-found", None)
