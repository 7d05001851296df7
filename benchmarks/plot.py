# SPDX-License-Identifier: Apache-2.0
"""The plot over the size of the host, as PNG and SVG."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.guests import Guests
from benchmarks.looking import COMMANDS, COUNTED, Looking
from benchmarks.report import Figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot"]

_Size = tuple[int, int]


def plot(figures: dict[str, Figures], directory: Path) -> list[Path]:
    """Write what can be drawn of these; raises `ImportError` without matplotlib."""
    from matplotlib import use

    use("Agg")
    from matplotlib import pyplot

    looking, guests = figures.get("looking"), figures.get("guests")
    if not (isinstance(looking, Looking) and isinstance(guests, Guests)):
        return []
    figure, axes = pyplot.subplots(1, 3, figsize=(15, 4.5), layout="constrained")
    guests_of, others_of = COUNTED
    _looks(axes[0], looking, f"{others_of} others", "guests", lambda size: size[0], others_of, 1)
    _looks(axes[1], looking, f"{guests_of} guests", "others", lambda size: size[1], guests_of, 0)
    _protects(axes[2], guests)
    paths = [directory / f"performance.{kind}" for kind in ("png", "svg")]
    for path in paths:
        figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths


def _looks(
    axes: "Axes",
    looking: Looking,
    title: str,
    label: str,
    size_of: Callable[[_Size], int],
    fixed: int,
    where: int,
) -> None:
    sizes = [size for size in looking.sizes if size[where] == fixed]
    for name in COMMANDS:
        points = [looking.sizes[size][name].seconds for size in sizes]
        seconds = [point.median for point in points]
        spread = (
            [p.median - p.least for p in points],
            [p.most - p.median for p in points],
        )
        ours = name.startswith("holdover")
        width = 2.5 if ours else 1.2
        axes.errorbar(
            list(map(size_of, sizes)), seconds, yerr=spread, label=name, linewidth=width, capsize=2
        )
    axes.set(xscale="log", yscale="log", xlabel=label, ylabel="seconds", title=f"a look, {title}")
    axes.grid(visible=True, which="both", alpha=0.25)
    axes.legend(fontsize=7)


def _protects(axes: "Axes", guests: Guests) -> None:
    counts = list(guests.sizes)
    seconds = [guests.sizes[count].seconds for count in counts]
    spread = ([s.median - s.least for s in seconds], [s.most - s.median for s in seconds])
    axes.errorbar(counts, [s.median for s in seconds], yerr=spread, capsize=2, linewidth=2.5)
    axes.set(xlabel="guests of two builds", ylabel="seconds", title="holdover protect, all of them")
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.25)
