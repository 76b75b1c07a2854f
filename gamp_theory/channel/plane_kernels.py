"""Kernels of the rule "whole h-plane minus hole" for two tokens (docs/theory.md, section 4).

At fixed targets t the fields are ``w = h + V grad loss(h; t) = grad A(h)`` with
``A(h) = |h|**2/2 + V loss(h; t)``, so an average over ``w ~ N(mu, s**2 I)`` of a function of the
prox is the signed integral, with weight ``det(hess A) N(w; mu, s**2)``, over the whole h-plane
less the one over the hole, where A lies above its convex hull.

Everything below returns the same sums per teacher draw, of weight times

    1,  G_1,  G_2,  |G|**2,  G_1 x_1,  G_2 x_2,  G_1 x_2 + G_2 x_1,  s_1,  s_2,  s_1**2 + s_2**2

with ``G = g/c = t_1 grad s_1 + t_2 grad s_2 - grad (|s|**2/2)``, ``c = sigma**2/2`` and
``x = w - mu``; the factor ``1/(2 pi s**2)`` and the area of a cell are left to the caller.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gamp_theory.channel.pair_kernels import (
    contrast_derivatives,
    loss_derivatives,
    target_contrasts,
)
from gamp_theory.numerics.jit import kernel

__all__ = [
    "SUMS",
    "SIDE",
    "TABLE_ROWS",
    "TILE",
    "Kinetics",
    "Target",
    "active_tiles",
    "candidate_tiles",
    "exp_clamped",
    "hole_shapes",
    "hole_sums",
    "march",
    "origin_well",
    "outer_fold_mass",
    "plane_sums",
    "polish_bitangent",
    "targets_and_means",
    "tile_tables",
    "unstable_brackets",
    "unstable_ends",
]

SUMS = 10
# a tile is a square of SIDE x SIDE nodes, stored together: the inner loop has a fixed length
# (no scalar remainder) and tiles without density are skipped
SIDE = 4
TILE = SIDE * SIDE
TABLE_ROWS = 17
# A hole contributes the third power of -V (least eigenvalue) - 1: less than this is nothing
NEWBORN = 1e-3
# Prox and field differ by k |G|, which stays below this wherever there is weight
FURTHEST_PUSH = 1.5

# Chebyshev interpolant of exp(z - 15/32) on |z| <= 15/32, in powers of z
E0 = 0.6257840096045915
E1 = 0.6257840096045949
E2 = 0.3128920048022327
E3 = 0.10429733493369732
E4 = 0.026074333736102705
E5 = 0.005214866758288998
E6 = 0.0008691444254222394
E7 = 0.0001241633599584667
E8 = 1.5520553269318706e-05
E9 = 1.7251570729394224e-06
E10 = 1.7265689625000707e-07
E11 = 1.4521874224984524e-08


class Kinetics(NamedTuple):
    """The scalars of an evaluation.

    Attributes
    ----------
    c : float
        ``sigma**2/2``.
    V : float
        Response.
    m : float
        Positional overlap.
    slope : float
        ``theta/rho``: the mean of w_l given y is ``+-m + slope*y_l``.
    variance : float
        ``s**2 = q - theta**2/rho``, the variance of w_l given y.
    sigma : float
        Standard deviation of y_l.
    """

    c: float
    V: float
    m: float
    slope: float
    variance: float
    sigma: float


class Target(NamedTuple):
    """The target's constants: ``omega`` and the contrasts ``a1, a2`` of A."""

    omega: float
    a1: float
    a2: float


@kernel
def exp_clamped(x):
    """``exp(x)`` for x in [-60, 0], clamped outside, without a branch or a table.

    ``(exp(x/64))**64`` by six squarings; relative error below 2e-13.
    """
    z = min(max(x, -60.0), 0.0) * 0.015625 + 0.46875
    # Estrin's scheme: a short chain of dependent operations, the bottleneck of the inner loop
    z2 = z * z
    z4 = z2 * z2
    low = (E0 + E1 * z) + (E2 + E3 * z) * z2
    middle = (E4 + E5 * z) + (E6 + E7 * z) * z2
    high = (E8 + E9 * z) + (E10 + E11 * z) * z2
    p = low + z4 * (middle + z4 * high)
    p = p * p
    p = p * p
    p = p * p
    p = p * p
    p = p * p
    return p * p


# ---------------------------------------------------------------------------- the whole plane


@kernel
def tile_tables(corners, step, k):
    """Tables of the h-grid, tile by tile; they depend on V but not on t.

    Parameters
    ----------
    corners : int64 array, shape (2, tiles)
        Indices of the first node of each tile; node i sits at ``(i + 1/2) step``.
    step : float
        Spacing of the nodes.
    k : float
        ``V c``.

    Returns
    -------
    array, shape (tiles, 17, TILE)
        h_1, h_2; grad s_1; grad s_2; grad |s|**2/2; s_1, s_2, |s|**2; and the coefficients of
        ``det hess A = d_0 + t_1 d_1 + t_2 d_2 + t_1**2 d_11 + t_1 t_2 d_12 + t_2**2 d_22``.
    """
    out = np.empty((corners.shape[1], TABLE_ROWS, TILE))
    for tile in range(corners.shape[1]):
        for lane in range(TILE):
            h1 = (corners[0, tile] + lane // SIDE + 0.5) * step
            h2 = (corners[1, tile] + lane % SIDE + 0.5) * step
            s1, a1, a2, a11, a12, a22, s2, b1, b2, b11, b12, b22 = contrast_derivatives(h1, h2)
            # hess A = P - t_1 k hess s_1 - t_2 k hess s_2
            p11 = 1 + k * (a1 * a1 + s1 * a11 + b1 * b1 + s2 * b11)
            p12 = k * (a1 * a2 + s1 * a12 + b1 * b2 + s2 * b12)
            p22 = 1 + k * (a2 * a2 + s1 * a22 + b2 * b2 + s2 * b22)
            row = out[tile]
            row[0, lane] = h1
            row[1, lane] = h2
            row[2, lane] = a1
            row[3, lane] = a2
            row[4, lane] = b1
            row[5, lane] = b2
            row[6, lane] = s1 * a1 + s2 * b1
            row[7, lane] = s1 * a2 + s2 * b2
            row[8, lane] = s1
            row[9, lane] = s2
            row[10, lane] = s1 * s1 + s2 * s2
            row[11, lane] = p11 * p22 - p12 * p12
            row[12, lane] = -k * (p11 * a22 + p22 * a11 - 2 * p12 * a12)
            row[13, lane] = -k * (p11 * b22 + p22 * b11 - 2 * p12 * b12)
            row[14, lane] = k * k * (a11 * a22 - a12 * a12)
            row[15, lane] = k * k * (a11 * b22 + b11 * a22 - 2 * a12 * b12)
            row[16, lane] = k * k * (b11 * b22 - b12 * b12)
    return out


@kernel
def targets_and_means(y, target, state):
    """``t_1, t_2, mu_1, mu_2`` for teacher fields `y`, shape (n, 2); result of shape (n, 4)."""
    out = np.empty((y.shape[0], 4))
    for i in range(y.shape[0]):
        t1, t2 = target_contrasts(y[i, 0], y[i, 1], target.omega, target.a1, target.a2)
        out[i, 0] = t1
        out[i, 1] = t2
        out[i, 2] = state.m + state.slope * y[i, 0]
        out[i, 3] = -state.m + state.slope * y[i, 1]
    return out


@kernel
def candidate_tiles(limits, step, k, draws):
    """Tiles of the h-grid that some draw may need: a first, generous selection.

    Parameters
    ----------
    limits : array, shape (2,)
        There is no density at ``|w_l| > limits[l]``.
    step : float
        Spacing of the nodes.
    k : float
        ``V c``.
    draws : array, shape (n, 4)
        ``t_1, t_2, mu_1, mu_2``; the targets are used.

    Returns
    -------
    int64 array, shape (2, tiles)
        Corners of the tiles.
    """
    low1 = draws[:, 0].min()
    high1 = draws[:, 0].max()
    low2 = draws[:, 1].min()
    high2 = draws[:, 1].max()
    side = SIDE * step
    half1 = math.ceil((limits[0] + min(k, FURTHEST_PUSH)) / side)
    half2 = math.ceil((limits[1] + min(k, FURTHEST_PUSH)) / side)
    out = np.empty((2, 4 * half1 * half2), np.int64)
    count = 0
    for i in range(-half1, half1):
        for j in range(-half2, half2):
            h1 = (i + 0.5) * side
            h2 = (j + 0.5) * side
            s1, a1, a2, a11, a12, a22, s2, b1, b2, b11, b12, b22 = contrast_derivatives(h1, h2)
            keep = True
            for part in range(2):
                h, a, b = (h1, a1, b1) if part == 0 else (h2, a2, b2)
                n = s1 * a + s2 * b
                # range of the component of w over the targets, widened by the tile
                top = h + k * (n - min(a * low1, a * high1) - min(b * low2, b * high2))
                end = h + k * (n - max(a * low1, a * high1) - max(b * low2, b * high2))
                bend = abs(a11) + abs(a22) + abs(b11) + abs(b22) + 2 * (abs(a12) + abs(b12))
                slack = 0.71 * side * (1 + 2 * k * (bend + a1 * a1 + a2 * a2 + b1 * b1 + b2 * b2))
                keep = keep and end - slack < limits[part] and top + slack > -limits[part]
            if keep:
                out[0, count] = SIDE * i
                out[1, count] = SIDE * j
                count += 1
    return out[:, :count].copy()


@kernel
def active_tiles(tables, draws, cuts, k):
    """Which tiles carry density for which teacher draw.

    Parameters
    ----------
    tables : array, shape (tiles, 17, TILE)
    draws : array, shape (n, 4)
        ``t_1, t_2, mu_1, mu_2``.
    cuts : array, shape (n,)
        A tile is active if one of its nodes has ``|w - mu|**2 < cuts``.
    k : float
        ``V c``.

    Returns
    -------
    start : int64 array, shape (n + 1,)
    index : int64 array
        Draw i uses the tiles ``index[start[i]:start[i+1]]``.
    """
    tiles = tables.shape[0]
    lane = TILE // 2 + SIDE // 2  # next to the middle of the tile
    centre = tables[:, :8, lane].T.copy()
    spread = np.zeros(tiles)
    top1 = np.abs(draws[:, 0]).max()
    top2 = np.abs(draws[:, 1]).max()
    for tile in range(tiles):
        for n in range(TILE):
            square = 0.0
            for part in range(2):
                # a bound on |w(node) - w(centre)| for every target in use
                bound = 0.0
                for row in (0, 2, 4, 6):
                    change = abs(tables[tile, row + part, n] - centre[row + part, tile])
                    if row == 0:
                        bound += change
                    elif row == 2:
                        bound += k * top1 * change
                    elif row == 4:
                        bound += k * top2 * change
                    else:
                        bound += k * change
                square += bound * bound
            spread[tile] = max(spread[tile], math.sqrt(square))
    start = np.zeros(draws.shape[0] + 1, np.int64)
    index = np.empty(draws.shape[0] * tiles, np.int64)
    distance = np.empty(tiles)
    count = 0
    for i in range(draws.shape[0]):
        t1, t2, mu1, mu2 = draws[i]
        radius = math.sqrt(cuts[i])
        for tile in range(tiles):
            x1 = (
                centre[0, tile]
                - mu1
                - k * (t1 * centre[2, tile] + t2 * centre[4, tile] - centre[6, tile])
            )
            x2 = (
                centre[1, tile]
                - mu2
                - k * (t1 * centre[3, tile] + t2 * centre[5, tile] - centre[7, tile])
            )
            distance[tile] = math.sqrt(x1 * x1 + x2 * x2)
        for tile in range(tiles):
            if distance[tile] > radius + spread[tile]:
                continue
            active = distance[tile] < radius
            n = 0
            while not active and n < TILE:
                T = tables[tile]
                G1 = t1 * T[2, n] + t2 * T[4, n] - T[6, n]
                G2 = t1 * T[3, n] + t2 * T[5, n] - T[7, n]
                x1 = T[0, n] - mu1 - k * G1
                x2 = T[1, n] - mu2 - k * G2
                active = x1 * x1 + x2 * x2 < cuts[i]
                n += 1
            if active:
                index[count] = tile
                count += 1
        start[i + 1] = count
    return start, index[:count].copy()


@kernel
def plane_sums(tables, start, index, draws, k, variance):
    """The sums over the h-grid, for each teacher draw.

    Parameters
    ----------
    tables : array, shape (tiles, 17, TILE)
    start, index : int64 arrays
        The active tiles of each draw (:func:`active_tiles`).
    draws : array, shape (n, 4)
        ``t_1, t_2, mu_1, mu_2``.
    k : float
        ``V c``.
    variance : float
        ``s**2``.

    Returns
    -------
    array, shape (n, SUMS)
    """
    out = np.zeros((draws.shape[0], SUMS))
    lanes = np.empty((SUMS, TILE))
    minus = -0.5 / variance
    for i in range(draws.shape[0]):
        t1, t2, mu1, mu2 = draws[i]
        t11 = t1 * t1
        t12 = t1 * t2
        t22 = t2 * t2
        lanes[:] = 0.0
        for j in range(start[i], start[i + 1]):
            T = tables[index[j]]
            # one array of sums per lane: strict IEEE order forbids LLVM to reorder a scalar sum
            for n in range(TILE):
                G1 = t1 * T[2, n] + t2 * T[4, n] - T[6, n]
                G2 = t1 * T[3, n] + t2 * T[5, n] - T[7, n]
                x1 = T[0, n] - mu1 - k * G1
                x2 = T[1, n] - mu2 - k * G2
                det = (T[11, n] + t1 * T[12, n] + t2 * T[13, n]) + (
                    t11 * T[14, n] + t12 * T[15, n] + t22 * T[16, n]
                )
                p = det * exp_clamped(minus * (x1 * x1 + x2 * x2))
                lanes[0, n] += p
                lanes[1, n] += p * G1
                lanes[2, n] += p * G2
                lanes[3, n] += p * (G1 * G1 + G2 * G2)
                lanes[4, n] += p * G1 * x1
                lanes[5, n] += p * G2 * x2
                lanes[6, n] += p * (G1 * x2 + G2 * x1)
                lanes[7, n] += p * T[8, n]
                lanes[8, n] += p * T[9, n]
                lanes[9, n] += p * T[10, n]
        for row in range(SUMS):
            total = 0.0
            for n in range(TILE):
                total += lanes[row, n]
            out[i, row] = total
    return out


@kernel
def gradient_and_hessian(h1, h2, t1, t2, k):
    """``A``, its gradient and its Hessian with ``k = V c``: ``A, A_1, A_2, A_11, A_12, A_22``."""
    value, l1, l2, l11, l12, l22 = loss_derivatives(h1, h2, t1, t2, k)
    return 0.5 * (h1 * h1 + h2 * h2) + value, h1 + l1, h2 + l2, 1 + l11, l12, 1 + l22


@kernel
def outer_fold_mass(tables, start, index, draws, weights, k, variance):
    """Mass on which ``h -> w`` is folded elsewhere than around the origin.

    Where ``det hess A < 0`` is a fold, inside some hole.  It belongs to the hole at the origin if
    the determinant stays negative on the straight way there.

    Parameters
    ----------
    tables, start, index, draws, k, variance
        As for :func:`plane_sums`.
    weights : array, shape (n,)
        Weight of a node of the h-grid, for each draw.

    Returns
    -------
    float
    """
    total = 0.0
    for i in range(draws.shape[0]):
        t1, t2, mu1, mu2 = draws[i]
        for j in range(start[i], start[i + 1]):
            T = tables[index[j]]
            for n in range(TILE):
                det = T[11, n] + t1 * T[12, n] + t2 * T[13, n]
                det += t1 * t1 * T[14, n] + t1 * t2 * T[15, n] + t2 * t2 * T[16, n]
                if det >= 0:
                    continue
                h1 = T[0, n]
                h2 = T[1, n]
                x1 = h1 - mu1 - k * (t1 * T[2, n] + t2 * T[4, n] - T[6, n])
                x2 = h2 - mu2 - k * (t1 * T[3, n] + t2 * T[5, n] - T[7, n])
                p = weights[i] * exp_clamped(-0.5 * (x1 * x1 + x2 * x2) / variance)
                if p < 1e-15:
                    continue
                for m in range(10):
                    part = 0.1 * m
                    _, _, _, a11, a12, a22 = gradient_and_hessian(part * h1, part * h2, t1, t2, k)
                    if a11 * a22 > a12 * a12:
                        total -= p * det
                        break
    return total


# --------------------------------------------------------------------- the hole at the origin


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
def origin_well(t1, t2, e1, e2, k):
    """The minimum p of ``A/V`` reached from the origin along its unstable direction e.

    Parameters
    ----------
    t1, t2 : float
        Target contrasts.
    e1, e2 : float
        Unit vector of the unstable direction.
    k : float
        ``V c``.

    Returns
    -------
    p1, p2, ok
    """
    # on the line h = x e the contrasts are tanh(kappa x**2): solve dA/d(x**2) = 0 first
    kappa1 = 0.5 * e1 * (e1 - e2)
    kappa2 = 0.5 * e2 * (e2 - e1)
    low = 0.0
    high = (k * (t1 * kappa1 + t2 * kappa2) - 0.5) / (k * (kappa1 * kappa1 + kappa2 * kappa2))
    for _ in range(40):
        s1 = math.tanh(kappa1 * high)
        s2 = math.tanh(kappa2 * high)
        slope = 0.5 - k * (kappa1 * (t1 - s1) * (1 - s1 * s1) + kappa2 * (t2 - s2) * (1 - s2 * s2))
        if slope > 0:
            break
        low = high
        high *= 2
    for _ in range(8):
        middle = 0.5 * (low + high)
        s1 = math.tanh(kappa1 * middle)
        s2 = math.tanh(kappa2 * middle)
        slope = 0.5 - k * (kappa1 * (t1 - s1) * (1 - s1 * s1) + kappa2 * (t2 - s2) * (1 - s2 * s2))
        if slope > 0:
            high = middle
        else:
            low = middle
    x = math.sqrt(0.5 * (low + high))
    p1 = x * e1
    p2 = x * e2
    for _ in range(40):
        value, l1, l2, l11, l12, l22 = loss_derivatives(p1, p2, t1, t2, k)
        r1 = p1 + l1
        r2 = p2 + l2
        a = 1 + l11
        b = 1 + l22
        det = a * b - l12 * l12
        if det <= 0 or a + b <= 0:  # not convex here: shift the spectrum to at least 1/2
            shift = 0.5 - (0.5 * (a + b) - math.hypot(0.5 * (a - b), l12))
            a += shift
            b += shift
            det = a * b - l12 * l12
        d1 = -(b * r1 - l12 * r2) / det
        d2 = -(a * r2 - l12 * r1) / det
        length = math.hypot(d1, d2)
        limit = 0.5 * x
        if length > limit:
            d1 *= limit / length
            d2 *= limit / length
        p1 += d1
        p2 += d2
        if length < 1e-8 * x:  # quadratic convergence: the step just taken made it exact
            return p1, p2, p1 * e1 + p2 * e2 > 0
    return p1, p2, False


@kernel
def polish_bitangent(guess, draw, frame, angle, k):
    """Newton's method for the bitangent at one polar angle (:func:`march`).

    Parameters
    ----------
    guess : array, shape (12,)
        The first six entries ``p, n, w`` are the guess.
    draw : tuple
        ``t_1, t_2``.
    frame : tuple
        ``e_1, e_2, delta_0, v_0, polar``.
    angle : float
    k : float
        ``V c``.

    Returns
    -------
    ok : bool
    row : tuple of 12 floats
        ``p, n, w`` and their derivatives with respect to the angle.
    """
    t1, t2 = draw
    e1, e2, delta0, v0, polar = frame
    f1 = -e2
    f2 = e1
    p1, p2, n1, n2, w1, w2 = guess[0], guess[1], guess[2], guess[3], guess[4], guess[5]
    # the condition that picks the bitangent: C v - S (2 delta) = T
    C = 1 / v0
    S = 0.0
    T = angle
    if polar:
        C = math.cos(angle) / v0
        S = 0.5 * math.sin(angle) / delta0
        T = 0.0
    solved = False
    previous = 1e300
    for _ in range(12):
        Ap, gp1, gp2, a11, a12, a22 = gradient_and_hessian(p1, p2, t1, t2, k)
        An, gn1, gn2, b11, b12, b22 = gradient_and_hessian(n1, n2, t1, t2, k)
        detp = a11 * a22 - a12 * a12
        detn = b11 * b22 - b12 * b12
        if not (detp > 0 and detn > 0 and a11 > 0 and b11 > 0):
            break
        # inverse Hessians P, N and their difference applied to e
        P11 = a22 / detp
        P12 = -a12 / detp
        P22 = a11 / detp
        N11 = b22 / detn
        N12 = -b12 / detn
        N22 = b11 / detn
        D1 = (P11 - N11) * e1 + (P12 - N12) * e2
        D2 = (P12 - N12) * e1 + (P22 - N22) * e2
        d1 = p1 - n1
        d2 = p2 - n2
        turn1 = C * f1 - S * D1
        turn2 = C * f2 - S * D2
        if solved:
            # along the arch grad A(p) = grad A(n) = w moves normal to the chord
            rate = 1.0
            if polar:
                v = w1 * f1 + w2 * f2
                delta = 0.5 * (e1 * d1 + e2 * d2)
                rate = math.sin(angle) * v / v0 + math.cos(angle) * delta / delta0
            rate /= d1 * turn2 - d2 * turn1
            dw1 = -d2 * rate
            dw2 = d1 * rate
            dp1 = P11 * dw1 + P12 * dw2
            dp2 = P12 * dw1 + P22 * dw2
            dn1 = N11 * dw1 + N12 * dw2
            dn2 = N12 * dw1 + N22 * dw2
            return True, (p1, p2, n1, n2, w1, w2, dp1, dp2, dn1, dn2, dw1, dw2)
        # residuals: grad A - w at both ends, the energies, the polar angle
        x1 = gp1 - w1
        x2 = gp2 - w2
        z1 = gn1 - w1
        z2 = gn2 - w2
        energy = Ap - An - (w1 * d1 + w2 * d2)
        turn = C * (w1 * f1 + w2 * f2) - S * (e1 * d1 + e2 * d2) - T
        # dp = P (dw - x) and dn = N (dw - z) leave two equations for dw
        px1 = P11 * x1 + P12 * x2
        px2 = P12 * x1 + P22 * x2
        nz1 = N11 * z1 + N12 * z2
        nz2 = N12 * z1 + N22 * z2
        m11 = px1 - nz1 - d1
        m12 = px2 - nz2 - d2
        right1 = -energy + (x1 * px1 + x2 * px2) - (z1 * nz1 + z2 * nz2)
        right2 = -turn - S * (e1 * (px1 - nz1) + e2 * (px2 - nz2))
        det = m11 * turn2 - m12 * turn1
        u1 = (turn2 * right1 - m12 * right2) / det
        u2 = (m11 * right2 - turn1 * right1) / det
        sp1 = P11 * (u1 - x1) + P12 * (u2 - x2)
        sp2 = P12 * (u1 - x1) + P22 * (u2 - x2)
        sn1 = N11 * (u1 - z1) + N12 * (u2 - z2)
        sn2 = N12 * (u1 - z1) + N22 * (u2 - z2)
        p1 += sp1
        p2 += sp2
        n1 += sn1
        n2 += sn2
        w1 += u1
        w2 += u2
        size = abs(sp1) + abs(sp2) + abs(sn1) + abs(sn2)
        gap = (p1 - n1) * e1 + (p2 - n2) * e2
        if not (gap > 0 and size < 4 * delta0):
            break
        # converged if quadratically small, or if rounding (near the cusp) stops the descent
        solved = size < 1e-7 * gap or (size < 1e-4 * gap and size > 0.5 * previous)
        previous = size
    return False, (p1, p2, n1, n2, w1, w2, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


@kernel
def same_branch(guess, row, here, step):
    """Whether a polished bitangent is where the tangent pointed, not a pair of other wells."""
    miss = 0.0
    move = 0.0
    for n in range(4):
        miss += abs(row[n] - guess[n])
        move += abs(step * here[6 + n])
    return miss < 0.5 * move + 1e-3 * abs(here[0] - here[2])


@kernel
def march(draw, frame, angles, k, out):
    """Follow the bitangents of A from the origin towards the cusp.

    A bitangent is a pair (p, n) with ``grad A(p) = grad A(n) = w`` and
    ``A(p) - w.p = A(n) - w.n``.  With the coordinates ``v = w.f`` and ``delta = e.(p - n)/2``
    the pairs form an arch from (0, delta_0) to the cusp (v_c, 0).  If that is near, the arch is
    followed by its polar angle, ``(v/v_0) cos phi = (delta/delta_0) sin phi``, which is regular
    at both ends; if density ends long before, or the hole opens again, by ``phi = v/v_0``.

    Parameters
    ----------
    draw : tuple
        ``t_1, t_2``.
    frame : tuple
        ``e_1, e_2, p_1, p_2, v_0, polar``: unstable direction, well at v = 0, scale of v,
        and whether phi is the polar angle; ``f = (-e_2, e_1)``.
    angles : array, shape (n,)
        Increasing values of phi, positive.
    k : float
        ``V c``.
    out : array, shape (n, 12)
        Filled with ``p, n, w`` and their derivatives with respect to phi.

    Returns
    -------
    int
        How many values were solved; fewer than n is a failure.
    """
    e1, e2, p1, p2, v0, polar = frame
    scales = (e1, e2, p1 * e1 + p2 * e2, v0, polar)
    here = np.zeros(12)
    here[0] = p1
    here[1] = p2
    here[2] = -p1
    here[3] = -p2
    ok, row = polish_bitangent(here, draw, scales, 0.0, k)
    if not ok:
        return 0
    for n in range(12):
        here[n] = row[n]
    guess = np.empty(6)
    at = 0.0
    for i in range(angles.size):
        step = angles[i] - at
        halvings = 0
        while at < angles[i]:
            # the last step lands on the angle exactly, however often it was halved
            last = step >= angles[i] - at
            goal = angles[i] if last else at + step
            for n in range(6):
                guess[n] = here[n] + (goal - at) * here[6 + n]
            ok, row = polish_bitangent(guess, draw, scales, goal, k)
            if ok and same_branch(guess, row, here, goal - at):
                at = goal
                for n in range(12):
                    here[n] = row[n]
            elif halvings < 6:
                halvings += 1
                step = 0.5 * (goal - at)
            else:
                return i
        for n in range(12):
            out[i, n] = here[n]
    return angles.size


@kernel
def add_chord(sums, row, frame, draw, rule, weight, state):
    """Add the sums over one chord of the hole, and over its mirror image, to `sums`.

    Chord map ``h = (p+n)/2 + tau (p-n)/2 + (1 - tau**2) b f`` with the bulge
    ``b = v - f.grad A((p+n)/2)``, which keeps ``f.w`` close to v along the chord.

    Parameters
    ----------
    sums : array, shape (SUMS,)
    row : array, shape (12,)
        One row of :func:`march`.
    frame : tuple
        ``e_1, e_2``.
    draw : array, shape (4,)
        ``t_1, t_2, mu_1, mu_2``.
    rule : array, shape (2, n)
        Gauss-Legendre nodes and weights on [-1, 1].
    weight : float
        Weight of the chord: quadrature weight in phi.
    state : Kinetics
    """
    e1, e2 = frame
    f1 = -e2
    f2 = e1
    t1, t2, mu1, mu2 = draw
    k = state.c * state.V
    minus = -0.5 / state.variance
    c1 = 0.5 * (row[0] + row[2])
    c2 = 0.5 * (row[1] + row[3])
    d1 = 0.5 * (row[0] - row[2])
    d2 = 0.5 * (row[1] - row[3])
    dc1 = 0.5 * (row[6] + row[8])
    dc2 = 0.5 * (row[7] + row[9])
    dd1 = 0.5 * (row[6] - row[8])
    dd2 = 0.5 * (row[7] - row[9])
    _, g1, g2, a11, a12, a22 = gradient_and_hessian(c1, c2, t1, t2, k)
    bulge = f1 * (row[4] - g1) + f2 * (row[5] - g2)
    dbulge = f1 * (row[10] - a11 * dc1 - a12 * dc2) + f2 * (row[11] - a12 * dc1 - a22 * dc2)
    for j in range(rule.shape[1]):
        tau = rule[0, j]
        arch = 1 - tau * tau
        h1 = c1 + tau * d1 + arch * bulge * f1
        h2 = c2 + tau * d2 + arch * bulge * f2
        across1 = d1 - 2 * tau * bulge * f1
        across2 = d2 - 2 * tau * bulge * f2
        along1 = dc1 + tau * dd1 + arch * dbulge * f1
        along2 = dc2 + tau * dd2 + arch * dbulge * f2
        s1, b1, b2, b11, b12, b22, s2, q1, q2, q11, q12, q22 = contrast_derivatives(h1, h2)
        r1 = s1 - t1
        r2 = s2 - t2
        G1 = -(r1 * b1 + r2 * q1)
        G2 = -(r1 * b2 + r2 * q2)
        H11 = 1 + k * (b1 * b1 + q1 * q1 + r1 * b11 + r2 * q11)
        H12 = k * (b1 * b2 + q1 * q2 + r1 * b12 + r2 * q12)
        H22 = 1 + k * (b2 * b2 + q2 * q2 + r1 * b22 + r2 * q22)
        # along = f, across = e is a frame of negative orientation
        area = across1 * along2 - across2 * along1
        p = weight * rule[1, j] * area * (H11 * H22 - H12 * H12)
        w1 = h1 - k * G1
        w2 = h2 - k * G2
        x1 = w1 - mu1
        x2 = w2 - mu2
        z1 = w1 + mu1
        z2 = w2 + mu2
        here = p * exp_clamped(minus * (x1 * x1 + x2 * x2))
        mirror = p * exp_clamped(minus * (z1 * z1 + z2 * z2))
        both = here + mirror
        sums[0] += both
        sums[1] += (here - mirror) * G1
        sums[2] += (here - mirror) * G2
        sums[3] += both * (G1 * G1 + G2 * G2)
        sums[4] += G1 * (here * x1 + mirror * z1)
        sums[5] += G2 * (here * x2 + mirror * z2)
        sums[6] += here * (G1 * x2 + G2 * x1) + mirror * (G1 * z2 + G2 * z1)
        sums[7] += both * s1
        sums[8] += both * s2
        sums[9] += both * (s1 * s1 + s2 * s2)


@kernel
def hole_sums(draws, shapes, counts, legendre, state):
    """The sums over the hole at the origin, for each teacher draw.

    Parameters
    ----------
    draws : array, shape (n, 4)
        ``t_1, t_2, mu_1, mu_2``.
    shapes : array, shape (n, 6)
        Scale, extent and coordinate of each hole (:func:`hole_shapes`).
    counts : int64 array, shape (n, 2)
        Numbers of Gauss-Legendre nodes along and across each hole.
    legendre : array, shape (N, 2, N)
        ``legendre[n, :, :n]`` are the nodes and weights of the n-point rule on [-1, 1].
    state : Kinetics

    Returns
    -------
    sums : array, shape (n, SUMS)
    edges : array, shape (n,)
        Distance of the density from the chord where the march broke off; infinite if it did not.
    """
    k = state.c * state.V
    out = np.zeros((draws.shape[0], SUMS))
    edges = np.full(draws.shape[0], np.inf)
    rows = np.empty((legendre.shape[0], 12))
    for i in range(draws.shape[0]):
        t1, t2, _, _ = draws[i]
        e1, e2, strength = unstable_direction(t1, t2)
        if k * strength < 1 + NEWBORN:
            continue
        p1, p2, ok = origin_well(t1, t2, e1, e2, k)
        if not ok:
            edges[i] = 0.0
            continue
        delta0 = p1 * e1 + p2 * e2
        polar = shapes[i, 2] > 0
        frame = (e1, e2, p1, p2, shapes[i, 0] * delta0, polar)
        along = legendre[counts[i, 0], :, : counts[i, 0]]
        across = legendre[counts[i, 1], :, : counts[i, 1]]
        phi = 0.5 * shapes[i, 1] * (along[0] + 1)
        solved = march((t1, t2), frame, phi, k, rows)
        if solved < phi.size and not (polar and negligible_tip(phi[solved], delta0)):
            edges[i] = 0.0
            if solved > 0:
                edge = distance_to_chord(rows[solved - 1], (e1, e2), draws[i], k)
                edges[i] = max(edge, 0.0)
        for j in range(solved):
            weight = 0.5 * shapes[i, 1] * along[1, j]
            add_chord(out[i], rows[j], (e1, e2), draws[i], across, weight, state)
    return out, edges


@kernel
def negligible_tip(phi, delta0):
    """Whether the tip of a hole beyond the polar angle `phi` may be left out.

    Its share falls like ``(delta/delta_0)**5``, and rounding stops Newton's method there.
    """
    share = math.cos(phi)
    return share < 0.02 or share * delta0 < 0.003


@kernel
def distance_to_chord(row, frame, draw, k):
    """Distance of the nearer of ``+-mu`` to the fields of a chord, all of them taken together."""
    e1, e2 = frame
    t1, t2, mu1, mu2 = draw
    c1 = 0.5 * (row[0] + row[2])
    c2 = 0.5 * (row[1] + row[3])
    d1 = 0.5 * (row[0] - row[2])
    d2 = 0.5 * (row[1] - row[3])
    fold = 0.0
    for tau in (-0.577, 0.577):  # where a symmetric double well folds over furthest
        h1 = c1 + tau * d1
        h2 = c2 + tau * d2
        _, g1, g2, _, _, _ = gradient_and_hessian(h1, h2, t1, t2, k)
        fold = max(fold, abs((g1 - row[4]) * e1 + (g2 - row[5]) * e2))
    near = math.hypot(row[4] - mu1, row[5] - mu2)
    return min(near, math.hypot(row[4] + mu1, row[5] + mu2)) - fold


@kernel
def extent_of_hole(frame, draw, radius, trial, k):
    """Follow a hole until its density is gone.

    Parameters
    ----------
    frame : tuple
        As for :func:`march`.
    draw : array, shape (4,)
        ``t_1, t_2, mu_1, mu_2``.
    radius : float
        There is no density further than this from mu.
    trial : array, shape (n,)
        Increasing values of phi for :func:`march`.
    k : float
        ``V c``.

    Returns
    -------
    reach : float
        Value of phi at which density ends; the last of `trial` if it does not.
    inside : bool
        Whether the hole carries any density.
    edge : float
        Distance of the density from the chord where the march broke off; infinite if it did not.
    """
    e1, e2, p1, p2, _, polar = frame
    t1, t2, mu1, mu2 = draw
    rows = np.empty((trial.size, 12))
    count = march((t1, t2), frame, trial, k, rows)
    middle = abs(e1 * mu2 - e2 * mu1)
    inside = False
    last = 0.0
    before = 0.0
    for j in range(count):
        v = e1 * rows[j, 5] - e2 * rows[j, 4]
        distance = distance_to_chord(rows[j], (e1, e2), draw, k)
        if distance < radius + abs(v - last):
            inside = True
        if distance > radius and v > middle:
            # stop at the edge of the density and not beyond: other wells take over out there
            if j == 0 or before > radius:
                return trial[j], inside, np.inf
            part = (radius - before) / (distance - before)
            return trial[j - 1] + part * (trial[j] - trial[j - 1]), inside, np.inf
        last = v
        before = distance
    if count == trial.size or (polar and negligible_tip(trial[count], p1 * e1 + p2 * e2)):
        return trial[-1], inside, np.inf
    # a third well has swallowed one end: find out where
    low = trial[count - 1] if count > 0 else 0.0
    high = trial[count]
    angles = np.append(trial[:count], 0.0)
    for _ in range(5):
        angles[count] = 0.5 * (low + high)
        if march((t1, t2), frame, angles, k, rows) == angles.size:
            low = angles[count]
            before = distance_to_chord(rows[count], (e1, e2), draw, k)
        else:
            high = angles[count]
    # short of the very end, where derivatives grow without bound
    return 0.98 * low, inside, max(before, 0.0)


@kernel
def hole_shapes(draws, cuts, trial, k):
    """How each hole is to be followed, and how far.

    Parameters
    ----------
    draws : array, shape (n, 4)
        ``t_1, t_2, mu_1, mu_2``.
    cuts : array, shape (n,)
        There is no density where ``|w - mu|**2 >= cuts``.
    trial : array, shape (a,)
        Increasing fractions, the last of them close to 1, at which a hole is tried.
    k : float
        ``V c``.

    Returns
    -------
    shapes : array, shape (n, 6)
        The scale ``v_0/delta_0``; the largest phi (0: no density); 1 if phi is the polar angle;
        the hole's length in v and its fold, the largest ``|w(h) - w|`` over a chord; and the
        distance of the density from the end of the march (infinite if the hole ends before).
    failed : int
        Number of holes without a well to start from.
    """
    shapes = np.zeros((draws.shape[0], 6))
    shapes[:, 5] = np.inf
    failed = 0
    for i in range(draws.shape[0]):
        t1, t2, mu1, mu2 = draws[i]
        e1, e2, strength = unstable_direction(t1, t2)
        if k * strength < 1 + NEWBORN:
            continue
        f1 = -e2
        f2 = e1
        p1, p2, ok = origin_well(t1, t2, e1, e2, k)
        if not ok:
            failed += 1
            continue
        radius = math.sqrt(cuts[i])
        delta0 = p1 * e1 + p2 * e2
        v_cut = abs(mu1 * f1 + mu2 * f2) + radius
        # the cusp lies about where the curvature along e changes sign on the axis h = z f
        z = 0.0
        v_cusp = 0.0
        while v_cusp < v_cut:
            z += 0.2 * delta0
            _, g1, g2, a11, a12, a22 = gradient_and_hessian(z * f1, z * f2, t1, t2, k)
            v_cusp = f1 * g1 + f2 * g2
            if e1 * (a11 * e1 + a12 * e2) + e2 * (a12 * e1 + a22 * e2) > 0 or z > 10:
                break
        polar = v_cusp < v_cut
        for _ in range(2):
            v0 = min(v_cusp, v_cut) if polar else v_cut
            span = 0.5 * math.pi if polar else 1.0
            frame = (e1, e2, p1, p2, v0, polar)
            reach, inside, edge = extent_of_hole(frame, draws[i], radius, span * trial, k)
            # keep what goes furthest
            if shapes[i, 0] == 0 or edge > shapes[i, 5]:
                shapes[i, 0] = v0 / delta0
                shapes[i, 1] = (span if reach == span * trial[-1] else reach) if inside else 0.0
                shapes[i, 2] = 1.0 if polar else 0.0
                shapes[i, 3] = v0 * (1.0 if polar else reach)
                # of the cubic with zeros -delta_0, 0, delta_0 and this slope at 0
                shapes[i, 4] = 0.385 * (k * strength - 1) * delta0
                shapes[i, 5] = edge
            if edge == np.inf:
                break
            polar = not polar
    return shapes, failed


# --------------------------------------------------------------- teacher draws with a hole


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
