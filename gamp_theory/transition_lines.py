"""Transitions as lines: how one moves along a second parameter, and where and why it ends."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gamp_theory.branch_map import DIRECTIONS, PARAMETERS, BranchMap, value_of
from gamp_theory.numerics import curves
from gamp_theory.numerics.arclength import follow_curve
from gamp_theory.numerics.curves import CurvePoint, Problem, StepControl
from gamp_theory.numerics.newton import chord_newton
from gamp_theory.overlaps import Overlaps
from gamp_theory.state_evolution import QUADRATURE_SHARE
from gamp_theory.transition_equations import (
    EqualTestError,
    EqualTrainLosses,
    Fold,
    Pitchfork,
    TransitionEquations,
)
from gamp_theory.transition_result import OTHER, OVERLAP, Transition, TransitionStatus

__all__ = ["TransitionLine", "equations_of", "trace_transition"]

Vector: TypeAlias = NDArray[np.float64]

#: Steps along a line, in the coordinates of states and parameters.
STEPS = StepControl(first=0.03, smallest=1e-3, largest=0.12, tol=1e-7, angle=0.4, points=200)
#: A line ends where a branch that it is about has less q than this, in units of sigma**2: where a
#: branch goes to Q = 0 it takes, in log q, for ever.
VANISHED = 1e-4
#: Residuals of a point on a line, in units of the accuracy of the fixed points.
RESIDUAL_SHARE = 0.02
#: Accuracy of the fixed points on a line, if nothing is said.
LINE_TOL = 1e-5


@dataclass(frozen=True, eq=False)
class TransitionLine:
    """A transition as a curve in two parameters.

    Attributes
    ----------
    kind : str
        As of :class:`gamp_theory.Transition`.
    parameter, along : str
        The transition is at ``values`` of `parameter` where `along` is at ``positions``.
    positions, values, errors : array, shape (points,)
        In the order of the line; a line that turns has several values at one position.
    meaningful : array of bool, shape (points,)
        Whether every branch it is about is a minimum there: where one has lost its stability, the
        line goes on, but nothing happens on it.
    states : tuple of tuple of Overlaps
        The fixed points it is about, at each point.
    ends : tuple of str
        Why it ends, at its first and its last point.
    map_evaluations : int
    """

    kind: str
    parameter: str
    along: str
    positions: Vector
    values: Vector
    errors: Vector
    meaningful: NDArray[np.bool_]
    states: tuple[tuple[Overlaps, ...], ...] = field(repr=False)
    ends: tuple[str, str]
    map_evaluations: int

    def __repr__(self) -> str:
        return (
            f"<TransitionLine {self.kind}: {self.positions.size} points from "
            f"({self.along}, {self.parameter}) = ({self.positions[0]:.6g}, {self.values[0]:.6g}) "
            f"to ({self.positions[-1]:.6g}, {self.values[-1]:.6g})\n"
            f"  begins: {self.ends[0]}\n  ends: {self.ends[1]}>"
        )


def trace_transition(
    transition: Transition,
    along: str,
    to: float,
    *,
    back_to: float | None = None,
    between: tuple[float, float] = (0.0, math.inf),
    tol: float = LINE_TOL,
    largest_step: float | None = None,
    least_points: int = 0,
    on_point: Callable[[float, float], object] | None = None,
) -> TransitionLine:
    """Follow a transition along a second parameter, through turning points.

    Pseudo-arclength continuation of the equations of :mod:`gamp_theory.transition_equations`: the
    states and both parameters move together, on rules that are frozen while a point is solved.

    Parameters
    ----------
    transition : Transition
        A converged one; where the line begins.
    along : {"alpha", "omega", "lam", "sigma"}
        The second parameter, other than the transition's own.
    to : float
        Where the line ends if nothing stops it before.
    back_to : float, optional
        Follow it to this value on the other side, too.
    between : (low, high), optional
        The transition's parameter: the line ends where it leaves this range.
    tol : float
        Accuracy of the fixed points.
    largest_step : float, optional
        In coordinates of which 1 is a natural unit.
    least_points : int
        If there are fewer, more are solved for between those that are furthest apart.
    on_point : callable, optional
        Called with (position, value) of each point.

    Returns
    -------
    TransitionLine
        From `back_to`, if it is given, to `to`.

    Raises
    ------
    ValueError
        If the transition has not converged, on bad parameters, or if its equations have no root
        beside it (:class:`gamp_theory.transition_equations.NoRoot`).
    """
    if transition.status is not TransitionStatus.CONVERGED:
        raise ValueError(f"a line begins at a converged transition, got {transition!r}")
    if along not in PARAMETERS or along == transition.parameter:
        others = ", ".join(name for name in PARAMETERS if name != transition.parameter)
        raise ValueError(f"along must be one of {others}, got {along!r}")
    here = value_of(transition.place, along)
    for name, value in (("to", to), ("back_to", back_to)):
        if value is None:
            continue
        allowed = "in [0, 1]" if along == "omega" else "> 0 and finite"
        if not isinstance(value, numbers.Real):
            raise ValueError(
                f"{name} must be one number {allowed} along {along}, got {value!r}; to and back_to "
                "are the two ends"
            )
        good = 0 <= value <= 1 if along == "omega" else value > 0
        if not (math.isfinite(value) and good):
            raise ValueError(f"{name} must be {allowed} along {along}, got {value!r}")
        if value == here:
            raise ValueError(
                f"{name} must differ from the {along} of the transition, got {value!r}"
            )
    halves: list[_Line] = []
    domain = (0.0, 1.0) if along == "omega" else (None, None)
    for end, other in ((back_to, to), (to, back_to)):
        if end is not None:
            run = _Line(transition, along, between, tol, on_point)
            # a line that turns may end on the other side
            behind = domain[end < here] if other is None else other
            run.follow(here, end, behind, largest_step)
            halves.append(run)
    whole = sum(run.length for run in halves)
    for run in halves:
        run.fill(math.ceil(least_points * run.length / whole) if whole > 0 else 0)
    points, begins = halves[-1].points, "where it was found"
    if len(halves) == 2:
        points, begins = halves[0].points[:0:-1] + points, halves[0].ended
    return TransitionLine(
        kind=transition.kind,
        parameter=transition.parameter,
        along=along,
        positions=np.array([point.position for point in points]),
        values=np.array([point.value for point in points]),
        errors=np.array([point.error for point in points]),
        meaningful=np.array([point.meaningful for point in points]),
        states=tuple(point.states for point in points),
        ends=(begins, halves[-1].ended),
        map_evaluations=sum(run.maps for run in halves),
    )


def equations_of(
    transition: Transition, quadrature_tol: float, second: str | None = None
) -> tuple[TransitionEquations, Vector]:
    """The equations that a transition solves, and its vector of unknowns."""
    place, parameter, kind = transition.place, transition.parameter, transition.kind
    states = [side.overlaps for side in transition.sides if side.overlaps is not None]
    if any(side.branch == "zero" for side in transition.sides):
        raise ValueError(
            f"{transition!r} is an onset from Q = 0, without fixed points to be followed along a "
            "line: find it at each value"
        )
    equations: TransitionEquations
    if kind == "alpha_c":
        equations = EqualTrainLosses(place, parameter, [("theta",), ("m",)], quadrature_tol, second)
    elif kind == "alpha_l":
        (state,) = states
        equations = EqualTestError(place, parameter, [_broken(state)], quadrature_tol, second)
    elif kind.startswith("spinodal"):
        (state,) = states
        equations = Fold(place, parameter, _broken(state), quadrature_tol, second)
    else:
        (state,) = states
        overlap = OVERLAP[kind.split("_")[1]]
        direction = overlap if kind.startswith("onset") else OTHER[overlap]
        equations = Pitchfork(place, parameter, _broken(state), direction, quadrature_tol, second)
    return equations, equations.unknowns(states, transition.value)


@dataclass(frozen=True, eq=False)
class _LinePoint:
    """A point of a line."""

    curve: CurvePoint
    position: float
    value: float
    error: float
    meaningful: bool
    states: tuple[Overlaps, ...]


class _Line:
    """One half of a line."""

    def __init__(
        self,
        transition: Transition,
        along: str,
        between: tuple[float, float],
        tol: float,
        on_point: Callable[[float, float], object] | None,
    ) -> None:
        self.transition, self.along, self.between = transition, along, between
        self.on_point, self.tol = on_point, tol
        self.equations, self.z = equations_of(transition, QUADRATURE_SHARE * tol, along)
        self.equations.coarsen(tol)
        self.points: list[_LinePoint] = []
        self.ended = ""

    def follow(
        self, here: float, to: float, behind: float | None, largest_step: float | None
    ) -> None:
        """From where the transition is, towards `to`; `behind` ends a line that has turned."""
        other = self.equations.other
        assert other is not None
        self.other: BranchMap = other
        problem = Problem(
            self.equations.residual, self.equations.jacobian, prepare=self.equations.prepare
        )
        control = replace(STEPS, tol=max(STEPS.tol, RESIDUAL_SHARE * self.tol))
        if largest_step is not None:
            first = min(STEPS.first, largest_step)
            control = replace(control, first=first, largest=largest_step)
        z, _ = self.equations.solve(self.z, other.coordinate(here))
        curve = follow_curve(
            problem,
            z,
            other.coordinate(here),
            other.coordinate(to),
            back_to=math.nan if behind is None else other.coordinate(behind),
            control=control,
            on_point=self.found,
        )
        self.ended = self.ended or self.why(curve)

    @property
    def maps(self) -> int:
        """Maps in all, of every rule."""
        return sum(map_.maps + map_.coarse_maps for map_ in self.equations.maps)

    # -- more points ---------------------------------------------------------------------------

    def gaps(self) -> Vector:
        """Distances of neighbours in the coordinates of the two parameters."""
        plane = np.array([(point.curve.p, point.curve.x[-1]) for point in self.points])
        return np.asarray(np.hypot(*np.diff(plane, axis=0).T))

    @property
    def length(self) -> float:
        """Of the line, in the coordinates of the two parameters."""
        return float(self.gaps().sum())

    def fill(self, points: int) -> None:
        """Solve for points between those furthest apart, until there are so many."""
        while len(self.points) < points:
            k = int(np.argmax(self.gaps()))
            middle = self.halfway(self.points[k].curve, self.points[k + 1].curve)
            if middle is None:
                return
            self.points.insert(k + 1, self.point(middle))

    def halfway(self, left: CurvePoint, right: CurvePoint) -> CurvePoint | None:
        """The point of the line in the plane across a chord, at its middle; None if that fails."""
        chord = right.z - left.z
        far = float(np.linalg.norm(chord))
        # the middle of the cubic through both ends along their tangents
        guess = 0.5 * (left.z + right.z) + 0.125 * far * (left.tangent - right.tangent)
        across = chord / far
        self.equations.prepare(guess[:-1], float(guess[-1]))

        def equations(z: Vector) -> Vector:
            return np.append(self.equations.residual(z[:-1], float(z[-1])), across @ (z - guess))

        slope = np.vstack([0.5 * (left.jacobian + right.jacobian), across])
        solved = chord_newton(equations, guess, slope=slope, largest=far)
        if solved is None:
            return None
        residual = float(np.max(np.abs(equations(solved.x))))
        return CurvePoint(
            solved.x[:-1],
            float(solved.x[-1]),
            across,
            solved.jacobian[:-1],
            residual,
            solved.evaluations,
        )

    def why(self, curve: curves.Curve) -> str:
        """Why a line ends that was not ended here."""
        if curve.stop is curves.Stop.REACHED:
            return f"the end of the range, {self.along} = {self.points[-1].position:g}"
        refusals = {map_.refusal for map_ in self.equations.maps}
        if curve.stop is curves.Stop.SMALLEST_STEP and "cost" in refusals:
            return "the average over fields would cost too much beyond"
        return {
            curves.Stop.SMALLEST_STEP: "no step along the line succeeds, however short",
            curves.Stop.CLOSED: "it comes back to where it began",
            curves.Stop.POINT_LIMIT: "the allowed number of points was used up",
        }.get(curve.stop, curve.stop.value)

    def found(self, here: CurvePoint) -> bool:
        """Take in a point; True where the line ends before it."""
        if self.points and self.leaves(here, self.equations.value(here.x)):
            return True
        self.points.append(self.point(here))
        return False

    def point(self, here: CurvePoint) -> _LinePoint:
        """A point with its error bar, on the rules that it was solved with."""
        value = self.equations.value(here.x)
        slope = here.jacobian[:, : len(here.x)]
        try:
            error = self.equations.error(here.x, here.p, slope)
        except np.linalg.LinAlgError:
            error = math.inf
        point = _LinePoint(
            curve=here,
            position=self.other.value(here.p),
            value=value,
            error=error * self.equations.maps[0].rate(value),
            states=tuple(self.equations.overlaps(here.x, here.p)),
            meaningful=self.minima(here),
        )
        if self.on_point is not None:
            self.on_point(point.position, value)
        return point

    def leaves(self, here: CurvePoint, value: float) -> bool:
        """Whether the line has ended between the last point and this one."""
        for map_, u in self.equations.parts(here.x):
            if u[0] < math.log(VANISHED * map_.place.model.rho):
                self.ended = f"the branch it is about is all but Q = 0: q < {VANISHED:g} sigma^2"
                return True
            for name in map_.broken:
                if u[map_.inside.index(DIRECTIONS[name])] <= 0:
                    whose = "semantic" if name == "theta" else "positional"
                    self.ended = (
                        f"the {whose} branch merges with the one that has {name} = 0, "
                        f"between {self.along} = {self.points[-1].position:.4g} and "
                        f"{self.other.value(here.p):.4g}"
                    )
                    return True
        low, high = self.between
        if not low <= value <= high:
            self.ended = f"{self.transition.parameter} leaves the range {low:g} to {high:g}"
            return True
        return False

    def minima(self, here: CurvePoint) -> bool:
        """Whether the branches are stable here, in all directions but that of the transition."""
        if isinstance(self.equations, Fold):
            return True
        for map_, u in self.equations.parts(here.x):
            last = map_.last
            map_.jacobian(u, float(here.x[-1]), np.zeros(len(map_.inside)))
            map_.last = last
            if map_.spectrum is None:
                return False
            matrix = map_.spectrum.matrix
            if isinstance(self.equations, Pitchfork):
                keep = [i for i in range(4) if i != DIRECTIONS[self.equations.direction]]
                matrix = matrix[np.ix_(keep, keep)]
            if np.any(np.linalg.eigvals(matrix).real >= 1):
                return False
        return True


def _broken(state: Overlaps) -> tuple[str, ...]:
    return tuple(name for name in DIRECTIONS if getattr(state, name) != 0)
