"""Figures over alpha and omega, and those with published numbers in them.

Called like those of `drawing`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gamp_theory.plotting import COLOURS
from validation.reproduce.published import RANK_TWO, THRESHOLDS
from validation.reproduce.strokes import (
    ALPHA,
    INFORMED,
    OMEGA,
    SCALE,
    TRAIN_GAP,
    UNSTABLE,
    axes_of,
    below,
    known,
    legend,
    markers,
)

if TYPE_CHECKING:
    import xarray
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

__all__ = ["error_diagram", "loss_diagram", "rank_two", "thresholds"]


def loss_diagram(
    theory: xarray.Dataset,
    lines: xarray.Dataset,
    students: xarray.Dataset,
    axes: Sequence[Axes] | None = None,
) -> list[Artist]:
    """The difference of training losses over alpha and omega: theory, and students."""
    axes = axes_of(2, axes)
    gap = theory["train_loss"].sel(branch="semantic", drop=True) - theory["train_loss"].sel(
        branch="positional", drop=True
    )
    simulated = _table(students, "train_loss_gap")
    artists = _pair_of_maps(axes, gap, simulated, "RdBu_r", TRAIN_GAP)
    unstable = (theory["stable"] == UNSTABLE).any("branch") & gap.notnull()
    artists += _dots(axes[0], unstable, "one of the two is no minimum")
    for ax in axes:
        artists += _lines(ax, lines, ("alpha_c",))
    artists += axes[0].plot(
        [],
        [],
        marker="s",
        markersize=6,
        color=NOTHING,
        linestyle="none",
        label="one of the two is not there",
    )
    artists += _words(axes, (("semantic lower", "top left"), ("positional lower", "bottom right")))
    artists += [below(axes[0], ncols=3, handlelength=3.0)]
    return artists


def error_diagram(
    theory: xarray.Dataset,
    lines: xarray.Dataset,
    students: xarray.Dataset,
    axes: Sequence[Axes] | None = None,
) -> list[Artist]:
    """What attention gains over the best linear layer, on the branch of lowest training loss."""
    axes = axes_of(2, axes)
    loss = theory["train_loss"]
    there = loss.notnull().any("branch")
    lowest = loss.fillna(np.inf).argmin("branch")
    error = theory["test_error"].isel(branch=lowest).drop_vars("branch")
    gain = (theory["linear_error"].max("branch") - error).where(there)
    label = r"$(\epsilon_{\mathrm{lin}} - \epsilon_g)\times 10^{3}$"
    artists = _pair_of_maps(axes, gain, _table(students, "gain"), "PRGn", label)
    for ax in axes:
        artists += _lines(ax, lines, ("alpha_c", "alpha_l"))
    artists += _words(axes, (("attention better", "top left"), ("linear better", "bottom right")))
    artists += [below(axes[0], ncols=3, handlelength=3.0)]
    return artists


def _pair_of_maps(
    axes: Sequence[Axes],
    theory: xarray.DataArray,
    students: xarray.DataArray,
    cmap: str,
    label: str,
) -> list[Artist]:
    """Theory to the left, students to the right, in the same colours, white at 0."""
    largest = SCALE * max(float(abs(x).quantile(0.98)) for x in (theory, students))
    artists: list[Artist] = []
    for ax, values, title in zip(axes, (theory, students), ("theory", "students"), strict=True):
        values = values.transpose("alpha", "omega")
        mesh = ax.pcolormesh(
            values["omega"],
            values["alpha"],
            SCALE * values,
            cmap=cmap,
            vmin=-largest,
            vmax=largest,
            shading="nearest",
            rasterized=True,
        )
        artists.append(mesh)
        ax.set_facecolor(NOTHING)
        ax.set_title(title)
        ax.set_xlabel(OMEGA)
        ax.set_xlim(float(theory["omega"].min()), float(theory["omega"].max()))
        ax.set_ylim(float(theory["alpha"].min()), float(theory["alpha"].max()))
    axes[0].set_ylabel(ALPHA)
    drawn = axes[0].get_figure(root=True)
    assert drawn is not None  # axes that are drawn into have one
    drawn.colorbar(mesh, ax=list(axes), extend="both", pad=0.02).set_label(label)
    return artists


def _table(students: xarray.Dataset, name: str) -> xarray.DataArray:
    """Points as a table over alpha and omega."""
    columns = students[["alpha", "omega", name]].to_dataframe()
    return columns.set_index(["alpha", "omega"])[name].to_xarray()


def _dots(ax: Axes, where: xarray.DataArray, text: str) -> list[Artist]:
    """Small dots at the points of a grid at which something holds."""
    where = where.transpose("alpha", "omega")
    i, j = np.nonzero(np.asarray(where))
    if not i.size:
        return []
    drawn: list[Artist] = []
    drawn += ax.plot(
        np.asarray(where["omega"])[j],
        np.asarray(where["alpha"])[i],
        linestyle="none",
        marker=".",
        markersize=1.2,
        color="0.25",
        label=text,
    )
    return drawn


#: Where there is nothing to show.
NOTHING = "0.85"
LINES: Mapping[str, tuple[str, Any, str]] = {
    "alpha_c": ("black", "-", r"$\alpha_c$: training losses equal"),
    "alpha_l": ("black", (0.0, (6, 2, 1, 2)), r"$\alpha_l$: as good as a linear layer"),
}


def _lines(ax: Axes, lines: xarray.Dataset, kinds: Sequence[str]) -> list[Artist]:
    """Traced lines of these kinds where they mean something."""
    artists: list[Artist] = []
    named: set[str] = set()
    for omega, alpha, kind in _traced(lines, kinds):
        colour, dashes, text = LINES[kind]
        artists += ax.plot(
            omega,
            alpha,
            color=colour,
            linestyle=dashes,
            linewidth=1.3,
            label="_" if kind in named else text,
        )
        named.add(kind)
    return artists


def _traced(
    lines: xarray.Dataset, kinds: Sequence[str]
) -> list[tuple[NDArray[np.float64], NDArray[np.float64], str]]:
    whose = np.asarray(lines["line_of_point"])
    found = []
    for k, kind in enumerate(str(kind) for kind in lines["kind"].values):
        if kind in kinds:
            part = lines.isel(point=np.flatnonzero(whose == k))
            alpha = np.where(part["meaningful"], part["alpha"], np.nan)
            found.append((np.asarray(part["omega"], float), alpha, kind))
    return found


def _words(axes: Sequence[Axes], words: Sequence[tuple[str, str]]) -> list[Artist]:
    artists: list[Artist] = []
    for ax in axes:
        for text, corner in words:
            top, left = corner.startswith("top"), corner.endswith("left")
            artists.append(
                ax.annotate(
                    text,
                    (0.04 if left else 0.96, 0.96 if top else 0.04),
                    xycoords="axes fraction",
                    ha="left" if left else "right",
                    va="top" if top else "bottom",
                    bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 1.5},
                )
            )
    return artists


def thresholds(
    found: xarray.Dataset, lines: xarray.Dataset, axes: Sequence[Axes] | None = None
) -> list[Artist]:
    """alpha_c and alpha_l along omega, ours and published, and by how much they differ."""
    axes = axes_of(2, axes)
    artists: list[Artist] = []
    colours = {"alpha_c": "black", "alpha_l": "#009E73"}
    symbols = {"alpha_c": r"$\alpha_c$", "alpha_l": r"$\alpha_l$"}
    for omega, alpha, kind in _traced(lines, tuple(colours)):
        artists += axes[0].plot(
            omega, alpha, color=colours[kind], linestyle=LINES[kind][1], label="_line"
        )
    for kind, marker in (("alpha_c", "o"), ("alpha_l", "^")):
        mine = found.isel(point=np.flatnonzero(np.asarray(found["kind"]) == kind))
        omega, alpha = (np.asarray(mine[name], float) for name in ("omega", "alpha"))
        theirs = np.array([THRESHOLDS[kind].get(float(x), np.nan) for x in omega])
        artists += axes[0].plot(
            omega,
            alpha,
            color=colours[kind],
            marker=marker,
            linestyle="none",
            markersize=4,
            label=f"{symbols[kind]}, here",
        )
        artists += axes[0].plot(
            omega,
            theirs,
            color=colours[kind],
            marker="x",
            linestyle="none",
            markersize=5,
            label=f"{symbols[kind]}, published",
        )
        artists += axes[1].plot(
            omega,
            100 * (theirs / alpha - 1),
            color=colours[kind],
            marker=marker,
            linewidth=0.6,
            markersize=4,
            label=symbols[kind],
        )
    axes[0].set_ylabel(ALPHA)
    axes[1].set_ylabel("published less ours, per cent of ours")
    axes[1].axhline(0, color="0.6", linewidth=0.6, zorder=0)
    for ax, letter in zip(axes, "ab", strict=True):
        ax.set_xlabel(OMEGA)
        ax.set_title(f"({letter})", loc="left", fontweight="bold")
    artists += [legend(axes[0]), legend(axes[1])]
    return artists


def rank_two(
    theory: xarray.Dataset,
    rank_one: xarray.Dataset,
    students: xarray.Dataset,
    axes: Sequence[Axes] | None = None,
) -> list[Artist]:
    """Students of rank two from random starts: minima, descent, theory, published means."""
    axes = axes_of(3, axes)
    artists: list[Artist] = []
    minima = students.isel(
        point=np.flatnonzero((students["steps"] == 0) & (students["bias_free"] == 1))
    )
    longest = max(1, int(students["steps"].max()))
    descent = students.isel(point=np.flatnonzero(students["steps"] == longest))
    colour = "#009E73"
    solved = theory.isel(
        point=np.flatnonzero(np.isin(theory["status"], ["converged", "quadrature_limit"]))
    )
    for ax, name in zip(axes, ("train_loss", "test_error"), strict=False):
        alpha = np.asarray(rank_one["alpha"], float)
        for start in INFORMED:
            branch = rank_one.sel(branch=start)
            artists += ax.plot(
                alpha,
                SCALE * known(branch, name),
                color=COLOURS[start],
                linewidth=0.8,
                label=f"rank 1, {start}",
            )
        artists += ax.plot(
            solved["alpha"],
            SCALE * solved[name],
            color=colour,
            linewidth=1.0,
            marker="D",
            markersize=7,
            markerfacecolor="none",
            label="rank 2, theory (mixed)",
        )
        artists += markers(
            ax,
            minima["alpha"],
            SCALE * minima[name],
            SCALE * minima[f"{name}_stderr"],
            colour,
            "o",
            f"rank 2, minima, $d = {int(minima['d'][0])}$",
        )
        if descent.sizes["point"]:
            artists += markers(
                ax,
                descent["alpha"],
                SCALE * descent[name],
                SCALE * descent[f"{name}_stderr"],
                "0.35",
                "v",
                f"rank 2, {longest} steps of descent",
            )
        artists += ax.plot(
            list(RANK_TWO),
            [SCALE * published[name] for published in RANK_TWO.values()],
            color="black",
            marker="x",
            linestyle="none",
            label="rank 2, published",
        )
    for name, marker, own in (
        ("m", "s", COLOURS["positional"]),
        ("theta", "o", COLOURS["semantic"]),
    ):
        symbol = {"m": "|m|", "theta": r"|\theta|"}[name]
        artists += axes[2].plot(
            solved["alpha"],
            solved[name],
            color=own,
            linewidth=1.0,
            marker="D",
            markersize=7,
            markerfacecolor="none",
        )
        artists += markers(
            axes[2],
            minima["alpha"],
            minima[name],
            minima[f"{name}_stderr"],
            own,
            marker,
            f"${symbol}$, minima",
        )
    labels = (
        r"training loss  $\epsilon_t\times 10^{3}$",
        r"test error  $\epsilon_g\times 10^{3}$",
        r"norm of the overlaps",
    )
    for ax, label, letter in zip(axes, labels, "abc", strict=True):
        ax.set_xlabel(ALPHA)
        ax.set_ylabel(label)
        ax.set_title(f"({letter})", loc="left", fontweight="bold")
    semantic = SCALE * known(rank_one.sel(branch="semantic"), "train_loss")
    axes[0].set_ylim(0, 1.2 * float(np.nanmax(semantic)))  # positional losses are far above
    axes[1].set_ylim(bottom=0)
    axes[2].set_ylim(bottom=0)
    artists += [below(axes[1], ncols=3), legend(axes[2], loc="lower right")]
    return artists
