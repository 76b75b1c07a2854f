"""The figure of the record that :mod:`validation.histogram` makes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from gamp_theory.plotting import COLOURS, STYLE, figure
from validation.histogram import EXAMPLE, HELD, RELEASES
from validation.transformer import LENGTH, MECHANISMS

__all__ = ["draw", "plot_attention", "write"]

LETTERS = "abcdefghijklmno"
#: Enough for a screen; these files are kept with the records.
DPI = 130

#: Line styles of RELEASES.
_STYLES = ("-", "--", ":", "-.")


def write(document: dict[str, Any], path: Path) -> None:
    """Draw the figure of a record into a file."""
    drawn = draw(document)
    with style.context(STYLE):
        drawn.savefig(path, dpi=DPI)


def plot_attention(matrix: NDArray, symbols: NDArray[np.int64], ax: Axes) -> None:
    """One attention matrix; row i is what position i attends to, labelled by the symbols."""
    ax.imshow(matrix, cmap="Greys", vmin=0)
    letters = [LETTERS[symbol] for symbol in symbols]
    ax.set_xticks(range(LENGTH), letters)
    ax.set_yticks(range(LENGTH), letters)
    ax.tick_params(length=0)


def draw(document: dict[str, Any]) -> Figure:
    """The figure of a record: attention before and after, what moves, and what is between."""
    rows = document["rows"]
    first = _first_with_both(rows)
    with figure(7.0, 4.7) as drawn:
        above, below = drawn.subfigures(2, 1, height_ratios=[1, 1.15])
        axes = above.subplots(1, 4)
        for number, start in enumerate(MECHANISMS):
            row = rows["/".join(map(str, (first, start, *RELEASES[0])))]
            for ax, matrix, when in zip(
                axes[2 * number :], row["attention"], ("masked", "released"), strict=False
            ):
                plot_attention(np.array(matrix), EXAMPLE[0], ax)
                ax.set_title(f"{start}, {when}", color=COLOURS[start])
        left, middle, right = below.subplots(1, 3)
        _plot_runs(document, left, middle)
        _plot_segments(document, right)
        drawn.legend(handles=_legend(), loc="outside lower center", ncols=7)
    return drawn


def _legend() -> list[Line2D]:
    """Colours are starts, line styles are ways to go on."""
    starts = [
        Line2D([], [], color=COLOURS.get(name, COLOURS["uninformed"]), label=name)
        for name in (*MECHANISMS, "untrained")
    ]
    names = {"sgd": "SGD", "adam": "Adam"}
    return starts + [
        Line2D([], [], color="black", linestyle=line, label=f"{names[optimizer]}, {rate:g}")
        for (optimizer, rate), line in zip(RELEASES, _STYLES, strict=True)
    ]


def _first_with_both(rows: dict[str, dict[str, Any]]) -> int:
    """The first start from which both mechanisms were learnt."""
    seeds = [
        row["seed"] for row in rows.values() if (row.get("optimizer"), row.get("rate")) == HELD
    ]
    for seed in seeds:
        if seeds.count(seed) == len(MECHANISMS):
            return seed
    raise ValueError(f"document must have a start that learnt both mechanisms, got {seeds}")


def _plot_runs(document: dict[str, Any], moved: Axes, shares: Axes) -> None:
    """Distances moved and the part of the scores that is semantic, a line a run."""
    rows = document["rows"]
    between = {row["seed"]: row["between"] for row in rows.values() if "between" in row}
    for row in rows.values():
        how = (row.get("optimizer"), row.get("rate"))
        if how not in RELEASES:
            continue
        look: dict[str, Any] = {
            "color": COLOURS.get(row["start"], COLOURS["uninformed"]),
            "linestyle": _STYLES[RELEASES.index(how)],
            "linewidth": 0.9,
        }
        steps = np.array(row["step"]) / 1000
        moved.plot(steps[1:], np.array(row["moved"][1:]) / between[row["seed"]], **look)
        if row["start"] in MECHANISMS:
            shares.plot(steps, row["semantic"], **look)
    moved.axhline(1, color="black", linewidth=0.6)
    moved.set_yscale("log")
    moved.set(xlabel="thousand steps after release", ylabel="moved / distance between the two")
    shares.set(xlabel="thousand steps after release", ylabel="semantic part of the scores")


def _plot_segments(document: dict[str, Any], ax: Axes) -> None:
    """Test loss on the straight line between the two solutions."""
    for row in document["rows"].values():
        if "segment" in row and min(row["accuracy"].values()) >= document["settings"]["solved"]:
            fractions = np.linspace(0, 1, len(row["segment"]))
            ax.plot(fractions, row["segment"], color="black", linewidth=0.9)
    ax.set_yscale("log")
    ax.set_xticks([0, 1], list(MECHANISMS))
    ax.set_ylabel("test loss on the line between")
