"""The ridge prior: from conjugates back to overlaps (docs/theory.md, section 2)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gamp_theory.model import AttentionModel
from gamp_theory.overlaps import Conjugates, Overlaps

__all__ = ["prior_energy", "prior_map", "prior_overlaps"]


def prior_overlaps(model: AttentionModel, conjugates: Conjugates, lam: float) -> Overlaps:
    """Overlaps of the ridge posterior mode, given the conjugates.

    With ``D = lam + sigma**2 V_hat``::

        q = sigma**2 (sigma**2 q_hat + m_hat**2 + sigma**4 theta_hat**2)/D**2
        V = sigma**2/D        m = m_hat/D        theta = sigma**4 theta_hat/D

    Raises
    ------
    ValueError
        If ``D <= 0``: the quadratic form is not convex and no mode exists.
    """
    D = lam + model.rho * conjugates.V_hat
    if not D > 0:
        raise ValueError(
            f"lam + sigma**2 V_hat must be positive, got {D:.6g} (V_hat = {conjugates.V_hat:.6g})"
        )
    return Overlaps.from_array(prior_map(model.rho, conjugates.as_array(), lam))


def prior_map(rho: float, conjugates: NDArray[np.float64], lam: float) -> NDArray[np.float64]:
    """The formulas of :func:`prior_overlaps` on plain vectors, whatever the sign of D."""
    q_hat, m_hat, V_hat, theta_hat = conjugates
    D = lam + rho * V_hat
    q = rho * (rho * q_hat + m_hat**2 + (rho * theta_hat) ** 2) / D**2
    return np.array([q, m_hat / D, rho / D, rho**2 * theta_hat / D])


def prior_energy(model: AttentionModel, conjugates: Conjugates, lam: float) -> float:
    """The prior's term of the free entropy, ``(1/2) int tr[A^-1 (sum gamma q_hat + b b^T)]``."""
    v = model.rho
    D = lam + v * conjugates.V_hat
    return 0.5 * (v * conjugates.q_hat + conjugates.m_hat**2 + (v * conjugates.theta_hat) ** 2) / D
