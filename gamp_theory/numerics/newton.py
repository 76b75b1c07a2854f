"""Roots of a few smooth equations: Newton's method with one Jacobian, kept up to date by Broyden.

For functions that cost much more than linear algebra, and guesses that are good.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gamp_theory.numerics.differences import jacobian as difference_jacobian

__all__ = ["NewtonResult", "chord_newton"]

Vector = NDArray[np.float64]

#: Last step that is as good as none; and one that is good enough where steps no longer shrink.
SMALL = 1e-10
SMALL_ENOUGH = 1e-7
STAGNANT = 0.3
#: Growth of the step that ends the search.
GROWTH = 10.0


@dataclass(frozen=True, eq=False)
class NewtonResult:
    """A root.

    Attributes
    ----------
    x : array, shape (n,)
    jacobian : array, shape (n, n)
        At the guess, updated on the way.
    last_step : float
        Largest component of the last step: the error that is left is far smaller.
    evaluations : int
        Of the function, difference quotients included.
    """

    x: Vector
    jacobian: Vector
    last_step: float
    evaluations: int


def chord_newton(
    F: Callable[[Vector], Vector],
    x: Vector,
    *,
    slope: Vector | None = None,
    step: float = 1e-5,
    most: int = 12,
    largest: float = 1.0,
) -> NewtonResult | None:
    """A root of n equations for n unknowns near `x`; None if there is none to be found.

    Parameters
    ----------
    F : callable
        Maps a vector of shape (n,) to one of shape (n,); not finite outside its domain.
    x : array, shape (n,)
        A good guess.
    slope : array, shape (n, n), optional
        The Jacobian near `x`; by forward differences at `x` if it is not given.
    step : float
        Of these differences.
    most : int
        Newton steps.
    largest : float
        Component of a step beyond which the guess was not good.
    """
    evaluations = 0

    def counted(z: Vector) -> Vector:
        nonlocal evaluations
        evaluations += 1
        return F(z)

    value = counted(x)
    if not np.all(np.isfinite(value)):
        return None
    if slope is None:
        slope = difference_jacobian(counted, x, 0.0, floor=step, method="forward", value=value)
    if not np.all(np.isfinite(slope)):
        return None
    last = math.inf
    for _ in range(most):
        try:
            change = np.linalg.solve(slope, -value)
        except np.linalg.LinAlgError:
            return None
        size = float(np.max(np.abs(change)))
        if size > largest or size > GROWTH * last:
            return None
        if size == 0:
            return NewtonResult(x, slope, 0.0, evaluations)
        x = x + change
        value = counted(x)
        if not np.all(np.isfinite(value)):
            return None
        if size < SMALL or (size < SMALL_ENOUGH and size > STAGNANT * last):
            return NewtonResult(x, slope, size, evaluations)  # rounding would spoil an update
        slope = slope + np.outer(value, change) / (change @ change)
        last = size
    return None
