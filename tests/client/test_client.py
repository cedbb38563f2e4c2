"""What each method sends and how it reads the answer, by a transport that stands in for the server."""

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

import mill.client
from mill.client import Client
from mill.convert import to_json
from mill.errors import FieldError, MillError, ProblemError
from mill.model import (
    Draft,
    Image,
    Mount,
    MountType,
    Record,
    Size,
    SpawnRequest,
    Spec,
    Status,
    Template,
    Time,
    Times,
)

Answer = Callable[[httpx.Request], httpx.Response]
RECORD = Record(
    "app-x7k2",
    Spec("busybox", "app"),
    Status.RUNNING,
    "node-3",
    "n3",
    "app-x7k2.mill:8080",
    Times(Time(1767323045.678)),
)


def client(answer: Answer, **options: Any) -> Client:
    return Client("127.0.0.1:1", "tok", transport=httpx.MockTransport(answer), **options)


class Script:
    """Answers in turn and keeps what was asked."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    @property
    def last(self) -> httpx.Request:
        return self.requests[-1]


def ok(data: Any, status: int = 200) -> httpx.Response:
    return httpx.Response(status, json=to_json(data))


def problem(status: int, slug: str, detail: str, **more: Any) -> httpx.Response:
    said = {
        "type": f"urn:mill:problem:{slug}",
        "title": "a title",
        "status": status,
        "detail": detail,
        **more,
    }
    return httpx.Response(status, json=said, headers={"content-type": "application/problem+json"})


SPAWNED = {"id": "app-x7k2", "address": "app-x7k2.mill:8080", "node": "node-3", "status": "starting"}


async def test_spawn_sends_only_what_was_said() -> None:
    script = Script(ok(SPAWNED, 201))
    async with client(script) as mill_:
        spawned = await mill_.spawn(
            "coop-agent", env={"SESSION_ID": "abc"}, memory="2G", timeout="30m", args=iter("ab")
        )
    assert (script.last.method, script.last.url.path) == ("POST", "/v1/tasks/spawn")
    assert script.last.headers["authorization"] == "Bearer tok"
    assert json.loads(script.last.content) == {
        "task": "coop-agent", "env": {"SESSION_ID": "abc"}, "memory": 2 * 1024**3, "timeout": 1800.0, "args": ["a", "b"],
    }  # fmt: skip
    assert (spawned.id, spawned.status) == ("app-x7k2", Status.STARTING)


async def test_spawn_takes_mounts_as_values_or_as_plain_data() -> None:
    script = Script(ok(SPAWNED, 201))
    async with client(script) as mill_:
        mounts: list[Mount | dict[str, Any]] = [
            Mount("/scratch", MountType.TMPFS, size=Size(64)),
            {"target": "/data", "source": "/srv"},
        ]
        await mill_.spawn(image="busybox", mounts=mounts)
    sent = json.loads(script.last.content)["mounts"]
    assert [(mount["type"], mount["target"]) for mount in sent] == [("tmpfs", "/scratch"), ("bind", "/data")]


@pytest.mark.parametrize(
    ("fields", "field"),
    [({}, "image"), ({"image": "x", "memory": "2X"}, "memory"), ({"image": "x", "cpu": -1}, "cpu"), ({"image": "x", "foo": 1}, "foo"),
     ({"image": "x", "env": {"A=B": "1"}}, "env"), ({"image": "x", "args": "words"}, "args")],
)  # fmt: skip
async def test_bad_fields_are_refused_before_anything_is_sent(fields: dict[str, Any], field: str) -> None:
    async with client(Script()) as mill_:
        with pytest.raises(mill.client.FieldError) as caught:
            await mill_.spawn(**fields)
    assert caught.value.field == field


async def test_spawn_takes_a_request_but_not_fields_beside_it() -> None:
    script = Script(ok(SPAWNED, 201))
    async with client(script) as mill_:
        await mill_.spawn(SpawnRequest(image="busybox"))
        with pytest.raises(FieldError):
            await mill_.spawn(SpawnRequest(image="busybox"), cpu=1)
    assert json.loads(script.last.content) == {"image": "busybox"}


@pytest.mark.parametrize(
    ("status", "slug", "kind"),
    [
        (400, "bad-field", mill.client.FieldError), (401, "unauthorized", mill.client.Unauthorized),
        (403, "forbidden", mill.client.Forbidden), (404, "not-found", mill.client.NotFound),
        (409, "conflict", mill.client.Conflict), (413, "too-large", mill.client.TooLarge),
        (503, "no-capacity", mill.client.NoCapacity), (503, "unavailable", mill.client.Unavailable),
        (507, "no-space", mill.client.NoSpace), (400, "of-a-newer-mill", mill.errors.CallerError),
        (500, "internal", mill.client.ProblemError), (404, "of-a-newer-mill", mill.client.NotFound),
    ],
)  # fmt: skip
async def test_a_problem_is_both_its_own_class_and_a_problem_error(
    status: int, slug: str, kind: type[MillError]
) -> None:
    async with client(Script(problem(status, slug, "what happened"))) as mill_:
        with pytest.raises(kind) as caught:
            await mill_.get("x")
    assert isinstance(caught.value, ProblemError)
    assert (caught.value.http_status, caught.value.problem) == (status, slug)
    assert str(caught.value).startswith("what happened")


@pytest.mark.parametrize("detail", ["must be positive", "cpu: must be positive"])
async def test_a_refused_field_reads_like_one_that_was_refused_here(detail: str) -> None:
    async with client(Script(problem(400, "bad-field", detail, field="cpu"))) as mill_:
        with pytest.raises(mill.client.FieldError) as caught:
            await mill_.spawn(image="x")
    assert (caught.value.field, caught.value.message, str(caught.value)) == (
        "cpu",
        "must be positive",
        "cpu: must be positive",
    )


async def test_a_missing_token_is_told_with_what_to_do() -> None:
    async with client(Script(problem(401, "unauthorized", "no token"))) as mill_:
        with pytest.raises(mill.client.Unauthorized, match=r"^no token; set MILL_TOKEN$"):
            await mill_.status()


@pytest.mark.parametrize(
    "answer",
    [
        httpx.Response(502, text="<html>"),
        httpx.Response(200, text="<html>"),
        httpx.Response(302),
        httpx.Response(500, json=[1]),
    ],
)
async def test_an_answer_of_something_else_than_milld_is_told(answer: httpx.Response) -> None:
    async with client(Script(answer)) as mill_:
        with pytest.raises(ProblemError, match="is it milld"):
            await mill_.get("x")


@pytest.mark.parametrize("data", [{"id": "x"}, [], {"tasks": 5}, None])
async def test_an_answer_of_another_shape_is_told(data: Any) -> None:
    async with client(Script(httpx.Response(200, json=data))) as mill_:
        with pytest.raises(ProblemError, match="this client cannot read"):
            await mill_.get("x")


async def test_a_newer_server_s_fields_are_kept() -> None:
    said = {**to_json(RECORD), "mood": "fine"}
    async with client(Script(httpx.Response(200, json=said))) as mill_:
        record = await mill_.get("app-x7k2")
    assert record.extra == {"mood": "fine"}


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (httpx.ConnectError("All connection attempts failed"), "cannot reach milld at http://127.0.0.1:1: all connection attempts failed; is it running? set MILL_ADDRESS"),
        (httpx.ConnectTimeout("x"), "cannot reach milld at http://127.0.0.1:1: no answer; is the address right? set MILL_ADDRESS"),
        (httpx.ReadTimeout("x"), "milld at http://127.0.0.1:1 does not answer in time; is it overloaded or stopped?"),
        (httpx.RemoteProtocolError("Server disconnected."), "the connection to milld at http://127.0.0.1:1 broke: server disconnected"),
    ],
)  # fmt: skip
async def test_no_answer_is_one_line(error: Exception, line: str) -> None:
    async with client(Script(error)) as mill_:
        with pytest.raises(mill.client.ConnectionFailed) as caught:
            await mill_.get("x")
    assert str(caught.value) == line


async def test_ids_are_quoted_and_empty_ones_refused() -> None:
    script = Script(ok(RECORD))
    async with client(script) as mill_:
        await mill_.get("a/b?c")
        assert script.last.url.raw_path == b"/v1/tasks/a%2Fb%3Fc"
        for bad in ("", ".", ".."):
            with pytest.raises(FieldError):
                await mill_.get(bad)


async def test_wait_asks_again_until_the_end() -> None:
    over = to_json(RECORD) | {"status": "stopped", "reason": "exit", "exit_code": 0}
    script = Script(ok(RECORD), ok(RECORD), httpx.Response(200, json=over))
    async with client(script) as mill_:
        record = await mill_.wait("app-x7k2")
    assert record.status.terminal
    assert [dict(request.url.params) for request in script.requests] == 3 * [
        {"wait": "terminal", "timeout": "60"}
    ]


async def test_wait_ends_at_its_timeout_with_the_record_as_it_stands() -> None:
    script = Script(ok(RECORD), ok(RECORD))
    async with client(script) as mill_:
        assert (await mill_.wait("app-x7k2", timeout=90)).status == "running"
    assert [request.url.params["timeout"] for request in script.requests] == ["60", "30"]


async def test_wait_for_running_is_content_with_it() -> None:
    script = Script(ok(RECORD))
    async with client(script) as mill_:
        assert (await mill_.wait("app-x7k2", "running")).status == "running"
    assert script.last.url.params["wait"] == "running"


async def test_wait_bears_a_restart_of_milld_but_not_one_that_never_was() -> None:
    refused = httpx.ConnectError("refused")
    starting = problem(503, "unavailable", "starting")
    over = to_json(RECORD) | {"status": "failed", "reason": "exit", "exit_code": 3}
    script = Script(ok(RECORD), refused, refused, starting, httpx.Response(200, json=over))
    async with client(script) as mill_:
        assert (await mill_.wait("app-x7k2")).exit_code == 3
    async with client(Script(refused)) as mill_:
        with pytest.raises(mill.client.ConnectionFailed):
            await mill_.wait("app-x7k2")


async def test_wait_does_not_bear_it_for_ever() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        if len(asked) == 1:
            return ok(RECORD)
        raise httpx.ConnectError("refused")

    asked: list[httpx.Request] = []
    async with client(answer, patience=0.2) as mill_:
        with pytest.raises(mill.client.ConnectionFailed):
            await mill_.wait("app-x7k2")
    assert 3 <= len(asked) <= 6


async def test_kill_says_how() -> None:
    script = Script(ok(RECORD, 202), ok(RECORD, 202))
    async with client(script) as mill_:
        await mill_.kill("app-x7k2", signal="INT", grace="1m30s")
        assert (script.last.method, dict(script.last.url.params)) == (
            "DELETE",
            {"signal": "INT", "grace": "90"},
        )
        await mill_.kill("app-x7k2")
        assert dict(script.last.url.params) == {}
        with pytest.raises(FieldError, match="grace"):
            await mill_.kill("app-x7k2", grace="soon")


async def test_a_listing_is_fetched_page_by_page() -> None:
    pages = [{"tasks": [RECORD, RECORD], "next": "p2"}, {"tasks": [RECORD], "next": None}]
    script = Script(*(ok(page) for page in pages), *(ok(page) for page in pages))
    async with client(script) as mill_:
        found = [
            record.id
            async for record in mill_.tasks(status="running", label=["a=b", "c=d"], all=True, page_size=2)
        ]
        assert len(await mill_.list_tasks()) == 3
    assert found == 3 * ["app-x7k2"]
    first, second = script.requests[:2]
    assert first.url.params.multi_items() == [
        ("status", "running"), ("label", "a=b"), ("label", "c=d"), ("all", "true"), ("limit", "2"),
    ]  # fmt: skip
    assert second.url.params["after"] == "p2"


async def test_templates() -> None:
    template = Template("t", Draft(image="busybox", cpu=1.0))
    script = Script(ok({"templates": [template]}), ok(template), ok(template), httpx.Response(204))
    async with client(script) as mill_:
        assert await mill_.templates() == [template]
        assert await mill_.template("t") == template
        assert await mill_.put_template("t", template.draft) == template
        assert (script.last.method, json.loads(script.last.content)) == (
            "PUT",
            {"image": "busybox", "cpu": 1.0},
        )
        await mill_.delete_template("t")
    assert (script.last.method, script.last.url.path) == ("DELETE", "/v1/templates/t")


IMAGE = Image("docker.io/library/a:latest", "sha256:00", 3)


async def test_an_archive_is_loaded_from_a_file_or_from_pieces(tmp_path: Path) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        sizes.append(request.headers.get("content-length"))
        return ok({"images": [IMAGE]})

    async def pieces() -> AsyncIterator[bytes]:
        yield b"ab"
        yield b"c"

    sizes: list[str | None] = []
    (tmp_path / "a.tar").write_bytes(b"abc")
    async with client(answer) as mill_:
        assert await mill_.load_image(tmp_path / "a.tar", name="a") == [IMAGE]
        await mill_.load_image(pieces())
        await mill_.load_image([b"ab", b"c"], size=3)
        with pytest.raises(FieldError, match=r"cannot read .*: no such file or directory"):
            await mill_.load_image(tmp_path / "missing")
    assert sizes == ["3", None, "3"]


async def test_bytes_of_the_environment_that_are_no_utf_8_are_refused_before_anything_is_sent() -> None:
    script = Script()
    async with client(script) as mill_:
        with pytest.raises(FieldError, match=r"env\.A: .*UTF-8"):
            await mill_.spawn(image="x", env={"A": "\udcff"})


async def test_each_spawn_goes_by_a_key_of_its_own_or_by_the_callers() -> None:
    script = Script(*(ok(SPAWNED, 201) for _ in range(3)))
    async with client(script) as mill_:
        await mill_.spawn(image="busybox")
        await mill_.spawn(image="busybox")
        await mill_.spawn(image="busybox", idempotency_key="mine")
        with pytest.raises(FieldError, match="Idempotency-Key"):
            await mill_.spawn(image="busybox", idempotency_key="")
    first, second, third = (request.headers["idempotency-key"] for request in script.requests)
    assert len(first) == 32
    assert first != second
    assert third == "mine"
