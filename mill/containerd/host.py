"""What the node brings to every container: limits, seccomp, an init program, and the files below /etc. Called by `runtime`."""

import os
import resource
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import attrs

from mill.containerd import seccomp
from mill.containerd.cgroups import Cgroups
from mill.containerd.oci import platform_of
from mill.containerd.spec import CAPABILITIES, OPEN_FILES_HARD_MOST, Host, User
from mill.errors import StartError
from mill.model import Mount, MountType, Network, Spec
from mill.tasks.ports import Attachment

INIT_PROGRAMS = ("docker-init", "tini-static", "catatonit", "tini")
"""Static ones first: the program must run in an image without libraries."""

ADDRESS_NAME = "address"
"""Beside the files of a task in the mesh; the network looks for it after a restart."""

_LOOPBACK = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"


def describe(machine: str, cgroups: Cgroups, annotations: Mapping[str, str] | None = None) -> Host:
    """The host, as far as it is the same for all containers; *machine* as ``platform.machine()``. Blocks for a few files."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    own_score = int(Path("/proc/self/oom_score_adj").read_text(encoding="ascii"))
    return Host(
        cgroup_path="",
        hosts_file="",
        resolv_file="",
        hostname_file="",
        seccomp=seccomp.load(platform_of(machine).architecture, CAPABILITIES),
        init=next((path for path in map(shutil.which, INIT_PROGRAMS) if path), None),
        swap_limit=cgroups.limits_swap,
        cgroup_v2=cgroups.v2,
        annotations=annotations or {},
        open_files_hard=min(OPEN_FILES_HARD_MOST, hard) if hard > 0 else OPEN_FILES_HARD_MOST,
        oom_score_adj=max(0, own_score),  # lower than our own is not ours to give without CAP_SYS_RESOURCE
    )


def write_files(folder: Path, task_id: str, spec: Spec, ip: str, place: Attachment | None = None) -> None:
    """The task's own hosts, resolv.conf and hostname in *folder*; blocks. *ip* is the node's, *place* a task's in the mesh.

    The address goes into a file of its own too, by which the next milld knows who holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    hosts = _LOOPBACK
    if spec.network is Network.HOST:
        hosts = _read("/etc/hosts") or _LOOPBACK
    own_ip = ip if spec.network is Network.HOST else "127.0.0.1"
    resolv = _read("/etc/resolv.conf")
    if place is not None:
        own_ip = place.ip
        resolv = resolv if place.nameserver is None else f"nameserver {place.nameserver}\n"
        _write(folder / ADDRESS_NAME, f"{place.ip}\n")
    _write(folder / "hosts", f"{hosts.rstrip()}\n{own_ip}\t{task_id}\n")
    _write(folder / "resolv.conf", resolv)
    _write(folder / "hostname", f"{task_id}\n")


def resolve_mounts(mounts: tuple[Mount, ...], allowed: tuple[str, ...]) -> tuple[Mount, ...]:
    """*mounts* with each bind's real source; blocks. `StartError` if it does not exist, or lies outside of *allowed*.

    The text was judged when the task was spawned; a symbolic link that an earlier task left there is judged here.
    """
    return tuple(_resolved(mount, allowed) if mount.type is MountType.BIND else mount for mount in mounts)


def _resolved(mount: Mount, allowed: tuple[str, ...]) -> Mount:
    try:
        real = Path(mount.source or "").resolve(strict=True)
    except (OSError, RuntimeError):
        message = f"the bind mount's source {mount.source} does not exist on this node"
        raise StartError("runtime", message) from None
    if not any(real.is_relative_to(Path(path).resolve()) for path in allowed):
        message = f"the bind mount's source {mount.source} leads to {real}, which this node does not allow"
        raise StartError("permission", message)
    return attrs.evolve(mount, source=str(real))


def with_files(host: Host, folder: Path, cgroup_path: str, namespace: str | None = None) -> Host:
    """*host* as one task sees it: its cgroup, and the files that `write_files` puts into *folder*."""
    return attrs.evolve(
        host,
        cgroup_path=cgroup_path,
        hosts_file=str(folder / "hosts"),
        resolv_file=str(folder / "resolv.conf"),
        hostname_file=str(folder / "hostname"),
        network_namespace=namespace,
    )


def make_folders(volumes: Sequence[tuple[str, str]], user: User) -> None:
    """Those sources of *volumes* that are the task's own folders, for *user* to write to; blocks."""
    for source in (Path(source) for source, _ in volumes):
        if source.is_absolute():
            source.mkdir(parents=True, exist_ok=True)
            source.chmod(0o755)
            os.chown(source, user.uid, user.gid)


def _write(path: Path, text: str) -> None:
    """For everybody to read: a task need not run as root, whatever milld's umask is."""
    path.write_text(text, encoding="utf-8")
    path.chmod(0o644)


def _read(path: str) -> str:
    with suppress(OSError, UnicodeDecodeError):
        return Path(path).read_text(encoding="utf-8")
    return ""
