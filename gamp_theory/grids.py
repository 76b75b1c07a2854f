"""Fixed points on a grid of parameters: one number per quantity and point, and flags, labelled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gamp_theory.netcdf import SCHEMA, SCHEMA_VERSION
from gamp_theory.records import KNOWN, LOSSES, OVERLAPS, model_record, versions

if TYPE_CHECKING:
    import xarray

    from gamp_theory.result import FixedPoint
    from gamp_theory.token_result import GeneralFixedPoint

__all__ = [
    "FLAGS",
    "GENERAL_QUANTITIES",
    "curve_dataset",
    "general_point_columns",
    "grid_dataset",
    "no_general_point",
    "no_point",
    "on_branch",
    "point_columns",
]

_QUANTITIES = {
    "q": "student norm Q.Sigma.Q/d",
    "m": "positional overlap Q.p_1/sqrt(d)",
    "V": "response, the variance of the cavity field",
    "theta": "semantic overlap Q.Sigma.Q*/d",
    "train_loss": "training loss min R/d",
    "train_loss_variational": "training loss, as minus the free entropy",
    "test_error": "test error per token and dimension",
}
_NUMBERS = {
    **_QUANTITIES,
    **{f"{name}_error": f"error bar of {name}" for name in _QUANTITIES},
    "linear_error": "test error of the best linear layer",
    "residual": "undamped relative residual of the fixed point",
    "spectral_radius": "largest absolute value of the eigenvalues of the map",
    "replicon": "replicon, regular part",
    "jump_mass": "jump mass of the proximal map; replica symmetry is broken where it is positive",
}
_MATRIX = ("token", "column", "other_column")
_GENERAL: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "q": ("student norm Q^T.Sigma_l.Q/d", _MATRIX),
    "m": ("positional overlap Q^T.p_l/sqrt(d)", _MATRIX[:2]),
    "V": ("response, the variance of the cavity field", _MATRIX),
    "theta": ("semantic overlap Q^T.Sigma_l.Q*/d", (*_MATRIX[:2], "teacher_column")),
    **{name: (_QUANTITIES[name], ()) for name in LOSSES},
    "linear_error": (_NUMBERS["linear_error"], ()),
}
#: Of a general model: what it is, and its dimensions beside those of the grid.
GENERAL_QUANTITIES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    **_GENERAL,
    **{
        f"{name}_error": (f"standard error of {name}", dims) for name, (_, dims) in _GENERAL.items()
    },
    **{name: (_NUMBERS[name], ()) for name in ("residual", "spectral_radius")},
    "replicon": (_NUMBERS["replicon"], ()),
    "replicon_error": ("standard error of replicon", ()),
    "jump_mass": (_NUMBERS["jump_mass"], ()),
    "jump_mass_error": ("standard error of jump_mass", ()),
    "missed_wells": ("share of audited samples with a lower minimum than the one in use", ()),
}
#: Flags: what they are about, and their meanings, of which the k-th has the value k.  Files hold
#: the values, so these lists only ever grow at their ends.
FLAGS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "status": (
        "how the solve ended; there are numbers where it is converged or quadrature_limit",
        (
            "converged",
            "iteration_limit",
            "left_domain",
            "non_finite",
            "quadrature_limit",
            "does_not_exist",
            "left_branch",
            "solve_failed",
            "not_computed",
        ),
    ),
    "reached": (
        "branch on which the solve ended",
        ("nothing", "zero", "uninformed", "positional", "semantic", "mixed"),
    ),
    "stable": (
        "whether no eigenvalue of the map has a real part of 1 or more",
        ("not_known", "unstable", "stable"),
    ),
}
_COORDINATES = {
    "alpha": "sample ratio n/d",
    "omega": "weight of the positional part of the target",
    "sigma": "standard deviation of the token entries",
    "lam": "ridge",
    "tol": "relative accuracy asked for",
}


def on_branch(point: FixedPoint | GeneralFixedPoint, branch: str) -> bool:
    """Whether a solve has found what it was to find: numbers, on the branch of this name."""
    return point.status.token in KNOWN and point.branch == branch


def point_columns(point: FixedPoint, branch: str) -> dict[str, float | int]:
    """The numbers and flags of a fixed point that was to lie on a branch.

    Where it lies on another its numbers are NaN, its status ``left_branch``, and the name of the
    other one its ``reached``.
    """
    status = _status(point, branch)
    columns = no_point(status)
    columns["linear_error"] = point.linear_error
    if status in (*KNOWN, "left_branch"):
        columns["reached"] = FLAGS["reached"][1].index(point.branch)
    if status in KNOWN:
        columns |= {name: getattr(point.overlaps, name) for name in OVERLAPS}
        columns |= {name: getattr(point, name) for name in (*LOSSES, "residual")}
        columns |= {f"{name}_error": getattr(point.errors, name) for name in _QUANTITIES}
        if point.stability is not None:
            for name in ("spectral_radius", "replicon", "jump_mass"):
                columns[name] = getattr(point.stability, name)
            word = "stable" if point.stability.stable else "unstable"
            columns["stable"] = FLAGS["stable"][1].index(word)
    # as plain numbers, which go to text and back unchanged
    return {name: int(x) if name in FLAGS else float(x) for name, x in columns.items()}


def general_point_columns(point: GeneralFixedPoint, branch: str) -> dict[str, Any]:
    """The same for a general model: overlaps are nested lists with the token first."""
    status = _status(point, branch)
    model = point.model
    columns = no_general_point(status, (model.tokens, model.rank, model.teacher_rank))
    if status in (*KNOWN, "left_branch"):
        columns["reached"] = FLAGS["reached"][1].index(point.branch)
    if status not in KNOWN:
        return columns
    for name in OVERLAPS:
        columns[name] = getattr(point.overlaps, name).tolist()
        columns[f"{name}_error"] = getattr(point.errors, name).tolist()
    for name in (*LOSSES, "linear_error"):
        columns[name] = float(getattr(point, name))
        columns[f"{name}_error"] = float(getattr(point.errors, name))
    for name in ("residual", "missed_wells"):
        columns[name] = float(getattr(point, name))
    if point.stability is not None:
        for name in ("spectral_radius", "replicon", "replicon_error", "jump_mass"):
            columns[name] = float(getattr(point.stability, name))
        columns["jump_mass_error"] = float(point.stability.jump_mass_error)
        word = "stable" if point.stability.stable else "unstable"
        columns["stable"] = FLAGS["stable"][1].index(word)
    return columns


def no_general_point(status: str, shape: tuple[int, int, int]) -> dict[str, Any]:
    """The same without a fixed point, for L tokens and ranks r and t; `shape` is (L, r, t)."""
    tokens, rank, teacher_rank = shape
    size = {
        "token": tokens,
        "column": rank,
        "other_column": rank,
        "teacher_column": teacher_rank,
    }
    columns: dict[str, Any] = {
        name: np.full([size[dim] for dim in dims], math.nan).tolist()
        for name, (_, dims) in GENERAL_QUANTITIES.items()
    }
    return columns | {"status": FLAGS["status"][1].index(status), "reached": 0, "stable": 0}


def _status(point: FixedPoint | GeneralFixedPoint, branch: str) -> str:
    status = point.status.token
    return "left_branch" if status in KNOWN and point.branch != branch else status


def no_point(status: str) -> dict[str, float | int]:
    """The numbers, all NaN, and flags where there is no fixed point."""
    flags = {"status": FLAGS["status"][1].index(status), "reached": 0, "stable": 0}
    return {**dict.fromkeys(_NUMBERS, math.nan), **flags}


def grid_dataset(
    kind: str,
    coordinates: Mapping[str, float | Sequence[float]],
    branches: Sequence[str],
    columns: Mapping[str, Any],
    *,
    A: Sequence[Sequence[float]] | NDArray[np.float64] | None = None,
    tol: float,
    computed_with: str,
    listed: bool = False,
) -> xarray.Dataset:
    """Numbers and flags of all points as a labelled dataset.

    Parameters
    ----------
    kind : {"sweep", "curve", "general_sweep"}
        The last is of a general model, of which there are other columns.
    coordinates : mapping of str to float or sequence of float
        Of alpha, omega, sigma, lam, those that vary as sequences, in the order of the axes.  In a
        list of points all of them are sequences, and tol may be one.
    branches : sequence of str
    columns : mapping of str to array, shape (..., branches)
        What :func:`point_columns` gives for each point, an axis for each coordinate that varies;
        of a list, of shape (points, branches).  What :func:`general_point_columns` gives, of shape
        (..., branches, L, r, r) and so on.
    A : nested sequence of float, optional
        Positional attention of the target.
    tol : float
    computed_with : str
        Versions (:func:`gamp_theory.records.versions`).
    listed : bool
        Whether it is a list of points, along a dimension of that name, and not a grid.
    """
    import xarray

    varying = [name for name, x in coordinates.items() if isinstance(x, Sequence)]
    dims = ("point", "branch") if listed else (*varying, "branch")
    dataset = xarray.Dataset(
        attrs={
            "title": "Fixed points of a solvable attention model "
            + ("at a list of parameters" if listed else "on a grid of parameters"),
            "Conventions": "CF-1.11",
            "schema": SCHEMA,
            "schema_version": SCHEMA_VERSION,
            "kind": kind,
            **({} if A is None else {"A": ";".join(",".join(map(repr, row)) for row in A)}),
            "tol": tol,
            "versions": computed_with,
        }
    )
    for name, value in coordinates.items():
        attrs = {"long_name": _COORDINATES[name], "units": "1"}
        along = ("point" if listed else name,) if name in varying else ()
        dataset.coords[name] = (along, np.array(value, float), attrs)
    dataset.coords["branch"] = ("branch", list(branches), {"long_name": "branch of fixed points"})
    pair = {name: (about, ()) for name, about in _NUMBERS.items()}
    quantities = GENERAL_QUANTITIES if kind == "general_sweep" else pair
    for name, (about, further) in quantities.items():
        values = np.array(columns[name], float)
        dataset[name] = ((*dims, *further), values, {"long_name": about, "units": "1"})
    for name, (about, meanings) in FLAGS.items():
        dataset[name] = (
            dims,
            np.array(columns[name], np.int8),
            {
                "long_name": about,
                "flag_values": np.arange(len(meanings), dtype=np.int8),
                "flag_meanings": " ".join(meanings),
            },
        )
    return dataset


def curve_dataset(
    points: Mapping[str, Sequence[FixedPoint]], along: str, values: Sequence[float]
) -> xarray.Dataset:
    """Branches along one parameter as a labelled dataset.

    Parameters
    ----------
    points : mapping of str to sequence of FixedPoint
        By start, at the first of the values; what is missing is ``not_computed``.  At least one.
    along : {"alpha", "omega", "sigma", "lam"}
    values : sequence of float
    """
    starts = list(points)
    first = next(point for branch in points.values() for point in branch)
    rows = {
        start: [point_columns(point, start) for point in branch]
        + [no_point("not_computed")] * (len(values) - len(branch))
        for start, branch in points.items()
    }
    here: dict[str, float | Sequence[float]] = {
        "alpha": first.alpha,
        **model_record(first.model, first.lam),
    }
    here[along] = list(values)
    return grid_dataset(
        "curve",
        here,
        starts,
        {
            name: np.array([[row[name] for row in rows[start]] for start in starts]).T
            for name in no_point("not_computed")
        },
        A=first.model.target.A,
        tol=first.tol,
        computed_with=versions(),
    )
