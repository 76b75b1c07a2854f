"""Kernels of a sheet: the prox along one straight line of fields, from one jump to the next.

A sheet is a piece of the hull that :mod:`gamp_theory.channel.slices_kernels` describes, with U as
the variable of integration.  The nodes of a panel are worked on together: their Newton steps do not
wait for each other, and the compiler puts them into the lanes of the processor's vector units.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gamp_theory.channel.plane_kernels import exp_clamped, half_tanh
from gamp_theory.channel.search_kernels import settle
from gamp_theory.numerics.jit import kernel

__all__ = ["MOST_NODES", "MOST_OPEN", "WIDEST", "Slice", "along", "below", "panel_in_U", "unpack"]

SQRT_HALF = math.sqrt(0.5)
NEWTON = 12
SETTLED = 2e-5  # Newton step after which W is good to its square
SUMS = 10  # what a panel adds up
LANES = 3 + SUMS
MOST_NODES = 8  # of a panel
WIDEST = 1.0  # panel in U
MOST_OPEN = 48  # panels in U at a time
NARROWEST = 1e-6  # panel in U
TURNING = 0.2  # panel in U in which the prox may be found to turn back


class Slice(NamedTuple):
    """One slice: one teacher draw, one value of b."""

    t: tuple
    y: tuple
    b: float
    k: float  # V c
    c: float
    V: float
    s: float
    weight: float
    centre: float  # mean of a
    other: float  # mean of b
    low: float  # the window of a that carries weight
    high: float
    widest: float  # panel in a
    tolerance: float  # for the probability mass of a panel


@kernel
def below(a, line):
    """Probability that the field of this slice is below a."""
    return 0.5 * math.erfc((line.centre - a) / (line.s * math.sqrt(2.0)))


@kernel
def follow(left, right, line, gauss, lanes):
    """W at the nodes of a panel, by Newton's method for all of them at once.

    U and W are left in rows 0 and 1 of `lanes`.

    Returns
    -------
    bool
        Whether all nodes are on a sheet that is convex in W.
    """
    t1, t2, _, _ = line.t
    b, k = line.b, line.k
    length = right[0] - left[0]
    for n in range(gauss.size):  # the cubic through the ends
        x = gauss[n]
        z = 1 - x
        lanes[0, n] = left[0] + x * length
        lanes[1, n] = z * z * ((1 + 2 * x) * left[1] + length * x * left[3]) + x * x * (
            (3 - 2 * x) * right[1] - length * z * right[3]
        )
    for _ in range(NEWTON):
        for n in range(gauss.size):
            U = lanes[0, n]
            W = lanes[1, n]
            s1 = half_tanh(U * (U + W))
            s2 = half_tanh(U * (U - W))
            d1 = 1 - s1 * s1
            d2 = 1 - s2 * s2
            x1 = (s1 - t1) * d1
            x2 = (s2 - t2) * d2
            e = 0.5 * U
            bend = 1 + k * e * e * (d1 * d1 - 2 * s1 * x1 + d2 * d2 - 2 * s2 * x2)
            step = (b - W - k * e * (x1 - x2)) / bend
            lanes[1, n] = W + step
            lanes[2, n] = step
            lanes[3, n] = bend
        largest = 0.0
        for n in range(gauss.size):
            if not lanes[3, n] > 0:
                return False
            largest = max(largest, abs(lanes[2, n]))
        if not largest < 1:
            return False
        if largest < SETTLED:  # quadratic convergence: what is left is its square
            return True
    return False


@kernel
def panel_in_U(left, right, line, gauss, gauss_weight, folded, local):
    """Gauss-Legendre in U over one panel, into `local`.

    Where `folded` is true the prox may turn back inside: then the integral is the signed one.

    Returns
    -------
    int
        0 if the probability mass comes out to the tolerance, 1 if not, 2 if the prox turns back.
    """
    lanes = np.empty((LANES, MOST_NODES))
    if not follow(left, right, line, gauss, lanes):
        return 1
    t1, t2, slope1, slope2 = line.t
    b, k, V, s, centre = line.b, line.k, line.V, line.s, line.centre
    norm = (right[0] - left[0]) / (s * math.sqrt(2 * math.pi))
    for n in range(gauss.size):
        U = lanes[0, n]
        W = lanes[1, n]
        s1 = half_tanh(U * (U + W))
        s2 = half_tanh(U * (U - W))
        d1 = 1 - s1 * s1
        d2 = 1 - s2 * s2
        e = 0.5 * U
        p1 = U + 0.5 * W
        p2 = U - 0.5 * W
        r1 = t1 - s1
        r2 = t2 - s2
        x1 = -r1 * d1
        x2 = -r2 * d2
        y1 = d1 * d1 - 2 * s1 * x1
        y2 = d2 * d2 - 2 * s2 * x2
        A_UU = 1 + k * (y1 * p1 * p1 + x1 + y2 * p2 * p2 + x2)
        A_UW = k * (y1 * p1 * e + 0.5 * x1 - y2 * p2 * e - 0.5 * x2)
        A_WW = 1 + k * e * e * (y1 + y2)
        step = (b - W - k * e * (x1 - x2)) / A_WW
        a = U + k * (x1 * p1 + x2 * p2) + A_UW * step
        det = A_UU * A_WW - A_UW * A_UW
        beyond = a - centre
        shift = beyond / s
        density = norm * gauss_weight[n] * exp_clamped(-0.5 * shift * shift) * det / A_WW
        gU = (U - a) / V  # (prox - w)/V
        gW = (W + step - b) / V
        # the inverse of the Hessian of A is d(prox)/dw
        inverse = density / det
        i11 = A_WW / det - 1
        i22 = A_UU / det - 1
        i12 = A_UW / det
        lanes[2, n] = det
        lanes[3, n] = density
        lanes[4, n] = density * (gU * gU + gW * gW)
        lanes[5, n] = density * gU
        lanes[6, n] = density * gW
        lanes[7, n] = density * (r1 * r1 + r2 * r2)
        lanes[8, n] = density * (r1 * slope1 + r2 * slope2)
        lanes[9, n] = 2 * density - inverse * (A_WW + A_UU)
        lanes[10, n] = density * (i11 * i11 + 2 * i12 * i12 + i22 * i22)
        lanes[11, n] = density * gU * beyond
        lanes[12, n] = density * gW * beyond
    for n in range(gauss.size):
        if not lanes[2, n] > 0:
            if not folded:
                return 2
            lanes[9, n] = lanes[10, n] = 0.0
    for o in range(SUMS):
        total = 0.0
        for n in range(gauss.size):
            total += lanes[3 + o, n]
        local[o] = total
    exact = below(right[2], line) - below(left[2], line)
    return 0 if abs(local[0] - exact) <= line.tolerance else 1


@kernel
def add(local, sign, line, out):
    """Add the integrals of a panel to those of a slice."""
    weight = sign * line.weight
    gU = weight * local[2]
    gW = weight * local[3]
    beyond = line.b - line.other
    # g times the field less its mean
    gUa, gUb = weight * local[8], gU * beyond
    gWa, gWb = weight * local[9], gW * beyond
    yU = SQRT_HALF * (line.y[0] - line.y[1])
    yW = SQRT_HALF * (line.y[0] + line.y[1])
    out[0] += weight * local[0]
    out[1] += weight * local[1]
    out[2] += math.sqrt(2.0) * gU
    out[3] += gU * yU + gW * yW
    out[4] -= gUa + gWb
    out[5] += weight * local[4] * 0.5 * line.c
    out[6] += weight * local[5] * line.c
    out[7] += weight * local[6] / line.V
    out[8] += weight * local[7]
    out[10] += 2 * gUa
    out[11] += yU * yU * gUa + yU * yW * (gUb + gWa) + yW * yW * gWb


@kernel
def unpack(row):
    """A point out of a row of memory."""
    return (row[0], row[1], row[2], row[3], row[4])


@kernel
def halfway(left, right, b, t, k):
    """The point in the middle of a panel, and whether it is on a convex sheet."""
    length = right[0] - left[0]
    U = left[0] + 0.5 * length
    W = 0.5 * (left[1] + right[1]) + 0.125 * length * (left[3] - right[3])
    W, _, a, dW, bend, ok = settle(U, W, b, t, k)
    return (U, W, a, dW, bend), ok and bend > 0


@kernel
def along(left, right, line, gauss, gauss_weight, folded, work):
    """Integrate from one point of a sheet to another; panels are halved as they must.

    Stops where the prox turns back, unless `folded`.

    Returns
    -------
    left, right, ok
        If not ok, the panel that is left over: the prox turns back in it.
    """
    sign = 1.0
    if left[0] > right[0]:  # beyond a bitangent: the same way, taken back
        left, right = right, left
        sign = -1.0
    if right[0] - left[0] < 1e-13:
        return left, right, True
    rows = work.open
    rows[0, 0], rows[0, 1], rows[0, 2], rows[0, 3], rows[0, 4] = right
    waiting = 1
    while waiting > 0:
        right = unpack(rows[waiting - 1])
        length = right[0] - left[0]
        narrow = length < NARROWEST or waiting == MOST_OPEN
        verdict = 1
        if narrow or (length <= WIDEST and abs(right[2] - left[2]) <= line.widest):
            verdict = panel_in_U(left, right, line, gauss, gauss_weight, folded, work.piece)
        if verdict == 0 or (narrow and verdict == 1):
            add(work.piece, sign, line, work.slice)
            left = right
            waiting -= 1
            continue
        if verdict == 2 and length < TURNING:
            return left, right, False
        middle, ok = halfway(left, right, line.b, line.t, line.k)
        if not (ok or folded):
            return left, right, False
        row = rows[waiting]
        row[0], row[1], row[2], row[3], row[4] = middle
        waiting += 1
    return left, right, True
