"""Figures from results.

Functions draw what they are given into `ax` (a new figure of their own if None) and return the
artists.  Nothing is shown and no global setting is touched: the look of the figures is
``paper.mplstyle`` beside this file, in force while one is made (:func:`figure`) or written
(:func:`save`).  Theory is a line, dashed where the solution is unstable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure

from gamp_theory.diagram_drawing import (
    COLOURS,
    JUMP_MASSES,
    draw_jump_mass,
    draw_lines,
    draw_regions,
)

if TYPE_CHECKING:
    import xarray
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D
    from numpy.typing import NDArray

    from gamp_theory.branch_result import Branch
    from gamp_theory.phase_diagram import PhaseDiagram
    from gamp_theory.result import FixedPoint

__all__ = [
    "COLOURS",
    "STYLE",
    "figure",
    "formats",
    "mark_thresholds",
    "plot_branch",
    "plot_jump_mass",
    "plot_overlaps",
    "plot_phase_diagram",
    "plot_test_error",
    "plot_train_loss",
    "plot_transition",
    "save",
]

STYLE = Path(__file__).with_name("paper.mplstyle")

_OTHER_COLOURS = {"mixed": "#009E73", "zero": "#000000"}

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


def formats() -> list[str]:
    """The suffixes, without the dot, that a figure can be written with."""
    return sorted(Figure().canvas.get_supported_filetypes())


def plot_transition(dataset: xarray.Dataset, axes: Sequence[Axes] | None = None) -> list[Artist]:
    """Overlaps, training losses and test errors along alpha, with both thresholds.

    Parameters
    ----------
    dataset : xarray.Dataset
        As ``gamp-theory demo`` writes it (``transition.nc``).
    axes : three Axes, optional
        One a panel.
    """
    if axes is None:
        with figure() as drawn:
            return plot_transition(dataset, drawn.subplots(1, 3, sharex=True))
    artists: list[Artist] = []
    panels = (plot_overlaps, plot_train_loss, plot_test_error)
    for ax, letter, panel in zip(axes, "abc", panels, strict=True):
        artists += panel(dataset, ax)
        ax.set_title(f"({letter})", loc="left", fontweight="bold")
        ax.margins(x=0)
        artists += mark_thresholds(dataset, ax)
    return artists


def plot_branch(branch: Branch, name: str, ax: Axes | None = None) -> list[Artist]:
    """One quantity of a branch along its parameter, dashed where it is unstable.

    Where something happens there is a marker: a circle at a fold, a diamond at a pitchfork, a
    square at an end.  Points whose fixed point is not known leave a gap.

    Parameters
    ----------
    branch : Branch
        As :func:`gamp_theory.follow` returns it.
    name : str
        An overlap (q, m, V, theta), train_loss or test_error.
    ax : Axes, optional
    """
    if name not in _BRANCH_LABELS:
        raise ValueError(f"name must be one of {', '.join(_BRANCH_LABELS)}, got {name!r}")
    ax = _axes(ax)
    colour = {**COLOURS, **_OTHER_COLOURS}[branch.name]
    numbers = np.array([_number(point, name) for point in branch.points])
    stable = np.array(
        [point.stability is not None and point.stability.stable for point in branch.points]
    )
    known = [special for special in branch.special if special.point is not None]
    places = [special.after + 1 for special in known]
    found = [_number(cast("FixedPoint", special.point), name) for special in known]
    values = np.insert(branch.values, places, [special.value for special in known])
    numbers = np.insert(numbers, places, found)
    artists: list[Artist] = []
    # a special point belongs to what is before it and to what is after it
    for mask, dashes, word in ((stable, "-", "stable"), (~stable, _UNSTABLE, "unstable")):
        part = np.where(np.insert(mask, places, True), numbers, np.nan)
        if np.isfinite(part[~np.insert(np.zeros_like(mask), places, True)]).any():
            label = f"{name}, {branch.name}, {word}"
            artists += ax.plot(values, part, color=colour, linestyle=dashes, label=label)
    for special, number in zip(known, found, strict=True):
        artists += ax.plot(
            special.value,
            number,
            color=colour,
            linestyle="none",
            marker=_MARKERS[special.kind],
            markersize=4,
            markerfacecolor="white",
            label=special.kind,
        )
    ax.set_xlabel(_PARAMETER_LABELS[branch.parameter])
    ax.set_ylabel(_BRANCH_LABELS[name])
    return artists


def plot_overlaps(dataset: xarray.Dataset, ax: Axes | None = None) -> list[Artist]:
    """The order parameters of both informed branches: m of one, theta of the other."""
    ax = _axes(ax)
    artists: list[Artist] = []
    for branch, name, text, place in (
        ("positional", "m", "$m$, positional", _Place(0.18, "left", "top")),
        ("semantic", "theta", r"$\theta$, semantic", _Place(0.37, "right", "center")),
    ):
        artists += _branch(ax, dataset, branch, name)
        artists += _name(ax, artists[-1], text, COLOURS[branch], place)
    ax.set_xlabel(_ALPHA)
    ax.set_ylabel(r"overlap  $m$, $\theta$")
    ax.set_ylim(bottom=0)
    return artists


def plot_train_loss(dataset: xarray.Dataset, ax: Axes | None = None) -> list[Artist]:
    """Training losses less that of the positional branch: they cross at alpha_c."""
    ax = _axes(ax)
    artists: list[Artist] = []
    reference = _values(dataset, "positional", "train_loss")
    places = {
        "uninformed": _Place(0.36, "right", "bottom"),
        "positional": _Place(0.02, "left", "top"),
        "semantic": _Place(0.5, "right", "top"),
    }
    for branch in _branches(dataset):
        artists += _branch(ax, dataset, branch, "train_loss", reference)
        artists += _name(ax, artists[-1], branch, COLOURS[branch], places[branch])
    ax.set_xlabel(_ALPHA)
    ax.set_ylabel(r"$(\epsilon_t - \epsilon_t^{\,\mathrm{positional}})\times 10^{3}$")
    return artists


def plot_test_error(dataset: xarray.Dataset, ax: Axes | None = None) -> list[Artist]:
    """Test errors; behind them, broad, that of the branch with the lowest training loss."""
    ax = _axes(ax)
    artists: list[Artist] = []
    places = {
        "uninformed": _Place(0.13, "left", "bottom"),
        "positional": _Place(0.19, "center", "top"),
        "semantic": _Place(0.47, "right", "top"),
    }
    for branch in _branches(dataset):
        artists += _branch(ax, dataset, branch, "test_error")
        artists += _name(ax, artists[-1], branch, COLOURS[branch], places[branch])
    alpha, error = _lowest_test_error(dataset)
    artists += ax.plot(
        alpha,
        _SCALE * error,
        color="0.82",
        linewidth=4,
        zorder=1,
        solid_joinstyle="round",
        label=r"lowest $\epsilon_t$",
    )
    linear = _SCALE * float(dataset["linear_error"])
    artists.append(
        ax.axhline(
            linear, color="black", linewidth=0.9, linestyle=(0, (1, 1.5)), label="linear layer"
        )
    )
    artists.append(
        ax.annotate(
            "linear layer",
            (0.02, linear),
            xycoords=("axes fraction", "data"),
            xytext=(0, 2),
            textcoords="offset points",
            fontsize="small",
        )
    )
    ax.set_xlabel(_ALPHA)
    ax.set_ylabel(r"test error  $\epsilon_g\times 10^{3}$")
    artists.append(ax.legend(handles=[artists[-3]], loc="lower left"))
    return artists


def mark_thresholds(dataset: xarray.Dataset, ax: Axes | None = None) -> list[Artist]:
    """Vertical lines at alpha_c and alpha_l, where they exist, named above the axes."""
    ax = _axes(ax)
    artists: list[Artist] = []
    for name, text, dashes in (
        ("alpha_c", r"$\alpha_c$", (0, (6, 2))),
        ("alpha_l", r"$\alpha_l$", (0, (6, 2, 1, 2))),
    ):
        value = float(dataset[name])
        if not np.isfinite(value):
            continue
        artists.append(
            ax.axvline(value, color="black", linewidth=0.6, linestyle=dashes, zorder=0, label=name)
        )
        artists.append(
            ax.annotate(
                text,
                (value, 1),
                xycoords=("data", "axes fraction"),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                va="bottom",
            )
        )
    return artists


def plot_jump_mass(
    dataset: xarray.Dataset,
    ax: Axes | None = None,
    levels: Sequence[float] = JUMP_MASSES,
) -> list[Artist]:
    """Thin contours over omega and alpha of the jump mass where the training loss is lowest.

    Replica symmetry is broken wherever it is positive; the contours tell how much.  They go with
    :func:`plot_phase_diagram` in the same axes.

    Parameters
    ----------
    dataset : xarray.Dataset
        A sweep over alpha and omega (:func:`gamp_theory.sweep`), with one sigma and one lam.
    ax : Axes, optional
    levels : sequence of float
        Increasing.

    Raises
    ------
    ValueError
        If the dataset has other axes.
    """
    axes = {str(name) for name in dataset["jump_mass"].dims} - {"branch"}
    if axes != {"alpha", "omega"}:
        raise ValueError(
            f"dataset must have the axes alpha and omega, got {', '.join(sorted(axes)) or 'none'}"
        )
    if ax is None:
        with figure(4.6, 4.0) as drawn:
            return plot_jump_mass(dataset, drawn.subplots(), levels)
    ax.set_xlabel(_PARAMETER_LABELS["omega"])
    ax.set_ylabel(_ALPHA)
    return draw_jump_mass(ax, dataset, levels)


def plot_phase_diagram(
    diagram: xarray.Dataset | PhaseDiagram, ax: Axes | None = None
) -> list[Artist]:
    """All lines of a phase diagram over omega, and its regions, tinted and named.

    First-order lines are solid, spinodals dashed, continuous transitions dotted, alpha_l dashed and
    dotted; where a line means nothing, since a branch it is about is no minimum, it is left out.

    Parameters
    ----------
    diagram : PhaseDiagram or xarray.Dataset
        The dataset is that of :func:`gamp_theory.datasets.phase_diagram_dataset`.
    ax : Axes, optional
    """
    import xarray

    if not isinstance(diagram, xarray.Dataset):
        from gamp_theory.datasets import phase_diagram_dataset

        diagram = phase_diagram_dataset(diagram)
    if ax is None:
        with figure(4.6, 4.0) as drawn:
            return plot_phase_diagram(diagram, drawn.subplots())
    ax.set_xlim(*diagram.attrs["omega_range"])
    ax.set_ylim(*diagram.attrs["alpha_range"])
    ax.set_xlabel(_PARAMETER_LABELS["omega"])
    ax.set_ylabel(_ALPHA)
    return [*draw_regions(ax, diagram), *draw_lines(ax, diagram)]


_ALPHA = r"sample ratio  $\alpha = n/d$"
_PARAMETER_LABELS = {
    "alpha": _ALPHA,
    "omega": r"positional weight of the target  $\omega$",
    "lam": r"ridge  $\lambda$",
    "sigma": r"standard deviation of the tokens  $\sigma$",
}
_BRANCH_LABELS = {
    "q": "student norm  $q$",
    "m": "positional overlap  $m$",
    "V": "response  $V$",
    "theta": r"semantic overlap  $\theta$",
    "train_loss": r"training loss  $\epsilon_t\times 10^{3}$",
    "test_error": r"test error  $\epsilon_g\times 10^{3}$",
}
_MARKERS = {"fold": "o", "pitchfork": "D", "merge": "s", "vanishing": "s"}
_UNSTABLE = (0.0, (3.0, 2.0))


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
    """One quantity of one branch; NaN where the solver ended on another branch or nowhere.

    A point that stopped at the limit of the quadrature has its error bar, and stays.
    """
    part = dataset.sel(branch=branch)
    there = (part["reached"] == branch) & part["status"].isin(["converged", "quadrature_limit"])
    return np.asarray(part[name].where(there), dtype=float)


def _branch(
    ax: Axes,
    dataset: xarray.Dataset,
    branch: str,
    name: str,
    reference: NDArray[np.float64] | None = None,
) -> list[Artist]:
    """A curve, solid where stable and dashed where not, over a band of its error bar.

    The last of the artists is the whole curve, without a stroke: what a name is hung on.
    """
    scale = _scale(name)
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
    for mask, dashes, word in ((stable, "-", "stable"), (~stable, _UNSTABLE, "unstable")):
        part = _runs(value, mask)
        if np.isfinite(part).any():
            label = f"{name}, {branch}, {word}"
            artists += ax.plot(alpha, part, color=colour, linestyle=dashes, label=label)
    artists += ax.plot(alpha, value, linestyle="none", label="_whole")
    return artists


def _scale(name: str) -> float:
    return 1.0 if name in ("q", "m", "V", "theta") else _SCALE


def _number(point: FixedPoint, name: str) -> float:
    """One quantity of a fixed point as it is drawn; NaN where there is none."""
    if point.overlaps is None or point.status.token not in ("converged", "quadrature_limit"):
        return float("nan")
    source = point.overlaps if name in ("q", "m", "V", "theta") else point
    return _scale(name) * float(getattr(source, name))


class _Place(NamedTuple):
    """Where a name stands: beside its curve, at a fraction of the range of alpha."""

    at: float
    ha: Literal["left", "right", "center"]
    va: Literal["top", "bottom", "center"]


def _name(ax: Axes, curve: Artist, text: str, colour: str, place: _Place) -> list[Artist]:
    """The name of a curve in place of a legend; none for a curve that is nowhere."""
    line = cast("Line2D", curve)
    alpha = np.asarray(line.get_xdata(), dtype=float)
    value = np.asarray(line.get_ydata(), dtype=float)
    there = np.isfinite(value)
    if not there.any():
        return []
    wanted = alpha[0] + place.at * (alpha[-1] - alpha[0])
    nearest = np.argmin(np.where(there, abs(alpha - wanted), np.inf))
    shift = (
        {"left": 4, "right": -4, "center": 0}[place.ha],
        {"bottom": 3, "top": -4, "center": 0}[place.va],
    )
    return [
        ax.annotate(
            text,
            (alpha[nearest], value[nearest]),
            xytext=shift,
            textcoords="offset points",
            color=colour,
            fontsize="small",
            ha=place.ha,
            va=place.va,
        )
    ]


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
