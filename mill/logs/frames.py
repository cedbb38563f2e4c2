"""What a reader of logs asks for and gets, and how chunks become lines for people and programs. Pure.

`Logs.read` takes a `LogRequest` and yields `LogChunk`s; the API turns these into objects (`Frames`) or text (`PlainText`).
A cursor is the pair of offsets up to which the two streams were given; whoever holds one goes on right after it.
"""

import base64
import math
import re
from functools import lru_cache
from typing import Any, NamedTuple

import attrs

from mill.convert import format_time
from mill.errors import FieldError
from mill.logs.index import STREAMS, Stream
from mill.units import format_size

MOST_LINES = 10_000_000
"""The largest `tail`; whoever wants more leaves it out."""
CURSOR_PATTERN = r"([0-9]{1,19})-([0-9]{1,19})"
_CURSOR = re.compile(CURSOR_PATTERN)
NEWLINE = b"\n"


class Cursor(NamedTuple):
    """Offsets after the last bytes given of each stream; as text ``<stdout>-<stderr>``, such as ``1024-0``."""

    stdout: int = 0
    stderr: int = 0

    def __str__(self) -> str:
        return f"{self.stdout}-{self.stderr}"

    def at(self, stream: Stream, offset: int) -> "Cursor":
        return Cursor(offset, self.stderr) if stream == "stdout" else Cursor(self.stdout, offset)

    def of(self, stream: Stream) -> int:
        return self.stdout if stream == "stdout" else self.stderr

    @classmethod
    def parse(cls, text: str) -> "Cursor":
        """Raises `FieldError` for anything that `str` of a cursor did not give."""
        match = _CURSOR.fullmatch(text)
        if match is None:
            raise FieldError(
                "cursor", f"{text[:50]!r} is not a cursor; take one from an earlier answer as it is"
            )
        return cls(int(match[1]), int(match[2]))


def _check_tail(_: object, __: object, value: int | None) -> None:
    if value is not None and value < 0:
        raise FieldError("tail", f"{value} is negative; say how many lines, or leave it out for all")


def _check_time(_: object, field: Any, value: float | None) -> None:
    if value is not None and not math.isfinite(value):
        raise FieldError(field.name, f"{value} is no point in time")


def _check_stream(_: object, __: object, value: str | None) -> None:
    if value is not None and value not in STREAMS:
        raise FieldError("stream", f"{value!r} is neither stdout nor stderr; leave it out for both")


def _check_cursor(_: object, __: object, value: str | None) -> None:
    if value is not None:
        Cursor.parse(value)


@attrs.frozen
class LogRequest:
    """Which part of a log, and whether to wait for more. Raises `FieldError` when made of what makes no sense.

    `tail` counts lines over all that is asked for, from the end; `since` and `until` are unix seconds (the first
    included, the second not). A `cursor` says where to go on, whatever `tail` and `since` say: a client that lost its
    connection repeats its request and adds the cursor.
    """

    follow: bool = False
    tail: int | None = attrs.field(default=None, validator=_check_tail)
    since: float | None = attrs.field(default=None, validator=_check_time)
    until: float | None = attrs.field(default=None, validator=_check_time)
    stream: Stream | None = attrs.field(default=None, validator=_check_stream)
    cursor: str | None = attrs.field(default=None, validator=_check_cursor)

    @property
    def streams(self) -> tuple[Stream, ...]:
        return STREAMS if self.stream is None else (self.stream,)

    @property
    def asks_place(self) -> bool:
        """Whether its beginning is known to this look at the log alone: asked again later, it would begin elsewhere."""
        return self.follow and self.tail is not None and self.cursor is None


@attrs.frozen
class LogChunk:
    """Some bytes of one stream: whole lines, or a part of one that is very long or not ended yet.

    `time` is when the last of its bytes arrived (unix seconds), `cursor` where to go on after it. With `dropped_bytes`
    it has no data: so much was dropped here, for lack of room. With neither it only says where a follow of a tail begins,
    for who loses the connection before the first line.
    """

    stream: Stream
    time: float
    data: bytes
    cursor: str
    dropped_bytes: int = 0

    @property
    def only_place(self) -> bool:
        return not self.data and not self.dropped_bytes


@attrs.frozen
class Frame:
    """One line, or a part of one. `text` is None where the bytes are no UTF-8: then `data` is to be sent in base64."""

    stream: Stream
    time: float
    data: bytes
    text: str | None
    cursor: str
    dropped_bytes: int = 0

    def as_object(self) -> dict[str, Any]:
        """As the API says it: ``{"stream", "time", "text" | "base64", "cursor"[, "dropped_bytes"]}``."""
        said: dict[str, Any] = {"stream": self.stream, "time": _format_time(self.time)}
        if self.text is None:
            said["base64"] = base64.b64encode(self.data).decode("ascii")
        else:
            said["text"] = self.text
        said["cursor"] = self.cursor
        if self.dropped_bytes:
            said["dropped_bytes"] = self.dropped_bytes
        return said


@attrs.define
class Frames:
    """Chunks in, frames out; one of these per reader.

    The first bytes of a character whose rest has not come yet are held back, and no cursor given meanwhile reaches
    beyond them: whoever resumes anywhere gets every byte once.
    """

    _held: dict[Stream, tuple[bytes, float]] = attrs.field(factory=dict)
    _cursor: Cursor = attrs.field(factory=Cursor)

    def receive(self, chunk: LogChunk) -> list[Frame]:
        """The frames of *chunk*, a line or a part of one each; of a place alone, one that is empty."""
        if chunk.only_place:
            return [Frame(chunk.stream, chunk.time, b"", "", chunk.cursor)]
        held, _ = self._held.pop(chunk.stream, (b"", 0.0))
        after = Cursor.parse(chunk.cursor)
        at = after.of(chunk.stream) - chunk.dropped_bytes - len(chunk.data) - len(held)
        for stream, (kept, _) in self._held.items():
            after = after.at(stream, after.of(stream) - len(kept))
        self._cursor = after.at(chunk.stream, at)
        data = held + chunk.data
        if chunk.dropped_bytes:
            frames = [self._frame(chunk.stream, chunk.time, held)] if held else []
            self._cursor = after
            return [*frames, Frame(chunk.stream, chunk.time, b"", "", str(after), chunk.dropped_bytes)]
        if begun := unfinished_bytes(data):
            self._held[chunk.stream] = data[-begun:], chunk.time
            data = data[:-begun]
        return [self._frame(chunk.stream, chunk.time, line) for line in split_lines(data)]

    def finish(self) -> list[Frame]:
        """What is still held back, once no more chunks come."""
        frames = [self._frame(stream, time, held) for stream, (held, time) in self._held.items()]
        self._held.clear()
        return frames

    def _frame(self, stream: Stream, time: float, line: bytes) -> Frame:
        self._cursor = self._cursor.at(stream, self._cursor.of(stream) + len(line))
        return Frame(stream, time, line, _text_of(line), str(self._cursor))


@attrs.define
class PlainText:
    """Chunks in, bytes for a terminal out; with *timestamps*, each line begins with the time at which it came."""

    timestamps: bool = False
    _inside_line: set[Stream] = attrs.field(factory=set)

    def receive(self, chunk: LogChunk) -> bytes:
        if chunk.only_place:
            return b""
        if chunk.dropped_bytes:
            text = f"[{format_size(chunk.dropped_bytes)} of {chunk.stream} were dropped here]\n".encode()
            if chunk.stream in self._inside_line:
                self._inside_line.discard(chunk.stream)
                text = NEWLINE + text
            return text
        prefix = f"{format_time(chunk.time)} ".encode() if self.timestamps else b""
        lines = split_lines(chunk.data) if prefix else [chunk.data]
        first = b"" if chunk.stream in self._inside_line else prefix
        if chunk.data.endswith(NEWLINE):
            self._inside_line.discard(chunk.stream)
        else:
            self._inside_line.add(chunk.stream)
        return first + prefix.join(lines)


def split_lines(data: bytes) -> list[bytes]:
    """*data* cut after each newline and nowhere else (`splitlines` cuts at carriage returns too)."""
    if b"\r" not in data:
        return data.splitlines(keepends=True)
    lines = [line + NEWLINE for line in data.split(NEWLINE)]
    lines[-1] = lines[-1][:-1]
    return lines if lines[-1] else lines[:-1]


def unfinished_bytes(data: bytes) -> int:
    """How many bytes at the end of *data* (at most 3) begin a UTF-8 character whose rest is not there (RFC 3629)."""
    for count in range(1, min(3, len(data)) + 1):
        byte = data[-count]
        if byte < 0x80:  # noqa: PLR2004 -- ASCII
            return 0
        if byte >= 0xC0:  # noqa: PLR2004 -- the first byte of a longer one; its high bits say how long
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4 if byte < 0xF5 else 0  # noqa: PLR2004 -- as above
            return count if count < length else 0
    return 0


_format_time = lru_cache(maxsize=16)(format_time)  # the lines of a chunk share theirs


def _text_of(line: bytes) -> str | None:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return None
