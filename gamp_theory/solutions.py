"""All fixed points at one place: random starts over the domain, then deflation.

A solve finds one fixed point near its start.  What else there is takes a search that does not know
where to look: Newton-like iterations from random states of the whole domain end on saddles as
readily as on minima, and deflation repels from everything found so far.  No search of this kind
proves that nothing was missed; the counts say how hard it tried.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gamp_theory.channel.pair import PairRule
from gamp_theory.channel.plane import PlaneUnusable, plane_rule
from gamp_theory.model import AttentionModel
from gamp_theory.numerics.fixed_point import FixedPointStatus, solve_fixed_point
from gamp_theory.overlaps import Overlaps
from gamp_theory.prior import prior_map
from gamp_theory.result import FixedPoint
from gamp_theory.state_evolution import check_arguments, solve

__all__ = ["Solutions", "find_solutions"]

Vector = NDArray[np.float64]

#: Accuracy of the search: residual, rule, and what counts as the same state, in the coordinates of
#: :func:`_coordinates`.
SEARCH_TOL = 3e-4
PLANE_LEVEL, PLANE_TOL = 1, 3e-5
SAME = 1e-2
MAPS = 150  # of one start
#: Random states: decades of q in units of rho, of V in units of rho/lam, and the largest V rho/2.
Q_DECADES = (-2.5, 0.3)
V_DECADES = (-1.3, 0.0)
STEEPEST = 5.0
#: Shares of starts on the invariant subspaces: theta = 0, m = 0, both.
SUBSPACES = (0.2, 0.2, 0.1)
#: The region searched: q in units of rho, V in units of rho/lam.  V can exceed the latter, where
#: the mean curvature of the loss is negative, by a little (1.23 at the places of the inventory).
LARGEST_Q, LARGEST_V = 20.0, 2.0
MOVED = 0.15
VANISHING = 1e-5  # q in units of rho: below, grids become very fine too
LEAST_GAP = 1e-3  # of q - theta**2/rho in units of q: closer to the edge grids become very fine
#: Deflated Newton: starts of a round, steps of a start, largest step, difference step.
ROUND = 8
STEPS = 40
LARGEST_STEP = 0.5
DIFFERENCE = 1e-4
HALVINGS = 5
MOST_REFUSED = 3  # steps in a row that do not descend at any length
MOST_ROUNDS = 30


@dataclass(frozen=True)
class Solutions:
    """The fixed points found at one (alpha, lam), modulo ``m -> -m`` and ``theta -> -theta``.

    Attributes
    ----------
    points : tuple of FixedPoint
        Converged, distinct, by increasing training loss.
    reached : tuple of int
        Of the random starts, how many ended at each; 0 for one that only deflation (or, for
        Q = 0, its own equation) has found.
    starts : int
        Random starts.
    lost : dict
        Starts that ended nowhere, by reason: ``iteration_limit``, ``left_domain``, ``non_finite``,
        ``expensive`` (it met states that the plane rule can not do) and ``vanishing`` (q shrank to
        nothing where Q = 0 is not a fixed point).
    rounds : int
        Rounds of deflation, of 8 starts each.
    idle_rounds : int
        How many of them, at the end, found nothing new.
    unpolished : tuple of FixedPoint
        States that the search took for fixed points and :func:`gamp_theory.solve` did not confirm:
        flagged results, or another fixed point than where the search had ended.
    seed : int
    """

    points: tuple[FixedPoint, ...]
    reached: tuple[int, ...]
    starts: int
    lost: dict[str, int]
    rounds: int
    idle_rounds: int
    unpolished: tuple[FixedPoint, ...]
    seed: int

    @property
    def degree(self) -> int | None:
        """Sum of ``(-1)**index`` over all points and their images: 1 if none is missing (6.10).

        The sign is that of ``det(1 - J)``.  None if the points came without stability.  A 1 is no
        proof (two missed points, one of either sign, leave it), anything else is an alarm.
        """
        total = 0
        for point in self.points:
            if point.stability is None or point.overlaps is None:
                return None
            images = (2 if point.overlaps.m else 1) * (2 if point.overlaps.theta else 1)
            determinant = math.prod((1 - v for v in point.stability.eigenvalues), start=1 + 0j)
            total += images * (1 if determinant.real > 0 else -1)
        return total


def find_solutions(
    model: AttentionModel,
    alpha: float,
    lam: float,
    starts: int = 60,
    *,
    seed: int = 0,
    idle_rounds: int = 3,
    tol: float = 1e-6,
    with_stability: bool = True,
) -> Solutions:
    """Search for every fixed point of state evolution at one place (docs/theory.md, section 6).

    Random starts first: q, V and the shares of q that lie along p and Q* are drawn over the domain,
    some on the subspaces m = 0 and theta = 0, and iterated by Anderson acceleration and Newton's
    method with the plane rule.  States that this rule can not do (docs/numerics.md) are avoided, so
    a fixed point among them can be missed; starts that met them are counted.  Then deflated Newton
    iterations, in rounds, from further random states and from beside the solutions found, until
    `idle_rounds` of them find nothing.  Each candidate is polished by :func:`gamp_theory.solve`
    from where it is.

    Parameters
    ----------
    model : AttentionModel
    alpha, lam : float
    starts : int
        Random starts, at least 1.
    seed : int
        The same seed gives the same search.
    idle_rounds : int
        Rounds of deflation without a find that end the search; 0 for none at all.
    tol : float
        Accuracy of the polished points.
    with_stability : bool
        Whether the points come with their stability.

    Raises
    ------
    ValueError
        On bad input, before any work.
    """
    check_arguments(model, alpha, lam, "zero", tol)
    if not lam > 0:
        raise ValueError(f"lam must be > 0 for a search, got {lam!r}")
    if starts < 1:
        raise ValueError(f"starts must be at least 1, got {starts!r}")
    if idle_rounds < 0:
        raise ValueError(f"idle_rounds must be >= 0, got {idle_rounds!r}")
    search = _Search(model, float(alpha), float(lam), seed)
    zero = solve(model, alpha, lam, "zero", tol, with_stability=with_stability, on_failure="return")
    for _ in range(starts):
        search.random_start(zero.converged)
    rounds = idle = 0
    while idle < idle_rounds and rounds < MOST_ROUNDS:
        rounds += 1
        idle = 0 if search.deflated_round() else idle + 1

    points = [zero] if zero.converged else []
    reached = [search.vanished] if zero.converged else []
    unpolished = []
    for x, count in zip(search.found, search.counts, strict=True):
        point = solve(
            model,
            alpha,
            lam,
            Overlaps.from_array(x),
            tol,
            with_stability=with_stability,
            on_failure="return",
        )
        known = [i for i, other in enumerate(points) if _same_point(model, point, other)]
        if point.converged and known:
            reached[known[0]] += count
        elif point.converged and _distance(model, point.overlaps, x) < 5 * SAME:
            points.append(point)
            reached.append(count)
        else:
            unpolished.append(point)
    order = np.argsort([point.train_loss for point in points], kind="stable")
    return Solutions(
        points=tuple(points[i] for i in order),
        reached=tuple(reached[i] for i in order),
        starts=starts,
        lost=dict(search.lost),
        rounds=rounds,
        idle_rounds=idle,
        unpolished=tuple(unpolished),
        seed=seed,
    )


class _Vanishes(Exception):
    """q shrinks to nothing."""


class _Search:
    """Candidates, and how often each was reached."""

    def __init__(self, model: AttentionModel, alpha: float, lam: float, seed: int) -> None:
        self.model, self.alpha, self.lam = model, alpha, lam
        self.rng = np.random.default_rng(seed)
        rho = model.rho
        self.units = np.array([rho, math.sqrt(rho), 1.0, rho])
        self.found: list[Vector] = []
        self.counts: list[int] = []
        self.lost: Counter[str] = Counter()
        self.vanished = 0

    # -- the map ------------------------------------------------------------------------------

    def cheap_map(self) -> _CheapMap:
        return _CheapMap(self)

    def random_state(self) -> Vector:
        """A state of the domain: q and V over decades, shares of q along p and along Q*."""
        rng, rho = self.rng, self.model.rho
        q = rho * 10 ** rng.uniform(*Q_DECADES)
        V = rho / self.lam * 10 ** rng.uniform(*V_DECADES)
        along_p, along_teacher, _ = rng.dirichlet([0.5, 0.5, 0.5])
        m, theta = math.sqrt(along_p * q / rho), math.sqrt(along_teacher * q * rho)
        subspace = rng.choice(4, p=[1 - sum(SUBSPACES), *SUBSPACES])
        if subspace in (1, 3):
            theta = 0.0
        if subspace in (2, 3):
            m = 0.0
        x = np.array([q, m, min(V, 2 * STEEPEST / rho), theta * (1 - 1e-3)])
        while np.isnan(
            self.cheap_map()(x)
        ).any():  # what the fast rule can not do it can at small V
            x[2] /= 2
        return x

    # -- random starts ------------------------------------------------------------------------

    def random_start(self, zero_exists: bool) -> None:
        """Iterate from one random state and book where it ends."""
        F = self.cheap_map()
        try:
            result = solve_fixed_point(
                F,
                self.random_state(),
                atol=1e-2 * SEARCH_TOL * self.units,
                rtol=SEARCH_TOL,
                mixing=0.3,
                max_evaluations=MAPS,
                admissible=self.admissible,
            )
        except _Vanishes:
            if zero_exists:
                self.vanished += 1
            else:
                self.lost["vanishing"] += 1
            return
        if result.status is FixedPointStatus.CONVERGED:
            self.book(result.x, 1)
        else:
            self.lost["expensive" if F.refused else result.status.token] += 1

    def admissible(self, x: Vector) -> bool:
        q, _, V, theta = x
        rho = self.model.rho
        return bool(0 < q < LARGEST_Q * rho and 0 < V < LARGEST_V * rho / self.lam) and bool(
            theta**2 < rho * q * (1 - 1e-9)
        )

    def book(self, x: Vector, count: int) -> bool:
        """Enter a candidate; whether it is a new one."""
        x = np.abs(x)
        for j in (1, 3):  # a search from off a subspace may end on it, up to its tolerance
            if x[j] < SAME * math.sqrt(x[0]) * self.units[j] / math.sqrt(self.model.rho):
                x[j] = 0.0
        for i, other in enumerate(self.found):
            if _distance(self.model, Overlaps.from_array(x), other) < SAME:
                self.counts[i] += count
                return False
        self.found.append(x)
        self.counts.append(count)
        return True

    # -- deflation ----------------------------------------------------------------------------

    def deflated_round(self) -> bool:
        """Deflated Newton from a round of states; whether any found something new."""
        new = False
        for k in range(ROUND):
            x = self.random_state()
            if self.found and k % 2:  # beside a known solution, from which deflation repels
                known = _coordinates(self.model, self.found[self.rng.integers(len(self.found))])
                x = _state(self.model, known + self.rng.normal(scale=0.1, size=4))
            end = self.deflated_newton(x)
            if end is not None and self.book(end, 0):
                new = True
        return new

    def deflated_newton(self, x: Vector) -> Vector | None:
        """Newton's method on ``M(u) (F(u) - u)``, with M infinite at every known solution.

        Its step is that of Newton's method without M, times a number [1]_.

        References
        ----------
        .. [1] P. E. Farrell, A. Birkisson and S. W. Funke, "Deflation techniques for finding
           distinct solutions of nonlinear partial differential equations", SIAM J. Sci. Comput. 37,
           A2026 (2015).
        """
        F = self.cheap_map()
        u = _coordinates(self.model, x)
        inside = np.array([True, x[1] != 0, True, x[3] != 0])

        def residual(v: Vector) -> Vector | None:
            y = _state(self.model, v)
            if not self.admissible(y):
                return None
            image = F(y)
            if not np.all(np.isfinite(image)) or not self.admissible(image):
                return None
            return np.where(inside, _coordinates(self.model, image) - v, 0.0)

        try:
            r = residual(u)
            refused = 0
            for _ in range(STEPS):
                if r is None:
                    return None
                size = float(np.max(abs(r)))
                if size < SEARCH_TOL:
                    return _state(self.model, u)
                J = np.zeros((4, 4))
                for j in np.flatnonzero(inside):
                    beside = residual(u + DIFFERENCE * (np.arange(4) == j))
                    if beside is None:
                        return None
                    J[:, j] = (beside - r) / DIFFERENCE
                step = np.zeros(4)
                step[inside] = np.linalg.lstsq(J[np.ix_(inside, inside)], -r[inside], rcond=1e-10)[
                    0
                ]
                log_M, slope = self.deflation(u)
                repelled = 1 - float(slope @ step)
                step /= repelled if abs(repelled) > 1e-8 else 1e-8
                step /= max(1.0, float(np.max(abs(step))) / LARGEST_STEP)
                merit = log_M + math.log(size)
                for k in range(HALVINGS + 1):
                    there = u + step * 0.5**k
                    r_there = residual(there)
                    if r_there is not None and (
                        k == HALVINGS
                        or self.deflation(there)[0] + math.log(np.max(abs(r_there)) + 1e-300)
                        < merit
                    ):
                        break
                refused = refused + 1 if k == HALVINGS else 0
                if refused == MOST_REFUSED:
                    return None
                u, r = there, r_there
            return None
        except _Vanishes:
            return None
        return None

    def deflation(self, u: Vector) -> tuple[float, Vector]:
        """``log M`` with ``M = prod (1 + 1/|u - u_i|**2)`` over solutions and images; its slope."""
        total, slope = 0.0, np.zeros(4)
        for x in self.found:
            known = _coordinates(self.model, x)
            for signs in {(a, b) for a in (1, -1 if x[1] else 1) for b in (1, -1 if x[3] else 1)}:
                d = u - known * np.array([1, signs[0], 1, signs[1]])
                square = float(d @ d) + 1e-300
                total += math.log1p(1 / square)
                slope -= 2 * d / (square * (1 + square))
        return total, slope


class _CheapMap:
    """The undamped map with a rule that is made anew where the state has moved."""

    def __init__(self, search: _Search) -> None:
        self.search = search
        self.rule: PairRule | None = None
        self.refused = False

    def __call__(self, x: Vector) -> Vector:
        search = self.search
        model = search.model
        if x[0] < VANISHING * model.rho:
            raise _Vanishes
        at = Overlaps.from_array(x)
        if self.rule is None or self.moved(x) > MOVED:
            if x[0] - x[3] ** 2 / model.rho < LEAST_GAP * x[0]:
                self.refused = True
                return np.full(4, np.nan)
            try:
                self.rule = self.fresh(at)
            except PlaneUnusable:
                self.refused = True
                return np.full(4, np.nan)
        averages = self.rule.averages(at)
        return prior_map(model.rho, averages.conjugates(search.alpha).as_array(), search.lam)

    def fresh(self, at: Overlaps) -> PairRule:
        """The plane rule, unchecked: each candidate is polished with rules that are."""
        model = self.search.model
        return PairRule(model, at, PLANE_TOL, plane_rule(model, at, PLANE_LEVEL), True)

    def moved(self, x: Vector) -> float:
        assert self.rule is not None
        here = self.rule.at.as_array()
        if (here[1] == 0) != (x[1] == 0) or (here[3] == 0) != (x[3] == 0):
            return math.inf
        rho = self.search.model.rho
        gap, gap_here = x[0] - x[3] ** 2 / rho, here[0] - here[3] ** 2 / rho
        change = abs(_coordinates(self.search.model, x) - _coordinates(self.search.model, here))
        return max(float(change.max()), abs(gap / gap_here - 1))


def _coordinates(model: AttentionModel, x: Vector) -> Vector:
    """``log q, m sqrt(rho/q), log V, theta/sqrt(rho q)``: of order 1, and the domain a box."""
    q, m, V, theta = x
    return np.array(
        [math.log(q), m * math.sqrt(model.rho / q), math.log(V), theta / math.sqrt(model.rho * q)]
    )


def _state(model: AttentionModel, u: Vector) -> Vector:
    """Inverse of :func:`_coordinates`; out of the domain, where it leads there, but finite."""
    q, V = math.exp(min(u[0], 50.0)), math.exp(min(u[2], 50.0))
    return np.array([q, u[1] * math.sqrt(q / model.rho), V, u[3] * math.sqrt(model.rho * q)])


def _distance(model: AttentionModel, one: Overlaps | None, other: Vector) -> float:
    """Largest difference of coordinates, modulo the symmetries."""
    if one is None or one.q == 0:
        return math.inf
    a, b = _coordinates(model, one.as_array()), _coordinates(model, other)
    return float(np.max(abs(_even(a) - _even(b))))


def _even(u: Vector) -> Vector:
    return np.array([u[0], abs(u[1]), u[2], abs(u[3])])


def _same_point(model: AttentionModel, one: FixedPoint, other: FixedPoint) -> bool:
    """Whether two solves agree within their error bars, or ten times the tolerance."""
    if one.overlaps is None or other.overlaps is None:
        return False
    if (one.overlaps.q == 0) != (other.overlaps.q == 0):
        return False
    a, b = one.overlaps.as_array(), other.overlaps.as_array()
    bars = np.array([[e.q, e.m, e.V, e.theta] for e in (one.errors, other.errors)]).sum(axis=0)
    scale = np.array([abs(b[0]), math.sqrt(b[0] / model.rho), b[2], math.sqrt(model.rho * b[0])])
    return bool(np.all(abs(abs(a) - abs(b)) <= 2 * bars + 10 * max(one.tol, other.tol) * scale))
