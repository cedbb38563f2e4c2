"""The OCI runtime spec of a task's container, with Docker's defaults. Pure: a function from values to plain JSON data.

Called by `runtime`. What has to be looked up on the host or in the image (users, the seccomp profile, which files to
mount) comes in as values. Sources: OCI runtime-spec 1.0.2; defaults as Docker 20.10 and containerd 1.6 set them.
"""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import attrs

from mill.containerd.oci import ImageConfig
from mill.errors import StartError
from mill.model import Mount, MountType, Network, Spec

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PIDS_LIMIT = 4096
"""Processes and threads of one task; stops fork bombs, not programs (podman: 2048, Kubernetes' usual: 4096)."""
OPEN_FILES_HARD_MOST = 524_288
"""What systemd grants services; a task gets it unless milld itself has less."""
OPEN_FILES_SOFT = 1024
"""What select(2) can take and what programs expect; they may raise it to the hard limit."""
UMASK = 0o022
"""Whatever milld's, and thereby containerd's, is."""
CPU_PERIOD_US = 100_000
LEAST_QUOTA_US = 1000
SHARES_PER_CORE = 1024
INIT_TARGET = "/sbin/mill-init"

CAPABILITIES = tuple(
    f"CAP_{name}"
    for name in (
        "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP "
        "NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE"
    ).split()
)
_MASKED = (
    "/proc/acpi /proc/asound /proc/kcore /proc/keys /proc/latency_stats /proc/timer_list /proc/timer_stats "
    "/proc/sched_debug /proc/scsi /sys/firmware /sys/devices/virtual/powercap"
).split()
_READ_ONLY = "/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger".split()
_SYSCTLS = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"}
"""In a network of its own every user may listen on port 80 and ping, as with Docker since 20.10."""
_DEVICES = ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (136, None))


@attrs.frozen
class User:
    """Who runs PID 1, looked up in the image: numeric ids, and the home directory where one is known."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    home: str = "/"


@attrs.frozen
class Host:
    """What the node brings to a container; `volumes` as pairs of source and target."""

    cgroup_path: str
    hosts_file: str
    resolv_file: str
    hostname_file: str
    volumes: tuple[tuple[str, str], ...] = ()
    network_namespace: str | None = None
    seccomp: Mapping[str, Any] | None = None
    init: str | None = None
    swap_limit: bool = True
    cgroup_v2: bool = False
    annotations: Mapping[str, str] = attrs.field(factory=dict)
    """For the runtime, not for the task."""
    open_files_hard: int = 524_288
    oom_score_adj: int = 0


def build(
    task_id: str, spec: Spec, image: ImageConfig, user: User, env: Sequence[str], host: Host
) -> dict[str, Any]:
    """The container's config.json. `StartError` when there is nothing to run."""
    args = arguments(spec, image)
    if spec.init:
        if host.init is None:
            raise StartError(
                "runtime", "init: this node has no init program; install tini or catatonit on it"
            )
        args = (INIT_TARGET, "--", *args)
    return {
        "ociVersion": "1.0.2",
        "hostname": task_id,
        "process": {
            "terminal": False,
            "user": {
                "uid": user.uid,
                "gid": user.gid,
                "additionalGids": [
                    user.gid,
                    *user.groups,
                ],  # its own too, or a setgid program sheds it: CVE-2022-36109
                "umask": UMASK,
            },
            "args": list(args),
            "env": list(env),
            "cwd": _working_directory(spec, image),
            "capabilities": {kind: list(CAPABILITIES) for kind in _capability_sets(user)},
            "noNewPrivileges": True,
            "oomScoreAdj": host.oom_score_adj,
            "rlimits": [
                {
                    "type": "RLIMIT_NOFILE",
                    "soft": min(OPEN_FILES_SOFT, host.open_files_hard),
                    "hard": host.open_files_hard,
                }
            ],
        },
        "root": {"path": "rootfs", "readonly": spec.read_only},
        "mounts": [*_mounts(), *_volumes(host), *_files(host, spec), *map(_mount, spec.mounts)],
        "linux": _linux(spec, host),
        **({"annotations": dict(host.annotations)} if host.annotations else {}),
    }


def arguments(spec: Spec, image: ImageConfig) -> tuple[str, ...]:
    """ENTRYPOINT and CMD as Docker merges them: `command` replaces both, `args` replace CMD.

    ``ENTRYPOINT [""]`` is how a Dockerfile takes back the one it inherits.
    """
    inherited = () if image.entrypoint == ("",) else image.entrypoint
    entry = inherited if spec.command is None else spec.command
    rest = spec.args if spec.args is not None else (image.cmd if spec.command is None else ())
    if not (entry or rest):
        raise StartError(
            "command_not_found", f"the image {spec.image} names no program to run: give one with --command"
        )
    return (*entry, *rest)


def environment(
    task_id: str, image: ImageConfig, user: User, own: Mapping[str, str], asked: Mapping[str, str]
) -> tuple[str, ...]:
    """Defaults, then the image's, then Mill's own, then what was asked for; the last one of a name wins.

    An entry of the image without ``=`` sets nothing, as with containerd and podman.
    """
    merged = {"PATH": DEFAULT_PATH, "HOSTNAME": task_id, "HOME": user.home}
    for entry in image.env:
        name, equals, value = entry.partition("=")
        if name and equals:
            merged[name] = value
    merged.update(own)
    merged.update(asked)
    return tuple(f"{name}={value}" for name, value in merged.items())


def cpu_quota_us(cpu: float) -> int:
    """The quota per `CPU_PERIOD_US`, to be set between Create and Start.

    Not in the config: the runtime's own work inside the new cgroup, some 10 ms of CPU, would be throttled by it and make
    the start of a task with 0.01 cores take half a second.
    """
    return max(LEAST_QUOTA_US, round(cpu * CPU_PERIOD_US))


def _working_directory(spec: Spec, image: ImageConfig) -> str:
    """Made by the runtime, for root, where the image has none: as with Docker."""
    cwd = spec.workdir or image.workdir or "/"
    if not cwd.startswith("/"):
        raise StartError(
            "runtime", f"the image's working directory {cwd!r} is not absolute: give one with --workdir"
        )
    return cwd


def _capability_sets(user: User) -> tuple[str, ...]:
    """Another than root has none, which execve(2) would leave it anyway: held until then, they open every program to it."""
    return ("bounding", "effective", "permitted") if user.uid == 0 else ("bounding",)


def _linux(spec: Spec, host: Host) -> dict[str, Any]:
    namespaces = ["pid", "ipc", "uts", "mount"]
    if host.cgroup_v2:
        namespaces.append("cgroup")
    linux: dict[str, Any] = {
        "cgroupsPath": host.cgroup_path,
        "namespaces": [{"type": kind} for kind in namespaces] + _network(spec, host),
        "maskedPaths": list(_MASKED),
        "readonlyPaths": list(_READ_ONLY),
        "resources": _resources(spec, host),
    }
    if spec.network is not Network.HOST:
        linux["sysctl"] = dict(_SYSCTLS)
    if host.seccomp is not None:
        linux["seccomp"] = host.seccomp
    return linux


def _network(spec: Spec, host: Host) -> list[dict[str, str]]:
    """The host's, a new one that is empty, or the one that was made ready for the task."""
    if spec.network is Network.HOST:
        return []
    own = {"type": "network"}
    return [own if host.network_namespace is None else {**own, "path": host.network_namespace}]


def _resources(spec: Spec, host: Host) -> dict[str, Any]:
    memory = {"limit": spec.memory}
    if host.swap_limit:
        memory["swap"] = spec.memory  # memory and swap together: without it v1 leaves swap unlimited
    allowed = [
        {"allow": True, "type": "c", "major": major, "access": "rwm"}
        | ({} if minor is None else {"minor": minor})
        for major, minor in _DEVICES
    ]
    mknod = [{"allow": True, "type": kind, "access": "m"} for kind in ("c", "b")]
    return {
        "memory": memory,
        "cpu": {"shares": max(2, round(spec.cpu * SHARES_PER_CORE))},  # the quota follows: see `cpu_quota_us`
        "pids": {"limit": PIDS_LIMIT},
        "devices": [{"allow": False, "access": "rwm"}, *mknod, *allowed],
    }


def _mounts() -> list[dict[str, Any]]:
    nosuid = ["nosuid", "noexec", "nodev"]
    return [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": nosuid},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {
            "destination": "/dev/shm",  # noqa: S108 -- the container's own
            "type": "tmpfs",
            "source": "shm",
            "options": [*nosuid, "mode=1777", "size=65536k"],
        },
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": nosuid},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*nosuid, "ro"]},
        {
            "destination": "/sys/fs/cgroup",
            "type": "cgroup",
            "source": "cgroup",
            "options": [*nosuid, "relatime", "ro"],
        },
    ]


def _volumes(host: Host) -> list[dict[str, Any]]:
    return [_bind(source, target, "rw") for source, target in host.volumes]


def _files(host: Host, spec: Spec) -> list[dict[str, Any]]:
    files = [
        ("/etc/hosts", host.hosts_file, "rw"),
        ("/etc/resolv.conf", host.resolv_file, "rw"),
        ("/etc/hostname", host.hostname_file, "rw"),
    ]
    if spec.init and host.init is not None:
        files.append((INIT_TARGET, host.init, "ro"))
    taken = {str(PurePosixPath(mount.target)) for mount in spec.mounts}
    return [_bind(source, target, mode) for target, source, mode in files if target not in taken]


def _mount(mount: Mount) -> dict[str, Any]:
    mode = "ro" if mount.read_only else "rw"
    if mount.type is MountType.BIND:
        return _bind(mount.source or "", mount.target, mode)
    options = ["nosuid", "nodev", "noexec", "mode=1777", mode]
    if mount.size is not None:
        options.append(f"size={mount.size}")
    return {"destination": mount.target, "type": "tmpfs", "source": "tmpfs", "options": options}


def _bind(source: str, target: str, mode: str) -> dict[str, Any]:
    return {"destination": target, "type": "bind", "source": source, "options": ["rbind", "rprivate", mode]}
