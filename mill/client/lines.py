"""Log lines and what may be asked of them. Pure; `follow` reads with it, the CLI shows its values."""

import base64
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import attrs

from mill.convert import format_time, parse_time
from mill.errors import FieldError
from mill.model import Time

STREAMS = ("stdout", "stderr")


@attrs.frozen
class LogLine:
    """A piece of one stream as the task wrote it, with its line end; without one when the line goes on in a later piece.

    `cursor` resumes after it. `dropped_bytes` counts what retention removed right before it.
    """

    stream: str
    time: Time
    data: bytes
    cursor: str
    dropped_bytes: int = 0


@attrs.frozen
class LogQuery:
    """Which lines of a task: from `cursor` if there is one, else the last `tail` or all, within `since` and `until`."""

    follow: bool = True
    tail: int | None = None
    since: str | None = None
    until: str | None = None
    stream: str | None = None
    cursor: str | None = None

    def params(self) -> tuple[tuple[str, str], ...]:
        """As the API takes them; a cursor already says where the tail began."""
        said = {
            "follow": "true" if self.follow else None,
            "tail": str(self.tail) if self.tail is not None and self.cursor is None else None,
            "since": self.since if self.cursor is None else None,
            "until": self.until,
            "stream": self.stream,
            "cursor": self.cursor,
        }
        return tuple((key, value) for key, value in said.items() if value is not None)


Moment = float | str | datetime
"""Unix seconds, RFC 3339, or a datetime."""


def query(
    *,
    follow: bool,
    tail: int | None,
    since: Moment | None,
    until: Moment | None,
    stream: str | None,
    cursor: str | None,
) -> LogQuery:
    """Checked; raises `FieldError`."""
    if tail is not None and tail < 0:
        raise FieldError("tail", f"{tail} is not a number of lines: write 0 or more")
    if stream is not None and stream not in STREAMS:
        raise FieldError("stream", f"{stream!r} is not one of {', '.join(STREAMS)}")
    return LogQuery(follow, tail, _moment("since", since), _moment("until", until), stream, cursor)


def _moment(field: str, value: Moment | None) -> str | None:
    if value is None:
        return None
    try:
        return format_time(value.timestamp() if isinstance(value, datetime) else parse_time(value))
    except (ValueError, OverflowError, OSError) as error:
        raise FieldError(field, str(error)) from None


class Decoder:
    """NDJSON as it arrives in, log lines out. A line cut off by a break stays inside and is asked for again."""

    def __init__(self) -> None:
        self._rest = b""
        self._time = ("", Time(0.0))
        self.fault: Mapping[str, Any] | None = None
        """The problem that the body ended with: the node that has the log was lost in the midst of it."""

    def feed(self, data: bytes) -> list[LogLine]:
        """The lines that *data* completes; raises ValueError and its like when they are none of ours."""
        *whole, self._rest = (self._rest + data).split(b"\n")
        texts = [text for text in whole if text.strip()]
        # As one list: a third of the time that a parse for each line takes.
        objects = json.loads(b"[" + b",".join(texts) + b"]")
        if objects and "error" in objects[-1]:
            self.fault = objects.pop()["error"]
        return [self._line(said) for said in objects]

    def _line(self, said: Mapping[str, Any]) -> LogLine:
        if said["time"] != self._time[0]:  # neighbours mostly share it
            self._time = (said["time"], parse_time(said["time"]))
        if "base64" in said:
            data = base64.b64decode(said["base64"])
        else:
            data = said["text"].encode("utf-8", "surrogateescape")
        return LogLine(said["stream"], self._time[1], data, said["cursor"], said.get("dropped_bytes", 0))


def line_json(line: LogLine) -> dict[str, Any]:
    """The object of the API that *line* came from."""
    said: dict[str, Any] = {"stream": line.stream, "time": format_time(line.time)}
    try:
        said["text"] = line.data.decode()
    except UnicodeDecodeError:
        said["base64"] = base64.b64encode(line.data).decode("ascii")
    said["cursor"] = line.cursor
    if line.dropped_bytes:
        said["dropped_bytes"] = line.dropped_bytes
    return said
