"""The origin Q = 0: its response, growth rates, where they reach 1 and where it ceases to exist."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gamp_theory.expansions.fields import (
    DIRECTIONS,
    FIRST_STEP,
    LEVELS,
    REFINEMENT,
    TOL,
    bracketed_root,
    by_direction,
    check_positive,
    integrate,
    loss_expression,
    teacher_nodes,
)
from gamp_theory.model import AttentionModel

__all__ = ["OriginExpansion", "OriginOnset", "expand_origin", "origin_bound", "origin_onsets"]

Vector = NDArray[np.float64]

LEAST_DENSITY = 1e-21  # at the edge of a grid, times what the integrand may grow by
WIDEST = 37.0  # standard deviations: there the density is 1e-297
MOST_NODES = 2e6
LARGEST_VARIANCE = 0.4  # up to which averages at the bound itself are taken
#: Closest to the bound that rates are looked at, relative.
MARGIN = 1e-12
SCAN = 48  # intervals of the response in which a rate may cross 1


@dataclass(frozen=True)
class OriginExpansion:
    """The solution Q = 0 and the map linearised around it (docs/theory.md, section 5).

    Attributes
    ----------
    alpha, lam : float
    V : float
        Response.
    growth, growth_error : dict
        Factors by which one step of the map multiplies a small q, m or theta, and their error
        estimates, that of V included.  The one in q is the replicon.
    train_loss, test_error : float
        ``alpha E l(0; y)`` and ``E l(0; y)``.
    V_error : float
    """

    alpha: float
    lam: float
    V: float
    V_error: float
    growth: dict[str, float]
    growth_error: dict[str, float]
    train_loss: float
    test_error: float


@dataclass(frozen=True)
class OriginOnset:
    """A sample ratio at which Q = 0 changes.

    Attributes
    ----------
    kind : {"m", "theta", "fold", "bound"}
        A growth rate reaches 1 (``m``, ``theta``: a branch bifurcates); that of q reaches 1, where
        the two solutions Q = 0 meet and both cease to exist (``fold``); or the response reaches the
        value from which on some draw has its prox elsewhere (``bound``): there the solution ends,
        or, where the target repels and V falls with alpha, begins.
    alpha, alpha_error : float
        The sample ratio, with the error of the average propagated.
    V : float
        Response there.
    growth : dict
        All three growth rates there; that of q is infinite at a bound where its integral diverges.
    """

    kind: Literal["m", "theta", "fold", "bound"]
    alpha: float
    alpha_error: float
    V: float
    growth: dict[str, float]


def origin_bound(model: AttentionModel) -> float:
    """Response from which on Q = 0 is not the global prox of every draw (equation 5.1).

    The smallest V at which ``det(I + V H) = 0`` for contrasts in the closure of the attainable
    ones, a triangle.  The lower eigenvalue of H is concave in the contrasts, so a corner decides.

    Returns
    -------
    float
        Infinite if H is never negative.
    """
    return _nearest_corner(model)[1]


def expand_origin(model: AttentionModel, alpha: float, lam: float) -> OriginExpansion | None:
    """The solution Q = 0 at one point, with growth rates.

    ``lam V/sigma**2 + alpha V E tr B = 1`` with ``B = H (I + V H)^-1``; the smaller root, the one
    whose growth rate in q is below 1.

    Returns
    -------
    OriginExpansion or None
        None where it does not exist.

    Raises
    ------
    ValueError
        Unless `alpha` and `lam` are positive and finite.
    """
    check_positive(alpha=alpha, lam=lam)
    integrals = _OriginIntegrals(model)

    def excess(V: float) -> float:
        return lam * V / model.rho + alpha * integrals(V)[0][0] - 1

    # Concave, from -1: a fold is where its slope, (1 - kappa)/V, vanishes.
    top = bracketed_root(
        lambda V: 1 - alpha * integrals(V)[0][1],
        *_interval(integrals, lam),
    )
    end = top if top is not None else _interval(integrals, lam)[1]
    if excess(end) < 0:
        return None
    V = bracketed_root(excess, 1e-12 * end, end)
    if V is None:
        return None
    values, errors = integrals(V)
    slope = (1 - alpha * values[1]) / V
    V_error = float(alpha * errors[0] / slope + 4e-16 * V)
    step = 1e-5 * V
    change = abs(integrals(V)[0][1:4] - integrals(V - step)[0][1:4]) / step
    growth = alpha * values[1:4]
    growth_errors = alpha * (errors[1:4] + change * V_error)
    loss = float(values[4])
    return OriginExpansion(
        alpha=float(alpha),
        lam=float(lam),
        V=V,
        V_error=V_error,
        growth=by_direction(growth),
        growth_error=by_direction(growth_errors),
        train_loss=alpha * loss,
        test_error=loss,
    )


def origin_onsets(model: AttentionModel, lam: float) -> list[OriginOnset]:
    """All sample ratios at which Q = 0 bifurcates, ends or begins, in increasing order.

    The response parametrises the solutions explicitly: ``alpha(V) = (1 - lam V/sigma**2)/(V E tr
    B)``.  Along it every rate is ``alpha(V)`` times an integral, and its crossings of 1 on the part
    with a replicon below 1 are what is reached; a crossing that would come after the solution is
    lost is not in the list.

    Raises
    ------
    ValueError
        Unless `lam` is positive and finite.
    """
    check_positive(lam=lam)
    integrals = _OriginIntegrals(model)
    lo, hi = _interval(integrals, lam)

    def alpha_of(V: float) -> float:
        trace = integrals(V)[0][0]
        return (1 - lam * V / model.rho) / trace if trace else math.inf

    def rate(j: int) -> Callable[[float], float]:
        return lambda V: alpha_of(V) * integrals(V)[0][1 + j] - 1

    # alpha(V) changes sign at the ridge's own response, where it is 0, and where the trace is.
    scan = np.unique(
        np.concatenate([np.linspace(lo, hi, SCAN), hi - (hi - lo) * 2.0 ** -np.arange(6, 30)])
    )
    ridge = model.rho / lam
    if lo < ridge < hi:
        scan = np.unique(np.append(scan, [ridge * (1 - 1e-9), ridge * (1 + 1e-9)]))
    onsets = []
    for left, right in itertools.pairwise(scan):
        if not (0 < alpha_of(left) < math.inf and 0 < alpha_of(right) < math.inf):
            continue
        for j, kind in enumerate(("fold", "m", "theta")):
            V = bracketed_root(rate(j), left, right)
            if V is not None and (j == 0 or rate(0)(V) < 0):
                onsets.append(_onset(integrals, lam, kind, V))
    if math.isfinite(integrals.bound) and rate(0)(hi) < 0:
        values, _ = integrals(integrals.bound)
        trace = values[0]
        alpha = (1 - lam * integrals.bound / model.rho) / trace if trace else math.inf
        if 0 < alpha < math.inf:
            onsets.append(_onset(integrals, lam, "bound", integrals.bound))
    return sorted(onsets, key=lambda onset: onset.alpha)


def _onset(integrals: _OriginIntegrals, lam: float, kind: Any, V: float) -> OriginOnset:
    """Assemble; the error of alpha from those of the trace and of the rate that crosses."""
    values, errors = integrals(V)
    numerator = 1 - lam * V / integrals.model.rho
    alpha = numerator / values[0]
    error = alpha * (errors[0] / abs(values[0]) + 4e-16 / max(abs(numerator), 1e-300))
    if kind in ("m", "theta"):
        # the place of the crossing is off by the error of the rate over its slope
        j = 1 + DIRECTIONS.index(kind)
        step = -1e-5 * V

        def at(x: float) -> tuple[float, float]:
            v = integrals(x)[0]
            a = (1 - lam * x / integrals.model.rho) / v[0]
            return a, a * v[j]

        (a0, r0), (a1, r1) = at(V), at(V + step)
        error += abs((a1 - a0) / (r1 - r0)) * alpha * errors[j] if r1 != r0 else math.inf
    return OriginOnset(
        kind=kind,
        alpha=float(alpha),
        alpha_error=float(error),
        V=float(V),
        growth=by_direction(alpha * values[1:4]),
    )


class _OriginIntegrals:
    """The Gaussian averages at Q = 0 as functions of the response, per unit of alpha.

    Calling it gives values and errors of ``V E tr B``, the growth rates of q, m and theta over
    alpha, and ``E l(0; y)``.
    """

    def __init__(self, model: AttentionModel) -> None:
        self.model = model
        self.corner, self.bound = _nearest_corner(model)
        self._known: dict[float, tuple[Vector, Vector]] = {}

    def __call__(self, V: float) -> tuple[Vector, Vector]:
        if V not in self._known:
            self._known[V] = self._refined(V)
        return self._known[V]

    def _refined(self, V: float) -> tuple[Vector, Vector]:
        """The trapezoid rule until two steps agree: the integrands are analytic."""
        margin = 1 - V / self.bound
        variance = self.model.rho
        if margin > 0:
            cut = math.sqrt(-2 * math.log(LEAST_DENSITY * margin**2))
        elif variance < LARGEST_VARIANCE and self.model.omega < 1:
            # 1/det grows like exp(D**2/2) along y = (D, -D)/2, the density falls like exp(-D**2/(4
            # sigma**2)): the average of 1/det exists below sigma**2 = 1/2, that of 1/det**2, for
            # the rate in q, below 1/4.  Above, a fold comes before the bound.
            cut = math.sqrt(-2 * math.log(LEAST_DENSITY) / (1 - 2 * variance))
        else:
            unknown = math.nan
            values = np.array([-math.inf, math.inf, unknown, unknown, unknown])
            return values, np.full(5, math.inf)
        cut = min(cut, WIDEST)
        first = FIRST_STEP / max(1.0, 4 * variance)
        value = self._trapezoid(V, first, cut)
        error = np.full(value.shape, math.inf)
        for level in range(1, LEVELS):
            step = first * REFINEMENT**level
            if (2 * cut / step) ** 2 > MOST_NODES:
                break
            finer = self._trapezoid(V, step, cut)
            with np.errstate(invalid="ignore"):
                error = np.abs(finer - value) + 1e-15 * np.abs(finer)
            value = finer
            if margin <= 0 and 4 * variance >= 1:
                value[1], error[1] = math.inf, 0.0  # that integral diverges
            if np.all(error <= TOL * np.maximum(1.0, np.abs(value))):
                break
        return value, np.where(np.isinf(value), math.inf, error)

    def _trapezoid(self, V: float, step: float, cut: float) -> Vector:
        model = self.model
        y, weight = teacher_nodes(model.sigma, step, cut)
        y1, y2 = y
        f = _origin_functions()
        # t = corner - deficit, the deficits without cancellation: 1 - tanh x = 2/(1 + exp(2 x))
        with np.errstate(over="ignore"):
            z = np.stack([y1 * (y1 - y2) / 2, y2 * (y2 - y1) / 2])
            signs = self.corner[:, None]
            deficit = (1 - model.omega) * signs * 2 / (1 + np.exp(2 * signs * z))
            bend = (1 - model.omega) / np.cosh(np.minimum(abs(z), 350.0)) ** 2
        a = np.array(model.target.contrasts)
        c1, c2 = (1 - model.omega) * self.corner + model.omega * a
        t1, t2 = c1 - deficit[0], c2 - deficit[1]
        determinant = f.deficit(V, model.rho, c1, c2, *deficit)
        if math.isfinite(self.bound):
            determinant = determinant + f.corner(V, model.rho, c1, c2, self.bound)
        else:
            determinant = f.determinant(V, model.rho, t1, t2)
        rows = f.integrands(V, model.rho, t1, t2, y1, y2, bend[0], bend[1], determinant)
        return integrate(rows, weight)


@dataclass(frozen=True, eq=False)
class _OriginFunctions:
    """Numerical functions made from the symbolic derivation."""

    determinant: Callable
    corner: Callable
    deficit: Callable
    integrands: Callable


@lru_cache(maxsize=1)
def _origin_functions() -> _OriginFunctions:
    """B, its determinant and the linearised map at Q = 0, from the loss by differentiation."""
    import sympy as sp

    loss, h, t, rho = loss_expression()
    V, bound = sp.symbols("V V_b", positive=True)
    y = sp.symbols("y1 y2", real=True)
    bend = sp.symbols("bend1 bend2", positive=True)
    corner, deficit = sp.symbols("c1 c2", real=True), sp.symbols("d1 d2", real=True)
    D = sp.Symbol("D")  # stands for the determinant, which is computed without cancellation

    origin = dict.fromkeys(h, 0)
    gradient = sp.Matrix([loss.diff(x) for x in h])
    assert gradient.subs(origin) == sp.zeros(2, 1)
    H = sp.hessian(loss, h).subs(origin).applyfunc(sp.expand)
    matrix = sp.eye(2) + V * H
    determinant = sp.expand(matrix.det())
    # prox = (I + V H)^-1 w to first order, and g = (prox - w)/V = -B w
    numerator = (H * matrix.adjugate()).applyfunc(sp.expand)

    # t depends on y through z_k = y_k (y_k - y_k')/2, with slope `bend` = dt/dz
    z = (y[0] * (y[0] - y[1]) / 2, y[1] * (y[1] - y[0]) / 2)

    def along_y(entry: Any, l: int) -> Any:
        return sum(
            (entry.diff(t[k]) * D - entry * determinant.diff(t[k]))
            / D**2
            * bend[k]
            * z[k].diff(y[l])
            for k in range(2)
        )

    B = numerator / D
    e = sp.Matrix([1, -1])
    integrands = (
        V * B.trace(),
        # w = sqrt(q) xi: q_hat = E|g|^2, and q = V^2 q_hat
        V**2 * (B * B.T).trace(),
        # w = m (1, -1): m_hat = E (g_1 - g_2), and m = V m_hat/rho
        -V / rho * (e.T * B * e)[0],
        # theta_hat = E sum dg_l/dy_l with E[w|y] = theta y/rho, and theta = rho V theta_hat
        -V * sum(along_y(numerator[l, k], l) * y[k] for l in range(2) for k in range(2)),
        loss.subs(origin),
    )
    at_corner = determinant.subs(dict(zip(t, corner, strict=True)))
    moved = determinant.subs({t[k]: corner[k] - deficit[k] for k in range(2)})
    quotient = sp.cancel((at_corner - at_corner.subs(V, bound)) / (V - bound))
    make = lambda arguments, expression: sp.lambdify(arguments, expression, "numpy", cse=True)  # noqa: E731
    return _OriginFunctions(
        determinant=make([V, rho, *t], determinant),
        corner=make([V, rho, *corner, bound], (V - bound) * quotient),
        deficit=make([V, rho, *corner, *deficit], sp.expand(moved - at_corner)),
        integrands=make([V, rho, *t, *y, *bend, D], integrands),
    )


@lru_cache(maxsize=1)
def _lower_eigenvalue() -> Callable:
    """The lower eigenvalue of the Hessian at h = 0 as a function of (t1, t2, rho)."""
    import sympy as sp

    loss, h, t, rho = loss_expression()
    H = sp.hessian(loss, h).subs(dict.fromkeys(h, 0))
    half = sp.expand(H.trace() / 2)
    eigenvalue = half - sp.sqrt(sp.expand(half**2 - H.det()))
    return sp.lambdify([*t, rho], eigenvalue, "math")


def _nearest_corner(model: AttentionModel) -> tuple[Vector, float]:
    """The corner ``(+-1, +-1)`` of the teacher's contrasts that limits V, and that limit."""
    lowest, nearest = 0.0, np.array([1.0, 1.0])
    # tanh z_1 + tanh z_2 >= 0, since z_1 + z_2 = (y_1 - y_2)**2/2
    for corner in ((1.0, 1.0), (1.0, -1.0), (-1.0, 1.0)):
        t = (1 - model.omega) * np.array(corner) + model.omega * np.array(model.target.contrasts)
        # a double root may come out as the square root of a rounding error below 0
        eigenvalue = _lower_eigenvalue()(*t, model.rho)
        if eigenvalue < lowest - 1e-15:
            lowest, nearest = eigenvalue, np.array(corner)
    return nearest, (-1 / lowest if lowest < 0 else math.inf)


def _interval(integrals: _OriginIntegrals, lam: float) -> tuple[float, float]:
    """Responses among which all solutions lie."""
    hi = integrals.bound * (1 - MARGIN)
    if math.isinf(hi):
        hi = integrals.model.rho / lam  # no eigenvalue is negative: V is that of the ridge or less
    return 1e-6 * hi, hi
