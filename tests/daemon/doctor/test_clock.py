"""Judging the clock: absurd, behind the data, kept by nobody."""

import os
from pathlib import Path

import pytest

from mill.config import Config
from mill.daemon.doctor.clock import clock, judge, newest
from mill.daemon.doctor.host import Host

NOW = 1_800_000_000.0


@pytest.mark.parametrize(("now", "written", "synchronised", "level", "told"), [
    (NOW, NOW - 5, True, "ok", "synchronised"),
    (NOW, NOW + 5, True, "ok", "synchronised"),
    (NOW, NOW - 5, False, "warning", "kept right by nobody"),
    (NOW, NOW + 3600, True, "warning", "is before 2027-01-15 09:00:00Z"),
    (0.0, 0.0, True, "problem", "1970-01-01"),
    (NOW * 10, 0.0, True, "problem", "cannot be right"),
])  # fmt: skip
def test_the_clock(now: float, written: float, synchronised: bool, level: str, told: str) -> None:  # noqa: FBT001 -- a parameter
    (finding,) = judge(now, written, synchronised=synchronised)
    assert finding.level == level
    assert told in finding.found


def test_the_newest_file_counts_wherever_milld_wrote_it(tmp_path: Path) -> None:
    assert newest(tmp_path) == 0.0
    for name in ("mill.db", "logs/a/stdout", "containerd/root/layer"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    os.utime(tmp_path / "mill.db", (NOW, NOW))
    os.utime(tmp_path / "logs/a/stdout", (NOW + 7, NOW + 7))
    os.utime(tmp_path / "containerd/root/layer", (NOW * 2, NOW * 2))  # an image's files are of any age
    assert newest(tmp_path) == NOW + 7


def test_a_host_whose_clock_went_back(tmp_path: Path) -> None:
    (tmp_path / "mill.db").touch()
    at = (tmp_path / "mill.db").stat().st_mtime
    (finding,) = clock(Host(Config(data_dir=tmp_path), now=lambda: at - 7200))
    assert (finding.level, "last written" in finding.found) == ("warning", True)
