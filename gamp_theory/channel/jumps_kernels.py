"""Kernels of the jumps: common tangents of two wells of the prox objective along one slice.

A point of a slice is a tuple ``(U, W, a, dW/dU, B'')``: where the prox is, the field a that it
belongs to, and the derivatives of the sheet there (:mod:`gamp_theory.channel.search_kernels`).
"""

from __future__ import annotations

import math

from gamp_theory.channel.search_kernels import energy, settle
from gamp_theory.numerics.jit import kernel

__all__ = ["bitangent", "jump_between", "locate", "small_bitangent", "third_well"]

NEWTON = 30
HALVINGS = 8
SMALLEST_HOLE = 1e-4
FAR = 0.3  # longest step of Newton's method in the plane
SOFTEST = 0.05  # least curvature of A that a step downhill counts on
DIFFERENT = 1e-3  # how far apart two wells are at least
SLACK = 0.02  # what the search can be wrong by, in units of V c


@kernel
def is_minimum(f):
    """Whether the Hessian in an answer of `energy` is positive definite."""
    return f[5] > 0 and f[3] * f[5] - f[4] * f[4] > 0


@kernel
def descend(f, U, W, a, b):
    """Newton step of ``A - a U - b W``, and its energy after that step, to second order."""
    det = f[3] * f[5] - f[4] * f[4]
    gU, gW = a - f[1], b - f[2]
    stepU = (f[5] * gU - f[4] * gW) / det
    stepW = (f[3] * gW - f[4] * gU) / det
    return stepU, stepW, f[0] - a * U - b * W - 0.5 * (gU * stepU + gW * stepW)


@kernel
def well(U, W, a, b, t, k):
    """The minimum of ``A - a U - b W`` downhill of a point.

    Newton's method, its Hessian lifted to be positive definite where it is not.

    Returns
    -------
    U, W, energy, ok
    """
    for _ in range(NEWTON):
        f = energy(U, W, t[0], t[1], k)
        mean = 0.5 * (f[3] + f[5])
        lowest = mean - math.hypot(0.5 * (f[3] - f[5]), f[4])
        lift = SOFTEST - 1.5 * lowest if lowest < SOFTEST else 0.0
        gU, gW = a - f[1], b - f[2]
        det = (f[3] + lift) * (f[5] + lift) - f[4] * f[4]
        stepU = ((f[5] + lift) * gU - f[4] * gW) / det
        stepW = ((f[3] + lift) * gW - f[4] * gU) / det
        length = math.hypot(stepU, stepW)
        if length < 1e-9 and lowest > 0:
            value = f[0] - a * U - b * W - 0.5 * (gU * stepU + gW * stepW)
            return U + stepU, W + stepW, value, True
        damp = min(1.0, FAR / (length + 1e-300))
        for _ in range(HALVINGS):
            ahead = energy(U + damp * stepU, W + damp * stepW, t[0], t[1], k)
            gain = f[0] - ahead[0] + damp * (a * stepU + b * stepW)
            if gain > -1e-12 * (1 + abs(f[0])):
                break
            damp *= 0.5
        U += damp * stepU
        W += damp * stepW
    return U, W, 0.0, False


@kernel
def bitangent(UL, WL, UR, WR, b, t, k):
    """Common tangent of two wells in one slice: both proxes at the same (a, b) and energy.

    One Newton step of either well at the current a alternates with the Newton step of a on the
    energy difference, whose derivative is ``U_R - U_L`` exactly.

    Returns
    -------
    UL, WL, UR, WR, a, ok
    """
    fL = energy(UL, WL, t[0], t[1], k)
    fR = energy(UR, WR, t[0], t[1], k)
    a = (fR[0] - b * WR - fL[0] + b * WL) / (UR - UL)
    if not is_minimum(fL):
        UL, WL, _, _ = well(UL, WL, a, b, t, k)
        fL = energy(UL, WL, t[0], t[1], k)
    if not is_minimum(fR):
        UR, WR, _, _ = well(UR, WR, a, b, t, k)
        fR = energy(UR, WR, t[0], t[1], k)
    if not (is_minimum(fL) and is_minimum(fR) and UL < UR):
        return UL, WL, UR, WR, 0.0, False
    a = (fR[0] - b * WR - fL[0] + b * WL) / (UR - UL)
    for _ in range(NEWTON):
        stepUL, stepWL, energyL = descend(fL, UL, WL, a, b)
        stepUR, stepWR, energyR = descend(fR, UR, WR, a, b)
        largest = max(max(abs(stepUL), abs(stepWL)), max(abs(stepUR), abs(stepWR)))
        shift = (energyR - energyL) / (UR - UL)
        if largest < 1e-10 * (1 + abs(UL) + abs(UR)) and abs(shift) < 1e-10 * (1 + abs(a)):
            return UL, WL, UR, WR, a, True
        # neither well may move more than the two are apart: they would change places
        damp = min(1.0, FAR * min(1.0, math.hypot(UR - UL, WR - WL)) / (largest + 1e-300))
        for _ in range(HALVINGS):
            nextL = energy(UL + damp * stepUL, WL + damp * stepWL, t[0], t[1], k)
            nextR = energy(UR + damp * stepUR, WR + damp * stepWR, t[0], t[1], k)
            ordered = UL + damp * stepUL < UR + damp * stepUR
            if is_minimum(nextL) and is_minimum(nextR) and ordered:
                break
            damp *= 0.5
        else:
            return UL, WL, UR, WR, a, False
        fL, fR = nextL, nextR
        UL += damp * stepUL
        WL += damp * stepWL
        UR += damp * stepUR
        WR += damp * stepWR
        if UR - UL < 1e-5:
            return UL, WL, UR, WR, a, False
        a += damp * shift
    return UL, WL, UR, WR, a, False


@kernel
def small_bitangent(left, right, b, t, k):
    """The bitangent across a small hole: Newton for the middle c and half-length d of the chord.

    The equations, ``[B'(c + d) - B'(c - d)]/2d = 0`` and equality of the slope of the chord with
    the mean of the two B', turn into derivatives of B at c as d goes to 0, the second and
    (times ``-d**2/3``) the third: regular where two wells are hard to tell from their barrier.
    """
    c = 0.5 * (left[0] + right[0])
    d = 0.5 * (right[0] - left[0])
    WL, WR = left[1], right[1]
    for _ in range(NEWTON):
        WL, BL, aL, dL, bendL, okL = settle(c - d, WL, b, t, k)
        WR, BR, aR, dR, bendR, okR = settle(c + d, WR, b, t, k)
        if not (okL and okR):
            return left, right, False
        f = 0.5 * (aR - aL) / d
        g = 0.5 * (BR - BL) / d - 0.5 * (aR + aL)
        mean = 0.5 * (bendR + bendL)
        odd = 0.5 * (bendR - bendL)
        f_c, f_d = odd / d, (mean - f) / d
        g_c, g_d = f - mean, -g / d - odd
        det = f_c * g_d - f_d * g_c
        if det == 0:
            return left, right, False
        step_c = (f_d * g - g_d * f) / det
        step_d = (g_c * f - f_c * g) / det
        step_c = min(max(step_c, -d), d)
        step_d = min(max(step_d, -0.5 * d), d)
        if abs(step_c) + abs(step_d) < 1e-6 * d:
            ok = bendL > 0 and bendR > 0
            return (c - d, WL, aL, dL, bendL), (c + d, WR, aR, dR, bendR), ok
        c += step_c
        d += step_d
        WL += dL * (step_c - step_d)
        WR += dR * (step_c + step_d)
        if not SMALLEST_HOLE < d < 10:
            return left, right, False
    return left, right, False


@kernel
def jump_between(left, right, b, t, k):
    """The jump between two wells, given by any points near them, as two points; and if there is.

    The two have one slope a to 1e-9: that of the common tangent.
    """
    UL, WL, UR, WR, _, ok = bitangent(left[0], left[1], right[0], right[1], b, t, k)
    if not ok:
        return left, right, False
    WL, _, aL, dL, bendL, okL = settle(UL, WL, b, t, k)
    WR, _, aR, dR, bendR, okR = settle(UR, WR, b, t, k)
    ok = okL and okR and bendL > 0 and bendR > 0
    return (UL, WL, aL, dL, bendL), (UR, WR, aR, dR, bendR), ok


@kernel
def third_well(before, after, b, t, k, hull, rows):
    """A well below the common tangent of two others, which the search grid has stepped over.

    Rows between the two whose minimum, on the tangent's slope, may be lower are polished.

    Returns
    -------
    U, W, found
    """
    a = before[2]
    f = energy(before[0], before[1], t[0], t[1], k)
    level = f[0] - a * before[0] - b * before[1]
    n = 2 * rows - 1
    U, B = hull.U, hull.B
    for i in range(1, n - 1):
        if U[i] <= before[0]:
            continue
        if U[i] >= after[0]:
            break
        value = B[i] - a * U[i]
        left = B[i - 1] - a * U[i - 1] - value
        right = B[i + 1] - a * U[i + 1] - value
        if left < 0 or right < 0:
            continue
        # a parabola through the three cannot dip by more than this
        if value - 0.5 * min(left, right) > level + SLACK * k:
            continue
        foundU, foundW, found, ok = well(U[i], hull.W[i], a, b, t, k)
        between = before[0] + DIFFERENT < foundU < after[0] - DIFFERENT
        if ok and between and found < level - 1e-9 * (1 + abs(level)):
            return foundU, foundW, True
    return 0.0, 0.0, False


@kernel
def locate(target, left, right, b, t, k, tolerance):
    """The point of a smooth sheet at ``a = target``, to a `tolerance`: safeguarded Newton on B'."""
    lo, hi = left[0], right[0]
    slope = (right[0] - left[0]) / (right[2] - left[2])
    U = left[0] + slope * (target - left[2])
    W = left[1] + (right[1] - left[1]) * (U - lo) / (hi - lo)
    point = left
    for _ in range(NEWTON):
        W, _, a, dW, curvature, ok = settle(U, W, b, t, k)
        point = (U, W, a, dW, curvature)
        if not ok or abs(a - target) < tolerance:
            break
        if a < target:
            lo = U
        else:
            hi = U
        new = U + (target - a) / curvature if curvature > 0 else lo - 1
        if not lo < new < hi:
            new = 0.5 * (lo + hi)
        W += dW * (new - U)
        U = new
    return point
