"""Results as labelled arrays, which say what they are and where they come from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from gamp_theory.netcdf import SCHEMA, SCHEMA_VERSION
from gamp_theory.records import KNOWN, OVERLAPS, versions

if TYPE_CHECKING:
    import xarray

    from gamp_theory.model import AttentionModel
    from gamp_theory.phase_diagram import PhaseDiagram
    from gamp_theory.result import FixedPoint
    from gamp_theory.transition_result import Transition

__all__ = ["phase_diagram_dataset", "transition_dataset"]

_ABOUT = {
    "q": "student norm Q.Sigma.Q/d",
    "m": "positional overlap Q.p_1/sqrt(d)",
    "V": "response, the variance of the cavity field",
    "theta": "semantic overlap Q.Sigma.Q*/d",
    "train_loss": "training loss min R/d",
    "test_error": "test error per token and dimension",
}


def transition_dataset(
    model: AttentionModel,
    points: Mapping[str, Sequence[FixedPoint]],
    transitions: Mapping[str, Transition],
) -> xarray.Dataset:
    """Branches along alpha and the transitions between them, labelled.

    Parameters
    ----------
    model : AttentionModel
    points : mapping of str to sequence of FixedPoint
        By start, in any order; where a start has no point and another one has, numbers are NaN
        and the status is ``not_followed``.
    transitions : mapping of str to Transition
        ``alpha_c`` and ``alpha_l``.

    Returns
    -------
    xarray.Dataset
        Dimensions branch (the start that was followed) and alpha.
    """
    import xarray

    starts = list(points)
    at = {start: {point.alpha: point for point in points[start]} for start in starts}
    alphas = sorted({alpha for start in starts for alpha in at[start]})
    first = points[starts[0]][0]

    def add(
        name: str,
        long_name: str,
        value: Callable[[FixedPoint], Any],
        missing: float | str | bool = math.nan,
        **attrs: str,
    ) -> None:
        values = np.array(
            [[value(at[s][a]) if a in at[s] else missing for a in alphas] for s in starts]
        )
        dataset[name] = (("branch", "alpha"), values, {"long_name": long_name, **attrs})

    dataset = xarray.Dataset(
        coords={
            "branch": ("branch", starts, {"long_name": "start from which the branch was followed"}),
            "alpha": (
                "alpha",
                alphas,
                {"long_name": "sample ratio n/d", "units": "1"},
            ),
        }
    )
    for name, long_name in _ABOUT.items():
        add(name, long_name, partial(_value, name), units="1")
        add(f"{name}_error", f"error bar of {name}", partial(_error, name), units="1")
    add(
        "jump_mass",
        "jump mass of the proximal map; replica symmetry is broken where it is positive",
        partial(_stability, "jump_mass"),
        units="1",
    )
    add("replicon", "replicon, regular part", partial(_stability, "replicon"), units="1")
    add(
        "stable",
        "whether no eigenvalue of the map has a real part of 1 or more; false where not known",
        lambda point: point.stability is not None and bool(point.stability.stable),
        missing=False,
    )
    add("status", "how the solve ended", lambda p: p.status.token, missing="not_followed")
    add("reached", "branch on which the solve ended", lambda p: p.branch, missing="")
    add("tol", "relative accuracy asked for", lambda p: p.tol, units="1")
    _add_lowest(dataset)
    for name, transition in transitions.items():
        dataset[name] = ((), transition.value)
        dataset[name].attrs = {
            "long_name": _THRESHOLDS[name],
            "units": "1",
            "status": transition.status.token,
        }
        dataset[f"{name}_error"] = ((), transition.error)
        dataset[f"{name}_error"].attrs = {"long_name": f"error bar of {name}", "units": "1"}
    dataset["linear_error"] = ((), first.linear_error)
    dataset["linear_error"].attrs = {
        "long_name": "test error of the best linear layer",
        "units": "1",
    }
    dataset.attrs = _provenance("transition", model, first.lam)
    return dataset


def phase_diagram_dataset(diagram: PhaseDiagram) -> xarray.Dataset:
    """Lines, regions and failures of a phase diagram, labelled.

    Lines and regions differ in length: their points stand one after the other along ``point`` and
    ``cut``, and ``line_of_point`` and ``region_of_cut`` say whose they are.

    Parameters
    ----------
    diagram : PhaseDiagram

    Returns
    -------
    xarray.Dataset
        Dimensions line, point, side (the fixed points a line is about), overlap, region, cut,
        start (from which a region's branches were solved) and failure; any but side, overlap and
        start may be of length 0.
    """
    import xarray

    lines, regions, failures = diagram.lines, diagram.regions, diagram.failures
    dataset = xarray.Dataset(
        coords={
            "overlap": ("overlap", list(OVERLAPS), {"long_name": "overlap"}),
            "start": ("start", list(_PROBES), {"long_name": "start of a solve"}),
        }
    )

    def add(name: str, dims: str | tuple[str, ...], values: Any, about: str, units: str) -> None:
        attrs = {"long_name": about, **({"units": units} if units else {})}
        dataset[name] = (dims, values, attrs)

    def joined(parts: Sequence[Any], dtype: type = float) -> np.ndarray:
        return np.concatenate([np.asarray(part, dtype) for part in parts] or [np.zeros(0, dtype)])

    def words(values: Sequence[str]) -> np.ndarray:
        return np.array(list(values), dtype=str)

    sizes = [line.positions.size for line in lines]
    add("kind", "line", words([line.kind for line in lines]), "transition", "")
    add(
        "begins", "line", words([line.ends[0] for line in lines]), "why it begins where it does", ""
    )
    add("ends", "line", words([line.ends[1] for line in lines]), "why it ends where it does", "")
    add(
        "map_evaluations",
        "line",
        np.array([line.map_evaluations for line in lines], int),
        "maps it took",
        "1",
    )
    add("line_of_point", "point", np.repeat(np.arange(len(lines)), sizes), "index of the line", "1")
    for name, about, field in (
        ("omega", "weight of the positional part of the target", "positions"),
        ("alpha", "sample ratio n/d at the transition", "values"),
        ("alpha_error", "error bar of alpha", "errors"),
    ):
        add(name, "point", joined([getattr(line, field) for line in lines]), about, "1")
    add(
        "meaningful",
        "point",
        joined([line.meaningful for line in lines], bool),
        "whether every branch the line is about is a minimum there",
        "",
    )
    states = np.full((sum(sizes), 2, len(OVERLAPS)), math.nan)
    for k, sides in enumerate(sides for line in lines for sides in line.states):
        for j, state in enumerate(sides):
            states[k, j] = state.as_array()
    add("state", ("point", "side", "overlap"), states, "overlaps at the transition", "1")

    sizes = [region.omega.size for region in regions]
    add("label", "region", words([r.label for r in regions]), "what is there", "")
    add("lowest", "region", words([r.lowest for r in regions]), "branch of lowest loss", "")
    stable = [", ".join(region.stable) for region in regions]
    add("stable", "region", words(stable), "branches that are minima, the lowest first", "")
    for i, name in enumerate(("alpha", "omega")):
        values = np.array([region.probe[i] for region in regions], dtype=float)
        add(f"probe_{name}", "region", values, f"{name} at which it was named", "1")
    for name, about, value, dtype in (
        ("branch", "branch on which the solve ended", lambda p: p.branch, str),
        ("status", "how the solve ended", lambda p: p.status.token, str),
        ("train_loss", "training loss", lambda p: p.train_loss_variational, float),
        (
            "train_loss_error",
            "error bar of the training loss",
            lambda p: p.errors.train_loss_variational,
            float,
        ),
    ):
        table = [[value(point) for point in region.points] for region in regions]
        values = np.array(table, dtype).reshape(len(regions), len(_PROBES))
        add(f"probe_{name}", ("region", "start"), values, about, "1" if dtype is float else "")
    add("region_of_cut", "cut", np.repeat(np.arange(len(regions)), sizes), "region's index", "1")
    for name, about, field in (
        ("cut_omega", "omega at which the region is cut", "omega"),
        ("cut_low", "lower end of the region there, in alpha", "low"),
        ("cut_high", "upper end of the region there, in alpha", "high"),
    ):
        add(name, "cut", joined([getattr(region, field) for region in regions]), about, "1")

    for name, about in (
        ("kind", "what could not be computed"),
        ("status", "how it ended"),
        ("message", "the same, in a sentence"),
    ):
        add(f"failure_{name}", "failure", words([getattr(f, name) for f in failures]), about, "")
    for name in ("omega", "alpha"):
        values = np.array([getattr(failure, name) for failure in failures], dtype=float)
        add(f"failure_{name}", "failure", values, f"{name} where it was tried", "1")
    dataset.attrs = _provenance("phase_diagram", diagram.model, diagram.lam)
    dataset.attrs |= {
        "title": "Phase diagram of a solvable attention model",
        "omega_range": list(diagram.omega),
        "alpha_range": list(diagram.alpha),
        "complete": int(diagram.complete),
    }
    del dataset.attrs["omega"]  # it is an axis here
    return dataset


#: The starts that name a region, in the order of its points.
_PROBES = ("semantic", "positional", "zero")

_THRESHOLDS = {
    "alpha_c": "sample ratio at which semantic and positional training losses are equal",
    "alpha_l": "sample ratio at which the branch of lowest training loss beats the linear layer",
}


def _add_lowest(dataset: xarray.Dataset) -> None:
    """The branch of lowest training loss as one curve; NaN and "" where nothing converged."""
    loss = dataset["train_loss"].where(dataset["status"].isin(KNOWN))
    there = loss.notnull().any("branch")
    index = loss.fillna(math.inf).argmin("branch")
    for name in ("train_loss", "test_error"):
        for suffix in ("", "_error"):
            lowest = dataset[name + suffix].isel(branch=index).drop_vars("branch").where(there)
            lowest.attrs = {
                "long_name": f"{dataset[name + suffix].attrs['long_name']}, on the branch of "
                "lowest training loss",
                "units": "1",
            }
            dataset[f"lowest_{name}{suffix}"] = lowest
    lowest = dataset["reached"].isel(branch=index).drop_vars("branch").where(there, "")
    lowest.attrs = {"long_name": "branch of lowest training loss"}
    dataset["lowest_branch"] = lowest


def _value(name: str, point: FixedPoint) -> float:
    if name not in OVERLAPS:
        return getattr(point, name)
    return math.nan if point.overlaps is None else getattr(point.overlaps, name)


def _error(name: str, point: FixedPoint) -> float:
    return getattr(point.errors, name)


def _stability(name: str, point: FixedPoint) -> float:
    return math.nan if point.stability is None else getattr(point.stability, name)


def _provenance(kind: str, model: AttentionModel, lam: float) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        "title": "Positional and semantic solutions of a solvable attention model",
        "omega": model.omega,
        "sigma": model.sigma,
        "lam": lam,
        "A": ";".join(",".join(map(repr, row)) for row in model.target.A),
        "positions": ",".join(map(repr, model.positions)),
        "versions": versions(),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
