"""Tables: `ps`, `stats`, `images`, `status`, and how they look on a terminal and off it."""

import json
import os
import pty
import subprocess
from typing import Any

from mill.cli.connect import PARTIAL
from mill.model import Draft, Duration, Image, Size, Status, Template, Time
from tests.cli.conftest import COMMAND, Mill
from tests.client.fake_api import FakeApi
from tests.client.fake_node import EPOCH


def settled(api: FakeApi, *steps: str, **said: Any) -> str:
    """A task that has come as far as its steps lead."""
    task_id = api.do(lambda: api.add(*steps, **said))
    api.do(lambda: None)
    return task_id


def test_ps_shows_the_seed_s_columns(mill: Mill, api: FakeApi) -> None:
    settled(api, "hold", name="coop-agent")
    settled(api, "exit 3", name="gone")
    assert mill("ps").stdout == (
        "NAME             NODE    STATUS   CPU  MEM   ELAPSED\n"
        "coop-agent-0001  node-3  running  0.8  1.2G  11m\n"
    )


def test_ps_all_tells_how_each_ended(mill: Mill, api: FakeApi) -> None:
    for steps in (("exit 0",), ("exit 3",), ("signal 9",), ("fail oom - m",)):
        settled(api, *steps)
    assert mill("ps").stdout == "NAME  NODE  STATUS  CPU  MEM  ELAPSED\n"
    rows = mill("ps", "-a").stdout.splitlines()[1:]
    assert [row[18:].split("  ")[0] for row in rows] == [
        "failed (oom)",
        "failed (SIGKILL)",
        "failed (exit 3)",
        "stopped",
    ]
    assert rows[0].split()[-1] == "11m"


def test_ps_quiet_prints_ids_for_scripts(mill: Mill, api: FakeApi) -> None:
    ids = [settled(api, "hold") for _ in range(3)]
    assert mill("ps", "-q").stdout.split() == ids[::-1]
    assert mill("ps", "-q", "-n", "2").stdout.split() == [ids[2], ids[1]]


def test_ps_filters(mill: Mill, api: FakeApi) -> None:
    blue = settled(api, "hold", labels={"team": "blue", "x": "1"})
    red = settled(api, "exit 1", labels={"team": "red"})
    settled(api, "hold")
    assert mill("ps", "-q", "--label", "team=blue", "--label", "x=1").stdout.split() == [blue]
    assert mill("ps", "-q", "--status", "failed", "-s", "stopped").stdout.split() == [red]
    assert mill("ps", "-q", "--node", "node-9").stdout == ""
    assert mill("ps", "-q", "--template", "t").stdout == ""


def test_ps_gathers_every_page(mill: Mill, api: FakeApi) -> None:
    ids = [api.do(lambda: api.add(start=False)) for _ in range(1201)]
    assert mill("ps", "-q").stdout.split() == ids[::-1]
    said = json.loads(mill("ps", "--json").stdout)
    assert [one["id"] for one in said["tasks"]] == ids[::-1]
    assert said["next"] is None


def test_stats_of_all_and_of_one(mill: Mill, api: FakeApi) -> None:
    first, second = settled(api, "hold"), settled(api, "hold")
    settled(api, "exit 0")
    header, *rows = mill("stats").stdout.splitlines()
    assert header.split() == [
        "NAME",
        "CPU",
        "MEM",
        "LIMIT",
        "PEAK",
        "PIDS",
        "READ",
        "WRITTEN",
        "RECEIVED",
        "SENT",
    ]
    assert [row.split()[0] for row in rows] == [second, first]
    assert rows[0].split()[1:] == ["0.8", "1.2G", "2G", "-", "7", "4K", "8K", "-", "-"]
    assert json.loads(mill("stats", first, "--json").stdout)["cpu_seconds"] == 12.5


def test_stats_of_one_that_has_ended_says_so(mill: Mill, api: FakeApi) -> None:
    gone = settled(api, "exit 0")
    assert mill("stats", gone, code=1).stderr == f"mill: {gone} does not run: it is stopped\n"


def test_images_are_listed_with_or_without_ls(mill: Mill, api: FakeApi) -> None:
    api.images.append(
        Image("docker.io/library/busybox:latest", "sha256:" + "0123456789abcdef" * 4, 1_500_000, Time(EPOCH))
    )
    rows = mill("images").stdout
    assert rows == (
        "IMAGE                             DIGEST               SIZE  AGE\n"
        "docker.io/library/busybox:latest  sha256:0123456789ab  1.4M  12m\n"
    )
    assert mill("images", "ls").stdout == rows
    assert json.loads(mill("images", "--json").stdout)["images"][0]["size"] == 1_500_000


def test_templates_are_listed_with_or_without_ls(mill: Mill, api: FakeApi) -> None:
    api.templates["coop"] = Template(
        "coop", Draft(image="reg/coop:v1", cpu=2, memory=Size(4 * 1024**3), timeout=Duration(7200)), "config"
    )
    api.templates["bare"] = Template("bare", Draft(image="x"))
    rows = mill("templates").stdout
    assert [row.split() for row in rows.splitlines()] == [
        ["NAME", "IMAGE", "CPU", "MEMORY", "TIMEOUT", "SOURCE"],
        ["coop", "reg/coop:v1", "2", "4G", "2h", "config"],
        ["bare", "x", "-", "-", "-", "api"],
    ]
    assert mill("templates", "ls").stdout == rows
    assert json.loads(mill("templates", "ls", "--json").stdout)["templates"][0]["name"] == "coop"


def test_status_is_an_overview(mill: Mill, api: FakeApi) -> None:
    settled(api, "hold")
    assert mill("status").stdout == (
        "node:       node-3 (n3)\n"
        "version:    0.1.0\n"
        "up:         12m (since 2026-01-02T03:04:05.678Z)\n"
        "containerd: 1.6.20\n"
        "cpu:        1.25 of 4 cores reserved\n"
        "memory:     3G of 8G reserved\n"
        "tasks:      1 running\n"
    )
    assert json.loads(mill("status", "--json").stdout)["node"] == "node-3"


def on_terminal(environ: dict[str, str], *args: str) -> str:
    """What the command prints on a terminal of 60 columns."""
    ours, theirs = pty.openpty()
    env = {**environ, "TERM": "xterm-256color", "COLUMNS": "60"}
    with subprocess.Popen(
        [*COMMAND, *args], stdin=subprocess.DEVNULL, stdout=theirs, stderr=theirs, env=env
    ) as process:
        os.close(theirs)
        text = b""
        try:
            while piece := os.read(ours, 65536):
                text += piece
        except OSError:  # Linux' way to say that the other end is closed
            pass
        os.close(ours)
    assert process.returncode == 0
    return text.decode()


def test_on_a_terminal_it_is_coloured_and_ids_are_never_cut(api: FakeApi, environ: dict[str, str]) -> None:
    name = "a-rather-long-name-for-an-agent-that-somebody-chose"
    settled(api, "hold", name=name)
    shown = on_terminal(environ, "ps")
    assert "\x1b[" in shown
    assert f"{name}-0001" in shown


def test_what_others_wrote_cannot_drive_the_terminal(mill: Mill, api: FakeApi) -> None:
    task_id = settled(api, "hold")
    task = api.tasks[task_id]
    api.do(
        lambda: api.change(
            task, node="\x1b[2Jevil", status=Status.FAILED, message="\x1b]0;x\x07\nsecond line"
        )
    )
    assert "\\x1b[2Jevil" in mill("ps", "-a").stdout
    shown = mill("inspect", task_id).stdout
    assert "\x1b" not in shown
    assert "\\x1b]0;x\\x07\\x0asecond line" in shown


def test_a_partial_answer_is_told_in_one_line_beside_it(mill: Mill, api: FakeApi) -> None:
    api.answers["/v1/tasks"] = (200, b'{"tasks": [], "next": null, "partial": true}')
    shown = mill("ps")
    assert shown.stderr == f"mill: {PARTIAL}\n"
    assert "NAME" in shown.stdout
    assert json.loads(mill("ps", "--json").stdout)["partial"] is True
    del api.answers["/v1/tasks"]
    assert "partial" not in mill("ps", "--json").stdout
