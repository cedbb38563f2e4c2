"""Which segments of the log store can go, and removing them. Blocking; `store` calls it in a thread.

A segment goes whole, its bytes first: a reader that comes to it finds a gap and says so. Of a running task the newest
segment of each stream always stays; of one that has ended none needs to.
"""

import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice
from pathlib import Path

import attrs

from mill.logs.index import INDEX_SUFFIX, LOG_SUFFIX, STREAMS, segment_name
from mill.logs.segments import bases_in

NAMES_AT_ONCE = 500
"""Of the log store's directories, so that 100,000 of them are never in memory together."""


@attrs.frozen
class Segment:
    """One that may be removed. `written_ns` is when its last byte came (unix time)."""

    written_ns: int
    log: Path
    index: Path
    size_bytes: int

    def remove(self) -> int:
        """Bytes freed; `.log` first, since an index without bytes is nothing to a reader, and bytes without one are."""
        self.log.unlink(missing_ok=True)
        self.index.unlink(missing_ok=True)
        return self.size_bytes


def segments_of(directory: Path, *, running: bool) -> list[Segment]:
    """What may go of one task, the oldest first."""
    found = []
    for stream in STREAMS:
        bases = bases_in(directory, stream)
        for base in bases[:-1] if running else bases:
            log, index = (
                directory / segment_name(stream, base, suffix) for suffix in (LOG_SUFFIX, INDEX_SUFFIX)
            )
            with suppress(FileNotFoundError):
                info = log.stat()
                size = info.st_size + (index.stat().st_size if index.exists() else 0)
                found.append(Segment(info.st_mtime_ns, log, index, size))
    return sorted(found, key=lambda segment: segment.written_ns)


def remove(directory: Path) -> int:
    """All of it; bytes freed."""
    size = size_of(directory)
    shutil.rmtree(directory, ignore_errors=True)
    return size


def drop_ended(directory: Path, need_bytes: int) -> int:
    """Remove the oldest segments of a task that has ended until so much is freed, or none is left; bytes freed."""
    return _drop(segments_of(directory, running=False), need_bytes)


def drop_running(directories: Iterable[Path], need_bytes: int) -> int:
    """As `drop_ended`, of all running tasks together."""
    found = [segment for directory in directories for segment in segments_of(directory, running=True)]
    return _drop(sorted(found, key=lambda segment: segment.written_ns), need_bytes)


def _drop(segments: list[Segment], need_bytes: int) -> int:
    freed = 0
    for segment in segments:
        if freed >= need_bytes:
            break
        freed += segment.remove()
    return freed


def size_of(directory: Path) -> int:
    """Bytes of all files right below *directory*; 0 if there is none."""
    size = 0
    with suppress(FileNotFoundError), os.scandir(directory) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                size += entry.stat(follow_symlinks=False).st_size
    return size


def size_of_all(logs: Path) -> int:
    with os.scandir(logs) as entries:
        return sum(size_of(Path(entry.path)) for entry in entries)


def next_names(entries: "Iterable[os.DirEntry[str]]") -> set[str]:
    """The next few of a directory; none at its end."""
    return {entry.name for entry in islice(entries, NAMES_AT_ONCE)}


def orphans(logs: Path, unknown: Iterable[str], before_s: float) -> list[str]:
    """Those tasks of the *unknown* ones in whose logs nothing has changed since *before_s* (unix seconds)."""
    found = []
    for name in unknown:
        with suppress(FileNotFoundError):
            if max(_times(logs / name), default=0.0) < before_s:
                found.append(name)
    return found


def _times(directory: Path) -> list[float]:
    with os.scandir(directory) as entries:
        return [directory.stat().st_mtime, *(entry.stat(follow_symlinks=False).st_mtime for entry in entries)]
