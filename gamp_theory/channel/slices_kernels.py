"""Kernels of the slice rule: the prox followed along straight lines in the field plane.

Orthonormal coordinates ``U = (h1 - h2)/sqrt(2)``, ``W = (h1 + h2)/sqrt(2)`` make the contrasts
``s_k = tanh((U**2 +- U W)/2)``.  The cavity field has the coordinates ``(a, b)`` along the same
axes.  At fixed target contrasts t and fixed b, the prox is the minimiser over U of

    B(U) - a U,      B(U) = min_W [ A(U, W) - b W ],      A = (U**2 + W**2)/2 + V loss,

so along a slice the jumps of the prox are the edges of the convex hull of one function of one
variable, and U itself is the integration variable on the hull: ``a = B'(U)``, ``da = B'' dU``.
Nothing is inverted, and near a cusp, where the prox is steep in a, everything is smooth in U
(docs/numerics.md, "Slices").
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gamp_theory.numerics.jit import kernel

__all__ = [
    "OUTPUTS",
    "SliceGrid",
    "SliceState",
    "box_radius",
    "frozen_averages",
    "refined_averages",
    "panel_error",
]

#: What `slice_averages` accumulates, in order.
OUTPUTS = (
    "mass",
    "gg",
    "g_position",
    "g_teacher",
    "g_score",
    "loss",
    "loss_omega",
    "slope",
    "contraction",
    "jump_mass",
    "unresolved",
)
N_OUT = len(OUTPUTS)
SQRT_HALF = math.sqrt(0.5)
NEWTON = 30
HALVINGS = 8
SMALLEST_HOLE = 1e-4
CLOSE = 0.5  # how far beyond the vertices of the hull a small bitangent may touch
NARROWEST_PANEL = 0.01
MOST_PANELS = 32


class SliceState(NamedTuple):
    """Constants of one evaluation."""

    c: float  # sigma**2/2
    V: float
    omega: float
    a1: float  # contrasts of the matrix A
    a2: float
    m: float
    tilt: float  # theta/rho: the mean of w is tilt*y + (m, -m)
    s: float  # sqrt(q - theta**2/rho), the width of w given y


class Slice(NamedTuple):
    """One slice: one teacher draw, one value of b; where its integral is added up."""

    t: tuple  # t1, t2 and dt/d omega = a1 - z1, a2 - z2
    y: tuple
    weight: float
    centre: float  # mean of a
    low: float  # the window of a that carries weight
    high: float
    piece: np.ndarray  # work space
    out: np.ndarray


class Draw(NamedTuple):
    """One teacher draw: contrasts, window, and the part of the search grid that it needs."""

    t: tuple  # t1, t2 and dt/d omega = a1 - z1, a2 - z2
    y: tuple
    a: float  # mean of w
    b: float
    room: float  # what the cut leaves for a and b, in squared standard deviations
    first: int  # rows (U) and columns (W) of the search grid
    last: int
    low: int
    high: int


class Work(NamedTuple):
    """Memory that is used again for every draw."""

    values: np.ndarray  # A on the search grid, and the hull of each row
    stack: np.ndarray
    size: np.ndarray
    pointer: np.ndarray
    minimum: np.ndarray  # of each row at one b, and where
    where: np.ndarray
    edge: np.ndarray  # the hull over the rows
    todo: np.ndarray  # panels in b that are still open
    ends: np.ndarray  # of those that are done
    samples: np.ndarray  # slices of a panel
    piece: np.ndarray  # integrals: of a piece, a slice, a panel, a draw
    slice: np.ndarray
    panel: np.ndarray
    total: np.ndarray


class SliceGrid(NamedTuple):
    """The frozen nodes: slices in a panel of b, nodes in a cell, the cut."""

    zeta: np.ndarray  # trapezoid slices, b = mean + s*zeta
    zeta_weight: np.ndarray
    b_gauss: np.ndarray  # Gauss-Legendre nodes on [0, 1] of a panel in b
    b_gauss_weight: np.ndarray
    b_panel: float  # widest panel in b, in units of s
    legendre: np.ndarray  # coefficients of degree (row) from the samples of a panel (column)
    gauss: np.ndarray  # Gauss-Legendre nodes on [0, 1]
    gauss_weight: np.ndarray
    cut: float  # radius of the ball in (y, a, b), in standard deviations, that is integrated over
    panel: float  # widest panel in a, in units of s


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
    if not (is_minimum(fL) and is_minimum(fR)):
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
        damp = min(1.0, min(0.3, 0.3 * (UR - UL)) / (largest + 1e-300))
        for _ in range(HALVINGS):
            nextL = energy(UL + damp * stepUL, WL + damp * stepWL, t[0], t[1], k)
            nextR = energy(UR + damp * stepUR, WR + damp * stepWR, t[0], t[1], k)
            if is_minimum(nextL) and is_minimum(nextR):
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
def locate(target, left, right, b, t, k):
    """The point of a smooth cell at ``a = target``: safeguarded Newton on B'."""
    lo, hi = left[0], right[0]
    slope = (right[0] - left[0]) / (right[2] - left[2])
    U = left[0] + slope * (target - left[2])
    W = left[1] + (right[1] - left[1]) * (U - lo) / (hi - lo)
    point = left
    for _ in range(NEWTON):
        W, _, a, dW, curvature, ok = settle(U, W, b, t, k)
        point = (U, W, a, dW, curvature)
        if not ok or abs(a - target) < 1e-6 * abs(right[2] - left[2]):
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


@kernel
def cell(left, right, b, slice_, state, grid, fold):
    """Add the integral over one cell, Gauss-Legendre in U, to ``slice_.out``.

    Returns False if the cell is not smooth: its two ends are not on one sheet, or the prox
    turns back inside it (allowed where `fold` is true: then the integral is the signed one).
    """
    t, y, weight, local = slice_.t, slice_.y, slice_.weight, slice_.piece
    k = state.c * state.V
    length = right[0] - left[0]
    rise = right[2] - left[2]
    width = state.s
    norm = weight / (width * math.sqrt(2 * math.pi))
    mean1 = state.tilt * y[0] + state.m
    mean2 = state.tilt * y[1] - state.m
    mass = 0.0
    for n in range(grid.gauss.size):
        x = grid.gauss[n]
        # cubic Hermite guess of W: fourth-order, so that one Newton step is enough
        x2 = x * x
        x3 = x2 * x
        W = (
            (2 * x3 - 3 * x2 + 1) * left[1]
            + (3 * x2 - 2 * x3) * right[1]
            + length * ((x3 - 2 * x2 + x) * left[3] + (x3 - x2) * right[3])
        )
        U = left[0] + x * length
        for _ in range(NEWTON):
            A, A_U, A_W, A_UU, A_UW, A_WW, s1, s2 = energy(U, W, t[0], t[1], k)
            if not A_WW > 0:
                return False
            step = (b - A_W) / A_WW
            if abs(step) < 1e-11 * (1 + abs(W)):
                break
            if abs(step) > 1:
                return False
            W += step
        det = A_UU * A_WW - A_UW * A_UW
        if not (det > 0 or fold):
            return False
        dU = grid.gauss_weight[n] * length
        jacobian = det / A_WW
        mass += dU * jacobian
        shift = (A_U - slice_.centre) / width
        density = norm * math.exp(-0.5 * shift * shift) * dU * jacobian
        gU = (U - A_U) / state.V  # (prox - w)/V
        gW = (W - b) / state.V
        g1 = (gU + gW) * SQRT_HALF
        g2 = (gW - gU) * SQRT_HALF
        w1 = (A_U + b) * SQRT_HALF
        w2 = (b - A_U) * SQRT_HALF
        r1 = t[0] - s1
        r2 = t[1] - s2
        # inverse of the Hessian of A is d(prox)/dw
        i11 = A_WW / det - 1
        i22 = A_UU / det - 1
        i12 = A_UW / det
        local[0] += density
        local[1] += density * (gU * gU + gW * gW)
        local[2] += density * (g1 - g2)
        local[3] += density * (g1 * y[0] + g2 * y[1])
        local[4] -= density * (g1 * (w1 - mean1) + g2 * (w2 - mean2))
        local[5] += density * 0.5 * state.c * (r1 * r1 + r2 * r2)
        local[6] += density * state.c * (r1 * t[2] + r2 * t[3])
        if det > 0:
            local[7] -= density * (i11 + i22) / state.V
            local[8] += density * (i11 * i11 + 2 * i12 * i12 + i22 * i22)
    return abs(mass - rise) <= 1e-3 * abs(rise) + 1e-9


@kernel
def piece(left, right, b, slice_, state, grid, fold):
    """Add one piece between two points of a sheet: clip it to the window, cut it to panels.

    Returns False, and adds nothing, where `cell` does.
    """
    low, high = slice_.low, slice_.high
    sign = 1.0
    if left[0] > right[0]:  # beyond the bitangent: the same piece, taken back
        left, right = right, left
        sign = -1.0
    if max(left[2], right[2]) <= low or min(left[2], right[2]) >= high:
        return True
    if right[0] - left[0] < 1e-14:
        return True
    k = state.c * state.V
    if left[2] < low:
        left = locate(low, left, right, b, slice_.t, k)
    if right[2] > high:
        right = locate(high, left, right, b, slice_.t, k)
    panels = max(1, int(math.ceil(abs(right[2] - left[2]) / (grid.panel * state.s))))
    if panels > 1000:
        return False
    slice_.piece[:] = 0.0
    previous = left
    for n in range(1, panels + 1):
        following = right
        if n < panels:
            target = left[2] + (right[2] - left[2]) * n / panels
            following = locate(target, previous, right, b, slice_.t, k)
        if not cell(previous, following, b, slice_, state, grid, fold):
            return False
        previous = following
    for n in range(N_OUT):
        slice_.out[n] += sign * slice_.piece[n]
    return True


@kernel
def add_jump(jump, slice_, state):
    """Add one jump to ``J = E int |jump|^2/|jump_U| p(a) p(b) db``: its length on the curve."""
    UL, WL, UR, WR, a = jump
    shift = (a - slice_.centre) / state.s
    density = slice_.weight * math.exp(-0.5 * shift * shift) / (state.s * math.sqrt(2 * math.pi))
    slice_.out[9] += density * ((UR - UL) ** 2 + (WR - WL) ** 2) / (UR - UL)


@kernel
def between(left, right, b, slice_, state, grid):
    """Add what lies between two neighbouring vertices of the hull: a smooth piece or a jump."""
    if piece(left, right, b, slice_, state, grid, False):
        return
    t = slice_.t
    k = state.c * state.V
    before, after, ok = small_bitangent(left, right, b, t, k)
    if not ok or not left[0] - CLOSE < before[0] < after[0] < right[0] + CLOSE:
        UL, WL, UR, WR, _, ok = bitangent(left[0], left[1], right[0], right[1], b, t, k)
        if ok:
            WL, _, aL, dL, bendL, okL = settle(UL, WL, b, t, k)
            WR, _, aR, dR, bendR, okR = settle(UR, WR, b, t, k)
            before, after = (UL, WL, aL, dL, bendL), (UR, WR, aR, dR, bendR)
            ok = okL and okR
    if ok:
        smooth = piece(left, before, b, slice_, state, grid, False)
        smooth = piece(after, right, b, slice_, state, grid, False) and smooth
        if smooth:
            add_jump((before[0], before[1], after[0], after[1], before[2]), slice_, state)
        else:
            slice_.out[10] += doubt(left, right, slice_, state)
        return
    # A hole smaller than a cell: the signed integral through it differs from the true one by
    # the fourth power of its size only.
    if not piece(left, right, b, slice_, state, grid, True):
        slice_.out[10] += doubt(left, right, slice_, state)


@kernel
def doubt(left, right, slice_, state):
    """A bound on the probability mass that lies between two vertices."""
    rise = abs(right[2] - left[2])
    near = max(0.0, abs(0.5 * (left[2] + right[2]) - slice_.centre) - 0.5 * rise) / state.s
    return slice_.weight * math.exp(-0.5 * near * near) * min(1.0, rise / state.s)


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
def box_radius(state, y, cut, half_width, n):
    """How far the prox can be from the window of w, for one teacher draw.

    Any candidate bounds the envelope, ``M <= |h - w|**2/2V + loss(h)``, and the prox obeys
    ``|prox - w|**2 <= 2 V M``.  The largest such bound over 5 x 5 points of the window, and
    half their spacing, since the bound changes no faster than w.
    """
    room = cut * cut - 0.5 * (y[0] * y[0] + y[1] * y[1]) / state.c
    spread = 0.5 * math.sqrt(max(room, 1.0))
    z1 = tanh(0.5 * y[0] * (y[0] - y[1]))
    z2 = tanh(0.5 * y[1] * (y[1] - y[0]))
    t1 = (1 - state.omega) * z1 + state.omega * state.a1
    t2 = (1 - state.omega) * z2 + state.omega * state.a2
    mean1 = state.tilt * y[0] + state.m
    mean2 = state.tilt * y[1] - state.m
    worst = 0.0
    for i in range(-2, 3):
        for j in range(-2, 3):
            w1 = mean1 + i * spread * state.s
            w2 = mean2 + j * spread * state.s
            best = 1e300
            for p in range(-n, n + 1):
                for r in range(-n, n + 1):
                    h1 = w1 + half_width * p / n
                    h2 = w2 + half_width * r / n
                    s1 = tanh(0.5 * h1 * (h1 - h2))
                    s2 = tanh(0.5 * h2 * (h2 - h1))
                    bound = (
                        (h1 - w1) ** 2
                        + (h2 - w2) ** 2
                        + state.V * state.c * ((t1 - s1) ** 2 + (t2 - s2) ** 2)
                    )
                    best = min(best, bound)
            worst = max(worst, best)
    return math.sqrt(worst) + 0.5 * spread * state.s


@kernel
def search_rows(draw, state, table, work):
    """Discrete Legendre transform of every row: the lower hulls of ``A(U, .)`` on the grid."""
    axis, s1_table, s2_table = table
    k = state.c * state.V
    t1, t2 = draw.t[0], draw.t[1]
    columns = draw.high - draw.low + 1
    for i in range(draw.first, draw.last + 1):
        for j in range(columns):
            W = axis[draw.low + j]
            r1 = s1_table[i, draw.low + j] - t1
            r2 = s2_table[i, draw.low + j] - t2
            work.values[i, j] = 0.5 * W * W + 0.5 * k * (r1 * r1 + r2 * r2)
        work.size[i] = lower_hull(
            axis[draw.low : draw.high + 1], work.values[i], columns, work.stack[i]
        )
        work.pointer[i] = 0


@kernel
def search_slice(b, draw, axis, work):
    """Best W of each row at this b, then the lower hull over the rows; returns its size."""
    columns = draw.high - draw.low + 1
    for i in range(draw.first, draw.last + 1):
        f = work.values[i]
        stack = work.stack[i]
        p = work.pointer[i]
        while p + 1 < work.size[i] and (
            f[stack[p + 1]] - f[stack[p]] <= b * (axis[stack[p + 1]] - axis[stack[p]])
        ):
            p += 1
        while p > 0 and (f[stack[p]] - f[stack[p - 1]] > b * (axis[stack[p]] - axis[stack[p - 1]])):
            p -= 1
        work.pointer[i] = p
        j = stack[p]
        W = axis[draw.low + j]
        best = f[j] - b * W
        if 0 < j < columns - 1:  # vertex of the parabola through the three nearest
            step = axis[1] - axis[0]
            before = f[j - 1] - b * (W - step)
            after = f[j + 1] - b * (W + step)
            bend = before - 2 * best + after
            if bend > 0 and abs(before - after) <= 2 * bend:
                move = 0.5 * (before - after) / bend
                best -= 0.25 * (before - after) * move
                W += move * step
        U = axis[i]
        work.minimum[i - draw.first] = 0.5 * U * U + best
        work.where[i - draw.first] = W
    rows = draw.last - draw.first + 1
    return lower_hull(axis[draw.first : draw.last + 1], work.minimum, rows, work.edge)


@kernel
def vertices_in_window(low, high, size, draw, axis, work):
    """First and last vertex of the hull over the rows that a window of a needs.

    Edges whose slopes lie in the window, and two more on either side: a vertex of the search grid
    may lie beyond the bitangent of a jump, so that a there is not between the slopes of its edges.
    """
    minimum, edge = work.minimum, work.edge
    first = size - 1
    last = 0
    for p in range(size - 1):
        rise = minimum[edge[p + 1]] - minimum[edge[p]]
        run = axis[draw.first + edge[p + 1]] - axis[draw.first + edge[p]]
        if rise > low * run:
            first = min(first, p)
        if rise < high * run:
            last = p + 1
    return max(first - 2, 0), min(last + 2, size - 1)


@kernel
def one_slice(zeta, weight, draw, state, grid, axis, work):
    """Integrate one slice into ``work.slice``."""
    work.slice[:] = 0.0
    left_over = draw.room - zeta * zeta
    if left_over <= 0:
        return
    k = state.c * state.V
    half = math.sqrt(left_over) * state.s
    b = draw.b + state.s * zeta
    size = search_slice(b, draw, axis, work)
    edge = work.edge
    slice_ = Slice(
        draw.t, draw.y, weight, draw.a, draw.a - half, draw.a + half, work.piece, work.slice
    )
    p, last = vertices_in_window(slice_.low, slice_.high, size, draw, axis, work)
    have = False
    previous = (0.0, 0.0, 0.0, 0.0, 0.0)
    while p <= last:
        U = axis[draw.first + edge[p]]
        W, _, a, dW, curvature, ok = settle(U, work.where[edge[p]], b, draw.t, k)
        if ok and curvature > 0:
            point = (U, W, a, dW, curvature)
            if have:
                between(previous, point, b, slice_, state, grid)
            previous = point
            have = True
        p += 1


@kernel
def normal_density(x):
    """Density of the standard normal."""
    return math.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


@kernel
def panel_in_b(lo, hi, draw, state, grid, axis, work):
    """Gauss-Legendre over one panel in b, into ``work.panel``; slices into ``work.samples``."""
    n = grid.b_gauss.size
    work.panel[:] = 0.0
    for i in range(n):
        zeta = lo + (hi - lo) * grid.b_gauss[i]
        one_slice(zeta, normal_density(zeta), draw, state, grid, axis, work)
        for o in range(N_OUT):
            work.samples[i, o] = work.slice[o]
            work.panel[o] += (hi - lo) * grid.b_gauss_weight[i] * work.slice[o]


@kernel
def panel_error(samples, length, legendre, tolerance):
    """Error of a Gauss-Legendre panel from the Legendre coefficients of its integrand.

    With c_n the last coefficients that n nodes see and c_m those half-way, geometric decay puts
    the first one that Gauss's rule misses, of degree 2n, near ``c_n (c_n/c_m)**2``; for the
    algebraic decay of a kink that is the right order as well.

    Returns
    -------
    float
        The largest error over the averages, each in units of its `tolerance`.
    """
    n = samples.shape[0]
    worst = 0.0
    for o in range(tolerance.size):
        if tolerance[o] <= 0:
            continue
        last = 0.0
        middle = 0.0
        for j in range(4):
            degree = n - 1 - j if j < 2 else n // 2 + 1 - j
            c = 0.0
            for i in range(n):
                c += legendre[degree, i] * samples[i, o]
            if j < 2:
                last = max(last, abs(c))
            else:
                middle = max(middle, abs(c))
        ratio = min(1.0, last / (middle + 1e-300))
        worst = max(worst, length * last * ratio * ratio / tolerance[o])
    return worst


@kernel
def trapezoid_in_b(draw, state, grid, axis, work):
    """The trapezoid rule over b, into ``work.total``."""
    work.total[:] = 0.0
    for i in range(grid.zeta.size):
        one_slice(grid.zeta[i], grid.zeta_weight[i], draw, state, grid, axis, work)
        for o in range(N_OUT):
            work.samples[i, o] = work.slice[o]
            work.total[o] += work.slice[o]


@kernel
def trapezoid_error(samples, tolerance):
    """Error of a trapezoid rule from the same samples at two and four times the step.

    With differences ``d_2`` and ``d_4`` to those coarser rules the error is about
    ``d_2 (d_2/d_4)``, exact for algebraic decay and pessimistic for smooth integrands.

    Returns
    -------
    float
        The largest error over the averages, each in units of its `tolerance`.
    """
    worst = 0.0
    for o in range(tolerance.size):
        if tolerance[o] <= 0:
            continue
        whole = 0.0
        half = 0.0
        quarter = 0.0
        for i in range(samples.shape[0]):
            whole += samples[i, o]
            if i % 2 == 0:
                half += 2 * samples[i, o]
            if i % 4 == 0:
                quarter += 4 * samples[i, o]
        d2 = abs(whole - half)
        d4 = abs(whole - quarter)
        worst = max(worst, d2 * min(1.0, d2 / (d4 + 1e-300)) / tolerance[o])
    return worst


@kernel
def refine(draw, state, grid, axis, work, tolerance):
    """Integrate over b to a tolerance, into ``work.total``; returns the number of panels.

    The trapezoid rule serves a smooth integrand, and counts as no panel.  Kinks in b (triple
    points of the jumps, cusps) defeat it: then Gauss-Legendre panels are bisected until each
    has an error below `tolerance`.  Their ends are left in ``work.ends``, in order.
    """
    trapezoid_in_b(draw, state, grid, axis, work)
    if trapezoid_error(work.samples[: grid.zeta.size], tolerance) <= 1:
        return 0
    work.total[:] = 0.0
    reach = math.sqrt(draw.room)
    # a stack of panels, leftmost on top
    first = max(1, int(math.ceil(2 * reach / grid.b_panel)))
    for i in range(first):
        work.todo[first - 1 - i, 0] = -reach + 2 * reach * i / first
        work.todo[first - 1 - i, 1] = -reach + 2 * reach * (i + 1) / first
    waiting = first
    done = 0
    work.ends[0] = -reach
    while waiting > 0:
        lo, hi = work.todo[waiting - 1, 0], work.todo[waiting - 1, 1]
        panel_in_b(lo, hi, draw, state, grid, axis, work)
        samples = work.samples[: grid.b_gauss.size]
        error = panel_error(samples, hi - lo, grid.legendre, tolerance)
        if error > 1 and hi - lo > NARROWEST_PANEL and done + waiting + 1 < work.ends.size:
            middle = 0.5 * (lo + hi)
            work.todo[waiting - 1, 0] = middle
            work.todo[waiting, 0] = lo
            work.todo[waiting, 1] = middle
            waiting += 1
        else:
            for o in range(N_OUT):
                work.total[o] += work.panel[o]
            done += 1
            work.ends[done] = hi
            waiting -= 1
    return done


@kernel
def place(y, radius, state, grid, axis):
    """The teacher draw with its window of w and its part of the search grid."""
    z1 = tanh(0.5 * y[0] * (y[0] - y[1]))
    z2 = tanh(0.5 * y[1] * (y[1] - y[0]))
    t = (
        (1 - state.omega) * z1 + state.omega * state.a1,
        (1 - state.omega) * z2 + state.omega * state.a2,
        state.a1 - z1,
        state.a2 - z2,
    )
    a = (state.tilt * (y[0] - y[1]) + 2 * state.m) * SQRT_HALF
    b = state.tilt * (y[0] + y[1]) * SQRT_HALF
    room = grid.cut**2 - 0.5 * (y[0] * y[0] + y[1] * y[1]) / state.c
    reach = math.sqrt(max(room, 0.0)) * state.s + radius
    step = axis[1] - axis[0]
    origin = axis[0]
    first = max(0, int(math.floor((a - reach - origin) / step)) - 1)
    last = min(axis.size - 1, int(math.ceil((a + reach - origin) / step)) + 1)
    low = max(0, int(math.floor((b - reach - origin) / step)) - 1)
    high = min(axis.size - 1, int(math.ceil((b + reach - origin) / step)) + 1)
    return Draw(t, y, a, b, room, first, last, low, high)


@kernel
def workspace(size, grid):
    """Memory for one thread."""
    return Work(
        np.empty((size, size)),
        np.empty((size, size), np.int64),
        np.empty(size, np.int64),
        np.empty(size, np.int64),
        np.empty(size),
        np.empty(size),
        np.empty(size, np.int64),
        np.empty((MOST_PANELS + 1, 2)),
        np.empty(MOST_PANELS + 1),
        np.empty((max(grid.b_gauss.size, grid.zeta.size), N_OUT)),
        np.empty(N_OUT),
        np.empty(N_OUT),
        np.empty(N_OUT),
        np.empty(N_OUT),
    )


@kernel
def refined_averages(y_nodes, radii, tolerance, state, grid, table):
    """Average over w of each teacher draw, with panels in b refined to a tolerance.

    Parameters
    ----------
    y_nodes : array, shape (n, 2)
        Teacher fields, both tokens.
    radii : array, shape (n,)
        How far the prox can be from the window of w.
    tolerance : array, shape (n, len(OUTPUTS))
        Absolute error allowed for a panel of each draw; 0 for averages that do not matter.
    state : SliceState
    grid : SliceGrid
    table : tuple of arrays
        Axis of the search grid and the contrasts ``s1, s2`` on it, U by rows and W by columns.

    Returns
    -------
    averages : array, shape (n, len(OUTPUTS))
        Not weighted by the density of y.
    ends : array, shape (n, MOST_PANELS + 1)
        Ends of the panels in b, in standard deviations.
    panels : array of int, shape (n,)
        How many there are; 0 means the trapezoid rule.
    """
    axis = table[0]
    work = workspace(axis.size, grid)
    out = np.zeros((radii.size, N_OUT))
    ends = np.zeros((radii.size, MOST_PANELS + 1))
    panels = np.zeros(radii.size, np.int64)
    for i in range(radii.size):
        draw = place((y_nodes[i, 0], y_nodes[i, 1]), radii[i], state, grid, axis)
        if draw.room > 0:
            search_rows(draw, state, table, work)
            panels[i] = refine(draw, state, grid, axis, work, tolerance[i])
            ends[i] = work.ends
            out[i] = work.total
    return out, ends, panels


@kernel
def frozen_averages(y_nodes, radii, ends, panels, state, grid, table):
    """Average over w of each teacher draw, with the panels that `refined_averages` left.

    Returns
    -------
    array, shape (n, len(OUTPUTS))
    """
    axis = table[0]
    work = workspace(axis.size, grid)
    out = np.zeros((radii.size, N_OUT))
    for i in range(radii.size):
        draw = place((y_nodes[i, 0], y_nodes[i, 1]), radii[i], state, grid, axis)
        if draw.room > 0:
            search_rows(draw, state, table, work)
            if panels[i] == 0:
                trapezoid_in_b(draw, state, grid, axis, work)
                out[i] = work.total
            for p in range(panels[i]):
                panel_in_b(ends[i, p], ends[i, p + 1], draw, state, grid, axis, work)
                for o in range(N_OUT):
                    out[i, o] += work.panel[o]
    return out
