"""Branches of the general model along alpha or lam, followed by their own length.

:func:`gamp_theory.follow` comes here.  The points of the quasi-Monte Carlo rule are the same all
along, so that the map is a deterministic function and its solutions lie on a curve
(docs/numerics.md); each fixed point then gets its error bars, and finer rules where these ask for
them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gamp_theory.branch_result import Stop
from gamp_theory.channel.general import GeneralRule
from gamp_theory.numerics import curves
from gamp_theory.numerics.arclength import follow_curve
from gamp_theory.numerics.curves import CurvePoint, Problem, StepControl
from gamp_theory.result import Status
from gamp_theory.state_evolution import GENERAL_TOL
from gamp_theory.token_branch_map import TokenBranchMap
from gamp_theory.token_evolution import (
    FIRST_SAMPLES,
    solve_general,
)
from gamp_theory.token_line_result import INTERVAL, GeneralBranch, GeneralSpecialPoint
from gamp_theory.token_map import TokenEvaluation, TokenSlopes, jackknife, mean_size
from gamp_theory.token_model import GeneralModel
from gamp_theory.token_overlaps import TokenOverlaps
from gamp_theory.token_result import GeneralFixedPoint
from gamp_theory.token_starts import check_general_arguments

__all__ = [
    "GENERAL_PARAMETERS",
    "follow_general",
    "trace_general",
]

Array: TypeAlias = NDArray[np.float64]

GENERAL_PARAMETERS = ("alpha", "lam")
#: Steps along a branch, in coordinates of which 1 is a natural unit.
STEPS = StepControl(
    first=0.15, smallest=5e-3, largest=0.5, angle=0.35, corrections=6, points=200, located=1e-2
)
#: Residual of the curve times the points per scramble: a sample that changes wells makes the map
#: jump, and no residual below that can be asked for.
RESIDUAL = 0.5
#: Error bars that exceed those of the map itself by more are those of a fold or pitchfork nearby.
AMPLIFIED = 10.0
#: A curve that can not be begun is tried with twice as many points, up to these.
MOST_AT_START = 2**12
#: A branch is on its way to Q = 0 when q, in units of rho, is below this.
VANISHING = 1e-3


def follow_general(
    point: GeneralFixedPoint,
    parameter: str,
    to: float,
    *,
    tol: float | None = None,
    back_to: float | None = None,
    through: Sequence[float] = (),
    largest_step: float | None = None,
    most_points: int | None = None,
    with_replicon: bool = False,
    on_point: Callable[[GeneralFixedPoint], object] | None = None,
    on_special: Callable[[GeneralSpecialPoint], object] | None = None,
    samples: int = FIRST_SAMPLES,
) -> GeneralBranch:
    """Follow the branch of a fixed point of the general model; :func:`gamp_theory.follow` does.

    Parameters
    ----------
    point : GeneralFixedPoint
    parameter : {"alpha", "lam"}
    to, tol, back_to, through, largest_step, most_points, with_replicon, on_point
        As in :func:`gamp_theory.follow`; `tol` is the standard error aimed at.
    on_special : callable, optional
        Called with each special point; the branch ends after it if that returns True.
    samples : int
        Points per scramble of the rule the curve is followed with; fixed points get more where
        their error bars ask for it.

    Returns
    -------
    GeneralBranch
        After Ctrl-C, what was found until then: its `stop` is `Stop.INTERRUPTED`.

    Raises
    ------
    ValueError
        On bad input; if `point` has not been solved.
    """
    if parameter not in GENERAL_PARAMETERS:
        raise ValueError(
            f"parameter must be one of {', '.join(GENERAL_PARAMETERS)} for a general model, got "
            f"{parameter!r}"
        )
    value = float(getattr(point, parameter))
    tol = point.tol if tol is None else tol
    ends = [("to", to), ("back_to", back_to), *(("through", end) for end in through)]
    for name, end in ends:
        if end is not None and not (math.isfinite(end) and end > 0):
            raise ValueError(f"{name} must be > 0 and finite along {parameter}, got {end!r}")
    if not math.isfinite(point.train_loss):
        raise ValueError(f"a branch is followed from a fixed point, got {point!r}")
    if point.branch == "zero":
        raise ValueError("Q = 0 is no branch to be followed: solve for it at each place")
    if to == value:
        raise ValueError(f"to must differ from the {parameter} of the point, got {to!r}")
    check_general_arguments(point.model, point.alpha, point.lam, point.overlaps, tol)
    control = replace(
        STEPS,
        tol=RESIDUAL / samples,
        largest=largest_step or STEPS.largest,
        points=most_points or STEPS.points,
    )
    map_ = TokenBranchMap(point.model, parameter, point.alpha, point.lam, tol, samples)
    run = _Run(map_, point, with_replicon, on_point, on_special)
    try:
        return run.follow(
            point.overlaps, to, value if back_to is None else back_to, through, control
        )
    except ValueError:  # no solution at the start, to within the jumps of so few points
        if run.points or samples >= MOST_AT_START:
            raise
    return follow_general(
        point,
        parameter,
        to,
        tol=tol,
        back_to=back_to,
        through=through,
        largest_step=largest_step,
        most_points=most_points,
        with_replicon=with_replicon,
        on_point=on_point,
        on_special=on_special,
        samples=2 * samples,
    )


def trace_general(
    model: GeneralModel,
    values: Sequence[float],
    lam: float,
    start: str,
    *,
    alpha: float | None = None,
    along: str = "alpha",
    tol: float = GENERAL_TOL,
    progress: Callable[[GeneralFixedPoint], object] | None = None,
) -> tuple[GeneralFixedPoint, ...]:
    """A fixed point at each of the given values, from a named start, by continuation.

    What :func:`gamp_theory.tracing.trace` does for the two-token model: where the branch ends
    before the last value, the named start is asked again.

    Parameters
    ----------
    model : GeneralModel
    values : sequence of float
        Of the parameter, in the order to be followed.
    lam : float
        Ridge; not used along lam.
    start : str
        Named start.
    alpha : float, optional
        Needed along lam.
    along : {"alpha", "lam"}
    tol : float
        As in :func:`gamp_theory.solve`.
    progress : callable, optional
        Called with every point as it is finished.

    Returns
    -------
    tuple of GeneralFixedPoint
        One per value, in the order given; failed ones with their status, none left out.

    Raises
    ------
    ValueError
        If `along` is neither, alpha is missing, or as :func:`gamp_theory.solve`.
    """
    if along not in GENERAL_PARAMETERS:
        raise ValueError(
            f"along must be one of {', '.join(GENERAL_PARAMETERS)} for a general model, got "
            f"{along!r}"
        )
    if along == "lam" and alpha is None:
        raise ValueError(f"alpha must be given along {along}, got None")
    points: list[GeneralFixedPoint] = []

    def finish(point: GeneralFixedPoint) -> None:
        points.append(replace(point, start=start))
        if progress is not None:
            progress(points[-1])

    while len(points) < len(values):
        value = values[len(points)]
        here = (value, lam) if along == "alpha" else (float(alpha or 0.0), value)
        first = solve_general(model, *here, start, tol)
        finish(first)
        ahead = list(values[len(points) :])
        waiting = list(ahead)
        if first.converged and first.branch != "zero" and ahead and ahead[0] != value:

            def passed(point: GeneralFixedPoint, waiting: list[float] = waiting) -> bool:
                if getattr(point, along) == waiting[0]:
                    del waiting[0]
                    finish(point)
                return not waiting

            branch = follow_general(
                first, along, ahead[-1], through=ahead[:-1], with_replicon=True, on_point=passed
            )
            if branch.stop is Stop.INTERRUPTED:
                raise KeyboardInterrupt
    return tuple(points)


class _Run:
    """One branch that is being followed."""

    def __init__(
        self,
        map_: TokenBranchMap,
        first: GeneralFixedPoint,
        with_replicon: bool,
        on_point: Callable[[GeneralFixedPoint], object] | None,
        on_special: Callable[[GeneralSpecialPoint], object] | None,
    ) -> None:
        self.map, self.first, self.parameter = map_, first, map_.parameter
        self.with_replicon, self.on_point, self.on_special = with_replicon, on_point, on_special
        self.points: list[GeneralFixedPoint] = []
        self.special: list[GeneralSpecialPoint] = []
        self.curve: list[CurvePoint] = []
        self.states: list[Array] = []
        self.transverse: list[dict[str, tuple[float, float]]] = []
        self.ended: Stop | None = None
        self.marks: dict[float, float] = {}
        self.fine: GeneralRule | None = None
        self.linear = (first.linear_error, first.errors.linear_error)
        self.began = time.perf_counter()
        #: maps and time when the last point was made
        self.counted = (0, 0, self.began)

    def follow(
        self,
        overlaps: TokenOverlaps,
        to: float,
        back_to: float,
        through: Sequence[float],
        control: StepControl,
    ) -> GeneralBranch:
        """The branch through a state; see :func:`follow_general`."""
        map_ = self.map
        value = float(getattr(self.first, self.parameter))
        self.marks = {math.log(v): v for v in (value, to, back_to, *through)}
        problem = Problem(map_.residual, map_.jacobian, map_.jacobian, map_.prepare)
        try:
            u = map_.begin(overlaps, math.log(value))
            curve = follow_curve(
                problem,
                u,
                math.log(value),
                math.log(to),
                back_to=math.log(back_to),
                through=[math.log(v) for v in through],
                control=control,
                on_point=self.found,
                on_special=self.folded,
                look_for=("fold",),
            )
            stop = self.why(curve, math.log(to))
        except KeyboardInterrupt:
            stop = Stop.INTERRUPTED
        return GeneralBranch(
            self.parameter,
            tuple(self.points),
            np.array([point.tangent[-1] for point in self.curve]),
            tuple(self.special),
            stop,
            map_.maps + map_.other_maps,
            time.perf_counter() - self.began,
        )

    def why(self, curve: curves.Curve, finish: float) -> Stop:
        """Why the branch ends, out of why its curve does."""
        if self.ended is not None:
            return self.ended
        if curve.stop is curves.Stop.REACHED:
            return Stop.REACHED if curve.points[-1].p == finish else Stop.TURNED_BACK
        return {
            curves.Stop.SMALLEST_STEP: Stop.SMALLEST_STEP,
            curves.Stop.CLOSED: Stop.CLOSED,
            curves.Stop.POINT_LIMIT: Stop.POINT_LIMIT,
        }[curve.stop]

    # -- points ---------------------------------------------------------------------------------

    def found(self, here: CurvePoint) -> bool:
        """Take in a point of the curve; True where the branch ends with it, or before it."""
        map_ = self.map
        evaluation, slopes = map_.last, map_.slopes
        assert evaluation is not None
        assert slopes is not None
        before = self.curve[-1] if self.curve else None
        if before is not None and self.merges(before, here, evaluation.x):
            self.ended = Stop.MERGED
            return True
        point = self.fixed_point(here, evaluation, slopes)
        self.curve.append(here)
        self.states.append(evaluation.x)
        self.points.append(point)
        if self.on_point is not None and self.on_point(point) is True:
            self.ended = Stop.ENDED
        assert point.stability is not None  # given to every point
        self.transverse.append(point.stability.transverse)
        if before is not None:
            self.splits(before, here)
        if before is not None and self.ended is None:
            old, new = (mean_size(one.overlaps.q) for one in self.points[-2:])
            if new < min(old, VANISHING * mean_size(map_.model.law.rho)):
                self.ended = Stop.VANISHED
        return self.ended is not None

    def fixed_point(
        self, here: CurvePoint, evaluation: TokenEvaluation, slopes: TokenSlopes
    ) -> GeneralFixedPoint:
        """Error bars decide: as it is, with finer rules, or flagged."""
        map_ = self.map
        assert map_.rule is not None
        solver = map_.solver(here.p)
        value = self.marks.get(here.p, math.exp(here.p))
        setattr(solver, self.parameter, value)  # exactly as it was asked for
        solver.with_stability = False
        solver.rule = map_.rule
        answer = solver.answer(evaluation, slopes)
        # errors that are large because 1 - J is nearly singular stay large with more points
        own = float(np.max(jackknife(map_.deviations(here.p)))) / map_.tol
        if 1 < answer.worst <= AMPLIFIED * own:
            if self.fine is not None:
                solver.rule = self.fine
            samples = solver.finer(map_.samples, answer.worst)
            point = solver.finish(evaluation.x, slopes, samples, self.linear)
            self.fine = solver.rule
        else:
            audited = solver.make(evaluation.x, map_.samples, brief=True, audit=True)
            status = Status.CONVERGED if answer.worst <= 1 else Status.QUADRATURE_LIMIT
            point = solver.point(evaluation, answer, slopes, status, audited, self.linear)
        if point.missed_wells > 0:
            map_.searched = None  # the next search is one for all of them
        stability = solver.stability(
            evaluation, slopes, map_.rule, with_replicon=self.with_replicon
        )
        map_.maps, map_.other_maps = map_.maps + solver.maps, map_.other_maps + solver.other_maps
        now = (map_.maps, map_.other_maps, time.perf_counter())
        maps, others, began = self.counted
        self.counted = now
        return replace(
            point,
            start=self.first.start,
            stability=stability,
            iterations=now[0] - maps,
            map_evaluations=now[0] - maps + now[1] - others,
            seconds=now[2] - began,
        )

    # -- special points -------------------------------------------------------------------------

    def folded(self, fold: curves.SpecialPoint) -> None:
        """Take in a fold of the curve, located with the rule that is in place."""
        map_ = self.map
        slope = map_.jacobian(fold.x, fold.p, map_.residual(fold.x, fold.p))
        left_null = np.linalg.svd(slope[:, :-1])[0][:, -1]
        # p is stationary: what is left of an error is its part along the left null vector
        scale = float(left_null @ slope[:, -1])
        off = jackknife(map_.deviations(fold.p) @ left_null).item() / abs(scale)
        off += 0.5 * (fold.interval[1] - fold.interval[0])
        self.record("fold", fold.p, off, "", map_.state(fold.x), len(self.points) - 2)

    def record(
        self,
        kind: Literal["fold", "pitchfork", "merge"],
        p: float,
        off: float,
        direction: str,
        x: Array,
        after: int,
    ) -> None:
        value = math.exp(p)
        error = value * off
        self.special.append(
            GeneralSpecialPoint(
                kind,
                self.parameter,
                value,
                error,
                (value - INTERVAL * error, value + INTERVAL * error),
                direction,
                self.map.solver(p).coordinates.unpack(x),
                after,
            )
        )
        if self.on_special is not None and self.on_special(self.special[-1]) is True:
            self.ended = self.ended or Stop.ENDED

    def splits(self, before: CurvePoint, here: CurvePoint) -> None:
        """Another branch leaves between two points, where an eigenvalue crosses 1."""
        old, new = self.transverse[-2:]
        for name in old.keys() & new.keys():
            (a, a_bar), (b, b_bar) = old[name], new[name]
            if (a - 1) * (b - 1) >= 0:
                continue
            share = (1 - a) / (b - a)
            p = before.p + share * (here.p - before.p)
            # the secant's error is of second order, and the bars of both ends count
            off = abs(here.p - before.p) * (max(a_bar, b_bar) / abs(b - a) + share * (1 - share))
            x = self.states[-2] + share * (self.states[-1] - self.states[-2])
            self.record("pitchfork", p, off, name, x, len(self.points) - 2)

    def merges(self, before: CurvePoint, here: CurvePoint, x: Array) -> bool:
        """Whether m or theta has changed its sign, as a whole, since the last point."""
        where = self.map.solver(here.p).coordinates.slices
        for name in ("m", "theta"):
            old, new = self.states[-1][where[name]], x[where[name]]
            if old @ new >= 0:
                continue
            # the parameter is stationary there: the parabola through both points, even in `name`
            share = float(old @ (old - new)) / float((old - new) @ (old - new))
            a, b = share**2, (1 - share) ** 2
            low = 0.5 * (before.p + here.p)
            p = (b * before.p - a * here.p) / (b - a) if abs(b - a) > 0.2 else low
            off = abs(here.p - before.p) + abs(p - low)
            state = self.states[-1] + share * (x - self.states[-1])
            state[where[name]] = 0.0
            self.record("merge", p, off, name, state, len(self.points) - 1)
            return True
        return False
