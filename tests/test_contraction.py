"""kappa on its regular part: against other integrators, the jump identity, and resolution."""

import numpy as np
import pytest
from scipy.integrate import quad

from gamp_theory.channel import contraction as module
from gamp_theory.channel.contraction import contraction
from gamp_theory.channel.outer import teacher_fields
from gamp_theory.model import AttentionModel
from gamp_theory.overlaps import Overlaps

MODEL = AttentionModel.mixture(omega=0.3, sigma=0.5)
SEMANTIC = Overlaps(0.0816248, 0, 18.3211, 0.117926)
POSITIONAL = Overlaps(0.0471005, 0.252411, 14.9034, 0)
SMOOTH = Overlaps(0.114817, 0, 12.6684, 0.158159)


def one_draw(overlaps, r, phi, tolerance=1e-3):
    problem = module._Problem.make(MODEL, overlaps, 1e-4)
    y = teacher_fields(MODEL, np.array([r]), np.array([phi]))
    allowed = np.array([[0, 0, tolerance, 0.1 * tolerance, 0]])
    radius = problem.search_radius(np.array([r]), phi)
    table = module._table(problem.points, problem.step)
    grid = problem.grid._replace(cut=7.0)
    sums, _ = module.kernels.contraction_sums(y, radius, allowed, problem.state, grid, table)
    return y[0], dict(zip(module.kernels.OUTPUTS, sums[0], strict=True))


@pytest.mark.parametrize(
    ("r", "value", "rel"),
    # nested adaptive quadrature in the plane of w, prox by a global scan and Newton's method:
    # no jump but a steep prox, and a Maxwell curve with both cusps in the window (good to 2e-3)
    [(1.2, 0.655342, 1e-3), (1.6, 0.38018, 4e-3)],
)
def test_one_draw_agrees_with_an_integral_over_the_cavity_field(r, value, rel):
    _, sums = one_draw(SEMANTIC, r, 0.2)
    assert sums["mass"] == pytest.approx(1, abs=1e-4)
    assert sums["contraction"] == pytest.approx(value, rel=rel)
    assert sums["unresolved"] < 1e-6


def test_one_draw_without_jumps_agrees_with_the_plane_of_the_prox():
    # r = 0.9 is short of the onset: the prox is one-to-one, and w = h + V grad loss(h)
    y, sums = one_draw(SEMANTIC, 0.9, 0.2)
    s2 = SEMANTIC.q - SEMANTIC.theta**2 / MODEL.rho
    mean = SEMANTIC.theta / MODEL.rho * y
    k = SEMANTIC.V * MODEL.rho / 2
    axis = np.linspace(-2.6, 2.6, 1301)
    h1, h2 = np.meshgrid(axis, axis, indexing="ij")
    s = np.tanh(h1 * (h1 - h2) / 2), np.tanh(h2 * (h2 - h1) / 2)
    contrast = np.tanh(y[0] * (y[0] - y[1]) / 2), np.tanh(y[1] * (y[1] - y[0]) / 2)
    A = 0.5 * (h1**2 + h2**2)
    for s_k, t_k, a_k in zip(s, contrast, MODEL.target.contrasts, strict=True):
        A = A + 0.5 * k * (s_k - (1 - MODEL.omega) * t_k - MODEL.omega * a_k) ** 2
    step = axis[1] - axis[0]
    w1, w2 = np.gradient(A, step, edge_order=2)
    (H11, H12), (_, H22) = np.gradient(w1, step), np.gradient(w2, step)
    det = H11 * H22 - H12**2
    square = (H22 / det - 1) ** 2 + (H11 / det - 1) ** 2 + 2 * (H12 / det) ** 2
    density = np.exp(-((w1 - mean[0]) ** 2 + (w2 - mean[1]) ** 2) / (2 * s2)) / (2 * np.pi * s2)
    weight = density * det * step**2
    assert weight.sum() == pytest.approx(1, abs=1e-4)
    assert sums["contraction"] == pytest.approx((weight * square).sum(), rel=1e-3)


def test_nodes_that_crowd_integrate_the_two_singularities():
    # what the panels assume: eps**(-1/2) in b and log(eps) in the radius
    panel = module._Panel(0.0, 1.0, 0.5, 2.0, True, False)
    nodes, jacobian = panel.nodes(module.gauss_legendre(8, 0, 1).nodes)
    weights = module.gauss_legendre(8, 0, 1).weights * jacobian
    assert weights @ (nodes - 0.5) ** -0.5 == pytest.approx(2 * 1.5**0.5, rel=1e-12)
    exact, _ = quad(lambda r: np.exp(-r) * np.log(r - 0.5), 0.5, 2.0)
    assert weights @ (np.exp(-nodes) * np.log(nodes - 0.5)) == pytest.approx(exact, rel=2e-3)


def test_halves_of_a_panel_cover_it():
    for lower in (False, True):
        for upper in (False, True):
            panel = module._Panel(0.0, 1.0, 1.0, 3.0, lower, upper)
            left, right = panel.halves()
            assert (left.lo, right.hi) == (1.0, 3.0)
            assert left.hi == right.lo
            assert (left.lower, left.upper, right.lower, right.upper) == (lower, 0, 0, upper)


def test_state_without_jumps():
    # alpha = 2: jumps are rarer than 1e-6, and kappa = 2 x this
    result = contraction(MODEL, SMOOTH)
    assert 2 * result.value == pytest.approx(0.24353, rel=1e-3)
    assert result.jump_mass < 1e-6
    assert result.error < 4e-3 * result.value


@pytest.mark.parametrize(
    ("overlaps", "value", "jump_mass", "V_hat"),
    # value and jump mass at tol = 2e-5; V_hat (Stein) from the ordinary slice rule at 1e-5
    [
        (SEMANTIC, 0.29619, 0.007418, 0.01166535),
        (POSITIONAL, 0.38130, 0.047356, 0.02167885),
    ],
)
def test_states_with_jumps(overlaps, value, jump_mass, V_hat):
    result = contraction(MODEL, overlaps)
    assert result.value == pytest.approx(value, rel=1.5e-3)
    assert result.error < 5e-3 * value
    assert result.jump_mass == pytest.approx(jump_mass, rel=1e-3)
    assert result.jump_mass_error < 1e-2 * jump_mass
    assert result.unresolved < 1e-6
    # J = V (slope - V_hat), exactly; the difference loses digits
    assert result.slope == pytest.approx(V_hat + result.jump_mass / overlaps.V, rel=3e-4)


def test_error_covers_what_is_lost_by_a_low_resolution():
    rough = contraction(MODEL, POSITIONAL, 1e-2)
    assert abs(rough.value - 0.38130) < max(rough.error, 5e-3 * 0.3813)


def test_symmetric_states_agree():
    mirrored = Overlaps(POSITIONAL.q, -POSITIONAL.m, POSITIONAL.V, 0)
    assert contraction(MODEL, mirrored).value == pytest.approx(
        contraction(MODEL, POSITIONAL).value, rel=1e-3
    )


@pytest.mark.parametrize("tol", [0.1, 1e-6, float("nan")])
def test_tolerance_out_of_range(tol):
    with pytest.raises(ValueError, match="tol must be between"):
        contraction(MODEL, SMOOTH, tol)
