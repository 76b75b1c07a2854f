"""Pseudo-arclength continuation of ``R(x, p) = 0`` in one parameter, through folds.

The curve is followed in ``z = (x, p)`` by its own length (Keller 1977): a predictor along the
tangent, bent as the last two tangents tell, and Newton's method in the hyperplane across it.  A
step is refused, and halved, where Newton's method does not converge fast, where it moves far in
comparison with the step, or where the tangent turns too much; so a curve is not left for another.
Two kinds of special points are found between neighbours and located:

* **fold**: dp/ds changes sign, the curve turns back in p;
* **branch point**: the bordered determinant ``det [R_z; tangent]`` changes sign, another curve
  crosses this one (:func:`crossing_curve` starts it).

Scale x, p and R so that 1 is a natural unit of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gamp_theory.numerics.differences import jacobian as difference_jacobian

__all__ = [
    "Curve",
    "CurvePoint",
    "Problem",
    "SpecialPoint",
    "StepControl",
    "Stop",
    "crossing_curve",
    "follow_curve",
    "singular_point",
]

Vector = NDArray[np.float64]

LOCATE = 40  # steps of the search for a special point along the curve
LOCATED = 1e-10  # length that is as good as none, unless the control says otherwise
STATIONARY = 1e-14  # the same for p at a fold, where it is stationary
REFINE = 12  # Newton steps of the augmented system of a fold


class Stop(Enum):
    """Why a curve ends; the value is the sentence for the user."""

    REACHED = "The parameter reached the end of the range."
    CLOSED = "The curve came back to where it began."
    ENDED = "The caller ended it."
    SMALLEST_STEP = "No step along the curve succeeds, however short."
    POINT_LIMIT = "The allowed number of points was used up."

    @property
    def token(self) -> str:
        """The name in lower case."""
        return self.name.lower()


@dataclass(frozen=True)
class Problem:
    """``R(x, p) = 0`` with n equations for n unknowns and a parameter.

    Attributes
    ----------
    residual : callable
        ``(x, p) -> R``, shape (n,); not finite outside its domain.
    jacobian : callable, optional
        ``(x, p, R) -> [R_x, R_p]``, shape (n, n + 1).  Forward differences by default.
    accurate : callable, optional
        The same, where special points are located.  By default `jacobian`, or central differences
        if there is none.
    prepare : callable, optional
        Called with the predicted ``(x, p)`` before a step is corrected: the residual has to stay
        the same function until the next call.
    """

    residual: Callable[[Vector, float], Vector]
    jacobian: Callable[[Vector, float, Vector], Vector] | None = None
    accurate: Callable[[Vector, float, Vector], Vector] | None = None
    prepare: Callable[[Vector, float], None] | None = None


@dataclass(frozen=True)
class StepControl:
    """Lengths and tolerances of the continuation.

    Attributes
    ----------
    first, smallest, largest : float
        Length of the first step, below which it is given up, and beyond which it does not grow.
    tol : float
        ``max |R|`` of an accepted point.
    angle : float
        Largest turn of the tangent in a step, in radians.
    stray : float
        Largest correction, in units of the step.
    corrections : int
        Newton steps (one Jacobian for all, updated by their success) before a step is refused.
    points : int
        Most points of a curve.
    located : float
        Length along the curve to which special points are located: more than the default where
        the residual is known to jump.
    """

    first: float = 0.05
    smallest: float = 1e-5
    largest: float = 0.3
    tol: float = 1e-10
    angle: float = 0.35
    stray: float = 0.5
    corrections: int = 5
    points: int = 400
    located: float = LOCATED


@dataclass(frozen=True, eq=False)
class CurvePoint:
    """A point of a curve.

    Attributes
    ----------
    x : array, shape (n,)
    p : float
    tangent : array, shape (n + 1,)
        Of unit length, forward along the curve.
    jacobian : array, shape (n, n + 1)
        ``[R_x, R_p]``, at the prediction of this point: off by the size of the correction.
    residual : float
        ``max |R|``.
    evaluations : int
        Residuals that the step to it took, refused attempts included.
    """

    x: Vector
    p: float
    tangent: Vector
    jacobian: Vector
    residual: float
    evaluations: int

    @property
    def z(self) -> Vector:
        """``(x, p)``."""
        return np.append(self.x, self.p)

    @property
    def orientation(self) -> float:
        """Sign of the bordered determinant: constant along a curve between branch points."""
        return float(np.sign(np.linalg.det(np.vstack([self.jacobian, self.tangent]))))


@dataclass(frozen=True, eq=False)
class SpecialPoint:
    """A fold or a branch point.

    Attributes
    ----------
    kind : {"fold", "branch point"}
    x : array, shape (n,)
    p : float
    interval : tuple of float
        Values of p that hold it: for a fold, p at the turning point and its estimated error to
        either side; for a branch point, two points of the curve on either side of it.
    after : int
        Index of the point of the curve that comes before it.
    tangent : array, shape (n + 1,)
    null : array, shape (n + 1,)
        Direction, across the tangent, that ``[R_x, R_p]`` maps to (nearly) nothing.
    """

    kind: Literal["fold", "branch point"]
    x: Vector
    p: float
    interval: tuple[float, float]
    after: int
    tangent: Vector
    null: Vector

    def __post_init__(self) -> None:
        if not self.interval[0] <= self.p <= self.interval[1]:
            raise ValueError(f"{self.kind} at p = {self.p!r} is outside {self.interval!r}")


@dataclass(frozen=True, eq=False)
class Curve:
    """A solution curve.

    Attributes
    ----------
    points : tuple of CurvePoint
    special : tuple of SpecialPoint
        In the order of the curve.
    stop : Stop
    evaluations : int
        Residuals in all, those that located special points included.
    unlocated : int
        Changes of sign between neighbours for which no special point was found.
    """

    points: tuple[CurvePoint, ...]
    special: tuple[SpecialPoint, ...]
    stop: Stop
    evaluations: int
    unlocated: int = 0

    @property
    def x(self) -> Vector:
        """All x, shape (points, n)."""
        return np.array([point.x for point in self.points])

    @property
    def p(self) -> Vector:
        """All p, shape (points,)."""
        return np.array([point.p for point in self.points])


def follow_curve(
    problem: Problem,
    x: ArrayLike,
    p: float,
    to: float,
    *,
    control: StepControl | None = None,
    back_to: float = math.nan,
    through: Sequence[float] = (),
    tangent: ArrayLike | None = None,
    on_point: Callable[[CurvePoint], bool] | None = None,
    on_special: Callable[[SpecialPoint], object] | None = None,
    look_for: Sequence[str] = ("fold", "branch point"),
) -> Curve:
    """Follow the solution through ``(x, p)``, at first towards `to`.

    Parameters
    ----------
    problem : Problem
    x : array, shape (n,)
        A solution, or a good guess of one, at `p`.
    p, to : float
        The curve ends with a point at ``p = to``, exactly.
    control : StepControl, optional
    back_to : float, optional
        The other end of the range, for a curve that turns back: it ends there, too.  By default
        nowhere, so that such a curve ends by one of the other limits.
    through : sequence of float, optional
        Values of p at which the curve is to have a point, exactly, wherever it passes them.
    tangent : array, shape (n + 1,), optional
        Direction of the first step, where "towards `to`" is not enough (near a fold).
    on_point : callable, optional
        Called with each point, while the residual is still as it was when the point was corrected;
        the curve ends there if it returns True.
    on_special : callable, optional
        Called with each special point, while the residual is as it was when that was located.
    look_for : sequence of {"fold", "branch point"}
        Kinds of special points to look for.

    Returns
    -------
    Curve

    Raises
    ------
    ValueError
        If there is no solution near the start, or ``to == p``.
    """
    if to == p and tangent is None:
        raise ValueError(f"the curve starts at p = {p!r} and is to end there")
    run = _Run(
        problem, control or StepControl(), to, back_to, through, on_point, on_special, look_for
    )
    return run.follow(np.asarray(x, dtype=float), float(p), tangent)


def crossing_curve(
    problem: Problem, special: SpecialPoint, distance: float, *, control: StepControl | None = None
) -> tuple[Vector, Vector]:
    """A point on the curve that crosses at a branch point, and the direction to go on from there.

    Parameters
    ----------
    problem : Problem
    special : SpecialPoint
        A branch point.
    distance : float
        How far from it, along the null direction; its sign chooses the side.

    Returns
    -------
    z : array, shape (n + 1,)
        ``(x, p)``.
    direction : array, shape (n + 1,)
        Of unit length, away from the branch point.

    Raises
    ------
    ValueError
        If Newton's method finds no curve there.
    """
    z0 = np.append(special.x, special.p)
    # the null space is spanned by tangent and null: the part across the known curve
    across = special.null - special.tangent * (special.tangent @ special.null)
    across /= np.linalg.norm(across)
    solver = _Corrector(problem, control or StepControl())
    guess = z0 + distance * across
    solver.prepare(guess)
    z = solver.newton(guess, across)
    if z is None or abs((z - z0) @ across - distance) > 1e-6 * abs(distance):
        raise ValueError(f"no curve crosses at {abs(distance):g} from p = {special.p!r}")
    return z, (z - z0) / np.linalg.norm(z - z0)


def singular_point(
    problem: Problem, x: ArrayLike, p: float, *, step: float = 1e-4, tol: float = 1e-9
) -> tuple[Vector, float, float]:
    """The solution near ``(x, p)`` where R_x is singular: a fold by its other definition.

    Newton's method on ``R = 0, g = 0``, where g is the corner of the inverse of R_x with a border
    (Griewank and Reddien 1984); g and R_x by central differences.

    Parameters
    ----------
    problem : Problem
    x, p
        A guess, such as a fold of :func:`follow_curve`.
    step : float
        Of the differences: g's are taken with this one, those of R with its square root of one.
    tol : float
        Largest last Newton step.

    Returns
    -------
    x : array, shape (n,)
    p : float
    step : float
        Length of the last Newton step: what is left of the error, squared.

    Raises
    ------
    ValueError
        If Newton's method does not converge.
    """
    z = np.append(np.asarray(x, dtype=float), p)
    n = z.size - 1
    if problem.prepare is not None:
        problem.prepare(z[:n], z[n])

    def residual(z: Vector) -> Vector:
        return problem.residual(z[:n], float(z[n]))

    def slope(z: Vector) -> Vector:
        return difference_jacobian(residual, z, 0.0, floor=step)

    u, _, vt = np.linalg.svd(slope(z)[:, :n])
    left, right = u[:, -1], vt[-1]

    def corner(z: Vector) -> Vector:
        bordered = np.zeros((n + 1, n + 1))
        bordered[:n, :n] = slope(z)[:, :n]
        bordered[:n, n] = left
        bordered[n, :n] = right
        return np.linalg.solve(bordered, np.append(np.zeros(n), 1.0))[n:]

    last = math.inf
    for _ in range(REFINE):
        system = np.vstack([slope(z), difference_jacobian(corner, z, 0.0, floor=10 * step)])
        try:
            change = np.linalg.solve(system, -np.append(residual(z), corner(z)))
        except np.linalg.LinAlgError:
            break
        z = z + change
        size = float(np.linalg.norm(change))
        if not math.isfinite(size) or size > 1e3 * last:
            break
        last = size
        if size <= tol:
            return z[:n], float(z[n]), size
    raise ValueError(f"no singular point of R_x near p = {p!r}: the last step was {last:.3g}")


class _Corrector:
    """Residuals, their count, and Newton's method across the curve."""

    def __init__(self, problem: Problem, control: StepControl) -> None:
        self.problem, self.control = problem, control
        self.evaluations = 0

    def prepare(self, z: Vector) -> None:
        if self.problem.prepare is not None:
            self.problem.prepare(z[:-1], float(z[-1]))

    def residual(self, z: Vector) -> Vector:
        self.evaluations += 1
        return np.asarray(self.problem.residual(z[:-1], float(z[-1])), dtype=float)

    def slope(self, z: Vector, value: Vector, *, accurate: bool = False) -> Vector:
        """``[R_x, R_p]``; `accurate` where it is to be as good as it can be."""
        if accurate and self.problem.accurate is not None:
            return self.problem.accurate(z[:-1], float(z[-1]), value)
        if self.problem.jacobian is not None:
            return self.problem.jacobian(z[:-1], float(z[-1]), value)
        if accurate:
            return difference_jacobian(self.residual, z, 0.0, floor=1e-5)
        return difference_jacobian(self.residual, z, 0.0, floor=1e-7, method="forward", value=value)

    def correct(self, guess: Vector, across: Vector) -> tuple[Vector, Vector, float, int] | None:
        """Solve in the hyperplane through `guess` across a direction, with one Jacobian.

        Broyden's update makes up for its age.  Returns z, the Jacobian at `guess`, the residual
        and the number of steps; None if there is no convergence.
        """
        z, value = guess, self.residual(guess)
        if not np.all(np.isfinite(value)):
            return None
        slope = self.slope(z, value)
        if not np.all(np.isfinite(slope)):
            return None
        matrix = np.vstack([slope, across])
        first = float(np.max(np.abs(value)))
        for k in range(self.control.corrections + 1):
            size = float(np.max(np.abs(value)))
            if size <= self.control.tol:
                return z, slope, size, k
            if k == self.control.corrections or size > 2 * first:
                return None
            try:
                change = np.linalg.solve(matrix, -np.append(value, 0.0))
            except np.linalg.LinAlgError:
                return None
            z = z + change
            value = self.residual(z)
            if not np.all(np.isfinite(value)):
                return None
            matrix[:-1] += np.outer(value, change) / (change @ change)
        return None

    def newton(self, guess: Vector, across: Vector) -> Vector | None:
        """The same with a fresh and accurate Jacobian in each step, as far as it goes."""
        z, value = guess, self.residual(guess)
        last = math.inf
        for _ in range(20):
            size = float(np.max(np.abs(value)))
            if not math.isfinite(size):
                return None
            if size <= 1e-3 * self.control.tol or (size <= self.control.tol and size > 0.3 * last):
                return z
            last = size
            matrix = np.vstack([self.slope(z, value, accurate=True), across])
            # at a branch point the matrix is singular, and the equations still consistent
            z = z + np.linalg.lstsq(matrix, -np.append(value, 0.0), rcond=1e-12)[0]
            value = self.residual(z)
        return z if float(np.max(np.abs(value))) <= self.control.tol else None


class _Run(_Corrector):
    def __init__(
        self,
        problem: Problem,
        control: StepControl,
        to: float,
        back_to: float,
        through: Sequence[float],
        on_point: Callable[[CurvePoint], bool] | None,
        on_special: Callable[[SpecialPoint], object] | None,
        look_for: Sequence[str],
    ) -> None:
        super().__init__(problem, control)
        self.look_for = look_for
        self.ends, self.on_point, self.on_special = (to, back_to), on_point, on_special
        self.marks = (to, back_to, *through)
        self.points: list[CurvePoint] = []
        self.special: list[SpecialPoint] = []
        self.unlocated = 0

    def follow(self, x: Vector, p: float, tangent: ArrayLike | None) -> Curve:
        self.start(x, p, tangent)
        step = self.control.first
        stop = Stop.POINT_LIMIT
        if self.on_point is not None and self.on_point(self.points[0]):
            return self.curve(Stop.ENDED)
        while len(self.points) < self.control.points:
            before = self.evaluations
            advance = self.advance(step)
            if advance is None:
                stop = Stop.SMALLEST_STEP
                break
            point, step, ended = advance
            point = replace(point, evaluations=self.evaluations - before)
            self.points.append(point)
            if self.on_point is not None and self.on_point(point):
                stop = Stop.ENDED
                break
            self.look_between(self.points[-2], point)
            if ended is not None:
                stop = ended
                break
        return self.curve(stop)

    def curve(self, stop: Stop) -> Curve:
        return Curve(
            tuple(self.points), tuple(self.special), stop, self.evaluations, self.unlocated
        )

    def start(self, x: Vector, p: float, tangent: ArrayLike | None) -> None:
        """The first point: at the given p, unless a direction says that p is not the parameter."""
        guess = np.append(x, p)
        unit = np.zeros(guess.size)
        unit[-1] = math.copysign(1.0, self.ends[0] - p)
        across = unit if tangent is None else _unit(np.asarray(tangent, dtype=float))
        self.prepare(guess)
        found = self.correct(guess, across)
        if found is None:
            raise ValueError(f"there is no solution near the start at p = {p!r}")
        z, slope, size, _ = found
        direction = self.tangent(slope, across)
        self.points.append(
            CurvePoint(z[:-1], float(z[-1]), direction, slope, size, self.evaluations)
        )

    def tangent(self, slope: Vector, forward: Vector) -> Vector:
        """Unit null vector of ``[R_x, R_p]`` on the side of `forward`."""
        vector = np.linalg.svd(slope)[2][-1]
        return vector if vector @ forward >= 0 else -vector

    def advance(self, step: float) -> tuple[CurvePoint, float, Stop | None] | None:
        """The next point, the length of the step after it, and whether the curve ends there."""
        control = self.control
        here = self.points[-1]
        while step >= control.smallest:
            guess = self.predict(here, step)
            mark = self.crossed(here.p, guess[-1])
            across, forward = here.tangent, here.tangent
            if mark is not None:  # land on the end of the range, or on the mark: p is given there
                guess = self.predict(here, step * (mark - here.p) / (guess[-1] - here.p))
                guess[-1] = mark
                across = np.zeros(guess.size)
                across[-1] = 1.0
            length = float(np.linalg.norm(guess - here.z))
            self.prepare(guess)
            found = self.correct(guess, across)
            if found is not None and length > 0:
                z, slope, size, steps = found
                tangent = self.tangent(slope, forward)
                turn = math.acos(min(1.0, float(tangent @ here.tangent)))
                stray = float(np.linalg.norm(z - guess)) / length
                if turn <= control.angle and stray <= control.stray:
                    here_p = float(z[-1]) if mark is None else mark
                    point = CurvePoint(z[:-1], here_p, tangent, slope, size, 0)
                    if mark is not None:
                        return point, step, Stop.REACHED if mark in self.ends else None
                    if self.crossed(here.p, point.p) is None:
                        closed = self.closed(here, point)
                        return point, self.next_step(step, steps, turn), closed
            step /= 2
        return None

    def predict(self, here: CurvePoint, step: float) -> Vector:
        """Along the tangent, and the way it has been turning."""
        z = here.z + step * here.tangent
        if len(self.points) > 1:
            before = self.points[-2]
            length = float(np.linalg.norm(here.z - before.z))
            z = z + (0.5 * step**2 / length) * (here.tangent - before.tangent)
        return z

    def crossed(self, p: float, beyond: float) -> float | None:
        """The first mark, or end of the range, that lies between two values of p."""
        between = [mark for mark in self.marks if mark != p and (p - mark) * (beyond - mark) <= 0]
        return min(between, key=lambda mark: abs(mark - p), default=None)

    def closed(self, here: CurvePoint, point: CurvePoint) -> Stop | None:
        """Whether the step passes the first point, in its direction."""
        first = self.points[0]
        if len(self.points) < 4:
            return None
        chord = point.z - here.z
        length = float(np.linalg.norm(chord))
        along = float((first.z - here.z) @ chord) / length
        off = float(np.linalg.norm(first.z - here.z - chord * along / length))
        passes = 0 < along <= length and off < 0.2 * length
        return Stop.CLOSED if passes and first.tangent @ point.tangent > 0.9 else None

    def next_step(self, step: float, corrections: int, turn: float) -> float:
        """Longer where the last one was easy."""
        ease = min(1.5, 0.6 * self.control.angle / max(turn, 1e-12))
        if corrections > 2:
            ease = min(ease, 0.7)
        elif corrections == 2:
            ease = min(ease, 1.1)
        return min(step * max(ease, 0.5), self.control.largest)

    # -- special points ------------------------------------------------------------------------

    def look_between(self, left: CurvePoint, right: CurvePoint) -> None:
        """Locate what happens between two neighbours, the last points."""
        if "fold" in self.look_for:
            located = left.tangent[-1] * right.tangent[-1] < 0 and self.locate("fold", left, right)
            # the curve is better known than its tangents, whose Jacobians may be rough
            if not located and self.turned():
                self.locate_around(left, right)
        if "branch point" in self.look_for and left.orientation * right.orientation < 0:
            self.locate("branch point", left, right)

    def turned(self) -> bool:
        """Whether p has a maximum or a minimum among the last three points, of no fold so far."""
        if len(self.points) < 3:
            return False
        before, here, after = (point.p for point in self.points[-3:])
        known = any(
            special.kind == "fold" and special.after >= len(self.points) - 3
            for special in self.special
        )
        return (here - before) * (after - here) < 0 and not known

    def locate(
        self, kind: Literal["fold", "branch point"], left: CurvePoint, right: CurvePoint
    ) -> bool:
        """Root of dp/ds, or of the bordered determinant, along the curve between neighbours.

        Secants, with points that are corrected to the curve.  The residual is prepared where the
        neighbours let the root be expected, and again where it has been found.  Returns whether
        there is one.
        """
        length = float(np.linalg.norm(right.z - left.z))
        ends = [
            point.tangent[-1]
            if kind == "fold"
            else np.linalg.det(np.vstack([point.jacobian, point.tangent]))
            for point in (left, right)
        ]
        first = length * ends[0] / (ends[0] - ends[1])

        def between(s: float) -> tuple[Vector, Vector]:
            return _hermite(left, right, s / length)

        test = partial(self.test, kind, between)
        root = self.root(test, between(first)[0], first, length, 0.5 * length, kind == "fold")
        if root is None:
            self.unlocated += kind == "branch point"
            return False
        self.record(kind, root, test)
        return True

    def locate_around(self, point: CurvePoint, right: CurvePoint) -> None:
        """The fold between the neighbours of the last point but one, by accurate Jacobians."""
        self.prepare(point.z)
        found = self.correct(point.z, point.tangent)
        root = None
        if found is not None:
            start = found[0]
            slope = self.slope(start, self.residual(start), accurate=True)
            along = self.tangent(slope, point.tangent)
            back, ahead = (float(np.linalg.norm(point.z - z)) for z in (self.points[-3].z, right.z))
            test = partial(self.test, "fold", lambda s: (start + s * along, along))
            root = self.root(test, start, 0.0, ahead, back, stationary=True)
        if root is None:
            self.unlocated += 1
        else:
            self.record("fold", root, test)

    def record(
        self,
        kind: Literal["fold", "branch point"],
        root: _Test,
        test: Callable[[float], _Test | None],
    ) -> None:
        """Take in a special point; arclength counts from the last point but one."""
        null = np.linalg.svd(np.vstack([root.slope, root.tangent]))[2][-1]
        p = float(root.z[-1])
        if kind == "fold":
            # p is stationary here, so its error is that of the residual, along the left null vector
            left_null = np.linalg.svd(root.slope[:, :-1])[0][:, -1]
            off = self.control.tol / max(abs(float(left_null @ root.slope[:, -1])), 1e-300)
            interval = (p - off, p + off)
        else:
            sides = self.sides(test, root)
            interval = (min(*sides, p), max(*sides, p))
        after = len(self.points) - (2 if root.s >= 0 or len(self.points) == 2 else 3)
        special = SpecialPoint(kind, root.z[:-1], p, interval, after, root.tangent, null)
        self.special.append(special)
        if self.on_special is not None:
            self.on_special(special)

    def test(
        self,
        kind: Literal["fold", "branch point"],
        path: Callable[[float], tuple[Vector, Vector]],
        s: float,
    ) -> _Test | None:
        """What a root is looked for of, at the guess of `path` and across its direction."""
        z, direction = path(s)
        if kind == "fold":
            found = self.correct(z, direction)
            z_new = None if found is None else found[0]
        else:  # consistent, but singular, at the point itself
            z_new = self.newton(z, direction)
        if z_new is None:
            return None
        slope = self.slope(z_new, self.residual(z_new), accurate=True)
        if kind == "fold":
            tangent = self.tangent(slope, direction)
            return _Test(s, float(tangent[-1]), z_new, tangent, slope)
        value = float(np.linalg.det(np.vstack([slope, direction])))
        return _Test(s, value, z_new, direction, slope)

    def root(
        self,
        test: Callable[[float], _Test | None],
        z: Vector,
        s: float,
        length: float,
        back: float,
        stationary: bool,
    ) -> _Test | None:
        """A root of `test` near s, where z is, if there is one from ``-back`` to 1.5 `length`."""
        root = None
        # what is asked of the second pass is the least that it can tell
        for close in (1e-2 * length, self.control.located):
            self.prepare(z)
            offset = (0.1 if root is None else 1e-2) * length
            root = self.secants(test, s, offset, close, stationary)
            if root is None or not -back <= root.s <= 1.5 * length:
                return None
            s, z = root.s, root.z
        return root

    def secants(
        self,
        test: Callable[[float], _Test | None],
        s: float,
        offset: float,
        close: float,
        stationary: bool,
    ) -> _Test | None:
        """A root of `test` near `s`: the last of the points that secants lead to."""
        before, here = test(s + offset), test(s)
        for _ in range(LOCATE):
            if before is None or here is None or not math.isfinite(here.value):
                return None
            if here.value == before.value:
                return here
            step = -here.value * (here.s - before.s) / (here.value - before.value)
            # what `test` returns for a fold is dp/ds, so p is off by its product with the step
            flat = max(STATIONARY, self.control.located**2)
            if abs(step) <= close or (stationary and abs(here.value * step) <= flat):
                return here
            step = math.copysign(min(abs(step), 10 * offset), step)
            before, here = here, test(here.s + step)
        return None

    def sides(self, test: Callable[[float], _Test | None], root: _Test) -> tuple[float, float]:
        """Values of p on either side of a branch point, where the determinant has its signs."""
        reach = 10 * self.control.located
        for _ in range(8):
            below, above = test(root.s - reach), test(root.s + reach)
            if below is not None and above is not None and below.value * above.value < 0:
                return float(below.z[-1]), float(above.z[-1])
            reach *= 10
        return float(root.z[-1]), float(root.z[-1])


@dataclass(frozen=True, eq=False)
class _Test:
    """The function whose root is a special point, at arclength s."""

    s: float
    value: float
    z: Vector
    tangent: Vector
    slope: Vector


def _unit(vector: Vector) -> Vector:
    return vector / np.linalg.norm(vector)


def _hermite(left: CurvePoint, right: CurvePoint, u: float) -> tuple[Vector, Vector]:
    """Cubic through two points with their tangents, and its direction, at ``u`` in [0, 1]."""
    length = float(np.linalg.norm(right.z - left.z))
    a, b = length * left.tangent, length * right.tangent
    d = right.z - left.z
    z = left.z + u * a + u**2 * (3 * d - 2 * a - b) + u**3 * (a + b - 2 * d)
    direction = a + 2 * u * (3 * d - 2 * a - b) + 3 * u**2 * (a + b - 2 * d)
    return z, _unit(direction)
