"""milld that cannot start: one clear line, exit code 2, nothing started, nothing left. And what a good start leaves behind."""

import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests import leaks
from tests.node import MILLD, MakeNode, Node, free_port


def refused(node: Node, *command: str, program: tuple[str, ...] = tuple(MILLD), told: str) -> None:
    """milld ends by itself with 2 and one line that holds *told*."""
    done = subprocess.run(
        [*program, *command], check=False, capture_output=True, text=True, env=node.env(), timeout=30, cwd="/"
    )
    assert done.returncode == 2, (done.returncode, done.stderr, done.stdout)
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert told in done.stderr


def options(folder: Path, **said: str) -> list[str]:
    """Those of a milld of its own in *folder*, *said* over them."""
    mine = {
        "data-dir": str(folder / "d"),
        "containerd": "embedded",
        "listen": f"127.0.0.1:{free_port()}",
        "dns-listen": f"127.0.0.1:{free_port()}",
        **said,
    }
    return [f"--{key.replace('_', '-')}={value}" for key, value in mine.items()]


@pytest.mark.parametrize(("text", "told"), [
    ("cpu = [\n", ":1:"),
    ("\ncpus = 4\n", "cpus"),
    ("\n\nmemory = 'lots'\n", ":3:"),
    ("[task.a]\nimage = 5\n", "image"),
    ("[task.Bad_Name]\nimage = 'x'\n", "Bad_Name"),
    ("[registry.'r.example.com']\nuser = 'x'\n", "user"),
])  # fmt: skip
def test_a_broken_configuration_names_file_line_and_key(
    node: Node, tmp_path: Path, text: str, told: str
) -> None:
    file = tmp_path / "milld.toml"
    file.write_text(text)
    refused(node, *options(tmp_path), f"--config={file}", told=told)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(("option", "told"), [
    ("--listen=nowhere", "nowhere"),
    ("--listen=127.0.0.1:99999", "99999"),
    ("--cpu=-1", "-1"),
    ("--memory=lots", "lots"),
    ("--name=Not_A_Label", "Not_A_Label"),
    ("--containerd=relative/path", "relative/path"),
    ("--config=/no/such/file.toml", "/no/such/file.toml"),
    ("--no-such-option", "no-such-option"),
])  # fmt: skip
def test_a_bad_option_is_named(node: Node, tmp_path: Path, option: str, told: str) -> None:
    refused(node, *options(tmp_path), option, told=told)
    assert not (tmp_path / "d").exists()


def test_a_socket_that_is_no_containerd(node: Node, tmp_path: Path) -> None:
    nobody = tmp_path / "nobody.sock"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(nobody))
    refused(node, *options(tmp_path, containerd=str(nobody)), told=str(nobody))
    refused(node, *options(tmp_path, containerd="/no/such.sock"), told="/no/such.sock")


def test_a_port_in_use(node: Node, tmp_path: Path) -> None:
    refused(node, *options(tmp_path, listen=f"127.0.0.1:{node.port}"), told=str(node.port))
    assert leaks.processes(leaks.Site(tmp_path, tmp_path / "none", "mill/none")) == []


def test_a_second_milld_on_the_data_directory_names_the_first(node: Node) -> None:
    """And harms it in no way."""
    refused(node, *options(node.home), told=str(node.pid))
    assert node.api("GET", "/v1/status").json()["runtime_ok"] is True


def test_without_permission(node: Node, tmp_path: Path) -> None:
    """The modules are read as root, for the checkout may lie where nobody else can read."""
    code = "import os, mill.daemon.main as main; os.seteuid(65534); main.main()"
    refused(node, *options(tmp_path), program=(sys.executable, "-c", code), told="root")


def test_a_data_directory_that_is_a_file(node: Node, tmp_path: Path) -> None:
    (tmp_path / "d").write_text("")
    refused(node, *options(tmp_path), told=str(tmp_path / "d"))


def test_systemd_is_told_by_milld_itself_when_it_is_ready_and_when_it_stops(
    make_node: MakeNode, tmp_path: Path
) -> None:
    """As a unit of type notify takes it: from the main process, whose pid the kernel vouches for."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        systemd.settimeout(20)
        node = make_node(name="told", busybox=False, environ={"NOTIFY_SOCKET": str(tmp_path / "notify")})
        pid = node.pid
        ready = f"READY=1\nSTATUS=node told, API at {node.address}, containerd at {node.socket}"
        assert told_systemd(systemd) == (ready, pid)
        node.terminate()
        assert told_systemd(systemd) == ("STOPPING=1\nSTATUS=stopping; tasks run on", pid)


def told_systemd(systemd: socket.socket) -> tuple[str, int]:
    """What came, and the pid of who sent it (SCM_CREDENTIALS of unix(7): pid, uid, gid)."""
    text, ((_, _, credentials),), _, _ = systemd.recvmsg(4096, socket.CMSG_SPACE(12))
    return text.decode(), struct.unpack("3i", credentials)[0]


def test_a_node_at_rest_is_small_and_has_three_processes(node: Node) -> None:
    site = node.site()
    lines = [line for _, line in leaks.processes(site)]
    assert len(lines) - sum("containerd-shim" in line for line in lines) <= 3, lines
    assert (node.data_dir.stat().st_mode & 0o077) in {0, 0o011}
