"""Folds and branch points between neighbours on a curve of solutions, located along it.

* **fold**: dp/ds changes sign, the curve turns back in p;
* **branch point**: the bordered determinant ``det [R_z; tangent]`` changes sign, another curve
  crosses this one (:func:`crossing_curve` starts it).

:func:`singular_point` finds a fold by its other definition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from gamp_theory.numerics.corrector import Corrector
from gamp_theory.numerics.curves import CurvePoint, Problem, SpecialPoint, StepControl, Vector
from gamp_theory.numerics.differences import jacobian as difference_jacobian

__all__ = ["Locator", "crossing_curve", "singular_point"]

LOCATE = 40  # steps of the search for a special point along the curve
STATIONARY = 1e-14  # length that is as good as none for p at a fold, where it is stationary
REFINE = 12  # Newton steps of the augmented system of a fold


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
    solver = Corrector(problem, control or StepControl())
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


class Locator(Corrector):
    """The points of a curve so far, and what has happened between them."""

    def __init__(
        self,
        problem: Problem,
        control: StepControl,
        look_for: Sequence[str],
        on_special: Callable[[SpecialPoint], object] | None,
    ) -> None:
        super().__init__(problem, control)
        self.look_for, self.on_special = look_for, on_special
        self.points: list[CurvePoint] = []
        self.special: list[SpecialPoint] = []
        self.unlocated = 0

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


def _hermite(left: CurvePoint, right: CurvePoint, u: float) -> tuple[Vector, Vector]:
    """Cubic through two points with their tangents, and its direction, at ``u`` in [0, 1]."""
    length = float(np.linalg.norm(right.z - left.z))
    a, b = length * left.tangent, length * right.tangent
    d = right.z - left.z
    z = left.z + u * a + u**2 * (3 * d - 2 * a - b) + u**3 * (a + b - 2 * d)
    direction = a + 2 * u * (3 * d - 2 * a - b) + 3 * u**2 * (a + b - 2 * d)
    return z, direction / np.linalg.norm(direction)
