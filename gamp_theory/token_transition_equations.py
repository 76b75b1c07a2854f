"""What vanishes at a transition of the general model, with its slope and its standard error."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gamp_theory.channel.general import GeneralRule, token_linear_error
from gamp_theory.token_evolution import GeneralAnswer, GeneralSolver
from gamp_theory.token_map import TokenEvaluation, TokenSlopes, jackknife
from gamp_theory.token_origin import solve_token_origin
from gamp_theory.token_overlaps import TokenOverlaps
from gamp_theory.token_prior import token_prior_norm
from gamp_theory.token_result import GeneralFixedPoint

__all__ = [
    "SCAN_TOL",
    "EqualGeneralTestError",
    "EqualGeneralTrainLosses",
    "GeneralEquation",
    "GeneralOriginGrowth",
    "GeneralPitchfork",
    "GeneralRoot",
    "TrackedPoint",
]

Array: TypeAlias = NDArray[np.float64]

#: Accuracy with which branches are followed to see what there is, and of the two sides.
SCAN_TOL = 0.1
#: Difference step of an eigenvalue, in the logarithm of the parameter.
EIGENVALUE_STEP = 0.02


class GeneralRoot(NamedTuple):
    """What vanishes at a transition, at one value of the parameter.

    Attributes
    ----------
    value : float
    slope : float
        Derivative by the logarithm of the parameter.
    error : float
        Standard error of `value`.
    """

    value: float
    slope: float
    error: float


class GeneralEquation(Protocol):
    """What vanishes at a transition."""

    def at(self, p: float, samples: int) -> GeneralRoot:
        """Its value, slope and standard error."""

    def sides(self) -> tuple[GeneralFixedPoint, ...]:
        """The fixed points where it was evaluated last."""


class TrackedPoint:
    """A fixed point that is moved along the parameter.

    Parameters
    ----------
    solver_at : callable
        The solver at a logarithm of the parameter.
    parameter : {"alpha", "lam"}
    overlaps : TokenOverlaps
        A good guess, at p.
    p : float
        Logarithm of the parameter.
    """

    def __init__(
        self,
        solver_at: Callable[[float], GeneralSolver],
        parameter: str,
        overlaps: TokenOverlaps,
        p: float,
    ) -> None:
        self.solver_at, self.parameter, self.p = solver_at, parameter, p
        solver = solver_at(p)
        self.x = solver.representative(solver.coordinates.pack(overlaps))
        self.rule: GeneralRule | None = None
        self.solver: GeneralSolver
        self.evaluation: TokenEvaluation
        self.answer: GeneralAnswer
        self.slopes: TokenSlopes | None = None
        self.by_p: Array | None = None

    def move(self, p: float, samples: int, *, fresh: bool = False) -> None:
        """Settle at p with so many points; `fresh` derivatives of the map, or those there are.

        Raises
        ------
        ValueError
            Outside the domain of the map.
        """
        solver = self.solver_at(p)
        x = self.x
        if self.by_p is not None:
            x = x + (p - self.p) * self.by_p
        if self.slopes is None:
            solver.rule = solver.make(x, samples)
            x = solver.representative(solver.approach(x, solver.rule))
            solver.last = None
            self.slopes = solver.slopes(x, solver.rule)
        else:
            solver.rule = self.rule
        evaluation = solver.settle(x, self.slopes, samples)
        assert solver.rule is not None
        if fresh:
            self.slopes = solver.slopes(evaluation.x, solver.rule)
        self.solver, self.evaluation, self.rule = solver, evaluation, solver.rule
        self.x, self.p = evaluation.x, p
        self.answer = solver.answer(evaluation, self.slopes)
        self.by_p = solver.propagate(self.slopes, evaluation, self.by_parameter())

    def by_parameter(self, step: float = 1e-4) -> Array:
        """Derivative of the map by the parameter's logarithm; no average depends on it."""
        sides = []
        for sign in (1, -1):
            there = self.solver_at(self.p + sign * step)
            sides.append(there.prior(self.evaluation.averages.conjugates(there.alpha)))
        return (sides[0] - sides[1]) / (2 * step)

    def train_slope(self) -> float:
        """Derivative of the training loss by the parameter's logarithm."""
        solver = self.solver
        if self.parameter == "alpha":
            return solver.alpha * float(self.evaluation.averages.envelope.mean())
        norm = token_prior_norm(solver.model.law, self.evaluation.conjugates, solver.lam)
        return 0.5 * solver.lam * norm

    def point(self) -> GeneralFixedPoint:
        """The fixed point with all that is reported of one, to the accuracy of a first look."""
        solver, slopes = self.solver, self.slopes
        assert self.rule is not None
        assert slopes is not None
        solver.tol = max(solver.tol, SCAN_TOL)
        return solver.finish(self.x, slopes, self.rule.samples)


class EqualGeneralTrainLosses:
    """Difference of the training losses of two branches."""

    def __init__(self, states: Sequence[TrackedPoint]) -> None:
        self.states = states

    def at(self, p: float, samples: int) -> GeneralRoot:
        """The difference; its error is that of the scrambles, paired."""
        for state in self.states:
            state.move(p, samples)
        one, two = (state.answer for state in self.states)
        # the scrambles are the same for both: their deviations are correlated
        error = jackknife(one.train_shifts - two.train_shifts).item()
        for answer in (one, two):
            error += abs(answer.losses["train"] - answer.losses["variational"])
        return GeneralRoot(
            one.losses["variational"] - two.losses["variational"],
            self.states[0].train_slope() - self.states[1].train_slope(),
            error,
        )

    def sides(self) -> tuple[GeneralFixedPoint, ...]:
        """The fixed points."""
        return tuple(state.point() for state in self.states)


class EqualGeneralTestError:
    """Test error of a branch, less that of the linear baseline."""

    def __init__(self, state: TrackedPoint) -> None:
        self.state = state
        self.linear: dict[int, tuple[float, float]] = {}

    def at(self, p: float, samples: int) -> GeneralRoot:
        """The difference; the baseline has points of its own."""
        state = self.state
        state.move(p, samples)
        assert state.slopes is not None
        if samples not in self.linear:
            self.linear[samples] = token_linear_error(state.solver.model, 4 * samples)
        linear, bar = self.linear[samples]
        return GeneralRoot(
            state.answer.losses["test"] - linear,
            float(state.slopes.test_error @ np.asarray(state.by_p)),
            math.hypot(state.answer.errors.test_error, bar),
        )

    def sides(self) -> tuple[GeneralFixedPoint, ...]:
        """The fixed points."""
        return (self.state.point(),)


class GeneralOriginGrowth:
    """The growth rate of an overlap at Q = 0, less 1."""

    def __init__(
        self, solver_at: Callable[[float], GeneralSolver], parameter: str, name: str
    ) -> None:
        self.solver_at, self.parameter, self.name = solver_at, parameter, name
        self.p = math.nan

    def rate(self, p: float, samples: int) -> tuple[float, float]:
        """The rate less 1, and its standard error; NaN where Q = 0 is no solution."""
        growth = solve_token_origin(self.solver_at(p), samples).growth
        value, error = growth.get(self.name, (math.nan, math.nan))
        return value - 1, error

    def at(self, p: float, samples: int) -> GeneralRoot:
        """The same with its slope."""
        self.p = p
        value, error = self.rate(p, samples)
        there, _ = self.rate(p - EIGENVALUE_STEP, samples)
        if math.isnan(there):
            there, _ = self.rate(p + EIGENVALUE_STEP, samples)
            return GeneralRoot(value, (there - value) / EIGENVALUE_STEP, error)
        return GeneralRoot(value, (value - there) / EIGENVALUE_STEP, error)

    def sides(self) -> tuple[GeneralFixedPoint, ...]:
        """Q = 0 there."""
        solver = self.solver_at(self.p)
        solver.tol, solver.with_stability = max(solver.tol, SCAN_TOL), True
        return (solver.zero(),)


class GeneralPitchfork:
    """The eigenvalue towards an overlap that a symmetry keeps at 0, less 1."""

    def __init__(self, state: TrackedPoint, name: str) -> None:
        self.state, self.name = state, name
        self.slope: float | None = None

    def at(self, p: float, samples: int) -> GeneralRoot:
        """The eigenvalue, from derivatives taken there."""
        state = self.state
        state.move(p, samples, fresh=True)
        assert state.slopes is not None
        value, error = state.solver.transverse(self.name, state.slopes)
        if self.slope is None:
            # by a difference, once: the eigenvalue is known no better than its error
            state.move(p + EIGENVALUE_STEP, samples, fresh=True)
            there, _ = state.solver.transverse(self.name, state.slopes)
            self.slope = (there - value) / EIGENVALUE_STEP
            state.move(p, samples, fresh=True)
        return GeneralRoot(value - 1, self.slope, error)

    def sides(self) -> tuple[GeneralFixedPoint, ...]:
        """The fixed points."""
        return (self.state.point(),)
