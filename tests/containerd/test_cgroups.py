"""Meters and sweeping on trees that look like cgroup v1 and v2; no kernel needed."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mill.containerd.cgroups import Cgroups, Levels, Meter
from mill.tasks.states import Toll

PATH = "/mill/node/task-1"
V1 = {
    "memory/memory.usage_in_bytes": "5000\n",
    "memory/memory.stat": "cache 1\ninactive_file 7\ntotal_inactive_file 2000\n",
    "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
    "memory/memory.max_usage_in_bytes": "9000\n",
    "cpuacct/cpuacct.usage": "1500000000\n",
    "pids/pids.current": "4\n",
    "blkio/blkio.throttle.io_service_bytes": "8:0 Read 100\n8:0 Write 20\n8:0 Total 120\n8:16 Read 1\nTotal 121\n",
}
V2 = {
    "memory.current": "5000\n",
    "memory.stat": "anon 1\ninactive_file 2000\n",
    "memory.events": "low 0\nhigh 0\nmax 12\noom 4\noom_kill 3\n",
    "memory.peak": "9000\n",
    "cpu.stat": "usage_usec 1500000\nuser_usec 1\nsystem_usec 2\n",
    "pids.current": "4\n",
    "io.stat": "8:0 rbytes=100 wbytes=20 rios=1 wios=1 dbytes=0 dios=0\n8:16 rbytes=1 wbytes=0\n",
}


def make_v1(root: Path, files: dict[str, str] | None = None, path: str = PATH) -> Cgroups:
    for name, text in (V1 if files is None else files).items():
        controller, _, file = name.partition("/")
        write(root / controller / path.lstrip("/") / file, text)
    return Cgroups.detect(root)


def make_v2(root: Path, files: dict[str, str] | None = None, path: str = PATH) -> Cgroups:
    write(root / "cgroup.controllers", "cpu memory pids io\n")
    for name, text in (V2 if files is None else files).items():
        write(root / path.lstrip("/") / name, text)
    return Cgroups.detect(root)


Make = Callable[..., Cgroups]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 -- the listing itself is one of them, always


@pytest.mark.parametrize("make", [make_v1, make_v2])
def test_a_meter_tells_the_same_of_both_versions(make: Make, tmp_path: Path) -> None:
    cgroups = make(tmp_path)
    assert cgroups.v2 == (make is make_v2)
    meter = cgroups.meter(PATH)
    assert meter.levels() == Levels(1.5, 3000, 4, 101, 20)
    assert meter.toll() == Toll(oom_kills=3, peak_memory=9000)
    meter.close()


@pytest.mark.parametrize("make", [make_v1, make_v2])
def test_what_cannot_be_read_is_nothing(make: Make, tmp_path: Path) -> None:
    meter = make(tmp_path, {}).meter(PATH)
    meter.keep()
    assert meter.levels() == Levels(0.0, 0, 0, 0, 0)
    assert meter.toll() == Toll(0, None)
    meter.close()


@pytest.mark.parametrize("make", [make_v1, make_v2])
def test_what_was_kept_is_read_after_the_files_have_gone(make: Make, tmp_path: Path) -> None:
    """A fake file lives on by its descriptor; the kernel's answers ENODEV, which reads as nothing."""
    meter = make(tmp_path).meter(PATH)
    meter.keep()
    for file in tmp_path.rglob("task-1/*"):
        file.unlink()
    assert meter.toll() == Toll(3, 9000)
    assert meter.cpu_seconds() == 1.5
    assert meter.memory() == 3000
    meter.close()


@pytest.mark.parametrize("make", [make_v1, make_v2])
def test_a_closed_meter_holds_no_descriptor(make: Make, tmp_path: Path) -> None:
    before = descriptors()
    meter = make(tmp_path).meter(PATH)
    meter.keep()
    meter.levels()
    held = descriptors() - before
    assert 4 <= held <= 7
    for _ in range(10):
        meter.levels()
    assert descriptors() - before == held
    meter.close()
    meter.close()
    assert descriptors() == before


def test_memory_is_never_below_nothing(tmp_path: Path) -> None:
    meter = make_v2(tmp_path, V2 | {"memory.current": "10\n"}).meter(PATH)
    assert meter.memory() == 0
    meter.close()


def test_an_old_kernel_knows_no_peak(tmp_path: Path) -> None:
    meter = make_v2(tmp_path, {k: v for k, v in V2.items() if k != "memory.peak"}).meter(PATH)
    assert meter.toll() == Toll(3, None)
    meter.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.text(st.sampled_from("0123456789 \n=rbytesRead8:x²-"), max_size=60))
def test_no_text_is_an_error(tmp_path: Path, text: str) -> None:
    for cgroups in (
        make_v1(tmp_path / "1", dict.fromkeys(V1, text)),
        make_v2(tmp_path / "2", dict.fromkeys(V2, text)),
    ):
        meter = cgroups.meter(PATH)
        levels, toll = meter.levels(), meter.toll()
        assert (
            min(levels.cpu_seconds, levels.memory, levels.pids, levels.read_bytes, levels.written_bytes) >= 0
        )
        assert toll.oom_kills >= 0
        meter.close()


# -- the hierarchy --------------------------------------------------------------------------------------------------


def test_a_hybrid_host_is_v1(tmp_path: Path) -> None:
    write(tmp_path / "unified" / "cgroup.controllers", "")
    assert Cgroups.detect(tmp_path).v2 is False


def test_swap_is_limited_where_the_kernel_accounts_for_it(tmp_path: Path) -> None:
    cgroups = make_v1(tmp_path / "1")
    assert cgroups.limits_swap is False
    write(tmp_path / "1/memory/memory.memsw.limit_in_bytes", "0")
    assert cgroups.limits_swap is True
    assert make_v2(tmp_path / "2").limits_swap is True


def test_a_quota_is_written_where_each_version_has_it(tmp_path: Path) -> None:
    one, two = make_v1(tmp_path / "1", V1 | {"cpu/cpu.shares": ""}), make_v2(tmp_path / "2")
    one.limit_cpu(PATH, 25000, 100000)
    two.limit_cpu(PATH, 25000, 100000)
    below = PATH.lstrip("/")
    assert (tmp_path / "1/cpu" / below / "cpu.cfs_quota_us").read_text() == "25000"
    assert (tmp_path / "1/cpu" / below / "cpu.cfs_period_us").read_text() == "100000"
    assert (tmp_path / "2" / below / "cpu.max").read_text() == "25000 100000"


@pytest.mark.parametrize("make", [make_v1, make_v2])
def test_a_quota_for_no_cgroup_is_an_oserror(make: Make, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        make(tmp_path).limit_cpu("/mill/node/other", 1, 2)


def test_children_are_found_in_any_hierarchy(tmp_path: Path) -> None:
    for folder in (
        "memory/mill/n/a",
        "pids/mill/n/b",
        "unified/mill/n/c",
        "cpu/mill/other/d",
        "memory/mill/n/a/inner",
    ):
        (tmp_path / folder).mkdir(parents=True)
    write(tmp_path / "memory/mill/n/tasks", "")
    cgroups = Cgroups(v2=False, root=tmp_path)
    assert cgroups.children("/mill/n") == {"a", "b", "c"}
    assert cgroups.children("/mill/nobody") == set()


def test_removing_takes_what_is_empty_and_leaves_the_rest(tmp_path: Path) -> None:
    """A directory with a file in it stands for a cgroup with a process: rmdir refuses both."""
    for folder in ("memory/mill/n/a/inner", "pids/mill/n/a", "cpu/mill/n/a", "memory/mill/n/b"):
        (tmp_path / folder).mkdir(parents=True)
    write(tmp_path / "cpu/mill/n/a/busy", "")
    cgroups = Cgroups(v2=False, root=tmp_path)
    cgroups.remove("/mill/n/a")
    assert cgroups.children("/mill/n") == {"a", "b"}
    assert not (tmp_path / "memory/mill/n/a").exists()
    assert (tmp_path / "cpu/mill/n/a/busy").exists()
    cgroups.remove("/mill/n", below=False)
    assert (tmp_path / "memory/mill/n/b").exists(), "only itself, and only if empty"
    assert not (tmp_path / "pids/mill/n").exists()
    cgroups.remove("/mill/none")


def test_on_this_host_a_cgroup_of_v1_or_v2_is_read() -> None:
    cgroups = Cgroups.detect()
    meter: Meter = cgroups.meter("/")
    try:
        assert meter.cpu_seconds() > 0
    finally:
        meter.close()
