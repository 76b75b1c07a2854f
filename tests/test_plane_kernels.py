"""Kernels of the plane rule against twins: the matrices of tests/reference.py, and brute force."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import reference
from numpy.polynomial.legendre import leggauss
from numpy.testing import assert_allclose
from scipy.optimize import brentq

from gamp_theory.channel import hole_kernels, outer, plane, sobol_kernels, unstable_kernels
from gamp_theory.channel import plane_kernels as kernels
from gamp_theory.model import AttentionModel
from gamp_theory.overlaps import Overlaps

SIGMA, V = 0.5, 25.0
C = SIGMA**2 / 2
K = V * C
UNEVEN = AttentionModel.mixture(0.3, SIGMA, ((0.9, 0.1), (0.35, 0.65)))
OVERLAPS = Overlaps(0.08, 0.1, V, 0.05)
STATE, TARGET = plane.scalars(UNEVEN, OVERLAPS)
TEACHER = SIGMA * np.random.default_rng(0).standard_normal((12, 2))
#: Contrasts with a double well at the origin: alike, and not.
DOUBLE_WELLS = [(0.45, 0.45), (0.45, 0.25), (0.55, -0.2)]


def matrix(t):
    """The row-stochastic matrix of two contrasts."""
    t1, t2 = t
    return np.array([[1 + t1, 1 - t1], [1 - t2, 1 + t2]]) / 2


def loss_of(t):
    T = matrix(t)
    return lambda h: reference.loss(h, T, SIGMA)


def field(h, t):
    """``w = h + V grad loss(h)``."""
    return h + V * reference.gradient(loss_of(t), h)


def determinant(h, t):
    """``det(I + V hess loss(h))``."""
    return np.linalg.det(np.eye(2) + V * reference.hessian(loss_of(t), h))


def integrands(h, w, t, mu):
    """The functions that kernels sum, shape (kernels.SUMS, n)."""
    G = -reference.gradient(loss_of(t), h) / C
    x = w - mu
    s = reference.contrasts(reference.softmax(h))
    return np.stack(
        [
            np.ones(len(h)),
            *G.T,
            (G**2).sum(axis=1),
            *(G * x).T,
            (G * x[:, ::-1]).sum(axis=1),
            *s.T,
            (s**2).sum(axis=1),
        ]
    )


def draws_of_teacher():
    return kernels.targets_and_means(TEACHER, TARGET, STATE)


# -------------------------------------------------------------------------- the whole plane


def test_exponential_has_thirteen_digits():
    x = np.linspace(-60, 0, 4001)
    got = np.array([kernels.exp_clamped(value) for value in x])
    assert_allclose(got, np.exp(x), rtol=3e-13)


def test_exponential_is_clamped():
    assert kernels.exp_clamped(-1e9) == kernels.exp_clamped(-60.0) < 1e-26


def test_half_tanh():
    z = np.concatenate([np.linspace(-50, 50, 2001), [-1e3, 1e3, 0.0, -0.0]])
    got = [kernels.half_tanh(value) for value in z]
    assert_allclose(got, np.tanh(z / 2), rtol=0, atol=1e-13)


def test_targets_and_means_are_those_of_the_mixture_and_of_the_gaussians():
    got = draws_of_teacher()
    T = reference.target(TEACHER, UNEVEN.omega, UNEVEN.target.A)
    assert_allclose(got[:, :2], reference.contrasts(T), rtol=1e-12)
    # E[w | y] of a Gaussian pair: mean + covariance/variance * y
    expected = OVERLAPS.m * np.array([1, -1]) + OVERLAPS.theta / SIGMA**2 * TEACHER
    assert_allclose(got[:, 2:], expected, rtol=1e-12)


@pytest.mark.parametrize("t", [*DOUBLE_WELLS, (-0.3, 0.9)])
def test_gradient_and_hessian_are_those_of_the_matrices(t):
    h = 1.5 * np.random.default_rng(1).standard_normal((30, 2))
    got = np.array([kernels.gradient_and_hessian(*x, *t, K) for x in h])
    assert_allclose(got[:, 0], (h**2).sum(axis=1) / 2 + V * loss_of(t)(h), rtol=1e-12)
    assert_allclose(got[:, 1:3], field(h, t), rtol=1e-11, atol=1e-12)
    H = np.eye(2) + V * reference.hessian(loss_of(t), h)
    assert_allclose(got[:, 3:], H[:, [0, 0, 1], [0, 1, 1]], rtol=1e-9, atol=1e-10)


def nodes_of(corners, step):
    """The nodes of each tile, shape (tiles, TILE, 2)."""
    lane = np.arange(kernels.TILE)
    offset = np.stack([lane // kernels.SIDE, lane % kernels.SIDE], axis=-1)
    return (corners.T[:, None, :] + offset + 0.5) * step


def test_tables_hold_fields_and_determinants_for_every_target():
    corners, step = np.array([[-8, 0, 4], [-4, 0, 8]]), 0.11
    tables = kernels.tile_tables(corners, step, K)
    h = nodes_of(corners, step)
    assert tables.shape == (3, kernels.TABLE_ROWS, kernels.TILE)
    assert_allclose(np.moveaxis(tables[:, :2], 1, -1), h, rtol=1e-14)
    s = reference.contrasts(reference.softmax(h))
    assert_allclose(np.moveaxis(tables[:, 8:10], 1, -1), s, rtol=1e-12)
    assert_allclose(tables[:, 10], (s**2).sum(axis=-1), rtol=1e-12)
    for t in [*DOUBLE_WELLS, (-0.3, 0.9)]:
        powers = np.array([1, *t, t[0] ** 2, t[0] * t[1], t[1] ** 2])
        got = np.einsum("k,nkl->nl", powers, tables[:, 11:])
        assert_allclose(got, determinant(h, t), rtol=1e-9, atol=1e-9)
        G = (t[0] * tables[:, 2:4] + t[1] * tables[:, 4:6] - tables[:, 6:8]).transpose(0, 2, 1)
        assert_allclose(h - K * G, field(h, t), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("seed", [0, 1])
def test_active_tiles_are_those_with_a_node_inside_the_cut(seed):
    rng = np.random.default_rng(seed)
    draws = draws_of_teacher()
    cuts = STATE.variance * rng.uniform(1, 25, len(draws))
    limits = (abs(draws[:, 2:]) + np.sqrt(cuts)[:, None]).max(axis=0)
    step = 0.09
    candidates = kernels.candidate_tiles(limits, step, K, draws)
    start, index = kernels.active_tiles(kernels.tile_tables(candidates, step, K), draws, cuts, K)

    # every tile of a square that is far larger than the window
    half = kernels.SIDE * math.ceil(6 / (kernels.SIDE * step))
    line = np.arange(-half, half, kernels.SIDE)
    corners = np.array(list(itertools.product(line, line))).T
    h = nodes_of(corners, step)
    for i, (t, mu) in enumerate(zip(draws[:, :2], draws[:, 2:], strict=True)):
        inside = (((field(h, t) - mu) ** 2).sum(axis=-1) < cuts[i]).any(axis=1)
        expected = {tuple(corner) for corner in corners.T[inside]}
        assert {tuple(candidates.T[j]) for j in index[start[i] : start[i + 1]]} == expected


def test_plane_sums_are_those_over_the_nodes():
    step = 0.11
    corners = np.array([[-4, 0, 4, 0], [-4, 0, 0, -8]])
    tables = kernels.tile_tables(corners, step, K)
    draws = np.array([[0.3, 0.1, 0.2, -0.1], [0.6, 0.5, 0.0, 0.3]])
    start, index = np.array([0, 3, 5]), np.array([0, 1, 2, 3, 1])
    got = kernels.plane_sums(tables, start, index, draws, K, STATE.variance)
    for i, (t, mu) in enumerate(zip(draws[:, :2], draws[:, 2:], strict=True)):
        h = nodes_of(corners, step)[index[start[i] : start[i + 1]]].reshape(-1, 2)
        w = field(h, t)
        p = determinant(h, t) * np.exp(-((w - mu) ** 2).sum(axis=1) / (2 * STATE.variance))
        assert_allclose(got[i], integrands(h, w, t, mu) @ p, rtol=1e-10, atol=1e-10)


def test_folds_that_do_not_reach_the_origin_are_counted():
    """Where ``det < 0`` and there is a convex point on the straight way to 0."""
    step, spread = 0.1, 4.0  # so wide that outer folds carry weight
    draws = np.array([[0.5, 0.5, 0.0, 0.0], [0.45, 0.25, 0.3, -0.2]])
    line = np.arange(-40, 40, kernels.SIDE)
    corners = np.array(list(itertools.product(line, line))).T
    tables = kernels.tile_tables(corners, step, K)
    everything = np.arange(corners.shape[1])
    index = np.concatenate([everything, everything])
    start = np.array([0, everything.size, 2 * everything.size])
    weights = np.array([1e-3, 2e-3])
    got = kernels.outer_fold_mass(tables, start, index, draws, weights, K, spread)

    h = nodes_of(corners, step).reshape(-1, 2)
    expected = 0.0
    for weight, (*t, mu1, mu2) in zip(weights, draws, strict=True):
        det = determinant(h, t)
        way = [determinant(0.1 * m * h, t) for m in range(10)]
        outside = (det < 0) & (np.max(way, axis=0) > 0)
        square = ((field(h, t) - [mu1, mu2]) ** 2).sum(axis=1)
        expected -= weight * (det * np.exp(-square / (2 * spread)))[outside].sum()
    assert got > 1e-3
    assert got == pytest.approx(expected, rel=1e-8)


# ------------------------------------------------------------------- the hole at the origin


@pytest.mark.parametrize("t", [*DOUBLE_WELLS, (0.1, 0.9), (-0.4, 0.8), (0.2, 0.2)])
def test_unstable_direction_is_the_lowest_eigenvector(t):
    e1, e2, strength = unstable_kernels.unstable_direction(*t)
    values, vectors = np.linalg.eigh(reference.hessian(loss_of(t), np.zeros(2)))
    assert -C * strength == pytest.approx(values[0], rel=1e-11)
    assert abs(vectors[:, 0] @ [e1, e2]) == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("t", DOUBLE_WELLS)
def test_origin_well_is_the_prox_of_a_vanishing_field(t):
    e1, e2, _ = unstable_kernels.unstable_direction(*t)
    p1, p2, ok = hole_kernels.origin_well(*t, e1, e2, K)
    assert ok
    tiny = 1e-10 * np.array([e1, e2])
    assert_allclose([p1, p2], reference.prox(tiny, matrix(t), V, SIGMA), atol=1e-7)
    assert_allclose(field(np.array([p1, p2]), t), 0, atol=1e-13)


def frame_of(t, scale=0.5, polar=True):
    e1, e2, _ = unstable_kernels.unstable_direction(*t)
    p1, p2, _ = hole_kernels.origin_well(*t, e1, e2, K)
    return e1, e2, p1, p2, scale, polar


@pytest.mark.parametrize("polar", [True, False])
@pytest.mark.parametrize("t", DOUBLE_WELLS)
def test_march_returns_bitangents(t, polar):
    frame = frame_of(t, polar=polar)
    e = np.array(frame[:2])
    angles = np.linspace(0.1, 1.2, 6) * (1 if polar else 0.3)
    rows = np.empty((6, 12))
    assert hole_kernels.march(t, frame, angles, K, rows) == 6
    p, n, w = rows[:, 0:2], rows[:, 2:4], rows[:, 4:6]
    assert_allclose(field(p, t), w, atol=1e-11)
    assert_allclose(field(n, t), w, atol=1e-11)

    def energy(h):
        return (h**2).sum(axis=-1) / 2 + V * loss_of(t)(h) - (w * h).sum(axis=-1)

    assert_allclose(energy(p), energy(n), atol=1e-12)
    assert np.all((p - n) @ e > 0)
    # which bitangent: its polar angle, or v in units of the scale
    v, delta = w @ [-e[1], e[0]], (p - n) @ e / 2
    delta0 = frame[2] * e[0] + frame[3] * e[1]
    got = np.arctan2(v / frame[4], delta / delta0) if polar else v / frame[4]
    assert_allclose(got, angles, atol=1e-11)
    # on either side of w along the chord the global prox is on that side
    for i in (0, 3):
        chord = (p[i] - n[i]) / np.linalg.norm(p[i] - n[i])
        for sign, expected in ((1, p[i]), (-1, n[i])):
            prox = reference.prox(w[i] + sign * 1e-6 * chord, matrix(t), V, SIGMA)
            assert_allclose(prox, expected, atol=3e-5)
    # the tangents are derivatives
    near = np.empty((2, 12))
    hole_kernels.march(t, frame, angles[3] + np.array([-1e-5, 1e-5]), K, near)
    assert_allclose((near[1, :6] - near[0, :6]) / 2e-5, rows[3, 6:], atol=1e-7)


def test_a_bitangent_is_polished_from_nearby_and_not_from_nowhere():
    t = (0.45, 0.25)
    frame = frame_of(t)
    rows = np.empty((1, 12))
    hole_kernels.march(t, frame, np.array([0.4]), K, rows)
    scales = (*frame[:2], frame[2] * frame[0] + frame[3] * frame[1], *frame[4:])
    off = 0.01 * np.random.default_rng(2).standard_normal(6)
    ok, row = hole_kernels.polish_bitangent(rows[0, :6] + off, t, scales, 0.4, K)
    assert ok
    assert_allclose(row, rows[0], atol=1e-9)
    flipped = np.concatenate([rows[0, 2:4], rows[0, :2], rows[0, 4:6]])
    assert not hole_kernels.polish_bitangent(flipped, t, scales, 0.4, K)[0]
    assert not hole_kernels.polish_bitangent(np.zeros(6), t, scales, 0.4, K)[0]


def test_another_pair_of_wells_is_not_taken_for_the_branch():
    here = np.array([1.0, 0, -1, 0, 0, 0.2, 0.1, 0.2, 0.1, -0.2, 0.3, 0.3])
    guess = here[:6] + 0.1 * here[6:]
    assert hole_kernels.same_branch(guess, guess, here, 0.1)
    row = guess.copy()
    row[1] += 0.02  # less than half the step
    assert hole_kernels.same_branch(guess, row, here, 0.1)
    row[1] += 0.3
    assert not hole_kernels.same_branch(guess, row, here, 0.1)


def brute_sums(t, mu, s):
    """``int exp(-|w - mu|**2/(2 s**2)) f(prox(w)) dw`` by the global prox, for the eight f.

    Lines along the unstable direction are split where the prox changes sides, and panels of
    Gauss-Legendre nodes shrink towards that point, where a cusp makes the prox steep.
    """
    e1, e2, _ = unstable_kernels.unstable_direction(*t)
    e, f = np.array([e1, e2]), np.array([-e2, e1])
    stack = np.empty((sobol_kernels.STACK_ROWS, 3))

    def prox(w):
        problem = sobol_kernels.ProxProblem(*w, *t, K)
        return np.array(sobol_kernels.global_prox(problem, sobol_kernels.LEAF, stack)[:2])

    def panels(ends, n):
        x, weight = leggauss(n)
        left, right = np.array(ends[:-1]), np.array(ends[1:])
        nodes = (left + right)[:, None] / 2 + (right - left)[:, None] / 2 * x
        return nodes.ravel(), ((right - left)[:, None] / 2 * weight).ravel()

    reach = 7 * s
    total = np.zeros(kernels.SUMS)
    for v, weight_v in zip(*panels(np.linspace(-reach, reach, 21) + mu @ f, 8), strict=True):
        low, high = mu @ e - reach, mu @ e + reach
        left, right = low, high
        if (prox(low * e + v * f) @ e > 0) or (prox(high * e + v * f) @ e < 0):
            split = low
        else:
            while right - left > 1e-12:
                middle = (left + right) / 2
                if prox(middle * e + v * f) @ e > 0:
                    right = middle
                else:
                    left = middle
            split = (left + right) / 2
        share = np.array([0, 0.005, 0.03, 0.1, 0.3, 0.6, 1.0])
        ends = np.unique([*(split - share * (split - low)), *(split + share * (high - split))])
        u, weight_u = panels(ends, 8)
        w = u[:, None] * e + v * f
        h = np.array([prox(x) for x in w])
        density = np.exp(-((w - mu) ** 2).sum(axis=1) / (2 * s**2))
        total += weight_v * integrands(h, w, t, mu) @ (weight_u * density)
    return total


def plane_and_hole(t, mu, s, cut):
    """Both parts of the rule at one draw, and how its hole was followed."""
    draws = np.array([[*t, *mu]])
    cuts = np.array([cut * s**2])
    step = 0.05
    candidates = kernels.candidate_tiles(abs(np.array(mu)) + math.sqrt(cuts[0]), step, K, draws)
    tables = kernels.tile_tables(candidates, step, K)
    everything = np.arange(len(tables)), np.array([0, len(tables)])
    sums = kernels.plane_sums(tables, everything[1], everything[0], draws, K, s**2)
    shapes, failed = hole_kernels.hole_shapes(draws, cuts, np.linspace(0.08, 0.98, 12), K)
    assert failed == 0
    counts, state = np.array([[60, 60]]), STATE._replace(variance=s**2)
    hole, edges = hole_kernels.hole_sums(draws, shapes, counts, plane.legendre_rules(), state)
    assert edges[0] == np.inf  # followed as far as its shape says
    return step**2 * sums[0], hole[0], shapes[0]


@pytest.mark.parametrize(
    ("t", "mu", "accuracy"),
    [
        ((0.4, 0.35), (0.05, -0.1), 1e-7),  # a cusp inside the density limits the brute force
        ((0.45, 0.25), (0.0, 0.0), 1e-9),
        ((0.55, -0.2), (0.1, 0.15), 1e-9),
    ],
)
def test_plane_less_hole_is_the_average_over_the_global_prox(t, mu, accuracy):
    s = 0.27
    everything, hole, shape = plane_and_hole(t, mu, s, cut=50.0)
    assert shape[5] == np.inf
    expected = brute_sums(t, np.array(mu), s)
    scale = 2 * np.pi * s**2
    assert abs(hole[0]) < 1e-9 * scale  # it has no mass
    assert abs(hole[3]) > 1e-2 * scale  # but it matters
    assert_allclose(everything - hole, expected, rtol=0, atol=accuracy * scale)


def test_a_hole_that_a_third_well_cuts_short_says_what_that_costs():
    t, mu, s = (0.45, 0.45), (0.05, -0.1), 0.27
    everything, hole, shape = plane_and_hole(t, mu, s, cut=50.0)
    scale = 2 * np.pi * s**2
    lost = abs(everything - hole - brute_sums(t, np.array(mu), s)).max() / scale
    assert lost > 1e-8  # the chords end before the density does
    assert lost < math.exp(-0.5 * (shape[5] / s) ** 2)
    assert abs(hole[0]) > 1e-8 * scale  # and the mass sees it


def test_extents_hold_all_density():
    """Following a hole beyond its extent, to a cut far out, adds what the cut leaves out."""
    t, mu, s = (0.55, -0.2), (0.1, 0.15), 0.27
    near, far = (plane_and_hole(t, mu, s, cut)[1] for cut in (30.0, 60.0))
    assert_allclose(near, far, rtol=0, atol=10 * math.exp(-15))
    assert abs(near - far).max() > math.exp(-30)  # it does end sooner


@pytest.mark.parametrize("mu", [(0.0, 0.0), (0.4, -0.1), (-0.2, 0.5)])
def test_distance_to_a_chord_is_a_lower_bound_for_its_fields(mu):
    t = (0.45, 0.25)
    frame = frame_of(t)
    f = np.array([-frame[1], frame[0]])
    rows = np.empty((5, 12))
    hole_kernels.march(t, frame, np.linspace(0.1, 1.2, 5), K, rows)
    tau = np.linspace(-1, 1, 201)[:, None]
    for row in rows:
        centre, half = (row[0:2] + row[2:4]) / 2, (row[0:2] - row[2:4]) / 2
        bulge = f @ (row[4:6] - field(centre, t)) * f
        w = field(centre + tau * half + (1 - tau**2) * bulge, t)
        nearest = min(np.linalg.norm(w - sign * np.array(mu), axis=1).min() for sign in (1, -1))
        got = hole_kernels.distance_to_chord(row, frame[:2], np.array([*t, *mu]), K)
        fold = np.linalg.norm(w - row[4:6], axis=1).max()
        assert got <= nearest + 0.05 * fold
        assert got >= nearest - 2 * fold


def test_a_tip_is_negligible_where_its_fifth_power_is():
    assert not hole_kernels.negligible_tip(1.0, 0.5)
    assert hole_kernels.negligible_tip(math.acos(0.019), 0.5)
    assert hole_kernels.negligible_tip(math.acos(0.1), 0.02)


# --------------------------------------------------------------- teacher draws with a hole


@pytest.mark.parametrize("model", [UNEVEN, AttentionModel.mixture(0.3, SIGMA)])
def test_unstable_intervals_are_those_of_the_lowest_eigenvalue(model):
    state, target = plane.scalars(model, OVERLAPS)
    angles = np.linspace(0.05, 2 * np.pi, 23)
    brackets = unstable_kernels.unstable_brackets(angles, 64, 6.0, target, state)
    ends = unstable_kernels.unstable_ends(brackets, 0.0, target, state)
    assert len(brackets) > 20
    r = np.linspace(0, 6.0, 400)
    for phi in angles:
        got = [float(end) for end in ends[brackets[:, 0] == phi].ravel() if 0 < end < 6.0]

        def excess(r, phi=phi):
            return outer.instability(model, V, outer.teacher_fields(model, np.array(r), phi))

        signs = np.sign([excess(x) for x in r])
        changes = np.flatnonzero(signs[1:] != signs[:-1])
        expected = [brentq(excess, r[i], r[i + 1], xtol=1e-14) for i in changes]
        assert_allclose(got, expected, rtol=1e-12)
    # a bracket that the ends have left is widened
    moved = unstable_kernels.unstable_ends(brackets, 0.1, target, state._replace(V=1.01 * V))
    again = unstable_kernels.unstable_brackets(angles, 64, 6.0, target, state._replace(V=1.01 * V))
    fresh = unstable_kernels.unstable_ends(again, 0.0, target, state._replace(V=1.01 * V))
    assert_allclose(moved, fresh, rtol=1e-12)


def test_excess_is_the_eigenvalue_at_the_origin():
    for radius, phi in ((0.3, 0.2), (1.1, 0.7), (1.6, 2.5), (2.4, 4.0)):
        cosine, sine = math.cos(phi), math.sin(phi)
        y = np.array(unstable_kernels.teacher_fields(radius, cosine, sine, SIGMA))
        rotated = np.array([y[0] - y[1], y[0] + y[1]]) / (math.sqrt(2) * SIGMA)
        assert_allclose(rotated, [radius * cosine, radius * sine], rtol=1e-13)
        T = reference.target(y, UNEVEN.omega, UNEVEN.target.A)
        H = reference.hessian(lambda h, T=T: reference.loss(h, T, SIGMA), np.zeros(2))
        expected = -V * np.linalg.eigvalsh(H)[0] - 1
        got = unstable_kernels.excess(radius, cosine, sine, TARGET, STATE)
        assert got == pytest.approx(expected, rel=1e-9)
