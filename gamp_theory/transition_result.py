"""What a search for a transition returns."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from gamp_theory.branch_map import Place
from gamp_theory.result import FixedPoint

__all__ = ["KINDS", "OTHER", "OVERLAP", "Located", "Transition", "TransitionStatus"]

KINDS = (
    "alpha_c",
    "alpha_l",
    "onset_semantic",
    "onset_positional",
    "spinodal_semantic",
    "spinodal_positional",
    "instability_semantic",
    "instability_positional",
)
#: The overlap that does not vanish on a branch.
OVERLAP = {"semantic": "theta", "positional": "m"}
OTHER = {"theta": "m", "m": "theta"}


class TransitionStatus(Enum):
    """How a search for a transition ended."""

    CONVERGED = "Converged: the bracket holds the transition."
    DOES_NOT_EXIST = "There is no such transition in the range."
    NOT_BRACKETED = "The two ends of the bracket could not be told apart."
    SOLVE_FAILED = "A fixed point beside the transition, or on the way to it, could not be solved."

    @property
    def token(self) -> str:
        """The name in lower case, for programs."""
        return self.name.lower()


class Located:
    """What the records of a transition have in common: a value in its bracket, and a status."""

    value: float
    bracket: tuple[float, float]
    status: TransitionStatus

    def __post_init__(self) -> None:
        if self.status is TransitionStatus.CONVERGED:
            lo, hi = self.bracket
            if not lo <= self.value <= hi:
                raise ValueError(f"value {self.value!r} is outside its bracket {self.bracket!r}")

    @property
    def message(self) -> str:
        """What happened, in a sentence."""
        return self.status.value


@dataclass(frozen=True)
class Transition(Located):
    """A transition in one parameter.

    Attributes
    ----------
    kind : str
        One of :data:`KINDS` (docs/phase_diagram.md).

        ``alpha_c``: semantic and positional training losses are equal (first order).
        ``alpha_l``: the test error of the branch of lowest training loss equals the linear
        baseline.
        ``onset_semantic``, ``onset_positional``: the branch bifurcates from the uninformed one, or
        from Q = 0 where that exists.
        ``spinodal_semantic``, ``spinodal_positional``: the branch ends at a fold.
        ``instability_semantic``, ``instability_positional``: the branch loses stability towards
        the overlap that vanishes on it.
    parameter : {"alpha", "omega", "lam", "sigma"}
        In which it was sought.
    value : float
        NaN where there is none.
    error : float
        Error bar, from those of the averages.
    bracket : tuple of float
        Holds `value`; fixed points at its ends are certain to be on either side, but for a fold:
        there it is the error bar.
    status : TransitionStatus
    place : Place
        Model, alpha and lam; that of them which was sought is at `value`.
    sides : tuple of FixedPoint
        The fixed points it is about, at the lower end of the bracket; at a fold the one that the
        followed branch turns back at, with the accuracy of a first look.
    others : tuple of Transition
        Further ones in the range, at higher values.
    """

    kind: str
    parameter: str
    value: float
    error: float
    bracket: tuple[float, float]
    status: TransitionStatus
    place: Place
    sides: tuple[FixedPoint, ...] = ()
    others: tuple[Transition, ...] = ()

    def __repr__(self) -> str:
        if not math.isfinite(self.value):
            return f"<Transition {self.kind} in {self.parameter}: {self.status.token}>"
        further = f", {len(self.others)} more" if self.others else ""
        return (
            f"<Transition {self.kind}: {self.parameter} = {self.value:.9g} +- {self.error:.1g}, "
            f"{self.status.token}{further}>"
        )
