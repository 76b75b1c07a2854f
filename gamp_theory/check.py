"""The second opinion: a fixed point recomputed by an independent rule."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gamp_theory.channel.sobol import sobol_averages
from gamp_theory.prior import prior_map
from gamp_theory.state_evolution import FixedPoint

__all__ = ["Difference", "check_point"]

#: Agreement means a difference within this many combined errors.
SIGMAS = 4.0
#: What rounding can leave of an overlap, in its natural unit.
ROUNDING = 1e-13


@dataclass(frozen=True)
class Difference:
    """What the independent rule finds, minus what the fixed point says.

    Attributes
    ----------
    difference : float
    standard_error : float
        Of the independent rule.
    error : float
        Error bar of the fixed point.
    """

    difference: float
    standard_error: float
    error: float

    @property
    def agrees(self) -> bool:
        """Whether the difference is within four combined errors."""
        return abs(self.difference) <= SIGMAS * math.hypot(self.standard_error, self.error)


def check_point(
    point: FixedPoint, samples: int = 2**13, scrambles: int = 16, seed: int = 0
) -> dict[str, Difference]:
    """Recompute one map at a fixed point by randomised Sobol with a global prox.

    Nothing is shared with the rules that solved it.  For each overlap the difference is that of
    the map from the identity; at Q = 0 there is nothing to average over the student's fields and
    the answer is empty.

    Parameters
    ----------
    point : FixedPoint
    samples, scrambles : int
        Points per scramble, a power of two, and independent scrambles.
    seed : int

    Returns
    -------
    dict
        Keys q, m, V, theta, train_loss, test_error.
    """
    if point.overlaps is None or point.overlaps.q == 0:
        return {}
    x = point.overlaps
    model, alpha, lam = point.model, point.alpha, point.lam
    estimate = sobol_averages(model, x, samples=samples, scrambles=scrambles, seed=seed)

    def outputs(averages: NDArray[np.float64]) -> NDArray[np.float64]:
        overlaps = prior_map(model.rho, alpha * averages[:4], lam)
        loss = alpha * averages[4] + lam * x.q / (2 * model.rho)
        return np.append(overlaps, loss)

    found = estimate.averages.as_array()
    known = np.append(x.as_array(), point.train_loss)
    covariance = estimate.covariance[:-1, :-1]
    slopes = np.empty((5, found.size))
    for j in range(found.size):
        step = np.zeros(found.size)
        step[j] = 1e-6 * max(abs(found[j]), math.sqrt(covariance[j, j]))
        if step[j] == 0:
            slopes[:, j] = 0
        else:
            slopes[:, j] = (outputs(found + step) - outputs(found - step)) / (2 * step[j])
    spread = np.sqrt(np.diag(slopes @ covariance @ slopes.T))
    # what vanishes by symmetry does so up to rounding, in both senses
    root = math.sqrt(x.q)
    units = np.array([x.q, root, x.V, root * math.sqrt(model.rho), abs(point.train_loss)])
    spread = np.maximum(spread, ROUNDING * units)
    difference = outputs(found) - known
    result = {
        name: Difference(float(d), float(s), getattr(point.errors, name))
        for name, d, s in zip(
            ("q", "m", "V", "theta", "train_loss"), difference, spread, strict=True
        )
    }
    result["test_error"] = Difference(
        estimate.test_error - point.test_error,
        estimate.test_error_standard_error,
        point.errors.test_error,
    )
    return result
