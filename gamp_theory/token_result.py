"""What a solve of the general model returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gamp_theory.result import Status
from gamp_theory.token_model import GeneralModel
from gamp_theory.token_overlaps import TokenConjugates, TokenOverlaps

__all__ = ["GeneralFixedPoint", "GeneralStability", "TokenErrors"]

Array = NDArray[np.float64]


class TokenErrors(NamedTuple):
    """Standard errors, of the same names and shapes as the numbers."""

    q: Array
    m: Array
    V: Array
    theta: Array
    train_loss: float
    train_loss_variational: float
    test_error: float
    linear_error: float


@dataclass(frozen=True, eq=False)
class GeneralStability:
    """Stability of a fixed point of the general model (docs/theory.md, section 6).

    Attributes
    ----------
    eigenvalues : tuple of complex
        Of the Jacobian of the undamped map, by decreasing real part, without the directions in
        which the student only rotates.
    spectral_radius : float
    leading_error : float
        Standard error of the largest real part.
    transverse : dict
        Leading eigenvalue towards ``m`` and ``theta``, where a symmetry keeps them at 0, with its
        standard error.
    orbit_directions : int
        How many directions of Q -> Q O were left out.
    replicon : float
        Regular part of the growth of a random perturbation, a spectral radius.
    replicon_error : float
        Its standard error.
    jump_mass : float
        ``sum_l tr[V_l (V_hat pointwise - V_hat)]/alpha``: replica symmetry is broken where it
        is positive.
    jump_mass_error : float
    stable : bool
        No eigenvalue has a real part of 1 or more; settled if `leading_error` is small against
        the distance.
    """

    eigenvalues: tuple[complex, ...]
    spectral_radius: float
    leading_error: float
    transverse: dict[str, tuple[float, float]]
    orbit_directions: int
    replicon: float
    replicon_error: float
    jump_mass: float
    jump_mass_error: float
    stable: bool


@dataclass(frozen=True, eq=False)
class GeneralFixedPoint:
    """A fixed point of the general model, with standard errors.

    Attributes
    ----------
    model : GeneralModel
    alpha, lam : float
    start : str
        Where the iteration began: a name of :data:`gamp_theory.token_starts.GENERAL_STARTS` or
        "given".
    branch : str
        Where it ended: zero, uninformed, positional, semantic or mixed.
    overlaps : TokenOverlaps
        At rank 2 and more, where rotations of the student do not matter, the representative of
        :meth:`gamp_theory.token_overlaps.TokenOverlaps.canonical` to within the error bars, which
        are those at a fixed rotation.
    conjugates : TokenConjugates or None
    train_loss, train_loss_variational : float
        ``eps_t`` per dimension, direct and as minus the free entropy.
    test_error, linear_error : float
        Per token; the latter of the best token-mixing matrix.
    errors : TokenErrors
        Standard errors from independent scrambles, those of the overlaps propagated through
        ``(1 - J)^-1``; the residual is added.
    residual : float
        Undamped ``|F(x) - x|``, in the units of `tol`.
    iterations, map_evaluations : int
        Maps of the solve, and with those for Jacobian and error bars.
    seconds : float
    status : Status
    tol : float
    samples, scrambles : int
        Of the rule of the answer: proxes are 2 samples scrambles; at Q = 0 there are none, and
        samples of the teacher's fields only.
    missed_wells : float
        Share of audited samples at which more starts found a lower minimum than the prox in use.
    stability : GeneralStability or None
    """

    model: GeneralModel
    alpha: float
    lam: float
    start: str
    branch: str
    overlaps: TokenOverlaps
    conjugates: TokenConjugates | None
    train_loss: float
    train_loss_variational: float
    test_error: float
    linear_error: float
    errors: TokenErrors
    residual: float
    iterations: int
    map_evaluations: int
    seconds: float
    status: Status
    tol: float
    samples: int
    scrambles: int
    missed_wells: float
    stability: GeneralStability | None

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
        model = self.model
        head = (
            f"<GeneralFixedPoint {self.branch} (from {self.start}): L={model.tokens}, "
            f"r={model.rank}, t={model.teacher_rank}, alpha={self.alpha:g}, lam={self.lam:g}; "
            f"{self.status.token}"
        )
        lines = [head]
        for name in ("q", "m", "V", "theta"):
            value, error = getattr(self.overlaps, name), getattr(self.errors, name)
            lines.append(f"  {name} = {np.round(value, 6).tolist()} +- {np.max(error):.1g}")
        losses = [
            f"{name} = {getattr(self, name):.6g} +- {getattr(self.errors, name):.1g}"
            for name in ("train_loss", "test_error")
        ]
        lines.append("  " + ", ".join(losses))
        return "\n".join(lines) + ">"
