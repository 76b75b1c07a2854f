"""The figures: theory as lines, dashed where unstable; students as markers with standard errors.

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
from validation.reproduce.published import RANK_TWO, THRESHOLDS

if TYPE_CHECKING:
    import xarray
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

__all__ = [
    "error_diagram",
    "loss_diagram",
    "loss_difference",
    "overlaps",
    "rank_two",
    "scaling",
    "slice_along",
    "test_error",
    "thresholds",
]

INFORMED = ("semantic", "positional")
BROKEN = {"semantic": "theta", "positional": "m"}
MARKERS = {"semantic": "o", "positional": "s"}
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


def overlaps(
    theory: xarray.Dataset, students: xarray.Dataset, ax: Axes | None = None
) -> list[Artist]:
    """The overlap that each informed minimum has, along alpha at omega = .3."""
    (ax,) = _axes(1, ax)
    artists = plotting.plot_overlaps(theory, ax)
    for start, name in BROKEN.items():
        artists += _students(ax, _of(students, start), "alpha", name, COLOURS[start], start)
    artists += _frame(ax, theory, students)
    return artists


def test_error(
    theory: xarray.Dataset, students: xarray.Dataset, ax: Axes | None = None
) -> list[Artist]:
    """Test errors along alpha, the best linear layer, alpha_c and alpha_l."""
    (ax,) = _axes(1, ax)
    artists = plotting.plot_test_error(theory, ax)
    for start in INFORMED:
        artists += _students(ax, _of(students, start), "alpha", "test_error", COLOURS[start], start)
    artists += _frame(ax, theory, students, legend=False)
    return artists


def loss_difference(
    theory: xarray.Dataset,
    students: xarray.Dataset,
    pairs: xarray.Dataset,
    ax: Axes | None = None,
) -> list[Artist]:
    """The difference of training losses along alpha; training prefers what is lower."""
    (ax,) = _axes(1, ax)
    alpha = np.asarray(theory["alpha"], float)
    gap, stable = _gap(theory)
    artists = _line(ax, alpha, SCALE * gap, stable, "black", "theory")
    artists.append(ax.axhline(0, color="0.6", linewidth=0.6, zorder=0))
    one, other = (_of(students, start) for start in INFORMED)
    same, there, here = np.intersect1d(one["alpha"], other["alpha"], return_indices=True)
    one, other = one.isel(point=there), other.isel(point=here)
    both = (np.asarray(one["share"]) >= 0.5) & (np.asarray(other["share"]) >= 0.5)
    difference = np.asarray(one["train_loss"] - other["train_loss"].values)
    error = np.hypot(one["train_loss_stderr"], other["train_loss_stderr"])
    artists += _markers(
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
        artists += _markers(
            ax,
            part["alpha"],
            SCALE * part["train_loss_gap"],
            SCALE * part["train_loss_gap_stderr"],
            "#CC79A7",
            marker,
            f"same tasks, $d = {int(d)}$",
        )
    artists += plotting.mark_thresholds(theory[["alpha_c"]].assign(alpha_l=np.nan), ax)
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
    axes = _axes(3, axes)
    x = np.asarray(theory[parameter], float)
    artists: list[Artist] = []
    for start in INFORMED:
        branch, mine, colour = theory.sel(branch=start), _of(students, start), COLOURS[start]
        stable = _stable(branch)
        symbol = {"m": "$m$", "theta": r"$\theta$"}[BROKEN[start]]
        for ax, name, text in (
            (axes[0], BROKEN[start], f"{symbol}, {start}"),
            (axes[1], "train_loss", start),
            (axes[2], "test_error", start),
        ):
            scale = 1.0 if name in ("m", "theta") else SCALE
            artists += _line(ax, x, scale * _known(branch, name), stable, colour, text)
            artists += _students(ax, mine, parameter, name, colour, start, scale)
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
        artists += [hollow, _legend(axes[1], handles=[hollow])]
    artists += [_legend(axes[0]), _legend(axes[2])]
    return artists


# ------------------------------------------------------------------------------------ diagrams


def loss_diagram(
    theory: xarray.Dataset,
    lines: xarray.Dataset,
    students: xarray.Dataset,
    axes: Sequence[Axes] | None = None,
) -> list[Artist]:
    """The difference of training losses over alpha and omega: theory, and students."""
    axes = _axes(2, axes)
    gap = theory["train_loss"].sel(branch="semantic", drop=True) - theory["train_loss"].sel(
        branch="positional", drop=True
    )
    simulated = _table(students, "train_loss_gap")
    artists = _pair_of_maps(axes, gap, simulated, "RdBu_r", TRAIN_GAP)
    unstable = (theory["stable"] == UNSTABLE).any("branch") & gap.notnull()
    artists += _dots(axes[0], unstable, "one of the two is no minimum")
    for ax in axes:
        artists += _lines(ax, lines, ("alpha_c",))
    artists += _words(axes, (("semantic lower", "top left"), ("positional lower", "bottom right")))
    artists += [_legend(axes[0], loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)]
    return artists


def error_diagram(
    theory: xarray.Dataset,
    lines: xarray.Dataset,
    students: xarray.Dataset,
    axes: Sequence[Axes] | None = None,
) -> list[Artist]:
    """What attention gains over the best linear layer, on the branch of lowest training loss."""
    axes = _axes(2, axes)
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
    artists += [_legend(axes[0], loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)]
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
        ax.set_facecolor("0.85")
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


# ---------------------------------------------------------------------- published numbers beside


def thresholds(
    found: xarray.Dataset, lines: xarray.Dataset, axes: Sequence[Axes] | None = None
) -> list[Artist]:
    """alpha_c and alpha_l along omega, ours and published, and by how much they differ."""
    axes = _axes(2, axes)
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
    artists += [_legend(axes[0]), _legend(axes[1])]
    return artists


def rank_two(
    theory: xarray.Dataset,
    rank_one: xarray.Dataset,
    students: xarray.Dataset,
    axes: Sequence[Axes] | None = None,
) -> list[Artist]:
    """Students of rank two from random starts: minima, descent, theory, published means."""
    axes = _axes(3, axes)
    artists: list[Artist] = []
    minima = students.isel(
        point=np.flatnonzero((students["steps"] == 0) & (students["bias_free"] == 1))
    )
    descent = students.isel(point=np.flatnonzero(students["steps"] > 0))
    colour = "#009E73"
    known = theory.isel(
        point=np.flatnonzero(np.isin(theory["status"], ["converged", "quadrature_limit"]))
    )
    for ax, name in zip(axes, ("train_loss", "test_error"), strict=False):
        alpha = np.asarray(rank_one["alpha"], float)
        for start in INFORMED:
            branch = rank_one.sel(branch=start)
            artists += ax.plot(
                alpha,
                SCALE * _known(branch, name),
                color=COLOURS[start],
                linewidth=0.8,
                linestyle=DASHED,
                label=f"rank 1, {start}",
            )
        artists += ax.plot(
            known["alpha"],
            SCALE * known[name],
            color=colour,
            marker="_",
            label="rank 2, theory (mixed)",
        )
        artists += _markers(
            ax,
            minima["alpha"],
            SCALE * minima[name],
            SCALE * minima[f"{name}_stderr"],
            colour,
            "o",
            f"rank 2, minima, $d = {int(minima['d'][0])}$",
        )
        if descent.sizes["point"]:
            artists += _markers(
                ax,
                descent["alpha"],
                SCALE * descent[name],
                SCALE * descent[f"{name}_stderr"],
                "0.35",
                "v",
                f"rank 2, {int(descent['steps'][0])} steps of descent",
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
        artists += axes[2].plot(known["alpha"], known[name], color=own, marker="_")
        artists += _markers(
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
    axes[2].set_ylim(bottom=0)
    artists += [
        _legend(axes[1], loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=3),
        _legend(axes[2]),
    ]
    return artists


def scaling(
    theory: xarray.Dataset, students: xarray.Dataset, axes: Sequence[Axes] | None = None
) -> list[Artist]:
    """Deviation from the theory against 1/d at alpha = 1.5, and what it goes to."""
    axes = _axes(2, axes)
    artists: list[Artist] = []
    names = {"q": "$q$", "train_loss": r"$\epsilon_t$", "test_error": r"$\epsilon_g$"}
    colours = ("#000000", "#0072B2", "#D55E00", "#009E73")
    for ax, start, letter in zip(axes, INFORMED, "ab", strict=True):
        mine = _of(students, start).sortby("d")
        symbol = {"m": "$m$", "theta": r"$\theta$"}[BROKEN[start]]
        for k, (name, text) in enumerate({BROKEN[start]: symbol, **names}.items()):
            limit = float(theory[name].sel(branch=start, omega=0.3, method=None))
            d = np.asarray(mine["d"], float)
            mean, error = (
                np.asarray(mine[column], float) / limit for column in (name, f"{name}_stderr")
            )
            shift = 0.09 * (k - 1.5)  # so that error bars do not cover one another
            artists += _markers(
                ax, 1e3 / d + shift, 100 * (mean - 1), 100 * error, colours[k], "os^D"[k], text
            )
            fit = extrapolate(d.tolist(), mean.tolist(), error.tolist())
            line = np.polyfit(d**-fit.power, mean, 1, w=1 / error)
            fine = np.linspace(0, 1 / d.min(), 100)
            artists += ax.plot(
                1e3 * fine,
                100 * (np.polyval(line, fine**fit.power) - 1),
                color=colours[k],
                linewidth=0.7,
                label="_",
            )
            artists += _markers(
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
        artists.append(_legend(ax, loc="lower left" if start == "semantic" else "upper right"))
    return artists


# --------------------------------------------------------------------------------------- strokes


def _axes(panels: int, given: Any) -> list[Axes]:
    """The axes that were given, or those of a new figure."""
    if given is not None:
        return [given] if panels == 1 else list(given)
    with plotting.figure(3.4 if panels == 1 else None, 2.6) as drawn:
        return list(np.atleast_1d(drawn.subplots(1, panels)))


def _of(students: xarray.Dataset, start: str) -> xarray.Dataset:
    return students.isel(point=np.flatnonzero(np.asarray(students["start"]) == start))


def _stable(branch: xarray.Dataset) -> NDArray[np.bool_]:
    """Of a branch of a grid, whose flag is a number, or of a transition, whose flag is a truth."""
    stable = np.asarray(branch["stable"])
    return stable if stable.dtype == bool else stable == STABLE


def _known(branch: xarray.Dataset, name: str) -> NDArray[np.float64]:
    """A quantity where it is known and lies on its branch."""
    status = np.asarray(branch["status"])
    if status.dtype.kind in "iu":
        there = np.isin(status, (CONVERGED, QUADRATURE_LIMIT))
    else:
        there = np.isin(status, ("converged", "quadrature_limit"))
        there &= np.asarray(branch["reached"]) == str(branch["branch"].values)
    return np.where(there, np.asarray(branch[name], float), np.nan)


def _gap(theory: xarray.Dataset) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Semantic less positional training loss, and where both are minima."""
    one, other = (theory.sel(branch=start) for start in INFORMED)
    gap = _known(one, "train_loss") - _known(other, "train_loss")
    return gap, _stable(one) & _stable(other)


def _line(
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


def _students(
    ax: Axes,
    mine: xarray.Dataset,
    parameter: str,
    name: str,
    colour: str,
    start: str,
    scale: float | None = None,
) -> list[Artist]:
    """Means of students; hollow where most of them have ended on another branch."""
    if scale is None:
        scale = 1.0 if name in ("q", "m", "theta") else SCALE
    artists: list[Artist] = []
    share = np.asarray(mine["share"], float)
    large = np.asarray(mine["d"]) >= 2000
    for chosen, size, hollow in (
        ((share >= 0.5) & ~large, 3.0, False),
        ((share >= 0.5) & large, 4.5, False),
        (share < 0.5, 3.0, True),
    ):
        part = mine.isel(point=np.flatnonzero(chosen))
        if part.sizes["point"]:
            artists += _markers(
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


def _markers(
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


def _frame(
    ax: Axes, theory: xarray.Dataset, students: xarray.Dataset, legend: bool = True
) -> list[Artist]:
    """Thresholds, range, and what the markers are."""
    artists = plotting.mark_thresholds(theory, ax)
    ax.set_xlim(0, float(theory["alpha"].max()))
    sizes = sorted({int(d) for d in np.asarray(students["d"])})
    words = ", ".join(f"$d = {d}$" for d in sizes)
    artists.append(
        ax.annotate(
            f"markers: {words}" + (" (larger)" if len(sizes) > 1 else ""),
            (0.98, 0.03),
            xycoords="axes fraction",
            ha="right",
            fontsize="x-small",
            color="0.35",
        )
    )
    return artists


def _legend(ax: Axes, **options: Any) -> Artist:
    return ax.legend(fontsize="x-small", **options)
