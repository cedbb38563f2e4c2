"""How a pull is shown on stderr: bars on a terminal, a line before and after it elsewhere, nothing when nobody wants it.

Called by `run`, `spawn --wait` and `images pull`. The cursor is never hidden and rests below the bars: whatever ends or
stops the command, there is nothing to restore.
"""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from mill.cli import failure, render
from mill.client import Client
from mill.model import PullProgress, Record, Status

if TYPE_CHECKING:
    from rich.text import Text

LOOK_S = 0.25
"""Between two looks at a task that pulls, where bars show them."""


class Unseen:
    """Shows nothing. The others are kinds of it."""

    look_s: float | None = None
    """How long to wait between two looks; None is until the task runs."""

    def show(self, image: str, progress: PullProgress) -> None:
        """The pull as it stands."""

    def hide(self) -> None:
        """Makes way for something else on the terminal; the next `show` comes back."""

    def say_pulled(self, record: Record) -> None:
        """The pull of a task is over."""


class Told(Unseen):
    """One line as the pull begins, one when it is over."""

    def __init__(self) -> None:
        self._began = False

    def show(self, image: str, progress: PullProgress) -> None:  # noqa: ARG002 -- one line has no room for it
        if not self._began:
            failure.say(f"pulling {image}")
        self._began = True

    def say_pulled(self, record: Record) -> None:
        times = record.times
        if self._began and times.pulled is not None:
            failure.say(f"pulled {record.spec.image} in {render.precise(times.pulled - times.created)}")


class Bars(Unseen):
    """Bars that are written over, and gone at the end."""

    look_s = LOOK_S

    def __init__(self, now: Callable[[], float]) -> None:
        from rich.console import Console  # noqa: PLC0415 -- 60 ms that only a pull on a terminal pays

        from mill.cli.bars import Rates  # noqa: PLC0415 -- as above

        self._console = Console(stderr=True)
        self._rates = Rates()
        self._now = now
        self._widths: list[int] = []

    def show(self, image: str, progress: PullProgress) -> None:
        from mill.cli.bars import Room, frame  # noqa: PLC0415 -- as above

        self._rates.take(progress, self._now())
        columns, lines = self._size()
        # Never the last column, where terminals differ in when they wrap; the last line is the cursor's.
        room = Room(columns - 1, lines - 1, plain=self._console.options.ascii_only)
        self._draw(frame(image, progress, self._rates, room), columns)

    def hide(self) -> None:
        self._draw([], self._size()[0])

    def _size(self) -> tuple[int, int]:
        """Columns and lines of this very terminal, which change; of one that does not know, rich's guess."""
        try:
            columns, lines = os.get_terminal_size(sys.stderr.fileno())
        except (OSError, ValueError):
            columns = lines = 0
        return (columns, lines) if columns and lines else self._console.size

    def _draw(self, lines: Sequence["Text"], columns: int) -> None:
        """Over what is there, in one write. A terminal that became narrower has broken our lines into more of them."""
        height = sum(max(1, -(-width // columns)) for width in self._widths)
        if not height and not lines:
            return
        back = f"\r\x1b[{height}A" if height else "\r"
        wipe = "\x1b[J" if height > len(self._widths) else ""
        self._widths = [line.cell_len for line in lines]
        with suppress(OSError):  # a terminal that is gone shows nothing
            with self._console.capture() as captured:
                for line in lines:
                    self._console.print(line, soft_wrap=True, end="\x1b[K\n")
            sys.stderr.write(f"{back}{wipe}{captured.get()}\x1b[J")
            sys.stderr.flush()


@contextmanager
def shown(now: Callable[[], float]) -> Iterator[Unseen]:
    """What shows a pull here. Whatever it shows on a terminal is gone afterwards. *now* is any clock that never jumps."""
    view: Unseen
    if sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in {"dumb", "unknown"}:
        view = Bars(now)
    else:
        view = Told()
    try:
        yield view
    finally:
        view.hide()


async def watch(mill: Client, task_id: str, view: Unseen) -> Record:
    """Shows a task's pull until it is over; returns the record as it stands then."""
    record = await mill.wait(task_id, "running", timeout=0.0)
    while record.status is Status.PULLING:
        view.show(record.spec.image, record.pull or PullProgress())
        record = await mill.wait(task_id, "running", timeout=view.look_s)
    view.hide()
    view.say_pulled(record)
    return record
