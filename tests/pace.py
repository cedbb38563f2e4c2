"""How slow this machine may be: an emulated one takes twenty times as long for everything. Read by whatever waits or bounds."""

import os

SLOWNESS = float(os.environ.get("MILL_TEST_SLOWNESS", "1"))
"""What waits and deadlines of tests are multiplied by; 1 is a machine of today with two cores."""


def stretched(seconds: float) -> float:
    """*seconds* of an ordinary machine, on this one."""
    return seconds * SLOWNESS
