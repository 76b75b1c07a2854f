"""Figures from results.

Functions draw what they are given into `ax` (a new figure of their own if None) and return the
artists.  Nothing is shown and no global setting is touched: the look of the figures is
``paper.mplstyle`` beside this file, in force while one is made (:func:`figure`) or written
(:func:`save`).  Theory is a line, dashed where the solution is unstable.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure

if TYPE_CHECKING:
    import xarray
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

__all__ = [
    "COLOURS",
    "STYLE",
    "figure",
    "plot_overlaps",
    "plot_test_error",
    "plot_train_loss",
    "plot_transition",
    "save",
]

STYLE = Path(__file__).with_name("paper.mplstyle")

#: One colour a branch in every figure (Okabe and Ito); also told apart in grey.
COLOURS = {"semantic": "#0072B2", "positional": "#D55E00", "uninformed": "#8C8C8C"}

_SCALE = 1e3  # losses are of order 1e-3


@contextmanager
def figure(width: float | None = None, height: float | None = None) -> Iterator[Figure]:
    """A new figure in the style of the package, in inches; the style ends with the block.

    It belongs to no window and no list of open figures: save it with :func:`save`, or let a
    notebook display it.
    """
    with style.context(STYLE):
        default = Figure()
        size = default.get_size_inches()
        default.set_size_inches(width or size[0], height or size[1])
        yield default


def save(drawn: Figure, path: Path | str) -> None:
    """Write a figure in the style of the package; the suffix of `path` is the format."""
    with style.context(STYLE):  # fonts are looked up when a figure is drawn, not when it is made
        drawn.savefig(path)


def plot_transition(dataset: xarray.Dataset) -> Figure:
    """Overlaps, training losses and test errors along alpha, with both thresholds.

    Parameters
    ----------
    dataset : xarray.Dataset
        As ``gamp-theory demo`` writes it (``transition.nc``).

    Returns
    -------
    Figure
        Three panels.
    """
    with figure() as drawn:
        axes = drawn.subplots(1, 3, sharex=True)
        plot_overlaps(dataset, axes[0])
        plot_train_loss(dataset, axes[1])
        plot_test_error(dataset, axes[2])
        for ax, letter in zip(axes, "abc", strict=True):
            ax.set_title(f"({letter})", loc="left", fontweight="bold")
            _mark_thresholds(ax, dataset)
            ax.margins(x=0)
        _label_thresholds(axes[0], dataset)
    return drawn


def plot_overlaps(dataset: xarray.Dataset, ax: Axes | None = None) -> list[Artist]:
    """The order parameters of both informed branches: m of one, theta of the other."""
    ax = _axes(ax)
    artists: list[Artist] = []
    for branch, name, label in (
        ("positional", "m", r"$m$  (positional)"),
        ("semantic", "theta", r"$\theta$  (semantic)"),
    ):
        artists += _branch(ax, dataset, branch, name, label=label)
    ax.set_xlabel(_ALPHA)
    ax.set_ylabel(r"overlap  $m$, $\theta$")
    ax.set_ylim(bottom=0)
    artists.append(ax.legend(loc="lower right"))
    return artists


def plot_train_loss(dataset: xarray.Dataset, ax: Axes | None = None) -> list[Artist]:
    """Training losses less that of the positional branch: they cross at alpha_c."""
    ax = _axes(ax)
    artists: list[Artist] = []
    reference = _values(dataset, "positional", "train_loss")
    for branch in _branches(dataset):
        artists += _branch(ax, dataset, branch, "train_loss", reference, label=branch)
    ax.set_xlabel(_ALPHA)
    ax.set_ylabel(r"$(\epsilon_t - \epsilon_t^{\mathrm{pos}})\times 10^{3}$")
    artists.append(ax.legend(loc="best"))
    return artists


def plot_test_error(dataset: xarray.Dataset, ax: Axes | None = None) -> list[Artist]:
    """Test errors, and in front that of the branch with the lowest training loss."""
    ax = _axes(ax)
    artists: list[Artist] = []
    for branch in _branches(dataset):
        artists += _branch(ax, dataset, branch, "test_error")
    alpha, error = _lowest_test_error(dataset)
    artists += ax.plot(
        alpha,
        _SCALE * error,
        color="black",
        linewidth=2.6,
        alpha=0.28,
        label=r"lowest $\epsilon_t$",
    )
    artists.append(
        ax.axhline(
            _SCALE * float(dataset["linear_error"]),
            color="black",
            linewidth=0.9,
            linestyle=(0, (1, 1.5)),
            label="best linear layer",
        )
    )
    ax.set_xlabel(_ALPHA)
    ax.set_ylabel(r"test error  $\epsilon_g\times 10^{3}$")
    artists.append(ax.legend(loc="best"))
    return artists


_ALPHA = r"sample ratio  $\alpha = n/d$"


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    with figure(3.4, 2.6) as drawn:
        return drawn.subplots()


def _branches(dataset: xarray.Dataset) -> list[str]:
    """Uninformed first: it is drawn below the others."""
    names = [str(name) for name in dataset["branch"].values]
    return [name for name in ("uninformed", "positional", "semantic") if name in names]


def _values(dataset: xarray.Dataset, branch: str, name: str) -> NDArray[np.float64]:
    """One quantity of one branch; NaN where the solver ended on another branch or nowhere."""
    part = dataset.sel(branch=branch)
    there = (part["reached"] == branch) & (part["status"] == "converged")
    return np.asarray(part[name].where(there), dtype=float)


def _branch(
    ax: Axes,
    dataset: xarray.Dataset,
    branch: str,
    name: str,
    reference: NDArray[np.float64] | None = None,
    label: str = "_",
) -> list[Artist]:
    """A curve, solid where stable and dashed where not, over a band of its error bar."""
    scale = 1.0 if name in ("q", "m", "V", "theta") else _SCALE
    alpha = np.asarray(dataset["alpha"], dtype=float)
    value = _values(dataset, branch, name)
    if reference is not None:
        value = value - reference
    value = scale * value
    error = scale * np.asarray(dataset[f"{name}_error"].sel(branch=branch), dtype=float)
    stable = np.asarray(dataset["stable"].sel(branch=branch), dtype=bool)
    colour = COLOURS[branch]
    artists: list[Artist] = [
        ax.fill_between(alpha, value - error, value + error, color=colour, alpha=0.3, linewidth=0)
    ]
    for part, dashes in ((_runs(value, stable), "-"), (_runs(value, ~stable), (0, (3, 2)))):
        if np.isfinite(part).any():
            artists += ax.plot(alpha, part, color=colour, linestyle=dashes, label=label)
            label = "_"  # one entry in the legend
    return artists


def _runs(value: NDArray[np.float64], mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """`value` where `mask` holds, and one point further to the right, so that runs touch."""
    mask = mask & np.isfinite(value)
    joined = mask.copy()
    joined[1:] |= mask[:-1] & np.isfinite(value[1:])
    return np.where(joined, value, np.nan)


def _lowest_test_error(
    dataset: xarray.Dataset,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The test error of the lowest branch, with the two sides of its jump at alpha_c."""
    alpha = np.asarray(dataset["alpha"], dtype=float)
    error = np.asarray(dataset["lowest_test_error"], dtype=float)
    alpha_c = float(dataset["alpha_c"])
    right = int(np.searchsorted(alpha, alpha_c))
    if not np.isfinite(alpha_c) or not 0 < right < alpha.size:
        return alpha, error
    sides = [
        np.interp(alpha_c, alpha, _values(dataset, str(dataset["lowest_branch"].values[i]), name))
        for i, name in ((right - 1, "test_error"), (right, "test_error"))
    ]
    return np.insert(alpha, right, [alpha_c] * 2), np.insert(error, right, sides)


def _mark_thresholds(ax: Axes, dataset: xarray.Dataset) -> None:
    for name in ("alpha_c", "alpha_l"):
        value = float(dataset[name])
        if np.isfinite(value):
            ax.axvline(value, color="black", linewidth=0.6, linestyle=_DASHES[name], zorder=0)


_DASHES = {"alpha_c": (0, (6, 2)), "alpha_l": (0, (6, 2, 1, 2))}


def _label_thresholds(ax: Axes, dataset: xarray.Dataset) -> None:
    """The names of the vertical lines, above the panel."""
    for name, text in (("alpha_c", r"$\alpha_c$"), ("alpha_l", r"$\alpha_l$")):
        value = float(dataset[name])
        if np.isfinite(value):
            ax.annotate(
                text,
                (value, 1),
                xycoords=("data", "axes fraction"),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                va="bottom",
            )
