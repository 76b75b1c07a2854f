"""What following a branch gives: its points, what happens on it, and why it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gamp_theory.branch_map import value_of
from gamp_theory.state_evolution import FixedPoint

__all__ = ["Branch", "SpecialPoint", "Stop"]

Vector: TypeAlias = NDArray[np.float64]

#: The error bars of a fold or pitchfork reach this far to either side.
INTERVAL = 2.0


class Stop(Enum):
    """Why a branch ends; the value is the sentence for the user."""

    REACHED = "It reached the end of the range."
    TURNED_BACK = "It turned back at a fold, and left the range on the side where it began."
    MERGED = "It meets the branch on which one overlap more vanishes, at a pitchfork."
    VANISHED = "The student shrinks to nothing: q goes to zero."
    CLOSED = "It came back to where it began."
    LEFT_DOMAIN = "It leaves the domain of the overlaps or of the parameter."
    SMALLEST_STEP = "No step along the branch succeeds, however short."
    QUADRATURE_LIMIT = "The average over fields would cost too much beyond."
    POINT_LIMIT = "The allowed number of points was used up."
    ENDED = "The caller ended it."
    INTERRUPTED = "Interrupted by the user."

    @property
    def token(self) -> str:
        """The name in lower case, for programs."""
        return self.name.lower()


@dataclass(frozen=True, eq=False)
class SpecialPoint:
    """Where something happens on a branch.

    Attributes
    ----------
    kind : {"fold", "pitchfork", "merge", "vanishing"}
        ``fold``: the branch turns back in the parameter; ``pitchfork``: a transverse eigenvalue
        crosses 1, another branch leaves; ``merge``: the branch itself is the one that leaves, here
        it ends; ``vanishing``: q goes to 0, where Q = 0 becomes unstable in `direction`, or, if
        that is empty, where it begins to be a solution.
    parameter : str
    value : float
    error : float
        Quadrature error and what the search left, of `value`.
    interval : tuple of float
        Holds `value`: :data:`INTERVAL` error bars to either side, and no less than where the search
        has seen it.
    direction : str
        ``"m"`` or ``"theta"``: the overlap that bifurcates; empty for a fold.
    point : FixedPoint or None
        The fixed point there, its ``status`` as it came; on the branch with more symmetry for a
        pitchfork or merge.  None where no search succeeded: then the interval is all that is known.
    after : int
        Index of the point of the branch before it; -1 if it comes before the first.
    tangent : array, shape (5,)
        Direction of the branch in (q, m, V, theta, parameter), of unit length in the coordinates
        it is followed in; for what is no fold, at the point before.
    """

    kind: Literal["fold", "pitchfork", "merge", "vanishing"]
    parameter: str
    value: float
    error: float
    interval: tuple[float, float]
    direction: str
    point: FixedPoint | None
    after: int
    tangent: Vector = field(repr=False)

    def __post_init__(self) -> None:
        if not self.interval[0] <= self.value <= self.interval[1]:
            raise ValueError(
                f"{self.kind} at {self.parameter} = {self.value!r} is outside {self.interval!r}"
            )

    def __repr__(self) -> str:
        what = f"{self.kind} in {self.direction}" if self.direction else self.kind
        return f"<{what} at {self.parameter} = {self.value:.9g} +- {self.error:.1g}>"


@dataclass(frozen=True, eq=False)
class Branch:
    """Fixed points along one parameter, in the order of the branch.

    Attributes
    ----------
    parameter : {"alpha", "omega", "lam", "sigma"}
    points : tuple of FixedPoint
        With error bars and stability; those whose accuracy was not reached say so by their status.
    tangents : array, shape (points, 5)
        d(q, m, V, theta, parameter)/ds, s the length of the branch in its coordinates.
    special : tuple of SpecialPoint
        In the order of the branch.
    stop : Stop
    map_evaluations : int
        Maps in all.
    seconds : float
    """

    parameter: str
    points: tuple[FixedPoint, ...]
    tangents: Vector
    special: tuple[SpecialPoint, ...]
    stop: Stop
    map_evaluations: int
    seconds: float

    @property
    def name(self) -> str:
        """Zero, uninformed, positional, semantic or mixed: what most of its points are called."""
        names = [point.branch for point in self.points]
        return max(names, key=names.count)

    @property
    def values(self) -> Vector:
        """The parameter at each point, shape (points,)."""
        return np.array([value_of(point, self.parameter) for point in self.points])

    @property
    def message(self) -> str:
        """Where and why it stopped, in a sentence."""
        where = f"{self.parameter} = {self.values[-1]:.6g}"
        last = self.special[-1].kind if self.special else ""
        if (self.stop, last) in ((Stop.MERGED, "merge"), (Stop.VANISHED, "vanishing")):
            where = f"{self.parameter} = {self.special[-1].value:.6g}"
        return f"{self.stop.value} ({where})"

    def of_kind(self, kind: str) -> tuple[SpecialPoint, ...]:
        """The special points of one kind."""
        return tuple(special for special in self.special if special.kind == kind)

    def __repr__(self) -> str:
        values = self.values
        lines = [
            f"<Branch {self.name} along {self.parameter} from {values[0]:.6g} to {values[-1]:.6g}: "
            f"{len(self.points)} points; {self.stop.token}: {self.message}"
        ]
        bounds = [-1, *(special.after for special in self.special), len(self.points) - 1]
        for k, (left, right) in enumerate(pairwise(bounds)):
            part = self.points[left + 1 : right + 1]
            if part:
                lines.append(f"  {_stretch(part, self.parameter)}")
            if k < len(self.special):
                lines.append(f"  {self.special[k]!r}")
        return "\n".join(lines) + ">"


def _stretch(points: Sequence[FixedPoint], parameter: str) -> str:
    """A line on the points between two special ones."""
    values = [value_of(point, parameter) for point in points]
    known = [point.stability.stable for point in points if point.stability is not None]
    word = "stable" if all(known) else "unstable" if not any(known) else "partly stable"
    flagged = sum(not point.converged for point in points)
    note = f", {flagged} flagged" if flagged else ""
    return f"{parameter} {values[0]:.6g} to {values[-1]:.6g}, {len(points)} points, {word}{note}"
