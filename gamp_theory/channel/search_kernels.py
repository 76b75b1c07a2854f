"""Kernels of the search: the convex hull of ``B(U) = min_W [A(U, W) - b W]``, for every b.

Orthonormal coordinates ``U = (h1 - h2)/sqrt(2)``, ``W = (h1 + h2)/sqrt(2)`` make the contrasts
``s_k = tanh((U**2 +- U W)/2)``, and ``A = (U**2 + W**2)/2 + V loss``.  The search is a discrete
Legendre transform on a grid: once a teacher draw the lower hull of every row ``A(U, .)``, then for
each b the best W of every row and the lower hull over the rows.

Two symmetries halve the work: ``A(-U, -W) = A(U, W)``, so that only rows ``U >= 0`` are kept (the
row -U at b is the row U at -b, mirrored), and ``s_2(U, W) = s_1(U, -W)``.  At large |U| the
contrasts vary over ``1/U``; rows are closer there, and so are the nodes of a row.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gamp_theory.numerics.jit import kernel

__all__ = ["Hull", "Reach", "SearchGrid", "energy", "find_hull", "find_rows", "lower_hull",
           "memory", "search_radius", "settle", "tanh"]  # fmt: skip

NEWTON = 30
RING = 3  # rings of points of the window of w at which the distance of its prox is bounded


class SearchGrid(NamedTuple):
    """Rows of the search grid, the same for all draws of a rule."""

    U: np.ndarray  # shape (n,), from 0 upwards
    step: np.ndarray  # shape (n,): the spacing of W in each row
    s: np.ndarray  # shape (n, 2 p + 1): s_1 at W = -p step .. p step; s_2 is the row reversed
    candidates: np.ndarray  # shape (c, 4): points (U, W) that bound the envelope, s_1, s_2 there


class Reach(NamedTuple):
    """What a teacher draw needs of the grid: a disc around the window of w."""

    a: float  # the mean of w
    b: float
    window: float  # how far w goes from there
    radius: float  # how far the prox can be from w


class Hull(NamedTuple):
    """Memory of the search, for one thread; `find_hull` leaves its answer here."""

    values: np.ndarray  # A on the rows
    stack: np.ndarray  # nodes on the hull of each row
    size: np.ndarray  # how many
    half: np.ndarray  # how many nodes a row has on either side of W = 0
    pointer: np.ndarray  # best node of row |i|: of the rows U >= 0 at b, of their mirrors at -b
    U: np.ndarray  # the rows from -U to U at one b: where, their minimum and its W
    B: np.ndarray
    W: np.ndarray
    edge: np.ndarray  # those on the hull


@kernel
def tanh(z):
    """Hyperbolic tangent to an absolute accuracy of 1e-16, three times as fast as libm's."""
    return 1 - 2 / (math.exp(2 * min(max(z, -20.0), 20.0)) + 1)


@kernel
def energy(U, W, t1, t2, k):
    """``A(U, W)`` with gradient and Hessian; ``k = V c``.

    Returns
    -------
    A, A_U, A_W, A_UU, A_UW, A_WW, s1, s2
    """
    s1 = tanh(0.5 * U * (U + W))
    s2 = tanh(0.5 * U * (U - W))
    d1 = 1 - s1 * s1
    d2 = 1 - s2 * s2
    p1 = U + 0.5 * W  # derivatives of the arguments
    p2 = U - 0.5 * W
    e = 0.5 * U
    r1 = s1 - t1
    r2 = s2 - t2
    x1 = r1 * d1  # d(loss)/d(argument)
    x2 = r2 * d2
    y1 = d1 * d1 - 2 * s1 * x1  # second derivatives in the argument
    y2 = d2 * d2 - 2 * s2 * x2
    return (
        0.5 * (U * U + W * W) + 0.5 * k * (r1 * r1 + r2 * r2),
        U + k * (x1 * p1 + x2 * p2),
        W + k * e * (x1 - x2),
        1 + k * (y1 * p1 * p1 + x1 + y2 * p2 * p2 + x2),
        k * (y1 * p1 * e + 0.5 * x1 - y2 * p2 * e - 0.5 * x2),
        1 + k * e * e * (y1 + y2),
        s1,
        s2,
    )


@kernel
def settle(U, W, b, t, k):
    """Newton in W at fixed U: a minimum of ``A - b W``.

    Returns
    -------
    W, B, a, dW/dU, B'', ok
    """
    for _ in range(NEWTON):
        A, A_U, A_W, A_UU, A_UW, A_WW, _, _ = energy(U, W, t[0], t[1], k)
        step = -(A_W - b) / A_WW if A_WW > 0 else math.copysign(0.05, b - A_W)
        if A_WW > 0 and abs(step) < 1e-9 * (1 + abs(W)):
            # the quadratic step is taken to first order in everything that is returned
            return (
                W + step,
                A - b * W + 0.5 * (A_W - b) * step,
                A_U + A_UW * step,
                -A_UW / A_WW,
                A_UU - A_UW * A_UW / A_WW,
                True,
            )
        W += min(max(step, -0.3), 0.3)
    return W, 0.0, 0.0, 0.0, 0.0, False


@kernel
def lower_hull(x, f, n, stack):
    """Indices of the lower convex hull of n points, x increasing; returns how many."""
    size = 0
    for i in range(n):
        while size >= 2:
            j = stack[size - 1]
            l = stack[size - 2]
            if (f[j] - f[l]) * (x[i] - x[l]) >= (f[i] - f[l]) * (x[j] - x[l]):
                size -= 1
            else:
                break
        stack[size] = i
        size += 1
    return size


@kernel
def search_radius(t, reach, k, candidates, cost):
    """How far the prox can be from any w of the window.

    Any h bounds the envelope, ``M <= |h - w|**2/2V + loss(h)``, and the prox obeys
    ``|prox - w|**2 <= 2 V M``.  The best such bound over w itself and the `candidates`, the
    largest over points of the window, and half their spacing: the bound changes no faster than w.

    Parameters
    ----------
    t : tuple
        Target contrasts.
    reach : Reach
        Its `radius` is not used.
    k : float
    candidates : array, shape (c, 4)
        U, W and the contrasts there; each stands for (-U, -W) as well.
    cost : array, shape (c,)
        Memory.
    """
    for c in range(cost.size):
        U, W, s1, s2 = candidates[c]
        cost[c] = U * U + W * W + k * ((s1 - t[0]) ** 2 + (s2 - t[1]) ** 2)
    spacing = reach.window / RING
    worst = 0.0
    for i in range(-RING, RING + 1):
        for j in range(-RING, RING + 1):
            if i * i + j * j > RING * (RING + 1):  # no point of the disc is closest to these
                continue
            wU = reach.a + i * spacing
            wW = reach.b + j * spacing
            best = 1e300
            for c in range(cost.size):
                best = min(best, cost[c] - 2 * abs(candidates[c, 0] * wU + candidates[c, 1] * wW))
            r1 = tanh(0.5 * wU * (wU + wW)) - t[0]
            r2 = tanh(0.5 * wU * (wU - wW)) - t[1]
            best = min(best + wU * wU + wW * wW, k * (r1 * r1 + r2 * r2))
            worst = max(worst, best)
    return math.sqrt(worst) + math.sqrt(0.5) * spacing


@kernel
def find_rows(t, k, reach, grid, hull):
    """The lower hulls of all rows ``A(U, .)`` that the draw can need; returns how many rows."""
    centre = grid.s.shape[1] // 2
    rows = 0
    for i in range(grid.U.size):
        U = grid.U[i]
        beyond = max(0.0, U - abs(reach.a) - reach.window)
        if beyond > reach.radius and i > 1:
            break
        width = math.sqrt(max(0.0, reach.radius**2 - beyond * beyond))
        step = grid.step[i]
        half = int(math.ceil((abs(reach.b) + reach.window + width) / step)) + 1
        half = min(half, centre)
        s = grid.s[i]
        f = hull.values[i]
        stack = hull.stack[i]
        base = 0.5 * U * U
        size = 0
        for j in range(2 * half + 1):
            W = (j - half) * step
            r1 = s[centre + j - half] - t[0]
            r2 = s[centre - j + half] - t[1]
            value = base + 0.5 * W * W + 0.5 * k * (r1 * r1 + r2 * r2)
            f[j] = value
            while size >= 2:
                p = stack[size - 1]
                q = stack[size - 2]
                if (f[p] - f[q]) * (j - q) >= (value - f[q]) * (p - q):
                    size -= 1
                else:
                    break
            stack[size] = j
            size += 1
        hull.size[i] = size
        hull.half[i] = half
        hull.pointer[0, i] = size // 2
        hull.pointer[1, i] = size // 2
        rows += 1
    return rows


@kernel
def best_of_row(i, side, b, step, hull):
    """Minimum of ``A - b W`` over row i and where: the best node, and the parabola around it."""
    f = hull.values[i]
    stack = hull.stack[i]
    size = hull.size[i]
    p = hull.pointer[side, i]
    slope = b * step
    while p + 1 < size and f[stack[p + 1]] - f[stack[p]] <= slope * (stack[p + 1] - stack[p]):
        p += 1
    while p > 0 and f[stack[p]] - f[stack[p - 1]] > slope * (stack[p] - stack[p - 1]):
        p -= 1
    hull.pointer[side, i] = p
    j = stack[p]
    half = hull.half[i]
    W = (j - half) * step
    best = f[j] - b * W
    if 0 < j < 2 * half:
        bend = f[j - 1] - 2 * f[j] + f[j + 1]
        tilt = 0.5 * (f[j + 1] - f[j - 1]) - slope
        if bend > 0 and abs(tilt) <= bend:
            W -= tilt / bend * step
            best -= 0.5 * tilt * tilt / bend
    return best, W


@kernel
def find_hull(b, rows, grid, hull):
    """Best W of each row at this b, then the lower hull over the rows; returns its size.

    The rows run from ``-U`` to ``U``: ``2 rows - 1`` in all.
    """
    middle = rows - 1
    for i in range(rows):
        hull.B[middle + i], hull.W[middle + i] = best_of_row(i, 0, b, grid.step[i], hull)
        hull.U[middle + i] = grid.U[i]
        if i > 0:
            B, W = best_of_row(i, 1, -b, grid.step[i], hull)
            hull.B[middle - i] = B
            hull.W[middle - i] = -W
            hull.U[middle - i] = -grid.U[i]
    return lower_hull(hull.U, hull.B, 2 * rows - 1, hull.edge)


@kernel
def memory(grid):
    """Memory of the search, for one thread."""
    n, p = grid.s.shape
    return Hull(
        np.empty((n, p)),
        np.empty((n, p), np.int64),
        np.empty(n, np.int64),
        np.empty(n, np.int64),
        np.empty((2, n), np.int64),
        np.empty(2 * n),
        np.empty(2 * n),
        np.empty(2 * n),
        np.empty(2 * n, np.int64),
    )
