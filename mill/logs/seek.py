"""Where to begin reading a task's log: the last so many lines, or from a time on. Blocking; `store` calls it in a thread.

`tail` reads from the end, so that its cost is what it shows and not what the log holds. Both streams count: lines are
ordered by the time at which their ends came, as `reader` gives them.
"""

from collections.abc import Iterator
from pathlib import Path

import attrs

from mill.logs.frames import NEWLINE, Cursor, LogRequest
from mill.logs.index import (
    ENTRY_BYTES,
    INDEX_SUFFIX,
    LOG_SUFFIX,
    NS_PER_S,
    STREAMS,
    Entry,
    Span,
    Stream,
    decode,
    first_since,
    segment_name,
    spans,
)
from mill.logs.segments import bases_in
from mill.units import KIB

BLOCK_BYTES = 64 * KIB
"""Read at a time on the way back to a line's beginning."""


def start_of(directory: Path, request: LogRequest) -> Cursor:
    """Where a reader begins that wants *request*; a cursor of its own wins over `tail` and `since`."""
    if request.cursor is not None:
        return Cursor.parse(request.cursor)
    if request.tail is None and request.since is None:
        return Cursor()
    since_ns = _ns(request.since) or 0
    files = [StreamFiles(directory, stream, bases_in(directory, stream)) for stream in request.streams]
    starts = {each.stream: each.start_since(since_ns) for each in files}
    if request.tail is not None:
        starts = _tail(files, starts, request.tail, since_ns, _ns(request.until))
    return Cursor(*(starts.get(stream, 0) for stream in STREAMS))


def _ns(time_s: float | None) -> int | None:
    return None if time_s is None else max(0, int(time_s * NS_PER_S))


@attrs.frozen
class StreamFiles:
    """One stream's segments as they were when listed; a segment that is gone meanwhile counts as empty."""

    directory: Path
    stream: Stream
    bases: list[int]

    def spans_of(self, base: int) -> list[Span]:
        return spans(self._entries(base), base)

    def _entries(self, base: int, most_bytes: int = -1) -> list[Entry]:
        """Of the segment that begins at *base*: all, or those in so many bytes."""
        try:
            with (self.directory / segment_name(self.stream, base, INDEX_SUFFIX)).open("rb") as file:
                return decode(file.read(most_bytes))
        except FileNotFoundError:
            return []

    def backward(self, since_ns: int, until_ns: int | None) -> Iterator[Span]:
        """The spans from *since_ns* to before *until_ns*, the latest first."""
        for base in reversed(self.bases):
            for span in reversed(self.spans_of(base)):
                if span.time_ns < since_ns:
                    return
                if until_ns is None or span.time_ns < until_ns:
                    yield span

    def read(self, start: int, end: int) -> bytes:
        """The bytes from *start* to *end*, which lie in one segment."""
        base = max((base for base in self.bases if base <= start), default=0)
        try:
            with (self.directory / segment_name(self.stream, base, LOG_SUFFIX)).open("rb") as file:
                file.seek(start - base)
                return file.read(end - start)
        except FileNotFoundError:
            return b""

    def line_start(self, offset: int) -> int:
        """The beginning of the line that the byte at *offset* belongs to, or of what is left of it."""
        at = offset
        for base in reversed([base for base in self.bases if base < offset]):
            while at > base:
                block = max(base, at - BLOCK_BYTES)
                found = self.read(block, at).rfind(NEWLINE)
                if found >= 0:
                    return block + found + 1
                at = block
        return at

    @property
    def end(self) -> int:
        """After the last byte that can be seen."""
        return next((span.end for span in self.backward(0, None)), 0)

    def start_since(self, since_ns: int) -> int:
        """The beginning of the first line that ended at *since_ns* or later; the very end if there is none."""
        if since_ns <= 0:
            return 0
        later = None  # the segment after the one that is looked at
        for base in reversed(self.bases):
            begun = self._entries(base, ENTRY_BYTES)
            if begun and begun[0].time_ns >= since_ns:
                later = base
                continue
            found = self.spans_of(base)
            at = first_since(found, since_ns)
            if at < len(found):
                return self.line_start(found[at].start)
            if found:
                return found[-1].end if later is None else self.line_start(later)
        return 0


class _Walk:
    """One stream from its end backward, while `tail` counts. `start` is where its share begins, so far."""

    def __init__(self, files: StreamFiles, since_ns: int, until_ns: int | None) -> None:
        self.files = files
        self._spans = files.backward(since_ns, until_ns)
        self.span = next(self._spans, None)
        self.start = self.span.end if self.span is not None else None
        self.at_end = True
        self._whole_end = files.end if until_ns is not None else self.start

    def take(self, lines: int) -> int:
        """Include the current span, or as much of it as holds *lines*; how many it was."""
        if self.span is None:
            return 0
        data = self.files.read(self.span.start, self.span.end)
        unended = self.span.end == self._whole_end and not data.endswith(NEWLINE)
        count = data.count(NEWLINE) + unended
        self.at_end = False
        if count <= lines:
            self.start = self.span.start
            self.span = next(self._spans, None)
            return count
        cut = len(data)
        for _ in range(lines + (not unended)):
            cut = data.rindex(NEWLINE, 0, cut)
        self.start = self.span.start + cut + 1
        return lines


def _tail(
    files: list[StreamFiles], starts: dict[Stream, int], lines: int, since_ns: int, until_ns: int | None
) -> dict[Stream, int]:
    """Where each stream begins so that both together give the last *lines*, none from before *starts*."""
    walks = [_Walk(each, since_ns, until_ns) for each in files]
    while lines:
        left = [(walk.span.time_ns, walk) for walk in walks if walk.span is not None]
        if not left:
            return starts
        lines -= max(reversed(left), key=lambda pair: pair[0])[1].take(lines)
    found = dict(starts)
    for walk in walks:
        if walk.start is not None:
            stream = walk.files.stream
            begin = walk.start if walk.at_end else walk.files.line_start(walk.start)
            found[stream] = max(starts[stream], begin)
    return found
