"""Search for a fixed point of the two-token model from a start, with cheap rules.

The map is iterated by Anderson acceleration, and along its own flow, with rules that follow the
state.  What it ends at is a guess that :class:`gamp_theory.state_evolution.Solver` polishes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gamp_theory.channel.base import ChannelAverages
from gamp_theory.channel.pair import PairChannel, PairRule
from gamp_theory.model import AttentionModel
from gamp_theory.numerics.fixed_point import (
    FixedPointResult,
    FixedPointStatus,
    solve_fixed_point,
)
from gamp_theory.overlaps import Overlaps
from gamp_theory.prior import prior_map
from gamp_theory.result import Status
from gamp_theory.stability import (
    MapJacobian,
    growth_rates,
    map_jacobian,
)
from gamp_theory.starts import named_start

__all__ = ["SEARCH_TOL", "PairSearch", "TooExpensive", "Vanishes"]

Vector = NDArray[np.float64]

#: The search, its rules, and those of the Jacobian are content with this.
SEARCH_TOL = 2e-3
SEARCH_RULE_TOL = 5e-3
JACOBIAN_TOL = 5e-4
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
#: Largest factor by which V may change in a step of the search; q by its square.
REACH = 2.0
#: Slices that a solve may integrate in all: a minute or so.
LARGEST_COST = 10_000_000
#: A rule is made anew where the state has moved by more than this.
MOVED = 0.2


class Vanishes(Exception):
    """The student shrinks to nothing: the search is on its way to Q = 0."""


class TooExpensive(Exception):
    """The slices that a solve may integrate are used up."""


class PairSearch:
    """The map at one place, and what iterates it there.

    Attributes
    ----------
    model : AttentionModel
    alpha, lam : float
    start : str or Overlaps
    last : array or None
        Where the map was taken last.
    cost : int
        Slices integrated so far.
    maps, other_maps : int
        Maps of the search and the answer, and those for Jacobians and error bars.
    units : array, shape (4,)
        Natural sizes of q, m, V, theta.
    """

    def __init__(
        self, model: AttentionModel, alpha: float, lam: float, start: str | Overlaps
    ) -> None:
        self.model, self.alpha, self.lam, self.start = model, alpha, lam, start
        self.channel = PairChannel(model)
        self.last: Vector | None = None
        self.cost = 0
        self.maps = 0
        self.other_maps = 0
        rho = model.rho
        self.units = np.array([rho, math.sqrt(rho), 1.0, rho])

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
                raise Vanishes
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
            raise TooExpensive

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
                except TooExpensive:
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


_STATUS = {
    FixedPointStatus.CONVERGED: Status.CONVERGED,
    FixedPointStatus.ITERATION_LIMIT: Status.ITERATION_LIMIT,
    FixedPointStatus.LEFT_DOMAIN: Status.LEFT_DOMAIN,
    FixedPointStatus.NON_FINITE: Status.NON_FINITE,
}
