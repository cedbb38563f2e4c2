"""The phases of a task's life as bars to one scale. Pure: knows no terminal and no clock; `output` prints what it makes."""

from collections.abc import Iterator

import attrs

from mill.cli.render import precise, printable
from mill.convert import format_time
from mill.model import Record, Times

LEAST_BAR = 10
"""Columns of the bars, however narrow the terminal."""
_GAP = "  "


@attrs.frozen
class Phase:
    """What took from `begin` to `end`, unix seconds; `open` while it goes on."""

    name: str
    begin: float
    end: float
    open: bool = False


@attrs.frozen
class Line:
    """One phase, drawn: the bar stands `indent` columns from the left and is `length` long."""

    name: str
    indent: int
    length: int
    took: str


def phases(record: Record, now: float) -> Iterator[Phase]:
    """Those that were reached, in the order in which they begin. One that was never left lasts until the end, or until now."""
    times = record.times
    until = times.finished if times.finished is not None else now
    for name, began, ended in _bounds(times):
        if began is not None:
            begin = max(began, times.created)  # a pull that others had begun before
            going_on = ended is None and not record.status.terminal
            yield Phase(name, begin, max(begin, until if ended is None else ended), going_on)


def _bounds(times: Times) -> list[tuple[str, float | None, float | None]]:
    """Begin and end of each phase; without a begin it was skipped or is not known."""
    fetching = times.pull_began if times.fetched is not None or times.pulled is None else None
    return [
        ("place", None if times.placed is None else times.created, times.placed),
        ("fetch", fetching, times.fetched),
        ("unpack", times.unpack_began, times.pulled),
        ("queue", times.queued, times.start_began),
        ("snapshot", times.start_began, times.snapshot_made),
        ("create", times.snapshot_made, times.container_made),
        ("start", None if times.launched is None else times.started, times.launched),
        ("run", times.started, times.finished),
        ("clean up", None if times.cleaned is None else times.finished, times.cleaned),
    ]


def draw(record: Record, now: float, columns: int) -> list[Line]:
    """A line for each phase, to scale within *columns*; what was too short for the scale is one column."""
    found = list(phases(record, now))
    if not found:
        return []
    begin, end = record.times.created, max(phase.end for phase in found)
    took = [precise(phase.end - phase.begin) + ("..." if phase.open else "") for phase in found]
    names = max(len(phase.name) for phase in found)
    room = max(LEAST_BAR, columns - names - max(map(len, took)) - 2 * len(_GAP))
    scale = room / (end - begin) if end > begin else 0.0
    lines = []
    for phase, text in zip(found, took, strict=True):
        left = min(int((phase.begin - begin) * scale), room - 1)
        right = min(room, max(left + 1, round((phase.end - begin) * scale)))
        lines.append(Line(phase.name, left, right - left, text))
    return lines


def title(record: Record) -> str:
    """Whose it is, and when it began."""
    return f"{printable(record.id)}{_GAP}{record.status}{_GAP}from {format_time(record.times.created)}"


def aligned(lines: list[Line], block: str) -> list[tuple[str, str, str]]:
    """Name, bar and duration, the columns aligned; bars are made of *block*."""
    names = max((len(line.name) for line in lines), default=0)
    room = max((line.indent + line.length for line in lines), default=0)
    took = max((len(line.took) for line in lines), default=0)
    return [
        (
            line.name.ljust(names) + _GAP,
            (" " * line.indent + block * line.length).ljust(room) + _GAP,
            line.took.rjust(took),
        )
        for line in lines
    ]
