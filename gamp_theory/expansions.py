"""Limits that can be solved, derived with sympy from the loss itself (docs/theory.md, section 8).

Nothing here knows the solver: the loss is written down as a matrix expression, differentiated by
sympy, and averaged over Gaussian fields by trapezoid rules.  What the solver returns in these
limits has to agree.

* the origin Q = 0: its response, growth rates, and the sample ratios where they reach 1 or where it
  ceases to exist (:func:`expand_origin`, :func:`origin_onsets`);
* a target that ignores its fields, omega = 1: the same as formulas (:func:`constant_target`);
* a large ridge: first order in 1/lam (:func:`large_ridge`);
* many samples: the population landscape and its first correction (:func:`population_limit`);
* small sigma: the positional branch to second order (:func:`small_sigma`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gamp_theory.mechanisms import softmax_contrasts
from gamp_theory.model import AttentionModel
from gamp_theory.numerics.quadrature import gauss_hermite_normal

__all__ = [
    "ConstantTarget",
    "LargeRidge",
    "OriginExpansion",
    "OriginOnset",
    "PopulationLimit",
    "SmallSigma",
    "constant_target",
    "expand_origin",
    "large_ridge",
    "origin_bound",
    "origin_onsets",
    "population_limit",
    "small_sigma",
]

Vector = NDArray[np.float64]

#: Trapezoid steps in units of the standard deviation: the first, their ratio, how many.
FIRST_STEP, REFINEMENT, LEVELS = 0.4, 0.7, 12
LEAST_DENSITY = 1e-21  # at the edge of a grid, times what the integrand may grow by
WIDEST = 37.0  # standard deviations: there the density is 1e-297
TOL = 1e-11
MOST_NODES = 2e6
LARGEST_VARIANCE = 0.4  # up to which averages at the bound itself are taken
#: Closest to the bound that rates are looked at, relative.
MARGIN = 1e-12
SCAN = 48  # intervals of the response in which a rate may cross 1
NEWTON_STEPS = 40
CLOUD = 12  # Gauss-Hermite nodes of the student's own noise, an axis, at the lowest level
TEACHER_STEP, TEACHER_CUT = 0.35, 8.0
NEGLIGIBLE = 1e-16  # weight of a node
DIFFERENCE = 1e-2  # relative step of a difference quotient of fourth order
DIRECTIONS = ("q", "m", "theta")


# -- the origin -------------------------------------------------------------------------------


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
    _check(alpha=alpha, lam=lam)
    integrals = _OriginIntegrals(model)

    def excess(V: float) -> float:
        return lam * V / model.rho + alpha * integrals(V)[0][0] - 1

    # Concave, from -1: a fold is where its slope, (1 - kappa)/V, vanishes.
    top = _root(
        lambda V: 1 - alpha * integrals(V)[0][1],
        *_interval(integrals, lam),
    )
    end = top if top is not None else _interval(integrals, lam)[1]
    if excess(end) < 0:
        return None
    V = _root(excess, 1e-12 * end, end)
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
        growth=_named(growth),
        growth_error=_named(growth_errors),
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
    _check(lam=lam)
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
            V = _root(rate(j), left, right)
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
        growth=_named(alpha * values[1:4]),
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
        y, weight = _teacher_nodes(model.sigma, step, cut)
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
        return _integrate(rows, weight)


@dataclass(frozen=True, eq=False)
class _OriginFunctions:
    """Numerical functions made from the symbolic derivation."""

    determinant: Callable
    corner: Callable
    deficit: Callable
    integrands: Callable


def _loss_expression() -> tuple[Any, Any, Any, Any]:
    """The loss of one sample (2.1) as a matrix expression, and its symbols h, t and rho.

    A row softmax of two scores is ``(1 +- tanh(difference/2))/2``: no exponential overflows.
    """
    import sympy as sp

    h = sp.symbols("h1 h2", real=True)
    t = sp.symbols("t1 t2", real=True)
    rho = sp.symbols("rho", positive=True)
    scores = sp.Matrix(h) * sp.Matrix(h).T

    def rows(x1: Any, x2: Any) -> Any:
        return sp.Matrix([[1 + x1, 1 - x1], [1 - x2, 1 + x2]]) / 2

    S = rows(sp.tanh((scores[0, 0] - scores[0, 1]) / 2), sp.tanh((scores[1, 1] - scores[1, 0]) / 2))
    D = rows(*t) - S
    return (D * (rho * sp.eye(2)) * D.T).trace() / 2, h, t, rho


@lru_cache(maxsize=1)
def _origin_functions() -> _OriginFunctions:
    """B, its determinant and the linearised map at Q = 0, from the loss by differentiation."""
    import sympy as sp

    loss, h, t, rho = _loss_expression()
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

    loss, h, t, rho = _loss_expression()
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


def _root(f: Callable[[float], float], lo: float, hi: float) -> float | None:
    """A root by bracketing; None if there is no change of sign."""
    from scipy.optimize import brentq

    if not f(lo) * f(hi) < 0:
        return None
    return float(brentq(f, lo, hi, xtol=1e-300, rtol=1e-14))


def _named(values: Vector) -> dict[str, float]:
    return {name: float(value) for name, value in zip(DIRECTIONS, values, strict=True)}


def _check(**arguments: float) -> None:
    for name, value in arguments.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be > 0 and finite, got {value!r}")


# -- a target that ignores its fields -----------------------------------------------------------


@dataclass(frozen=True)
class ConstantTarget:
    """Q = 0 at omega = 1 with equal contrasts a > 0 of the two rows: formulas, no averages.

    Attributes
    ----------
    alpha_positional : float
        ``lam/(rho a (2 + rho)) - rho/2``: here the growth rate of m is 1.
    V_positional : float
        The response there, ``rho (2 + rho)/(2 lam)``.
    alpha_fold : float
        ``(sqrt(lam/(rho**2 a)) - 1)**2``: here the growth rate of q is 1, and Q = 0 ends.
        NaN if ``lam <= rho**2 a``, where Q = 0 does not exist at any alpha.
    onset_reached : bool
        ``alpha_positional > rho**2/4``: the direction of p leaves the bulk before the bulk itself
        becomes unstable.
    """

    alpha_positional: float
    V_positional: float
    alpha_fold: float
    onset_reached: bool


def constant_target(model: AttentionModel, lam: float) -> ConstantTarget:
    """The onsets of Q = 0 where the target is the matrix A alone (docs/theory.md, section 8).

    With ``x = rho a V`` the response solves ``lam x/(rho**2 a) = 1 + alpha x/(1 - x)``, the rate of
    m is ``2 alpha x/(rho (1 - x))``, that of q is ``alpha x**2/(1 - x)**2``, that of theta is 0.

    Raises
    ------
    ValueError
        Unless omega = 1, both rows of A have the same positive contrast, and `lam` is positive.
    """
    _check(lam=lam)
    a1, a2 = model.target.contrasts
    if model.omega != 1 or not (a1 > 0 and abs(a1 - a2) <= 1e-12):
        raise ValueError(
            f"the model must have omega = 1 and equal positive contrasts, got omega = "
            f"{model.omega!r}, contrasts {(a1, a2)!r}"
        )
    alpha, V, fold = (float(f(model.rho, a1, lam)) for f in _constant_functions())
    exists = lam > model.rho**2 * a1
    return ConstantTarget(
        alpha_positional=alpha,
        V_positional=V,
        alpha_fold=fold if exists else math.nan,
        onset_reached=exists and alpha > model.rho**2 / 4,
    )


@lru_cache(maxsize=1)
def _constant_functions() -> tuple[Callable, Callable, Callable]:
    """The formulas of :class:`ConstantTarget`, solved for by sympy, as functions of rho, a, lam."""
    import sympy as sp

    loss, h, t, rho = _loss_expression()
    a, lam, alpha, V, r = sp.symbols("a lam alpha V r", positive=True)
    H = sp.hessian(loss, h).subs(dict.fromkeys(h, 0)).subs(dict.fromkeys(t, a))
    B = (H * (sp.eye(2) + V * H).inv()).applyfunc(sp.simplify)
    e = sp.Matrix([1, -1])
    response = lam * V / rho + alpha * V * B.trace() - 1
    growth_m = -alpha * V / rho * (e.T * B * e)[0]
    (onset,) = sp.solve([sp.together(response), sp.together(growth_m - 1)], [alpha, V], dict=True)
    # one direction has curvature: kappa = alpha r**2 with r = -V tr B > 0
    (V_fold,) = sp.solve(sp.together(V * B.trace() + r), V)
    at_fold = sp.together(response.subs(V, V_fold).subs(alpha, 1 / r**2))
    (r_fold,) = (x for x in sp.solve(at_fold, r) if x.subs({rho: 1, a: 1, lam: 4}) > 0)
    return tuple(
        sp.lambdify([rho, a, lam], expression, "math")
        for expression in (onset[alpha], onset[V], 1 / r_fold**2)
    )


# -- a large ridge ------------------------------------------------------------------------------


@dataclass(frozen=True)
class LargeRidge:
    """The solution Q = 0 for lam to infinity, where it is the only one.

    Attributes
    ----------
    V : float
        ``rho/lam - alpha rho**2 E tr H/lam**2``, with an error of order ``lam**-3``.
    growth : dict
        Growth rates of q, m and theta, with errors of order ``lam**-3``.
    """

    V: float
    growth: dict[str, float]


def large_ridge(model: AttentionModel, alpha: float, lam: float) -> LargeRidge:
    """Perturbation series in 1/lam around Q = 0 (docs/theory.md, section 8).

    ``B = H - V H**2 + ...`` and V itself are series in 1/lam; the coefficients are averages of
    polynomials in the teacher's contrasts.

    Raises
    ------
    ValueError
        Unless `alpha` and `lam` are positive and finite.
    """
    _check(alpha=alpha, lam=lam)
    first, second = _teacher_average(model, _ridge_functions())
    bare = model.rho / lam
    V = bare - alpha * bare**2 * first[0]
    growth = alpha * (V * first[1:] + bare**2 * second[1:])
    return LargeRidge(V=float(V), growth=_named(growth))


@lru_cache(maxsize=1)
def _ridge_functions() -> Callable:
    """Coefficients of V and V**2 in the integrands of the origin, as functions of t, y, slopes."""
    import sympy as sp

    loss, h, t, rho = _loss_expression()
    y, bend = sp.symbols("y1 y2", real=True), sp.symbols("bend1 bend2", positive=True)
    H = sp.hessian(loss, h).subs(dict.fromkeys(h, 0)).applyfunc(sp.expand)
    z = (y[0] * (y[0] - y[1]) / 2, y[1] * (y[1] - y[0]) / 2)
    e = sp.Matrix([1, -1])

    def integrands(B: Any, growth_q: Any) -> list[Any]:
        def along_y(l: int, k: int) -> Any:
            return sum(B[l, k].diff(t[j]) * bend[j] * z[j].diff(y[l]) for j in range(2))

        return [
            B.trace(),
            growth_q,
            -(e.T * B * e)[0] / rho,
            -sum(along_y(l, k) * y[k] for l in range(2) for k in range(2)),
        ]

    square = (H * H).applyfunc(sp.expand)
    rows = [*integrands(H, sp.Integer(0)), *integrands(-square, square.trace())]
    return sp.lambdify([rho, *t, *y, *bend], rows, "numpy", cse=True)


def _teacher_average(model: AttentionModel, f: Callable) -> tuple[Vector, Vector]:
    """Averages over y of the integrands that `f` returns, in two halves."""
    last = None
    for level in range(LEVELS):
        step = TEACHER_STEP / max(1.0, 4 * model.rho) * REFINEMENT**level
        y, weight = _teacher_nodes(model.sigma, step, TEACHER_CUT)
        t, bend = _teacher_contrasts(model, y)
        value = _integrate(f(model.rho, *t, *y, *bend), weight)
        if last is not None and np.all(abs(value - last) <= TOL * np.maximum(1.0, abs(value))):
            break
        last = value
    half = value.size // 2
    return value[:half], value[half:]


def _integrate(rows: Sequence[Any], weight: Vector) -> Vector:
    """Weighted sums; a row that does not depend on the node is a number."""
    return np.array([float(np.sum(np.broadcast_to(row, weight.shape) * weight)) for row in rows])


def _teacher_nodes(sigma: float, step: float, cut: float) -> tuple[Vector, Vector]:
    """Fields of shape (2, n) and weights that sum to 1; half of the plane, all being even in y."""
    half = int(cut / step)
    line = (np.arange(-half, half) + 0.5) * step
    u, v = (x.ravel() for x in np.meshgrid(line[half:], line, indexing="ij"))
    inside = u**2 + v**2 <= cut**2
    u, v = u[inside], v[inside]
    weight = np.exp(-0.5 * (u**2 + v**2)) * step**2 / math.pi
    return np.stack([v + u, v - u]) * sigma * math.sqrt(0.5), weight


def _teacher_contrasts(model: AttentionModel, y: Vector) -> tuple[Vector, Vector]:
    """Target contrasts ``t_k`` and their slopes in ``z_k = y_k (y_k - y_k')/2``, shape (2, n)."""
    s = softmax_contrasts(y.T).T
    a = np.array(model.target.contrasts)[:, None]
    return (1 - model.omega) * s + model.omega * a, (1 - model.omega) * (1 - s**2)


# -- many samples -------------------------------------------------------------------------------


@dataclass(frozen=True)
class PopulationLimit:
    """A stationary point of the population risk, and how alpha to infinity approaches it.

    With ``lam = ridge alpha``, up to relative errors of order ``alpha**-2`` (V: ``1/alpha``)::

        m = m_0 + m_1/alpha      theta = theta_0 + theta_1/alpha      q = q_0 + q_1/alpha
        V = V_1/alpha            train_loss = alpha loss_0 + loss_1

    Attributes
    ----------
    ridge : float
    m, theta, q, loss : tuple of two floats
        The coefficients of order 0 and 1.
    V : float
        ``V_1``.
    test_error : float
        ``E l(w; y)`` at order 0.
    minimum : bool
        Whether the Hessian of the risk in (m, theta) is positive.
    error : float
        Change of the coefficients with the last refinement of the averages, relative to
        ``max(1, |x|)``.
    """

    ridge: float
    m: tuple[float, float]
    theta: tuple[float, float]
    q: tuple[float, float]
    loss: tuple[float, float]
    V: float
    test_error: float
    minimum: bool
    error: float


def population_limit(
    model: AttentionModel, ridge: float, m: float, theta: float, tol: float = 1e-9
) -> PopulationLimit:
    """The stationary point of the population risk near a student with overlaps (m, theta).

    With infinitely many samples per dimension the student is a combination of p and Q*: ``q =
    rho m**2 + theta**2/rho``, and ``E l(w; y) + (ridge/2) (m**2 + theta**2/rho**2)`` is
    stationary in m and theta (docs/theory.md, section 8).  Newton's method; a coordinate that is 0
    stays 0.

    Parameters
    ----------
    model : AttentionModel
    ridge : float
        ``lam/alpha``, non-negative.
    m, theta : float
        Where to begin.
    tol : float
        Accuracy of the coefficients.

    Raises
    ------
    ValueError
        If `ridge` is negative or not finite, or both m and theta are 0.
    RuntimeError
        If Newton's method does not converge.
    """
    if not (math.isfinite(ridge) and ridge >= 0):
        raise ValueError(f"ridge must be >= 0 and finite, got {ridge!r}")
    if m == 0 and theta == 0:
        raise ValueError("m and theta must not both be 0; for Q = 0 there is expand_origin")
    last = None
    x = np.array([m, theta], dtype=float)
    for level in range(5):
        landscape = _Landscape(model, ridge, level)
        x = landscape.stationary(x)
        limit = landscape.limit(x)
        values = np.array([*limit.m, *limit.theta, *limit.q, *limit.loss, limit.V])
        if last is not None:
            error = float(np.max(abs(values - last) / np.maximum(1.0, abs(values))))
            limit = replace(limit, error=error)
            if error <= tol:
                break
        last = values
        if m != 0 and theta != 0 and level == 2:
            break  # four dimensions: a million nodes
    return limit


class _Landscape:
    """The population risk and its derivatives, by one quadrature rule."""

    def __init__(self, model: AttentionModel, ridge: float, level: int) -> None:
        self.model, self.ridge = model, ridge
        step = 0.6 * REFINEMENT**level / max(1.0, 4 * model.rho)
        y, weight = _teacher_nodes(model.sigma, step, TEACHER_CUT)
        t, _ = _teacher_contrasts(model, y)
        # averages with the student's noise are not even in y
        self.y = np.concatenate([y, -y], axis=1)
        self.t = np.concatenate([t, t], axis=1)
        self.weight = np.concatenate([weight, weight]) / 2
        rule = gauss_hermite_normal(CLOUD + 6 * level)
        xi = np.stack([z.ravel() for z in np.meshgrid(rule.nodes, rule.nodes)])
        share = np.outer(rule.weights, rule.weights).ravel()
        self.xi, self.share = xi[:, share > NEGLIGIBLE], share[share > NEGLIGIBLE]

    def nodes(self, x: Vector) -> tuple[Vector, Vector, Vector, Vector]:
        """Weights, contrasts t, the teacher's fields y and the student's noise xi, all flat.

        Where the student does not see the teacher (theta = 0) averages depend on t through its mean
        and covariance only, the loss being quadratic in t: four points represent it.
        """
        m, theta = x
        if m == 0:
            return self.weight, self.t, self.y, np.zeros_like(self.y)
        if theta == 0:
            mean = self.t @ self.weight
            apart = self.t - mean[:, None]
            values, vectors = np.linalg.eigh(self.weight * apart @ apart.T)
            root = vectors * np.sqrt(2 * np.maximum(values, 0))
            t = mean[:, None] + np.concatenate([root, -root], axis=1)
            y, weight = np.zeros((2, 4)), np.full(4, 0.25)
        else:
            t, y, weight = self.t, self.y, self.weight
        joint = np.outer(weight, self.share)
        i, j = np.nonzero(joint > NEGLIGIBLE)
        return joint[i, j], t[:, i], y[:, i], self.xi[:, j]

    def derivatives(self, x: Vector) -> tuple[float, Vector, Vector, float, float]:
        """Risk, gradient, Hessian in (m, theta); ``E |grad l|**2`` and ``E tr grad grad l``."""
        rho = self.model.rho
        weight, t, y, xi = self.nodes(x)
        # w = +-m + theta y/rho + sigma m xi
        along = (np.array([[1.0], [-1.0]]) + self.model.sigma * xi, y / rho)
        w = x[0] * along[0] + x[1] * along[1]
        l, g1, g2, h11, h12, h22 = _loss_functions()(rho, *t, *w)
        ridge = self.ridge * np.array([1.0, 1 / rho**2])
        slope = np.array([weight @ (g1 * a[0] + g2 * a[1]) for a in along]) + ridge * x
        bend = np.diag(ridge)
        for i, a in enumerate(along):
            for j, b in enumerate(along):
                bend[i, j] += weight @ (
                    h11 * a[0] * b[0] + h12 * (a[0] * b[1] + a[1] * b[0]) + h22 * a[1] * b[1]
                )
        value = float(weight @ l + ridge @ x**2 / 2)
        return value, slope, bend, float(weight @ (g1**2 + g2**2)), float(weight @ (h11 + h22))

    def stationary(self, x: Vector) -> Vector:
        """Newton's method in the coordinates that are not 0, which change by half at most."""
        inside = x != 0
        for _ in range(NEWTON_STEPS):
            _, slope, bend, _, _ = self.derivatives(x)
            step = np.linalg.solve(bend[np.ix_(inside, inside)], -slope[inside])
            size = float(np.max(abs(step / x[inside])))
            x = x.copy()
            x[inside] += step / max(1.0, 2 * size)
            if size < 1e-10:
                return x
        raise RuntimeError(f"no stationary point found near m, theta = {x[0]:.6g}, {x[1]:.6g}")

    def correction(self, x: Vector) -> tuple[float, float, float]:
        """The loss of order 1/alpha, the q beyond the span of p and Q*, and ``V_1``."""
        _, _, _, force, curvature = self.derivatives(x)
        b = curvature / 2 + self.ridge / (2 * self.model.rho)
        return -force / (4 * b), force / (4 * b * b), 1 / (2 * b)

    def limit(self, x: Vector) -> PopulationLimit:
        """Both orders at a stationary point."""
        rho = self.model.rho
        value, _, bend, _, _ = self.derivatives(x)
        inside = x != 0
        loss, beyond, V = self.correction(x)
        # x_1 = -(Hessian)^-1 times the gradient of the loss of order 1/alpha
        slope = np.zeros(2)
        for j in np.flatnonzero(inside):
            step = np.where(np.arange(2) == j, DIFFERENCE * x[j], 0.0)
            d1, d2 = (
                (self.correction(x + k * step)[0] - self.correction(x - k * step)[0])
                / (2 * k * step[j])
                for k in (1, 2)
            )
            slope[j] = (4 * d1 - d2) / 3
        x1 = np.zeros(2)
        x1[inside] = np.linalg.solve(bend[np.ix_(inside, inside)], -slope[inside])
        m, theta = (float(z) for z in x)
        span = 2 * rho * m * x1[0] + 2 * theta * x1[1] / rho
        return PopulationLimit(
            ridge=float(self.ridge),
            m=(m, float(x1[0])),
            theta=(theta, float(x1[1])),
            q=(rho * m**2 + theta**2 / rho, float(beyond + span)),
            loss=(value, loss),
            V=V,
            test_error=value - self.ridge * (m**2 + theta**2 / rho**2) / 2,
            minimum=bool(np.all(np.linalg.eigvalsh(bend) > 0)),
            error=math.inf,
        )


@lru_cache(maxsize=1)
def _loss_functions() -> Callable:
    """``l``, its gradient and its Hessian as functions of (rho, t1, t2, h1, h2)."""
    import sympy as sp

    loss, h, t, rho = _loss_expression()
    H = sp.hessian(loss, h)
    rows = [loss, *(loss.diff(x) for x in h), H[0, 0], H[0, 1], H[1, 1]]
    return sp.lambdify([rho, *t, *h], rows, "numpy", cse=True)


# -- small sigma --------------------------------------------------------------------------------


@dataclass(frozen=True)
class SmallSigma:
    """The positional branch for sigma to 0 at fixed alpha and ``lam/sigma**2``, to two orders.

    Attributes
    ----------
    m, V : float
        With errors of order ``sigma**4``.
    q, train_loss : float
        With errors of order ``sigma**6``; both start at order ``sigma**2``.
    """

    m: float
    V: float
    q: float
    train_loss: float


def small_sigma(model: AttentionModel, alpha: float, lam: float) -> SmallSigma | None:
    """Series of the positional branch in ``sigma**2``, at fixed alpha and ``lam/sigma**2``.

    The fields become the numbers +-m, the target omega A, and the risk a function of m alone::

        alpha sum_k (omega a_k - tanh m**2)**2/4 + (lam/sigma**2) m**2/2

    whose minimum is corrected by the fluctuations of y and w and by the fit to the samples
    (docs/theory.md, section 8).

    Returns
    -------
    SmallSigma or None
        None where the minimum is at m = 0: ``alpha omega (a_1 + a_2) <= lam/sigma**2``.

    Raises
    ------
    ValueError
        Unless `alpha` and `lam` are positive and finite.
    """
    _check(alpha=alpha, lam=lam)
    a1, a2 = model.target.contrasts
    rho = model.rho
    ridge = lam / rho
    mean = model.omega * (a1 + a2) / 2
    # (mean - T)(1 - T**2) = ridge/(2 alpha), T = tanh m**2; the left side falls for 0 < T < mean
    T = _root(lambda T: (mean - T) * (1 - T * T) - ridge / (2 * alpha), 0.0, mean)
    if mean <= 0 or T is None:
        return None
    m = math.sqrt(math.atanh(T))
    F0, F1, slope, bend, curvature, beyond = _sigma_functions()(
        m, alpha, ridge, model.omega, a1, a2
    )
    m1 = -slope / bend
    return SmallSigma(
        m=m + rho * m1,
        V=1 / ridge - rho * curvature / ridge**2,
        q=rho * m**2 + rho**2 * (2 * m * m1 + beyond),
        train_loss=rho * (F0 + rho * F1),
    )


@lru_cache(maxsize=1)
def _sigma_functions() -> Callable:
    """Both orders of the loss and what the series needs of them, as functions of m, parameters."""
    import sympy as sp

    loss, h, t, rho = _loss_expression()
    m, alpha, ridge, omega = sp.symbols("m alpha ridge omega", positive=True)
    a = sp.symbols("a1 a2", real=True)
    at = {h[0]: m, h[1]: -m}
    fixed = {t[k]: omega * a[k] for k in range(2)}
    per_rho = sp.expand(loss / rho)  # the loss is proportional to sigma**2
    F0 = alpha * per_rho.subs(fixed).subs(at) + ridge * m**2 / 2
    force = sum(per_rho.diff(x).subs(fixed).subs(at) ** 2 for x in h)
    curvature = sum(per_rho.diff(x, 2).subs(fixed).subs(at) for x in h)
    # E t_k = omega a_k + (1 - omega) E z_k with E z_k = sigma**2/2; Var t_k is of order sigma**4
    teacher = sum(per_rho.diff(t[k]).subs(fixed).subs(at) * (1 - omega) / 2 for k in range(2))
    # the field has the variance sigma**2 m**2; fitting the samples gains V |grad l|**2/2
    F1 = alpha * (m**2 * curvature / 2 + teacher - force / (2 * ridge))
    rows = [F0, F1, F1.diff(m), F0.diff(m, 2), alpha * curvature, alpha * force / ridge**2]
    return sp.lambdify([m, alpha, ridge, omega, *a], rows, "math", cse=True)
