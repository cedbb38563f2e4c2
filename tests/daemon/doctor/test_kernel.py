"""Judging the kernel and the seccomp profile, which this host has."""

from pathlib import Path

import pytest

from mill.config import Config
from mill.containerd import seccomp
from mill.daemon.doctor import kernel
from mill.daemon.doctor.host import Host

ETC, USR = seccomp.PROFILE_PATHS


def test_this_host_has_what_containers_need() -> None:
    assert [str(one.level) for one in kernel.kernel(Host(Config()))] == ["ok"]
    assert "problem" not in {str(one.level) for one in kernel.filter_(Host(Config()))}


def test_each_thing_that_is_missing_is_named() -> None:
    found = list(kernel.judge("4.19.0", ["net"], openat2=False, pidfd=False))
    assert [str(one.level) for one in found] == ["problem"] * 3
    for one, told in zip(found, ("namespaces net", "openat2", "pidfd_open"), strict=True):
        assert told in one.found


def test_namespaces_are_looked_for(tmp_path: Path) -> None:
    (tmp_path / "self" / "ns").mkdir(parents=True)
    for name in ("mnt", "pid", "ipc", "uts"):
        (tmp_path / "self" / "ns" / name).touch()
    (finding,) = kernel.kernel(Host(Config(), proc=tmp_path))
    assert (finding.level, "namespaces net" in finding.found) == ("problem", True)


@pytest.mark.parametrize(("chosen", "broken", "supported", "levels"), [
    (USR, [], True, ["ok"]),
    (ETC, [USR], True, ["ok"]),
    (USR, [ETC], True, ["warning", "ok"]),
    (None, [], True, ["warning"]),
    (None, [ETC], True, ["warning", "warning"]),
    (USR, [], False, ["problem"]),
])  # fmt: skip
def test_the_profile(chosen: Path | None, broken: list[Path], supported: bool, levels: list[str]) -> None:  # noqa: FBT001 -- a parameter
    found = list(kernel.judge_filter(chosen, broken, supported=supported))
    assert [str(one.level) for one in found] == levels
