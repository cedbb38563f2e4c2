"""Writing one stream's bytes into its segment files, with their index. Knows files, but neither threads nor readers.

Used by `capture` in its thread, and once by `store` before that thread has the writer. The layout is `index`'s.
"""

import errno
import os
from pathlib import Path

from mill.logs.index import (
    ENTRY_BYTES,
    INDEX_SUFFIX,
    LOG_SUFFIX,
    Entry,
    Stamps,
    Stream,
    bases_of,
    decode,
    encode,
    mend,
    segment_name,
)
from mill.units import KIB, MIB

SEGMENT_BYTES = 4 * MIB
"""The most one segment holds: also how much of a running task's newest output retention can never drop."""
INDEX_BYTES = 512 * KIB
"""A segment ends early when its index is so long (32,768 entries: a task that trickles for minutes)."""
FILE_MODE = 0o600
NO_FILE = -1

_WRITE = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC


def bases_in(directory: Path, stream: Stream) -> list[int]:
    """Where the stream's segments in *directory* begin, in order; none if there is no such directory."""
    try:
        return bases_of(stream, [path.name for path in directory.iterdir()])
    except FileNotFoundError:
        return []


class SegmentWriter:
    """The end of one stream on disk. `end` counts its bytes, `indexed` those that readers may see, `segments` those begun.

    A file is made when the first byte for it is there to be taken. After an `OSError` (disk full) everything is as
    before the call, and it may be tried again.
    """

    def __init__(self, directory: Path, stream: Stream, stamps: Stamps) -> None:
        self.stream = stream
        self.end = 0
        self.indexed = 0
        self.segments = 0
        self._directory = directory
        self._stamps = stamps
        self._base = 0
        self._log = NO_FILE
        self._index = NO_FILE
        self._index_size = 0
        self._arrived_s = 0.0

    def __repr__(self) -> str:
        return f"<SegmentWriter {self._directory.name} {self.stream} {self.indexed}/{self.end}>"

    @classmethod
    def open(cls, directory: Path, stream: Stream, stamps: Stamps) -> "SegmentWriter":
        """At the end of what an earlier milld left in *directory*, its index mended."""
        writer = cls(directory, stream, stamps)
        bases = bases_in(directory, stream)
        if bases:
            writer._resume(
                bases[-1],
                _last_ns(directory / segment_name(stream, bases[-2], INDEX_SUFFIX)) if bases[1:] else 0,
            )
        return writer

    def _resume(self, base: int, before_ns: int) -> None:
        self._open_segment(base)
        info = os.fstat(self._log)
        self.end = base + info.st_size
        mended = mend(
            self._path(base, INDEX_SUFFIX).read_bytes(), base, self.end, info.st_mtime_ns, before_ns
        )
        os.ftruncate(self._index, mended.keep_bytes)
        self._index_size = mended.keep_bytes
        self.indexed = self.end
        if mended.missing is not None:
            self._append(mended.missing)
        self._stamps.seen(mended.last_ns)

    @property
    def unindexed(self) -> bool:
        return self.indexed < self.end

    def take(self, fifo: int, most_bytes: int, now_s: float) -> int | None:
        """Move what *fifo* holds, up to *most_bytes*, to the end: how many; 0 at its end; None when it is just empty.

        The kernel moves the pages; a SIGKILL at any moment leaves each byte either in the pipe or in the file.
        """
        if self._log == NO_FILE or self.end >= self._base + SEGMENT_BYTES or self._index_size >= INDEX_BYTES:
            self.index()
            self.close()
            self._open_segment(self.end)
        at = self.end - self._base
        most_bytes = min(most_bytes, SEGMENT_BYTES - at)
        try:
            count = os.splice(fifo, self._log, most_bytes, offset_dst=at, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            return None
        if count:
            self.end += count
            self._arrived_s = now_s
        return count

    def index(self) -> None:
        """Let readers see what was taken, with the time at which the last of it was."""
        if self.unindexed:
            self._append(Entry(self._stamps.stamp(self._arrived_s), self.end))
            self.indexed = self.end

    def close(self) -> None:
        """Index what is left and close the files; one that no byte came for is removed."""
        try:
            self.index()
        finally:
            self._close_files()

    def _open_segment(self, base: int) -> None:
        log = os.open(self._path(base, LOG_SUFFIX), _WRITE, FILE_MODE)
        try:
            self._index = os.open(self._path(base, INDEX_SUFFIX), _WRITE, FILE_MODE)
        except OSError:
            os.close(log)
            raise
        self._log, self._base, self._index_size = log, base, 0
        self.segments += 1

    def _close_files(self) -> None:
        if self._log == NO_FILE:
            return
        os.close(self._log)
        os.close(self._index)
        self._log = self._index = NO_FILE
        if self.end == self._base:
            for suffix in (INDEX_SUFFIX, LOG_SUFFIX):
                self._path(self._base, suffix).unlink(missing_ok=True)

    def _append(self, entry: Entry) -> None:
        """At an explicit place, so that a part left by a full disk is written over."""
        record = encode(entry)
        if os.pwrite(self._index, record, self._index_size) != ENTRY_BYTES:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._index_size += ENTRY_BYTES

    def _path(self, base: int, suffix: str) -> Path:
        return self._directory / segment_name(self.stream, base, suffix)


def _last_ns(index: Path) -> int:
    """The time of the last entry in that file; 0 if there is none."""
    try:
        entries = decode(index.read_bytes())
    except FileNotFoundError:
        return 0
    return entries[-1].time_ns if entries else 0
