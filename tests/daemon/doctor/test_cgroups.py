"""Judging control groups: every mode out of folders that look like /sys/fs/cgroup, and this host's own."""

from pathlib import Path

import pytest

from mill.config import Config
from mill.daemon.doctor.cgroups import Layout, Mode, judge, look
from mill.daemon.doctor.findings import Finding
from mill.daemon.doctor.host import Host

ALL = frozenset({"cpu", "memory", "pids", "devices"})


def judged(layout: Layout, runtime: str = "runc") -> list[Finding]:
    return list(judge(layout, runtime))


def levels(layout: Layout, runtime: str = "runc") -> list[str]:
    return [str(finding.level) for finding in judged(layout, runtime)]


def v2(root: Path, *, controllers: str, enabled: str = "", inner: bool = False, procs: str = "") -> Host:
    (root / "cgroup.controllers").write_text(controllers)
    (root / "cgroup.subtree_control").write_text(enabled)
    (root / "cgroup.procs").write_text(procs)
    if inner:
        (root / "cgroup.type").write_text("domain\n")
    return Host(Config(), sys_fs_cgroup=root)


def v1(root: Path, *controllers: str, unified: bool = False) -> Host:
    for name in controllers:
        (root / name).mkdir()
        (root / name / "cgroup.procs").touch()
    if unified:
        (root / "unified").mkdir()
        (root / "unified" / "cgroup.controllers").touch()
    return Host(Config(), sys_fs_cgroup=root)


def test_v2_of_the_host_needs_nothing_enabled(tmp_path: Path) -> None:
    layout = look(v2(tmp_path, controllers="cpuset cpu io memory pids\n", procs="1\n"))
    assert (layout.mode, layout.crowded, layout.refused) == (Mode.V2, False, "")
    assert levels(layout) == ["ok"]
    assert {path.name for path in tmp_path.iterdir()} == {
        "cgroup.controllers", "cgroup.subtree_control", "cgroup.procs",
    }  # fmt: skip


def test_v2_that_was_delegated_without_a_controller(tmp_path: Path) -> None:
    layout = look(v2(tmp_path, controllers="cpu pids\n", enabled="cpu pids\n", inner=True))
    (finding,) = judged(layout)
    assert finding.level == "problem"
    assert "memory" in finding.found
    assert "Delegate=yes" in finding.advice[0]


def test_v2_with_processes_where_controllers_must_be_enabled(tmp_path: Path) -> None:
    layout = look(v2(tmp_path, controllers="cpu memory pids\n", enabled="pids\n", inner=True, procs="7\n"))
    found = judged(layout)
    assert found[0].level == "problem"
    assert "cpu, memory cannot be enabled" in found[0].found
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory pids\n")
    assert levels(look(Host(Config(), sys_fs_cgroup=tmp_path))) == ["ok"]


def test_v1_with_what_runc_needs(tmp_path: Path) -> None:
    layout = look(v1(tmp_path, "cpu", "memory", "pids", "devices"))
    assert (layout.mode, layout.swap_limit) == (Mode.V1, False)
    assert levels(layout) == ["warning", "ok"]
    (tmp_path / "memory" / "memory.memsw.limit_in_bytes").touch()
    assert levels(look(Host(Config(), sys_fs_cgroup=tmp_path))) == ["ok"]


def test_v1_without_pids(tmp_path: Path) -> None:
    found = judged(look(v1(tmp_path, "cpu", "memory", "devices")))
    assert found[0].level == "problem"
    assert "pids" in found[0].found


def test_crun_refuses_hybrid(tmp_path: Path) -> None:
    layout = look(v1(tmp_path, "cpu", "memory", "pids", "devices", unified=True))
    assert layout.mode is Mode.HYBRID
    assert "problem" not in levels(layout, "runc")
    assert "problem" in levels(layout, "/usr/bin/crun")


def test_none_at_all(tmp_path: Path) -> None:
    assert levels(look(Host(Config(), sys_fs_cgroup=tmp_path))) == ["problem"]


@pytest.mark.parametrize("mode", [Mode.V1, Mode.V2])
def test_where_no_group_can_be_made(mode: Mode) -> None:
    found = judged(Layout(mode, ALL, refused="/sys/fs/cgroup: Read-only file system"))
    assert [finding.level for finding in found] == ["problem"]
    assert "Read-only file system" in found[0].found


def test_this_host_s_own() -> None:
    """Where all the other tests run containers."""
    layout = look(Host(Config()))
    assert layout.refused == ""
    assert "problem" not in levels(layout)
