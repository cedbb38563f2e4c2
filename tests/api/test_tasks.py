"""``/v1/tasks``: what a body or a query may say, what it becomes, and what is refused before anything is touched."""

import base64
import json
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import trio

from mill.api import request as request_module
from mill.api.tasks import _next, _position
from mill.config import API_BODY_BYTES, LONG_POLL_S
from mill.errors import Conflict, FieldError, NoCapacity
from mill.model import Draft, Duration, Network, Size, SpawnRequest, Status, Template
from mill.tasks.filter import Filter
from mill.tasks.keyed import sign
from tests.api.conftest import Served, problem
from tests.api.fakes import ENDED, NOW, RUNNING, STATS, TOKEN, FakeNode, record

SPAWN = "/v1/tasks/spawn"


async def test_a_spawn_hands_on_the_request_and_the_templates(api: httpx.AsyncClient, fake: FakeNode) -> None:
    fake.templates.kept["one"] = Template("one", Draft(image="busybox"))
    body = {
        "task": "one",
        "name": "mine",
        "memory": "2G",
        "timeout": "1h30m",
        "cpu": 1,
        "network": "none",
        "args": ["a", "b"],
    }
    answer = await api.post(SPAWN, json=body)
    assert answer.status_code == 201
    assert answer.json() == {
        "id": "mine-x7k2", "address": "mine-x7k2.mill:8080", "node": "node-1", "status": "pulling",
    }  # fmt: skip
    assert answer.headers["location"] == "/v1/tasks/mine-x7k2"
    wanted = SpawnRequest(
        task="one",
        name="mine",
        memory=Size(2 * 1024**3),
        timeout=Duration(5400),
        cpu=1.0,
        network=Network.NONE,
        args=("a", "b"),
    )
    assert fake.tasks.asked == [(wanted, {"one": Draft(image="busybox")})]


async def test_a_key_goes_along_signed(api: httpx.AsyncClient, fake: FakeNode) -> None:
    answer = await api.post(SPAWN, json={"image": "busybox"}, headers={"Idempotency-Key": "k1"})
    assert answer.status_code == 201
    wanted = SpawnRequest(image="busybox")
    assert fake.tasks.asked == [(wanted, {}, sign("k1", wanted))]


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "\x7f"])
async def test_what_is_no_key_is_refused_by_the_headers_name(
    api: httpx.AsyncClient, fake: FakeNode, key: str
) -> None:
    answer = await api.post(SPAWN, json={"image": "busybox"}, headers={"Idempotency-Key": key})
    assert problem(answer) == (400, "bad-field", "Idempotency-Key")
    assert not fake.tasks.asked


@pytest.mark.parametrize(("body", "field"), [
    ({"image": "busybox", "memroy": "1G"}, "memroy"),
    ({"image": 5}, "image"),
    ({"image": ""}, "image"),
    ({"image": "x", "cpu": "many"}, "cpu"),
    ({"image": "x", "cpu": True}, "cpu"),
    ({"image": "x", "cpu": 10**400}, "cpu"),
    ({"image": "x", "memory": "2 Gigs"}, "memory"),
    ({"image": "x", "memory": -1}, "memory"),
    ({"image": "x", "memory": 1.5}, "memory"),
    ({"image": "x", "timeout": "soon"}, "timeout"),
    ({"image": "x", "timeout": 0}, "timeout"),
    ({"image": "x", "grace": None, "pull_timeout": "1y"}, "pull_timeout"),
    ({"image": "x", "env": ["A=b"]}, "env"),
    ({"image": "x", "env": {"A=B": "c"}}, "env"),
    ({"image": "x", "env": {"A": 1}}, "env.A"),
    ({"image": "x", "env": {"A": "\0"}}, "env.A"),
    ({"image": "x", "env": {"A": "\ud800"}}, "env"),
    ({"image": "x", "name": "Not_A_Label"}, "name"),
    ({"image": "x", "port": 80.5}, "port"),
    ({"image": "x", "args": "echo"}, "args"),
    ({"image": "x", "args": ["a", 1]}, "args[1]"),
    ({"image": "x", "command": []}, "command"),
    ({"image": "x", "mounts": [{"target": "/a", "type": "tmpfs"}, {"type": "tmpfs"}]}, "mounts[1].target"),
    ({"image": "x", "mounts": [{"target": "/a", "type": "tmpfs", "option": 1}]}, "mounts[0].option"),
    ({"image": "x", "read_only": "yes"}, "read_only"),
])  # fmt: skip
async def test_a_bad_field_is_named_by_its_path(
    api: httpx.AsyncClient, fake: FakeNode, body: dict[str, Any], field: str
) -> None:
    answer = await api.post(SPAWN, content=json.dumps(body))
    status, slug, named = problem(answer)
    assert (status, slug) == (400, "bad-field")
    assert (named or "").startswith(field)
    assert len(answer.json()["detail"]) < 400
    assert fake.tasks.asked == []


@pytest.mark.parametrize("body", [
    b"", b"{", b"{}}", b"\xff\xfe{", b"[" * 100_000, b'{"image": ' + b"9" * 5000 + b"}", b"nul", b"'x'", b'{"a": 1} x',
], ids=lambda body: repr(body)[:20])  # fmt: skip
async def test_a_body_that_is_no_json(api: httpx.AsyncClient, fake: FakeNode, body: bytes) -> None:
    assert problem(await api.post(SPAWN, content=body))[0] == 400
    assert fake.tasks.asked == []


@pytest.mark.parametrize("body", [b"[]", b'"x"', b"5", b"null", b"true"])
async def test_a_body_that_is_no_object(api: httpx.AsyncClient, fake: FakeNode, body: bytes) -> None:
    assert problem(await api.post(SPAWN, content=body)) == (400, "bad-field", None)
    assert fake.tasks.asked == []


async def test_a_body_of_the_limit_is_read_and_one_over_it_refused(
    api: httpx.AsyncClient, fake: FakeNode
) -> None:
    def padded(size: int) -> bytes:
        return b'{"image": "busybox"' + b" " * (size - 20) + b"}"

    assert (await api.post(SPAWN, content=padded(API_BODY_BYTES))).status_code == 201
    fake.tasks.asked.clear()
    assert problem(await api.post(SPAWN, content=padded(API_BODY_BYTES + 1))) == (413, "too-large", None)
    assert fake.tasks.asked == []


async def test_a_body_without_a_length_is_counted_as_it_comes(served: Served, fake: FakeNode) -> None:
    head = f"POST {SPAWN} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with await served.connect(head.encode()) as stream, trio.open_nursery() as nursery:

        async def endless() -> None:
            while True:
                await stream.send_all(b"10000\r\n" + b" " * 0x10000 + b"\r\n")

        nursery.start_soon(endless)
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 413")
        nursery.cancel_scope.cancel()
    assert fake.tasks.asked == []


async def test_a_body_that_does_not_arrive_is_given_up(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_module, "BODY_DEADLINE_S", 0.05)
    head = f"POST {SPAWN} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 100\r\n\r\n"
    async with await served.connect(head.encode() + b"{") as stream:
        with trio.fail_after(5):
            answer = await stream.receive_some()
            while b"}" not in answer:
                answer += await stream.receive_some()
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"did not arrive within" in answer


async def test_a_spawn_takes_no_query(api: httpx.AsyncClient, fake: FakeNode) -> None:
    assert problem(await api.post(f"{SPAWN}?dry=1", json={"image": "x"})) == (400, "bad-field", "dry")
    assert fake.tasks.asked == []


async def test_a_full_node_says_when_to_try_again(api: httpx.AsyncClient, fake: FakeNode) -> None:
    fake.tasks.fault = NoCapacity("1 core is asked, 0.4 are free")
    answer = await api.post(SPAWN, json={"image": "x"})
    assert problem(answer) == (503, "no-capacity", None)
    assert answer.headers["retry-after"] == "1"
    assert "0.4" in answer.json()["detail"]


# -- listings -------------------------------------------------------------------------------------------------------


async def ids_of(api: httpx.AsyncClient, query: str) -> list[str]:
    answer = await api.get(f"/v1/tasks?{query}")
    assert answer.status_code == 200, answer.text
    return [row["id"] for row in answer.json()["tasks"]]


async def test_a_listing_shows_what_has_not_ended_newest_first(
    api: httpx.AsyncClient, fake: FakeNode
) -> None:
    fake.tasks.add(record("a-1", created=NOW + 1), record("b-1", created=NOW + 2), ENDED)
    assert await ids_of(api, "") == ["b-1", "a-1"]
    assert await ids_of(api, "all=true") == ["b-1", "a-1", ENDED.id]
    assert await ids_of(api, "status=failed") == [ENDED.id]
    assert await ids_of(api, "status=failed,running") == ["b-1", "a-1", ENDED.id]
    assert await ids_of(api, "status=running&status=pulling") == ["b-1", "a-1"]
    assert await ids_of(api, "all=false") == ["b-1", "a-1"]


async def test_filters_reach_the_service(api: httpx.AsyncClient, fake: FakeNode) -> None:
    await ids_of(api, "label=a%3D1&label=b%3Dx%3Dy&label=c%3D&node=n&template=t")
    assert fake.tasks.asked == [
        ("live", Filter((), (("a", "1"), ("b", "x=y"), ("c", "")), "n", "t")),
    ]


@pytest.mark.parametrize("query", ["", "all=true&"])
async def test_pages_give_every_record_once(api: httpx.AsyncClient, fake: FakeNode, query: str) -> None:
    """Also those made in the same moment."""
    fake.tasks.add(*(record(f"t-{n:02}", created=NOW + n // 5) for n in range(13)))
    seen: list[str] = []
    after, pages = "", 0
    while True:
        answer = (await api.get(f"/v1/tasks?{query}limit=4" + (f"&after={after}" if after else ""))).json()
        seen += [row["id"] for row in answer["tasks"]]
        pages += 1
        after = answer["next"]
        if after is None:
            break
    assert seen == [f"t-{n:02}" for n in reversed(range(13))]
    assert pages == 4


async def test_the_last_page_says_that_it_is_the_last(api: httpx.AsyncClient, fake: FakeNode) -> None:
    fake.tasks.add(record("a-1"), record("b-1"))
    assert (await api.get("/v1/tasks?limit=2")).json()["next"] is None
    assert (await api.get("/v1/tasks?limit=1")).json()["next"] is not None


async def test_usage_is_shown_when_asked_for(api: httpx.AsyncClient, fake: FakeNode) -> None:
    fake.tasks.add(RUNNING)
    assert (await api.get("/v1/tasks")).json()["tasks"][0]["usage"] is None
    assert (await api.get("/v1/tasks?usage=true")).json()["tasks"][0]["usage"] == {"cpu": 0.5, "memory": 1000}


def cursor(data: object) -> str:
    return base64.urlsafe_b64encode((data if isinstance(data, str) else json.dumps(data)).encode()).decode()


@pytest.mark.parametrize(("query", "field"), [
    ("limit=0", "limit"), ("limit=x", "limit"), ("limit=-1", "limit"), ("limit=1001", "limit"), ("limit=1.5", "limit"),
    ("limit=%C2%B2", "limit"), ("limit=" + "9" * 5000, "limit"), ("limit=", "limit"), ("limit=1&limit=2", "limit"),
    ("status=sleeping", "status"), ("status=", "status"), ("status=running,", "status"),
    ("label=nothing", "label"), ("label=%3Dx", "label"),
    ("all=maybe", "all"), ("usage=2", "usage"), ("unknown=1", "unknown"), ("wait=terminal", "wait"),
    ("after=garbage", "after"), ("after=", "after"), ("after=%C3%A9", "after"),
    ("after=" + cursor("null"), "after"), ("after=" + cursor([1]), "after"), ("after=" + cursor(["x", "y"]), "after"),
    ("after=" + cursor([[], "y"]), "after"), ("after=" + cursor("[" * 9000), "after"),
    ("after=" + cursor("[" + "9" * 500 + ', "x"]'), "after"), ("after=" + cursor("[" + "9" * 5000 + ', "x"]'), "after"),
])  # fmt: skip
async def test_a_bad_query_is_named(api: httpx.AsyncClient, fake: FakeNode, query: str, field: str) -> None:
    assert problem(await api.get(f"/v1/tasks?{query}")) == (400, "bad-field", field)
    assert fake.tasks.asked == []


def test_a_position_survives_its_way_through_a_query() -> None:
    for one in ((NOW + 0.123456, "a-1"), (0.1, "b-1")):
        assert _position(_next(one)) == one
        assert quote(_next(one), safe="") == _next(one)


# -- one task -------------------------------------------------------------------------------------------------------


async def test_a_task_is_shown_and_an_unknown_one_is_not(api: httpx.AsyncClient, fake: FakeNode) -> None:
    fake.tasks.add(ENDED)
    said = (await api.get(f"/v1/tasks/{ENDED.id}")).json()
    assert (said["status"], said["reason"], said["signal"]) == ("failed", "oom", 9)
    assert said["times"]["finished"] == "2027-01-15T08:00:03.500Z"
    for name in ("nope-1234", "%00", "..", "a%20b", "%F0%9F%92%A5"):
        assert problem(await api.get(f"/v1/tasks/{name}"))[0] in {400, 404}


@pytest.mark.parametrize(("query", "asked"), [
    ("wait=running", ("busy-0001", "running", LONG_POLL_S)),
    ("wait=terminal&timeout=1m", ("busy-0001", "terminal", 60.0)),
    ("wait=terminal&timeout=0.5", ("busy-0001", "terminal", 0.5)),
    ("wait=terminal&timeout=2d", ("busy-0001", "terminal", LONG_POLL_S)),
])  # fmt: skip
async def test_a_wait_is_bounded(
    api: httpx.AsyncClient, fake: FakeNode, query: str, asked: tuple[object, ...]
) -> None:
    fake.tasks.add(RUNNING)
    assert (await api.get(f"/v1/tasks/busy-0001?{query}")).json()["id"] == "busy-0001"
    assert fake.tasks.asked == [asked]


@pytest.mark.parametrize(("query", "field"), [
    ("wait=never", "wait"), ("wait=", "wait"), ("wait=terminal&timeout=soon", "timeout"), ("wait=terminal&timeout=-1", "timeout"),
    ("wait=terminal&timeout=inf", "timeout"), ("wait=terminal&timeout=nan", "timeout"), ("follow=1", "follow"),
])  # fmt: skip
async def test_a_bad_wait_is_named(api: httpx.AsyncClient, fake: FakeNode, query: str, field: str) -> None:
    fake.tasks.add(RUNNING)
    assert problem(await api.get(f"/v1/tasks/busy-0001?{query}")) == (400, "bad-field", field)
    assert fake.tasks.asked == []


@pytest.mark.parametrize(("query", "asked"), [
    ("", ("busy-0001", "admin", None, None)),
    ("?grace=0", ("busy-0001", "admin", None, 0.0)),
    ("?grace=1m30s&signal=TERM", ("busy-0001", "admin", 15, 90.0)),
    ("?signal=9", ("busy-0001", "admin", 9, None)),
    ("?signal=sigusr1", ("busy-0001", "admin", 10, None)),
])  # fmt: skip
async def test_a_kill_says_who_and_how(
    api: httpx.AsyncClient, fake: FakeNode, query: str, asked: tuple[object, ...]
) -> None:
    fake.tasks.add(RUNNING)
    answer = await api.delete(f"/v1/tasks/busy-0001{query}")
    assert answer.status_code == 202
    assert answer.json()["status"] == "running"
    assert fake.tasks.asked == [asked]


async def test_a_kill_of_what_has_ended_is_200(api: httpx.AsyncClient, fake: FakeNode) -> None:
    fake.tasks.add(ENDED)
    answer = await api.delete(f"/v1/tasks/{ENDED.id}")
    assert answer.status_code == 200
    assert answer.json()["status"] == Status.FAILED


@pytest.mark.parametrize(("query", "field"), [
    ("signal=NOTHING", "signal"), ("signal=0", "signal"), ("signal=65", "signal"), ("signal=%C2%B2", "signal"),
    ("signal=" + "9" * 5000, "signal"), ("grace=x", "grace"), ("grace=-1", "grace"), ("grace=1e300", "grace"), ("force=1", "force"),
])  # fmt: skip
async def test_a_bad_kill_touches_nothing(
    api: httpx.AsyncClient, fake: FakeNode, query: str, field: str
) -> None:
    fake.tasks.add(RUNNING)
    answer = await api.delete(f"/v1/tasks/busy-0001?{query}")
    assert problem(answer) == (400, "bad-field", field)
    assert fake.tasks.asked == []


async def test_figures_are_of_running_tasks_only(api: httpx.AsyncClient, fake: FakeNode) -> None:
    fake.tasks.add(RUNNING, ENDED)
    fake.tasks.figures[RUNNING.id] = STATS
    said = (await api.get(f"/v1/tasks/{RUNNING.id}/stats")).json()
    assert (said["cpu_seconds"], said["peak_memory"]) == (1.25, None)
    ended = await api.get(f"/v1/tasks/{ENDED.id}/stats")
    assert problem(ended) == (409, Conflict.slug, None)
    assert "failed" in ended.json()["detail"]
    assert problem(await api.get("/v1/tasks/nope/stats"))[0] == 404
    assert problem(await api.get(f"/v1/tasks/{RUNNING.id}/stats?x=1"))[0] == 400


async def test_a_field_error_of_the_service_names_its_field(api: httpx.AsyncClient, fake: FakeNode) -> None:
    fake.tasks.fault = FieldError("cpu", "65 cores never fit")
    assert problem(await api.post(SPAWN, json={"image": "x", "cpu": 65})) == (400, "bad-field", "cpu")
