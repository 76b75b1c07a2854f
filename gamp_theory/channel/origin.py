"""The solution Q = 0: every average is a Gaussian integral in two dimensions (section 5).

At Q = 0 the fields vanish, and so does the prox, as long as no teacher draw has its global
minimum elsewhere (docs/theory.md, section 5).  Around it the prox is linear, and all that the
state evolution needs is ``B = H (I + V H)^-1`` with the Hessian of the loss at ``h = 0``::

    H = -(sigma**2/2) [[t_1, -S/2], [-S/2, t_2]],   S = t_1 + t_2
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gamp_theory.channel.base import ChannelAverages
from gamp_theory.mechanisms import softmax_contrasts
from gamp_theory.model import AttentionModel

__all__ = [
    "OriginSolution",
    "instability_bound",
    "origin_averages",
    "origin_exists",
    "solve_origin",
]

Vector = NDArray[np.float64]

FIRST_STEP = 0.5  # of the trapezoid rule, in standard deviations; measured for sigma <= 1/2
REFINEMENT = 0.75
LEVELS = 12  # steps from 0.5 down to 0.021: 2e5 nodes
CUT = 1e-18  # density at the edge of the grid
NEAREST = 1e-9  # relative distance from the bound that still counts as below it
LARGEST_V = 1e12  # looked at where there is neither a bound nor a ridge


@dataclass(frozen=True)
class OriginSolution:
    """The solution of the state evolution with Q = 0, if there is one.

    Attributes
    ----------
    exists : bool
        Whether ``V`` solves the equations with no draw's global prox away from 0.
    V : float
        The solution with the smaller response, the one with ``growth["q"] < 1``; NaN if none.
    V_error : float
        Error bar of `V`.
    other_V : float or None
        The second solution, where there are two: its growth rate in q is above 1.
    bound : float
        V from which on the origin is no longer the global prox of every draw.
    averages, errors : ChannelAverages or None
        Averages per unit alpha at `V`, and estimates of their absolute errors.
    growth : dict
        Eigenvalues of the linearised map at Q = 0, by direction: ``q``, ``m`` and ``theta``.  The
        one in V equals that in q, which is also the replicon.
    train_loss, test_error : float
        ``alpha E l(0; y)`` and ``E l(0; y)``; NaN where the solution does not exist.
    """

    exists: bool
    V: float
    V_error: float
    other_V: float | None
    bound: float
    averages: ChannelAverages | None
    errors: ChannelAverages | None
    growth: dict[str, float]
    train_loss: float
    test_error: float


def instability_bound(model: AttentionModel) -> float:
    """V from which on some teacher draw has its global prox away from the origin.

    ``V (sigma**2/4) (S + sqrt((t_1 - t_2)**2 + S**2)) < 1`` for all attainable contrasts t.  The
    bracket is convex in t, and the closure of the attainable t is the triangle with corners
    ``(1 - omega) v + omega a``, ``v = (1, 1), (1, -1), (-1, 1)``: its supremum is at a corner.
    The condition is local, and for this loss sufficient (docs/theory.md, section 5).

    Returns
    -------
    float
        Infinite if no draw is ever unstable (a purely positional target that repels).
    """
    corners = np.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0]])
    t = (1 - model.omega) * corners + model.omega * np.array(model.target.contrasts)
    total = t.sum(axis=1)
    strongest = float((total + np.hypot(t[:, 0] - t[:, 1], total)).max())
    # Where t_1 = t_2 < 0 the bracket is 0, up to rounding.
    return 4 / (model.rho * strongest) if strongest > 1e-15 else math.inf


def origin_exists(model: AttentionModel, V: float) -> bool:
    """Whether the prox of ``w = 0`` is 0 for every teacher draw, at response `V`."""
    return 0 <= V < instability_bound(model)


def origin_averages(
    model: AttentionModel, V: float, tol: float = 1e-10
) -> tuple[ChannelAverages, ChannelAverages]:
    """Channel averages at ``q = m = theta = 0``, per unit of alpha.

    ``prox = 0`` and ``g = 0``, so only ``V_hat = E tr B``, the losses and the slopes of m_hat and
    theta_hat are not zero: off the origin ``g = -B w``.

    Parameters
    ----------
    model : AttentionModel
        Two tokens, rank one.
    V : float
        Response, in ``[0, instability_bound(model))``.
    tol : float
        Error asked for, relative to the natural scale of each average.

    Returns
    -------
    averages, errors : ChannelAverages
        Values and estimates of their absolute errors.

    Raises
    ------
    ValueError
        If `V` is out of range, where the prox of some draw is not 0.
    """
    _check_response(model, V)
    rho = model.rho
    totals, errors = _refined(
        model, lambda draws: _averages(draws, V), tol, V, scales=(rho, rho, rho, rho, 1.0)
    )
    values, bars = (
        ChannelAverages(0.0, 0.0, V_hat, 0.0, loss, loss_omega, m_slope, theta_slope)
        for V_hat, loss, loss_omega, m_slope, theta_slope in (totals.tolist(), errors.tolist())
    )
    return values, bars


def solve_origin(
    model: AttentionModel, alpha: float, lam: float, tol: float = 1e-10
) -> OriginSolution:
    """Solve the state evolution at Q = 0 and linearise it there.

    V solves ``f(V) = lam V/sigma**2 + alpha V E tr B(V) - 1 = 0``.  ``f(0) = -1`` and f is concave
    (docs/theory.md, section 5): below the bound there are two solutions, one or none, and none is
    missed.

    Parameters
    ----------
    model : AttentionModel
        Two tokens, rank one.
    alpha : float
        Sample ratio, positive.
    lam : float
        Ridge, non-negative.
    tol : float
        Relative accuracy of the averages, and of `V` where f is not nearly flat.

    Raises
    ------
    ValueError
        If `alpha` or `lam` is out of range.
    """
    if not (math.isfinite(alpha) and alpha > 0):
        raise ValueError(f"alpha must be positive and finite, got {alpha!r}")
    if not (math.isfinite(lam) and lam >= 0):
        raise ValueError(f"lam must be >= 0 and finite, got {lam!r}")
    bound = instability_bound(model)

    def excess(V: float) -> tuple[float, float, float]:
        """``f, df/dV`` and the error of f."""
        (trace, slope), (error, _) = _refined(
            model, lambda draws: _traces(draws, V), tol, V, scales=(1.0, 1.0)
        )
        # V E tr B = E sum u/(1 + u), u = V eig(H); V times its derivative = E sum u/(1 + u)**2
        ridge = lam * V / model.rho
        return ridge + alpha * trace - 1, ridge + alpha * slope, alpha * error

    roots = _concave_roots(lambda V: excess(V)[:2], bound, lam, model.rho)
    if not roots:
        nan = math.nan
        nothing = dict.fromkeys(("q", "m", "theta"), nan)
        return OriginSolution(False, nan, nan, None, bound, None, None, nothing, nan, nan)
    V = roots[0]
    residual, slope, error = excess(V)
    averages, errors = origin_averages(model, V, tol)
    return OriginSolution(
        exists=True,
        V=V,
        V_error=V * (abs(residual) + error) / abs(slope) if slope else math.inf,
        other_V=roots[1] if len(roots) > 1 else None,
        bound=bound,
        averages=averages,
        errors=errors,
        growth={
            "q": alpha * _contraction(model, V, tol),
            "m": alpha * averages.m_slope * V / model.rho,
            "theta": alpha * averages.theta_slope * V * model.rho,
        },
        train_loss=alpha * averages.loss,
        test_error=averages.loss,
    )


@dataclass(frozen=True, eq=False)
class _Draws:
    """Nodes of the teacher's fields, with what depends on them alone.

    Attributes
    ----------
    weight : array, shape (n,)
        They sum to 1.
    y : array, shape (2, n)
        Fields in units of sigma.
    t : array, shape (2, n)
        Target contrasts.
    slope : array, shape (2, n)
        Their derivatives by omega.
    c : float
        ``sigma**2/2``.
    """

    weight: Vector
    y: Vector
    t: Vector
    slope: Vector
    c: float


def _averages(draws: _Draws, V: float) -> Vector:
    """``V_hat``, ``E l``, ``E d l/d omega``, and the slopes of m_hat and theta_hat."""
    b11, b12, b22 = _resolvent(draws, V)
    y1, y2 = draws.y
    rows = np.stack(
        [
            b11 + b22,
            0.5 * draws.c * (draws.t**2).sum(axis=0),
            draws.c * (draws.t * draws.slope).sum(axis=0),
            2 * b12 - b11 - b22,
            (b11 * (1 - y1**2) + b22 * (1 - y2**2) - 2 * b12 * y1 * y2) / (2 * draws.c),
        ]
    )
    return rows @ draws.weight


def _traces(draws: _Draws, V: float) -> Vector:
    """``E sum_i u_i/(1 + u_i)`` and ``E sum_i u_i/(1 + u_i)**2``, with ``u = V eig(H)``."""
    b11, b12, b22 = (V * b for b in _resolvent(draws, V))
    # u/(1 + u)**2 = v - v**2 for v = u/(1 + u), the eigenvalues of V B
    square = b11**2 + 2 * b12**2 + b22**2
    return np.stack([b11 + b22, b11 + b22 - square]) @ draws.weight


def _contraction(model: AttentionModel, V: float, tol: float) -> float:
    """``E |V B|_F**2``: per unit of alpha, the growth rate of q (docs/theory.md, section 5)."""

    def square(draws: _Draws) -> Vector:
        b11, b12, b22 = (V * b for b in _resolvent(draws, V))
        return np.array([(b11**2 + 2 * b12**2 + b22**2) @ draws.weight])

    (total,), _ = _refined(model, square, tol, V, scales=(1.0,))
    return float(total)


def _resolvent(draws: _Draws, V: float) -> tuple[Vector, Vector, Vector]:
    """Entries 11, 12 and 22 of ``B = H (I + V H)^-1``, each of shape (n,)."""
    t1, t2 = draws.t
    h11, h12, h22 = -draws.c * t1, 0.5 * draws.c * (t1 + t2), -draws.c * t2
    minors = h11 * h22 - h12**2
    determinant = 1 + V * (h11 + h22) + V**2 * minors
    return (h11 + V * minors) / determinant, h12 / determinant, (h22 + V * minors) / determinant


def _refined(
    model: AttentionModel,
    average: Callable[[_Draws], Vector],
    tol: float,
    V: float,
    scales: tuple[float, ...],
) -> tuple[Vector, Vector]:
    """Refine until two rules agree to `tol`; the last value, and how far the one before is off.

    The integrands are analytic: the trapezoid rule converges faster than any power, and the
    difference is an estimate of the error of the coarser of the two.
    """
    if not tol > 0:
        raise ValueError(f"tol must be positive, got {tol!r}")
    margin = 1 - V / instability_bound(model)
    cut = math.sqrt(-2 * math.log(CUT * max(margin, NEAREST)))
    # The poles of the contrasts approach the real axis like 1/sigma**2, and no closer than this
    # for small sigma.
    first = FIRST_STEP / max(1.0, 4 * model.rho)
    scale = np.array(scales)
    rounding = 4 * np.finfo(float).eps / max(margin, NEAREST)  # I + V H is that close to singular
    value = average(_draws(model, first, cut))
    error = np.full(value.shape, math.inf)
    for level in range(1, LEVELS):
        finer = average(_draws(model, first * REFINEMENT**level, cut))
        error = abs(finer - value) + rounding * scale
        value = finer
        if np.all(error <= np.maximum(tol * np.maximum(scale, abs(value)), 2 * rounding * scale)):
            break
    return value, error


@lru_cache(maxsize=16)
def _draws(model: AttentionModel, step: float, cut: float) -> _Draws:
    """Trapezoid nodes in ``(y_1 -+ y_2)/(sqrt(2) sigma)``; half of them, all being even in y."""
    half = math.floor(cut / step - 0.5) + 1
    line = (np.arange(-half, half) + 0.5) * step
    u, v = (x.ravel() for x in np.meshgrid(line[half:], line, indexing="ij"))
    inside = u**2 + v**2 <= cut**2
    u, v = u[inside], v[inside]
    weight = np.exp(-0.5 * (u**2 + v**2))
    y = np.stack([v + u, v - u]) * math.sqrt(0.5)
    contrasts = softmax_contrasts(model.sigma * y.T).T
    a = np.array(model.target.contrasts)[:, None]
    return _Draws(
        weight=weight / weight.sum(),
        y=y,
        t=(1 - model.omega) * contrasts + model.omega * a,
        slope=a - contrasts,
        c=0.5 * model.rho,
    )


def _check_response(model: AttentionModel, V: float) -> None:
    bound = instability_bound(model)
    if not 0 <= V < bound:
        raise ValueError(
            f"V must lie in [0, {bound:.6g}), where the prox at w = 0 is 0 for all draws, got {V!r}"
        )


def _concave_roots(
    f: Callable[[float], tuple[float, float]], bound: float, lam: float, rho: float
) -> list[float]:
    """Roots in ``(0, bound)`` of a concave function with ``f(0) = -1``, in increasing order.

    `f` returns the value and V times the derivative.
    """
    end = bound * (1 - NEAREST)
    if math.isinf(bound):
        # No eigenvalue is negative: f increases, and f >= lam V/sigma**2 - 1.
        end = 2 * rho / lam if lam > 0 else LARGEST_V
    value, slope = f(end)
    if value >= 0:
        return [_root(lambda V: f(V)[0], 0.0, end)]
    start = NEAREST * end
    if slope >= 0 or f(start)[1] <= 0:
        return []  # concave and monotone: f < 0 throughout
    top = _root(lambda V: f(V)[1], start, end)
    if f(top)[0] < 0:
        return []
    return [_root(lambda V: f(V)[0], 0.0, top), _root(lambda V: f(V)[0], top, end)]


def _root(f: Callable[[float], float], lo: float, hi: float) -> float:
    from scipy.optimize import brentq  # a third of a second, which other starts can do without

    return float(brentq(f, lo, hi, xtol=1e-300, rtol=4 * np.finfo(float).eps))
