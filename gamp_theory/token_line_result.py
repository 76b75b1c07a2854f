"""Results for a general model that are more than a fixed point: branches and transitions."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gamp_theory.branch_result import Stop
from gamp_theory.token_model import GeneralModel
from gamp_theory.token_overlaps import TokenOverlaps
from gamp_theory.token_result import GeneralFixedPoint
from gamp_theory.transition_result import Located, TransitionStatus

__all__ = ["INTERVAL", "GeneralBranch", "GeneralSpecialPoint", "GeneralTransition"]

Array: TypeAlias = NDArray[np.float64]

INTERVAL = 2.0
"""Standard errors that the interval of a special point reaches to either side."""


@dataclass(frozen=True, eq=False)
class GeneralSpecialPoint:
    """Where something happens on a branch of the general model.

    Attributes
    ----------
    kind : {"fold", "pitchfork", "merge"}
        ``fold``: the branch turns back in the parameter; ``pitchfork``: the eigenvalue towards an
        overlap that a symmetry keeps at 0 crosses 1, another branch leaves; ``merge``: m or theta
        of this branch vanishes, here it ends on the one where it is 0.
    parameter : {"alpha", "lam"}
    value : float
        For a pitchfork, interpolated between two points of the branch;
        :func:`gamp_theory.find_transition` closes in on it.
    error : float
        Standard error; for a pitchfork or merge, that of the interpolation counts as well.
    interval : tuple of float
        Holds `value`: :data:`INTERVAL` standard errors to either side.
    direction : str
        ``"m"`` or ``"theta"``; empty for a fold.
    overlaps : TokenOverlaps
        There, or at the point before.
    after : int
        Index of the point of the branch before it.
    """

    kind: Literal["fold", "pitchfork", "merge"]
    parameter: str
    value: float
    error: float
    interval: tuple[float, float]
    direction: str
    overlaps: TokenOverlaps = field(repr=False)
    after: int

    def __post_init__(self) -> None:
        if not self.interval[0] <= self.value <= self.interval[1]:
            raise ValueError(
                f"{self.kind} at {self.parameter} = {self.value!r} is outside {self.interval!r}"
            )

    def __repr__(self) -> str:
        what = f"{self.kind} in {self.direction}" if self.direction else self.kind
        return f"<{what} at {self.parameter} = {self.value:.6g} +- {self.error:.1g}>"


@dataclass(frozen=True, eq=False)
class GeneralBranch:
    """Fixed points of the general model along one parameter, in the order of the branch.

    Attributes
    ----------
    parameter : {"alpha", "lam"}
    points : tuple of GeneralFixedPoint
        With standard errors and stability; those whose accuracy was not reached say so by their
        status.
    slopes : array, shape (points,)
        d log(parameter)/ds, s the length of the branch in its coordinates: 0 at a fold.
    special : tuple of GeneralSpecialPoint
        In the order of the branch.
    stop : Stop
    map_evaluations : int
        Maps in all.
    seconds : float
    """

    parameter: str
    points: tuple[GeneralFixedPoint, ...]
    slopes: Array
    special: tuple[GeneralSpecialPoint, ...]
    stop: Stop
    map_evaluations: int
    seconds: float

    @property
    def name(self) -> str:
        """Uninformed, positional, semantic or mixed: what most of its points are called."""
        names = [point.branch for point in self.points]
        return max(names, key=names.count)

    @property
    def values(self) -> Array:
        """The parameter at each point, shape (points,)."""
        return np.array([getattr(point, self.parameter) for point in self.points], dtype=float)

    @property
    def message(self) -> str:
        """Where and why it stopped, in a sentence."""
        value = self.values[-1]
        if self.stop is Stop.MERGED:
            value = self.special[-1].value
        return f"{self.stop.value} ({self.parameter} = {value:.6g})"

    def of_kind(self, kind: str) -> tuple[GeneralSpecialPoint, ...]:
        """The special points of one kind."""
        return tuple(special for special in self.special if special.kind == kind)

    def __repr__(self) -> str:
        values = self.values
        known = [point.stability.stable for point in self.points if point.stability is not None]
        word = "stable" if all(known) else "unstable" if not any(known) else "partly stable"
        flagged = sum(not point.converged for point in self.points)
        lines = [
            f"<GeneralBranch {self.name} along {self.parameter} from {values[0]:.6g} to "
            f"{values[-1]:.6g}: {len(self.points)} points, {word}"
            + (f", {flagged} flagged" if flagged else "")
            + f"; {self.stop.token}: {self.message}",
            *(f"  {special!r}" for special in self.special),
        ]
        return "\n".join(lines) + ">"


@dataclass(frozen=True, eq=False)
class GeneralTransition(Located):
    """A transition of a general model in one parameter.

    Attributes
    ----------
    kind : str
        One of :data:`gamp_theory.transition_result.KINDS`; see :class:`gamp_theory.Transition`.
    parameter : {"alpha", "lam"}
        In which it was sought.
    value : float
        NaN where there is none.
    error : float
        Standard error, from that of what vanishes at the transition, scramble by scramble, and its
        slope.
    bracket : tuple of float
        Holds `value`; at its ends the sign of what vanishes is certain to two standard errors at
        least.  For a fold three standard errors to either side.
    status : TransitionStatus
    model : GeneralModel
    alpha, lam : float
        That of them which was sought is at `value`.
    samples : int
        Points per scramble of the answer.
    sides : tuple of GeneralFixedPoint
        The fixed points it is about, at the lower end of the bracket, without stability; at a fold
        the last one before it.
    others : tuple of GeneralTransition
        Further ones in the range, at higher values.
    """

    kind: str
    parameter: str
    value: float
    error: float
    bracket: tuple[float, float]
    status: TransitionStatus
    model: GeneralModel
    alpha: float
    lam: float
    samples: int = 0
    sides: tuple[GeneralFixedPoint, ...] = ()
    others: tuple[GeneralTransition, ...] = ()

    def __repr__(self) -> str:
        if not math.isfinite(self.value):
            return f"<GeneralTransition {self.kind} in {self.parameter}: {self.status.token}>"
        further = f", {len(self.others)} more" if self.others else ""
        return (
            f"<GeneralTransition {self.kind}: {self.parameter} = {self.value:.6g} +- "
            f"{self.error:.1g}, {self.status.token}{further}>"
        )
