"""Transitions: where two branches exchange, as a value with a bracket and an error."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np
from scipy.optimize import brentq

from gamp_theory.model import AttentionModel
from gamp_theory.overlaps import Overlaps
from gamp_theory.state_evolution import FixedPoint, Status, solve

__all__ = ["KINDS", "Transition", "TransitionStatus", "find_transition"]

KINDS = ("alpha_c", "alpha_l")
#: Points of the scan that brackets a transition, geometric in alpha; coarse solves.
SCAN = 21
SCAN_TOL = 1e-3
#: A bracket reaches this many error bars to either side, and at least so far, relative.
BRACKET = 3.0
LEAST_BRACKET = 1e-7


class TransitionStatus(Enum):
    """How a search for a transition ended."""

    CONVERGED = "Converged: the bracket holds the transition."
    DOES_NOT_EXIST = "There is no such transition in the range."
    NOT_BRACKETED = "The two ends of the bracket could not be told apart."
    SOLVE_FAILED = "A fixed point beside the transition could not be solved."

    @property
    def token(self) -> str:
        """The name in lower case, for programs."""
        return self.name.lower()


@dataclass(frozen=True)
class Transition:
    """A transition in alpha.

    Attributes
    ----------
    kind : {"alpha_c", "alpha_l"}
        ``alpha_c``: semantic and positional training losses are equal (first order).
        ``alpha_l``: the test error of the branch of lowest training loss equals the linear
        baseline.
    parameter : str
        ``"alpha"``.
    value : float
        NaN where there is none.
    error : float
        Error bar, from those of the losses.
    bracket : tuple of float
        Holds `value`; the sign has been seen to differ between its ends.
    status : TransitionStatus
    sides : tuple of FixedPoint
        The fixed points that are compared, at `value`.
    others : tuple of Transition
        Further ones in the range, at higher alpha.
    """

    kind: str
    parameter: str
    value: float
    error: float
    bracket: tuple[float, float]
    status: TransitionStatus
    sides: tuple[FixedPoint, ...] = ()
    others: tuple[Transition, ...] = ()

    def __post_init__(self) -> None:
        if self.status is TransitionStatus.CONVERGED:
            lo, hi = self.bracket
            if not lo <= self.value <= hi:
                raise ValueError(f"value {self.value!r} is outside its bracket {self.bracket!r}")

    @property
    def message(self) -> str:
        """What happened, in a sentence."""
        return self.status.value


def find_transition(
    model: AttentionModel,
    kind: str,
    alpha: tuple[float, float] = (0.01, 4.0),
    lam: float = 0.01,
    tol: float = 1e-6,
    *,
    progress: Callable[[float], object] | None = None,
) -> Transition:
    """Locate a transition between fixed points in alpha.

    A coarse scan brackets every sign change between neighbouring points where the branches that
    are compared both exist; each is closed in on with fixed points of full accuracy.

    Parameters
    ----------
    model : AttentionModel
    kind : {"alpha_c", "alpha_l"}
    alpha : tuple of float
        Range to search, both ends positive.
    lam : float
        Ridge.
    tol : float
        Accuracy of the fixed points.
    progress : callable, optional
        Called with every alpha of the scan.

    Returns
    -------
    Transition
        The one of lowest alpha; further ones in its `others`.

    Raises
    ------
    ValueError
        On an unknown kind or a bad range.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    lo, hi = alpha
    if not (math.isfinite(hi) and 0 < lo < hi):
        raise ValueError(f"alpha must be a range with 0 < low < high, got {alpha!r}")
    search = _Search(model, kind, lam, tol)
    scan = np.geomspace(lo, hi, SCAN)
    previous: _Sample | None = None
    found = []
    for value in scan:
        if progress is not None:
            progress(float(value))
        sample = search.sample(float(value), SCAN_TOL, previous)
        # the sign of a difference that is exactly zero counts as positive
        if (
            previous is not None
            and previous.valid
            and sample.valid
            and (previous.difference < 0) != (sample.difference < 0)
        ):
            found.append(search.close_in(previous, sample))
        previous = sample
    if not found:
        return Transition(
            kind,
            "alpha",
            math.nan,
            math.nan,
            (math.nan, math.nan),
            TransitionStatus.DOES_NOT_EXIST,
        )
    return dataclasses.replace(found[0], others=tuple(found[1:]))


@dataclass(frozen=True)
class _Sample:
    """The quantity whose zero is sought, at one alpha."""

    alpha: float
    points: dict[str, FixedPoint]
    difference: float
    error: float

    @property
    def valid(self) -> bool:
        return math.isfinite(self.difference)


class _Search:
    def __init__(self, model: AttentionModel, kind: str, lam: float, tol: float) -> None:
        self.model, self.kind, self.lam, self.tol = model, kind, lam, tol
        self.branches: tuple[str, ...] = ("semantic", "positional")
        if kind == "alpha_l":
            self.branches = ("semantic", "positional", "uninformed")

    def sample(self, alpha: float, tol: float, near: _Sample | None) -> _Sample:
        """Solve the branches at `alpha`, warm from a neighbour where there is one."""
        points = {}
        for name in self.branches:
            point = None
            if near is not None and name in near.points:
                state = near.points[name].overlaps
                assert state is not None
                point = self.solved(alpha, state, tol, name)
            if point is None:
                point = self.solved(alpha, name, tol, name)
            if point is not None:
                points[name] = point
            if self.kind == "alpha_l" and name == "positional" and len(points) > 0:
                break  # the uninformed branch matters only where it is alone
        difference, error = self.compare(points)
        return _Sample(alpha, points, difference, error)

    def solved(
        self, alpha: float, start: str | Overlaps, tol: float, name: str
    ) -> FixedPoint | None:
        """The fixed point if it is on the branch `name`, whatever its quadrature error."""
        point = solve(
            self.model, alpha, self.lam, start, tol, with_stability=False, on_failure="return"
        )
        usable = (Status.CONVERGED, Status.QUADRATURE_LIMIT)
        return point if point.status in usable and point.branch == name else None

    def compare(self, points: dict[str, FixedPoint]) -> tuple[float, float]:
        """The quantity and its error bar; NaN where a branch is missing."""
        if self.kind == "alpha_c":
            if len(points) < 2:
                return math.nan, math.nan
            semantic, positional = points["semantic"], points["positional"]
            return (
                semantic.train_loss - positional.train_loss,
                semantic.errors.train_loss + positional.errors.train_loss,
            )
        if not points:
            return math.nan, math.nan
        best = min(points.values(), key=lambda point: point.train_loss)
        return best.test_error - best.linear_error, best.errors.test_error

    def close_in(self, left: _Sample, right: _Sample) -> Transition:
        """Brent's method with full accuracy between two samples of opposite sign."""
        seen = {left.alpha: left, right.alpha: right}

        def difference(alpha: float) -> float:
            if alpha in (left.alpha, right.alpha):
                return seen[alpha].difference
            near = min(seen.values(), key=lambda s: abs(s.alpha - alpha))
            seen[alpha] = self.sample(alpha, self.tol, near)
            if not seen[alpha].valid:
                raise _Lost
            return seen[alpha].difference

        try:
            root = float(
                brentq(difference, left.alpha, right.alpha, xtol=1e-9, rtol=1e-9, maxiter=60)
            )
            at = seen[root] if root in seen else self.sample(root, self.tol, left)
            slope = self.slope(at, left, right)
            error = float(at.error / abs(slope))
            half = max(BRACKET * error, LEAST_BRACKET * root)
            for _ in range(3):
                below = self.sample(root - half, self.tol, at)
                above = self.sample(root + half, self.tol, at)
                if not (below.valid and above.valid):
                    raise _Lost
                if (below.difference < 0) != (above.difference < 0):
                    return Transition(
                        self.kind,
                        "alpha",
                        root,
                        error,
                        (root - half, root + half),
                        TransitionStatus.CONVERGED,
                        tuple(at.points.values()),
                    )
                half *= 4
        except _Lost:
            return self.unsolved(left, right, TransitionStatus.SOLVE_FAILED)
        return self.unsolved(left, right, TransitionStatus.NOT_BRACKETED)

    def unsolved(self, left: _Sample, right: _Sample, status: TransitionStatus) -> Transition:
        bracket = (left.alpha, right.alpha)
        return Transition(self.kind, "alpha", math.nan, math.nan, bracket, status)

    def slope(self, at: _Sample, left: _Sample, right: _Sample) -> float:
        """Derivative of the difference in alpha: exact for alpha_c, a chord for alpha_l."""
        if self.kind == "alpha_c":
            rates = []
            for name in self.branches:
                point = at.points[name]
                assert point.averages is not None
                assert point.overlaps is not None
                rates.append(point.averages.envelope(point.overlaps.V))
            return rates[0] - rates[1]
        return (right.difference - left.difference) / (right.alpha - left.alpha)


class _Lost(Exception):
    """A branch that is compared disappeared on the way to the root."""
