"""The training loss as a function of the overlaps: which fixed points are minima, which saddles.

Eliminating the conjugates from the free entropy leaves a function of (q, m, V, theta), and
maximising it over V leaves the least training loss of a student with overlaps (q, m, theta)
(docs/theory.md, section 6).  A fixed point is a minimum if the Hessian there is positive.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gamp_theory.channel.base import ChannelAverages
from gamp_theory.channel.pair import PairChannel
from gamp_theory.model import AttentionModel
from gamp_theory.overlaps import Overlaps
from gamp_theory.result import FixedPoint

__all__ = ["Curvature", "curvature", "reduced_loss"]

Matrix = NDArray[np.float64]
#: Difference step in units of :func:`_units`, and its largest share of ``q - theta**2/rho``.
STEP = 0.02
#: Relative error that the rule leaves, measured against C (1 - J): 8e-4, with coarser planes 2e-2.
RULE_ERROR = 2e-3
ORDER = (0, 1, 3)  # of q, m, theta


@dataclass(frozen=True, eq=False)
class Curvature:
    """Second derivatives of the training loss in the overlaps, at a fixed point.

    Attributes
    ----------
    hessian : array, shape (4, 4)
        Of :func:`reduced_loss` in (q, m, V, theta).
    error : array, shape (4, 4)
        Estimated errors of its entries.
    constrained : array, shape (3, 3)
        Hessian in (q, m, theta) of the loss maximised over V.
    eigenvalues : array, shape (3,)
        Of `constrained` in the natural units ``q, sqrt(q/rho), sqrt(rho q)``, increasing.
    eigenvalue_error : float
        What they may be off by.
    index : int
        How many of them are negative: directions of descent.
    kind : {"minimum", "saddle", "undecided"}
        Undecided where an eigenvalue is within its error of 0.
    """

    hessian: Matrix
    error: Matrix
    constrained: Matrix
    eigenvalues: NDArray[np.float64]
    eigenvalue_error: float
    index: int
    kind: Literal["minimum", "saddle", "undecided"]


def reduced_loss(
    model: AttentionModel, overlaps: Overlaps, mean_envelope: float, alpha: float, lam: float
) -> float:
    """``-Phi`` with the conjugates eliminated, a function of the overlaps alone (6.6).

    ``alpha E M + lam q/(2 rho) - (q - rho m**2 - theta**2/rho)/(2 V)``: stationary exactly at the
    fixed points, and concave in 1/V.

    Parameters
    ----------
    model : AttentionModel
    overlaps : Overlaps
    mean_envelope : float
        ``E M`` at `overlaps`, per sample.
    alpha, lam : float
    """
    x, rho = overlaps, model.rho
    beyond = x.q - rho * x.m**2 - x.theta**2 / rho
    return alpha * mean_envelope + lam * x.q / (2 * rho) - beyond / (2 * x.V)


def curvature(point: FixedPoint, quadrature_tol: float = 1e-6) -> Curvature:
    """Hessian of the training loss in the overlaps, by differences on a frozen rule.

    Parameters
    ----------
    point : FixedPoint
        Converged, with q > 0.  (At Q = 0 the loss has no second derivative in q; the growth rates
        decide.)
    quadrature_tol : float
        Accuracy of the rule that is frozen.  The plane rule is taken wherever it can be made: what
        it may leave out is small and smooth.

    Raises
    ------
    ValueError
        If the point has no overlaps or q = 0.
    """
    if point.overlaps is None or point.overlaps.q == 0:
        raise ValueError(f"curvature needs a fixed point with q > 0, got {point!r}")
    x = point.overlaps.as_array()
    model = point.model
    inside = x != 0
    rule = PairChannel(model).rule(point.overlaps, quadrature_tol, checked=False)

    def loss(z: NDArray[np.float64]) -> float:
        at = Overlaps.from_array(z)
        envelope = rule.averages(at).envelope(at.V)
        return reduced_loss(model, at, envelope, point.alpha, point.lam)

    units = _units(model, point.overlaps)
    steps = STEP * units
    gap = x[0] - x[3] ** 2 / model.rho
    steps[0] = min(steps[0], STEP * gap)
    if x[3]:
        steps[3] = min(steps[3], STEP * gap * model.rho / abs(2 * x[3]))
    centre = loss(x)
    outside = _outside(point, rule.averages(point.overlaps))
    single, double = (
        np.where(inside, _second_differences(loss, x, k * steps, inside, centre), outside)
        for k in (1, 2)
    )
    hessian = (4 * single - double) / 3
    # Richardson's step corrects `single` by this; what remains of it is smaller
    error = abs(single - double) / 3 + RULE_ERROR * abs(hessian)
    constrained = _schur(hessian)
    scale = units[list(ORDER)]
    scaled = constrained * np.outer(scale, scale)
    eigenvalues = np.linalg.eigvalsh(scaled)
    off = float(np.linalg.norm(_schur(single) * np.outer(scale, scale) - scaled))
    off += RULE_ERROR * float(abs(scaled).max())
    index = int((eigenvalues < 0).sum())
    decided = bool(np.all(abs(eigenvalues) > off)) and hessian[2, 2] < 0
    return Curvature(
        hessian=hessian,
        error=error,
        constrained=constrained,
        eigenvalues=np.asarray(eigenvalues, dtype=float),
        eigenvalue_error=off,
        index=index,
        kind="undecided" if not decided else "saddle" if index else "minimum",
    )


def _units(model: AttentionModel, overlaps: Overlaps) -> NDArray[np.float64]:
    q, rho = overlaps.q, model.rho
    return np.array([q, math.sqrt(q / rho), overlaps.V, math.sqrt(rho * q)])


def _second_differences(
    f: Callable[[NDArray[np.float64]], float],
    x: NDArray[np.float64],
    steps: NDArray[np.float64],
    inside: NDArray[np.bool_],
    centre: float,
) -> Matrix:
    """Central differences in the components `inside`; 0 elsewhere."""
    H = np.zeros((4, 4))
    moves = steps * np.eye(4)
    for i in np.flatnonzero(inside):
        H[i, i] = (f(x + moves[i]) - 2 * centre + f(x - moves[i])) / steps[i] ** 2
        for j in np.flatnonzero(inside[:i]):
            both, across = moves[i] + moves[j], moves[i] - moves[j]
            corners = f(x + both) - f(x + across) - f(x - across) + f(x - both)
            H[i, j] = H[j, i] = corners / (4 * steps[i] * steps[j])
    return H


def _outside(point: FixedPoint, averages: ChannelAverages) -> Matrix:
    """Second derivatives in m and theta where they are 0: the loss is even, they mix with none."""
    assert point.overlaps is not None
    alpha, rho, V = point.alpha, point.model.rho, point.overlaps.V
    return np.diag(
        [
            0.0,
            rho / V - alpha * averages.m_slope,
            0.0,
            1 / (rho * V) - alpha * averages.theta_slope,
        ]
    )


def _schur(hessian: Matrix) -> Matrix:
    """Hessian in (q, m, theta) after maximising over V."""
    order = list(ORDER)
    mixed = hessian[order, 2]
    return hessian[np.ix_(order, order)] - np.outer(mixed, mixed) / hessian[2, 2]
