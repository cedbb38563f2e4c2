"""Who may ask, and what an error looks like, whatever the route."""

import json

import httpx
import pytest
import trio
from structlog.testing import capture_logs

from mill import errors
from mill.api.app import make_app
from mill.containerd.faults import RpcError, RpcTimeout, RpcUnavailable
from tests.api.conftest import Served, problem
from tests.api.fakes import RUNNING, TOKEN, FakeNode


def routes(fake: FakeNode) -> list[tuple[str, str]]:
    """Method and path of every route, its parameters filled in."""
    rules = make_app(fake.core).url_map.iter_rules()
    return [
        (
            method,
            rule.rule.replace("<task_id>", "busy-0001")
            .replace("<name>", "one")
            .replace("<token_id>", "none"),
        )
        for rule in rules
        for method in rule.methods or ()
    ]


async def test_every_route_but_the_liveness_wants_a_token(fake: FakeNode, anyone: httpx.AsyncClient) -> None:
    fake.tasks.add(RUNNING)
    asked = routes(fake)
    assert len(asked) > 20
    for method, path in asked:
        answer = await anyone.request(method, path, content=b"{}" if method in {"POST", "PUT"} else None)
        if path == "/healthz":
            assert answer.status_code == 200
            continue
        assert answer.status_code == 401, (method, path)
        assert answer.headers["www-authenticate"].startswith("Bearer")
        if method != "HEAD":
            assert problem(answer) == (401, "unauthorized", None)
    assert fake.tasks.asked == []
    assert fake.images.loaded == []
    assert not fake.uploads.exists()


@pytest.mark.parametrize("said", [
    "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer \xff\xfe",
])  # fmt: skip
async def test_no_token_or_a_wrong_one_is_refused(anyone: httpx.AsyncClient, said: str) -> None:
    answer = await anyone.get("/v1/status", headers={b"Authorization": said.encode("latin1")})
    assert problem(answer) == (401, "unauthorized", None)
    assert "MILL_TOKEN" in answer.json()["detail"]


@pytest.mark.parametrize("said", [f"Bearer {TOKEN}", f"bearer {TOKEN}", f"BEARER   {TOKEN}"])
async def test_the_scheme_is_read_as_loosely_as_http_wants_it(anyone: httpx.AsyncClient, said: str) -> None:
    assert (await anyone.get("/v1/status", headers={"Authorization": said})).status_code == 200


async def test_an_unknown_path_tells_a_stranger_nothing(
    anyone: httpx.AsyncClient, api: httpx.AsyncClient
) -> None:
    for path in ("/v1/nothing", "/", "/v1", "//v1/tasks", "/v1//tasks", "/v1/tasks/a/b", "/static/x"):
        assert problem(await anyone.get(path))[0] == 401
        assert problem(await api.get(path)) == (404, "not-found", None), path


async def test_a_wrong_method_says_which_are_right(api: httpx.AsyncClient) -> None:
    answer = await api.post("/v1/tasks")
    assert problem(answer) == (405, "method-not-allowed", None)
    assert "GET" in answer.headers["allow"]


@pytest.mark.parametrize(("path", "status"), [
    (b"/v1/tasks/%FF%FE", 404), (b"/v1/tasks/a%2Fb", 404), (b"/v1/tasks/%00", 404), (b"/v1/tasks/%2e%2e", 404), (b"/v1/tasks/" + b"a" * 8000, 404),
    (b"/v1/tasks/%ED%A0%80/logs", 404), (b"/v1/templates/%ff", 404), (b"/v1/tasks?limit=" + b"9" * 5000, 400), (b"/v1/tasks?limit=1&limit=2", 400),
    (b"/v1/tasks?limit=%D9%A1", 400), (b"/v1/tasks?after=%ff", 400), (b"/v1/tasks?%ff=1", 400), (b"/v1/tasks/busy-0001?timeout=nan", 400),
    (b"/v1/tasks/busy-0001?timeout=1e999", 400), (b"/v1/tasks/busy-0001?timeout=1_0", 400), (b"/v1/tasks/busy-0001?wait=", 400),
    (b"/v1/tasks/busy-0001/logs?since=-inf", 400), (b"/v1/tasks/busy-0001/logs?tail=-0", 400), (b"/v1/tasks?label=%00", 400), (b"/v1/%E2%82", 404),
], ids=lambda value: str(value)[:40])  # fmt: skip
async def test_odd_paths_and_queries_are_problems(served: Served, path: bytes, status: int) -> None:
    async with await served.connect() as stream:
        await stream.send_all(
            b"GET "
            + path
            + f" HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n".encode()
        )
        with trio.fail_after(5):
            head, _, body = b"".join([part async for part in stream]).partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode()), head
    assert b"content-type: application/problem+json" in head.lower()
    said = json.loads(body)
    assert said["status"] == status
    assert len(said["detail"]) < 300
    assert "\n" not in said["detail"]


async def test_a_head_has_no_body_and_options_say_what_is_allowed(api: httpx.AsyncClient) -> None:
    answer = await api.head("/v1/tasks")
    assert (answer.status_code, answer.content) == (200, b"")
    answer = await api.options("/v1/tasks/spawn")
    assert (answer.status_code, answer.content) == (200, b"")
    assert "POST" in answer.headers["allow"]
    for method in ("PATCH", "BREW", "TRACE"):
        answer = await api.request(method, "/v1/templates/one")
        assert problem(answer) == (405, "method-not-allowed", None)
        assert set(answer.headers["allow"].split(", ")) == {"DELETE", "GET", "HEAD", "OPTIONS", "PUT"}


async def test_a_path_may_end_in_a_slash(api: httpx.AsyncClient) -> None:
    assert (await api.get("/v1/tasks/")).status_code == 200


def classes() -> list[type[errors.MillError]]:
    found: list[type[errors.MillError]] = [errors.MillError]
    for one in found:
        found.extend(kind for kind in one.__subclasses__() if kind.__module__ == "mill.errors")
    return found


def made(kind: type[errors.MillError]) -> errors.MillError:
    if issubclass(kind, errors.FieldError):
        return kind("cpu", "is bad")
    if issubclass(kind, errors.Interrupted):
        return kind("what happened")
    if issubclass(kind, errors.RuntimeFault):
        return kind("runtime", "what happened")
    if issubclass(kind, errors.ProblemError):
        return kind(500, "title", "what happened")
    return kind("what happened")


@pytest.mark.parametrize("kind", classes(), ids=lambda kind: kind.__name__)
async def test_each_error_has_its_status(
    api: httpx.AsyncClient, fake: FakeNode, kind: type[errors.MillError]
) -> None:
    fake.tasks.fault = made(kind)
    answer = await api.get("/v1/tasks/busy-0001")
    status, slug, field = problem(answer)
    assert slug == kind.slug
    assert status == (502 if issubclass(kind, errors.RuntimeFault) else kind.status)
    assert field == ("cpu" if kind is errors.FieldError else None)
    assert answer.json()["detail"] == str(fake.tasks.fault)
    assert ("retry-after" in answer.headers) == issubclass(kind, errors.NodeError)


@pytest.mark.parametrize(("fault", "status"), [
    (RpcUnavailable("UNAVAILABLE", "connection refused"), 503),
    (RpcTimeout("DEADLINE_EXCEEDED", "too late"), 504),
    (RpcError("INTERNAL", "line one\nline two"), 502),
])  # fmt: skip
async def test_what_containerd_refuses_is_one_line(
    api: httpx.AsyncClient, fake: FakeNode, fault: RpcError, status: int
) -> None:
    fake.tasks.fault = fault
    assert problem(await api.get("/v1/tasks/busy-0001"))[0] == status


async def test_an_error_out_of_a_nursery_keeps_its_status(api: httpx.AsyncClient, fake: FakeNode) -> None:
    inner = ExceptionGroup("inner", [errors.NotFound("no such thing")])
    fake.tasks.fault = ExceptionGroup("outer", [inner])
    assert problem(await api.get("/v1/tasks/busy-0001")) == (404, "not-found", None)


async def test_a_bug_is_told_to_the_log_and_not_to_the_caller(api: httpx.AsyncClient, fake: FakeNode) -> None:
    fake.tasks.fault = KeyError("a secret")
    with capture_logs() as logged:
        answer = await api.get("/v1/tasks/busy-0001")
    assert problem(answer) == (500, "internal", None)
    assert "secret" not in answer.text
    assert [entry["exc_info"] for entry in logged if "internal error" in entry["event"]] == [fake.tasks.fault]
    fake.tasks.fault = None
    assert (await api.get("/v1/status")).status_code == 200


async def test_the_answer_is_json_in_the_shape_of_the_model(api: httpx.AsyncClient, fake: FakeNode) -> None:
    fake.tasks.add(RUNNING)
    answer = await api.get("/v1/tasks/busy-0001")
    assert answer.headers["content-type"] == "application/json"
    said = json.loads(answer.content)
    assert said["status"] == "running"
    assert {name: at for name, at in said["times"].items() if at is not None} == {
        "created": "2027-01-15T08:00:00.000Z"
    }
    assert said["times"]["finished"] is None
    assert said["spec"]["memory"] == 256 * 1024**2
    assert said["reason"] is None
    assert "extra" not in said
