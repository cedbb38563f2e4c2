"""Draws how fast clusters of 3 to 1000 nodes come to know: ``python -m tests.cluster.report [FILE]`` writes a PNG, in a quarter of an hour.

Rumours and crashes, each with and without 30 % loss, beside what the design demands and what others are known for.
"""

import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import attrs
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from tests.cluster.measures import ROUND_S, detections, disseminations, quantile

SIZES = (3, 5, 10, 20, 50, 100, 300, 1000)
LOSSES = (0.0, 0.3)
PAIRS = 20_000
"""Of a rumour and a member, at least, for a size: two that come later than 99.99 %."""
MOST_RUMOURS = 2000
CRASHES = {20: 200, 100: 50, 300: 10, math.inf: 3}
"""How many there are in clusters of up to so many nodes."""

COLOURS = {0.0: "tab:blue", 0.3: "tab:red"}
Point = tuple[float, float]
"""Nodes, seconds."""
RUMOUR_BOUNDS: dict[str, list[Point]] = {
    "demanded: 12 rounds": [(3, 12 * ROUND_S), (100, 12 * ROUND_S)],
    "demanded at 30 % loss: 16 rounds": [(1000, 16 * ROUND_S)],
}
SERF: list[tuple[float, float, float]] = [(30, 1.7, 0.0), (1000, 2.15, 0.0), (1000, 3.07, 0.3)]
CRASH_BOUNDS: dict[str, list[Point]] = {"demanded of p99, no loss": [(20, 10.0), (100, 15.0)]}
MEMBERLIST: list[Point] = [(20, 9.9), (100, 13.8), (500, 15.0)]


@attrs.frozen
class Speeds:
    """Of one size at one loss, in seconds: when 99.99 % had heard a rumour, and when all knew of a crash."""

    size: int
    loss: float
    heard_s: float
    median_s: float
    slow_s: float
    """99 % of the crashes are known by then; of fewer than a hundred, all."""
    crashes: int


def measure(size: int, loss: float, *, pairs: int = PAIRS, most_crashes: int = 1000) -> Speeds:
    rumours = min(MOST_RUMOURS, math.ceil(pairs / (size - 1)))
    heard = disseminations(size, loss, rumours, seed=size)
    crashes = min(most_crashes, next(count for most, count in CRASHES.items() if size <= most))
    found = list(detections(size, crashes, size, loss))
    return Speeds(size, loss, quantile(heard, 0.9999), quantile(found, 0.5), quantile(found, 0.99), crashes)


# -- drawing --------------------------------------------------------------------------------------------------------


def draw(speeds: Sequence[Speeds], file: Path) -> None:
    figure = Figure(figsize=(13, 6), layout="constrained")
    FigureCanvasAgg(figure)
    rumours, crashes = figure.subplots(1, 2)
    draw_rumours(rumours, speeds)
    draw_crashes(crashes, speeds)
    sizes = sorted({speed.size for speed in speeds})
    for axes in (rumours, crashes):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(sizes))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.0f}"))
        axes.set_xlabel("nodes")
        axes.set_ylabel("seconds")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    rumours.set_ylim(top=5)
    rumours.legend(loc="upper left", fontsize="small")
    crashes.legend(loc="lower right", fontsize="small")
    figure.savefig(file, dpi=110)


def draw_rumours(axes: Axes, speeds: Sequence[Speeds]) -> None:
    axes.set_title(f"A rumour: 99.99 % have heard it (a round is {ROUND_S:g} s)")
    for loss in LOSSES:
        of_loss = [speed for speed in speeds if speed.loss == loss]
        sizes, heard = [speed.size for speed in of_loss], [speed.heard_s for speed in of_loss]
        axes.plot(sizes, heard, "o-", color=COLOURS[loss], label=f"Mill, {loss:.0%} loss")
    for name, bound in RUMOUR_BOUNDS.items():
        draw_bound(axes, name, bound, COLOURS[0.3] if "loss" in name else "black")
    for loss in LOSSES:
        points = [(size, seconds) for size, seconds, at in SERF if at == loss]
        axes.plot(
            *zip(*points, strict=True),
            "D",
            color=COLOURS[loss],
            mfc="none",
            label=f"Serf, {loss:.0%} loss (simulated)",
        )


def draw_crashes(axes: Axes, speeds: Sequence[Speeds]) -> None:
    axes.set_title("A crash: every other node knows of it")
    for loss in LOSSES:
        of_loss = [speed for speed in speeds if speed.loss == loss]
        sizes = [speed.size for speed in of_loss]
        p99, median = [speed.slow_s for speed in of_loss], [speed.median_s for speed in of_loss]
        for what, seconds, style in (("p99", p99, "o-"), ("median", median, "o:")):
            axes.plot(sizes, seconds, style, color=COLOURS[loss], label=f"Mill, {loss:.0%} loss, {what}")
    for name, bound in CRASH_BOUNDS.items():
        draw_bound(axes, name, bound, "black")
    axes.plot(
        *zip(*MEMBERLIST, strict=True),
        "D--",
        color="grey",
        mfc="none",
        label="memberlist's defaults, no loss (modelled)",
    )


def draw_bound(axes: Axes, name: str, bound: list[Point], colour: str) -> None:
    sizes, seconds = zip(*bound, strict=True)
    axes.plot(sizes, seconds, "v--" if len(bound) == 1 else "v-", color=colour, markersize=9, label=name)


# -- the whole ------------------------------------------------------------------------------------------------------


def report(file: Path, sizes: Sequence[int] = SIZES, **less: int) -> list[Speeds]:
    """Measure, print and draw; *less* as `measure` takes it."""
    speeds = []
    for size in sizes:
        for loss in LOSSES:
            speed = measure(size, loss, **less)
            speeds.append(speed)
            print(
                f"{size:4} nodes, {loss:3.0%} loss: 99.99 % have heard a rumour after {speed.heard_s:.2f} s; all know of a crash "
                f"after {speed.median_s:.1f} s, p99 {speed.slow_s:.1f} s ({speed.crashes} crashes)",
                flush=True,
            )
    draw(speeds, file)
    print(file)
    return speeds


if __name__ == "__main__":
    given = sys.argv[1:]
    report(Path(given[0]) if given else Path(tempfile.mkdtemp(prefix="mill-report-")) / "cluster.png")
