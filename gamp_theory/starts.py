"""Named starts: where an iteration begins, and what a fixed point is called."""

from __future__ import annotations

import math

import numpy as np

from gamp_theory.mechanisms import softmax_contrasts
from gamp_theory.model import AttentionModel
from gamp_theory.numerics.quadrature import trapezoid_normal
from gamp_theory.overlaps import Overlaps

__all__ = ["STARTS", "branch_name", "named_start"]

STARTS = ("semantic", "positional", "uninformed", "zero")
#: Below this q the student is the zero vector.
ZERO_Q = 1e-9
#: Overlaps below this, or below their error bar, count as zero.
ZERO_OVERLAP = 1e-7


def named_start(name: str, model: AttentionModel, alpha: float, lam: float) -> Overlaps:
    """A state in the basin of the branch `name`; "zero" is solved in closed form instead.

    The semantic start is a student along the teacher, as informed as the samples allow; the
    positional one attends as the mean target does; the uninformed one is isotropic noise.  V
    follows from the typical curvature of the loss, ``sigma**4 (q + m**2)`` per unit of alpha.
    """
    rho = model.rho
    if name == "semantic":
        c = max(0.5, alpha / (1 + alpha))
        q, m, theta = c * c * rho / 0.8, 0.0, c * rho
    elif name == "positional":
        q, m, theta = 0.2 * rho, _positional_field(model), 0.0
    elif name == "uninformed":
        q, m, theta = 0.25 * rho, 0.0, 0.0
    else:
        raise ValueError(f"start must be one of {', '.join(STARTS)} or Overlaps, got {name!r}")
    V = rho / (lam + 0.75 * alpha * rho**2 * (q + m * m))
    return Overlaps(q=q, m=m, V=V, theta=theta)


def _positional_field(model: AttentionModel) -> float:
    """The m at which ``tanh(m**2)`` is the mean target contrast; a small one if there is none."""
    rule = trapezoid_normal(0.5, 6.0)
    u, w = np.meshgrid(rule.nodes, rule.nodes, indexing="ij")
    y = model.sigma * math.sqrt(0.5) * np.stack([w + u, w - u], axis=-1)
    teacher = np.einsum("i,j,ijk->", rule.weights, rule.weights, softmax_contrasts(y)) / 2
    mean = (1 - model.omega) * teacher + model.omega * sum(model.target.contrasts) / 2
    return math.sqrt(math.atanh(min(max(mean, 0.03), 0.95)))


def branch_name(overlaps: Overlaps, m_error: float = 0.0, theta_error: float = 0.0) -> str:
    """What a fixed point is called: zero, uninformed, positional, semantic or mixed."""
    if overlaps.q < ZERO_Q:
        return "zero"
    positional = abs(overlaps.m) > max(m_error, ZERO_OVERLAP)
    semantic = abs(overlaps.theta) > max(theta_error, ZERO_OVERLAP)
    if positional and semantic:
        return "mixed"
    if positional:
        return "positional"
    return "semantic" if semantic else "uninformed"
