"""`mill doctor` on hosts that are well and on hosts that are broken: what it finds, what it advises, its exit code.

What must be broken is broken in a mount namespace of doctor's own, so that nobody else notices.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.node import MILL, MakeNode, Node, free_port

Found = Mapping[str, list[Any]]


def run(
    node: Node, *options: str, setup: str = "", as_json: bool = True
) -> "subprocess.CompletedProcess[str]":
    """doctor in *node*'s environment, after the shell commands of *setup* in a mount namespace that ends with it."""
    command = [*MILL, "doctor", *(["--json"] if as_json else []), *options]
    if setup:
        inside = f'set -e\n{setup}\nexec "$@"'
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", inside, "sh", *command]
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=node.env(), timeout=60, cwd="/"
    )
    assert "Traceback" not in done.stderr + done.stdout
    return done


def doctor(node: Node, *options: str, code: int, setup: str = "") -> Found:
    """What was found, by check; *code* is what it must exit with."""
    done = run(node, *options, setup=setup)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert (report["problems"] > 0) is (code == 1)
    by_check: dict[str, list[Any]] = {}
    for one in report["findings"]:
        by_check.setdefault(one["check"], []).append(one)
        assert bool(one["advice"]) is (one["level"] != "ok"), one
    return by_check


def one(found: Found, check: str, level: str) -> Any:
    """The only finding of *check* at *level*."""
    (finding,) = [finding for finding in found[check] if finding["level"] == level]
    return finding


def other(folder: Path, **said: str) -> list[str]:
    """Options of a milld that does not run, with its data in *folder*."""
    options = {
        "data-dir": str(folder / "d"),
        "containerd": "embedded",
        "listen": f"127.0.0.1:{free_port()}",
        "dns-listen": f"127.0.0.1:{free_port()}",
        **said,
    }
    return [f"--{name}={value}" for name, value in options.items()]


def test_a_node_that_is_well(node: Node) -> None:
    """Without an option: it looks at the milld that runs, as that was started."""
    found = doctor(node, code=0)
    milld = one(found, "milld", "ok")["found"]
    assert f"pid {node.pid}" in milld
    assert node.address in milld
    assert "milld's own" in one(found, "containerd", "ok")["found"]
    api, names = (finding["found"] for finding in found["ports"])
    assert f"127.0.0.1:{node.port} (the API) is this milld's, pid {node.pid}" in api
    assert f"127.0.0.1:{node.dns_port} (DNS) is this milld's, pid {node.pid}" in names
    for check in (
        "root",
        "node",
        "token",
        "data",
        "disk",
        "runtime",
        "overlayfs",
        "cgroups",
        "kernel",
        "seccomp",
    ):
        assert one(found, check, "ok")
    assert not any(node.node_id[:8] in finding["found"] for finding in found["leftovers"])


def test_a_host_before_its_first_start(node: Node, tmp_path: Path) -> None:
    found = doctor(node, *other(tmp_path), code=0)
    assert "does not run" in one(found, "milld", "warning")["found"]
    assert one(found, "overlayfs", "ok")
    assert list(tmp_path.iterdir()) == []


def test_what_people_read(node: Node, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run(node, *other(tmp_path, listen=f"127.0.0.1:{taken.getsockname()[1]}"), as_json=False)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("problem  ports "))
    assert f"in use by pid {os.getpid()} (" in lines[at]
    assert lines[at + 1].strip() == "-> stop what listens there, or choose another with --listen"
    assert re.fullmatch(r"1 problem, \d+ warnings?: tasks cannot run here as it is", lines[-1])


def test_without_containerd_and_runc(node: Node, tmp_path: Path) -> None:
    paths = [shutil.which(name, path="/usr/sbin:/usr/bin:/sbin:/bin") for name in ("containerd", "runc")]
    hidden = "\n".join(f"mount --bind /dev/null {path}" for path in paths)
    found = doctor(node, *other(tmp_path), code=1, setup=hidden)
    for check, told in (("containerd", "not installed"), ("runtime", "not installed")):
        finding = one(found, check, "problem")
        assert told in finding["found"]
        assert "apt-get install" in finding["advice"][0]


def test_sockets_that_are_no_containerd(node: Node, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("I am not a socket\n")
    found = doctor(node, *other(tmp_path, containerd=str(tmp_path / "text")), code=1)
    assert "is not a socket" in one(found, "containerd", "problem")["found"]
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "mute"))
        mute.listen()
        found = doctor(node, *other(tmp_path, containerd=str(tmp_path / "mute")), code=1)
    finding = one(found, "containerd", "problem")
    assert "is not containerd, or hangs" in finding["found"]
    assert "--containerd embedded" in finding["advice"][0]


def test_a_disk_that_is_full(node: Node, tmp_path: Path) -> None:
    setup = f"mount -t tmpfs -o size=1m none {tmp_path}\ndd if=/dev/zero of={tmp_path}/full bs=64k 2>/dev/null || true"
    found = doctor(node, *other(tmp_path), code=1, setup=setup)
    finding = one(found, "disk", "problem")
    assert "full: 0" in finding["found"]
    assert str(tmp_path) in finding["advice"][0]
    assert "reboot loses" in one(found, "data", "warning")["found"]
    assert "overlayfs" not in found, "nothing can be tried there"


def test_a_data_directory_that_is_read_only(node: Node, tmp_path: Path) -> None:
    setup = f"mount --bind {tmp_path} {tmp_path}\nmount -o remount,bind,ro {tmp_path}"
    found = doctor(node, *other(tmp_path), code=1, setup=setup)
    finding = one(found, "data", "problem")
    assert "Read-only file system" in finding["found"]
    assert f"mount {tmp_path} writable" in finding["advice"][0]


def test_control_groups_that_cannot_be_written(node: Node, tmp_path: Path) -> None:
    setup = "for at in $(findmnt -rno TARGET -t cgroup,cgroup2); do mount -o remount,bind,ro $at; done"
    found = doctor(node, *other(tmp_path), code=1, setup=setup)
    assert "Read-only file system" in one(found, "cgroups", "problem")["found"]


def test_a_token_that_others_can_read_is_a_warning(node: Node, tmp_path: Path) -> None:
    """Tasks do run."""
    (tmp_path / "d").mkdir(mode=0o755)
    token = tmp_path / "d" / "admin.token"
    token.write_text("abcdef\n")
    token.chmod(0o644)
    found = doctor(node, *other(tmp_path), code=0)
    finding = one(found, "token", "warning")
    assert "mode 0644" in finding["found"]
    assert finding["advice"][0] == f"chmod 600 {token}"
    assert one(found, "data", "warning")["advice"] == [f"chmod 700 {tmp_path}/d"]


def test_a_configuration_that_milld_would_refuse(node: Node, tmp_path: Path) -> None:
    (tmp_path / "milld.toml").write_text("cpus = 4\n")
    found = doctor(node, *other(tmp_path), f"--config={tmp_path}/milld.toml", code=1)
    assert "milld.toml:1: unknown key 'cpus'" in one(found, "setup", "problem")["found"]
    assert str(tmp_path / "d") in one(found, "milld", "warning")["found"], "the flags count all the same"
    found = doctor(node, *other(tmp_path, cpu="lots"), code=1)
    assert "--cpu" in one(found, "setup", "problem")["found"]


def test_what_a_killed_node_left_is_told_and_the_advice_removes_it(make_node: MakeNode) -> None:
    """Two nodes on one containerd; the task of the one that lives is not touched."""
    living = make_node(name="living")
    dead = make_node(name="dead", options={"containerd": str(living.socket), "cpu": "4", "memory": "4G"})
    mine, theirs = (running(node) for node in (living, dead))
    found = doctor(living, code=0)
    assert any(f"pid {dead.pid}" in one["found"] and one["level"] == "ok" for one in found["leftovers"])
    dead.kill9()
    finding = left_by(dead, doctor(living, code=0))
    for told in (
        f"1 container ({theirs})",
        " snapshot",  # and one that was made ahead, or not yet
        "1 control group",
        "log holder",
        str(dead.data_dir),
    ):
        assert told in finding["found"]
    first, *commands = finding["advice"]
    assert f"milld --data-dir {dead.data_dir}" in first
    follow(commands)
    wait_gone(living, dead)
    assert living.api("GET", f"/v1/tasks/{mine}").json()["status"] == "running"


def test_what_a_killed_node_with_a_containerd_of_its_own_left(node: Node, make_node: MakeNode) -> None:
    """The usual kind: nothing but processes and control groups shows it from outside."""
    dead = make_node(name="dead")
    running(dead)
    assert f"pid {dead.pid}" in str(doctor(node, code=0)["leftovers"])
    dead.kill9()
    finding = left_by(dead, doctor(node, code=0))
    for told in ("1 containerd", "1 log holder", "1 shim", "1 control group with 1 process"):
        assert told in finding["found"]
    follow(finding["advice"][1:])
    wait_gone(node, dead)


def follow(commands: list[str]) -> None:
    """As a person does who copies one line after another."""
    for command in commands:
        subprocess.run(["sh", "-c", command], check=False, capture_output=True, timeout=30)


def running(node: Node) -> str:
    task = {"image": "busybox", "args": ["sleep", "1000"], "memory": "32M"}
    task_id: str = node.api("POST", "/v1/tasks/spawn", json=task).json()["id"]
    assert node.api("GET", f"/v1/tasks/{task_id}?wait=running&timeout=20").json()["status"] == "running"
    return task_id


def left_by(node: Node, found: Found) -> Any:
    """The warning about that node, of those that other tests' nodes may cause."""
    (finding,) = [
        finding
        for finding in found["leftovers"]
        if finding["level"] == "warning" and node.node_id[:8] in finding["found"]
    ]
    return finding


def wait_gone(living: Node, dead: Node) -> None:
    until = time.monotonic() + 60
    while any(dead.node_id[:8] in one["found"] for one in doctor(living, code=0)["leftovers"]):
        assert time.monotonic() < until, doctor(living, code=0)["leftovers"]


def test_on_a_machine_without_the_daemon_s_packages(node: Node, tmp_path: Path) -> None:
    """Where only the client's are installed."""
    (tmp_path / "grpc.py").write_text("raise ImportError('No module named grpc')\n")
    env = {**node.env(), "PYTHONPATH": f"{tmp_path}:{node.env()['PYTHONPATH']}"}
    done = subprocess.run([*MILL, "doctor"], check=False, capture_output=True, text=True, env=env, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert "doctor is for the machine that milld runs on" in done.stderr


def test_nothing_in_the_current_directory_is_taken_for_mill(node: Node, tmp_path: Path) -> None:
    """Root runs it, perhaps where others can write."""
    (tmp_path / "mill").mkdir()
    (tmp_path / "mill" / "__init__.py").write_text("raise SystemExit('not ours')\n")
    installed = Path(sys.executable).parent / "mill"
    env = {name: value for name, value in node.env().items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [installed, "doctor"], check=False, capture_output=True, text=True, env=env, timeout=60, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("tasks can run here\n")


@pytest.mark.parametrize("option", ["--no-such-option", "--json=5"])
def test_bad_input(node: Node, option: str) -> None:
    done = run(node, option)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
