"""What every channel returns, whatever rule it integrates with."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from gamp_theory.overlaps import Conjugates

__all__ = ["ChannelAverages"]


@dataclass(frozen=True)
class ChannelAverages:
    """Averages over the fields at one value of the overlaps, per unit of alpha.

    ``g = (prox - w)/V`` with the globally minimising prox; sums run over the two tokens
    (docs/theory.md, section 2).  Multiply by alpha to get conjugates and losses.

    Attributes
    ----------
    q_hat : float
        ``E sum g_l**2``.
    m_hat : float
        ``E [g_1 - g_2]``.
    V_hat : float
        ``-E sum g_l (w_l - E[w_l|y]) / Var(w_l|y)``: Stein's form of ``-E sum dg_l/dw_l``, which
        counts the jumps of the prox.
    theta_hat : float
        ``(E sum g_l y_l + theta V_hat)/rho``.
    loss : float
        ``E loss(prox; y)``.
    loss_omega : float
        ``E d loss/d omega`` at the prox.
    m_slope : float
        ``d m_hat/d m`` at fixed q, V and theta, again in Stein's form: with ``x = w - E[w|y]`` it
        is ``E (g_1 - g_2)(x_1 - x_2)/Var(w_l|y)``.
    theta_slope : float
        ``d theta_hat/d theta`` where theta = 0:
        ``(E (sum g_l y_l)(sum x_l y_l)/(rho Var(w_l|y)) + V_hat)/rho``.
    """

    q_hat: float
    m_hat: float
    V_hat: float
    theta_hat: float
    loss: float
    loss_omega: float
    m_slope: float
    theta_slope: float

    def conjugates(self, alpha: float) -> Conjugates:
        """The conjugates at sample ratio `alpha`."""
        return Conjugates(
            alpha * self.q_hat, alpha * self.m_hat, alpha * self.V_hat, alpha * self.theta_hat
        )

    def envelope(self, V: float) -> float:
        """``E M``, the mean Moreau envelope: ``E loss + V q_hat/2``, exactly."""
        return self.loss + 0.5 * V * self.q_hat

    def as_array(self) -> NDArray[np.float64]:
        """All averages in the order of the fields."""
        return np.array([getattr(self, f.name) for f in fields(self)])

    @classmethod
    def from_array(cls, x: NDArray[np.float64]) -> ChannelAverages:
        """Inverse of :meth:`as_array`."""
        return cls(*(float(value) for value in x))
