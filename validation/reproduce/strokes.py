"""What the figures are drawn with: branches as lines, means of students as markers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from gamp_theory import plotting

if TYPE_CHECKING:
    import xarray
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

__all__ = [
    "ALPHA",
    "BROKEN",
    "DASHED",
    "DOTTED",
    "INFORMED",
    "LABELS",
    "LARGE",
    "LARGE_D",
    "MARKERS",
    "OMEGA",
    "SCALE",
    "SMALL",
    "TRAIN_GAP",
    "UNSTABLE",
    "axes_of",
    "below",
    "is_stable",
    "known",
    "legend",
    "line",
    "markers",
    "of_start",
    "student_means",
]

INFORMED = ("semantic", "positional")
BROKEN = {"semantic": "theta", "positional": "m"}
MARKERS = {"semantic": "o", "positional": "s"}
#: Sizes of markers; the second for students of at least this d.
SMALL, LARGE, LARGE_D = 3.0, 4.5, 2000
SCALE = 1e3  # losses are of order 1e-3
DASHED = (0.0, (3.0, 2.0))
DOTTED = (0.0, (1.0, 1.5))
ALPHA = r"sample ratio  $\alpha = n/d$"
OMEGA = r"positional weight  $\omega$"
LABELS = {
    "alpha": ALPHA,
    "omega": OMEGA,
    "sigma": r"deviation of the tokens  $\sigma$",
    "lam": r"ridge  $\lambda$",
}
TRAIN_GAP = r"$(\epsilon_t^{\,\mathrm{sem}} - \epsilon_t^{\,\mathrm{pos}})\times 10^{3}$"
#: Values of the flags of grids.
CONVERGED, QUADRATURE_LIMIT, UNSTABLE, STABLE = 0, 4, 1, 2


def axes_of(panels: int, given: Any) -> list[Axes]:
    """The axes that were given, or those of a new figure."""
    if given is not None:
        return [given] if panels == 1 else list(given)
    with plotting.figure(3.4 if panels == 1 else None, 2.6) as drawn:
        return list(np.atleast_1d(drawn.subplots(1, panels)))


def of_start(students: xarray.Dataset, start: str) -> xarray.Dataset:
    """The students of one start."""
    return students.isel(point=np.flatnonzero(np.asarray(students["start"]) == start))


def is_stable(branch: xarray.Dataset) -> NDArray[np.bool_]:
    """Of a branch of a grid, whose flag is a number, or of a transition, whose flag is a truth."""
    stable = np.asarray(branch["stable"])
    return stable if stable.dtype == bool else stable == STABLE


def known(branch: xarray.Dataset, name: str) -> NDArray[np.float64]:
    """A quantity where it is known and lies on its branch."""
    status = np.asarray(branch["status"])
    if status.dtype.kind in "iu":
        there = np.isin(status, (CONVERGED, QUADRATURE_LIMIT))
    else:
        there = np.isin(status, ("converged", "quadrature_limit"))
        there &= np.asarray(branch["reached"]) == str(branch["branch"].values)
    return np.where(there, np.asarray(branch[name], float), np.nan)


def line(
    ax: Axes,
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    stable: NDArray[np.bool_],
    colour: str,
    text: str,
) -> list[Artist]:
    """A curve, solid where it is stable and dashed where it is not."""
    artists: list[Artist] = []
    for mask, dashes, label in ((stable, "-", text), (~stable, DASHED, "_")):
        mask = mask & np.isfinite(y)
        joined = mask.copy()
        joined[1:] |= mask[:-1] & np.isfinite(y[1:])
        if joined.any():
            artists += ax.plot(
                x, np.where(joined, y, np.nan), color=colour, linestyle=dashes, label=label
            )
    return artists


def student_means(
    ax: Axes,
    mine: xarray.Dataset,
    parameter: str,
    name: str,
    colour: str,
    start: str,
) -> list[Artist]:
    """Means of students; hollow where most of them have ended on another branch."""
    scale = 1.0 if name in ("q", "m", "theta") else SCALE
    artists: list[Artist] = []
    share = np.asarray(mine["share"], float)
    large = np.asarray(mine["d"]) >= LARGE_D
    for chosen, size, hollow in (
        ((share >= 0.5) & ~large, SMALL, False),
        ((share >= 0.5) & large, LARGE, False),
        (share < 0.5, SMALL, True),
    ):
        part = mine.isel(point=np.flatnonzero(chosen))
        if part.sizes["point"]:
            artists += markers(
                ax,
                part[parameter],
                scale * part[name],
                scale * part[f"{name}_stderr"],
                colour,
                MARKERS[start],
                "_",
                size=size,
                hollow=hollow,
            )
    return artists


def markers(
    ax: Axes,
    x: Any,
    y: Any,
    error: Any,
    colour: str,
    marker: str,
    text: str,
    *,
    size: float = 3.5,
    hollow: bool = False,
) -> list[Artist]:
    """Means as markers with their standard errors, `hollow` or filled."""
    drawn = ax.errorbar(
        np.asarray(x, float),
        np.asarray(y, float),
        np.asarray(error, float),
        color=colour,
        marker=marker,
        markersize=size,
        markerfacecolor="white" if hollow else colour,
        markeredgewidth=0.7,
        elinewidth=0.8,
        linestyle="none",
        label=text,
        zorder=3,
    )
    return [drawn]  # type: ignore[list-item]


def legend(ax: Axes, **options: Any) -> Artist:
    """A legend of small print that lines do not shine through."""
    paper: dict[str, Any] = {
        "frameon": True,
        "facecolor": "white",
        "edgecolor": "none",
        "framealpha": 0.9,
    }
    return ax.legend(fontsize="x-small", **(paper | options))


def below(ax: Axes, **options: Any) -> Artist:
    """A legend of what is drawn in `ax`, below the whole figure."""
    drawn = ax.get_figure(root=True)
    assert drawn is not None  # axes that are drawn into have one
    handles, labels = ax.get_legend_handles_labels()
    place: Any = "outside lower center"
    return drawn.legend(handles, labels, loc=place, fontsize="x-small", **options)
