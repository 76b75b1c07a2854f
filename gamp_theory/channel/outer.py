"""The outer average, over the teacher's fields: its rule and its symmetries.

In the rotated fields ``yU = (y_1 - y_2)/sqrt(2) = sigma r cos(phi)`` and ``yW = (y_1 +
y_2)/sqrt(2) = sigma r sin(phi)`` the target contrasts are ``tanh((yU**2 +- yU yW)/2)``.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gamp_theory.mechanisms import softmax_contrasts
from gamp_theory.model import AttentionModel
from gamp_theory.numerics.quadrature import gauss_normal
from gamp_theory.overlaps import Overlaps

__all__ = [
    "Counts",
    "fields_at",
    "instability",
    "onsets",
    "outer_rule",
    "symmetries",
    "symmetry",
    "teacher_fields",
]

SEARCH = 401  # points of a line on which the ends of its unstable intervals are bracketed
BISECTIONS = 52
ROUGHLY = 20  # bisections for where onsets are born: there is next to nothing in between there
WIDE = 3.0  # standard deviations, of an interval that gets all of its nodes
FEWEST = 4  # nodes of a short one


def symmetries(model: AttentionModel, overlaps: Overlaps, even: bool = True) -> tuple[bool, bool]:
    """The symmetries of the average: flip and swap.

    The flip is ``y -> -y`` with the student's fields flipped as well (m = 0) or left alone
    (theta = 0); the swap ``(y_1, y_2, w_1, w_2) -> -(y_2, y_1, w_2, w_1)``, where both rows of A
    have the same contrast.  Without `even`, the first of the two is not counted.
    """
    a1, a2 = model.target.contrasts
    return even and (overlaps.m == 0 or overlaps.theta == 0), a1 == a2


def symmetry(model: AttentionModel, overlaps: Overlaps, even: bool = True) -> int:
    """Order of the symmetry, 4, 2 or 1: angles from 0 to ``2 pi/symmetry`` stand for all."""
    flip, swap = symmetries(model, overlaps, even)
    return (1 + flip) * (1 + swap)


def fields_at(x: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Fields ``(y_1, y_2)`` at ``x = (yU, yW)/sigma``, both along the last axis."""
    scale = sigma * math.sqrt(0.5)
    return scale * np.stack([x[..., 1] + x[..., 0], x[..., 1] - x[..., 0]], axis=-1)


def teacher_fields(model: AttentionModel, r: NDArray, phi: NDArray) -> NDArray[np.float64]:
    """Fields ``(y_1, y_2)``, shape (..., 2), at radius `r` (in units of sigma) and angle `phi`."""
    return fields_at(np.stack([r * np.cos(phi), r * np.sin(phi)], axis=-1), model.sigma)


def instability(model: AttentionModel, V: float, y: NDArray[np.float64]) -> NDArray[np.float64]:
    """``-V lambda_min - 1``, positive where the prox objective is a double well at the origin.

    ``lambda_min = -(sigma**2/4) (S + sqrt((t_1 - t_2)**2 + S**2))``, ``S = t_1 + t_2``, is the
    lowest eigenvalue of the Hessian of the loss at ``h = 0`` (docs/theory.md, section 4).
    """
    t = (1 - model.omega) * softmax_contrasts(y) + model.omega * np.array(model.target.contrasts)
    total = t[..., 0] + t[..., 1]
    return V * model.rho / 4 * (total + np.hypot(t[..., 0] - t[..., 1], total)) - 1


@dataclass(frozen=True)
class Counts:
    """Nodes of an interval of the outer rule that is :data:`WIDE` or more.

    Attributes
    ----------
    U, W : int
        Along yU, and along yW at each of these.
    """

    U: int
    W: int


def outer_rule(
    model: AttentionModel, V: float, counts: Counts, cut: float, *, flip: bool, swap: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The average over the teacher's fields by Gauss's rules for the normal density itself.

    Along yU, and along yW at each of its nodes, in pieces that end where the origin becomes a
    double well, or stops to be one.

    Parameters
    ----------
    model : AttentionModel
    V : float
    counts : Counts
        Shorter intervals get fewer, :data:`FEWEST` at least.
    cut : float
        Radius of the disc, in units of sigma, that is integrated over.
    flip, swap : bool
        Whether ``yU > 0`` stands for ``yU < 0`` (``y -> -y``), and ``yW > 0`` for ``yW < 0``.

    Returns
    -------
    y : array, shape (n, 2)
        Fields ``(y_1, y_2)``.
    weight : array, shape (n,)
        Positive; they sum to the probability of the disc.
    """
    u, weight = _gauss([0.0, *_births(model, V, cut, swap), cut], counts.U)
    weight *= 2
    if not flip:
        u, weight = np.concatenate([-u, u]), np.tile(0.5 * weight, 2)
    reach = np.sqrt(cut**2 - u**2)
    nodes, weights = [], []
    for here, share, far in zip(u, weight, reach, strict=True):
        near = 0.0 if swap else -far
        between = [w for w in onsets(model, V, float(here), cut, swap) if near < w < far]
        w, part = _gauss([near, *between, far], counts.W)
        nodes.append(np.stack([np.full(w.shape, here), w], axis=-1))
        weights.append((2 if swap else 1) * share * part)
    return fields_at(np.concatenate(nodes), model.sigma), np.concatenate(weights)


def _gauss(ends: list[float], count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gauss's rules of neighbouring intervals, joined; few nodes where an interval is short."""
    few = min(FEWEST, count)
    rules = [
        gauss_normal(math.ceil(few + (count - few) * min(1.0, (hi - lo) / WIDE)), lo, hi)
        for lo, hi in itertools.pairwise(ends)
    ]
    return np.concatenate([r.nodes for r in rules]), np.concatenate([r.weights for r in rules])


def onsets(model: AttentionModel, V: float, u: float, cut: float, swap: bool) -> list[float]:
    """Where on the line ``yU = sigma u`` the origin turns into a double well, or back.

    Values of yW in units of sigma, increasing; positive ones only if `swap`.
    """
    w = np.linspace(0.0 if swap else -cut, cut, SEARCH)

    def unstable(w: NDArray) -> NDArray[np.bool_]:
        line = np.stack([np.full(w.shape, u), w], axis=-1)
        return instability(model, V, fields_at(line, model.sigma)) > 0

    signs = unstable(w)
    changes = np.flatnonzero(signs[1:] != signs[:-1])
    lo, hi, at_lo = w[changes], w[changes + 1], signs[changes]
    for _ in range(BISECTIONS if changes.size else 0):
        middle = 0.5 * (lo + hi)
        same = unstable(middle) == at_lo
        lo, hi = np.where(same, middle, lo), np.where(same, hi, middle)
    return (0.5 * (lo + hi)).tolist()


def _births(model: AttentionModel, V: float, cut: float, swap: bool) -> list[float]:
    """Values of yU > 0, in units of sigma, at which a pair of onsets on the line appears or ends.

    Those where a pair comes in from beyond the cut are none: there is no weight there.
    """
    w = np.linspace(0.0 if swap else -cut, cut, SEARCH)

    def extremes(u: NDArray) -> NDArray[np.float64]:
        plane = np.stack(np.broadcast_arrays(u[:, None], w), axis=-1)
        values = instability(model, V, fields_at(plane, model.sigma))
        found = []
        for which in (np.argmin, np.argmax):
            at = which(values, axis=1)
            inside = (at < SEARCH - 1) & (swap | (at > 0))
            found.append(np.where(inside, values[np.arange(u.size), at], np.nan))
        return np.array(found)

    u = np.linspace(0.0, cut, SEARCH)
    found = extremes(u)
    births = []
    for kind in range(2):
        for i in np.flatnonzero(found[kind, 1:] * found[kind, :-1] < 0):
            lo, hi = u[i], u[i + 1]
            for _ in range(ROUGHLY):
                middle = 0.5 * (lo + hi)
                if extremes(np.array([middle]))[kind, 0] * found[kind, i] > 0:
                    lo = middle
                else:
                    hi = middle
            births.append(0.5 * (lo + hi))
    return sorted(births)
