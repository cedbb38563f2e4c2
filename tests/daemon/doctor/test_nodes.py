"""What other nodes have left, out of folders that look like /proc and /sys/fs/cgroup; who lives is left alone."""

from pathlib import Path

import pytest

from mill.config import Config
from mill.daemon.doctor.host import Host
from mill.daemon.doctor.nodes import Belongings, judge, others

OWN = "11111111-1111-4111-8111-111111111111"
OTHER = "22222222-2222-4222-8222-222222222222"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    """This node and another, each with a data directory, a control group and a log holder."""
    for pid, name, node in ((11, "own", OWN), (22, "other", OTHER)):
        data_dir = tmp_path / name
        data_dir.mkdir()
        (data_dir / "node.id").write_text(f"{node}\n")
        (data_dir / "milld.pid").write_text("777\n")
        (tmp_path / "proc" / str(pid)).mkdir(parents=True)
        line = f"/usr/bin/python3\0-I\0-S\0/x/mill/logs/holder.py\0{data_dir}\0"
        (tmp_path / "proc" / str(pid) / "cmdline").write_text(line)
        group = tmp_path / "cgroup" / "pids" / "mill" / node[:8] / "task-abcd"
        group.mkdir(parents=True)
        (group / "cgroup.procs").write_text("101\n102\n")
    (tmp_path / "proc" / "locks").touch()
    config = Config(data_dir=tmp_path / "own")
    return Host(config, proc=tmp_path / "proc", sys_fs_cgroup=tmp_path / "cgroup")


def test_only_other_nodes_are_told(host: Host) -> None:
    (one,) = others(host, {OTHER: {"containers": ["task-abcd"], "snapshots": [], "leases": []}})
    assert (one.node, one.milld, one.data_dir) == (OTHER, None, host.data_dir.parent / "other")
    assert one.groups == {"task-abcd": 2}
    assert one.processes == {22: "log holder"}


def test_one_whose_milld_runs_has_left_nothing(host: Host) -> None:
    inode = (host.data_dir.parent / "other" / "milld.pid").stat().st_ino
    (host.proc / "locks").write_text(f"1: FLOCK  ADVISORY  WRITE 778 fe:00:{inode} 0 EOF\n")
    (one,) = others(host, {})
    assert one.milld is None, "a file of another filesystem that has the same number"
    (host.proc / "locks").write_text(f"1: FLOCK  ADVISORY  WRITE 777 fe:00:{inode} 0 EOF\n")
    (one,) = others(host, {})
    assert one.milld == 777
    finding = judge(one, "/s", host.sys_fs_cgroup / "pids/mill")
    assert (finding.level, finding.advice) == ("ok", ())
    assert "pid 777" in finding.found


def test_the_way_to_remove_is_in_the_order_that_works(host: Host) -> None:
    (one,) = others(
        host, {OTHER: {"containers": ["task-abcd"], "snapshots": ["task-abcd"], "leases": ["l1"]}}
    )
    finding = judge(one, "/run/s.sock", host.sys_fs_cgroup / "pids/mill")
    assert finding.level == "warning"
    for told in ("1 container (task-abcd)", "1 lease (l1)", "with 2 processes", "1 log holder (pid 22)"):
        assert told in finding.found
    order = [
        "start milld --data-dir",
        "tasks rm -f task-abcd",
        "snapshots rm task-abcd",
        "leases rm l1",
        "rmdir",
        "kill 22",
    ]
    at = [next(i for i, line in enumerate(finding.advice) if text in line) for text in order]
    assert at == sorted(at)


def test_tasks_without_a_containerd_are_killed_by_their_group(host: Host) -> None:
    (one,) = others(host, {})
    advice = judge(one, "", host.sys_fs_cgroup / "pids/mill").advice
    groups = host.sys_fs_cgroup / "pids/mill/22222222"
    assert f"kill -9 $(cat {groups}/*/cgroup.procs)" in advice


def test_before_the_first_start_every_node_is_another(host: Host) -> None:
    (host.data_dir / "node.id").unlink()
    assert {one.node for one in others(host, {})} == {OTHER[:8], OTHER, OWN[:8]} - {OTHER[:8]}


def test_a_node_of_which_only_a_group_is_left(host: Host) -> None:
    finding = judge(Belongings("33333333", groups={"t": 0}), "", host.sys_fs_cgroup)
    assert (
        "node 33333333, whose milld does not run, has left: 1 control group with 0 processes" in finding.found
    )
    assert not any("kill" in line for line in finding.advice)
