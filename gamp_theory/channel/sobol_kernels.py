"""A second opinion on the two-token channel: the global prox by branch and bound, and its averages.

Shares no kernel with the main rules, on purpose.  In units of V the prox minimises

    E(h) = |h - w|**2/2 + (k/2) [(t1 - s1(h))**2 + (t2 - s2(h))**2],    k = V sigma**2/2,

with ``s_j = tanh(z_j)``, ``z1 = h1 (h1 - h2)/2``, ``z2 = h2 (h2 - h1)/2`` (docs/theory.md,
section 3).  A square that holds every h with ``|h - w|**2/2 <= E(start)`` is bisected; a box is
dropped when

1. it lies further from w than the best energy allows;
2. the range of the contrasts over the box keeps the energy above the best one;
3. the range of a component of grad E over the box does not contain 0.

No range is narrower than the truth, so no dropped box can hold a lower minimum.  What is left when
boxes are small against the structure of E is a handful of boxes around each low stationary point,
and from the centre of each one a Newton descent is made.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gamp_theory.numerics.jit import kernel

__all__ = ["ChannelState", "ProxProblem", "global_prox", "sobol_sums", "target_pair"]

# Width of a box that is not split again, times max(1, |h|): tanh(h1 (h1 - h2)/2) varies on the
# scale 1/max(1, |h|).  Measured on 11 states, k from 2 to 60, 2**17 draws each: the minima are
# those found with boxes four times as fine; boxes four times as coarse miss up to 2 in 10**3.
LEAF = 0.25
# |grad E| <= tolerance * (1 + k) (1 + |w|): where the descent stops, and what counts as a failure.
GRADIENT_TOLERANCE = 1e-13
GRADIENT_FAILURE = 1e-9
# Depth-first bisection into 4 needs 3 rows a level: enough for a square 2**64 times a leaf.
STACK_ROWS = 200
# Step of the difference quotient in V_hat when Var(w|y) is smaller: an error of order step**2.
SMALLEST_STEP = 1e-3


class ProxProblem(NamedTuple):
    """One prox: cavity field ``(w1, w2)``, target contrasts ``(t1, t2)``, ``k = V sigma**2/2``."""

    w1: float
    w2: float
    t1: float
    t2: float
    k: float


class ChannelState(NamedTuple):
    """What the averages depend on, as plain numbers.

    ``y_l ~ N(0, rho)`` and ``w_l ~ N((-1)**(l+1) m + theta y_l/rho, s**2)`` given y;
    ``c = sigma**2/2``; ``a1, a2`` are the contrasts of the positional matrix.
    """

    rho: float
    m: float
    theta: float
    s: float
    V: float
    omega: float
    a1: float
    a2: float
    c: float


@kernel
def target_pair(y1, y2, omega, a1, a2):
    """Target contrasts ``t_j = (1 - omega) tanh(z_j(y)) + omega a_j``."""
    return (
        (1 - omega) * math.tanh(0.5 * y1 * (y1 - y2)) + omega * a1,
        (1 - omega) * math.tanh(0.5 * y2 * (y2 - y1)) + omega * a2,
    )


@kernel
def energy(h1, h2, p):
    """``E(h) = V * (prox objective)``."""
    r1 = p.t1 - math.tanh(0.5 * h1 * (h1 - h2))
    r2 = p.t2 - math.tanh(0.5 * h2 * (h2 - h1))
    x1 = h1 - p.w1
    x2 = h2 - p.w2
    return 0.5 * (x1 * x1 + x2 * x2) + 0.5 * p.k * (r1 * r1 + r2 * r2)


@kernel
def energy_derivatives(h1, h2, p):
    """``E, E_1, E_2, E_11, E_12, E_22``.

    With ``r = t - s`` and ``d = 1 - s**2`` a contrast adds ``-k r d grad z`` to the gradient, and
    ``k (d**2 + 2 r s d) grad z grad z^T - k r d B`` to the Hessian, where B is that of z.
    """
    s1 = math.tanh(0.5 * h1 * (h1 - h2))
    s2 = math.tanh(0.5 * h2 * (h2 - h1))
    r1 = p.t1 - s1
    r2 = p.t2 - s2
    d1 = 1 - s1 * s1
    d2 = 1 - s2 * s2
    x1 = h1 - p.w1
    x2 = h2 - p.w2
    first1 = p.k * r1 * d1
    first2 = p.k * r2 * d2
    second1 = p.k * d1 * (d1 + 2 * r1 * s1)
    second2 = p.k * d2 * (d2 + 2 * r2 * s2)
    z1_1 = h1 - 0.5 * h2
    z1_2 = -0.5 * h1
    z2_1 = -0.5 * h2
    z2_2 = h2 - 0.5 * h1
    return (
        0.5 * (x1 * x1 + x2 * x2) + 0.5 * p.k * (r1 * r1 + r2 * r2),
        x1 - first1 * z1_1 - first2 * z2_1,
        x2 - first1 * z1_2 - first2 * z2_2,
        1 + second1 * z1_1 * z1_1 + second2 * z2_1 * z2_1 - first1,
        second1 * z1_1 * z1_2 + second2 * z2_1 * z2_2 + 0.5 * (first1 + first2),
        1 + second1 * z1_2 * z1_2 + second2 * z2_2 * z2_2 - first2,
    )


@kernel
def descend(h1, h2, p):
    """Newton descent of E from one point: ``(h1, h2, E)``; the energy never goes up.

    Where the Hessian is indefinite it is shifted until its lower eigenvalue has changed sign; steps
    are at most half a unit of structure, and are halved until Armijo's condition holds.
    """
    tolerance = GRADIENT_TOLERANCE * (1 + p.k) * (1 + abs(p.w1) + abs(p.w2))
    e, g1, g2, h11, h12, h22 = energy_derivatives(h1, h2, p)
    for _ in range(100):
        if abs(g1) <= tolerance and abs(g2) <= tolerance:
            break
        low = 0.5 * (h11 + h22) - math.hypot(0.5 * (h11 - h22), h12)
        shift = 0.0
        if low < 1e-6:
            shift = max(-2 * low, 1e-3)
        determinant = (h11 + shift) * (h22 + shift) - h12 * h12
        x1 = -((h22 + shift) * g1 - h12 * g2) / determinant
        x2 = -((h11 + shift) * g2 - h12 * g1) / determinant
        length = math.hypot(x1, x2)
        longest = 0.5 / max(1.0, math.hypot(h1, h2))
        factor = 1.0
        if length > longest:
            factor = longest / length
        slope = g1 * x1 + g2 * x2
        # what rounding alone can add to an energy
        rounding = 1e-15 * e + 1e-17 * p.k
        accepted = False
        for _halving in range(40):
            e_new = energy(h1 + factor * x1, h2 + factor * x2, p)
            if e_new <= e + 1e-4 * factor * slope + rounding:
                accepted = True
                break
            factor *= 0.5
        if not accepted or factor * length <= 1e-17 * (1 + abs(h1) + abs(h2)):
            break
        h1 += factor * x1
        h2 += factor * x2
        e, g1, g2, h11, h12, h22 = energy_derivatives(h1, h2, p)
    return h1, h2, e


@kernel
def quadratic_range(low_x, high_x, low_y, high_y):
    """Exact range of ``z = x (x - y)/2`` over a box.

    z is linear in y and convex in x: the maximum is at a corner, the minimum on an edge of
    constant y, at ``x = y/2`` or the nearest point of the edge.
    """
    highest = max(
        max(low_x * (low_x - low_y), low_x * (low_x - high_y)),
        max(high_x * (high_x - low_y), high_x * (high_x - high_y)),
    )
    at_low = min(max(0.5 * low_y, low_x), high_x)
    at_high = min(max(0.5 * high_y, low_x), high_x)
    lowest = min(at_low * (at_low - low_y), at_high * (at_high - high_y))
    return 0.5 * lowest, 0.5 * highest


@kernel
def force_range(low, high, t):
    """Exact range of ``(t - s)(1 - s**2)`` for s in [low, high] within [-1, 1].

    The cubic has its maximum at ``(t - root)/3`` and its minimum at ``(t + root)/3``,
    ``root = sqrt(t**2 + 3)``.
    """
    root = math.sqrt(t * t + 3)
    at_low = (t - low) * (1 - low * low)
    at_high = (t - high) * (1 - high * high)
    smallest = min(at_low, at_high)
    largest = max(at_low, at_high)
    top = (t - root) / 3
    bottom = (t + root) / 3
    if low < top < high:
        largest = (t - top) * (1 - top * top)
    if low < bottom < high:
        smallest = (t - bottom) * (1 - bottom * bottom)
    return smallest, largest


@kernel
def product_range(low_a, high_a, low_b, high_b):
    """Range of ``a b`` for independent a and b."""
    ll = low_a * low_b
    lh = low_a * high_b
    hl = high_a * low_b
    hh = high_a * high_b
    return min(min(ll, lh), min(hl, hh)), max(max(ll, lh), max(hl, hh))


@kernel
def outside(x, low, high):
    """Distance of `x` from the interval."""
    return max(0.0, max(low - x, x - high))


@kernel
def box_may_hold_minimum(low1, high1, low2, high2, p, best):
    """Whether a box can contain a stationary point of E with an energy below `best`."""
    x1 = outside(p.w1, low1, high1)
    x2 = outside(p.w2, low2, high2)
    bound = 0.5 * (x1 * x1 + x2 * x2)
    if bound >= best:
        return False
    low_z, high_z = quadratic_range(low1, high1, low2, high2)
    low_s1 = math.tanh(low_z)
    high_s1 = math.tanh(high_z)
    r = outside(p.t1, low_s1, high_s1)
    bound += 0.5 * p.k * r * r
    if bound >= best:
        return False
    low_z, high_z = quadratic_range(low2, high2, low1, high1)
    low_s2 = math.tanh(low_z)
    high_s2 = math.tanh(high_z)
    r = outside(p.t2, low_s2, high_s2)
    bound += 0.5 * p.k * r * r
    if bound >= best:
        return False
    # grad E = h - w - k sum_j (t_j - s_j)(1 - s_j**2) grad z_j
    low_f1, high_f1 = force_range(low_s1, high_s1, p.t1)
    low_f2, high_f2 = force_range(low_s2, high_s2, p.t2)
    low_a, high_a = product_range(low_f1, high_f1, low1 - 0.5 * high2, high1 - 0.5 * low2)
    low_b, high_b = product_range(low_f2, high_f2, -0.5 * high2, -0.5 * low2)
    if low1 - p.w1 - p.k * (high_a + high_b) > 0 or high1 - p.w1 - p.k * (low_a + low_b) < 0:
        return False
    low_a, high_a = product_range(low_f1, high_f1, -0.5 * high1, -0.5 * low1)
    low_b, high_b = product_range(low_f2, high_f2, low2 - 0.5 * high1, high2 - 0.5 * low1)
    return not (
        low2 - p.w2 - p.k * (high_a + high_b) > 0 or high2 - p.w2 - p.k * (low_a + low_b) < 0
    )


@kernel
def first_guess(p):
    """The lowest of the descents from w and from the two exact zeros of the loss, if there are any.

    The loss vanishes at ``h = +-(z1, -z2) 2/u``, ``u = sqrt(2 (z1 + z2))``, ``z = atanh t``,
    provided ``z1 + z2 > 0``.
    """
    h1 = p.w1
    h2 = p.w2
    e = energy(h1, h2, p)
    if abs(p.t1) < 1 and abs(p.t2) < 1:
        z1 = math.atanh(p.t1)
        z2 = math.atanh(p.t2)
        if z1 + z2 > 0:
            scale = 2 / math.sqrt(2 * (z1 + z2))
            if scale * (z1 * p.w1 - z2 * p.w2) < 0:
                scale = -scale
            e_zero = energy(scale * z1, -scale * z2, p)
            if e_zero < e:
                h1 = scale * z1
                h2 = -scale * z2
    return descend(h1, h2, p)


@kernel
def global_prox(p, leaf, stack):
    """The global minimiser of E.

    Parameters
    ----------
    p : ProxProblem
    leaf : float
        Width of the smallest boxes, times ``max(1, |h|)``; `LEAF` is what the averages use.
    stack : array, shape (STACK_ROWS, 3)
        Work space: centres and half-widths of the boxes still to be looked at.

    Returns
    -------
    h1, h2, E
        The minimiser and its energy.
    """
    h1, h2, e = first_guess(p)
    # the square around w that holds every point no worse than the first guess
    stack[0, 0] = p.w1
    stack[0, 1] = p.w2
    stack[0, 2] = math.sqrt(2 * e) * (1 + 1e-12)
    rows = 1
    while rows > 0:
        rows -= 1
        b1 = stack[rows, 0]
        b2 = stack[rows, 1]
        half = stack[rows, 2]
        if not box_may_hold_minimum(b1 - half, b1 + half, b2 - half, b2 + half, p, e):
            continue
        if 2 * half * max(1.0, math.hypot(b1, b2)) > leaf and rows + 4 <= stack.shape[0]:
            half *= 0.5
            for j in range(4):
                stack[rows, 0] = b1 + half * (2 * (j & 1) - 1)
                stack[rows, 1] = b2 + half * ((j & 2) - 1)
                stack[rows, 2] = half
                rows += 1
            continue
        x1, x2, e_x = descend(b1, b2, p)
        if e_x < e:
            h1 = x1
            h2 = x2
            e = e_x
    return h1, h2, e


@kernel
def gradient_fails(h1, h2, p):
    """Whether a point returned as a minimiser is not stationary."""
    _, g1, g2, _, _, _ = energy_derivatives(h1, h2, p)
    scale = (1 + p.k) * (1 + abs(p.w1) + abs(p.w2))
    return not math.hypot(g1, g2) <= GRADIENT_FAILURE * scale


@kernel
def force(h1, h2, t1, t2, c):
    """``g = (prox - w)/V = -grad loss`` at the prox: no cancellation however small V is."""
    s1 = math.tanh(0.5 * h1 * (h1 - h2))
    s2 = math.tanh(0.5 * h2 * (h2 - h1))
    f1 = c * (t1 - s1) * (1 - s1 * s1)
    f2 = c * (t2 - s2) * (1 - s2 * s2)
    return (
        f1 * (h1 - 0.5 * h2) - 0.5 * f2 * h2,
        f2 * (h2 - 0.5 * h1) - 0.5 * f1 * h1,
    )


@kernel
def sobol_sums(points, state, leaf):
    """Means over points of what makes up the channel averages.

    Parameters
    ----------
    points : array, shape (n, 4)
        Standard normal ``(y1, y2, zeta1, zeta2)``; each is used with ``+zeta`` and ``-zeta``, so
        that V_hat is a mean of difference quotients and stays finite when Var(w|y) goes to 0.
    state : ChannelState
    leaf : float

    Returns
    -------
    array, shape (10,)
        Means of ``|g|**2``, ``g1 - g2``, ``-g.(w - mu)/s**2``, ``g.y``, loss, d loss/d omega,
        ``(g1 - g2)(x1 - x2)/s**2`` and ``(g.y)(x.y)/s**2`` with ``x = w - mu``, and loss at w,
        which is the test error: ``(1/2) tr[(T-S) rho (T-S)^T]`` both.  Last, the number of failed
        proxes.
    """
    sums = np.zeros(10)
    stack = np.empty((STACK_ROWS, 3))
    root_rho = math.sqrt(state.rho)
    step = max(state.s, SMALLEST_STEP)
    k = state.V * state.c
    for i in range(points.shape[0]):
        y1 = root_rho * points[i, 0]
        y2 = root_rho * points[i, 1]
        tanh1, tanh2 = target_pair(y1, y2, 0.0, 0.0, 0.0)
        t1, t2 = target_pair(y1, y2, state.omega, state.a1, state.a2)
        mu1 = state.m + state.theta * y1 / state.rho
        mu2 = -state.m + state.theta * y2 / state.rho
        for sign in (-1.0, 1.0):
            zeta1 = sign * points[i, 2]
            zeta2 = sign * points[i, 3]
            p = ProxProblem(mu1 + state.s * zeta1, mu2 + state.s * zeta2, t1, t2, k)
            h1, h2, _ = global_prox(p, leaf, stack)
            g1, g2 = force(h1, h2, t1, t2, state.c)
            r1 = t1 - math.tanh(0.5 * h1 * (h1 - h2))
            r2 = t2 - math.tanh(0.5 * h2 * (h2 - h1))
            sums[0] += g1 * g1 + g2 * g2
            sums[1] += g1 - g2
            sums[3] += g1 * y1 + g2 * y2
            sums[4] += 0.5 * state.c * (r1 * r1 + r2 * r2)
            sums[5] += state.c * (r1 * (state.a1 - tanh1) + r2 * (state.a2 - tanh2))
            r1 = t1 - math.tanh(0.5 * p.w1 * (p.w1 - p.w2))
            r2 = t2 - math.tanh(0.5 * p.w2 * (p.w2 - p.w1))
            sums[8] += 0.5 * state.c * (r1 * r1 + r2 * r2)
            sums[9] += gradient_fails(h1, h2, p)
            if step > state.s:
                p = ProxProblem(mu1 + step * zeta1, mu2 + step * zeta2, t1, t2, k)
                h1, h2, _ = global_prox(p, leaf, stack)
                g1, g2 = force(h1, h2, t1, t2, state.c)
                sums[9] += gradient_fails(h1, h2, p)
            sums[2] -= (g1 * zeta1 + g2 * zeta2) / step
            sums[6] += (g1 - g2) * (zeta1 - zeta2) / step
            sums[7] += (g1 * y1 + g2 * y2) * (zeta1 * y1 + zeta2 * y2) / step
    failures = sums[9]
    sums /= 2 * points.shape[0]
    sums[9] = failures
    return sums
