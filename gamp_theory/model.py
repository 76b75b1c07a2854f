"""The model that is being learned; not the experiment, and no numerics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gamp_theory.mechanisms import DEFAULT_A, Softmax, SoftmaxMixture
from gamp_theory.spectrum import Isotropic

__all__ = ["AttentionModel"]


@dataclass(frozen=True)
class AttentionModel:
    """A teacher-student pair of dot-product attention layers (docs/theory.md, section 1).

    Sample ratio ``alpha = n/d`` and ridge ``lam`` belong to the experiment and are arguments of
    :func:`gamp_theory.solve`.

    Attributes
    ----------
    target : SoftmaxMixture
        The teacher's mechanism T.
    student : Softmax
        The student's mechanism S.
    spectrum : Isotropic
        Covariance of the tokens, and the teacher's alignment with it.
    positions : tuple of float
        One number c_l per token: the position vectors are ``p_l = c_l (1, ..., 1)/sqrt(d)``.

    Raises
    ------
    ValueError
        If the target has other than two tokens, or the positions are not ``(1, -1)``.
    """

    target: SoftmaxMixture
    student: Softmax = field(default_factory=Softmax)
    spectrum: Isotropic = field(default_factory=lambda: Isotropic(0.5))
    positions: tuple[float, ...] = (1.0, -1.0)

    def __post_init__(self) -> None:
        if self.target.tokens != 2:
            raise ValueError(
                f"A must be 2 x 2 (two tokens are what this version solves), "
                f"got {self.target.tokens} x {self.target.tokens}"
            )
        if tuple(self.positions) != (1.0, -1.0):
            raise ValueError(f"positions must be (1, -1) for two tokens, got {self.positions!r}")

    @classmethod
    def mixture(
        cls,
        omega: float = 0.3,
        sigma: float = 0.5,
        A: Sequence[Sequence[float]] | NDArray[np.float64] = DEFAULT_A,
    ) -> AttentionModel:
        """The worked case of the paper: two tokens, rank one, isotropic, p_1 = -p_2.

        Parameters
        ----------
        omega : float
            Weight of the positional part of the target, in [0, 1].
        sigma : float
            Standard deviation of the token entries, positive.
        A : 2 x 2 nested sequence
            Row-stochastic positional attention of the target.
        """
        return cls(target=SoftmaxMixture(omega, A), spectrum=Isotropic(sigma))

    def with_parameters(
        self, omega: float | None = None, sigma: float | None = None
    ) -> AttentionModel:
        """The same model at another mixture weight or token scale."""
        return AttentionModel(
            target=SoftmaxMixture(self.omega if omega is None else omega, self.target.A),
            student=self.student,
            spectrum=self.spectrum if sigma is None else Isotropic(sigma),
            positions=self.positions,
        )

    @property
    def omega(self) -> float:
        """Weight of the positional part of the target."""
        return self.target.omega

    @property
    def sigma(self) -> float:
        """Standard deviation of the token entries."""
        return self.spectrum.sigma

    @property
    def rho(self) -> float:
        """Teacher overlap per token, ``Q*^T Sigma Q*/d = sigma**2``."""
        return self.spectrum.variance
