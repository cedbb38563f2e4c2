"""The quickstart as a newcomer runs it: it ends 0, shows what it promises, and leaves no trace, also when it is interrupted."""

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import leaks
from tests.node import ROOT

PREFIX = "mill-quick."
SECOND_RUN_S = 15.0
FIRST_RUN_S = 300.0


def traces() -> set[str]:
    """Processes, mounts, network namespaces and folders that may be a quickstart's."""
    site = leaks.Site(Path("/tmp") / PREFIX, Path("/none"), "mill/none")
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if PREFIX in line]
    folders = [str(path) for path in Path("/tmp").glob(f"{PREFIX}*")]
    return {*(line for _, line in leaks.processes(site)), *mounts, *folders, *leaks.network_namespaces()}


def cgroups(node_id: str) -> list[Path]:
    """A node's own, by the beginning of its id; others may come and go meanwhile."""
    return list(leaks.CGROUPS.glob(f"**/mill/{node_id[:8]}"))


@pytest.fixture
def no_traces() -> Iterator[None]:
    before = traces()
    yield
    assert traces() - before == set()


def quickstart() -> "subprocess.Popen[str]":
    environ = {key: value for key, value in os.environ.items() if not key.startswith("MILL_")}
    return subprocess.Popen(
        ["sh", "examples/quickstart.sh"], cwd=ROOT, env=environ, text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


@pytest.mark.usefixtures("no_traces")
def test_the_quickstart_shows_a_task_and_a_failure_and_leaves_nothing() -> None:
    there_already = (ROOT / ".venv/installed").exists()
    began = time.monotonic()
    with quickstart() as process:
        text, _ = process.communicate(timeout=FIRST_RUN_S)
    took_s = time.monotonic() - began
    assert process.returncode == 0, text
    for part in (
        "milld ready",
        "hello from hello-",
        "bye",
        "NAME",
        "line 3",
        "counter-",
        "memory",
        "oom",
        "docker.io/library/busybox",
    ):
        assert part in text, (part, text)
    assert "Traceback" not in text
    shown = re.search(r"quickstart \(([-0-9a-f]+)\)", text)
    assert shown is not None, text
    assert cgroups(shown[1]) == []
    if there_already:
        assert took_s < SECOND_RUN_S


@pytest.mark.usefixtures("no_traces")
def test_an_interrupted_quickstart_cleans_up_too() -> None:
    with quickstart() as process:
        assert process.stdout is not None
        assert any(line.startswith("line 1") for line in process.stdout)
        (node_id,) = [path.read_text() for path in Path("/tmp").glob(f"{PREFIX}*/milld/node.id")]
        assert cgroups(node_id) != []
        os.killpg(process.pid, signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130, rest
    assert cgroups(node_id) == []
