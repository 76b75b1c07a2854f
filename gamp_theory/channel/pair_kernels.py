"""Scalar kernels of two tokens, rank one: contrasts, loss, derivatives (docs/theory.md, section 3).

Fields ``h = (h1, h2)``, ``u = h1 - h2``; student contrasts ``s1 = tanh(h1 u/2)`` and
``s2 = tanh(-h2 u/2)``; loss ``(c/2) [(t1 - s1)**2 + (t2 - s2)**2]`` with ``c = sigma**2/2``.
"""

from __future__ import annotations

import math

from gamp_theory.numerics.jit import kernel

__all__ = ["contrasts", "contrast_derivatives", "loss_derivatives", "target_contrasts"]


@kernel
def contrasts(h1, h2):
    """Student contrasts ``(s1, s2)`` at one pair of fields."""
    u = h1 - h2
    return math.tanh(0.5 * h1 * u), math.tanh(-0.5 * h2 * u)


@kernel
def target_contrasts(y1, y2, omega, a1, a2):
    """Target contrasts ``(t1, t2)`` at one pair of teacher fields."""
    s1, s2 = contrasts(y1, y2)
    return (1 - omega) * s1 + omega * a1, (1 - omega) * s2 + omega * a2


@kernel
def contrast_derivatives(h1, h2):
    """Contrasts with gradients and Hessians.

    Returns
    -------
    s1, s1_1, s1_2, s1_11, s1_12, s1_22, s2, s2_1, s2_2, s2_11, s2_12, s2_22
    """
    u = h1 - h2
    s1 = math.tanh(0.5 * h1 * u)
    s2 = math.tanh(-0.5 * h2 * u)
    d1 = 1 - s1 * s1
    d2 = 1 - s2 * s2
    # z1 = h1 (h1 - h2)/2, z2 = h2 (h2 - h1)/2 and their first derivatives
    z1_1 = h1 - 0.5 * h2
    z1_2 = -0.5 * h1
    z2_1 = -0.5 * h2
    z2_2 = h2 - 0.5 * h1
    return (
        s1,
        d1 * z1_1,
        d1 * z1_2,
        d1 * (1 - 2 * s1 * z1_1 * z1_1),
        d1 * (-0.5 - 2 * s1 * z1_1 * z1_2),
        d1 * (-2 * s1 * z1_2 * z1_2),
        s2,
        d2 * z2_1,
        d2 * z2_2,
        d2 * (-2 * s2 * z2_1 * z2_1),
        d2 * (-0.5 - 2 * s2 * z2_1 * z2_2),
        d2 * (1 - 2 * s2 * z2_2 * z2_2),
    )


@kernel
def loss_derivatives(h1, h2, t1, t2, c):
    """Loss, gradient and Hessian at one pair of fields: ``l, l_1, l_2, l_11, l_12, l_22``."""
    s1, a1, a2, a11, a12, a22, s2, b1, b2, b11, b12, b22 = contrast_derivatives(h1, h2)
    r1 = s1 - t1
    r2 = s2 - t2
    return (
        0.5 * c * (r1 * r1 + r2 * r2),
        c * (r1 * a1 + r2 * b1),
        c * (r1 * a2 + r2 * b2),
        c * (a1 * a1 + b1 * b1 + r1 * a11 + r2 * b11),
        c * (a1 * a2 + b1 * b2 + r1 * a12 + r2 * b12),
        c * (a2 * a2 + b2 * b2 + r1 * a22 + r2 * b22),
    )
