"""What commands print: JSON, tables, pairs, and a task's raw bytes. Rich where a person reads on a terminal, plain columns elsewhere.

Called by every command; knows no client.
"""

import json
import os
import select
import shutil
import sys
from collections.abc import Sequence
from typing import Any, TextIO

import click

from mill.cli import timeline
from mill.cli.render import Pairs, Rows
from mill.model import Record

GAP = "  "
FULL_BLOCK = "\u2588"
MOST_COLUMNS = 160
"""Of a timeline: beyond it bars are no easier to compare."""

_COLORS = {"running": "green", "starting": "cyan", "pulling": "cyan", "failed": "red", "stopped": "dim"}

_PHASE_COLORS = {"queue": "yellow", "run": "green", "clean up": "dim"}


def show_json(data: Any) -> None:
    """In ASCII, whatever the terminal's encoding: every reader of JSON takes it."""
    click.echo(json.dumps(data, indent=2))


def show_table(columns: Sequence[str], rows: Rows) -> None:
    """Aligned columns under a heading."""
    if sys.stdout.isatty():
        _show_rich(columns, rows)
        return
    for line in aligned([columns, *rows]):
        click.echo(line)


def aligned(rows: Rows) -> list[str]:
    """Each column as wide as its widest cell."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _show_rich(columns: Sequence[str], rows: Rows) -> None:
    from rich.console import Console  # noqa: PLC0415 -- 60 ms that only a terminal pays
    from rich.table import Table  # noqa: PLC0415 -- as above
    from rich.text import Text  # noqa: PLC0415 -- as above

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, column in enumerate(columns):
        # What a person copies is never cut, however narrow the terminal.
        width = max([len(column), *(len(row[index]) for row in rows)]) if index == 0 else None
        table.add_column(column, no_wrap=True, min_width=width)
    for row in rows:
        table.add_row(*(Text(cell, style=_COLORS.get(cell.split(" ")[0], "")) for cell in row))
    Console().print(table)


def show_timeline(record: Record, now: float) -> None:
    """Bars as wide as the terminal (80 columns where there is none), in colour where a person looks."""
    columns = min(shutil.get_terminal_size().columns, MOST_COLUMNS)
    rows = timeline.aligned(timeline.draw(record, now, columns), _block())
    click.echo(timeline.title(record))
    if not sys.stdout.isatty():
        for row in rows:
            click.echo("".join(row))
        return
    from rich.console import Console  # noqa: PLC0415 -- as above
    from rich.text import Text  # noqa: PLC0415 -- as above

    console = Console(width=columns)
    for name, bar, took in rows:
        style = _PHASE_COLORS.get(name.strip(), "cyan")
        console.print(Text.assemble(name, (bar, style), took), no_wrap=True, overflow="crop", soft_wrap=True)


def _block() -> str:
    """What bars are made of, as far as the output can show it."""
    try:
        FULL_BLOCK.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        return "#"
    return FULL_BLOCK


def show_pairs(pairs: Pairs) -> None:
    """``key:   value`` lines, the values aligned."""
    width = max(len(key) for key, _ in pairs) + 1
    for key, value in pairs:
        click.echo(f"{f'{key}:'.ljust(width)} {value}".rstrip())


class Sink:
    """Takes a task's bytes as they are and has them out when `write` returns. `write` may block: call it in a thread."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        stream.flush()
        try:
            self._fd: int | None = stream.fileno()
        except (OSError, ValueError):
            self._fd = None  # captured by a test or an embedding program

    def write(self, data: bytes) -> None:
        """Past Python's buffer, whose lock an abandoned thread would hold at exit."""
        if self._fd is None:
            self._stream.buffer.write(data)
            self._stream.flush()
            return
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:  # somebody made the shared descriptor non-blocking
                select.select([], [self._fd], [])


class Sinks:
    """Both streams, each to its own place."""

    def __init__(self) -> None:
        self._sinks = {"stdout": Sink(sys.stdout), "stderr": Sink(sys.stderr)}

    def write(self, pieces: Sequence[tuple[str, bytes]]) -> None:
        """In their order, neighbours of one stream at once."""
        at = 0
        while at < len(pieces):
            stream = pieces[at][0]
            end = at
            while end < len(pieces) and pieces[end][0] == stream:
                end += 1
            self._sinks.get(stream, self._sinks["stdout"]).write(b"".join(data for _, data in pieces[at:end]))
            at = end
