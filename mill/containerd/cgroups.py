"""The cgroups of containers, v1 and v2: meters on kept descriptors, and sweeping what a runtime left empty.

Reading two kept descriptors a task costs 3 µs; asking containerd costs a millisecond. `runtime` opens a meter when a
container has started and reads its toll between the exit and the deletion, when the figures are final.
"""

import os
from contextlib import suppress
from pathlib import Path

import attrs

from mill.tasks.states import Toll

ROOT = Path("/sys/fs/cgroup")
_READ_BYTES = 8192
_V1_CONTROLLERS = (
    *(
        "memory",
        "cpuacct",
        "cpu",
        "pids",
        "blkio",
        "devices",
        "freezer",
        "cpuset",
        "systemd",
        "net_cls",
        "net_prio",
    ),
    *("perf_event", "hugetlb", "rdma", "misc", "unified"),
)


@attrs.frozen
class Levels:
    """What a cgroup holds now. Bytes, seconds of CPU, processes."""

    cpu_seconds: float
    memory: int
    pids: int
    read_bytes: int
    written_bytes: int


@attrs.define(eq=False)
class Meter:
    """One container's cgroup. Figures that cannot be read any more are zero or None, never an error."""

    _v2: bool
    _folders: dict[str, Path]
    _kept: dict[str, int] = attrs.field(factory=dict)

    def cpu_seconds(self) -> float:
        if self._v2:
            return int(self._fields("cpu", "cpu.stat").get("usage_usec", 0)) / 1e6
        return self._number("cpuacct", "cpuacct.usage") / 1e9

    def memory(self) -> int:
        """Bytes in use, less the page cache that the kernel would give back first (as `docker stats` shows it)."""
        used = self._number("memory", "memory.current" if self._v2 else "memory.usage_in_bytes")
        stat = self._fields("memory", "memory.stat")
        return max(0, used - stat.get("inactive_file" if self._v2 else "total_inactive_file", 0))

    def levels(self) -> Levels:
        read, written = self._io()
        pids = self._number("pids", "pids.current")
        return Levels(self.cpu_seconds(), self.memory(), pids, read, written)

    def toll(self) -> Toll:
        """OOM kills and the peak of memory, final once the container has ended."""
        if self._v2:
            kills = self._fields("memory", "memory.events").get("oom_kill", 0)
            peak = self._number("memory", "memory.peak")
        else:
            kills = self._fields("memory", "memory.oom_control").get("oom_kill", 0)
            peak = self._number("memory", "memory.max_usage_in_bytes")
        return Toll(kills, peak or None)

    def close(self) -> None:
        for descriptor in self._kept.values():
            os.close(descriptor)
        self._kept.clear()

    def _io(self) -> tuple[int, int]:
        read = written = 0
        if self._v2:
            for line in self._text("io", "io.stat").splitlines():
                pairs = dict(pair.split("=", 1) for pair in line.split()[1:] if "=" in pair)
                read += _count(pairs.get("rbytes", ""))
                written += _count(pairs.get("wbytes", ""))
            return read, written
        for line in self._text("blkio", "blkio.throttle.io_service_bytes").splitlines():
            parts = line.split()
            if len(parts) == 3:  # noqa: PLR2004 -- "8:0 Read 4096"
                read += _count(parts[2]) if parts[1] == "Read" else 0
                written += _count(parts[2]) if parts[1] == "Write" else 0
        return read, written

    def _number(self, controller: str, name: str) -> int:
        return _count(self._text(controller, name).strip())

    def _fields(self, controller: str, name: str) -> dict[str, int]:
        pairs = (line.split() for line in self._text(controller, name).splitlines())
        return {pair[0]: _count(pair[1]) for pair in pairs if len(pair) == 2}  # noqa: PLR2004

    def _text(self, controller: str, name: str) -> str:
        try:
            descriptor = self._kept.get(name)
            if descriptor is None:
                path = self._folders[controller if not self._v2 else "unified"] / name
                descriptor = self._kept[name] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            return os.pread(descriptor, _READ_BYTES, 0).decode()
        except (OSError, KeyError):
            return ""

    def keep(self) -> None:
        """Open now what must still be readable when the container has ended."""
        self.cpu_seconds()
        self.memory()
        self.toll()


def _count(text: str) -> int:
    """A number as the kernel writes it; 0 for a word such as ``max``, or the end of a text that was cut."""
    return int(text) if text.isascii() and text.isdigit() else 0


@attrs.frozen
class Cgroups:
    """The host's hierarchy: v2 where it is mounted alone, else v1 by controller."""

    v2: bool
    root: Path = ROOT

    @classmethod
    def detect(cls, root: Path = ROOT) -> "Cgroups":
        return cls((root / "cgroup.controllers").exists(), root)

    @property
    def limits_swap(self) -> bool:
        """Whether a swap limit can be set (v1 kernels may be built or booted without)."""
        return self.v2 or (self.root / "memory" / "memory.memsw.limit_in_bytes").exists()

    def meter(self, path: str) -> Meter:
        """The meter of the cgroup at *path* (``/mill/...``), wherever its controllers are mounted."""
        below = path.lstrip("/")
        folders = (
            {"unified": self.root / below} if self.v2 else {c: self.root / c / below for c in _V1_CONTROLLERS}
        )
        return Meter(self.v2, folders)

    def limit_cpu(self, path: str, quota_us: int, period_us: int) -> None:
        """Set the CPU quota of the cgroup at *path*; OSError if there is none. A tenth of a millisecond."""
        below = path.lstrip("/")
        if self.v2:
            (self.root / below / "cpu.max").write_text(f"{quota_us} {period_us}", encoding="ascii")
        else:
            folder = self.root / "cpu" / below
            (folder / "cpu.cfs_period_us").write_text(str(period_us), encoding="ascii")
            (folder / "cpu.cfs_quota_us").write_text(str(quota_us), encoding="ascii")

    def exists(self, path: str) -> bool:
        """Whether any hierarchy has a cgroup at *path*."""
        return any((base / path.lstrip("/")).is_dir() for base in self._bases())

    def children(self, path: str) -> set[str]:
        """Names of the cgroups below *path* in any hierarchy."""
        found: set[str] = set()
        for base in self._bases():
            with suppress(OSError):
                found.update(entry.name for entry in os.scandir(base / path.lstrip("/")) if entry.is_dir())
        return found

    def remove(self, path: str, *, below: bool = True) -> None:
        """Remove the empty cgroup at *path*, and those *below* it first, everywhere; one that holds a process stays."""
        for base in self._bases():
            top = base / path.lstrip("/")
            folders = [Path(folder) for folder, _, _ in os.walk(top, topdown=False)] if below else [top]
            for folder in folders:
                with suppress(OSError):
                    folder.rmdir()

    def _bases(self) -> list[Path]:
        if self.v2:
            return [self.root]
        return [self.root / name for name in _V1_CONTROLLERS if (self.root / name).is_dir()]
