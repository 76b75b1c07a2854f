"""Kernels of the rule "whole h-plane minus hole": the plane (docs/theory.md, section 4).

At fixed targets t the fields are ``w = h + V grad loss(h; t) = grad A(h)`` with
``A(h) = |h|**2/2 + V loss(h; t)``, so an average over ``w ~ N(mu, s**2 I)`` of a function of the
prox is the signed integral, with weight ``det(hess A) N(w; mu, s**2)``, over the whole h-plane
less the one over the hole, where A lies above its convex hull.

Plane and hole (:mod:`gamp_theory.channel.hole_kernels`) give the same sums per teacher draw, of
weight times

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
    "gradient_and_hessian",
    "half_tanh",
    "outer_fold_mass",
    "plane_sums",
    "targets_and_means",
    "tile_tables",
]

SUMS = 10
# a tile is a square of SIDE x SIDE nodes, stored together: the inner loop has a fixed length
# (no scalar remainder) and tiles without density are skipped
SIDE = 4
TILE = SIDE * SIDE
TABLE_ROWS = 17
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


@kernel
def half_tanh(z):
    """``tanh(z/2)`` to 2e-13, without a branch: loops over it run in the lanes of the processor."""
    x = exp_clamped(-abs(z))
    return math.copysign((1 - x) / (1 + x), z)


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
