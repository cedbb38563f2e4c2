"""milld that cannot start, in a process of its own: one line, exit code 2, no traceback, and nothing made."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

import mill
from mill.containerd.node_cgroups import SYSTEMD
from mill.daemon.datadir import claimed

ROOT = Path(mill.__file__).parent.parent
ENVIRON = {
    **{key: value for key, value in os.environ.items() if not key.startswith("MILL_")},
    "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
}
MILLD = [sys.executable, "-m", "mill.daemon.main"]
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="milld is root's")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A port that is taken."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken


def command(folder: Path, *options: str) -> list[str]:
    return [
        f"--data-dir={folder / 'd'}",
        "--containerd=/no/such.sock",
        "--listen=127.0.0.1:0",
        "--dns-listen=127.0.0.1:0",
        *options,
    ]


def run(
    folder: Path, *options: str, environ: Mapping[str, str] = ENVIRON, program: Sequence[str] = MILLD
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*program, *command(folder, *options)],
        check=False, capture_output=True, text=True, timeout=30, cwd="/", env=environ,
    )  # fmt: skip


def refused(done: subprocess.CompletedProcess[str], *told: str) -> None:
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("milld: ")
    for text in told:
        assert text in done.stderr
    assert "Traceback" not in done.stderr


def everything(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_a_port_in_use(tmp_path: Path, listener: socket.socket) -> None:
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    refused(run(tmp_path, f"--listen={address}"), f"{address} is in use", "--listen")
    assert everything(tmp_path) == set()


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_a_port_of_dns_in_use(tmp_path: Path, kind: int) -> None:
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        refused(run(tmp_path, f"--dns-listen={address}"), f"{address} (DNS) is in use", "--dns-listen")
    assert everything(tmp_path) == set()


def test_an_address_that_is_not_this_hosts(tmp_path: Path) -> None:
    refused(run(tmp_path, "--listen=192.0.2.1:4400"), "cannot listen on 192.0.2.1:4400")
    assert everything(tmp_path) == set()


def test_a_second_milld(tmp_path: Path) -> None:
    with claimed(tmp_path / "d"):
        (tmp_path / "d" / "mine").touch()
        before = everything(tmp_path)
        refused(run(tmp_path), f"another milld (pid {os.getpid()})", str(tmp_path / "d"))
        assert everything(tmp_path) == before


def test_sockets_that_are_no_containerd(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "nobody"))
    (tmp_path / "file").touch()
    before = everything(tmp_path)
    refused(run(tmp_path), "/no/such.sock does not exist", "--containerd embedded")
    refused(run(tmp_path, f"--containerd={tmp_path / 'nobody'}"), "nobody listens there")
    refused(run(tmp_path, f"--containerd={tmp_path / 'file'}"), "is not a socket")
    assert everything(tmp_path) == before


@pytest.mark.parametrize(("text", "told"), [
    ("cpu = [\n", "milld.toml"),
    ("\n[task.a]\nimage = 'x'\ncpus = 1\n", "milld.toml:4: task.a.cpus: unknown field"),
    ("colour = 'red'\n", "milld.toml:1: unknown key 'colour'"),
    ("listen = 5\n", "milld.toml:1: listen:"),
    (b"\xff", "is not UTF-8"),
])  # fmt: skip
def test_a_broken_configuration(tmp_path: Path, text: str | bytes, told: str) -> None:
    file = tmp_path / "milld.toml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    refused(run(tmp_path, f"--config={file}"), told)
    assert everything(tmp_path) == {"milld.toml"}


def test_a_configuration_that_is_missing(tmp_path: Path) -> None:
    refused(
        run(tmp_path, environ={**ENVIRON, "MILL_CONFIG": "/no/such/file"}),
        "cannot read /no/such/file: No such file or directory",
    )


def test_the_environment_is_checked_too(tmp_path: Path) -> None:
    refused(run(tmp_path, environ={**ENVIRON, "MILL_MEMORY": "lots"}), "MILL_MEMORY", "lots")
    assert everything(tmp_path) == set()


def test_a_data_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "d").write_text("mine")
    refused(run(tmp_path), f"cannot use the data directory {tmp_path / 'd'}", "--data-dir")
    assert (tmp_path / "d").read_text() == "mine"


def test_a_directory_that_was_there_keeps_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "admin.token").write_text("mine")
    refused(run(tmp_path), "/no/such.sock")
    assert everything(tmp_path) == {"d", "d/admin.token", "d/milld.pid"}


NOBODY = """
import os
from mill.daemon.main import main
os.setgroups([]), os.setgid(65534), os.setuid(65534)
main()
"""


def test_somebody_who_is_not_root(tmp_path: Path) -> None:
    """Even where only the missing right is in the way. Turned into nobody late: the interpreter may be root's alone."""
    tmp_path.chmod(0o777)
    refused(run(tmp_path, program=[sys.executable, "-c", NOBODY]), "must run as root")
    assert everything(tmp_path) == set()


def test_help_and_version_need_no_right(tmp_path: Path) -> None:
    for option, told in (("--help", "--data-dir"), ("--version", mill.__version__)):
        done = run(tmp_path, option, program=[sys.executable, "-c", NOBODY])
        assert (done.returncode, done.stderr) == (0, "")
        assert told in done.stdout
    assert everything(tmp_path) == set()


def test_what_listens_and_never_answers(tmp_path: Path) -> None:
    """It is given up by itself; and a stop meanwhile is heeded in time."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()
        server.settimeout(20)
        waiting, stopped = [
            subprocess.Popen(
                [*MILLD, *command(tmp_path / name, f"--containerd={tmp_path / 's'}")],
                env=ENVIRON, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for name in ("waiting", "stopped")
        ]  # fmt: skip
        held = [server.accept()[0] for _ in range(4)]  # each looks whether somebody listens, and connects
        stopped.send_signal(signal.SIGTERM)
        began = time.monotonic()
        _, said = stopped.communicate(timeout=10)
        assert time.monotonic() - began < 5.0
        assert "Traceback" not in said
        out, err = waiting.communicate(timeout=20)
        for one in held:
            one.close()
    refused(
        subprocess.CompletedProcess([], waiting.returncode, out, err),
        str(tmp_path / "s"),
        "is not containerd, or hangs",
    )
    assert not (tmp_path / "waiting" / "d").exists()


@pytest.mark.parametrize("flag", ["--systemd-cgroup", "--systemd-cgroup=true"])
def test_cgroups_by_a_systemd_that_does_not_run(tmp_path: Path, flag: str) -> None:
    told = "/no/such.sock" if SYSTEMD.is_dir() else "systemd_cgroup: systemd does not run here"
    refused(run(tmp_path, flag), told)
