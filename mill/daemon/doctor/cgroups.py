"""Control groups: which version, whether the controllers are there that limit tasks, and whether groups can be made.

`look` gathers, `judge` decides. The trial makes one empty group and removes it.
"""

import os
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

import attrs

from mill.daemon.doctor.findings import Finding, ok, problem, warning
from mill.daemon.doctor.host import Host, read

NEEDED = ("cpu", "memory", "pids")
NEEDED_V1 = (*NEEDED, "devices")
"""runc starts nothing where v1's device rules cannot be set."""
V1_ADVICE = (
    "boot with cgroup v2 (systemd.unified_cgroup_hierarchy=1), or mount the missing ones below /sys/fs/cgroup"
)


class Mode(StrEnum):
    NONE = "none"
    V1 = "v1"
    HYBRID = "hybrid (v1 with v2 beside it)"
    V2 = "v2"


@attrs.frozen
class Layout:
    """`present` are the controllers that are there; on v2 `enabled` those that groups below the root get."""

    mode: Mode
    present: frozenset[str]
    enabled: frozenset[str] = frozenset()
    crowded: bool = False
    """v2: the root is a group like any other (a container's, say) and holds processes, so nothing can be enabled in it."""
    swap_limit: bool = True
    refused: str = ""
    """Why no group can be made."""


def cgroups(host: Host) -> Iterator[Finding]:
    yield from judge(look(host), host.config.runtime)


def look(host: Host) -> Layout:
    root = host.sys_fs_cgroup
    if (root / "cgroup.controllers").exists():
        inner = (root / "cgroup.type").exists()  # which the host's own root does not have
        return Layout(
            Mode.V2,
            present=frozenset(read(root / "cgroup.controllers").split()),
            enabled=frozenset(read(root / "cgroup.subtree_control").split()),
            crowded=inner and bool(read(root / "cgroup.procs").strip()),
            refused=_trial(root),
        )
    present = frozenset(name for name in NEEDED_V1 if (root / name / "cgroup.procs").exists())
    if not present:
        return Layout(Mode.NONE, present)
    return Layout(
        Mode.HYBRID if (root / "unified" / "cgroup.controllers").exists() else Mode.V1,
        present,
        swap_limit=(root / "memory" / "memory.memsw.limit_in_bytes").exists(),
        refused=next(filter(None, (_trial(root / name) for name in sorted(present))), ""),
    )


def _trial(parent: Path) -> str:
    folder = parent / f"mill-doctor-{os.getpid()}"
    try:
        folder.mkdir()
        folder.rmdir()
    except OSError as error:
        return f"{parent}: {error.strerror}"
    return ""


def judge(layout: Layout, runtime: str) -> Iterator[Finding]:
    if layout.mode is Mode.NONE:
        yield problem("cgroups", "none are mounted at /sys/fs/cgroup", "mount -t cgroup2 none /sys/fs/cgroup")
        return
    wanted = NEEDED if layout.mode is Mode.V2 else NEEDED_V1
    missing = [name for name in wanted if name not in layout.present]
    if missing:
        yield problem(
            "cgroups",
            f"{layout.mode}: without {', '.join(missing)}",
            "delegate them to here: Delegate=yes in the unit, or a container that may use its host's groups"
            if layout.mode is Mode.V2
            else V1_ADVICE,
        )
    asleep = [name for name in wanted if name in layout.present and name not in layout.enabled]
    if layout.mode is Mode.V2 and layout.crowded and asleep:
        yield problem(
            "cgroups",
            f"v2: {', '.join(asleep)} cannot be enabled, since processes sit in the topmost group",
            "move them into a group below it, and write '+cpu +memory +pids' to cgroup.subtree_control",
        )
    if layout.refused:
        yield problem(
            "cgroups",
            f"no group can be made: {layout.refused}",
            "run milld where /sys/fs/cgroup can be written",
        )
    if layout.mode is Mode.HYBRID and Path(runtime).name == "crun":
        yield problem(
            "cgroups",
            "hybrid, which crun refuses",
            "use --runtime runc, or boot with cgroup v2 (systemd.unified_cgroup_hierarchy=1)",
        )
    if not layout.swap_limit:
        yield warning(
            "cgroups",
            "swap cannot be limited: a task over its memory may swap",
            "boot with swapaccount=1, or swapoff -a",
        )
    if not missing and not layout.refused:
        yield ok("cgroups", f"{layout.mode}, with {', '.join(wanted)}")
