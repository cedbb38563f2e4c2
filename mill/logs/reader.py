"""Reading one task's segments forward: both streams merged by the time at which their bytes came, a batch at a time.

Synchronous; `store` calls it on the event loop with `RWF_NOWAIT`, and in a thread when the kernel says that it would have
to wait for the disk. A reader keeps its position and, per stream, one chunk and one open segment; nothing else, however
slow whoever reads from it is. What it sees is what is indexed, so it needs to know nothing of who writes.

A segment may be removed before a reader came to it, the oldest first: then a chunk says how much is missing.
"""

import errno
import os
from collections import deque
from collections.abc import Collection
from pathlib import Path

import attrs

from mill.logs.frames import NEWLINE, Cursor, LogChunk
from mill.logs.index import (
    ENTRY_BYTES,
    INDEX_SUFFIX,
    LOG_SUFFIX,
    NS_PER_S,
    STREAMS,
    Span,
    Stream,
    decode,
    first_after,
    segment_name,
    spans,
)
from mill.logs.segments import bases_in
from mill.units import KIB

CHUNK_BYTES = 64 * KIB
"""The most bytes of one chunk; a longer line comes in several."""
BATCH_BYTES = 64 * KIB
"""A batch ends once it holds so much: some tens of microseconds of the event loop."""
BATCH_CHUNKS = 256
"""As `BATCH_BYTES`, for many short chunks."""
CHUNK_LINES = 512
"""The most lines of one chunk: who makes an object of each must not hold up the event loop either."""
INDEX_READ_ENTRIES = 256
"""Entries read at a time."""

_READ = os.O_RDONLY | os.O_CLOEXEC


@attrs.define(eq=False)
class _Segment:
    base: int
    log: int
    index: int
    index_at: int = 0
    end: int = 0

    def close(self) -> None:
        os.close(self.log)
        os.close(self.index)


@attrs.frozen
class _Head:
    """What comes next of one stream. `open_ended`: an unfinished line, longer perhaps when looked at again."""

    time_ns: int
    data: bytes
    dropped: int = 0
    open_ended: bool = False


class StreamReader:
    """One stream from *offset* on, in pieces of whole lines where there are any."""

    def __init__(self, directory: Path, stream: Stream, offset: int) -> None:
        self.stream = stream
        self.offset = offset
        self._directory = directory
        self._segments: list[_Segment] = []
        self._spans: deque[Span] = deque()
        self._head: _Head | None = None
        self._seen_all = False

    def __repr__(self) -> str:
        return f"<StreamReader {self._directory.name} {self.stream} at {self.offset}>"

    def close(self) -> None:
        for segment in self._segments:
            segment.close()
        self._segments.clear()

    def head(self, flags: int) -> _Head | None:
        """What comes next, or None: nothing more for now. The same until `advance`, but for a line that goes on."""
        if self._head is None or (self._head.open_ended and not self._seen_all):
            self._head = self._look(flags)
        return self._head

    def refresh(self) -> None:
        """There may be more than when we looked last."""
        self._seen_all = False

    def advance(self) -> None:
        """The head was given."""
        if self._head is None:
            return
        self.offset += len(self._head.data) + self._head.dropped
        self._head = None
        while self._spans and self._spans[0].end <= self.offset:
            self._spans.popleft()
        while len(self._segments) > 1 and self._segments[0].end <= self.offset:
            self._segments.pop(0).close()

    def _look(self, flags: int) -> _Head | None:
        while True:
            self._load(flags)
            if not self._spans:
                return None
            span = self._spans[0]
            if span.start > self.offset:
                return _Head(span.time_ns, b"", dropped=span.start - self.offset)
            data = self._read(min(span.end, self.offset + CHUNK_BYTES), flags)
            head = self._cut(span, data)
            if head is not None:
                return head
            self._spans.popleft()  # the line goes on: it came when its end did
            self._spans[0] = self._spans[0]._replace(start=self.offset)

    def _cut(self, span: Span, data: bytes) -> _Head | None:
        """As much of *data*, which begins in *span*, as makes a chunk; None if it is the beginning of a longer line."""
        if data.count(NEWLINE) > CHUNK_LINES:
            return _Head(span.time_ns, _first_lines(data, CHUNK_LINES))
        if data.endswith(NEWLINE):
            return _Head(span.time_ns, data)
        in_span = self.offset + len(data) < span.end
        in_next = len(self._spans) > 1 and self._spans[1].start == span.end
        whole = data.rfind(NEWLINE) + 1
        if whole and (in_span or in_next):
            return _Head(span.time_ns, data[:whole])
        if in_next and not in_span:
            return None
        return _Head(span.time_ns, data, open_ended=not in_span and len(self._spans) == 1)

    def _read(self, end: int, flags: int) -> bytes:
        """The bytes from here to *end*, which may lie in two segments."""
        parts = []
        at = self.offset
        for segment in self._segments:
            stop = min(end, segment.end)
            while at < stop and at >= segment.base:
                part = _pread(segment.log, stop - at, at - segment.base, flags)
                if not part:
                    raise OSError(errno.EIO, f"{self!r}: the segment is shorter than its index says")
                parts.append(part)
                at += len(part)
        return b"".join(parts)

    def _load(self, flags: int) -> None:
        """Know at least two spans, if there are: whether a line goes on is seen in the second."""
        while len(self._spans) < 2 and not self._seen_all:  # noqa: PLR2004 -- the docstring's two
            if self._segments:
                last = self._segments[-1]
                raw = _pread(last.index, INDEX_READ_ENTRIES * ENTRY_BYTES, last.index_at, flags)
                entries = decode(raw)
                if entries:
                    last.index_at += len(entries) * ENTRY_BYTES
                    found = spans(entries, last.end)
                    last.end = entries[-1].end
                    self._spans.extend(span for span in found if span.end > self.offset)
                    continue
            self._seen_all = not self._open_next()

    def _open_next(self) -> bool:
        """Open the segment after the last one known; False if there is none yet."""
        if not self._segments:
            bases = bases_in(self._directory, self.stream)
            before = [base for base in bases if base <= self.offset]
            return self._open_first(before[-1:] + bases[len(before) :])
        last = self._segments[-1]
        if self._open(last.end):
            return True
        if os.fstat(last.log).st_nlink:
            return False
        bases = bases_in(self._directory, self.stream)
        return self._open_first([base for base in bases if base > last.base])

    def _open_first(self, bases: list[int]) -> bool:
        return any(self._open(base) for base in bases)

    def _open(self, base: int) -> bool:
        if self._segments and base <= self._segments[-1].base:
            return False
        try:
            log = os.open(f"{self._directory}/{segment_name(self.stream, base, LOG_SUFFIX)}", _READ)
        except FileNotFoundError:
            return False
        try:
            index = os.open(f"{self._directory}/{segment_name(self.stream, base, INDEX_SUFFIX)}", _READ)
        except FileNotFoundError:
            os.close(log)
            return False
        self._segments.append(_Segment(base, log, index, end=base))
        self._skip_to_offset(self._segments[-1])
        return True

    def _skip_to_offset(self, segment: _Segment) -> None:
        """Begin with the entry that speaks of our offset, not with the segment's first."""
        if segment.base >= self.offset:
            return
        entries = decode(os.pread(segment.index, os.fstat(segment.index).st_size, 0))
        at = first_after(entries, self.offset)
        if at:
            segment.index_at, segment.end = at * ENTRY_BYTES, entries[at - 1].end


class TaskReader:
    """The streams of one task merged, from *cursor* on; with *until_s*, up to that time."""

    def __init__(
        self, directory: Path, streams: tuple[Stream, ...], cursor: Cursor, until_s: float | None
    ) -> None:
        self._cursor = cursor
        self._until_ns = None if until_s is None else int(until_s * NS_PER_S)
        self._readers = [StreamReader(directory, stream, cursor.of(stream)) for stream in streams]
        self.dry = False
        """Whether the last batch ended because there was no more, and not because it was full."""

    def close(self) -> None:
        for reader in self._readers:
            reader.close()

    def place(self, now: float) -> LogChunk:
        """Where it stands, as a chunk without data."""
        return LogChunk(self._readers[0].stream, now, b"", str(self._cursor))

    def find_place(self) -> None:
        """Open what the first batch will need, however long an index has to be searched for it."""
        for reader in self._readers:
            reader.head(flags=0)

    def batch(self, flags: int, fresh: Collection[Stream] = STREAMS) -> list[LogChunk]:
        """The next chunks, none if there are none now; of a stream that had no more, only if it is *fresh* again.

        Raises `BlockingIOError` if *flags* forbid to wait and it would; it is to be called again then.
        """
        for each in self._readers:
            if each.stream in fresh:
                each.refresh()
        chunks: list[LogChunk] = []
        size = 0
        self.dry = False
        while size < BATCH_BYTES and len(chunks) < BATCH_CHUNKS:
            try:
                reader, head = self._first(flags)
            except BlockingIOError:
                if chunks:
                    break
                raise
            if reader is None or head is None:
                self.dry = True
                break
            reader.advance()
            size += len(head.data)
            self._cursor = self._cursor.at(reader.stream, reader.offset)
            time = head.time_ns / NS_PER_S
            chunks.append(LogChunk(reader.stream, time, head.data, str(self._cursor), head.dropped))
        return chunks

    def lost(self, final: Cursor, time_s: float) -> list[LogChunk]:
        """Once there are no more batches of a log that ended at *final*: what was dropped up to there."""
        chunks = []
        for reader in self._readers:
            missing = final.of(reader.stream) - reader.offset
            if missing > 0 and self._until_ns is None:
                reader.offset += missing
                self._cursor = self._cursor.at(reader.stream, reader.offset)
                chunks.append(LogChunk(reader.stream, time_s, b"", str(self._cursor), missing))
        return chunks

    def _first(self, flags: int) -> tuple[StreamReader | None, _Head | None]:
        """The stream whose next bytes came first."""
        first: tuple[StreamReader | None, _Head | None] = None, None
        for reader in self._readers:
            head = reader.head(flags)
            if head is None or (self._until_ns is not None and head.time_ns >= self._until_ns):
                continue
            if first[1] is None or head.time_ns < first[1].time_ns:
                first = reader, head
        return first


def _first_lines(data: bytes, lines: int) -> bytes:
    end = 0
    for _ in range(lines):
        end = data.index(NEWLINE, end) + 1
    return data[:end]


def _pread(fd: int, size: int, offset: int, flags: int) -> bytes:
    buffer = bytearray(size)
    try:
        count = os.preadv(fd, [buffer], offset, flags)
    except OSError as error:
        if flags and error.errno == errno.EOPNOTSUPP:  # tmpfs cannot tell whether it would have to wait
            raise BlockingIOError from None
        raise
    return bytes(memoryview(buffer)[:count])
