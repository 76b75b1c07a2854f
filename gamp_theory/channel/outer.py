"""The outer average, over the teacher's fields: polar coordinates and their symmetries.

In the rotated fields ``yU = (y_1 - y_2)/sqrt(2) = sigma r cos(phi)`` and ``yW = (y_1 +
y_2)/sqrt(2) = sigma r sin(phi)`` the target contrasts are ``tanh((yU**2 +- yU yW)/2)``.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gamp_theory.mechanisms import softmax_contrasts
from gamp_theory.model import AttentionModel
from gamp_theory.overlaps import Overlaps

__all__ = ["instability", "onsets", "symmetry", "teacher_fields"]

SEARCH = 400  # points of a ray on which the ends of the unstable intervals are bracketed
BISECTIONS = 52


def symmetry(model: AttentionModel, overlaps: Overlaps, even: bool = True) -> int:
    """Order of the symmetry of the average: 4, 2 or 1.

    ``y -> -y`` with the student's fields flipped as well (m = 0) or left alone (theta = 0), and,
    where both rows of A have the same contrast, ``(y_1, y_2, w_1, w_2) -> -(y_2, y_1, w_2, w_1)``.
    Angles from 0 to ``2 pi/symmetry`` represent the whole plane.  Without `even`, the first of the
    two is not counted.
    """
    a1, a2 = model.target.contrasts
    flip = even and (overlaps.m == 0 or overlaps.theta == 0)
    return (1 + flip) * (1 + (a1 == a2))


def teacher_fields(model: AttentionModel, r: NDArray, phi: NDArray) -> NDArray[np.float64]:
    """Fields ``(y_1, y_2)``, shape (..., 2), at radius `r` (in units of sigma) and angle `phi`."""
    u = model.sigma * r * np.cos(phi)
    w = model.sigma * r * np.sin(phi)
    return np.stack([w + u, w - u], axis=-1) * math.sqrt(0.5)


def instability(model: AttentionModel, V: float, y: NDArray[np.float64]) -> NDArray[np.float64]:
    """``-V lambda_min - 1``, positive where the prox objective is a double well at the origin.

    ``lambda_min = -(sigma**2/4) (S + sqrt((t_1 - t_2)**2 + S**2))``, ``S = t_1 + t_2``, is the
    lowest eigenvalue of the Hessian of the loss at ``h = 0`` (docs/theory.md, section 4).
    """
    t = (1 - model.omega) * softmax_contrasts(y) + model.omega * np.array(model.target.contrasts)
    total = t[..., 0] + t[..., 1]
    return V * model.rho / 4 * (total + np.hypot(t[..., 0] - t[..., 1], total)) - 1


def onsets(model: AttentionModel, V: float, phi: float, radius: float) -> list[float]:
    """Radii on the ray `phi` at which the origin turns into a double well, or back."""
    grid = np.linspace(0, radius, SEARCH)
    unstable = instability(model, V, teacher_fields(model, grid, np.full(SEARCH, phi))) > 0
    roots = []
    for i in np.flatnonzero(unstable[1:] != unstable[:-1]):
        lo, hi = grid[i], grid[i + 1]
        for _ in range(BISECTIONS):
            middle = 0.5 * (lo + hi)
            y = teacher_fields(model, np.array(middle), np.array(phi))
            if (instability(model, V, y) > 0) == unstable[i]:
                lo = middle
            else:
                hi = middle
        roots.append(0.5 * (lo + hi))
    return roots
