"""The figure of a study: theory as a line, simulation as markers with error bars."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gamp_theory.plotting import STYLE, figure
from validation.study import SIGMAS, Row

__all__ = ["draw", "write"]

#: Okabe and Ito, and markers, so that series are told apart in grey as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "osD^vP*X"
COLUMNS = 3
#: Enough for a screen; these files are kept with the records.
DPI = 110
MOST_SERIES = 14


def write(rows: Sequence[Row], path: Path) -> None:
    """Draw the figure of a study into a file."""
    drawn = draw(rows)
    with style.context(STYLE):
        drawn.savefig(path, dpi=DPI)


def draw(rows: Sequence[Row]) -> Figure:
    """A panel a quantity, and one of all deviations; filled markers are judged, open ones shown.

    Rows whose place is not finite (a limit) have no abscissa, and are left to the table.
    """
    rows = [row for row in rows if math.isfinite(row.where.x)]
    names = list(dict.fromkeys(row.quantity for row in rows))
    series = list(dict.fromkeys(row.where.series for row in rows))
    columns = min(COLUMNS, len(names) + 1)
    lines = math.ceil((len(names) + 1) / columns)
    with figure(3.4 * columns, 2.6 * lines + 0.35 * math.ceil(len(series) / 2)) as drawn:
        axes = drawn.subplots(lines, columns, squeeze=False).ravel()
        for ax, name in zip(axes, names, strict=False):
            for number, label in enumerate(series):
                mine = [r for r in rows if r.quantity == name and r.where.series == label]
                mine.sort(key=lambda row: row.where.x)
                colour = COLOURS[number % len(COLOURS)]
                ax.plot(
                    [r.where.x for r in mine], [r.theory for r in mine], color=colour, linewidth=1
                )
                for r in mine:
                    ax.errorbar(
                        r.where.x,
                        r.simulation,
                        r.stderr,
                        color=colour,
                        marker=MARKERS[number % len(MARKERS)],
                        markersize=4,
                        markerfacecolor=colour if r.judged else "none",
                        linestyle="none",
                    )
            ax.set_ylabel(name)
            if rows:
                ax.set_xlabel(rows[0].where.axis)
        _deviations(rows, series, axes[len(names)])
        for ax in axes[len(names) + 1 :]:
            ax.set_visible(False)
        handles = [
            axes[0].plot(
                [], [], color=COLOURS[i % len(COLOURS)], marker=MARKERS[i % len(MARKERS)], label=x
            )[0]
            for i, x in enumerate(series[:MOST_SERIES])
        ]
        drawn.legend(handles=handles, loc="outside lower center", ncols=2, fontsize="small")
    return drawn


def _deviations(rows: Sequence[Row], series: Sequence[str], ax: Axes) -> None:
    """Deviations z of every row, and four standard errors."""
    for row in rows:
        number = series.index(row.where.series)
        colour = COLOURS[number % len(COLOURS)]
        ax.plot(
            row.where.x,
            row.z,
            color=colour,
            marker=MARKERS[number % len(MARKERS)],
            markersize=4,
            markerfacecolor=colour if row.judged else "none",
            linestyle="none",
        )
    for level in (-SIGMAS, 0, SIGMAS):
        ax.axhline(level, color="#8C8C8C", linewidth=0.8, linestyle="--" if level else "-")
    ax.set_ylabel("z of all quantities")
    if rows:
        ax.set_xlabel(rows[0].where.axis)
