"""The rule "whole h-plane minus hole": kernels against twins, identities, convergence."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from gamp_theory.channel import plane, plane_kernels
from gamp_theory.channel.plane import PlaneUnusable, outer_folds, plane_averages, plane_rule
from gamp_theory.mechanisms import softmax_contrasts
from gamp_theory.model import AttentionModel
from gamp_theory.overlaps import Overlaps

MODEL = AttentionModel.mixture()
LOPSIDED = AttentionModel.mixture(0.14, 0.5, ((0.3, 0.7), (0.8, 0.2)))
SEMANTIC = Overlaps(0.0816248, 0, 18.3211, 0.117926)
POSITIONAL = Overlaps(0.0471005, 0.252411, 14.9034, 0)
MIXED = Overlaps(0.06, 0.15, 15, 0.07)


def loss_and_gradient(h, t, c):
    """Naive twin: loss and gradient, by the formula of docs/theory.md, section 3."""
    h1, h2 = h[..., 0], h[..., 1]
    s = softmax_contrasts(h)
    r = s - t
    d = 1 - s**2
    g1 = c * (r[..., 0] * d[..., 0] * (h1 - h2 / 2) - r[..., 1] * d[..., 1] * h2 / 2)
    g2 = c * (-r[..., 0] * d[..., 0] * h1 / 2 + r[..., 1] * d[..., 1] * (h2 - h1 / 2))
    return c / 2 * (r**2).sum(axis=-1), np.stack([g1, g2], axis=-1)


def hessian_determinant(h, t, k, step=1e-5):
    """Naive twin: det(I + V hess loss) by central differences of the gradient."""
    columns = []
    for i in range(2):
        move = step * np.eye(2)[i]
        difference = loss_and_gradient(h + move, t, k)[1] - loss_and_gradient(h - move, t, k)[1]
        columns.append(np.eye(2)[i] + difference / (2 * step))
    return columns[0][..., 0] * columns[1][..., 1] - columns[0][..., 1] * columns[1][..., 0]


def errors(got, expected):
    """Errors relative to each average; that of the small d/domega relative to the loss."""
    scale = abs(expected)
    scale[5] = max(scale[5], 0.3 * scale[4])
    return abs(got - expected)[scale > 0] / scale[scale > 0]


def evaluate(model, overlaps, level, **options):
    return plane_averages(model, overlaps, plane_rule(model, overlaps, level, **options))


# ------------------------------------------------------------------------------------ kernels


def test_exponential_has_thirteen_digits():
    x = np.linspace(-60, 0, 4001)
    got = np.array([plane_kernels.exp_clamped(value) for value in x])
    np.testing.assert_allclose(got, np.exp(x), rtol=3e-13)


def test_exponential_is_clamped():
    assert plane_kernels.exp_clamped(-1e9) == plane_kernels.exp_clamped(-60.0) < 1e-26


def test_plane_sums_equal_the_naive_twin():
    state, _ = plane.scalars(MODEL, POSITIONAL)
    k, step = state.c * state.V, 0.11
    corners = np.array([[-4, 0, 4, 0], [-4, 0, 0, -8]])
    tables = plane_kernels.tile_tables(corners, step, k)
    draws = np.array([[0.3, 0.1, 0.2, -0.1], [0.6, 0.5, 0.0, 0.3]])
    start, index = np.array([0, 3, 5]), np.array([0, 1, 2, 3, 1])
    got = plane_kernels.plane_sums(tables, start, index, draws, k, state.variance)

    for i, (t, mu) in enumerate(zip(draws[:, :2], draws[:, 2:], strict=True)):
        expected = np.zeros(plane_kernels.SUMS)
        for tile in index[start[i] : start[i + 1]]:
            lane = np.arange(plane_kernels.TILE)
            offset = np.stack([lane // plane_kernels.SIDE, lane % plane_kernels.SIDE], axis=-1)
            h = (corners[:, tile] + offset + 0.5) * step
            G = -loss_and_gradient(h, t, 1.0)[1]
            x = h - k * G - mu
            p = hessian_determinant(h, t, k) * np.exp(-(x**2).sum(axis=-1) / (2 * state.variance))
            s = softmax_contrasts(h)
            columns = [np.ones(len(h)), *G.T, (G**2).sum(-1), (G * x).sum(-1), *s.T, (s**2).sum(-1)]
            expected += [(p * column).sum() for column in columns]
        np.testing.assert_allclose(got[i], expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("polar", [True, False])
@pytest.mark.parametrize("t", [(0.35, 0.25), (0.6, 0.1), (0.55, -0.2)])
def test_march_returns_bitangents(t, polar):
    k = 2.3
    e1, e2, _ = plane_kernels.unstable_direction(*t)
    p1, p2, ok = plane_kernels.origin_well(*t, e1, e2, k)
    assert ok
    angles = np.linspace(0.1, 1.2, 6) * (1 if polar else 0.3)
    rows = np.empty((6, 12))
    assert plane_kernels.march(t, (e1, e2, p1, p2, 0.5, polar), angles, k, rows) == 6
    p, n, w = rows[:, 0:2], rows[:, 2:4], rows[:, 4:6]
    (loss_p, grad_p), (loss_n, grad_n) = (loss_and_gradient(h, np.array(t), k) for h in (p, n))
    np.testing.assert_allclose(p + grad_p, w, atol=1e-11)
    np.testing.assert_allclose(n + grad_n, w, atol=1e-11)
    energy_p = (p**2).sum(-1) / 2 + loss_p - (w * p).sum(-1)
    energy_n = (n**2).sum(-1) / 2 + loss_n - (w * n).sum(-1)
    np.testing.assert_allclose(energy_p, energy_n, atol=1e-12)
    assert np.all((p - n) @ [e1, e2] > 0)

    # the tangents are derivatives: w moves normal to the chord, and p by differences
    np.testing.assert_allclose((rows[:, 10:12] * (p - n)).sum(-1), 0, atol=1e-11)
    near = np.empty((2, 12))
    frame = (e1, e2, p1, p2, 0.5, polar)
    plane_kernels.march(t, frame, angles[3] + np.array([-1e-5, 1e-5]), k, near)
    np.testing.assert_allclose((near[1, :6] - near[0, :6]) / 2e-5, rows[3, 6:], atol=1e-7)


def test_well_is_a_minimum_and_stable_draws_have_none():
    t, k = (0.4, 0.3), 2.3
    e1, e2, strength = plane_kernels.unstable_direction(*t)
    np.testing.assert_allclose(
        np.array([[t[0], -sum(t) / 2], [-sum(t) / 2, t[1]]]) @ [e1, e2],
        strength * np.array([e1, e2]),
        atol=1e-15,
    )
    p1, p2, ok = plane_kernels.origin_well(*t, e1, e2, k)
    p = np.array([p1, p2])
    assert ok
    np.testing.assert_allclose(p + loss_and_gradient(p, np.array(t), k)[1], 0, atol=1e-14)


def test_plane_less_hole_is_the_global_minimum():
    """E V M at one draw with a large hole, against brute force over grids of w and h."""
    overlaps = Overlaps(0.08, 0.0, 25.0, 0.0)
    state, _ = plane.scalars(MODEL, overlaps)
    k, t, s = state.c * state.V, np.array([0.45, 0.25]), math.sqrt(state.variance)
    draws = np.array([[*t, 0.0, 0.0]])

    rule = plane_rule(MODEL, overlaps, 3)
    everything = np.arange(rule.corners.shape[1])
    tables = plane_kernels.tile_tables(rule.corners, rule.h_step, k)
    start = np.array([0, len(everything)])
    args = (start, everything, draws, k, state.variance)
    sums = plane_kernels.plane_sums(tables, *args) * rule.h_step**2
    trial = np.linspace(0.08, 0.98, 12)
    shapes, failed = plane_kernels.hole_shapes(draws, np.array([25 * s**2]), trial, k)
    counts = np.array([[16, 24]])
    legendre = plane.legendre_rules()
    hole, edges = plane_kernels.hole_sums(draws, shapes, counts, legendre, state)
    assert failed == 0
    assert edges[0] == np.inf

    def envelope(x):
        one, _, _, gg, _, s1, s2, ss = x[0] / (2 * math.pi * state.variance)
        return k / 2 * (t @ t * one - 2 * (t[0] * s1 + t[1] * s2) + ss) + k**2 / 2 * gg

    line = np.arange(-2, 2, 0.02)
    h = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2)
    A = (h**2).sum(-1) / 2 + loss_and_gradient(h, t, k)[0]
    z = (np.arange(28) - 13.5) * 0.36
    w = s * np.stack(np.meshgrid(z, z, indexing="ij"), axis=-1).reshape(-1, 2)
    density = np.exp(-(w**2).sum(-1) / (2 * state.variance))
    lowest = np.array([(A - h @ field).min() for field in w]) + (w**2).sum(-1) / 2
    expected = (density * lowest).sum() / density.sum()

    assert abs(envelope(hole)) > 0.02  # the hole matters
    assert envelope(sums - hole) == pytest.approx(expected, abs=3e-4)


# --------------------------------------------------------------------------------- averages


@pytest.mark.parametrize("overlaps", [SEMANTIC, POSITIONAL, MIXED])
def test_levels_converge(overlaps):
    best = evaluate(MODEL, overlaps, 5)[0].as_array()
    worst = [
        errors(evaluate(MODEL, overlaps, level)[0].as_array(), best).max() for level in (0, 2, 4)
    ]
    assert worst[0] < 5e-3
    assert worst[1] < 3e-4
    assert worst[2] < 3e-6
    assert worst[2] < worst[1] < worst[0]


@pytest.mark.parametrize("overlaps", [SEMANTIC, POSITIONAL, MIXED])
def test_masses_vanish(overlaps):
    _, diagnostics = evaluate(MODEL, overlaps, 3)
    assert abs(diagnostics.mass) < 1e-7
    assert diagnostics.hole_mass < 1e-6
    assert diagnostics.failed == 0
    assert diagnostics.truncation < 1e-10
    assert diagnostics.holes > 0


@pytest.mark.parametrize("model", [MODEL, LOPSIDED])
@pytest.mark.parametrize("overlaps", [SEMANTIC, POSITIONAL, MIXED])
def test_symmetry_only_thins_the_nodes(model, overlaps):
    thin, few = evaluate(model, overlaps, 1)
    full, many = evaluate(model, overlaps, 1, swap=False, flip=False)
    expected = (2 if model is MODEL else 1) * (1 if overlaps is MIXED else 2)
    assert many.nodes == pytest.approx(expected * few.nodes, rel=0.05)
    np.testing.assert_allclose(thin.as_array(), full.as_array(), rtol=1e-5, atol=1e-9)


def test_zero_overlaps_have_zero_conjugates():
    averages, _ = evaluate(MODEL, Overlaps(0.08, 0, 20, 0), 0)
    assert averages.m_hat == 0
    assert averages.theta_hat == 0


@pytest.mark.parametrize(
    ("model", "overlaps"), [(MODEL, SEMANTIC), (MODEL, MIXED), (LOPSIDED, MIXED)]
)
def test_envelope_generates_the_conjugates(model, overlaps):
    """d(E M)/dm = -m_hat and d(E M)/dV = -q_hat/2, with the nodes frozen."""
    rule = plane_rule(model, overlaps, 4)
    averages, _ = plane_averages(model, overlaps, rule)

    def slope(name, step):
        values = []
        for sign in (1, -1):
            moved = replace(overlaps, **{name: getattr(overlaps, name) * (1 + sign * step)})
            values.append(plane_averages(model, moved, rule)[0].envelope(moved.V))
        return (values[0] - values[1]) / (2 * step * getattr(overlaps, name))

    assert slope("V", 1e-3) == pytest.approx(-averages.q_hat / 2, rel=3e-6)
    if overlaps.m:
        assert slope("m", 1e-3) == pytest.approx(-averages.m_hat, rel=3e-6)


def test_frozen_rule_is_smooth():
    """Eighth differences of V_hat along a line vanish to rounding."""
    rule = plane_rule(MODEL, SEMANTIC, 2)
    direction = np.array([1.0, 0.0, 1.0, 0.3])
    line = [SEMANTIC.as_array() * (1 + 1e-4 * j * direction) for j in range(-4, 5)]
    values = [plane_averages(MODEL, Overlaps.from_array(x), rule)[0].V_hat for x in line]
    assert abs(np.diff(values, 8)[0]) < 1e-11 * abs(values[4])


def test_rule_refuses_a_state_without_its_symmetry():
    rule = plane_rule(MODEL, POSITIONAL, 0)
    moved = replace(POSITIONAL, theta=1e-3)
    with pytest.raises(ValueError, match="flip=False"):
        plane_averages(MODEL, moved, rule)
    free = plane_rule(MODEL, POSITIONAL, 0, flip=False)
    assert plane_averages(MODEL, moved, free)[0].theta_hat != 0


@pytest.mark.parametrize(
    ("sigma", "overlaps", "message"),
    [
        (0.5, Overlaps(0.25, 0, 1, 0.25), "function of y"),
        (0.5, Overlaps(1e-8, 0, 20, 0), "almost a function"),
        (0.5, Overlaps(0.08, 0, 80, 0), "V sigma"),
        (1.0, Overlaps(0.4, 0, 15, 0.4), "third well"),
    ],
)
def test_unusable_states_are_refused(sigma, overlaps, message):
    with pytest.raises(PlaneUnusable, match=message):
        plane_rule(AttentionModel.mixture(0.3, sigma), overlaps, 1)


def test_outer_folds_are_seen():
    assert outer_folds(MODEL, POSITIONAL, plane_rule(MODEL, POSITIONAL, 0)) < 1e-12
    model, overlaps = AttentionModel.mixture(0.3, 0.7), Overlaps(0.2, 0, 12, 0.2)
    assert outer_folds(model, overlaps, plane_rule(model, overlaps, 0)) > 1e-10
