"""CPU time of programs and of whatever they start, also what has ended: a control group of the bench's own counts it.

Containers are not in it, for their runtime moves each into a group of its own.
"""

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs

from tests.leaks import CGROUPS
from tests.pace import stretched

GONE_WITHIN_S = stretched(5)


@attrs.frozen
class CpuTime:
    """A control group in the hierarchy that counts: cpuacct of cgroup v1, else the unified one."""

    group: Path

    def seconds(self) -> float:
        """User and system time of all that ever ran in it."""
        usage = self.group / "cpuacct.usage"
        if usage.exists():
            return int(usage.read_text()) / 1e9
        words = (self.group / "cpu.stat").read_text().split()
        return int(words[words.index("usage_usec") + 1]) / 1e6

    def take(self, pids: Sequence[int]) -> None:
        """From now on with whatever they start."""
        for pid in pids:
            (self.group / "cgroup.procs").write_text(str(pid))


@contextmanager
def cpu_time() -> Iterator[CpuTime]:
    """Empty at first. What is in it must have ended at the end, but for those who are on their way out."""
    hierarchy = CGROUPS / "cpuacct" if (CGROUPS / "cpuacct").is_dir() else CGROUPS
    group = Path(tempfile.mkdtemp(prefix="mill-bench-", dir=hierarchy))
    try:
        yield CpuTime(group)
    finally:
        until = time.monotonic() + GONE_WITHIN_S
        while (group / "cgroup.procs").read_text() and time.monotonic() < until:
            time.sleep(0.01)
        with suppress(OSError):  # whatever did not end is told by others
            group.rmdir()
