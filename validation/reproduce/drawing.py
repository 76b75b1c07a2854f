"""Figures along one parameter: theory as lines, dashed where unstable; students as markers.

Every function takes datasets of `theory` and `simulation`, and the axes to draw into; without axes
it makes a figure.  It returns the artists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gamp_theory import plotting
from gamp_theory.empirical.measure import extrapolate
from gamp_theory.plotting import COLOURS
from validation.reproduce.strokes import (
    ALPHA,
    BROKEN,
    DOTTED,
    INFORMED,
    LABELS,
    LARGE,
    LARGE_D,
    MARKERS,
    SCALE,
    SMALL,
    TRAIN_GAP,
    axes_of,
    is_stable,
    known,
    legend,
    line,
    markers,
    of_start,
    student_means,
)

if TYPE_CHECKING:
    import xarray
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

__all__ = ["loss_difference", "overlaps", "scaling", "slice_along", "test_error"]


def overlaps(
    theory: xarray.Dataset, students: xarray.Dataset, ax: Axes | None = None
) -> list[Artist]:
    """The overlap that each informed minimum has, along alpha at omega = .3."""
    (ax,) = axes_of(1, ax)
    artists = plotting.plot_overlaps(theory, ax)
    for start, name in BROKEN.items():
        artists += student_means(
            ax, of_start(students, start), "alpha", name, COLOURS[start], start
        )
    texts = {"m": "$m$, positional", "theta": r"$\theta$, semantic"}
    place = {"loc": "center right", "bbox_to_anchor": (1.0, 0.73)}
    return _frame(ax, theory, students, artists, texts, place)


def test_error(
    theory: xarray.Dataset, students: xarray.Dataset, ax: Axes | None = None
) -> list[Artist]:
    """Test errors along alpha, the best linear layer, alpha_c and alpha_l."""
    (ax,) = axes_of(1, ax)
    artists = plotting.plot_test_error(theory, ax)
    for start in INFORMED:
        artists += student_means(
            ax, of_start(students, start), "alpha", "test_error", COLOURS[start], start
        )
    texts = {f"test_error, {start}": start for start in INFORMED}
    texts |= {r"lowest $\epsilon_t$": r"of lowest $\epsilon_t$"}
    return _frame(ax, theory, students, artists, texts, {"loc": "upper right"})


def loss_difference(
    theory: xarray.Dataset,
    students: xarray.Dataset,
    pairs: xarray.Dataset,
    ax: Axes | None = None,
) -> list[Artist]:
    """The difference of training losses along alpha; training prefers what is lower."""
    (ax,) = axes_of(1, ax)
    alpha = np.asarray(theory["alpha"], float)
    gap, stable = _gap(theory)
    artists = line(ax, alpha, SCALE * gap, stable, "black", "theory")
    artists.append(ax.axhline(0, color="0.6", linewidth=0.6, zorder=0))
    one, other = (of_start(students, start) for start in INFORMED)
    same, there, here = np.intersect1d(one["alpha"], other["alpha"], return_indices=True)
    one, other = one.isel(point=there), other.isel(point=here)
    both = (np.asarray(one["share"]) >= 0.5) & (np.asarray(other["share"]) >= 0.5)
    difference = np.asarray(one["train_loss"] - other["train_loss"].values)
    error = np.hypot(one["train_loss_stderr"], other["train_loss_stderr"])
    artists += markers(
        ax,
        same[both],
        SCALE * difference[both],
        SCALE * np.asarray(error)[both],
        "0.45",
        "o",
        f"independent tasks, $d = {int(students['d'].min())}$",
    )
    for d, marker in zip(np.unique(pairs["d"])[::-1], "Ds^", strict=False):
        part = pairs.isel(point=np.flatnonzero(pairs["d"] == d))
        artists += markers(
            ax,
            part["alpha"],
            SCALE * part["train_loss_gap"],
            SCALE * part["train_loss_gap_stderr"],
            "#CC79A7",
            marker,
            f"same tasks, $d = {int(d)}$",
        )
    marked = plotting.mark_thresholds(theory[["alpha_c"]].assign(alpha_l=np.nan), ax)
    for artist in marked:
        artist.set_label("_")  # named above the axes
    artists += marked
    for text, y, va in (("positional lower", 1, "top"), ("semantic lower", 0, "bottom")):
        where = (0.98, 0.97) if y else (0.02, 0.03)
        artists.append(
            ax.annotate(
                text,
                where,
                xycoords="axes fraction",
                ha="right" if y else "left",
                va=va,
                color=COLOURS[text.split()[0]],
            )
        )
    ax.set_xlabel(ALPHA)
    ax.set_ylabel(TRAIN_GAP)
    ax.set_xlim(0, float(alpha[-1]))
    artists.append(ax.legend(loc="center left", bbox_to_anchor=(0.0, 0.3)))
    return artists


def slice_along(
    theory: xarray.Dataset,
    students: xarray.Dataset,
    axes: Sequence[Axes] | None = None,
    *,
    parameter: str,
) -> list[Artist]:
    """Overlaps, training losses and test errors along one parameter at alpha = 1.5."""
    axes = axes_of(3, axes)
    x = np.asarray(theory[parameter], float)
    artists: list[Artist] = []
    for start in INFORMED:
        mine, colour = of_start(students, start), COLOURS[start]
        symbol = {"m": "$m$", "theta": r"$\theta$"}[BROKEN[start]]
        for ax, name, text in (
            (axes[0], BROKEN[start], f"{symbol}, {start}"),
            (axes[1], "train_loss", start),
            (axes[2], "test_error", start),
        ):
            scale = 1.0 if name in ("m", "theta") else SCALE
            if start in theory["branch"]:
                branch = theory.sel(branch=start)
                values = scale * known(branch, name)
                artists += line(ax, x, values, is_stable(branch), colour, text)
            elif ax is axes[0]:  # no line that would name the colour
                artists += markers(ax, [], [], [], colour, MARKERS[start], text)
            artists += student_means(ax, mine, parameter, name, colour, start)
    linear = np.asarray(theory["linear_error"].isel(branch=0), float)
    artists += axes[2].plot(
        x, SCALE * linear, color="black", linewidth=0.9, linestyle=DOTTED, label="linear layer"
    )
    labels = (
        r"overlap  $m$, $\theta$",
        r"training loss  $\epsilon_t\times 10^{3}$",
        r"test error  $\epsilon_g\times 10^{3}$",
    )
    for ax, label, letter in zip(axes, labels, "abc", strict=True):
        ax.set_xlabel(LABELS[parameter])
        ax.set_ylabel(label)
        ax.set_title(f"({letter})", loc="left", fontweight="bold")
        if parameter == "lam":
            ax.set_xscale("log")
    axes[0].set_ylim(bottom=0)
    axes[2].set_ylim(bottom=0)
    if (np.asarray(students["share"]) < 0.5).any():
        (hollow,) = axes[1].plot(
            [],
            [],
            color="0.4",
            marker="o",
            markersize=3,
            markerfacecolor="white",
            linestyle="none",
            label="ended on another branch",
        )
        artists += [
            hollow,
            legend(axes[1], handles=[hollow], loc="lower right", bbox_to_anchor=(1.02, 1.0)),
        ]
    artists += [legend(axes[0]), legend(axes[2])]
    return artists


def scaling(
    theory: xarray.Dataset, students: xarray.Dataset, axes: Sequence[Axes] | None = None
) -> list[Artist]:
    """Deviation from the theory against 1/d at alpha = 1.5, and what it goes to."""
    axes = axes_of(2, axes)
    artists: list[Artist] = []
    names = {"q": "$q$", "train_loss": r"$\epsilon_t$", "test_error": r"$\epsilon_g$"}
    colours = ("#000000", "#0072B2", "#D55E00", "#009E73")
    for ax, start, letter in zip(axes, INFORMED, "ab", strict=True):
        mine = of_start(students, start).sortby("d")
        symbol = {"m": "$m$", "theta": r"$\theta$"}[BROKEN[start]]
        for k, (name, text) in enumerate({BROKEN[start]: symbol, **names}.items()):
            limit = float(theory[name].sel(branch=start, omega=0.3, method=None))
            d = np.asarray(mine["d"], float)
            mean, error = (
                np.asarray(mine[column], float) / limit for column in (name, f"{name}_stderr")
            )
            shift = 0.09 * (k - 1.5)  # so that error bars do not cover one another
            artists += markers(
                ax, 1e3 / d + shift, 100 * (mean - 1), 100 * error, colours[k], "os^D"[k], text
            )
            fit = extrapolate(d.tolist(), mean.tolist(), error.tolist())
            fitted = np.polyfit(d**-fit.power, mean, 1, w=1 / error)
            fine = np.linspace(0, 1 / d.min(), 100)
            artists += ax.plot(
                1e3 * fine,
                100 * (np.polyval(fitted, fine**fit.power) - 1),
                color=colours[k],
                linewidth=0.7,
                label="_",
            )
            artists += markers(
                ax,
                [-0.85 + 0.2 * k],
                [100 * (fit.value - 1)],
                [100 * fit.stderr],
                colours[k],
                "os^D"[k],
                "_",
                hollow=True,
            )
        artists.append(ax.axhline(0, color="0.5", linewidth=0.8, zorder=0))
        artists.append(ax.axvline(0, color="0.8", linewidth=0.6, zorder=0))
        ax.set_xlabel(r"$1000/d$   (hollow: the limit, fitted)")
        ax.set_ylabel("students less theory, per cent")
        ax.set_title(f"({letter}) {start}", loc="left", fontweight="bold")
        artists.append(legend(ax, loc="lower left" if start == "semantic" else "upper left"))
    return artists


def _gap(theory: xarray.Dataset) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Semantic less positional training loss, and where both are minima."""
    one, other = (theory.sel(branch=start) for start in INFORMED)
    gap = known(one, "train_loss") - known(other, "train_loss")
    return gap, is_stable(one) & is_stable(other)


def _frame(
    ax: Axes,
    theory: xarray.Dataset,
    students: xarray.Dataset,
    artists: list[Artist],
    texts: Mapping[str, str],
    place: Mapping[str, Any],
) -> list[Artist]:
    """Thresholds, the range, and a legend in place of names beside curves, which markers cover.

    `texts` has what the legend says of the first stroke whose label begins so.
    """
    for artist in artists:
        if getattr(artist, "get_text", lambda: "")().split(", ")[-1] in INFORMED:
            artist.set_visible(False)
    handles: list[Artist] = []
    for label in texts:
        handles += [x for x in artists if str(x.get_label()).startswith(label)][:1]
    for d in _sizes(students):
        (handle,) = ax.plot(
            [],
            [],
            color="0.4",
            marker="o",
            markersize=LARGE if d >= LARGE_D else SMALL,
            linestyle="none",
        )
        handles.append(handle)
    words = [*texts.values(), *(f"students, $d = {d}$" for d in _sizes(students))]
    artists = [*artists, *plotting.mark_thresholds(theory, ax)]
    ax.set_xlim(0, float(theory["alpha"].max()))
    return [*artists, legend(ax, handles=handles, labels=words, **place)]


def _sizes(students: xarray.Dataset) -> list[int]:
    return sorted({int(d) for d in np.asarray(students["d"])})
