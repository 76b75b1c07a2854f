"""Jacobians of vector functions by difference quotients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["NoDifferenceQuotient", "jacobian"]

Vector = NDArray[np.float64]


class NoDifferenceQuotient(ValueError):
    """Every point that a difference quotient could use lies outside the domain."""


def jacobian(
    F: Callable[[Vector], Vector],
    x: ArrayLike,
    step: float = 1e-5,
    *,
    floor: float = 1e-6,
    method: Literal["central", "forward"] = "central",
    value: Vector | None = None,
    admissible: Callable[[Vector], bool] | None = None,
    components: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """The matrix ``J[i, j] = dF_i/dx_j``.

    Parameters
    ----------
    F : callable
        Maps a vector of shape (n,) to one of shape (k,).
    x : array, shape (n,)
        Where to differentiate.
    step, floor : float
        Component j is moved by ``max(step |x_j|, floor)``.
    method : {"central", "forward"}
        "central" has an error of second order in the step, for two evaluations a column;
        "forward" of first order, for one, and one more for F(x).
    value : array, shape (k,), optional
        F(x), if it is known: "forward" needs it, and so does a column at the domain's edge.
    admissible : callable, optional
        Whether F may be evaluated at a point.  A column that can not be taken from both sides is
        taken from one: "central" keeps its order with the three-point formula, at x, one and two
        steps away.
    components : boolean array, shape (n,), optional
        Which columns to compute; the others are left out.

    Returns
    -------
    array, shape (k, n) or (k, number of `components`)

    Raises
    ------
    NoDifferenceQuotient
        A ``ValueError``, if `admissible` refuses a column from both sides.
    ValueError
        If a step is not positive, or `method` unknown.
    """
    x = np.asarray(x, dtype=float)
    if not (step >= 0 and floor >= 0 and step + floor > 0):
        raise ValueError(
            f"step and floor must be >= 0 and not both 0, got step = {step!r}, floor = {floor!r}"
        )
    if method not in ("central", "forward"):
        raise ValueError(f"method must be 'central' or 'forward', got {method!r}")
    f0 = value
    columns = []
    for j in np.arange(x.size) if components is None else np.flatnonzero(components):
        h = max(step * abs(x[j]), floor)
        if h == 0:
            raise ValueError(f"component {j} is 0, and so is the floor of its step")
        unit = np.where(np.arange(x.size) == j, h, 0.0)
        if method == "central" and _inside(admissible, x + unit, x - unit):
            # Divided by the distance of the points as they were rounded.
            columns.append((F(x + unit) - F(x - unit)) / ((x + unit)[j] - (x - unit)[j]))
            continue
        for side in (unit, -unit):
            near, far = x + side, x + 2 * side
            if _inside(admissible, near) and (method == "forward" or _inside(admissible, far)):
                break
        else:
            raise NoDifferenceQuotient(
                f"no difference quotient in component {j} stays in the domain at x = {x}"
            )
        f0 = F(x) if f0 is None else f0
        slope = (F(near) - f0) / (near[j] - x[j])
        if method == "central":
            slope = 2 * slope - (F(far) - f0) / (far[j] - x[j])
        columns.append(slope)
    return np.stack(columns, axis=1)


def _inside(admissible: Callable[[Vector], bool] | None, *points: Vector) -> bool:
    return admissible is None or all(admissible(point) for point in points)
