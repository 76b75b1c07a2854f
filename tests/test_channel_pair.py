"""Two rules for one average: agreement, error estimates, hand-over, kernels against twins."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.polynomial.legendre import leggauss
from scipy.spatial import ConvexHull

from gamp_theory.channel import jumps_kernels, search_kernels
from gamp_theory.channel import slices as slices_module
from gamp_theory.channel import slices_kernels as kernels
from gamp_theory.channel.contraction import contraction
from gamp_theory.channel.outer import Counts
from gamp_theory.channel.pair import PairChannel, _shared, _sizes
from gamp_theory.channel.plane import Resolution, plane_averages, plane_rule
from gamp_theory.channel.slices import _candidates, _search_grid, slice_averages, slice_rule
from gamp_theory.channel.sobol import sobol_averages
from gamp_theory.model import AttentionModel
from gamp_theory.overlaps import Overlaps

MODEL = AttentionModel.mixture()
LOPSIDED = AttentionModel.mixture(0.14, 0.5, ((0.3, 0.7), (0.8, 0.2)))
SEMANTIC = Overlaps(0.0816248, 0, 18.3211, 0.117926)
POSITIONAL = Overlaps(0.0471005, 0.252411, 14.9034, 0)
MIXED = Overlaps(0.06, 0.15, 15, 0.07)
UNINFORMED = Overlaps(0.05, 0, 12, 0)
CASES = [(MODEL, SEMANTIC), (MODEL, POSITIONAL), (MODEL, MIXED), (LOPSIDED, SEMANTIC),
         (LOPSIDED, MIXED), (MODEL, UNINFORMED)]  # fmt: skip


def relative(got, expected):
    """Largest error of the averages that are not 0, relative.

    That of d loss/d omega is against the loss; those of slopes, which differ in sign from one
    state to another, against V_hat.
    """
    got, expected = got.as_array(), expected.as_array()
    scale = abs(expected)
    scale[5] = max(scale[5], 0.3 * scale[4])
    scale[6:] = np.maximum(scale[6:], scale[2] / np.array([1, MODEL.rho]))
    return (abs(got - expected)[scale > 0] / scale[scale > 0]).max()


def standardised(estimate, expected, tolerance):
    """Deviations of a Sobol estimate in standard errors, components that are 0 aside."""
    error = np.hypot(estimate.standard_error.as_array(), tolerance * abs(expected.as_array()))
    used = expected.as_array() != 0
    return ((estimate.averages.as_array() - expected.as_array()) / error)[used]


# ------------------------------------------------------------------------------ agreement


@pytest.mark.parametrize(("model", "overlaps"), CASES)
def test_plane_and_slices_agree(model, overlaps):
    plane, _ = plane_averages(model, overlaps, plane_rule(model, overlaps, 4))
    slices, report = slice_averages(model, overlaps, slice_rule(model, overlaps, 1e-5))
    assert relative(slices, plane) < 3e-5
    assert report.mass == pytest.approx(1, abs=1e-6)
    assert report.unresolved < 1e-6


@pytest.mark.parametrize(
    ("sigma", "overlaps"),
    [(0.5, Overlaps(0.1833, 0, 31.2, 0.2066)), (0.7, Overlaps(0.24306, 0, 12.7, 0.3263))],
)
def test_narrow_fields_are_resolved(sigma, overlaps):
    """Where w moves by three of its widths with y, holes need more draws than elsewhere."""
    model = AttentionModel.mixture(0.3, sigma)
    rule = plane_rule(model, overlaps, 3)
    plane, _ = plane_averages(model, overlaps, rule)
    slices, _ = slice_averages(model, overlaps, slice_rule(model, overlaps, 1e-5))
    assert relative(plane, slices) < 5e-6
    wide = Resolution.of_level(3)
    assert rule.resolution.angles > 1.5 * wide.angles
    assert rule.resolution.radii > 1.5 * wide.radii


def test_too_few_teacher_draws_show_in_the_error(monkeypatch):
    """What more draws would change is measured, along either axis, and is in the error bars."""
    model, overlaps = AttentionModel.mixture(0.3, 1.0), Overlaps(0.642, 0, 30.7, 0)
    fine = slice_rule(model, overlaps, 1e-4, counts=Counts(20, 10))
    exact = slice_averages(model, overlaps, fine)[0].as_array()
    monkeypatch.setattr(slices_module, "OUTER_SHARE", 1e9)
    few = slice_rule(model, overlaps, 1e-4)
    assert few.counts.U < 14
    wrong = abs(slice_averages(model, overlaps, few)[0].as_array() - exact)
    present = np.flatnonzero(exact[:6])  # q_hat, V_hat, the loss and its derivative in omega
    assert max(wrong[present] / abs(exact[present])) > 3e-4
    assert np.all(wrong[present] < 2 * few.outer_error[present] + 3e-4 * abs(exact[present]))
    monkeypatch.setattr(slices_module, "OUTER_SHARE", 1.0)
    enough = slice_rule(model, overlaps, 1e-4)
    assert enough.counts.U >= 14
    assert np.all(enough.outer_error[[0, 2]] < 2.5e-4 * abs(exact[[0, 2]]))


@pytest.mark.parametrize(("q", "V", "omega"), [(0.0055, 28.2, 0.25), (0.0033, 25.5, 0.456)])
def test_long_holes_are_resolved(q, V, omega, monkeypatch):
    """Where q is small, chords are 30 widths of the density long: 80 nodes miss their ends."""
    model, overlaps = AttentionModel.mixture(omega), Overlaps(q, 0, V, 0)
    rule = plane_rule(model, overlaps, 4)
    plane, seen = plane_averages(model, overlaps, rule)
    slices, _ = slice_averages(model, overlaps, slice_rule(model, overlaps, 1e-4))
    assert relative(slices, plane) < 2e-4
    assert abs(seen.holes_mass) < 2e-6
    # too few nodes are noticed, although every level of the rule errs alike
    assert rule.hole_counts.max() > 80
    short, seen = plane_averages(
        model, overlaps, replace(rule, hole_counts=np.minimum(rule.hole_counts, 80))
    )
    assert relative(short, plane) > 3e-4
    wrong = abs(short.as_array() - plane.as_array())
    assert np.all(wrong <= _shared(seen) * _sizes(model, plane.as_array()))
    assert PairChannel(model).plane(overlaps, 1e-3) is not None


@pytest.mark.parametrize(("model", "overlaps"), [(MODEL, POSITIONAL), (LOPSIDED, MIXED)])
def test_sobol_agrees(model, overlaps):
    averages = PairChannel(model).rule(overlaps, 1e-5).averages(overlaps)
    estimate = sobol_averages(model, overlaps, samples=2**10, scrambles=16, seed=3)
    assert estimate.prox_failures == 0
    assert abs(standardised(estimate, averages, 1e-5)).max() < 4.5


# ------------------------------------------------------------------------------- freezing


@pytest.mark.parametrize("kind", ["plane", "slices"])
def test_frozen_rule_is_smooth(kind):
    """Central differences converge: d(E M)/dV = -q_hat/2 and d(E M)/dm = -m_hat."""
    channel = PairChannel(MODEL)
    rule = channel.rule(MIXED, 1e-6) if kind == "plane" else channel.slices(MIXED, 1e-5)
    assert rule.kind == kind
    averages = rule.averages(MIXED)
    for name, expected in (("V", -averages.q_hat / 2), ("m", -averages.m_hat)):
        slopes = []
        for step in (2e-2, 1e-2, 1e-3):
            at = [
                replace(MIXED, **{name: getattr(MIXED, name) * (1 + sign * step)})
                for sign in (1, -1)
            ]
            up, down = (rule.averages(x).envelope(x.V) for x in at)
            slopes.append((up - down) / (2 * step * getattr(MIXED, name)))
        assert slopes[2] == pytest.approx(expected, rel=1e-4)
        # errors of second order in the step
        richardson = (4 * slopes[1] - slopes[0]) / 3
        assert abs(richardson - slopes[2]) < 0.3 * abs(slopes[0] - slopes[2]) + 2e-5 * abs(expected)


def test_a_frozen_rule_repeats_itself():
    rule = PairChannel(MODEL).rule(SEMANTIC, 1e-5)
    assert rule.averages(SEMANTIC) == rule.averages(SEMANTIC)
    assert rule.at == SEMANTIC


def ordinary_state(seed):
    """A model and overlaps of any branch, such as the plane rule meets every day."""
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(size=2)
    A = ((a, 1 - a), (1 - b, b)) if seed % 2 else ((0.6, 0.4), (0.4, 0.6))
    q = rng.uniform(0.03, 0.15)
    m, theta = rng.uniform(0.05, 0.3), rng.uniform(0.2, 0.9) * 0.5 * math.sqrt(q)
    overlaps = Overlaps(q, m * (seed % 3 != 0), rng.uniform(6, 20), theta * (seed % 3 != 1))
    return AttentionModel.mixture(rng.uniform(0, 0.6), 0.5, A), overlaps


def test_estimated_errors_bound_the_true_ones():
    """In max norm over the averages, at every state and tolerance; and not by orders too much."""
    ratios = []
    for model, overlaps in [*CASES, *map(ordinary_state, range(12))]:
        best, _ = plane_averages(model, overlaps, plane_rule(model, overlaps, 6))
        for tol in (1e-4, 1e-5, 1e-6):
            rule = PairChannel(model).rule(overlaps, tol)
            if rule.kind != "plane" or rule.nodes.level == 6:
                continue  # jumps far out: not ordinary, and nothing finer to compare with
            averages = rule.averages(overlaps)
            shifted = averages.as_array() + rule.error(overlaps, averages).as_array()
            claimed = relative(type(averages).from_array(shifted), averages)
            assert claimed < 300 * tol
            ratios.append(claimed / relative(averages, best))
    assert len(ratios) > 45
    assert min(ratios) > 1
    assert np.median(ratios) < 30


def test_estimated_error_of_slices_bounds_the_true_one():
    rule = PairChannel(MODEL).slices(POSITIONAL, 1e-4)
    averages = rule.averages(POSITIONAL)
    best, _ = plane_averages(MODEL, POSITIONAL, plane_rule(MODEL, POSITIONAL, 5))
    estimate = rule.error(POSITIONAL, averages)
    shifted = type(averages).from_array(averages.as_array() + estimate.as_array())
    assert relative(averages, best) <= relative(shifted, averages)
    assert relative(averages, best) < 3e-4


def test_symmetry_may_be_left_only_by_a_rule_that_was_told():
    rule = PairChannel(MODEL).rule(POSITIONAL, 1e-4, even=False)
    off = replace(POSITIONAL, theta=1e-3)
    assert not rule.even
    forth, back = rule.averages(off), rule.averages(replace(off, theta=-1e-3))
    assert forth.theta_hat == pytest.approx(-back.theta_hat, rel=1e-6)
    assert forth.q_hat == pytest.approx(back.q_hat, rel=1e-8)


@pytest.mark.parametrize("rule", ["plane", "slices"])
def test_signs_of_the_overlaps(rule):
    """``m -> -m`` and ``theta -> -theta`` change the sign of their conjugates and nothing else."""
    channel = PairChannel(LOPSIDED)
    make = channel.rule if rule == "plane" else channel.slices
    plus = make(MIXED, 1e-4).averages(MIXED)
    for name in ("m", "theta"):
        at = replace(MIXED, **{name: -getattr(MIXED, name)})
        minus = make(at, 1e-4).averages(at)
        expected = replace(plus, **{name + "_hat": -getattr(plus, name + "_hat")})
        assert relative(minus, expected) < 3e-4


contrast = st.floats(0.05, 0.95)
states = st.builds(
    lambda q, m, V, share: Overlaps(q, m, V, share * math.sqrt(MODEL.rho * q)),
    st.floats(0.02, 0.2),
    st.sampled_from([0.0, 0.1, -0.25]),
    st.floats(1.0, 12.0),
    st.sampled_from([0.0, 0.5, -0.8]),
)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(states, contrast, contrast, st.floats(0.0, 0.9))
def test_symmetries_of_the_averages(overlaps, first, second, omega):
    """Exchange of the tokens, signs of the overlaps, and subspaces that are not left."""
    A = ((first, 1 - first), (second, 1 - second))
    model = AttentionModel.mixture(omega=omega, A=A)
    found = PairChannel(model).rule(overlaps, 1e-4).averages(overlaps)
    if overlaps.m == 0:
        assert found.m_hat == 0
    if overlaps.theta == 0:
        assert found.theta_hat == 0
    # token 2 becomes token 1: its row of A is read backwards, and m changes sign
    exchanged = AttentionModel.mixture(omega=omega, A=tuple(row[::-1] for row in A[::-1]))
    for other, sign_m, sign_theta in ((exchanged, -1, 1), (model, -1, 1), (model, 1, -1)):
        at = replace(overlaps, m=sign_m * overlaps.m, theta=sign_theta * overlaps.theta)
        again = PairChannel(other).rule(at, 1e-4).averages(at)
        expected = replace(
            found, m_hat=sign_m * found.m_hat, theta_hat=sign_theta * found.theta_hat
        )
        assert relative(again, expected) < 1e-3


# ------------------------------------------------------------------------------ hand-over


@pytest.mark.parametrize(
    ("sigma", "overlaps"),
    [
        (0.5, Overlaps(0.08, 0, 80, 0)),  # V sigma**2/2 = 10
        (1.0, Overlaps(0.4, 0, 15, 0.4)),  # jumps far from the origin carry weight
        (0.5, Overlaps(0.25, 0, 1, 0.25)),  # the student is the teacher: w is a function of y
    ],
)
def test_slices_take_over_where_the_plane_can_not(sigma, overlaps):
    model = AttentionModel.mixture(0.3, sigma)
    rule = PairChannel(model).rule(overlaps, 1e-2)
    assert rule.kind == "slices"
    averages = rule.averages(overlaps)
    estimate = sobol_averages(model, overlaps, samples=2**10, scrambles=8, seed=1)
    # V_hat is left out: at V = 80 the jumps cancel it, and at Q = Q* Sobol divides by zero width
    for name in ("q_hat", "loss"):
        allowed = 4 * getattr(estimate.standard_error, name) + 0.03 * getattr(averages, name)
        assert abs(getattr(averages, name) - getattr(estimate.averages, name)) < allowed


def test_the_plane_serves_ordinary_states():
    for overlaps in (SEMANTIC, POSITIONAL, MIXED):
        assert PairChannel(MODEL).rule(overlaps, 1e-5).kind == "plane"


@pytest.mark.parametrize(("overlaps", "rel"), [(SEMANTIC, 3e-3), (POSITIONAL, 5e-4)])
def test_jump_mass_is_the_defect_of_pointwise_derivatives(overlaps, rel):
    """V (slope - V_hat) is a difference of two numbers, slope good to about 1e-6; J is direct."""
    regular = contraction(MODEL, overlaps, 1e-4)
    averages, _ = plane_averages(MODEL, overlaps, plane_rule(MODEL, overlaps, 6))
    defect = overlaps.V * (regular.slope - averages.V_hat)
    assert regular.jump_mass == pytest.approx(defect, rel=rel)
    assert regular.jump_mass_error < 1e-3 * regular.jump_mass


@pytest.mark.parametrize("overlaps", [SEMANTIC, POSITIONAL])
def test_slices_see_the_same_jumps_with_their_slope_as_on_their_way(overlaps):
    """Both from one rule, which leaves out the shortest jumps of either: up to 4 % at this tol."""
    averages, report = slice_averages(MODEL, overlaps, slice_rule(MODEL, overlaps, 1e-4))
    defect = overlaps.V * (report.slope - averages.V_hat)
    assert report.jump_mass == pytest.approx(defect, rel=2e-3)


# ------------------------------------------------------------- slice kernels against twins


T = (0.45, 0.25)  # contrasts of a target with a large hole at V = 25
V = 25.0
K = V * MODEL.rho / 2
MATRIX = np.array([[1 + T[0], 1 - T[0]], [1 - T[1], 1 + T[1]]]) / 2


def rotated(U, W):
    return np.stack([np.asarray(W + U), np.asarray(W - U)], axis=-1) * math.sqrt(0.5)


def naive_energy(x):
    """``A(U, W) = (U**2 + W**2)/2 + V loss``; complex arguments give derivatives."""
    U, W = x[..., 0], x[..., 1]
    return (U * U + W * W) / 2 + V * reference.loss(rotated(U, W), MATRIX, MODEL.sigma)


def test_tanh():
    z = np.concatenate([np.linspace(-25, 25, 2001), [-1e300, 1e300, 0.0]])
    got = [search_kernels.tanh(value) for value in z]
    np.testing.assert_allclose(got, [math.tanh(value) for value in z], rtol=0, atol=4.5e-16)


@pytest.mark.parametrize("point", [(0.3, 0.7), (-1.2, 0.4), (0.0, 0.0), (2.5, -2.0)])
def test_energy_gradient_and_hessian(point):
    x = np.array(point)
    A, A_U, A_W, A_UU, A_UW, A_WW, s1, s2 = search_kernels.energy(*point, *T, K)
    assert pytest.approx(naive_energy(x), rel=1e-12, abs=1e-13) == A
    gradient = reference.complex_step(naive_energy, x)
    np.testing.assert_allclose([A_U, A_W], gradient, rtol=1e-11, atol=1e-13)
    step = 1e-5
    columns = [
        reference.complex_step(naive_energy, x + step * e)
        - reference.complex_step(naive_energy, x - step * e)
        for e in np.eye(2)
    ]
    np.testing.assert_allclose([[A_UU, A_UW], [A_UW, A_WW]], np.array(columns) / (2 * step),
                               rtol=1e-7, atol=1e-8)  # fmt: skip
    np.testing.assert_allclose([s1, s2], reference.contrasts(reference.softmax(rotated(*point))),
                               atol=1e-14)  # fmt: skip


def test_settle_minimises_over_W_and_differentiates():
    U, b, step = 0.8, 0.2, 1e-5
    W, B, a, dW, curvature, ok = search_kernels.settle(U, 0.3, b, T, K)
    assert ok
    line = np.linspace(W - 0.5, W + 0.5, 2001)
    values = naive_energy(np.stack([np.full_like(line, U), line], -1)) - b * line
    assert values.min() >= B - 1e-12
    assert pytest.approx(naive_energy(np.array([U, W])) - b * W, abs=1e-13) == B
    up, down = (search_kernels.settle(U + sign * step, W, b, T, K) for sign in (1, -1))
    assert (up[0] - down[0]) / (2 * step) == pytest.approx(dW, rel=1e-7)
    assert (up[1] - down[1]) / (2 * step) == pytest.approx(a, abs=1e-8)
    assert (up[2] - down[2]) / (2 * step) == pytest.approx(curvature, rel=1e-7)


@pytest.mark.parametrize("b", [0.0, 0.05, -0.1])
def test_bitangent_is_where_the_global_prox_jumps(b):
    direction = np.array([0.5, 0.0])
    UL, WL, UR, WR, a, ok = jumps_kernels.bitangent(-direction[0], 0.0, direction[0], 0.0, b, T, K)
    assert ok
    left, right = (search_kernels.energy(U, W, *T, K) for U, W in ((UL, WL), (UR, WR)))
    np.testing.assert_allclose([left[1], left[2]], [a, b], atol=1e-9)  # equal gradients
    np.testing.assert_allclose([right[1], right[2]], [a, b], atol=1e-9)
    energy = [f[0] - a * U - b * W for f, U, W in ((left, UL, WL), (right, UR, WR))]
    assert energy[0] == pytest.approx(energy[1], abs=1e-10)
    # brute force on either side of the jump
    for shift, expected in ((-2e-3, (UL, WL)), (2e-3, (UR, WR))):
        h = reference.prox(rotated(a + shift, b), MATRIX, V, MODEL.sigma)
        np.testing.assert_allclose(h, rotated(*expected), atol=5e-3)


@pytest.mark.parametrize("seed", range(20))
def test_lower_hull(seed):
    random = np.random.default_rng(seed)
    x = np.sort(random.normal(size=60))
    f = x**2 + 0.5 * random.normal(size=60)
    stack = np.empty(60, np.int64)
    size = search_kernels.lower_hull(x, f, 60, stack)
    hull = ConvexHull(np.stack([x, f], axis=-1))
    below = hull.equations[:, 1] < 0  # facets whose outward normal points down
    assert set(stack[:size].tolist()) == set(hull.simplices[below].ravel().tolist())
    assert np.all(np.diff(stack[:size]) > 0)


def legendre(n):
    x, w = leggauss(n)
    return np.polynomial.legendre.legvander(x, n - 1).T * w * (np.arange(n)[:, None] + 0.5)


@pytest.mark.parametrize("shape", ["runge", "kink", "end", "exp", "polynomial"])
def test_panel_error_is_of_the_right_size(shape):
    f, tolerated = {
        "runge": (lambda x: 1 / (1 + 6 * x**2), (1, 300)),
        "kink": (lambda x: abs(x - 0.3), (1, 100)),
        "end": (lambda x: (1 + x) ** 1.5, (1, 100)),
        "exp": (lambda x: np.exp(x), (0, 1e-9)),
        "polynomial": (lambda x: 1 + x**3, (0, 1e-13)),
    }[shape]
    x, w = leggauss(12)
    fine, weights = leggauss(400)
    true = abs(w @ f(x) - weights @ f(fine))
    estimate = kernels.panel_error(f(x)[:, None], 2.0, legendre(12), np.array([1.0]))
    if shape in ("runge", "kink", "end"):
        assert tolerated[0] * true <= estimate <= tolerated[1] * true
    else:
        assert true <= estimate + 1e-12 <= tolerated[1] + 1e-12
    halved = kernels.panel_error(f(x)[:, None], 2.0, legendre(12), np.array([0.5]))
    assert halved == pytest.approx(2 * estimate)
    assert kernels.panel_error(f(x)[:, None], 2.0, legendre(12), np.array([0.0])) == 0


def test_a_well_that_is_not_on_the_hull():
    """A grid that takes a shallow well for a vertex of the hull gives what a finer one gives."""
    model = AttentionModel.mixture(omega=0.7287589, sigma=0.5884646)
    overlaps = Overlaps(q=0.112878, m=0.0, V=108.2234, theta=0.0)
    rule = slice_rule(model, overlaps, 1e-4)
    y = np.array([[0.005, 0.003]])
    radius, ends = np.array([rule.radius.max()]), np.array([[2.6, 2.7]])
    coarse, fine = (
        kernels.frozen_averages(
            y, radius, ends, np.array([1]), rule.state, rule.grid, _search_grid(9.0, step)
        )[0]
        for step in (0.13, 0.02)
    )
    # the probability mass of the slices is right either way
    np.testing.assert_allclose(coarse[:10], fine[:10], rtol=1e-5)


def test_search_radius_holds_the_prox():
    random = np.random.default_rng(5)
    state = kernels.SliceState(MODEL.rho / 2, V, 0.3, 0.2, 0.2, 0.1, 0.5, 0.2)
    cut, y = 5.0, np.array([0.4, -0.3])
    (radius,) = kernels.search_radii(y[None], state, cut, _candidates())
    room = math.sqrt(cut**2 - (y @ y) / MODEL.rho)
    target = reference.target(y, 0.3, MODEL.target.A)
    mean = state.tilt * y + state.m * np.array([1, -1])
    for _ in range(12):
        direction = random.normal(size=2)
        w = mean + state.s * room * random.uniform() * direction / np.linalg.norm(direction)
        prox = reference.prox(w, target, V, MODEL.sigma, points=81)
        assert np.linalg.norm(prox - w) <= radius


# -------------------------------------------------------------------- without compilation

TINY = """
import math
import numpy as np
from gamp_theory.channel import hole_kernels, jumps_kernels, plane_kernels, unstable_kernels
from gamp_theory.channel import slices_kernels as kernels
from gamp_theory.channel.slices import _candidates, _legendre, _search_grid
from gamp_theory.numerics.quadrature import gauss_legendre, trapezoid_normal

state = kernels.SliceState(0.125, 18.0, 0.3, 0.2, 0.2, 0.1, 0.4, 0.15)
zeta, panel, cell = trapezoid_normal(1.0, 3.0), gauss_legendre(4, 0, 1), gauss_legendre(3, 0, 1)
grid = kernels.SliceGrid(zeta.nodes, zeta.weights, panel.nodes, panel.weights, 4.5, _legendre(4),
                         cell.nodes, cell.weights, 4.0, 3.0, 1e-3, False)
y = np.array([[0.5, -0.2], [0.9, -0.6]])
radius = kernels.search_radii(y, state, 4.0, _candidates())
search = _search_grid(3.0, 0.2)
tolerance = np.full((2, len(kernels.OUTPUTS)), 1e-2)
averages, ends, panels = kernels.refined_averages(y, radius, tolerance, state, grid, search)
frozen = kernels.frozen_averages(y, radius, ends, panels, state, grid, search)
t, k = (0.35, 0.25), 2.3
e1, e2, strength = unstable_kernels.unstable_direction(*t)
p1, p2, ok = hole_kernels.origin_well(*t, e1, e2, k)
rows = np.empty((6, 12))
marched = hole_kernels.march(t, (e1, e2, p1, p2, 0.5, True), np.linspace(0.1, 1.2, 6), k, rows)
exponential = [plane_kernels.exp_clamped(x) for x in (-70.0, -3.3, 0.0)]
jump = jumps_kernels.bitangent(-0.5, 0.0, 0.5, 0.0, 0.05, t, k)
result = np.concatenate([radius, panels, averages.ravel(), frozen.ravel(), rows.ravel(),
                         [e1, e2, strength, p1, p2, float(ok), marched], exponential,
                         [float(x) for x in jump]])
"""


def test_kernels_do_the_same_uncompiled():
    here: dict = {}
    exec(TINY, here)
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", TINY + "print(*map(float.hex, result.tolist()))"],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    plain = np.array([float.fromhex(word) for word in run.stdout.split()])
    assert abs(here["averages"]).max() > 0.1
    np.testing.assert_allclose(plain, here["result"], rtol=1e-9, atol=1e-11)
