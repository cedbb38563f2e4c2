"""milld in a boot, and at a time of day, of the test's choosing: ``python -m tests.scenarios.shifted_milld milld's options``.

``FAULT_BOOT_ID`` names a file that stands in for the kernel's boot id, ``FAULT_SHIFT`` one that holds by how many seconds
the wall clock is off; it is read at each look, so that the clock jumps when the file is written. It is milld as it is; only
what its clock reads is exchanged.
"""

import os
import sys
import time
from pathlib import Path

from mill.daemon import clock, main


class ShiftedTime:
    """As the `time` module, as far as the node's clock uses it."""

    CLOCK_BOOTTIME = time.CLOCK_BOOTTIME
    clock_gettime = staticmethod(time.clock_gettime)

    def __init__(self, shift: Path) -> None:
        self._shift = shift

    def time(self) -> float:
        return time.time() + float(self._shift.read_text())


if __name__ == "__main__":
    if boot_id := os.environ.get("FAULT_BOOT_ID"):
        clock.BOOT_ID = Path(boot_id)
    if shift := os.environ.get("FAULT_SHIFT"):
        clock.time = ShiftedTime(Path(shift))  # type: ignore[attr-defined, assignment]  # it is used as the module is
    sys.argv[0] = "milld"
    main.main()
