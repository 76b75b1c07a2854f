"""Kernels that find the teacher draws whose prox objective is a double well at the origin.

Its most negative curvature there is that of the loss: the double well exists where
``1 < V c (strength)``, beyond some radius of the teacher's fields in each direction.
"""

from __future__ import annotations

import math

import numpy as np

from gamp_theory.channel.pair_kernels import target_contrasts
from gamp_theory.numerics.jit import kernel

__all__ = ["unstable_brackets", "unstable_direction", "unstable_ends"]


@kernel
def unstable_direction(t1, t2):
    """Unit vector e of the most negative curvature of the loss at h = 0, and its strength.

    ``hess loss(0) = -c [[t_1, -S/2], [-S/2, t_2]]`` with ``S = t_1 + t_2``.

    Returns
    -------
    e1, e2, strength
        ``e . hess loss(0) e = -c strength``.
    """
    half = 0.5 * (t1 - t2)
    off = -0.5 * (t1 + t2)
    radius = math.hypot(half, off)
    angle = 0.5 * math.atan2(off, half)
    return math.cos(angle), math.sin(angle), 0.5 * (t1 + t2) + radius


@kernel
def teacher_fields(radius, cosine, sine, sigma):
    """``y_1, y_2`` where ``(y_1 - y_2, y_1 + y_2)/(sqrt(2) sigma) = radius (cosine, sine)``."""
    scale = sigma * radius * math.sqrt(0.5)
    return scale * (sine + cosine), scale * (sine - cosine)


@kernel
def excess(radius, cosine, sine, target, state):
    """``-V (least eigenvalue of hess loss(0)) - 1``: positive where the origin is unstable."""
    y1, y2 = teacher_fields(radius, cosine, sine, state.sigma)
    t1, t2 = target_contrasts(y1, y2, target.omega, target.a1, target.a2)
    strength = 0.5 * (t1 + t2) + math.hypot(0.5 * (t1 - t2), 0.5 * (t1 + t2))
    return state.c * state.V * strength - 1


@kernel
def unstable_brackets(angles, cells, largest, target, state):
    """Brackets of the ends of the unstable intervals of the radius, for each polar angle.

    Parameters
    ----------
    angles : array, shape (n,)
    cells : int
        The radius is scanned in so many cells.
    largest : float
        Largest radius, in units of sigma.
    target : Target
    state : Kinetics

    Returns
    -------
    array, shape (intervals, 5)
        Angle, bracket of the lower end, bracket of the upper end; an end that is 0 or `largest`
        has a bracket of width 0.
    """
    out = np.empty((angles.size * (cells // 2 + 1), 5))
    count = 0
    for i in range(angles.size):
        cosine = math.cos(angles[i])
        sine = math.sin(angles[i])
        inside = excess(0.0, cosine, sine, target, state) > 0
        if inside:
            out[count, 0] = angles[i]
            out[count, 1] = 0.0
            out[count, 2] = 0.0
        for j in range(1, cells + 1):
            r = largest * j / cells
            now = excess(r, cosine, sine, target, state) > 0
            if now and not inside:
                out[count, 0] = angles[i]
                out[count, 1] = largest * (j - 1) / cells
                out[count, 2] = r
            elif inside and not now:
                out[count, 3] = largest * (j - 1) / cells
                out[count, 4] = r
                count += 1
            inside = now
        if inside:
            out[count, 3] = largest
            out[count, 4] = largest
            count += 1
    return out[:count].copy()


@kernel
def unstable_ends(brackets, slack, target, state):
    """The ends of the unstable intervals, to the last digit, by bisection.

    Parameters
    ----------
    brackets : array, shape (intervals, 5)
        From :func:`unstable_brackets`.
    slack : float
        Widen the brackets by this much: the state may have moved since they were made.
    target : Target
    state : Kinetics

    Returns
    -------
    array, shape (intervals, 2)
    """
    out = np.empty((brackets.shape[0], 2))
    for i in range(brackets.shape[0]):
        cosine = math.cos(brackets[i, 0])
        sine = math.sin(brackets[i, 0])
        for end in range(2):
            low = brackets[i, 1 + 2 * end]
            high = brackets[i, 2 + 2 * end]
            if low == high:
                out[i, end] = low
                continue
            low = max(low - slack, 0.0)
            high = high + slack
            rising = end == 0
            for _ in range(60):
                middle = 0.5 * (low + high)
                if (excess(middle, cosine, sine, target, state) > 0) == rising:
                    high = middle
                else:
                    low = middle
                if high - low < 1e-15 * high:
                    break
            out[i, end] = 0.5 * (low + high)
    return out
