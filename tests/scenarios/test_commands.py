"""The `mill` command on a real node: what each prints, its `--json`, the exit codes that scripts use, and Ctrl-C."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.node import MILL, Node

TASK = ("--image", "busybox", "--cpu", "0.5", "--memory", "32M")


def spawned(node: Node, *args: str) -> str:
    """The id that `mill spawn` prints."""
    lines = node.mill("spawn", *TASK, *args).stdout.splitlines()
    said = dict(line.split(":", 1) for line in lines)
    assert list(said) == ["id", "address", "status"]
    assert said["address"].strip() == f"{said['id'].strip()}.mill:8080"
    assert said["status"].strip() in {"starting", "pulling"}
    return said["id"].strip()


def test_run_shows_both_streams_and_exits_with_the_task_s_code(node: Node) -> None:
    done = node.mill("run", *TASK, "--", "sh", "-c", "echo out; echo err >&2; exit 17", check=False)
    assert (done.returncode, done.stdout) == (17, "out\n")
    assert "err\n" in done.stderr
    assert node.mill("run", *TASK, "--", "true").stdout == ""


def test_run_says_why_a_task_died(node: Node) -> None:
    done = node.mill(
        "run",
        "--image",
        "busybox",
        "--memory",
        "16M",
        "--",
        "sh",
        "-c",
        "a=x; while :; do a=$a$a; done",
        check=False,
    )
    assert done.returncode == 137
    assert "memory" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_life_of_one_task_through_every_command(node: Node) -> None:
    task_id = spawned(node, "--name", "worker", "--label", "team=a", "--", "sh", "-c", "echo hi; sleep 100")
    assert task_id.startswith("worker-")
    header, *rows = node.mill("ps").stdout.splitlines()
    assert header.split() == ["NAME", "NODE", "STATUS", "CPU", "MEM", "ELAPSED"]
    row = next(row.split() for row in rows if task_id in row)
    assert row[:2] == [task_id, "shared"]
    node.api("GET", f"/v1/tasks/{task_id}?wait=running&timeout=20")
    listed = json.loads(node.mill("ps", "--json").stdout)
    record = next(r for r in listed["tasks"] if r["id"] == task_id) if isinstance(listed, dict) else listed[0]
    assert record["labels" if "labels" in record else "spec"]
    assert task_id in node.mill("stats", task_id).stdout
    assert json.loads(node.mill("stats", task_id, "--json").stdout)
    assert "worker" in node.mill("inspect", task_id).stdout
    node.mill("kill", "--grace", "0", task_id)
    waited = node.mill("wait", task_id, check=False)
    assert waited.returncode == 137
    assert node.mill("logs", task_id).stdout == "hi\n"
    assert task_id not in node.mill("ps").stdout
    assert task_id in node.mill("ps", "--all").stdout
    assert "killed" in node.mill("inspect", task_id).stdout


def test_wait_exits_with_the_task_s_code(node: Node) -> None:
    task_id = spawned(node, "--", "sh", "-c", "exit 5")
    assert node.mill("wait", task_id, check=False).returncode == 5


def test_templates_and_apply(node: Node, tmp_path: Path) -> None:
    file = tmp_path / "tasks.toml"
    file.write_text(
        '[task.coop-agent]\nimage = "busybox"\ncpu = 0.5\nmemory = "32M"\nport = 9000\n'
        'args = ["sh", "-c", "echo $MODE $SESSION_ID $PORT"]\n[task.coop-agent.env]\nMODE = "agent"\n'
    )
    node.mill("apply", "-f", str(file))
    assert "coop-agent" in node.mill("templates").stdout
    done = node.mill("run", "coop-agent", "--env", "SESSION_ID=abc123")
    assert done.stdout == "agent abc123 9000\n"
    task_id = json.loads(node.mill("spawn", "coop-agent", "--json").stdout)["id"]
    assert task_id.startswith("coop-agent-")
    node.mill("wait", task_id)
    assert json.loads(node.mill("inspect", task_id, "--json").stdout)["template"] == "coop-agent"


def test_images_and_status(node: Node) -> None:
    assert "docker.io/library/busybox:latest" in node.mill("images", "ls").stdout
    images = json.loads(node.mill("images", "ls", "--json").stdout)
    assert any(
        "busybox" in image["ref"] for image in (images["images"] if isinstance(images, dict) else images)
    )
    assert "shared" in node.mill("status").stdout
    assert json.loads(node.mill("status", "--json").stdout)["node_id"] == node.node_id


@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_kills_the_task_and_a_second_one_at_once(node: Node, presses: int) -> None:
    """The task takes no notice of its signal; its grace is longer than this test has patience."""
    grace = "0.3s" if presses == 1 else "300s"
    command = [*MILL, "run", *TASK, "--grace", grace, "--", "sh", "-c", "echo ready; sleep 1000"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=node.env()
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        if presses == 2:
            assert any("again" in line for line in iter(process.stderr.readline, ""))
            process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=20)
        finally:
            process.kill()
        assert "Traceback" not in errors
        assert process.returncode != 0
    ended = [
        record
        for record in node.records()
        if record["spec"]["args"] == ["sh", "-c", "echo ready; sleep 1000"]
    ]
    assert {(record["status"], record["reason"]) for record in ended} == {("stopped", "killed")}


def test_inspect_draws_the_phases_of_a_whole_life(node: Node) -> None:
    task_id = spawned(node, "--", "sleep", "0.3")
    node.mill("wait", task_id)
    until = time.monotonic() + 20
    while "clean up" not in (drawn := node.mill("inspect", "--timeline", task_id).stdout):
        assert time.monotonic() < until, drawn
    assert [line.split()[0] for line in drawn.splitlines()[1:]] == [
        "place", "queue", "snapshot", "create", "start", "run", "clean",
    ]  # fmt: skip
    record = json.loads(node.mill("inspect", "--json", task_id).stdout)
    times = {name: at for name, at in record["times"].items() if at is not None}
    order = (
        "created",
        "placed",
        "queued",
        "start_began",
        "snapshot_made",
        "container_made",
        "started",
        "launched",
        "finished",
        "cleaned",
    )
    assert list(order) == sorted(order, key=lambda name: (times[name], order.index(name)))
    assert (record["status"], record["version"]) == ("stopped", 4)
    assert "cleaned:" in node.mill("inspect", task_id).stdout
