"""Where tasks' cgroups are by either driver, on trees that look like cgroup v2; what systemd itself does is for `tests/vm.sh`."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mill.containerd.cgroups import Cgroups
from mill.containerd.node_cgroups import NodeCgroups, check_systemd
from mill.errors import SetupError

NODE = "abcd1234"
PLAIN = f"mill/{NODE}/web-x7k2"
SLICES = f"mill.slice/mill-{NODE}.slice"
SLICE = rf"{SLICES}/mill-{NODE}-web\x2dx7k2.slice"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids io\n")
    return tmp_path


def of(root: Path, *, systemd: bool) -> NodeCgroups:
    return NodeCgroups(Cgroups.detect(root), NODE, systemd)


def test_the_runtime_is_asked_for_a_path_or_for_a_scope_in_a_slice_of_its_own(root: Path) -> None:
    plain, systemd = of(root, systemd=False), of(root, systemd=True)
    assert plain.asked("web-x7k2") == f"/{PLAIN}"
    assert systemd.asked("web-x7k2") == rf"mill-{NODE}-web\x2dx7k2.slice:mill-{NODE}:web-x7k2"
    assert (plain.path("web-x7k2"), systemd.path("web-x7k2")) == (f"/{PLAIN}", f"/{SLICE}")
    assert plain.annotations == {}
    assert systemd.annotations == {
        "org.systemd.property.CollectMode": "'inactive-or-failed'",
        "org.systemd.property.MemorySwapMax": "uint64 0",
    }


def test_a_task_that_runs_is_found_after_the_setting_was_changed(root: Path) -> None:
    (root / PLAIN).mkdir(parents=True)
    (root / PLAIN / "memory.events").write_text("oom_kill 2\n")
    assert of(root, systemd=True).path("web-x7k2") == f"/{PLAIN}"
    assert of(root, systemd=True).meter("web-x7k2").toll().oom_kills == 2
    (root / SLICE).mkdir(parents=True)
    assert of(root, systemd=True).path("web-x7k2") == f"/{SLICE}"
    assert of(root, systemd=False).path("web-x7k2") == f"/{PLAIN}"


def test_tasks_of_both_kinds_are_listed_and_nobody_else_s(root: Path) -> None:
    for path in (PLAIN, SLICE, f"mill/{NODE}/b", rf"{SLICES}/mill-{NODE}-c\x2d1.slice", f"{SLICES}/strange"):
        (root / path).mkdir(parents=True)
    for systemd in (True, False):
        assert of(root, systemd=systemd).task_ids() == {"web-x7k2", "b", "c-1"}


@given(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True))
def test_the_slice_of_any_task_is_one_step_below_the_node_s_and_no_longer_than_systemd_takes(
    task_id: str,
) -> None:
    slice_ = of(Path("/none"), systemd=True).asked(task_id).split(":")[0]
    assert slice_.count("-") == 2
    assert len(slice_) < 256


def test_the_cpu_quota_is_not_ours_to_write_where_systemd_keeps_it(root: Path) -> None:
    (root / SLICE).mkdir(parents=True)
    with pytest.raises(OSError, match="systemd"):
        of(root, systemd=True).limit_cpu("web-x7k2", 50_000, 100_000)
    (root / PLAIN).mkdir(parents=True)
    of(root, systemd=False).limit_cpu("web-x7k2", 50_000, 100_000)
    assert (root / PLAIN / "cpu.max").read_text() == "50000 100000"


def test_a_node_whose_tasks_are_gone_leaves_nothing(root: Path) -> None:
    node = of(root, systemd=False)
    (root / PLAIN).mkdir(parents=True)
    node.remove_node()
    assert node.task_ids() == {"web-x7k2"}
    node.remove("web-x7k2")
    assert node.task_ids() == set()
    node.remove_node()
    assert not (root / "mill").exists()


def test_systemd_is_needed_and_cgroup_v2_and_a_runtime_that_can(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/systemctl").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    v2, v1 = Cgroups.detect(root), Cgroups(v2=False, root=root)
    check_systemd(v2, "runc", tmp_path)
    for cgroups, runtime, running, told in (
        (v2, "runc", tmp_path / "none", "does not run here"),
        (v1, "runc", tmp_path, "needs cgroup v2"),
        (v2, "runsc", tmp_path, "runsc"),
    ):
        with pytest.raises(SetupError, match=told):
            check_systemd(cgroups, runtime, running)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(SetupError, match="systemctl"):
        check_systemd(v2, "runc", tmp_path)
