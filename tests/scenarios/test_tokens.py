"""Tokens on a real node: made by the command, as far as their scope reaches, over restarts, and never in what milld keeps or logs."""

import json
import subprocess
from pathlib import Path

from tests.node import MILL, MakeNode, Node
from tests.scenarios.mesh import until


def mill(node: Node, token: str, *args: str) -> subprocess.CompletedProcess[str]:
    env = {**node.env(), "MILL_TOKEN": token}
    return subprocess.run([*MILL, *args], capture_output=True, text=True, env=env, timeout=60, check=False)


def make(node: Node, *args: str) -> dict[str, str]:
    made: dict[str, str] = json.loads(node.mill("tokens", "create", *args, "--json").stdout)
    return made


def test_a_token_reaches_as_far_as_its_scope(node: Node) -> None:
    reader, spawner = (
        make(node, "--scope", scope, "--expires", "1h")["token"] for scope in ("read", "spawn")
    )
    run = ("run", "--image", "busybox", "--memory", "16M", "--", "echo", "hi")
    assert mill(node, reader, "ps").returncode == 0
    refused = mill(node, reader, *run)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.count("\n") == 1
    assert "has the scope read, and this needs spawn" in refused.stderr
    assert mill(node, spawner, *run).stdout == "hi\n"
    assert "this needs admin" in mill(node, spawner, "tokens", "ls").stderr


def test_tokens_are_listed_and_revoked(node: Node) -> None:
    made = make(node, "--scope", "read", "--name", "visitor")
    shown = node.mill("tokens").stdout
    assert [
        line for line in shown.splitlines() if made["id"] in line and "visitor" in line and "never" in line
    ]
    assert made["token"] not in shown
    assert node.mill("tokens", "rm", made["id"]).stdout == f"{made['id']} revoked\n"
    refused = mill(node, made["token"], "ps")
    assert refused.returncode == 2
    assert "no token, or one that this node does not know" in refused.stderr
    assert node.mill("tokens", "rm", "admin", check=False).returncode == 1


def test_a_token_expires_by_itself(node: Node) -> None:
    token = node.mill("tokens", "create", "--scope", "read", "--expires", "0.5s", "-q").stdout.strip()
    until(lambda: "has expired" in mill(node, token, "ps").stderr)


def test_bad_input_is_one_line_before_anything_is_asked(node: Node) -> None:
    for args in (["--scope", "root"], ["--scope", "read", "--expires", "soon"], []):
        done = node.mill("tokens", "create", *args, check=False)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), args


def test_tokens_outlive_milld_and_the_database_opens_nothing(make_node: MakeNode) -> None:
    node = make_node(name="tokens", busybox=False)
    made = make(node, "--scope", "admin")
    node.restart("kill9")
    assert mill(node, made["token"], "tokens").returncode == 0
    for path in [
        node.log,
        *(file for file in Path(node.data_dir).iterdir() if file.name.startswith("mill.db")),
    ]:
        assert made["token"].removeprefix("mill_").encode() not in path.read_bytes()
