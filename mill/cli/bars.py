"""A pull as lines for a terminal: the image, a row for each layer, and the whole. Pure; `progress` puts them on the screen.

No line is wider than it may be, and no frame higher: columns give way first, then rows are folded into one.
"""

from collections import deque
from collections.abc import Collection, Sequence

import attrs
from rich.text import Text

from mill.cli.render import NOTHING, percent, printable
from mill.model import LayerProgress, LayerState, PullProgress
from mill.units import format_size

MOST_ROWS = 12
"""Of layers, however high the terminal is."""
RATE_WINDOW_S = 3.0
"""What a rate is the mean of: long enough to be read, short enough to be true."""

LABEL_WIDTH = 12
STATE_WIDTH = len(LayerState.DOWNLOADING)
SIZE_WIDTH = len("9.9M of 999M")
RATE_WIDTH = len("999M/s")
LEAST_BAR = 6
MOST_BAR = 40
GAP = "  "

_LEFT = LABEL_WIDTH + len(GAP) + STATE_WIDTH
_SIZED = _LEFT + len(GAP) + SIZE_WIDTH
_BARRED = _SIZED + len(GAP)
_RATED = _BARRED + len(GAP) + RATE_WIDTH

_OVER = frozenset({LayerState.DONE, LayerState.EXISTS})
_FOLDABLE = (_OVER, frozenset({LayerState.WAITING}), frozenset({LayerState.DOWNLOADED}))
"""What is folded, and in which order, until the rows fit."""

_STYLES = {
    LayerState.WAITING: "dim",
    LayerState.DOWNLOADING: "cyan",
    LayerState.DOWNLOADED: "blue",
    LayerState.UNPACKING: "yellow",
    LayerState.DONE: "green",
    LayerState.EXISTS: "green",
}


@attrs.frozen
class Room:
    """How much of a terminal there is: columns and lines. A dumb one (`plain`) gets bars of ASCII."""

    width: int
    height: int
    plain: bool = False


@attrs.frozen
class Row:
    """One line below the image's name, whatever it stands for."""

    label: str
    state: str
    style: str
    done: int
    total: int
    rate: float | None = None


@attrs.define
class Meter:
    """Bytes a second out of how many there were at some moments."""

    _samples: deque[tuple[float, int]] = attrs.field(factory=deque)

    def take(self, done: int, now: float) -> None:
        self._samples.append((now, done))
        while now - self._samples[0][0] > RATE_WINDOW_S and len(self._samples) > 2:  # noqa: PLR2004 -- two make a rate
            self._samples.popleft()

    @property
    def rate(self) -> float | None:
        """None while nobody can tell."""
        if not self._samples:
            return None
        (began, first), (ended, last) = self._samples[0], self._samples[-1]
        return max(0.0, (last - first) / (ended - began)) if ended > began else None


@attrs.define
class Rates:
    """How fast each layer comes, and all of them together. What was there already did not come."""

    _meters: dict[str, Meter] = attrs.field(factory=dict)
    _done: dict[str, int] = attrs.field(factory=dict)
    _whole: Meter = attrs.field(factory=Meter)
    _came: int = 0

    def take(self, progress: PullProgress, now: float) -> None:
        for layer in progress.layers:
            if layer.digest not in self._done or layer.state in {LayerState.WAITING, LayerState.EXISTS}:
                self._meters[layer.digest] = Meter()
            else:
                self._came += max(0, layer.done - self._done[layer.digest])
            self._done[layer.digest] = layer.done
            self._meters[layer.digest].take(layer.done, now)
        if progress.layers:
            self._whole.take(self._came, now)

    def of(self, layer: LayerProgress) -> float | None:
        """Only of one that comes just now."""
        meter = self._meters.get(layer.digest)
        return meter.rate if meter is not None and layer.state is LayerState.DOWNLOADING else None

    def of_all(self, progress: PullProgress) -> float | None:
        comes = any(layer.state is LayerState.DOWNLOADING for layer in progress.layers)
        return self._whole.rate if comes else None


def frame(image: str, progress: PullProgress, rates: Rates, room: Room) -> list[Text]:
    """What the terminal shows of a pull now. Before its manifest is known that is one line."""
    lines = [_clipped(Text(f"pulling {printable(image)}"), room)]
    if progress.total is None and not progress.done:
        return lines
    space = min(MOST_ROWS, room.height - 2)  # for the name above and the whole below
    rows = [*_layer_rows(progress.layers, rates, max(0, space)), _whole(progress, rates)]
    return [*lines, *(_line(row, room) for row in rows)][: max(1, room.height)]


def _whole(progress: PullProgress, rates: Rates) -> Row:
    fetched = progress.total is not None and progress.done >= progress.total
    unpacks = fetched and any(layer.state is LayerState.UNPACKING for layer in progress.layers)
    state = str(LayerState.UNPACKING) if unpacks else percent(progress) or NOTHING
    return Row("total", state, "bold", progress.done, progress.total or 0, rates.of_all(progress))


def _layer_rows(layers: Sequence[LayerProgress], rates: Rates, space: int) -> list[Row]:
    """One row each, or less where they are more than *space*."""
    folds: list[Collection[LayerState]] = []
    rows = _folded(layers, rates, folds)
    for states in _FOLDABLE:
        if len(rows) <= space:
            break
        folds.append(states)
        rows = _folded(layers, rates, folds)
    return rows[:space]


def _folded(
    layers: Sequence[LayerProgress], rates: Rates, folds: Sequence[Collection[LayerState]]
) -> list[Row]:
    """Layers of the same fold in one row, where the first of them is."""
    rows: list[Row] = []
    told: list[Collection[LayerState]] = []
    for layer in layers:
        fold = next((states for states in folds if layer.state in states), None)
        if fold is None:
            rows.append(_own_row(layer, rates))
        elif fold not in told:
            told.append(fold)
            rows.append(_fold_row([one for one in layers if one.state in fold]))
    return rows


def _own_row(layer: LayerProgress, rates: Rates) -> Row:
    name = printable(layer.digest.rpartition(":")[2][:LABEL_WIDTH])
    return Row(name, str(layer.state), _STYLES[layer.state], layer.done, layer.total, rates.of(layer))


def _fold_row(layers: Sequence[LayerProgress]) -> Row:
    state = LayerState.DONE if layers[0].state in _OVER else layers[0].state
    label = f"{len(layers)} layer{'' if len(layers) == 1 else 's'}"
    done, total = sum(one.done for one in layers), sum(one.total for one in layers)
    return Row(label, str(state), _STYLES[state], done, total)


def _line(row: Row, room: Room) -> Text:
    """Label, state, bar, size and rate; where the terminal is narrow without rate, then bar, then size."""
    line = Text.assemble(row.label.ljust(LABEL_WIDTH), GAP, (row.state.ljust(STATE_WIDTH), row.style))
    rated = room.width >= _RATED + LEAST_BAR
    bar_width = min(MOST_BAR, room.width - (_RATED if rated else _BARRED))
    if bar_width >= LEAST_BAR:
        line.append(GAP).append_text(_bar(row, bar_width, plain=room.plain))
    if room.width >= _SIZED:
        line.append(GAP + _size(row).rjust(SIZE_WIDTH))
    if rated and row.rate is not None:
        line.append(GAP + f"{format_size(row.rate)}/s".rjust(RATE_WIDTH), "dim")
    return _clipped(line, room)


def _bar(row: Row, width: int, *, plain: bool) -> Text:
    """Heavy for what is done and light for the rest, so that it can be read without colours."""
    heavy, light = "#-" if plain else "━─"
    done = width * min(row.done, row.total) // row.total if row.total else 0
    return Text.assemble((heavy * done, row.style), (light * (width - done), "dim"))


def _size(row: Row) -> str:
    """``3M of 12M``, only ``12M`` once all of it is there."""
    if not row.total or row.done >= row.total:
        return format_size(row.done)
    return f"{format_size(row.done)} of {format_size(row.total)}"


def _clipped(line: Text, room: Room) -> Text:
    line.no_wrap = True
    line.rstrip()
    line.truncate(max(1, room.width), overflow="crop" if room.plain else "ellipsis")
    return line
