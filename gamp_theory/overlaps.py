"""Overlaps and their conjugates: two types that can not be mixed up."""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Conjugates", "Overlaps"]


@dataclass(frozen=True)
class Overlaps:
    """Order parameters of the two-token, rank-one model (docs/theory.md, section 2).

    Attributes
    ----------
    q : float
        Student norm ``Q^T Sigma Q/d``, non-negative.
    m : float
        Positional overlap ``Q^T p_1/sqrt(d)`` (that of token 2 is ``-m``).
    V : float
        Response (the variance of the cavity field), non-negative.
    theta : float
        Semantic overlap ``Q^T Sigma Q*/d``.

    Raises
    ------
    ValueError
        If a value is not finite, or `q` or `V` is negative.
    """

    q: float
    m: float
    V: float
    theta: float

    def __post_init__(self) -> None:
        for name, value in zip(("q", "m", "V", "theta"), astuple(self), strict=True):
            if not math.isfinite(value):
                raise ValueError(f"{name} must be finite, got {value!r}")
            object.__setattr__(self, name, float(value))
        if self.q < 0:
            raise ValueError(f"q must be >= 0, got {self.q!r}")
        if self.V < 0:
            raise ValueError(f"V must be >= 0, got {self.V!r}")

    def check_domain(self, rho: float) -> None:
        """Raise ``ValueError`` unless ``theta**2 <= rho q`` (Cauchy-Schwarz, closed domain)."""
        if self.theta**2 > rho * self.q * (1 + 1e-12):
            raise ValueError(
                f"theta must satisfy theta**2 <= rho*q = {rho * self.q:.6g}, "
                f"got theta = {self.theta!r} (theta**2 = {self.theta**2:.6g})"
            )

    def as_array(self) -> NDArray[np.float64]:
        """The vector ``(q, m, V, theta)``."""
        return np.array(astuple(self))

    @classmethod
    def from_array(cls, x: NDArray[np.float64]) -> Overlaps:
        """Inverse of :meth:`as_array`."""
        q, m, V, theta = (float(value) for value in x)
        return cls(q, m, V, theta)

    def canonical(self) -> Overlaps:
        """The representative with ``m >= 0`` and ``theta >= 0``; the losses are the same."""
        return Overlaps(self.q, abs(self.m), self.V, abs(self.theta))


@dataclass(frozen=True)
class Conjugates:
    """Conjugate order parameters, summed over the two tokens (``m_hat = m_hat_1 - m_hat_2``)."""

    q_hat: float
    m_hat: float
    V_hat: float
    theta_hat: float

    def as_array(self) -> NDArray[np.float64]:
        """The vector ``(q_hat, m_hat, V_hat, theta_hat)``."""
        return np.array(astuple(self))

    @classmethod
    def from_array(cls, x: NDArray[np.float64]) -> Conjugates:
        """Inverse of :meth:`as_array`."""
        q_hat, m_hat, V_hat, theta_hat = (float(value) for value in x)
        return cls(q_hat, m_hat, V_hat, theta_hat)
