"""A data directory that is read-only, or full, at whichever of its files: milld does not start, in one line, and leaves nothing."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import leaks
from tests.node import Node
from tests.scenarios.places import containerd_under

MOST_FILES = 20
"""More than a first start makes, its containerd being elsewhere."""


@pytest.fixture
def home() -> Iterator[Path]:
    home = Path(tempfile.mkdtemp(prefix="mill-", dir="/tmp"))
    yield home
    shutil.rmtree(home)


@pytest.fixture
def node(home: Path) -> Iterator[Node]:
    """Not started; its data directory is a tmpfs, its containerd is elsewhere."""
    with containerd_under(home / "c") as socket:
        node = Node(name="stuck", home=home, options={"cpu": "4", "memory": "4G", "containerd": str(socket)})
        node.data_dir.mkdir()
        mount(node, "size=16M,mode=700")
        try:
            yield node
            assert leaks.processes(node.site()) == []
        finally:
            node.kill9()
            subprocess.run(["umount", "-l", node.data_dir], check=True)


def mount(node: Node, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "mill-test", node.data_dir], check=True)


def refusal(node: Node) -> str | None:
    """What milld says that does not start; None when it does, and then it runs."""
    process = subprocess.Popen(
        node.command(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=node.env(), cwd="/"
    )
    assert process.stdout is not None
    ready = process.stdout.readline()
    if ready:
        process.terminate()
    _, said = process.communicate(timeout=30)
    assert process.returncode == (0 if ready else 2), said
    assert "Traceback" not in said
    assert '"exception"' not in said
    lines = [line for line in said.splitlines() if line.startswith("milld: ")]
    assert len(lines) == (0 if ready else 1), said
    return lines[0] if lines else None


def test_a_directory_that_cannot_be_written_any_more_is_told_and_tried_again_with_success(node: Node) -> None:
    """First as a disk that was mounted anew, then as a mount of its own."""
    assert refusal(node) is None
    before = {path.name for path in node.data_dir.iterdir()}
    for remount in ("remount,ro", "remount,bind,ro"):
        subprocess.run(["mount", "-o", remount, node.data_dir], check=True)
        said = refusal(node)
        assert said is not None
        assert f"cannot use the data directory {node.data_dir}: Read-only file system" in said
        assert {path.name for path in node.data_dir.iterdir()} == before
        subprocess.run(["mount", "-o", remount.replace("ro", "rw"), node.data_dir], check=True)
    assert refusal(node) is None


def test_a_disk_that_is_full_for_any_file_of_the_first_start_is_one_line(node: Node) -> None:
    """With room for one file more each time, every one of them is once the first that cannot be made."""
    told = []
    for files in range(2, MOST_FILES):
        subprocess.run(["umount", node.data_dir], check=True)
        mount(node, f"size=16M,mode=700,nr_inodes={files}")
        said = refusal(node)
        if said is None:
            break
        assert str(node.data_dir) in said or "No space left" in said
        told.append(said)
    else:
        raise AssertionError(f"it never started: {told[-1]}")
    for name in ("node.id", "subnet", "mill.db", "admin.token", "api.json"):
        assert any(name in said for said in told), (name, told)
