"""One search for transitions: what branches there are, what they show, and the bracket around it.

Branches are looked for at a few places, followed to both ends of the range, and what they show is
closed in on with the equations of :mod:`gamp_theory.transition_equations`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from gamp_theory.branch_map import BranchMap, Place, place_at, value_of
from gamp_theory.branch_result import Branch, SpecialPoint
from gamp_theory.branch_result import Stop as BranchStop
from gamp_theory.branches import follow
from gamp_theory.channel.origin import solve_origin
from gamp_theory.numerics.bracketing import (
    RootStatus,
    Sample,
    bracket_root,
    denser,
    sign_changes,
    uncovered,
)
from gamp_theory.overlaps import Overlaps
from gamp_theory.state_evolution import (
    QUADRATURE_SHARE,
    FixedPoint,
    Status,
    solve,
)
from gamp_theory.transition_equations import (
    EqualTestError,
    EqualTrainLosses,
    Fold,
    NoRoot,
    Pitchfork,
    TransitionEquations,
)
from gamp_theory.transition_result import OTHER, OVERLAP, Transition, TransitionStatus

__all__ = ["TransitionSearch"]

Vector: TypeAlias = NDArray[np.float64]

#: Accuracy with which branches are followed to see what there is.
SCAN_TOL = 1e-2
#: Ends of branches that go on, but could not be followed.
LOST = (BranchStop.SMALLEST_STEP, BranchStop.POINT_LIMIT, BranchStop.QUADRATURE_LIMIT)
#: Points at which Q = 0 is looked at, and the accuracy of its growth rates.
ORIGIN_SCAN = 25
ORIGIN_ERROR = 1e-9
#: Where on the range a branch is looked for, until it is found: fractions, from the top.
PLACES = (1.0, 0.75, 0.5, 0.25, 0.0)
#: Points at which two followed branches are compared, for each that was computed.
DENSER = 4
#: A bracket reaches this many error bars to either side, at least so far, relative, and is widened
#: where the ends can not be told apart.
BRACKET = 2.0
LEAST_BRACKET = 2e-7
WIDENINGS = 4
WIDER = 3.0
#: The averages of losses are refined until the error is this many times the tolerance.
ENOUGH = 2.0
ROUNDS = 4
#: The same for growth rates, whose averages cost most; and only of planes, slices are left alone.
ENOUGH_GROWTH = 100.0
#: A part of the range without a branch, in the parameter's coordinate, that is worth a look.
GAP = 0.05
#: Two roots closer than this, in the parameter's coordinate, are one.
SAME = 1e-5


@dataclass(frozen=True, eq=False)
class _Stretch:
    """A part of a branch without a fold: a function of the parameter."""

    branch: Branch
    name: str
    p: Vector
    points: tuple[FixedPoint, ...]

    def curve(self, of: Callable[[FixedPoint], float]) -> PchipInterpolator:
        """What is asked of the points, as a function of the coordinate of the parameter."""
        return PchipInterpolator(self.p, [of(point) for point in self.points], extrapolate=False)

    def overlaps(self, p: float) -> Overlaps:
        """The state at a coordinate, for a guess."""
        states = np.array([point.overlaps.as_array() for point in self.points])  # type: ignore[union-attr]
        return Overlaps.from_array(PchipInterpolator(self.p, states)(p))


class TransitionSearch:
    """One search; :meth:`run` has what it finds.

    Parameters
    ----------
    kind : str
        One of :data:`gamp_theory.transition_result.KINDS`.
    place : Place
        Model, alpha and lam; that of them which is `parameter` does not matter.
    parameter : {"alpha", "omega", "lam", "sigma"}
    span : (low, high)
        Range of the parameter.
    tol : float
        Relative accuracy of the fixed points and of the value.
    progress : callable, optional
        Called with the parameter at every point of the branches that are followed.
    certify : bool
        Whether fixed points are solved at the ends of the bracket.
    """

    def __init__(
        self,
        kind: str,
        place: Place,
        parameter: str,
        span: tuple[float, float],
        tol: float,
        progress: Callable[[float], object] | None,
        certify: bool = True,
    ) -> None:
        self.kind, self.place, self.parameter, self.tol = kind, place, parameter, tol
        self.lo, self.hi = span
        self.certify = certify
        self.progress = progress
        # the coordinate of the parameter: its logarithm, or itself
        self.axis = BranchMap(place, parameter, (), tol)
        self.followed: dict[str, list[Branch]] = {}

    def run(self) -> list[Transition]:
        """All transitions of the kind, by value."""
        if self.kind == "alpha_c":
            found = list(self.crossings())
        elif self.kind == "alpha_l":
            found = list(self.baselines())
        else:
            found = list(self.specials())
        # those that could not be solved have no value: last
        found.sort(key=lambda one: (math.isnan(one.value), one.value))
        distinct: list[Transition] = []
        for one in found:
            near = distinct and abs(one.value - distinct[-1].value) <= SAME * one.value
            if not near:
                distinct.append(one)
        return distinct

    def why_none(self) -> TransitionStatus:
        """That none was found is no proof where a branch was lost."""
        pieces = [piece for branches in self.followed.values() for piece in branches]
        if any(piece.stop in LOST for piece in pieces):
            return TransitionStatus.SOLVE_FAILED
        return TransitionStatus.DOES_NOT_EXIST

    # -- branches ----------------------------------------------------------------------------------

    def branches(self, name: str) -> list[Branch]:
        """The branches of a name, followed from where they are found to both ends of the range.

        One is looked for until there is a piece with stable points that is not lost on its way, or
        nowhere else to look.
        """
        if name in self.followed:
            return self.followed[name]
        ends = self.axis.coordinate(self.lo or 0.0), self.axis.coordinate(self.hi)
        found: list[Branch] = []
        for fraction in PLACES:
            value = self.axis.value(ends[0] + fraction * (ends[1] - ends[0]))
            value = {0.0: self.lo, 1.0: self.hi}.get(fraction, value)
            point = self.solved(name, value, SCAN_TOL)
            if point is None:
                continue
            pieces = [
                follow(
                    point,
                    self.parameter,
                    to,
                    back_to=self.hi if to == self.lo else self.lo,
                    on_point=self.seen,
                )
                for to in (self.lo, self.hi)
                if to != value
            ]
            found += pieces
            known = [point.stability for piece in pieces for point in piece.points]
            stable = name == "uninformed" or any(s is not None and s.stable for s in known)
            if stable and not (self.certify and any(piece.stop in LOST for piece in pieces)):
                break
        self.followed[name] = found
        return found

    def seen(self, point: FixedPoint) -> None:
        """Report the progress that a point of a branch is."""
        if self.progress is not None:
            self.progress(value_of(point, self.parameter))

    def solved(self, start: str | Overlaps, value: float, tol: float) -> FixedPoint | None:
        """A fixed point at a value of the parameter; of the name, if that is how it was asked."""
        here = place_at(self.place, self.parameter, value)
        point = solve(
            here.model, here.alpha, here.lam, start, tol, with_stability=False, on_failure="return"
        )
        if point.status not in (Status.CONVERGED, Status.QUADRATURE_LIMIT):
            return None
        return None if isinstance(start, str) and point.branch != start else point

    def stretches(self, name: str) -> list[_Stretch]:
        """The branches of a name, cut at their folds, in the order of the parameter."""
        found = []
        for branch in self.branches(name):
            p = np.array([self.axis.coordinate(value) for value in branch.values])
            cuts = np.flatnonzero(np.diff(np.sign(np.diff(p)))) + 1
            bounds = [0, *(int(cut) for cut in cuts), len(p) - 1]
            for left, right in itertools.pairwise(bounds):
                part = slice(left, right + 1)
                order = np.argsort(p[part])
                points = tuple(branch.points[part][i] for i in order)
                if len(points) > 1:
                    found.append(_Stretch(branch, name, p[part][order], points))
        return found

    # -- what is looked for ------------------------------------------------------------------------

    def crossings(self) -> Iterator[Transition]:
        """Equal training losses of the semantic and the positional branch."""
        semantic = self.stretches("semantic")
        if not semantic:
            return
        # the other is of interest where this one exists
        ends = [self.axis.value(float(s.p[k])) for s in semantic for k in (0, -1)]
        if self.certify:  # it is asked for nothing else
            self.lo, self.hi = max(self.lo, min(ends)), min(self.hi, max(ends))
        for one in semantic:
            for two in self.stretches("positional"):
                for p in self.equal(one, two):
                    equations = EqualTrainLosses(
                        place_at(self.place, self.parameter, self.axis.value(p)),
                        self.parameter,
                        [("theta",), ("m",)],
                        QUADRATURE_SHARE * self.tol,
                    )
                    yield self.close_in(equations, [one.overlaps(p), two.overlaps(p)], p)

    def equal(self, one: _Stretch, two: _Stretch) -> list[float]:
        """Coordinates at which the training losses of two stretches cross."""
        lo, hi = max(one.p[0], two.p[0]), min(one.p[-1], two.p[-1])
        if lo >= hi:
            return []
        return _roots(
            lambda p: one.curve(_log_loss)(p) - two.curve(_log_loss)(p),
            denser(np.concatenate([one.p, two.p]), lo, hi, DENSER),
        )

    def baselines(self) -> Iterator[Transition]:
        """Test error of the lowest branch equal to the linear baseline."""
        stretches = [s for name in ("semantic", "positional") for s in self.stretches(name)]
        # the uninformed branch is a saddle where there are others
        known = [(float(s.p[0]), float(s.p[-1])) for s in stretches]
        ends = self.axis.coordinate(self.lo or 0.0), self.axis.coordinate(self.hi)
        for lo, hi in uncovered(known, *ends, GAP):
            if self.certify:  # it is asked for nothing else
                self.lo, self.hi = self.axis.value(lo), self.axis.value(hi)
                self.followed.pop("uninformed", None)
            stretches += self.stretches("uninformed")
        for stretch in stretches:
            test = stretch.curve(_log_excess)
            for p in _roots(test, denser(stretch.p, stretch.p[0], stretch.p[-1], DENSER)):
                losses = {
                    other.name: float(other.curve(_log_loss)(p))
                    for other in stretches
                    if other.p[0] <= p <= other.p[-1]
                }
                if min(losses, key=losses.__getitem__) != stretch.name:
                    continue
                broken = tuple(OVERLAP[n] for n in (stretch.name,) if n in OVERLAP)
                equations = EqualTestError(
                    place_at(self.place, self.parameter, self.axis.value(p)),
                    self.parameter,
                    [broken],
                    QUADRATURE_SHARE * self.tol,
                )
                yield self.close_in(equations, [stretch.overlaps(p)], p)

    def specials(self) -> Iterator[Transition]:
        """What the branches themselves have shown: folds and pitchforks."""
        what, name = self.kind.split("_")
        overlap = OVERLAP[name]
        if what == "onset":
            yield from self.from_zero(overlap)
            for special, state in self.of("uninformed", "pitchfork"):
                if special.direction == overlap:
                    yield self.pitchfork(special, state, (), overlap)
            return
        for special, state in self.of(name, "fold" if what == "spinodal" else "pitchfork"):
            if what == "spinodal":
                yield self.fold(special, state, (overlap,))
            elif special.direction == OTHER[overlap]:
                yield self.pitchfork(special, state, (overlap,), special.direction)

    def from_zero(self, overlap: str) -> Iterator[Transition]:
        """Where the growth rate of an overlap at Q = 0 passes 1 (docs/theory.md, section 5)."""

        def excess(p: float) -> tuple[float, float]:
            place = place_at(self.place, self.parameter, self.axis.value(p))
            origin = solve_origin(place.model, place.alpha, place.lam)
            return (origin.growth[overlap] - 1 if origin.exists else math.nan), ORIGIN_ERROR

        ends = self.axis.coordinate(self.lo or 0.0), self.axis.coordinate(self.hi)
        grid = [float(p) for p in np.linspace(*ends, ORIGIN_SCAN)]
        for lo, hi in sign_changes(lambda p: excess(p)[0], grid):
            root = bracket_root(excess, lo, hi, LEAST_BRACKET)
            if root.status is not RootStatus.CONVERGED:
                continue
            value = self.axis.value(root.x)
            bracket = self.axis.value(root.bracket[0]), self.axis.value(root.bracket[1])
            place = place_at(self.place, self.parameter, bracket[0])
            side = solve(place.model, place.alpha, place.lam, "zero", on_failure="return")
            error = root.error * self.axis.rate(value)
            yield self.answer(value, error, TransitionStatus.CONVERGED, bracket, (side,))

    def of(self, name: str, kind: str) -> Iterator[tuple[SpecialPoint, Overlaps]]:
        """Special points of one kind on the branches of a name, and states near them."""
        for branch in self.branches(name):
            for special in branch.of_kind(kind):
                # where it was not located, the point before it is the best guess
                near = special.point or branch.points[special.after]
                assert near.overlaps is not None
                yield special, near.overlaps

    def pitchfork(
        self, special: SpecialPoint, state: Overlaps, broken: tuple[str, ...], direction: str
    ) -> Transition:
        """Where a branch with these overlaps is left in a direction, near a special point."""
        equations = Pitchfork(
            place_at(self.place, self.parameter, special.value),
            self.parameter,
            broken,
            direction,
            QUADRATURE_SHARE * self.tol,
        )
        return self.close_in(equations, [state], self.axis.coordinate(special.value))

    def fold(self, special: SpecialPoint, state: Overlaps, broken: tuple[str, ...]) -> Transition:
        """Where a branch with these overlaps turns back, near a special point."""
        assert special.point is not None  # a fold is a point of the branch
        equations = Fold(
            place_at(self.place, self.parameter, special.value),
            self.parameter,
            broken,
            QUADRATURE_SHARE * self.tol,
        )
        p = self.axis.coordinate(special.value)
        return self.close_in(equations, [state], p, (special.point,))

    # -- closing in --------------------------------------------------------------------------------

    def close_in(
        self,
        equations: TransitionEquations,
        states: Sequence[Overlaps],
        p: float,
        seen: tuple[FixedPoint, ...] = (),
    ) -> Transition:
        """The root near a guess, and the bracket around it; what was `seen` at a fold is its side.

        Beside a fold there are two fixed points or none, and a solve may end on either.
        """
        value = self.axis.value(p)
        z = equations.unknowns(states, value)
        if not self.certify:
            equations.coarsen(self.tol)
        try:
            planes, last = True, math.inf
            for _ in range(ROUNDS):
                z, error = equations.solve(z)
                value = equations.value(z)
                error *= self.axis.rate(value)
                ratio = error / (self.tol * max(value, 0.1))
                if ratio <= self.enough(equations):
                    break
                planes, last = planes and ratio < 0.5 * last, ratio
                equations.refine(max(0.03, 0.5 * ENOUGH / ratio), planes=planes)
        except NoRoot:
            return self.answer(math.nan, math.nan, TransitionStatus.SOLVE_FAILED)
        states = equations.overlaps(z)
        if isinstance(equations, Fold):
            half = max(BRACKET * error, LEAST_BRACKET * max(value, 0.1))
            bracket = (value - half, value + half)
            return self.answer(value, error, TransitionStatus.CONVERGED, bracket, seen)
        if not self.certify:
            sides = self.at(states, value, SCAN_TOL)
            ends = value - BRACKET * error, value + BRACKET * error
            status = TransitionStatus.SOLVE_FAILED if sides is None else TransitionStatus.CONVERGED
            return self.answer(value, error, status, ends, sides or ())
        half = max(BRACKET * error, LEAST_BRACKET * max(value, 0.1))
        bracket = (value - half, value + half)
        # a growth rate that is known to 1e-4 needs no better fixed points
        tol = self.tol
        if isinstance(equations, Pitchfork):
            tol = max(tol, min(error / value, SCAN_TOL))
        samples: list[Sample | None] = [None, None]
        near: tuple[FixedPoint, ...] = ()
        for _ in range(WIDENINGS):
            bracket = (value - half, value + half)
            for k, end in enumerate(bracket):
                sample = samples[k]
                if sample is None or sample.sign == 0:
                    points = self.at(states, end, tol)
                    if points is None:
                        return self.answer(value, error, TransitionStatus.SOLVE_FAILED, bracket)
                    samples[k] = _sample(equations, points, end)
                    near = points if k == 0 else near
            below, above = samples
            assert below is not None
            assert above is not None
            if below.sign * above.sign == -1:
                bracket = (below.x, above.x)
                return self.answer(value, error, TransitionStatus.CONVERGED, bracket, near)
            half *= WIDER
        return self.answer(value, error, TransitionStatus.NOT_BRACKETED, bracket)

    def enough(self, equations: TransitionEquations) -> float:
        """The error, in units of the tolerance, beyond which averages are refined."""
        if isinstance(equations, Fold):
            return math.inf
        if isinstance(equations, Pitchfork):
            return ENOUGH_GROWTH if equations.rule_kind == "plane" else math.inf
        return ENOUGH

    def at(
        self, states: Sequence[Overlaps], value: float, tol: float
    ) -> tuple[FixedPoint, ...] | None:
        """The fixed points near `states` at a value of the parameter, with accuracy `tol`."""
        try:
            points = [self.solved(state, value, tol) for state in states]
        except ValueError:
            return None  # outside the domain of the parameter
        known = tuple(point for point in points if point is not None)
        return known if len(known) == len(points) else None

    def answer(
        self,
        value: float,
        error: float,
        status: TransitionStatus,
        bracket: tuple[float, float] = (math.nan, math.nan),
        sides: tuple[FixedPoint, ...] = (),
    ) -> Transition:
        """The record of a transition, or of none."""
        place = self.place
        if math.isfinite(value):
            place = place_at(place, self.parameter, value)
        return Transition(self.kind, self.parameter, value, error, bracket, status, place, sides)


def _sample(equations: TransitionEquations, points: tuple[FixedPoint, ...], value: float) -> Sample:
    """What changes sign at the transition, at fixed points that are known."""
    if isinstance(equations, EqualTrainLosses):
        one, two = points
        bar = one.errors.train_loss_variational + two.errors.train_loss_variational
        return Sample(value, one.train_loss_variational - two.train_loss_variational, bar)
    (point,) = points
    if isinstance(equations, EqualTestError):
        return Sample(value, point.test_error - point.linear_error, point.errors.test_error)
    assert isinstance(equations, Pitchfork)
    return Sample(value, *equations.growth(point))


def _roots(f: Callable[[Vector], Vector], p: Vector) -> list[float]:
    """Sign changes of `f` on a grid, by secants."""
    value = f(p)
    found = []
    for k in np.flatnonzero(np.sign(value[:-1]) * np.sign(value[1:]) < 0):
        found.append(float(p[k] - value[k] * (p[k + 1] - p[k]) / (value[k + 1] - value[k])))
    return found


def _log_loss(point: FixedPoint) -> float:
    return math.log(point.train_loss_variational)


def _log_excess(point: FixedPoint) -> float:
    return math.log(point.test_error / point.linear_error)
