"""Pseudo-arclength continuation of ``R(x, p) = 0`` in one parameter, through folds.

The curve is followed in ``z = (x, p)`` by its own length (Keller 1977): a predictor along the
tangent, bent as the last two tangents tell, and Newton's method in the hyperplane across it.  A
step is refused, and halved, where Newton's method does not converge fast, where it moves far in
comparison with the step, or where the tangent turns too much; so a curve is not left for another.
Folds and branch points between neighbours are located
(:mod:`gamp_theory.numerics.special_points`).

Scale x, p and R so that 1 is a natural unit of each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from gamp_theory.numerics.curves import (
    Curve,
    CurvePoint,
    Problem,
    SpecialPoint,
    StepControl,
    Stop,
    Vector,
)
from gamp_theory.numerics.special_points import Locator

__all__ = ["follow_curve"]


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


class _Run(Locator):
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
        super().__init__(problem, control, look_for, on_special)
        self.ends, self.on_point = (to, back_to), on_point
        self.marks = (to, back_to, *through)

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


def _unit(vector: Vector) -> Vector:
    return vector / np.linalg.norm(vector)
