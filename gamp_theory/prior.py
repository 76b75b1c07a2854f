"""The ridge prior: from conjugates back to overlaps (docs/theory.md, section 2)."""

from __future__ import annotations

from gamp_theory.model import AttentionModel
from gamp_theory.overlaps import Conjugates, Overlaps

__all__ = ["prior_overlaps", "prior_energy"]


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
    v = model.rho
    D = lam + v * conjugates.V_hat
    if not D > 0:
        raise ValueError(
            f"lam + sigma**2 V_hat must be positive, got {D:.6g} (V_hat = {conjugates.V_hat:.6g})"
        )
    q = v * (v * conjugates.q_hat + conjugates.m_hat**2 + (v * conjugates.theta_hat) ** 2) / D**2
    return Overlaps(q=q, m=conjugates.m_hat / D, V=v / D, theta=v**2 * conjugates.theta_hat / D)


def prior_energy(model: AttentionModel, conjugates: Conjugates, lam: float) -> float:
    """The prior's term of the free entropy, ``(1/2) int tr[A^-1 (sum gamma q_hat + b b^T)]``."""
    v = model.rho
    D = lam + v * conjugates.V_hat
    return 0.5 * (
        v * conjugates.q_hat + conjugates.m_hat**2 + (v * conjugates.theta_hat) ** 2
    ) / D
