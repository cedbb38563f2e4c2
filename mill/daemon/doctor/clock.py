"""The wall clock: it decides over certificates, the order of records and the age of logs."""

import ctypes
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from mill.daemon.doctor.findings import Finding, ok, problem, warning
from mill.daemon.doctor.host import Host

TIME_ERROR = 5
"""What adjtimex(2) returns while nobody keeps the clock right."""
TIMEX_BYTES = 512
"""More than struct timex has anywhere; with `modes` 0 nothing is set."""
FIRST_YEAR, LAST_YEAR = 2025, 2100
"""Before Mill was, and after every certificate."""
BEHIND_S = 60.0
"""How far the clock may be behind the data before it is worth a word."""
MOST_FILES = 10_000
"""Of the data directory are asked for their age."""
ADVICE = "set the clock: timedatectl set-ntp true, or apt-get install chrony"


def clock(host: Host) -> Iterator[Finding]:
    yield from judge(host.now(), newest(host.data_dir), synchronised=_is_synchronised())


def judge(now: float, newest_s: float, *, synchronised: bool) -> Iterator[Finding]:
    """*newest_s* is the age of what was written last into the data directory, 0 where there is none."""
    shown = _shown(now)
    if not FIRST_YEAR <= datetime.fromtimestamp(now, UTC).year <= LAST_YEAR:
        yield problem("clock", f"{shown} cannot be right: registries' certificates will not be valid", ADVICE)
    elif now < newest_s - BEHIND_S:
        yield warning(
            "clock", f"{shown} is before {_shown(newest_s)}, when the data directory was last written", ADVICE
        )
    elif not synchronised:
        yield warning("clock", f"{shown}, kept right by nobody", ADVICE)
    else:
        yield ok("clock", f"{shown}, synchronised")


def _shown(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def newest(data_dir: Path) -> float:
    """When the newest file was written; a limited number of them is looked at."""
    found, left = 0.0, MOST_FILES
    for folder, below, names in os.walk(data_dir):
        if Path(folder) == data_dir:
            below[:] = [
                name for name in below if name in {"logs", "tasks"}
            ]  # not what an image brought along
        for name in names[:left]:
            with suppress(OSError):
                found = max(found, (Path(folder) / name).lstat().st_mtime)
        left -= len(names)
        if left <= 0:
            break
    return found


def _is_synchronised() -> bool:
    state: int = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(TIMEX_BYTES))
    return state not in {-1, TIME_ERROR}
