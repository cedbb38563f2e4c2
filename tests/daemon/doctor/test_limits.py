"""Judging who runs it, descriptors and memory; the running milld's own limit where there is one."""

import fcntl
import os
from pathlib import Path

import pytest

from mill.config import Config
from mill.daemon.datadir import LOCK_NAME, claimed
from mill.daemon.doctor import limits
from mill.daemon.doctor.host import Host
from mill.units import GIB, MIB


def test_it_must_be_root() -> None:
    assert limits.judge_root(0).level == "ok"
    finding = limits.judge_root(1000)
    assert (finding.level, finding.advice) == ("problem", ("run it again as root: sudo mill doctor",))


@pytest.mark.parametrize(("hard", "level"), [
    (1_048_576, "ok"), (-1, "ok"), (16_384, "ok"), (4_096, "warning"), (256, "problem"),
])  # fmt: skip
def test_open_files(hard: int, level: str) -> None:
    finding = limits.judge_files(hard, "here")
    assert finding.level == level
    assert any("LimitNOFILE" in line for line in finding.advice) is (level != "ok")


def test_the_limit_of_the_milld_that_runs(tmp_path: Path) -> None:
    """It is the process that holds the lock, found without touching it."""
    host = Host(Config(data_dir=tmp_path / "d"))
    assert host.milld_of(host.data_dir) is None
    assert [one.found.endswith("here") for one in limits.files(host)] == [True]
    with claimed(host.data_dir):
        assert host.milld_of(host.data_dir) == os.getpid()
        assert [one.found.endswith("of the running milld") for one in limits.files(host)] == [True]
        (host.data_dir / "kept").touch()
    assert host.milld_of(host.data_dir) is None
    with (host.data_dir / LOCK_NAME).open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)  # nobody's way of having a data directory
        assert host.milld_of(host.data_dir) is None


@pytest.mark.parametrize(("total", "swap", "offered", "level"), [
    (8 * GIB, 0, None, "ok"),
    (8 * GIB, 2 * GIB, 4 * GIB, "ok"),
    (512 * MIB, 0, None, "warning"),
    (8 * GIB, 0, 16 * GIB, "warning"),
])  # fmt: skip
def test_memory(total: int, swap: int, offered: int | None, level: str) -> None:
    (finding,) = limits.judge_memory(total, swap, Config(memory=offered))
    assert finding.level == level


def test_this_host_s_memory_is_read() -> None:
    (finding,) = limits.memory(Host(Config()))
    assert "of memory" in finding.found
    assert not finding.found.startswith("0")
