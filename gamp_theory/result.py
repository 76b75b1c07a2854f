"""What a solve returns: a fixed point with error bars, or a flag and the reason."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from gamp_theory.channel.base import ChannelAverages
from gamp_theory.model import AttentionModel
from gamp_theory.overlaps import Conjugates, Overlaps
from gamp_theory.stability import Stability

if TYPE_CHECKING:
    from gamp_theory.token_result import GeneralFixedPoint

__all__ = ["ConvergenceError", "FixedPoint", "FixedPointErrors", "Status"]


class Status(Enum):
    """How a solve ended; the value is the sentence for the user."""

    CONVERGED = "Converged: residual and quadrature error are within the tolerance."
    ITERATION_LIMIT = "The allowed number of maps was used up before convergence."
    LEFT_DOMAIN = "The iteration left the domain theta**2 < rho q, q > 0, V > 0."
    NON_FINITE = "The map returned a value that is not finite."
    QUADRATURE_LIMIT = "The error of the average over fields could not be brought below tolerance."
    DOES_NOT_EXIST = "There is no such fixed point here."

    @property
    def token(self) -> str:
        """The name in lower case, for programs."""
        return self.name.lower()


@dataclass(frozen=True)
class FixedPointErrors:
    """Error bars: absolute, of the same names as the numbers."""

    q: float
    m: float
    V: float
    theta: float
    train_loss: float
    train_loss_variational: float
    test_error: float


@dataclass(frozen=True)
class FixedPoint:
    """A fixed point of state evolution, with error bars and stability.

    Attributes
    ----------
    model : AttentionModel
    alpha, lam : float
        Samples per dimension and ridge.
    start : str
        Where the iteration began: a name of :data:`gamp_theory.starts.STARTS`, or "given".
    branch : str
        Where it ended: zero, uninformed, positional, semantic or mixed.
    overlaps : Overlaps or None
        None where the fixed point does not exist.
    conjugates : Conjugates or None
    averages : ChannelAverages or None
        Averages over the fields at the overlaps, per unit of alpha.
    train_loss, train_loss_variational : float
        ``eps_t`` per dimension, direct and as minus the free entropy.
    test_error : float
        ``eps_g`` per token.
    linear_error : float
        Test error of the best token-mixing matrix.
    errors : FixedPointErrors
        Error bars; those of the overlaps are propagated through ``(1 - J)^-1``.
    residual : float
        Undamped ``max |F(x) - x|/|x|`` over q, m, V, theta (components that are zero aside).  The
        conjugates are functions of the overlaps, so theirs is zero.
    iterations, map_evaluations : int
        Maps of the solve, and with those for Jacobian and error bars.
    seconds : float
    status : Status
    tol, residual_tol, quadrature_tol : float
        The accuracy asked for, relative, and the shares of it.
    rule : str
        What averaged over the fields: plane, slices, or origin (closed form at Q = 0).
    stability : Stability or None
        None where the solve did not end at a fixed point, or it was not asked for.
    """

    model: AttentionModel
    alpha: float
    lam: float
    start: str
    branch: str
    overlaps: Overlaps | None
    conjugates: Conjugates | None
    averages: ChannelAverages | None
    train_loss: float
    train_loss_variational: float
    test_error: float
    linear_error: float
    errors: FixedPointErrors
    residual: float
    iterations: int
    map_evaluations: int
    seconds: float
    status: Status
    tol: float
    residual_tol: float
    quadrature_tol: float
    rule: str
    stability: Stability | None

    @property
    def message(self) -> str:
        """What happened, in a sentence."""
        if self.status is not Status.CONVERGED or self.start in (self.branch, "given"):
            return self.status.value
        return f"{self.status.value} The {self.start} start ended on the {self.branch} branch."

    @property
    def converged(self) -> bool:
        """Whether the accuracy asked for was reached."""
        return self.status is Status.CONVERGED

    def __repr__(self) -> str:
        head = (
            f"<FixedPoint {self.branch} (from {self.start}): alpha={self.alpha:g}, "
            f"omega={self.model.omega:g}, sigma={self.model.sigma:g}, lam={self.lam:g}; "
            f"{self.status.token}"
        )
        if self.overlaps is None:
            return head + ">"
        values = [(n, getattr(self.overlaps, n), getattr(self.errors, n)) for n in "qmV"]
        values.append(("theta", self.overlaps.theta, self.errors.theta))
        values += [
            (n, getattr(self, n), getattr(self.errors, n)) for n in ("train_loss", "test_error")
        ]
        body = ", ".join(f"{name}={value:.9g} +- {error:.1g}" for name, value, error in values)
        tail = ""
        if self.stability is not None:
            s = self.stability
            word = "stable" if s.stable else "unstable"
            tail = f"; {word}, replicon={s.replicon:.3g}, jump_mass={s.jump_mass:.3g}"
        return f"{head}\n  {body}{tail}>"


class ConvergenceError(RuntimeError):
    """A solve that did not reach what was asked for; `result` is what it did reach."""

    def __init__(self, result: FixedPoint | GeneralFixedPoint) -> None:
        super().__init__(f"{result.message} {result!r}")
        self.result = result
