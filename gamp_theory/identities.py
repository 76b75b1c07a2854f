"""Identities that hold at every fixed point: call them on any result of `solve`.

They test more than that two formulas agree: the two forms of the training loss agree for wrong
conjugates too, these do not (docs/theory.md, section 2).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gamp_theory.channel.contraction import contraction
from gamp_theory.channel.pair import PairChannel
from gamp_theory.observables import free_entropy, loss_slopes
from gamp_theory.overlaps import Conjugates, Overlaps
from gamp_theory.state_evolution import FixedPoint, solve

__all__ = ["Comparison", "jump_mass", "stationarity", "train_loss_slopes"]

NAMES = ("q", "m", "V", "theta")
#: Relative step of the central differences in the overlaps, and in alpha, lam and omega.
OVERLAP_STEP = 1e-3
PARAMETER_STEP = 1e-2


@dataclass(frozen=True)
class Comparison:
    """Two ways to one number.

    Attributes
    ----------
    direct, other : float
        The two values.
    scale : float
        Natural size of the terms they are made of.
    """

    direct: float
    other: float
    scale: float

    @property
    def relative(self) -> float:
        """Difference in units of the scale."""
        return abs(self.direct - self.other) / self.scale


def stationarity(point: FixedPoint, quadrature_tol: float = 1e-7) -> dict[str, Comparison]:
    """``dPhi/dx = 0`` for each overlap, at fixed conjugates and other overlaps.

    Central differences of the free entropy on a frozen rule, against 0; the scale is the
    conjugate term, ``|q_hat V/2|`` and so on.  Overlaps that are 0 by symmetry are left out.

    Parameters
    ----------
    point : FixedPoint
    quadrature_tol : float
        Accuracy of the rule that is frozen.
    """
    overlaps, hats = _solved(point)
    rule = PairChannel(point.model).rule(overlaps, quadrature_tol)
    x = overlaps.as_array()
    h = hats.as_array()
    scales = np.abs([h[2] * x[0] / 2, h[1] * x[1], h[0] * x[2] / 2, h[3] * x[3]])

    def phi(z: NDArray[np.float64]) -> float:
        at = Overlaps.from_array(z)
        envelope = rule.averages(at).envelope(at.V)
        return free_entropy(point.model, hats, envelope, at, point.alpha, point.lam)

    result = {}
    for j in np.flatnonzero(x):
        step = np.zeros(4)
        step[j] = OVERLAP_STEP * x[j]
        if j in (0, 3):  # q - theta^2/rho, not q, is the scale on which the average changes
            step[j] *= min(1.0, 1 - x[3] ** 2 / (point.model.rho * x[0]))
        # two central differences and Richardson: an error of fourth order in the step
        single = (phi(x + step) - phi(x - step)) / (2 * step[j])
        double = (phi(x + 2 * step) - phi(x - 2 * step)) / (4 * step[j])
        slope = (4 * single - double) / 3
        result[NAMES[j]] = Comparison(slope * x[j], 0.0, scales[j])
    return result


def train_loss_slopes(point: FixedPoint, tol: float = 1e-7) -> dict[str, Comparison]:
    """``d eps_t`` along alpha, lam and omega: closed forms against re-converged differences.

    ``d eps_t/d alpha = E M``, ``d eps_t/d lam = q/(2 sigma**2)``, ``d eps_t/d omega = alpha E
    d loss/d omega``, at a fixed point only.

    Parameters
    ----------
    point : FixedPoint
    tol : float
        Accuracy of the four solves per parameter.

    Raises
    ------
    gamp_theory.ConvergenceError
        If one of them fails.
    """
    overlaps, _ = _solved(point)
    assert point.averages is not None
    closed = loss_slopes(point.model, point.averages, overlaps, point.alpha)
    result = {}
    for name, value in (("alpha", point.alpha), ("lam", point.lam), ("omega", point.model.omega)):
        # omega may be 0; the others have no scale but their own
        step = PARAMETER_STEP * (max(value, 0.1) if name == "omega" else value)
        losses = [
            _resolved(point, name, value + k * step, overlaps, tol).train_loss
            for k in (-2, -1, 1, 2)
        ]
        slope = (losses[0] - 8 * losses[1] + 8 * losses[2] - losses[3]) / (12 * step)
        result[name] = Comparison(closed[name], slope, abs(closed[name]))
    return result


def jump_mass(point: FixedPoint) -> Comparison:
    """``J`` summed over the jumps, against ``(V/alpha) (V_hat pointwise - V_hat Stein)``."""
    overlaps, hats = _solved(point)
    regular = contraction(point.model, overlaps)
    other = overlaps.V * (regular.slope - hats.V_hat / point.alpha)
    return Comparison(regular.jump_mass, other, overlaps.V * abs(regular.slope))


def _solved(point: FixedPoint) -> tuple[Overlaps, Conjugates]:
    if point.overlaps is None or point.conjugates is None or point.overlaps.q == 0:
        raise ValueError(f"identities need a solved fixed point with q > 0, got {point!r}")
    return point.overlaps, point.conjugates


def _resolved(
    point: FixedPoint, name: str, value: float, start: Overlaps, tol: float
) -> FixedPoint:
    """The same branch at a parameter moved a little."""
    model, alpha, lam = point.model, point.alpha, point.lam
    if name == "omega":
        model = model.with_parameters(omega=value)
    elif name == "alpha":
        alpha = value
    else:
        lam = value
    return solve(model, alpha, lam, start, tol, with_stability=False)
