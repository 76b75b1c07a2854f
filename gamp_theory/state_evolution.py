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
from gamp_theory.channel.pair import MOST_SLICES, PairChannel, PairRule
from gamp_theory.model import AttentionModel
from gamp_theory.numerics.fixed_point import (
    FixedPointResult,
    FixedPointStatus,
    solve_fixed_point,
)
from gamp_theory.overlaps import Overlaps
from gamp_theory.prior import prior_map
from gamp_theory.result import ConvergenceError, FixedPoint, FixedPointErrors, Status
from gamp_theory.stability import (
    MapJacobian,
    Stability,
    growth_rates,
    map_jacobian,
    origin_stability,
    spectrum,
    stability,
)
from gamp_theory.starts import STARTS, branch_name, named_start
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
#: The search, its rules, and those of the Jacobian are content with this.
SEARCH_TOL = 2e-3
SEARCH_RULE_TOL = 5e-3
JACOBIAN_TOL = 5e-4
FINEST = 2e-9  # quadrature tolerance beyond which nothing is gained
#: Absolute floors of the tolerances, in units of rho for q and so on.
FLOOR = 1e-6
POLISH_MAPS = 60
#: Maps and mixing of the first attempt of the search, and of each attempt along the flow.
FIRST_ATTEMPT = (24, 0.4)
LATER_ATTEMPT = (26, 0.3)
NEARLY = 0.1  # residual, relative, at which an attempt deserves more maps
#: The flow ``x' = F(x) - x`` between attempts: maps, and one step length for each attempt.  An
#: eigenvalue ``-a`` of the map allows steps of up to ``2/(1 + a)``.
FLOW_MAPS = 16
FLOW_STEPS = (0.15, 0.15, 0.15, 0.1, 0.1, 0.05, 0.05)
#: The same flow in long steps, where a branch has just ceased to be and its ghost holds the state
#: up: steps between attempts, attempts, and the time and the largest relative change of a step.
GLIDE_STEPS, GLIDES = 5, 4
GLIDE_TIME = 20.0
GLIDE_HALVINGS = 20
GLIDE_REACH = np.array([0.2, 0.5, 0.2, 0.5])
#: The search is on its way to Q = 0 when q, in units of rho, is below this.
VANISHING = 1e-7
SMALL_Q = 1e-4  # where a search that has ended is taken to be on that way
#: Largest factor by which V may change in a step of the search; q by its square.
REACH = 2.0
#: Slices that a solve may integrate in all: a minute or so.
LARGEST_COST = 10_000_000
POLISH_STEPS = 12
LAST_STEP = 0.03  # Newton step, in units of tol, that is not worth another map
ROUNDS = 7
#: Accuracy asked of the plane rule once it has been refused, and refusals until slices follow.
FINE_PLANE = 3e-7
PLANE_REFUSALS = 3
#: A rule is made anew where the state has moved by more than this.
MOVED = 0.2
STRETCHED = 0.03  # the same for the rule of a final answer
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


class _Vanishes(Exception):
    """The student shrinks to nothing: the search is on its way to Q = 0."""


class _TooExpensive(Exception):
    """The slices that a solve may integrate are used up."""


class Solver:
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
        self.with_stability, self.with_replicon = with_stability, with_replicon
        self.model, self.alpha, self.lam, self.start = model, alpha, lam, start
        self.tol, self.residual_tol, self.quadrature_tol = tol, residual_tol, quadrature_tol
        self.channel = PairChannel(model)
        self.began = time.perf_counter()
        self.last: Vector | None = None
        self.cost = 0
        self.maps = 0
        self.other_maps = 0
        rho = model.rho
        #: natural sizes of q, m, V, theta
        self.units = np.array([rho, math.sqrt(rho), 1.0, rho])

    # -- the map ------------------------------------------------------------------------------

    def map(self, x: Vector, rule: PairRule) -> tuple[Vector, ChannelAverages]:
        """One undamped map: channel, then prior."""
        averages = rule.averages(Overlaps.from_array(x))
        return self.prior(averages), averages

    def prior(self, averages: ChannelAverages) -> Vector:
        """The map's second half: overlaps that the averages lead to, by the ridge."""
        return prior_map(self.model.rho, averages.conjugates(self.alpha).as_array(), self.lam)

    def admissible(self, x: Vector) -> bool:
        """Whether averages may be taken at a state."""
        q, _, V, theta = x
        largest = 4 * self.model.rho / max(self.lam, 1e-6)
        return bool(0 < q < 1e4 * self.model.rho and 0 < V < largest) and bool(
            theta**2 < self.model.rho * q * (1 - 1e-9)
        )

    # -- stages -------------------------------------------------------------------------------

    def run(self) -> FixedPoint:
        """Search, polish, and say how it went."""
        if self.start == "zero":
            return self.zero()
        x = self.first_state()
        try:
            x, status = self.search(x, SEARCH_TOL)
        except _TooExpensive:
            return self.failed(x if self.last is None else self.last, Status.ITERATION_LIMIT)
        except _Vanishes:
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

    def first_state(self) -> Vector:
        """Where the search begins."""
        if isinstance(self.start, Overlaps):
            x = self.start.as_array()
            # averages are taken in the limit on the edge; the iteration starts just inside
            edge = math.sqrt(self.model.rho * x[0]) * (1 - 1e-3)
            x[3] = math.copysign(min(abs(x[3]), edge), x[3])
            return x
        return named_start(self.start, self.model, self.alpha, self.lam).as_array()

    def search(self, x0: Vector, rtol: float) -> tuple[Vector, Status]:
        """Find the fixed point with cheap rules that follow the state.

        Anderson acceleration finds a fixed point nearby in a few maps.  Where it gets lost, because
        there is none or the map oscillates strongly, the flow ``x' = F(x) - x`` is followed
        downstream, and the acceleration is tried again from where it has led; first in short steps,
        at last in long ones.
        """
        rule: PairRule | None = None

        def cheap(x: Vector) -> Vector:
            nonlocal rule
            if rule is None or self.moved(x, rule) > MOVED:
                rule = self.channel.rule(Overlaps.from_array(x), SEARCH_RULE_TOL, checked=False)
            self.spend(rule)
            return self.map(x, rule)[0]

        def attempt(
            x: Vector, maps: int, mixing: float, *, memory: int = 6, newton: bool = False
        ) -> FixedPointResult:
            return solve_fixed_point(
                self.within_reach(cheap),
                x,
                atol=1e-2 * rtol * self.units,
                rtol=rtol,
                memory=memory,
                mixing=mixing,
                newton=newton,
                max_evaluations=maps,
                admissible=self.reachable,
            )

        result = attempt(x0, *FIRST_ATTEMPT)
        if result.status is not FixedPointStatus.CONVERGED and np.all(
            result.residual <= NEARLY * np.abs(result.x) + 1e-2 * rtol * self.units
        ):
            assert self.last is not None
            result = attempt(self.last, *LATER_ATTEMPT)  # on its way, along a slow direction
        x = x0
        for step in FLOW_STEPS:
            if result.status is FixedPointStatus.CONVERGED:
                break
            flow = attempt(x, FLOW_MAPS, step, memory=0)
            if flow.status is FixedPointStatus.CONVERGED:
                return flow.x, Status.CONVERGED
            if self.last is None:
                return flow.x, _STATUS[flow.status]
            x = self.last  # where the flow has led: the residual may have grown on the way
            result = attempt(x, *LATER_ATTEMPT, newton=True)
        for _ in range(GLIDES):
            if result.status is not FixedPointStatus.ITERATION_LIMIT:
                break
            for _ in range(GLIDE_STEPS):
                x = self.glide(x)
            result = attempt(x, *LATER_ATTEMPT, newton=True)
        return result.x, _STATUS[result.status]

    def glide(self, x: Vector) -> Vector:
        """A long step of the flow ``x' = F(x) - x``, by the implicit Euler method.

        Directions in which the map oscillates, which bound explicit steps, are damped.  Where the
        map amplifies one the step is so short that it still goes downstream.
        """
        at = Overlaps.from_array(x)
        rule = self.channel.rule(at, SEARCH_RULE_TOL, checked=False)
        image, averages = self.map(x, rule)
        growth = growth_rates(self.model.rho, averages, self.alpha, self.lam)
        jacobian = map_jacobian(lambda z: self.map(z, rule)[0], x, self.model.rho, growth)
        for _ in range(1 + jacobian.evaluations):
            self.spend(rule)
        inside = np.flatnonzero(x)
        matrix = jacobian.matrix[np.ix_(inside, inside)]
        if not np.all(np.isfinite(matrix)):
            return x
        largest = float(np.max(np.linalg.eigvals(matrix).real))
        time = min(GLIDE_TIME, 0.5 / (largest - 1)) if largest > 1 else GLIDE_TIME
        step = np.zeros(4)
        step[inside] = np.linalg.solve(
            (1 / time + 1) * np.eye(inside.size) - matrix, (image - x)[inside]
        )
        far = np.max(np.abs(step[inside]) / (GLIDE_REACH[inside] * np.abs(x[inside])))
        step /= max(1.0, far)
        for _ in range(GLIDE_HALVINGS):
            if self.admissible(x + step):
                return x + step
            step *= 0.5
        return x

    def within_reach(self, F: Callable[[Vector], Vector]) -> Callable[[Vector], Vector]:
        """F, remembering where it was called last: the centre of the next trust region."""
        self.last = None

        def remembered(x: Vector) -> Vector:
            if x[0] < VANISHING * self.model.rho:
                raise _Vanishes
            self.last = x
            return F(x)

        return remembered

    def reachable(self, x: Vector) -> bool:
        """Whether `x` is in the domain and no more than a trust region from the last state."""
        if not self.admissible(x):
            return False
        if self.last is None:
            return True
        ratio_q, ratio_V = x[0] / self.last[0], x[2] / self.last[2]
        return bool(1 / REACH**2 < ratio_q < REACH**2 and 1 / REACH < ratio_V < REACH)

    def spend(self, rule: PairRule) -> None:
        """Count a map of the search or the polish, and stop a solve that costs too much."""
        self.maps += 1
        self.cost += rule.cost
        if self.cost > LARGEST_COST:
            raise _TooExpensive

    def moved(self, x: Vector, rule: PairRule) -> float:
        """How far a state is from where its rule was made."""
        here = rule.at.as_array()
        gap_here = here[0] - here[3] ** 2 / self.model.rho
        gap = x[0] - x[3] ** 2 / self.model.rho
        width = math.sqrt(here[0])
        return max(
            abs(x[2] / here[2] - 1),
            abs(gap / gap_here - 1),
            abs(x[1] - here[1]) / width,
            abs(x[3] - here[3]) / (width * math.sqrt(self.model.rho)),
            math.inf if (here[1] == 0) != (x[1] == 0) or (here[3] == 0) != (x[3] == 0) else 0.0,
        )

    def snap(self, x: Vector) -> Vector:
        """Set m or theta to 0 where the search has brought it close and the map draws it in."""
        for j in (1, 3):
            if 0 < abs(x[j]) < 0.02 * math.sqrt(x[0]) * self.units[j] / math.sqrt(self.model.rho):
                snapped = x.copy()
                snapped[j] = 0.0
                try:
                    x_even, status = self.search(snapped, SEARCH_TOL)
                except _TooExpensive:
                    continue
                if status is Status.CONVERGED:
                    rate = self.jacobian(x_even).transverse["m" if j == 1 else "theta"]
                    if rate is not None and rate < 1:
                        x = x_even
        return x

    def jacobian(self, x: Vector) -> MapJacobian:
        """Jacobian at `x` by differences of frozen rules."""
        at = Overlaps.from_array(x)
        rule = self.channel.rule(at, JACOBIAN_TOL)
        _, averages = self.map(x, rule)
        jacobian = map_jacobian(
            lambda z: self.map(z, rule)[0],
            x,
            self.model.rho,
            growth_rates(self.model.rho, averages, self.alpha, self.lam),
        )
        self.other_maps += 1 + jacobian.evaluations
        return jacobian

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
            except _TooExpensive:
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


_STATUS = {
    FixedPointStatus.CONVERGED: Status.CONVERGED,
    FixedPointStatus.ITERATION_LIMIT: Status.ITERATION_LIMIT,
    FixedPointStatus.LEFT_DOMAIN: Status.LEFT_DOMAIN,
    FixedPointStatus.NON_FINITE: Status.NON_FINITE,
}


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
