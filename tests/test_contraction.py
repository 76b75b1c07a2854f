"""kappa on its regular part: against other integrators, the jump identity, and resolution."""

import numpy as np
import pytest
import reference
from numpy.polynomial.legendre import leggauss
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import norm

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
    grid = problem.grid._replace(cut=7.0)
    sums, _ = module.kernels.contraction_sums(
        y, radius, allowed, problem.state, grid, problem.search
    )
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


def brute_draw(overlaps, r):
    """The same averages at ``y_1 = -y_2``, over the plane of the prox less the hole.

    There both contrasts are equal, and the mirror image in the line ``h_1 = h_2`` changes nothing
    but the density: the hole reaches to where the force across that line vanishes.  Nodes shrink
    towards its tip, where the integrand is singular.
    """
    V, sigma = overlaps.V, MODEL.sigma
    y = teacher_fields(MODEL, np.array(r), np.array(0.0))
    s2 = overlaps.q - overlaps.theta**2 / MODEL.rho
    mu = overlaps.theta / MODEL.rho * y
    T = reference.target(y, MODEL.omega, MODEL.target.A)

    def loss(h):
        return reference.loss(h, T, sigma)

    def at(a, c):  # across the mirror and along it
        return np.stack([c + a, c - a], axis=-1) * np.sqrt(0.5)

    def force(a, c):
        h = at(a, c)
        w = h + V * reference.gradient(loss, h)
        return (w[..., 0] - w[..., 1]) * np.sqrt(0.5)

    def panels(ends, n):
        x, weight = leggauss(n)
        left, right = np.array(ends[:-1])[:, None], np.array(ends[1:])[:, None]
        half = (right - left) / 2
        return ((left + right) / 2 + half * x).ravel(), (half * weight).ravel()

    far = 3.5
    bend = [force(1e-6, c) / 1e-6 for c in (0.0, far)]
    assert bend[1] > 0
    tip = 0.0
    if bend[0] < 0:
        tip = brentq(lambda c: force(1e-6, c), 0.0, far, xtol=1e-14)
    inside, weight_in = panels(np.linspace(0, np.sqrt(tip), 4), 10)
    outside, weight_out = panels(np.linspace(0, np.sqrt(far - tip), 7), 12)
    rows = np.concatenate([tip - inside**2, tip + outside**2])
    weights = np.concatenate([2 * inside * weight_in, 2 * outside * weight_out])
    shares = np.array([0, 1e-4, 1e-3, 5e-3, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0])
    total = np.zeros(4)
    for c, weight in zip(rows, weights, strict=True):
        edge = brentq(lambda a, c=c: force(a, c), 1e-7, far) if c < tip else 0.0
        a, weight_a = panels(edge + (far - edge) * shares, 10)
        for side in (1, -1):
            h = at(side * a, np.full_like(a, c))
            w = h + V * reference.gradient(loss, h)
            H = np.eye(2) + V * reference.hessian(loss, h)
            response = np.linalg.inv(H) - np.eye(2)
            density = np.exp(-((w - mu) ** 2).sum(axis=1) / (2 * s2)) / (2 * np.pi * s2)
            columns = [
                np.ones_like(a),
                -np.trace(response, axis1=1, axis2=2) / V,
                (response**2).sum(axis=(1, 2)),
                -((h - w) * (w - mu)).sum(axis=1) / (V * s2),  # Stein
            ]
            total += 2 * weight * np.array(columns) @ (weight_a * density * np.linalg.det(H))
    mass, slope, square, stein = total
    return {
        "mass": mass,
        "slope": slope,
        "contraction": square,
        "jump_mass": V * (slope - stein),
    }


@pytest.mark.parametrize(
    # short of the onset of the double well, where the prox is one-to-one; a jump; a heavy one
    ("overlaps", "r"),
    [(SEMANTIC, 0.9), (SEMANTIC, 1.6), (Overlaps(0.05, 0, 16.0, 0), 1.5)],
)
def test_one_draw_agrees_with_an_integral_over_the_prox(overlaps, r):
    _, got = one_draw(overlaps, r, 0.0, tolerance=1e-5)
    expected = brute_draw(overlaps, r)
    assert expected["mass"] == pytest.approx(1, abs=1e-7)
    # cells and panels are made for 1e-3 at any tolerance; jumps are located exactly
    assert got["mass"] == pytest.approx(1, abs=2e-4)
    assert got["contraction"] == pytest.approx(expected["contraction"], rel=1e-3)
    assert got["slope"] == pytest.approx(expected["slope"], abs=1e-5)
    assert got["jump_mass"] == pytest.approx(expected["jump_mass"], rel=2e-5, abs=1e-6)
    assert (got["jump_mass"] > 0) == (r > 1)


@pytest.mark.parametrize(
    ("f", "largest"), [(lambda x: 1 / (1 + 6 * x**2), 300), (lambda x: abs(x - 0.3), 100)]
)
def test_geometric_error_is_of_the_right_size(f, largest):
    x, weight = leggauss(12)
    fine, fine_weight = leggauss(400)
    true = abs(weight @ f(x) - fine_weight @ f(fine)) / 2  # on a panel of length 1
    for allowed in (1.0, 0.5):
        estimate = module.kernels.geometric_error(
            f(x)[:, None], module._legendre(12), np.array([allowed])
        )
        assert true / allowed <= estimate <= largest * true / allowed


def test_density_is_that_of_both_mirror_images():
    line = module.kernels.Line((0.4, 0.3), 0.1, 2.3, 18.0, 0.3, 0.2, 0.7, 0.4, -1.0, 1.0, 1.5)
    for a in (-0.4, 0.0, 0.5):
        expected = 0.7 * norm.pdf(a, 0.2, 0.3) + 0.4 * norm.pdf(a, -0.2, 0.3)
        got = module.kernels.density(a, line)
        assert got == pytest.approx(expected * 0.3 * np.sqrt(2 * np.pi), rel=1e-13)


@pytest.mark.parametrize("b", [0.0, 0.05, -0.1])
def test_wells_touch_where_their_energies_are_equal(b):
    t, V = (0.45, 0.25), 25.0
    line = module.kernels.Line(t, b, V * MODEL.rho / 2, V, 0.3, 0.2, 1, 1, -1.0, 1.0, 1.5)
    wells = [(side * 0.5, 0.0, 0.0, 0.0, 1.0) for side in (-1, 1)]
    *ends, found = module.kernels.touch(*wells, line)
    assert found
    T = np.array([[1 + t[0], 1 - t[0]], [1 - t[1], 1 + t[1]]]) / 2
    energies = []
    for U, W, a, _, bend in ends:
        h = np.array([W + U, W - U]) * np.sqrt(0.5)
        w = np.array([b + a, b - a]) * np.sqrt(0.5)
        gradient = h - w + V * reference.gradient(lambda x: reference.loss(x, T, MODEL.sigma), h)
        np.testing.assert_allclose(gradient, 0, atol=1e-9)
        assert bend > 0
        energies.append(reference.objective(h, w, T, V, MODEL.sigma))
    assert ends[0][0] < 0 < ends[1][0]
    assert ends[0][2] == pytest.approx(ends[1][2], abs=1e-10)
    assert energies[0] == pytest.approx(energies[1], abs=1e-10)
    assert not module.kernels.touch(wells[1], wells[1], line)[2]


@pytest.mark.parametrize("seed", range(5))
def test_the_jump_without_a_counterpart_is_found(seed):
    rng = np.random.default_rng(seed)
    many = np.column_stack([np.sort(rng.normal(size=4)), rng.uniform(1, 2, 4), np.ones(4)])
    gone = rng.integers(4)
    few = np.delete(many, gone, axis=0) + 1e-3 * rng.standard_normal((3, 3))
    assert module.kernels.odd_one(many, 4, few, 3) == gone
    # where more than one is missing, the smallest
    assert module.kernels.odd_one(many, 4, few, 1) == many[:, 1].argmin()


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
