"""The node's clocks. The only place, with `main`, where Mill reads one by itself; everybody else is handed this."""

import time
from pathlib import Path

import attrs

from mill.model import Time

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@attrs.frozen
class SystemClock:
    """As `tasks.ports.Clock`: wall time for people, boot time for deadlines."""

    boot_id: str

    @classmethod
    def read(cls) -> "SystemClock":
        return cls(BOOT_ID.read_text(encoding="ascii").strip())

    def now(self) -> Time:
        return Time(time.time())

    def boottime(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)
