"""The names of segment files and the time index beside each. Pure: bytes and numbers in, values out.

A stream is one sequence of bytes; its offsets count from the task's first byte and never restart. It lies in segments:

    stdout.00000000000000000000.log    the bytes from offset 0 on
    stdout.00000000000000000000.idx    16 bytes an entry: unix time in ns, offset after the last byte (u64, little endian)
    stdout.00000000000004194304.log    the next segment; its name is where it begins
    end                                written when no more can come; holds both final offsets as a cursor

An entry is written after the bytes it speaks of: "what lies before `end`, and not before the previous entry's, was there
at `time_ns`". Both numbers only grow. What is not indexed yet is not visible to readers. Since every segment has an index
of its own, the oldest may be removed, `.log` first, without touching the rest.

`segments` writes these files, `reader` and `seek` read them.
"""

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

Stream = Literal["stdout", "stderr"]
STREAMS: Final[tuple[Stream, Stream]] = ("stdout", "stderr")

END_NAME = "end"
LOG_SUFFIX = ".log"
INDEX_SUFFIX = ".idx"
ENTRY_BYTES = 16
NS_PER_S = 1_000_000_000

_ENTRY = struct.Struct("<QQ")
_BASE_DIGITS = 20  # of the largest u64, so that names sort as numbers do


class Entry(NamedTuple):
    """What lies before offset `end` (and after the previous entry's) had arrived at `time_ns`."""

    time_ns: int
    end: int


class Span(NamedTuple):
    """An entry with its beginning: the bytes from `start` up to `end` arrived at `time_ns`."""

    time_ns: int
    start: int
    end: int


class Mended(NamedTuple):
    """What to do with an index after a crash: keep so many bytes of it, then append `missing`, if any; `last_ns` is its last time then."""

    keep_bytes: int
    missing: Entry | None
    last_ns: int


def segment_name(stream: Stream, base: int, suffix: str) -> str:
    return f"{stream}.{base:0{_BASE_DIGITS}}{suffix}"


def bases_of(stream: Stream, names: list[str]) -> list[int]:
    """Where the stream's segments begin, in order, out of a directory's *names*; what is no segment is passed over."""
    bases = []
    for name in names:
        if name.startswith(stream) and name.endswith(LOG_SUFFIX):
            digits = name[len(stream) + 1 : -len(LOG_SUFFIX)]
            if digits.isdecimal() and name == segment_name(stream, int(digits), LOG_SUFFIX):
                bases.append(int(digits))
    return sorted(bases)


def encode(entry: Entry) -> bytes:
    return _ENTRY.pack(*entry)


def decode(raw: bytes | bytearray) -> list[Entry]:
    """The whole entries of *raw*; a torn last one is left out."""
    whole = len(raw) - len(raw) % ENTRY_BYTES
    return [Entry(time_ns, end) for time_ns, end in _ENTRY.iter_unpack(memoryview(raw)[:whole])]


def spans(entries: list[Entry], base: int) -> list[Span]:
    """The entries of the segment that begins at *base*, each with its beginning."""
    found, start = [], base
    for time_ns, end in entries:
        found.append(Span(time_ns, start, end))
        start = end
    return found


def mend(raw: bytes, base: int, end: int, mtime_ns: int, before_ns: int = 0) -> Mended:
    """How to make the index *raw* speak of exactly the bytes from *base* to *end* that its segment holds.

    A torn last entry goes, and so does everything from the first entry on that does not grow or lies beyond the bytes
    (a host that lost power may keep the younger file and lose the older). Bytes without an entry get one: *mtime_ns*,
    the segment's last write, or just after the entry before it, if that is later (a file's time may lag by a tick of the
    kernel). *before_ns* is the time of the last entry of the segment before.
    """
    kept, last = 0, Entry(before_ns, base)
    for entry in decode(raw):
        if entry.end <= last.end or entry.end > end or entry.time_ns < last.time_ns:
            break
        kept, last = kept + ENTRY_BYTES, entry
    if last.end < end:
        missing = Entry(max(mtime_ns, last.time_ns + 1), end)
        return Mended(kept, missing, missing.time_ns)
    return Mended(kept, None, last.time_ns)


def first_after(entries: list[Entry], offset: int) -> int:
    """The position of the first entry that speaks of bytes at *offset* or later."""
    return bisect_right(entries, offset, key=lambda entry: entry.end)


def first_since(entries: Sequence[Entry | Span], time_ns: int) -> int:
    """The position of the first entry at *time_ns* or later."""
    return bisect_left(entries, time_ns, key=lambda entry: entry.time_ns)


class Stamps:
    """The times of one task's entries: they grow, whatever the wall clock does, so that both streams merge by them."""

    def __init__(self, last_ns: int = 0) -> None:
        self.last_ns = last_ns

    def stamp(self, now_s: float) -> int:
        """Nanoseconds of *now_s*, or just after the last stamp if the clock went back."""
        self.last_ns = max(int(now_s * NS_PER_S), self.last_ns + 1)
        return self.last_ns

    def seen(self, time_ns: int) -> None:
        """An entry of an earlier milld: later stamps lie after it."""
        self.last_ns = max(self.last_ns, time_ns)
