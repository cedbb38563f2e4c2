"""What the host has left for another task: room on the disks, file descriptors. Asked by the task service before each spawn.

An honest refusal before anything is made; what fills up later than this look still ends the task truly, or is held.
"""

import os
import resource
from collections.abc import Callable, Iterable
from pathlib import Path

import attrs

from mill.errors import NoSpace, Unavailable
from mill.units import MIB, format_size

LEAST_FREE_BYTES = 4 * MIB
"""What must be free for a spawn: its files, its row and its first output need a tenth of it; the rest is for the ends of
the tasks that run.
"""
LEAST_FREE_FILES = 64
FRESH_S = 1.0
"""How long a look at the disks counts."""
TASK_DESCRIPTORS = 16
"""What a task may need: two FIFOs, four log files, its control group's files, and calls that are under way."""
SPARE_DESCRIPTORS = 48
"""For requests and for the tasks that run: their next log segment, the log that a follower reads."""


@attrs.define(eq=False)
class Room:
    """As `tasks.ports.Room`. *stores* names containerd's directories, which are known once it has answered."""

    _data_dir: Path
    _stores: Callable[[], Iterable[str]]
    _boottime: Callable[[], float]
    _looked_at: float = -FRESH_S
    _fault: str | None = None

    def check(self, starting: int) -> None:
        now = self._boottime()
        if now - self._looked_at >= FRESH_S:
            self._looked_at, self._fault = now, self._look()
        if self._fault is not None:
            raise NoSpace(self._fault)
        _check_descriptors(starting)

    def _look(self) -> str | None:
        """What is wrong with the disks, if anything."""
        found = _fault_of(str(self._data_dir), "the data directory")
        for store in sorted(self._stores()):
            found = found or _fault_of(store, "containerd's store")
        return found


def _fault_of(path: str, what: str) -> str | None:
    try:
        disk = os.statvfs(path)
    except OSError:
        return None  # a containerd that sees other files than we do; it tells its faults itself
    if disk.f_flag & os.ST_RDONLY:
        return f"{what} {path} is read-only: no task can be started until it can be written again"
    free = disk.f_bavail * disk.f_frsize
    if free < LEAST_FREE_BYTES:
        return f"the disk of {what} {path} is full: {format_size(free)} are free; free some space"
    if disk.f_files and disk.f_favail < LEAST_FREE_FILES:
        return f"the disk of {what} {path} is full: no more files can be made on it; remove some"
    return None


def _check_descriptors(starting: int) -> None:
    """The kernel gives the lowest free number: at least so many are open."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    try:
        lowest = os.open("/", os.O_PATH | os.O_CLOEXEC)
        os.close(lowest)
    except OSError:
        lowest = limit
    if (
        limit != resource.RLIM_INFINITY
        and lowest + (starting + 1) * TASK_DESCRIPTORS + SPARE_DESCRIPTORS > limit
    ):
        raise Unavailable(
            f"milld is short of file descriptors: it may have {limit}; wait for tasks to end, or raise its limit (ulimit -n)"
        )
