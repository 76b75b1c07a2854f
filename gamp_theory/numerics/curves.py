"""What curves of solutions are made of: the problem, the control of steps, points, special points.

:mod:`gamp_theory.numerics.arclength` follows them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "LOCATED",
    "Curve",
    "CurvePoint",
    "Problem",
    "SpecialPoint",
    "StepControl",
    "Stop",
    "Vector",
]

Vector = NDArray[np.float64]

LOCATED = 1e-10  # length that is as good as none, unless the control says otherwise


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
