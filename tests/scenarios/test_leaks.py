"""The check for leaks itself: one of each kind is planted beside a node, and each is reported, by its own line."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests import leaks
from tests.node import Node


def ctr(node: Node, *args: str) -> None:
    subprocess.run(
        ["ctr", "--address", str(node.socket), "--namespace", "mill", *args], check=True, capture_output=True
    )


@contextmanager
def container(node: Node) -> Iterator[str]:
    ctr(node, "containers", "create", "docker.io/library/busybox:latest", "planted", "true")
    yield "container planted is left in containerd"
    ctr(node, "containers", "rm", "planted")


@contextmanager
def snapshot(node: Node) -> Iterator[str]:
    ctr(node, "snapshots", "prepare", "planted-snapshot")
    yield "snapshot planted-snapshot is left in overlayfs"
    ctr(node, "snapshots", "rm", "planted-snapshot")


@contextmanager
def lease(node: Node) -> Iterator[str]:
    ctr(node, "leases", "create", "--id", "planted-lease")
    yield "lease planted-lease is left in containerd"
    ctr(node, "leases", "rm", "planted-lease")


@contextmanager
def cgroup(node: Node) -> Iterator[str]:
    pids = leaks.CGROUPS / "pids"
    group = (pids if pids.is_dir() else leaks.CGROUPS) / node.cgroup() / "planted"
    group.mkdir(parents=True)
    yield f"cgroup {group} is left with 0 processes"
    group.rmdir()


@contextmanager
def fifo(node: Node) -> Iterator[str]:
    path = node.data_dir / "planted.fifo"
    os.mkfifo(path)
    yield f"FIFO {path} is left"
    path.unlink()


@contextmanager
def process(node: Node) -> Iterator[str]:
    with running(node.data_dir) as process:
        yield f"process {process.pid} is left"


def running(folder: Path) -> "subprocess.Popen[str]":
    """A process that names *folder* and lives until its stdin closes; it has said something, so that it surely runs."""
    command = [sys.executable, "-c", "print('up', flush=True); input()", str(folder)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


@contextmanager
def mount(node: Node) -> Iterator[str]:
    path = node.data_dir / "planted-mount"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "planted", path], check=True)
    yield f"mount {path} (tmpfs) is left"
    subprocess.run(["umount", path], check=True)
    path.rmdir()


@contextmanager
def namespace(node: Node) -> Iterator[str]:
    name = f"planted-{node.node_id[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    yield f"network namespace {leaks.NETNS / name} is left"
    subprocess.run(["ip", "netns", "del", name], check=True)


@contextmanager
def bundle(node: Node) -> Iterator[str]:
    path = node.data_dir / "containerd/state/io.containerd.runtime.v2.task/mill/planted"
    path.mkdir(parents=True)
    yield f"bundle {path} is left"
    path.rmdir()


KINDS = [container, snapshot, lease, cgroup, fifo, process, mount, namespace, bundle]


def found(node: Node) -> list[str]:
    return leaks.find(node.site(), allowed=node.at_rest())


def test_a_planted_leak_of_each_kind_is_reported(fresh_node: Node) -> None:
    assert leaks.wait_clean(fresh_node.site(), allowed=fresh_node.at_rest) == []
    with ExitStack() as planted:
        expected = [planted.enter_context(kind(fresh_node)) for kind in KINDS]
        report = found(fresh_node)
        for line in expected:
            assert any(seen.startswith(line) for seen in report), (line, report)
    assert leaks.wait_clean(fresh_node.site(), allowed=fresh_node.at_rest) == []


def test_a_test_that_leaks_fails(fresh_node: Node) -> None:
    """What the fixtures do at their end, done here with a leak: it names it."""
    with fifo(fresh_node) as line:
        left = leaks.wait_clean(fresh_node.site(), allowed=fresh_node.at_rest, within_s=0.2)
    assert left == [line]


def test_what_belongs_to_another_node_is_not_reported(fresh_node: Node, tmp_path: Path) -> None:
    other = leaks.Site(
        tmp_path, tmp_path / "no.sock", "mill/00000000", namespaces_before=leaks.network_namespaces()
    )
    with mount(fresh_node), fifo(fresh_node), cgroup(fresh_node):
        assert leaks.find(other) == []


@pytest.mark.parametrize("kind", [process, mount, cgroup], ids=lambda kind: kind.__name__)
def test_sweeping_removes_what_a_failed_test_left(tmp_path: Path, kind: object) -> None:
    """On a site of its own, without a node."""
    site = leaks.Site(
        tmp_path, tmp_path / "no.sock", "mill/planted0", namespaces_before=leaks.network_namespaces()
    )
    if kind is process:
        left = running(tmp_path)
    elif kind is mount:
        (tmp_path / "m").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "planted", tmp_path / "m"], check=True)
    else:
        ((leaks.CGROUPS / "pids") if (leaks.CGROUPS / "pids").is_dir() else leaks.CGROUPS).joinpath(
            "mill/planted0/x"
        ).mkdir(parents=True)
    assert len(leaks.find(site)) == 1
    leaks.sweep(site)
    assert leaks.find(site) == []
    if kind is process:
        left.communicate()
