"""Bad input, all of the issue's list and more: each a 4xx or exit code 2 with one clear line, and nothing half-made."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.node import MILL, Node, free_port
from tests.scenarios.acts import problem_of

BODIES: list[tuple[dict[str, Any], str]] = [
    ({"image": "busybox", "memroy": "1G"}, "memroy"),
    ({"image": "busybox", "cpu": "many"}, "cpu"),
    ({"image": "busybox", "cpu": True}, "cpu"),
    ({"image": "busybox", "cpu": -1}, "cpu"),
    ({"image": "busybox", "cpu": 0}, "cpu"),
    ({"image": "busybox", "cpu": 1e9}, "cpu"),
    ({"image": "busybox", "memory": "2 Gigs"}, "memory"),
    ({"image": "busybox", "memory": -5}, "memory"),
    ({"image": "busybox", "memory": "1K"}, "memory"),
    ({"image": "busybox", "memory": "900T"}, "memory"),
    ({"image": "busybox", "timeout": "soon"}, "timeout"),
    ({"image": "busybox", "timeout": -1}, "timeout"),
    ({"image": "busybox", "grace": [1]}, "grace"),
    ({"image": "busybox", "env": ["A=b"]}, "env"),
    ({"image": "busybox", "env": {"A=B": "c"}}, "env"),
    ({"image": "busybox", "env": {"A": 5}}, "env.A"),
    ({"image": "busybox", "name": "Not_A_Label"}, "name"),
    ({"image": "busybox", "name": "x" * 64}, "name"),
    ({"image": "busybox", "port": 70000}, "port"),
    ({"image": "busybox", "network": "bridge"}, "network"),
    ({"image": "busybox", "pull": "sometimes"}, "pull"),
    ({"image": "busybox", "stop_signal": "SIGNOTHING"}, "stop_signal"),
    ({"image": "busybox", "args": "echo hi"}, "args"),
    ({"image": "busybox", "command": []}, "command"),
    ({"image": "busybox", "args": ["a\0b"]}, "args[0]"),
    ({"image": "busybox", "workdir": "relative"}, "workdir"),
    ({"image": "busybox", "user": "a b"}, "user"),
    ({"image": "busybox", "mounts": [{"type": "tmpfs", "target": "no-slash"}]}, "mounts[0].target"),
    ({"image": "busybox", "mounts": [{"type": "bind", "source": "/etc", "target": "/x"}]}, "mounts[0].source"),
    ({"image": "Not A Reference"}, "image"),
    ({"image": "registry.example.com/UPPER/case:1"}, "image"),
    ({"image": "busybox@sha256:short"}, "image"),
    ({"image": ""}, "image"),
    ({"image": 5}, "image"),
    ({}, "image"),
    ({"task": "no-such-template"}, "task"),
]  # fmt: skip


@pytest.fixture
def unchanged(node: Node) -> Iterator[None]:
    """What is refused leaves no record and no reservation."""
    before = {record["id"] for record in node.records()}
    reserved = node.api("GET", "/v1/status").json()["reserved"]
    yield
    assert {record["id"] for record in node.records()} == before
    assert node.api("GET", "/v1/status").json()["reserved"] == reserved


@pytest.mark.usefixtures("unchanged")
def test_every_bad_field_is_named_and_nothing_is_made(node: Node) -> None:
    seen = []
    for body, _ in BODIES:
        answer = node.api("POST", "/v1/tasks/spawn", json=body)
        assert answer.headers["content-type"] == "application/problem+json", body
        problem = problem_of(answer.text)
        seen.append((body, answer.status_code, problem.get("field")))
        assert len(problem["detail"]) < 400, problem
    assert seen == [(body, 400, field) for body, field in BODIES]


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"{", 400),
        (b"", 400),
        (b"[]", 400),
        (b'"text"', 400),
        (b"\xff\xfe", 400),
        (b'{"image": "busybox", "cpu": NaN}', 400),
        (b'{"image": "busybox", "env": {"A": "\\ud800"}}', 400),
        (b'{"image": "' + b"x" * (2 * 1024**2) + b'"}', 413),
    ],
    ids=lambda value: str(value)[:30],
)
def test_bodies_that_are_no_request(node: Node, body: bytes, status: int) -> None:
    answer = node.api("POST", "/v1/tasks/spawn", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status, answer.text
    problem_of(answer.text)


def test_a_body_that_never_ends_is_cut_off(node: Node) -> None:
    """Sent in pieces without a length: the limit counts what comes."""

    def pieces() -> Iterator[bytes]:
        for _ in range(64):
            yield b"x" * 65536

    try:
        answer = node.api("POST", "/v1/tasks/spawn", content=pieces())
    except httpx.TransportError:  # the answer was sent and the rest refused, which a sender may meet first
        return
    assert answer.status_code == 413


@pytest.mark.parametrize("query", [
    "wait=never", "wait=terminal&timeout=forever", "wait=terminal&timeout=-1", "wait=terminal&timeout=inf",
])  # fmt: skip
def test_bad_waits(node: Node, query: str) -> None:
    assert node.api("GET", f"/v1/tasks/nope-1234?{query}").status_code in {400, 404}


@pytest.mark.parametrize("query", [
    "limit=0", "limit=x", "status=sleeping", "label=nothing", "after=garbage", "all=maybe", "unknown=1",
])  # fmt: skip
def test_bad_listings(node: Node, query: str) -> None:
    answer = node.api("GET", f"/v1/tasks?{query}")
    assert answer.status_code == 400, (query, answer.text)
    problem_of(answer.text)


@pytest.mark.parametrize(("path", "content"), [
    ("/v1/images/load", b"not a tar"), ("/v1/images/load", b""), ("/v1/images/load?name=Not%20A%20Name", b"x"),
])  # fmt: skip
def test_archives_that_are_none(node: Node, path: str, content: bytes) -> None:
    images = node.api("GET", "/v1/images").json()
    answer = node.api("POST", path, content=content)
    assert answer.status_code == 400, answer.text
    problem_of(answer.text)
    assert node.api("GET", "/v1/images").json() == images


def test_bad_templates(node: Node) -> None:
    for name, body in (
        ("fine", {"cpus": 1}),
        ("Bad_Name", {"image": "busybox"}),
        ("fine", {"image": "busybox", "memory": "x"}),
    ):
        answer = node.api("PUT", f"/v1/templates/{name}", json=body)
        assert answer.status_code == 400, answer.text
        problem_of(answer.text)
    assert node.api("GET", "/v1/templates/fine").status_code == 404


@pytest.mark.usefixtures("unchanged")
@pytest.mark.parametrize("args", [
    ["spawn"],
    ["spawn", "--image", "busybox", "--cpu", "lots"],
    ["spawn", "--image", "busybox", "--memory", "2 Gigs"],
    ["spawn", "--image", "busybox", "--timeout", "soon"],
    ["spawn", "--image", "busybox", "--env", "=x"],
    ["spawn", "--image", "busybox", "--name", "No_Label"],
    ["spawn", "--image", "busybox", "--colour", "red"],
    ["spawn", "Bad Reference", "--image", "A B"],
    ["spawn", "no-such-template"],
    ["run", "--image", "busybox", "--network", "bridge"],
    ["kill", "no-such-task"],
    ["logs", "no-such-task"],
    ["inspect", "no-such-task"],
    ["apply", "-f", "/no/such/file.toml"],
    ["images", "load", "/no/such/file.tar"],
    ["images", "load", "/etc/passwd"],
    ["no-such-command"],
], ids=" ".join)  # fmt: skip
def test_the_command_line_says_what_is_wrong_in_one_line(node: Node, args: list[str]) -> None:
    done = node.mill(*args, check=False)
    assert done.returncode in {1, 2}
    if "no-such-task" not in args:
        assert done.returncode == 2
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line and not line.startswith(("Usage:", "Try "))]
    assert len(lines) == 1, done.stderr


@pytest.mark.parametrize(("text", "told"), [
    ('[task.a]\nimage = "busybox"\ncpu = "x"\n', ":3:"),
    ('[task.a]\nimage = "busybox"\nmemroy = "1G"\n', "memroy"),
    ('[task.a\nimage = "busybox"\n', ":1:"),
    ("[other]\nx = 1\n", "other"),
])  # fmt: skip
def test_a_broken_file_of_templates_names_line_and_field(
    node: Node, tmp_path: Path, text: str, told: str
) -> None:
    file = tmp_path / "tasks.toml"
    file.write_text(text)
    done = node.mill("apply", "-f", str(file), check=False)
    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert '"a"' not in node.api("GET", "/v1/templates").text


def test_a_wrong_token_or_address_is_one_line(node: Node) -> None:
    for environ in (
        {"MILL_TOKEN": "wrong"},
        {"MILL_ADDRESS": f"127.0.0.1:{free_port()}"},
        {"MILL_ADDRESS": "no address"},
    ):
        done = subprocess.run(
            [*MILL, "ps"], env={**node.env(), **environ}, capture_output=True, text=True, check=False
        )
        assert done.returncode != 0
        assert len(done.stderr.splitlines()) == 1, done.stderr
