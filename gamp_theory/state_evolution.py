"""The state-evolution map and its fixed points."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from gamp_theory import observables
from gamp_theory.channel.base import ChannelAverages
from gamp_theory.channel.origin import solve_origin
from gamp_theory.channel.pair import MOST_SLICES, PairRule
from gamp_theory.model import AttentionModel
from gamp_theory.numerics.fixed_point import (
    FixedPointStatus,
    solve_fixed_point,
)
from gamp_theory.overlaps import Overlaps
from gamp_theory.pair_search import SEARCH_TOL, PairSearch, TooExpensive, Vanishes
from gamp_theory.result import ConvergenceError, FixedPoint, FixedPointErrors, Status
from gamp_theory.stability import (
    MapJacobian,
    Stability,
    origin_stability,
    spectrum,
    stability,
)
from gamp_theory.starts import STARTS, branch_name
from gamp_theory.token_model import GeneralModel
from gamp_theory.token_overlaps import TokenOverlaps
from gamp_theory.token_result import GeneralFixedPoint

__all__ = [
    "ConvergenceError",
    "FixedPoint",
    "FixedPointErrors",
    "Solver",
    "Status",
    "check_arguments",
    "solve",
]

Vector = NDArray[np.float64]

#: What is promised unless something else is asked for.
PAIR_TOL = 1e-6
GENERAL_TOL = 1e-2
#: Residual and quadrature tolerances as fractions of the accuracy that is promised.
RESIDUAL_SHARE = 0.03
QUADRATURE_SHARE = 0.3
FINEST = 2e-9  # quadrature tolerance beyond which nothing is gained
#: Absolute floors of the tolerances, in units of rho for q and so on.
FLOOR = 1e-6
POLISH_MAPS = 60
#: A search that has ended with q, in units of rho, below this is taken to be on its way to Q = 0.
SMALL_Q = 1e-4
POLISH_STEPS = 12
LAST_STEP = 0.03  # Newton step, in units of tol, that is not worth another map
ROUNDS = 7
#: Accuracy asked of the plane rule once it has been refused, and refusals until slices follow.
FINE_PLANE = 3e-7
PLANE_REFUSALS = 3
#: The rule of a final answer is made anew where the state has moved by more than this.
STRETCHED = 0.03
#: An error estimate of one component is at least this part of the largest relative one.
LEAST_SHARE = 0.1


@overload
def solve(
    model: AttentionModel,
    alpha: float,
    lam: float,
    start: str | Overlaps = ...,
    tol: float | None = ...,
    *,
    residual_tol: float | None = ...,
    quadrature_tol: float | None = ...,
    with_stability: bool = ...,
    on_failure: Literal["raise", "return"] = ...,
) -> FixedPoint: ...


@overload
def solve(
    model: GeneralModel,
    alpha: float,
    lam: float,
    start: str | TokenOverlaps = ...,
    tol: float | None = ...,
    *,
    with_stability: bool = ...,
    on_failure: Literal["raise", "return"] = ...,
) -> GeneralFixedPoint: ...


def solve(
    model: AttentionModel | GeneralModel,
    alpha: float,
    lam: float,
    start: str | Overlaps | TokenOverlaps = "semantic",
    tol: float | None = None,
    *,
    residual_tol: float | None = None,
    quadrature_tol: float | None = None,
    with_stability: bool = True,
    on_failure: Literal["raise", "return"] = "raise",
) -> FixedPoint | GeneralFixedPoint:
    """A fixed point of state evolution (docs/theory.md, section 2).

    Parameters
    ----------
    model : AttentionModel or GeneralModel
        The two-token, rank-one model is solved deterministically and to many digits; the general
        one by randomised quasi-Monte Carlo, which returns a
        :class:`gamp_theory.token_result.GeneralFixedPoint` with standard errors.
    alpha : float
        Samples per dimension n/d, positive.
    lam : float
        Ridge, non-negative.
    start : {"semantic", "positional", "uninformed", "zero"} or Overlaps
        Where to begin.  Semantic and uninformed starts stay at m = 0, positional and uninformed
        ones at theta = 0: whether the fixed point is stable against leaving is in its
        `stability`.  "zero" asks for the fixed point Q = 0.  A general model has the start
        "mixed", too, and takes ``TokenOverlaps``.
    tol : float, optional
        Accuracy promised for overlaps and training loss, relative, with a floor of ``1e-6 tol``
        in their natural units; 1e-6 by default.  For a general model the standard error aimed at,
        .01 by default (see :func:`gamp_theory.token_evolution.solve_general`).
    residual_tol, quadrature_tol : float, optional
        What is allowed of it for the residual and aimed at in the average over fields.  Not for a
        general model, whose standard errors hold everything.
    with_stability : bool
        Whether to compute the `stability`; its replicon can take longer than the rest.
    on_failure : {"raise", "return"}
        Whether a solve that fails raises or returns its flagged result.

    Raises
    ------
    ValueError
        On bad input, before any work.
    ConvergenceError
        If the accuracy is not reached or the fixed point does not exist.
    """
    if on_failure not in ("raise", "return"):
        raise ValueError(f"on_failure must be 'raise' or 'return', got {on_failure!r}")
    if isinstance(model, GeneralModel):
        if residual_tol is not None or quadrature_tol is not None:
            raise ValueError("a general model takes tol only, not residual_tol or quadrature_tol")
        if isinstance(start, Overlaps):
            raise ValueError(f"a general model starts from TokenOverlaps, got {start!r}")
        from gamp_theory.token_evolution import solve_general  # the pair route needs none of it

        general = solve_general(
            model,
            alpha,
            lam,
            start,
            GENERAL_TOL if tol is None else tol,
            with_stability=with_stability,
        )
        if general.status is not Status.CONVERGED and on_failure == "raise":
            raise ConvergenceError(general)
        return general
    tol = PAIR_TOL if tol is None else tol
    if isinstance(start, TokenOverlaps):
        raise ValueError("the two-token model starts from Overlaps, got TokenOverlaps")
    check_arguments(model, alpha, lam, start, tol)
    for name, value in (("residual_tol", residual_tol), ("quadrature_tol", quadrature_tol)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be > 0 and finite, got {value!r}")
    solver = Solver(
        model,
        float(alpha),
        float(lam),
        start,
        tol,
        RESIDUAL_SHARE * tol if residual_tol is None else residual_tol,
        QUADRATURE_SHARE * tol if quadrature_tol is None else quadrature_tol,
        with_stability,
    )
    point = solver.run()
    if point.status is not Status.CONVERGED and on_failure == "raise":
        raise ConvergenceError(point)
    return point


def check_arguments(
    model: AttentionModel, alpha: float, lam: float, start: str | Overlaps, tol: float
) -> None:
    """Refuse what :func:`solve` refuses; for what solves many times, before the first.

    Raises
    ------
    ValueError
        Naming the argument, its value, and what is allowed.
    """
    for name, value, allowed, ok in (
        ("alpha", alpha, "> 0", alpha > 0),
        ("lam", lam, ">= 0", lam >= 0),
        ("tol", tol, "in [1e-9, 0.01]", 1e-9 <= tol <= 0.01),
    ):
        if not (math.isfinite(value) and ok):
            raise ValueError(f"{name} must be {allowed} and finite, got {value!r}")
    if isinstance(start, Overlaps):
        start.check_domain(model.rho)
        if not (start.q > 0 and start.V > 0):
            raise ValueError(f"a given start must have q > 0 and V > 0, got {start!r}")
    elif start not in STARTS:
        raise ValueError(f"start must be one of {', '.join(STARTS)} or Overlaps, got {start!r}")


class Solver(PairSearch):
    """One solve: search with cheap rules, then polish with frozen ones.

    Its parts serve whoever has a state already: :meth:`newton` settles one that is close,
    :meth:`worst` judges its error bars, :meth:`assemble` puts a result together.
    """

    def __init__(
        self,
        model: AttentionModel,
        alpha: float,
        lam: float,
        start: str | Overlaps,
        tol: float,
        residual_tol: float,
        quadrature_tol: float,
        with_stability: bool,
        with_replicon: bool = True,
    ) -> None:
        super().__init__(model, alpha, lam, start)
        self.with_stability, self.with_replicon = with_stability, with_replicon
        self.tol, self.residual_tol, self.quadrature_tol = tol, residual_tol, quadrature_tol
        self.began = time.perf_counter()

    # -- stages -------------------------------------------------------------------------------

    def run(self) -> FixedPoint:
        """Search, polish, and say how it went."""
        if self.start == "zero":
            return self.zero()
        x = self.first_state()
        try:
            x, status = self.search(x, SEARCH_TOL)
        except TooExpensive:
            return self.failed(x if self.last is None else self.last, Status.ITERATION_LIMIT)
        except Vanishes:
            origin = self.zero()
            return origin if origin.converged else self.failed(self.last, Status.LEFT_DOMAIN)
        if status is not Status.CONVERGED:
            return self.failed(x, status)
        if x[0] < SMALL_Q * self.model.rho:
            origin = self.zero()
            if origin.converged:
                return origin
        # m and theta are defined up to a sign each: the losses are the same
        return self.polish(np.abs(self.snap(x)))

    def polish(self, x: Vector) -> FixedPoint:
        """Newton's method on a frozen rule, which is refined until the error bars allow."""
        tol = slices_tol = self.quadrature_tol
        status = Status.QUADRATURE_LIMIT
        jacobian = self.jacobian(x)
        point = rule = None
        refused = 0
        for _ in range(ROUNDS):
            at = Overlaps.from_array(x)
            # where the plane rule has been refined in vain, what it leaves out is the matter
            if refused < PLANE_REFUSALS:
                rule = self.channel.rule(at, tol, slices_tol=slices_tol, after=rule)
            else:
                rule = self.channel.slices(at, slices_tol, after=rule)
            try:
                x, averages, residual, settled = self.newton(x, rule, jacobian)
            except TooExpensive:
                break
            if not settled:
                status = Status.ITERATION_LIMIT
                break
            if self.moved(x, rule) > STRETCHED:
                jacobian = self.jacobian(x)
                continue
            error = rule.error(Overlaps.from_array(x), averages)
            self.other_maps += rule.comparisons
            point = (rule, averages, residual, error)
            ratio = self.worst(x, averages, error, residual, jacobian)
            if ratio <= 1:
                status = Status.CONVERGED
                break
            if rule.kind == "slices" and (rule.cost > MOST_SLICES or slices_tol <= FINEST):
                break
            refused += 1
            finer = min(0.3, max(0.03, 0.5 / ratio))
            if rule.kind == "plane":  # a fine plane is cheaper than coarse slices
                tol = max(min(tol * finer, FINE_PLANE), FINEST)
            else:
                slices_tol = max(slices_tol * finer, FINEST)
        if point is None:
            return self.failed(x, status)
        return self.assemble(x, *point, jacobian, status)

    def newton(
        self, x: Vector, rule: PairRule, jacobian: MapJacobian
    ) -> tuple[Vector, ChannelAverages, Vector, bool]:
        """Newton's steps ``x += (1 - J)^-1 (F(x) - x)``, J kept up to date by Broyden.

        Anderson where they do not contract.
        """
        slope = np.eye(4) - jacobian.matrix
        inside = x != 0
        floor = FLOOR * self.residual_tol * self.units
        last = math.inf
        step = np.zeros(4)
        for _ in range(POLISH_STEPS):
            self.spend(rule)
            f, averages = self.map(x, rule)
            residual = np.where(inside, f - x, 0.0)
            if np.any(step):  # a whole step leaves nothing of a linear residual
                relative = np.where(inside, step / (x**2 + floor), 0.0)
                slope = slope - np.outer(residual, relative) / (relative @ step)
            size = float(np.max(np.abs(residual) / (floor + self.residual_tol * np.abs(x))))
            step = np.where(inside, np.linalg.solve(slope, residual), 0.0)
            # near a bifurcation a small residual can still be a long step
            close = np.all(np.abs(step) <= LAST_STEP * self.tol * np.abs(x) + floor)
            if size <= 1 and (close or size > 0.7 * last):
                return x, averages, residual, True
            if not size < 0.7 * last or not self.admissible(x + step):
                break
            last = size
            x = x + step
        result = solve_fixed_point(
            lambda z: self.map(z, rule)[0],
            x,
            atol=floor,
            rtol=self.residual_tol,
            max_evaluations=POLISH_MAPS,
            admissible=self.admissible,
        )
        self.maps += result.evaluations
        f, averages = self.map(result.x, rule)
        return (
            result.x,
            averages,
            np.where(inside, f - result.x, 0.0),
            result.status is FixedPointStatus.CONVERGED,
        )

    # -- error bars ---------------------------------------------------------------------------

    def overlap_errors(
        self,
        x: Vector,
        averages: ChannelAverages,
        error: ChannelAverages,
        residual: Vector,
        jacobian: MapJacobian,
    ) -> Vector:
        """``(1 - J)^-1 (dF + residual)``, no component far below the largest relative one."""
        shifted = ChannelAverages.from_array(averages.as_array() + error.as_array())
        inverse = np.linalg.inv(np.eye(4) - jacobian.matrix)
        inside = x != 0
        raw = np.abs(inverse @ np.where(inside, self.prior(shifted) - self.prior(averages), 0.0))
        raw += np.abs(inverse) @ np.abs(residual)
        relative = float(np.max(raw[inside] / np.abs(x[inside])))
        return np.where(inside, np.maximum(raw, LEAST_SHARE * relative * np.abs(x)), 0.0)

    def loss_error(self, x: Vector, averages: ChannelAverages, error: ChannelAverages) -> float:
        """Quadrature error of eps_t: that of the mean envelope, since Phi is stationary."""
        scale = max(
            abs(v) / (abs(w) + 1e-300)
            for v, w in zip(error.as_array()[[0, 4]], averages.as_array()[[0, 4]], strict=True)
        )
        own = abs(error.loss + 0.5 * x[2] * error.q_hat)
        return self.alpha * max(2 * own, 3 * LEAST_SHARE * scale * averages.envelope(x[2]))

    def residual_loss(self, averages: ChannelAverages, residual: Vector) -> float:
        """What a residual does to the direct form of eps_t, to first order, term by term.

        ``direct - variational = q_hat r_V + m_hat r_m + theta_hat r_theta - D r_q/(2 rho)``: the
        variational form is stationary, the direct one is not.
        """
        q_hat, m_hat, V_hat, theta_hat = averages.conjugates(self.alpha).as_array()
        D = self.lam + self.model.rho * V_hat
        weights = np.array([0.5 * D / self.model.rho, m_hat, q_hat, theta_hat])
        return float(np.abs(weights) @ np.abs(residual))

    def worst(
        self,
        x: Vector,
        averages: ChannelAverages,
        error: ChannelAverages,
        residual: Vector,
        jacobian: MapJacobian,
    ) -> float:
        """The largest error bar in units of the tolerance."""
        errors = self.overlap_errors(x, averages, error, residual, jacobian)
        ratio = float(np.max(errors / (FLOOR * self.units * self.tol + self.tol * np.abs(x))))
        loss = observables.train_loss(
            self.model, averages, Overlaps.from_array(x), self.alpha, self.lam
        )
        return max(ratio, float(self.loss_error(x, averages, error) / (self.tol * abs(loss))))

    # -- results ------------------------------------------------------------------------------

    def assemble(
        self,
        x: Vector,
        rule: PairRule,
        averages: ChannelAverages,
        residual: Vector,
        error: ChannelAverages,
        jacobian: MapJacobian,
        status: Status,
    ) -> FixedPoint:
        """A fixed point with its error bars out of a settled state."""
        overlaps = Overlaps.from_array(x)
        errors = self.overlap_errors(x, averages, error, residual, jacobian)
        loss_error = float(self.loss_error(x, averages, error))
        inside = x != 0
        model = self.model
        arguments = (model, averages, overlaps, self.alpha, self.lam)
        direct = observables.train_loss(*arguments)
        variational = observables.train_loss_variational(*arguments)
        test = observables.test_error(model, overlaps)
        slope = _gradient(lambda z: observables.test_error(model, Overlaps.from_array(z)), x)
        return FixedPoint(
            branch=branch_name(overlaps, errors[1], errors[3]),
            overlaps=overlaps,
            conjugates=averages.conjugates(self.alpha),
            averages=averages,
            train_loss=direct,
            train_loss_variational=variational,
            test_error=test,
            errors=FixedPointErrors(
                q=float(errors[0]),
                m=float(errors[1]),
                V=float(errors[2]),
                theta=float(errors[3]),
                train_loss=loss_error + self.residual_loss(averages, residual),
                train_loss_variational=loss_error,
                test_error=float(abs(slope) @ errors),
            ),
            residual=float(np.max(np.abs(residual[inside] / x[inside]))),
            status=status,
            **self.account(),
            rule=rule.kind,
            stability=self.judged(overlaps, jacobian),
        )

    def judged(self, overlaps: Overlaps, jacobian: MapJacobian) -> Stability | None:
        """As much of the stability as has been asked for."""
        if not self.with_stability:
            return None
        if not self.with_replicon:
            return spectrum(jacobian)
        return stability(self.model, overlaps, self.alpha, jacobian)

    def zero(self) -> FixedPoint:
        """The fixed point Q = 0, in closed form."""
        origin = solve_origin(self.model, self.alpha, self.lam)
        if not origin.exists:
            return self.failed(None, Status.DOES_NOT_EXIST)
        model = self.model
        assert origin.averages is not None
        assert origin.errors is not None
        averages = origin.averages
        overlaps = Overlaps(q=0.0, m=0.0, V=origin.V, theta=0.0)
        loss = observables.train_loss(model, averages, overlaps, self.alpha, self.lam)
        loss_error = self.alpha * origin.errors.loss
        return FixedPoint(
            branch="zero",
            overlaps=overlaps,
            conjugates=averages.conjugates(self.alpha),
            averages=averages,
            train_loss=loss,
            train_loss_variational=observables.train_loss_variational(
                model, averages, overlaps, self.alpha, self.lam
            ),
            test_error=observables.test_error(model, overlaps),
            errors=FixedPointErrors(0.0, 0.0, origin.V_error, 0.0, loss_error, loss_error, 1e-13),
            residual=0.0,
            status=Status.CONVERGED,
            **self.account(),
            rule="origin",
            stability=origin_stability(origin.growth),
        )

    def failed(self, x: Vector | None, status: Status) -> FixedPoint:
        """A result without a fixed point: the last state, if any, and why."""
        unknown = math.nan
        return FixedPoint(
            branch=self.start_name,
            overlaps=None if x is None else Overlaps.from_array(x),
            conjugates=None,
            averages=None,
            train_loss=unknown,
            train_loss_variational=unknown,
            test_error=unknown,
            errors=FixedPointErrors(unknown, unknown, unknown, unknown, unknown, unknown, unknown),
            residual=unknown,
            status=status,
            **self.account(),
            rule="none",
            stability=None,
        )

    def account(self) -> dict[str, Any]:
        """What every result says: the question, and what the answer took."""
        return {
            "model": self.model,
            "alpha": self.alpha,
            "lam": self.lam,
            "start": self.start_name,
            "linear_error": observables.linear_error(self.model),
            "iterations": self.maps,
            "map_evaluations": self.maps + self.other_maps,
            "seconds": time.perf_counter() - self.began,
            "tol": self.tol,
            "residual_tol": self.residual_tol,
            "quadrature_tol": self.quadrature_tol,
        }

    @property
    def start_name(self) -> str:
        """Name of the start."""
        return self.start if isinstance(self.start, str) else "given"


def _gradient(f: Callable[[Vector], float], x: Vector) -> Vector:
    """Central differences; components that are zero stay so, since f is even in them."""
    slope = np.zeros(x.size)
    for j in np.flatnonzero(x):
        step = 1e-4 * abs(x[j])
        up, down = x.copy(), x.copy()
        up[j] += step
        down[j] -= step
        slope[j] = (f(up) - f(down)) / (2 * step)
    return slope
