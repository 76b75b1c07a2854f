"""Results as labelled arrays, which say what they are and where they come from."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from gamp_theory.records import KNOWN, OVERLAPS, versions

if TYPE_CHECKING:
    import xarray

    from gamp_theory.model import AttentionModel
    from gamp_theory.result import FixedPoint
    from gamp_theory.transitions import Transition

__all__ = ["transition_dataset"]

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
    dataset.attrs = _provenance(model, first.lam)
    return dataset


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


def _provenance(model: AttentionModel, lam: float) -> dict[str, Any]:
    return {
        "title": "Positional and semantic solutions of a solvable attention model",
        "omega": model.omega,
        "sigma": model.sigma,
        "lam": lam,
        "A": ";".join(",".join(map(repr, row)) for row in model.target.A),
        "positions": ",".join(map(repr, model.positions)),
        "versions": versions(),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
