"""`mill spawn`: what its options make of a request, what it prints, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest

from mill.model import Draft, Template
from tests.cli.conftest import Mill
from tests.client.fake_api import FakeApi


def sent(api: FakeApi) -> Any:
    return json.loads(api.requests[-1].body)


def test_it_prints_id_address_and_status(mill: Mill) -> None:
    result = mill("spawn", "--image", "registry.example.com/coop-agent:v3", "--", "hold")
    assert (
        result.stdout == "id:      coop-agent-0001\naddress: coop-agent-0001.mill:8080\nstatus:  starting\n"
    )


def test_json_is_the_api_s_answer(mill: Mill) -> None:
    said = json.loads(mill("spawn", "--image", "app", "--json").stdout)
    assert said == {"id": "app-0001", "address": "app-0001.mill:8080", "node": "node-3", "status": "starting"}


def test_a_template_is_named_as_task(mill: Mill, api: FakeApi) -> None:
    api.templates["coop-agent"] = Template("coop-agent", Draft(image="coop", port=9000))
    result = mill("spawn", "coop-agent", "--env", "SESSION_ID=abc123", "--env", "EMPTY=")
    assert sent(api) == {"task": "coop-agent", "env": {"SESSION_ID": "abc123", "EMPTY": ""}}
    assert "coop-agent-0001.mill:9000" in result.stdout


def test_every_option_reaches_the_request(mill: Mill, api: FakeApi) -> None:
    mill(
        "spawn", "--image", "registry.example.com/myapp:v3", "--name", "n", "--command", "sh -c 'a b'", "--cpu", "1",
        "--memory", "2G", "--timeout", "30m", "--pull-timeout", "90s", "--port", "80", "--label", "team=blue",
        "--label", "x=", "--user", "1000:1000", "--workdir", "/w", "--network", "none", "--stop-signal", "INT",
        "--grace", "5s", "--pull", "always", "--mount", "type=bind,source=/srv,target=/data,readonly",
        "--mount", "type=tmpfs,dst=/t,size=1M", "--tmpfs", "/scratch:size=64M", "--tmpfs", "/run", "--read-only",
        "--init", "--", "--not-ours", "-h",
    )  # fmt: skip
    mount = {"read_only": False, "source": None, "size": None}
    assert sent(api) == {
        "image": "registry.example.com/myapp:v3", "name": "n", "command": ["sh", "-c", "a b"], "cpu": 1.0,
        "memory": 2 * 1024**3, "timeout": 1800.0, "pull_timeout": 90.0, "port": 80, "labels": {"team": "blue", "x": ""},
        "user": "1000:1000", "workdir": "/w", "network": "none", "stop_signal": "INT", "grace": 5.0, "pull": "always",
        "mounts": [
            {**mount, "type": "bind", "source": "/srv", "target": "/data", "read_only": True},
            {**mount, "type": "tmpfs", "target": "/t", "size": 1024**2},
            {**mount, "type": "tmpfs", "target": "/scratch", "size": 64 * 1024**2},
            {**mount, "type": "tmpfs", "target": "/run"},
        ],
        "read_only": True, "init": True, "args": ["--not-ours", "-h"],
    }  # fmt: skip


def test_nothing_after_the_dashes_empties_the_image_s_arguments(mill: Mill, api: FakeApi) -> None:
    mill("spawn", "--image", "app", "--")
    assert sent(api) == {"image": "app", "args": []}


def test_env_takes_values_from_here_and_from_files(
    mill: Mill, api: FakeApi, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HERE", "h=1")
    (tmp_path / "env").write_text("# comment\n\n  A=1  \nB=from file\nHERE\n")
    mill("spawn", "--image", "app", "--env-file", str(tmp_path / "env"), "-e", "B=from option", "-e", "HERE")
    assert sent(api)["env"] == {"A": "1", "B": "from option", "HERE": "h=1"}


@pytest.mark.parametrize(
    ("args", "line"),
    [
        ((), "nothing to run: name a template (TASK) or an --image; see 'mill spawn --help'"),
        (("--image", "x", "--memory", "2X"), "--memory: '2X' is not a size"),
        (("--image", "x", "--timeout", "soon"), "--timeout: 'soon' is not a duration"),
        (("--image", "x", "--timeout", "0"), "--timeout: must be more than 0s"),
        (("--image", "x", "--cpu", "-1"), "--cpu: -1.0 is not a number of cores"),
        (("--image", "x", "--cpu", "many"), "invalid value for '--cpu'"),
        (("--image", "x", "--port", "0"), "--port: 0 is not a port"),
        (("--image", "x", "--name", "Not_a_label"), "--name: 'Not_a_label' is no DNS label"),
        (("--image", "x", "--env", "NOT_SET_ANYWHERE"), "--env: NOT_SET_ANYWHERE is not set here"),
        (("--image", "x", "--env", "=v"), "--env: '=v' is not NAME=VALUE"),
        (
            ("--image", "x", "--env-file", "/nowhere"),
            "--env-file: cannot read /nowhere: no such file or directory",
        ),
        (("--image", "x", "--label", "plain"), "--label: 'plain' is not KEY=VALUE"),
        (("--image", "x", "--command", "sh '"), '--command: "sh \'" cannot be split into words'),
        (("--image", "x", "--network", "bridge"), "--network: 'bridge' is not one of mesh, host"),
        (("--image", "x", "--stop-signal", "BANG"), "--stop-signal: 'BANG' is not a signal"),
        (
            ("--image", "x", "--mount", "type=bind,source=/a"),
            "--mount: 'type=bind,source=/a' names no target",
        ),
        (
            ("--image", "x", "--mount", "type=bind,target=/a"),
            "--mount (source): a bind mount needs the host's path",
        ),
        (("--image", "x", "--mount", "volume"), "--mount: 'volume' in 'volume' is not understood"),
        (
            ("--image", "x", "--mount", "type=nfs,target=/a"),
            "--mount (type): 'nfs' is not one of bind, tmpfs",
        ),
        (("--image", "x", "--tmpfs", "/t:mode=7"), "--tmpfs: '/t:mode=7' is not DIR or DIR:size=SIZE"),
        (("--image", "x", "-p", "web:80"), "--publish: 'web:80' is not PORT or HOST:PORT"),
        (("--image", "x", "-p", "0:80"), "--publish (host): 0 is not a port"),
        (("--image", "x", "echo", "hi"), "the task's own arguments go after '--'"),
        (("--image", "x", "--bogus"), "no such option '--bogus'"),
        (("--image", "x", "--", "\udcff\0"), "ARGS"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    mill: Mill, api: FakeApi, args: tuple[str, ...], line: str
) -> None:
    result = mill("spawn", *args, code=2)
    assert result.stdout == ""
    assert result.stderr.startswith("mill: ")
    assert line in result.stderr
    assert result.stderr.count("\n") == 1
    assert api.requests == []


def test_a_bad_line_of_an_env_file_is_told_with_its_number(mill: Mill, tmp_path: Path) -> None:
    (tmp_path / "env").write_text("A=1\n=2\n")
    assert (
        f"{tmp_path}/env:2: '=2' is not NAME=VALUE"
        in mill("spawn", "--image", "x", "--env-file", str(tmp_path / "env"), code=2).stderr
    )
    (tmp_path / "env").write_bytes(b"\xff")
    assert (
        "is not UTF-8 text"
        in mill("spawn", "--image", "x", "--env-file", str(tmp_path / "env"), code=2).stderr
    )


def test_what_the_server_refuses_is_told_the_same_way(mill: Mill) -> None:
    assert (
        mill("spawn", "nobody", code=2).stderr
        == "mill: no template 'nobody'; 'mill templates ls' lists them\n"
    )
    assert (
        mill("spawn", "--image", "x", "--cpu", "99", code=2).stderr
        == "mill: cpu: 64 cores is all there is here\n"
    )
    full = mill("spawn", "--image", "x", "--cpu", "5", code=1)
    assert full.stderr == "mill: no room for 5 cores; free are 2.75 cores and 5G\n"


def test_a_key_said_again_is_the_same_task(mill: Mill, api: FakeApi) -> None:
    args = ("spawn", "--image", "app", "--idempotency-key", "job-7")
    assert mill(*args).stdout == mill(*args).stdout
    assert list(api.tasks) == ["app-0001"]
    assert (
        "--idempotency-key: must be 1 to 255"
        in mill("spawn", "--image", "x", "--idempotency-key", "", code=2).stderr
    )
