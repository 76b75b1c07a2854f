"""Transitions of the general model, with standard errors.

:func:`gamp_theory.find_transition` comes here.  The branches are followed, what they show is closed
in on by Newton's method in the parameter, and the scrambles of the quasi-Monte Carlo rule give the
error: what is compared at a transition is compared scramble by scramble, at the same points, so
that the error of a difference is much smaller than those of its parts (docs/numerics.md).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicHermiteSpline

from gamp_theory.branch_result import Stop
from gamp_theory.numerics.bracketing import denser, sign_changes, uncovered
from gamp_theory.result import Status
from gamp_theory.token_branches import follow_general
from gamp_theory.token_evolution import (
    FIRST_SAMPLES,
    GeneralSolver,
    solve_general,
)
from gamp_theory.token_line_result import GeneralBranch, GeneralSpecialPoint, GeneralTransition
from gamp_theory.token_model import GeneralModel
from gamp_theory.token_overlaps import TokenOverlaps
from gamp_theory.token_prior import token_prior_norm
from gamp_theory.token_result import GeneralFixedPoint
from gamp_theory.token_starts import check_general_arguments
from gamp_theory.token_transition_equations import (
    SCAN_TOL,
    EqualGeneralTestError,
    EqualGeneralTrainLosses,
    GeneralEquation,
    GeneralOriginGrowth,
    GeneralPitchfork,
    TrackedPoint,
)
from gamp_theory.transition_result import OTHER, OVERLAP, TransitionStatus

__all__ = ["find_general_transition"]

Array: TypeAlias = NDArray[np.float64]

#: Points per scramble of the rule that branches are followed with.
SCAN_SAMPLES = 2**8
#: Points at which Q = 0 is looked at, and teacher's fields of a scramble for that.
ORIGIN_SCAN = 13
ORIGIN_DRAWS = 2**6
#: Where on the range a branch is looked for, until it is found: fractions, from the top.
PLACES = (1.0, 0.75, 0.5, 0.25, 0.0)
#: Points at which two followed branches are compared, for each that was computed.
DENSER = 8
#: A part of the range without a branch, in the logarithm of the parameter, that is worth a look.
GAP = 0.05
#: Newton steps at one number of points, the largest of them, and the last, in standard errors.
STEPS = 8
LARGEST = 0.5
LAST = 0.1
ROUNDS = 8
#: Standard errors within which a value without a change of sign may have one.
DOUBTFUL = 3.0
#: Standard errors that a bracket reaches to either side at least, and those that make a sign
#: certain at its ends.
BRACKET = 3.0
CERTAIN = 2.0
WIDENINGS = 4
WIDER = 2.0
#: Bracket where there is (nearly) no error, relative.
LEAST_BRACKET = 1e-6
#: Two roots this many standard errors apart are one.
SAME = 4.0


def find_general_transition(
    model: GeneralModel,
    kind: str,
    parameter: str,
    span: tuple[float, float],
    other: float,
    tol: float,
    *,
    progress: Callable[[float], object] | None = None,
) -> GeneralTransition:
    """Locate a transition of a general model; :func:`gamp_theory.find_transition` comes here.

    Parameters
    ----------
    model : GeneralModel
    kind : str
        One of :data:`gamp_theory.transition_result.KINDS`.
    parameter : {"alpha", "lam"}
    span : (low, high)
        Range of the parameter, positive.
    other : float
        The one of alpha and lam that is not the parameter.
    tol : float
        Relative standard error of the value that is aimed at; more points are drawn until it is
        reached, or there are as many as allowed.
    progress : callable, optional
        Called with the parameter at every point of the branches that are followed.

    Raises
    ------
    ValueError
        On bad input, or for an onset or instability towards an overlap that no symmetry of the
        model keeps at zero.
    """
    search = _Search(model, kind, parameter, span, other, tol, progress)
    for value in span:
        alpha, lam = search.place(value)
        check_general_arguments(model, alpha, lam, "semantic", tol)
    search.check_symmetry()
    found = search.run()
    if not found:
        return search.answer(math.nan, math.nan, search.why_none())
    return replace(found[0], others=tuple(found[1:]))


class _NoRoot(Exception):
    """Newton's method in the parameter leads nowhere."""


@dataclass(frozen=True, eq=False)
class _Stretch:
    """A part of a branch without a fold: a function of the parameter's logarithm."""

    name: str
    p: Array
    points: tuple[GeneralFixedPoint, ...]

    def log_loss(self, parameter: str) -> CubicHermiteSpline:
        """Logarithm of the training loss; its slope at each point is known in closed form."""
        losses = np.array([point.train_loss for point in self.points])
        slopes = np.array([_train_slope(point, parameter) for point in self.points])
        return CubicHermiteSpline(self.p, np.log(losses), slopes / losses)

    def overlaps(self, p: float) -> TokenOverlaps:
        """Those of the nearest point, for a guess."""
        return self.nearest(p).overlaps

    def doubt(self, p: float) -> float:
        """Standard error of the logarithm of the training loss, at the nearest point."""
        point = self.nearest(p)
        return point.errors.train_loss / point.train_loss

    def nearest(self, p: float) -> GeneralFixedPoint:
        """The point nearest to a coordinate."""
        return self.points[int(np.argmin(abs(self.p - p)))]


class _Search:
    """One search: what branches there are, what they show, and the bracket around it."""

    def __init__(
        self,
        model: GeneralModel,
        kind: str,
        parameter: str,
        span: tuple[float, float],
        other: float,
        tol: float,
        progress: Callable[[float], object] | None,
    ) -> None:
        self.model, self.kind, self.parameter, self.tol = model, kind, parameter, tol
        self.span = self.lo, self.hi = span
        self.other, self.progress = other, progress
        self.followed: dict[str, list[GeneralBranch]] = {}

    def place(self, value: float) -> tuple[float, float]:
        """Sample ratio and ridge at a value of the parameter."""
        return (value, self.other) if self.parameter == "alpha" else (self.other, value)

    def solver(self, p: float) -> GeneralSolver:
        """What solves at a value of the parameter's logarithm, with the tolerance of the answer."""
        alpha, lam = self.place(math.exp(p))
        return GeneralSolver(self.model, alpha, lam, "given", self.tol, with_stability=False)

    def tracked(self, overlaps: TokenOverlaps, p: float) -> TrackedPoint:
        """The fixed point near a guess at a value of the parameter's logarithm."""
        return TrackedPoint(self.solver, self.parameter, overlaps, p)

    def check_symmetry(self) -> None:
        """Refuse kinds that need an overlap to vanish by symmetry where none does."""
        what, _, name = self.kind.partition("_")
        if what not in ("onset", "instability"):
            return
        needed = {"m", "theta"} if what == "onset" else {OTHER[OVERLAP[name]]}
        free = self.model.positions_independent and self.model.even_target
        kept = {"theta": free, "m": free and self.model.even_student}
        for overlap in sorted(needed):
            if not kept[overlap]:
                raise ValueError(
                    f"{self.kind} needs a model in which a symmetry keeps {overlap} at 0 (an even "
                    "target, positions that do not correlate with the teacher"
                    f"{', an even student' if overlap == 'm' else ''}), got {self.model!r}"
                )

    def run(self) -> list[GeneralTransition]:
        """All transitions of the kind, by value."""
        search = {"alpha_c": self.crossings, "alpha_l": self.baselines}.get(
            self.kind, self.specials
        )
        # those that could not be solved have no value: last
        found = sorted(search(), key=lambda one: (math.isnan(one.value), one.value))
        distinct: list[GeneralTransition] = []
        for one in found:
            last = distinct[-1] if distinct else None
            if last is not None and abs(one.value - last.value) <= SAME * math.hypot(
                one.error, last.error
            ):
                continue
            distinct.append(one)
        return distinct

    def why_none(self) -> TransitionStatus:
        """There is none only if every branch was followed to where it ends."""
        lost = (Stop.SMALLEST_STEP, Stop.POINT_LIMIT)
        pieces = [piece for branches in self.followed.values() for piece in branches]
        if any(piece.stop in lost for piece in pieces):
            return TransitionStatus.SOLVE_FAILED
        return TransitionStatus.DOES_NOT_EXIST

    # -- branches ------------------------------------------------------------------------------

    def branches(self, name: str) -> list[GeneralBranch]:
        """The branches of a name, followed from where they are found to both ends of the range.

        One is looked for until there is a piece with stable points, or nowhere else to look.
        """
        if name in self.followed:
            return self.followed[name]
        ends = math.log(self.lo), math.log(self.hi)
        found: list[GeneralBranch] = []
        for fraction in PLACES:
            value = math.exp(ends[0] + fraction * (ends[1] - ends[0]))
            value = {0.0: self.lo, 1.0: self.hi}.get(fraction, value)
            alpha, lam = self.place(value)
            point = solve_general(self.model, alpha, lam, name, SCAN_TOL, with_stability=False)
            if point.status not in (Status.CONVERGED, Status.QUADRATURE_LIMIT):
                continue
            if point.branch != name:
                continue
            try:
                pieces = [
                    follow_general(
                        point,
                        self.parameter,
                        to,
                        back_to=self.hi if to == self.lo else self.lo,
                        on_point=self.seen,
                        samples=SCAN_SAMPLES,
                    )
                    for to in (self.lo, self.hi)
                    if to != value
                ]
            except ValueError:  # the point is no solution of the rule to be followed
                continue
            if any(piece.stop is Stop.INTERRUPTED for piece in pieces):
                raise KeyboardInterrupt
            found += pieces
            known = [point.stability for piece in pieces for point in piece.points]
            if name == "uninformed" or any(s is not None and s.stable for s in known):
                break
        self.followed[name] = found
        return found

    def seen(self, point: GeneralFixedPoint) -> None:
        if self.progress is not None:
            self.progress(float(getattr(point, self.parameter)))

    def stretches(self, name: str) -> list[_Stretch]:
        """The branches of a name, cut at their folds, in the order of the parameter."""
        found = []
        for branch in self.branches(name):
            p = np.log(branch.values)
            cuts = np.flatnonzero(np.diff(np.sign(np.diff(p)))) + 1
            for left, right in itertools.pairwise([0, *(int(cut) for cut in cuts), len(p) - 1]):
                part = slice(left, right + 1)
                order = np.argsort(p[part])
                points = tuple(branch.points[part][i] for i in order)
                if len(points) > 1:
                    found.append(_Stretch(name, p[part][order], points))
        return found

    # -- what is looked for --------------------------------------------------------------------

    def crossings(self) -> Iterator[GeneralTransition]:
        """Equal training losses of the semantic and the positional branch."""
        semantic = self.stretches("semantic")
        if not semantic:
            return
        # the other is of interest where this one exists
        ends = [math.exp(s.p[k]) for s in semantic for k in (0, -1)]
        self.lo, self.hi = max(self.lo, min(ends)), min(self.hi, max(ends))
        for one, two in itertools.product(semantic, self.stretches("positional")):
            lo, hi = max(one.p[0], two.p[0]), min(one.p[-1], two.p[-1])
            if lo >= hi:
                continue
            first, second = one.log_loss(self.parameter), two.log_loss(self.parameter)
            grid = denser(np.concatenate([one.p, two.p]), lo, hi, DENSER)
            doubt = [np.hypot(one.doubt(p), two.doubt(p)) for p in (lo, hi)]
            for p in _roots(first(grid) - second(grid), grid, doubt):
                states = [self.tracked(s.overlaps(p), p) for s in (one, two)]
                yield from self.in_range(self.close_in(EqualGeneralTrainLosses(states), p))

    def baselines(self) -> Iterator[GeneralTransition]:
        """Test error of the lowest branch equal to the linear baseline."""
        names = ["semantic", "positional", *(["mixed"] if self.model.rank > 1 else [])]
        stretches = [s for name in names for s in self.stretches(name)]
        # the uninformed branch is a saddle where there are others
        for lo, hi in uncovered(
            [(float(s.p[0]), float(s.p[-1])) for s in stretches],
            math.log(self.lo),
            math.log(self.hi),
            GAP,
        ):
            self.lo, self.hi = math.exp(lo), math.exp(hi)
            self.followed.pop("uninformed", None)
            stretches += self.stretches("uninformed")
        for stretch in stretches:
            excess = np.array([math.log(x.test_error / x.linear_error) for x in stretch.points])
            doubt = [
                x.errors.test_error / x.test_error for x in (stretch.points[0], stretch.points[-1])
            ]
            for p in _roots(excess, stretch.p, doubt):
                losses = {
                    s.name: float(s.log_loss(self.parameter)(p))
                    for s in stretches
                    if s.p[0] <= p <= s.p[-1]
                }
                if min(losses, key=losses.__getitem__) == stretch.name:
                    state = self.tracked(stretch.overlaps(p), p)
                    yield from self.in_range(self.close_in(EqualGeneralTestError(state), p))

    def specials(self) -> Iterator[GeneralTransition]:
        """What the branches themselves have shown: folds and pitchforks."""
        what, _, name = self.kind.partition("_")
        overlap = OVERLAP[name]
        if what == "spinodal":
            for branch in self.branches(name):
                for special in branch.of_kind("fold"):
                    yield self.fold(branch, special)
            return
        towards = overlap if what == "onset" else OTHER[overlap]
        if what == "onset" and self.model.flat_student:
            yield from self.from_zero(overlap)
        for branch in self.branches("uninformed" if what == "onset" else name):
            for special in branch.of_kind("pitchfork"):
                if special.direction == towards:
                    p = math.log(special.value)
                    state = self.tracked(special.overlaps, p)
                    yield self.close_in(GeneralPitchfork(state, towards), p)

    def from_zero(self, overlap: str) -> Iterator[GeneralTransition]:
        """Where the growth rate of an overlap at Q = 0 passes 1 (docs/theory.md, section 5)."""
        equation = GeneralOriginGrowth(self.solver, self.parameter, overlap)
        grid = np.linspace(math.log(self.lo), math.log(self.hi), ORIGIN_SCAN)
        for lo, hi in sign_changes(
            lambda p: equation.rate(p, ORIGIN_DRAWS)[0], [float(p) for p in grid]
        ):
            yield self.close_in(equation, 0.5 * (lo + hi))

    def in_range(self, found: GeneralTransition) -> Iterator[GeneralTransition]:
        """The transition, unless a closer look has shown that it is outside the range."""
        lo, hi = self.span
        if not (found.value < lo or found.value > hi):
            yield found

    # -- closing in ----------------------------------------------------------------------------

    def close_in(self, equation: GeneralEquation, p: float) -> GeneralTransition:
        """The root near a guess, with more points until its error is small, and the bracket."""
        samples, off = FIRST_SAMPLES, math.inf
        try:
            for _ in range(ROUNDS):
                p, off = self.newton(equation, p, samples)
                finer = self.solver(p).finer(samples, off / self.tol)
                if off <= self.tol or finer == samples:
                    break
                samples = finer
            value = math.exp(p)
            half = max(BRACKET * off, LEAST_BRACKET)
            for _ in range(WIDENINGS):
                ends = [equation.at(p + half, samples), equation.at(p - half, samples)]
                known = all(abs(end.value) > CERTAIN * end.error for end in ends)
                if known and ends[0].value * ends[1].value < 0:
                    status, sides = TransitionStatus.CONVERGED, equation.sides()
                    break
                half *= WIDER
            else:
                status, sides = TransitionStatus.NOT_BRACKETED, ()
        except (_NoRoot, ValueError):  # the latter outside the domain of the map
            return self.answer(math.nan, math.nan, TransitionStatus.SOLVE_FAILED)
        bracket = (value * math.exp(-half), value * math.exp(half))
        return self.answer(value, value * off, status, bracket, samples, sides)

    def newton(self, equation: GeneralEquation, p: float, samples: int) -> tuple[float, float]:
        """The root with so many points, and its standard error, in the parameter's logarithm."""
        for _ in range(STEPS):
            value, slope, error = equation.at(p, samples)
            if slope == 0 or not math.isfinite(value / slope):
                break
            off, step = error / abs(slope), -value / slope
            if abs(step) > LARGEST:
                break
            p += step
            if abs(step) <= max(LAST * off, LEAST_BRACKET):
                return p, off + abs(step) ** 2
        raise _NoRoot

    def fold(self, branch: GeneralBranch, special: GeneralSpecialPoint) -> GeneralTransition:
        """A fold again, with more points until its error is small."""
        before = branch.points[max(special.after, 0)]
        samples = FIRST_SAMPLES
        start = float(getattr(before, self.parameter))
        beyond = special.value * math.exp(math.copysign(LARGEST, special.value - start))
        for _ in range(ROUNDS):
            off = special.error / special.value
            finer = self.solver(math.log(special.value)).finer(samples, off / self.tol)
            if off <= self.tol or finer == samples:
                break
            samples = finer
            again = follow_general(
                before,
                self.parameter,
                beyond,
                back_to=start * math.exp(math.copysign(LARGEST, start - special.value)),
                on_special=lambda one: one.kind == "fold",
                samples=samples,
            )
            folds = again.of_kind("fold")
            if not folds:
                return self.answer(math.nan, math.nan, TransitionStatus.SOLVE_FAILED)
            special = folds[0]
        half = max(BRACKET * special.error, LEAST_BRACKET * special.value)
        return self.answer(
            special.value,
            special.error,
            TransitionStatus.CONVERGED,
            (special.value - half, special.value + half),
            samples,
            (before,),
        )

    def answer(
        self,
        value: float,
        error: float,
        status: TransitionStatus,
        bracket: tuple[float, float] = (math.nan, math.nan),
        samples: int = 0,
        sides: tuple[GeneralFixedPoint, ...] = (),
    ) -> GeneralTransition:
        """The record of a transition, or of none."""
        alpha, lam = self.place(value)
        return GeneralTransition(
            self.kind, self.parameter, value, error, bracket, status,
            self.model, alpha, lam, samples, sides,
        )  # fmt: skip


def _train_slope(point: GeneralFixedPoint, parameter: str) -> float:
    """Derivative of the training loss by the logarithm of alpha or lam, at a fixed point.

    ``d eps_t/d alpha = E M`` and ``d eps_t/d lam = |Q|^2/2d`` (docs/theory.md, section 3).
    """
    assert point.conjugates is not None
    norm = token_prior_norm(point.model.law, point.conjugates, point.lam)
    ridge = 0.5 * point.lam * norm
    if parameter == "lam":
        return ridge
    coupling = 0.5 * float(np.sum(point.overlaps.V * point.conjugates.q_hat))
    return point.train_loss - ridge + coupling


def _roots(values: Array, p: Array, doubt: Sequence[float]) -> list[float]:
    """Sign changes of a function on a grid, by secants; or the end where there may be one.

    The scan has few points: where there is no change of sign, an end at which the value is within
    :data:`DOUBTFUL` of its standard errors, `doubt` at the first and the last, deserves a closer
    look.
    """
    found = []
    for k in np.flatnonzero(np.sign(values[:-1]) * np.sign(values[1:]) < 0):
        share = values[k] / (values[k] - values[k + 1])
        found.append(float(p[k] + share * (p[k + 1] - p[k])))
    if not found:
        ends = [
            (abs(values[k]) / error, float(p[k])) for k, error in zip((0, -1), doubt, strict=True)
        ]
        ratio, nearest = min(ends)
        if ratio < DOUBTFUL:
            found.append(nearest)
    return found
