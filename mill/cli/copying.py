"""A task's log onto our own stdout and stderr. Called by `logs` and `run`."""

import json

import trio

from mill.cli.output import Sinks
from mill.client import LogLine, LogStream
from mill.client.lines import line_json
from mill.convert import format_time


class Plain:
    """The bytes as they are, each stream's to its own."""

    def pieces(self, line: LogLine) -> list[tuple[str, bytes]]:
        return [*_dropped(line), (line.stream, line.data)]


class Stamped:
    """Each line after the time at which its first byte was written."""

    def __init__(self) -> None:
        self._inside: dict[str, bool] = {}

    def pieces(self, line: LogLine) -> list[tuple[str, bytes]]:
        stamp = f"{format_time(line.time)} ".encode()
        pieces = _dropped(line)
        for text in line.data.splitlines(keepends=True) if b"\n" in line.data else [line.data]:
            inside = self._inside.get(line.stream, False)
            pieces.append((line.stream, text if inside else stamp + text))
            self._inside[line.stream] = not text.endswith(b"\n")
        return pieces


class Json:
    """One object a line, as the API sends them, all to stdout."""

    def pieces(self, line: LogLine) -> list[tuple[str, bytes]]:
        return [("stdout", json.dumps(line_json(line)).encode() + b"\n")]


Style = Plain | Stamped | Json


async def copy(log: LogStream, style: Style) -> None:
    """Until the log's end. A reader that has stopped holds up only its thread, so that signals still get through."""
    sinks = Sinks()
    async with log:
        while batch := await log.next_batch():
            pieces = [piece for line in batch for piece in style.pieces(line)]
            await trio.to_thread.run_sync(sinks.write, pieces, abandon_on_cancel=True)


def _dropped(line: LogLine) -> list[tuple[str, bytes]]:
    if not line.dropped_bytes:
        return []
    note = (
        f"mill: {line.dropped_bytes} bytes of {line.stream} are gone: the node's logs were over their limit\n"
    )
    return [("stderr", note.encode())]
