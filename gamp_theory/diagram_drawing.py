"""How a phase diagram looks: its lines, its regions, and contours over the same plane.

For :mod:`gamp_theory.plotting`, which makes the axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

if TYPE_CHECKING:
    import xarray
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

__all__ = ["COLOURS", "JUMP_MASSES", "draw_jump_mass", "draw_lines", "draw_regions"]

#: One colour a branch in every figure (Okabe and Ito); also told apart in grey.
COLOURS = {"semantic": "#0072B2", "positional": "#D55E00", "uninformed": "#8C8C8C"}
#: The contours of the jump mass that are drawn if nothing is said.
JUMP_MASSES = (1e-3, 1e-2, 1e-1)


class _Look(NamedTuple):
    """How a kind of line is drawn, and what the legend says."""

    colour: str
    dashes: str | tuple[float, tuple[float, ...]]
    width: float
    text: str


_DOTTED = (0.0, (1.0, 1.5))
_DASHED = (0.0, (4.0, 2.0))
_LOOKS = {
    "alpha_c": _Look("black", "-", 1.6, r"$\alpha_c$: training losses equal"),
    "alpha_l": _Look("#009E73", (0.0, (6, 2, 1, 2)), 1.3, r"$\alpha_l$: as good as a linear layer"),
    "onset_semantic": _Look(COLOURS["semantic"], _DOTTED, 1.0, "onset, semantic"),
    "onset_positional": _Look(COLOURS["positional"], _DOTTED, 1.0, "onset, positional"),
    "spinodal_semantic": _Look(COLOURS["semantic"], _DASHED, 1.2, "spinodal, semantic"),
    "spinodal_positional": _Look(COLOURS["positional"], _DASHED, 1.2, "spinodal, positional"),
    "instability_semantic": _Look(COLOURS["semantic"], _DOTTED, 1.6, "instability, semantic"),
    "instability_positional": _Look(COLOURS["positional"], _DOTTED, 1.6, "instability, positional"),
}
_TINTS = {**COLOURS, "zero": "#D9D9D9"}


def draw_regions(ax: Axes, diagram: xarray.Dataset) -> list[Artist]:
    """Tints in the colour of the lowest branch, lighter where it is alone; words inside."""
    artists: list[Artist] = []
    whose = np.asarray(diagram["region_of_cut"])
    omega, low, high = (
        np.asarray(diagram[name], dtype=float) for name in ("cut_omega", "cut_low", "cut_high")
    )
    kinds = [str(kind) for kind in diagram["kind"].values]
    crossing = [
        diagram.isel(point=np.flatnonzero(np.asarray(diagram["line_of_point"]) == k))
        for k, kind in enumerate(kinds)
        if kind == "alpha_l"
    ]
    for k in range(diagram.sizes["region"]):
        here = whose == k
        lowest, label = (str(diagram[name].values[k]) for name in ("lowest", "label"))
        alone = "," not in str(diagram["stable"].values[k])
        artists.append(
            ax.fill_between(
                omega[here],
                low[here],
                high[here],
                color=_TINTS.get(lowest, "#FFFFFF"),
                alpha=0.12 if alone else 0.26,
                linewidth=0,
                label=f"region: {label}",
            )
        )
        artists += _words(ax, omega[here], low[here], high[here], label, crossing)
    return artists


#: Height and width of a letter in the words of a region, in inches.
_LETTER = (0.13, 0.058)


def _words(
    ax: Axes,
    omega: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    label: str,
    crossing: Sequence[xarray.Dataset],
) -> list[Artist]:
    """Words where a region has most room above one another, in as few rows as fit; else none."""
    size = cast("Figure", ax.get_figure(root=True)).get_size_inches()
    box = ax.get_position()
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    for text in (label, label.replace("; ", ";\n"), label.replace(" ", "\n")):
        rows = text.split("\n")
        width = (right - left) * _LETTER[1] * max(map(len, rows)) / (box.width * size[0])
        height = (top - bottom) * _LETTER[0] * len(rows) / (box.height * size[1])
        if omega[-1] - omega[0] < width:
            continue
        best, place = 0.0, (0.0, 0.0)
        for middle in np.linspace(omega[0] + width / 2, omega[-1] - width / 2, 81):
            at = middle + width * np.linspace(-0.5, 0.5, 21)
            edges = [np.max(np.interp(at, omega, low)), np.min(np.interp(at, omega, high))]
            for line in crossing:  # no region ends there, but words should not stand on it
                order = np.argsort(line["omega"].values)
                across = np.interp(at, line["omega"].values[order], line["alpha"].values[order])
                edges[1:1] = [np.min(across), np.max(across)]
            for floor, ceiling in zip(edges[::2], edges[1::2], strict=True):
                room = min(ceiling, edges[-1]) - max(floor, edges[0])
                if room > best:
                    best = room
                    place = (
                        float(middle),
                        float(min(ceiling, edges[-1]) + max(floor, edges[0])) / 2,
                    )
        if best > height:
            return [ax.annotate(text, place, ha="center", va="center", fontsize=6.7)]
    return []


def draw_lines(ax: Axes, diagram: xarray.Dataset) -> list[Artist]:
    """Each line where it means something, and a legend of the kinds."""
    artists: list[Artist] = []
    handles: dict[str, Artist] = {}
    whose = np.asarray(diagram["line_of_point"])
    for k, kind in enumerate(str(kind) for kind in diagram["kind"].values):
        part = diagram.isel(point=np.flatnonzero(whose == k))
        # a piece between two points means something where it does at both
        alpha = np.where(part["meaningful"], part["alpha"], np.nan)
        if np.isfinite(alpha).sum() < 2:
            continue
        look = _LOOKS[kind]
        (drawn,) = ax.plot(
            np.asarray(part["omega"], dtype=float),
            alpha,
            color=look.colour,
            linestyle=look.dashes,
            linewidth=look.width,
            dash_capstyle="butt",
            label=kind,
        )
        artists.append(drawn)
        handles.setdefault(look.text, drawn)
    if handles:
        artists.append(
            ax.legend(
                handles=list(handles.values()),
                labels=list(handles),
                loc="upper center",
                bbox_to_anchor=(0.5, -0.16),
                ncols=2,
                handlelength=2.8,
                fontsize=7,
                frameon=False,
            )
        )
    return artists


def draw_jump_mass(ax: Axes, dataset: xarray.Dataset, levels: Sequence[float]) -> list[Artist]:
    """Contours of the jump mass, named: of each branch where it is stable and the lowest.

    Between points the logarithm is interpolated; none is drawn between two points that belong to
    different branches.
    """
    part = dataset.transpose("alpha", "omega", "branch")
    stable = part["stable"].attrs["flag_meanings"].split().index("stable")
    loss = np.where(part["stable"] == stable, part["train_loss"], np.nan)
    lowest = np.argmin(np.where(np.isnan(loss), np.inf, loss), axis=2)
    artists: list[Artist] = []
    for k in range(part.sizes["branch"]):
        there = (lowest == k) & np.isfinite(loss[..., k])
        mass = np.asarray(part["jump_mass"].isel(branch=k), dtype=float)
        height = np.where(there & (mass > 0), np.log10(np.maximum(mass, 1e-300)), np.nan)
        if np.isfinite(height).any():
            contours = ax.contour(
                np.asarray(part["omega"], dtype=float),
                np.asarray(part["alpha"], dtype=float),
                np.ma.masked_invalid(height),
                levels=np.log10(levels),
                colors="0.35",
                linewidths=0.6,
                linestyles="solid",
            )
            names = {float(level): f"{10**level:.2g}" for level in contours.levels}
            artists += [contours, *ax.clabel(contours, fmt=names, fontsize=6)]
    return artists
