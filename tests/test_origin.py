"""The solution Q = 0 against brute quadrature, closed forms, and the prox it rests on."""

import math

import numpy as np
import pytest
from reference import contrasts, loss, target

from gamp_theory.channel.origin import (
    instability_bound,
    origin_averages,
    origin_exists,
    solve_origin,
)
from gamp_theory.model import AttentionModel
from gamp_theory.overlaps import Conjugates
from gamp_theory.prior import prior_overlaps

SECOND = ((0.3, 0.7), (0.8, 0.2))
MODELS = [
    AttentionModel.mixture(0.3, 0.5),
    AttentionModel.mixture(0.0, 0.7),
    AttentionModel.mixture(0.14, 0.5, SECOND),
    AttentionModel.mixture(0.6, 1.0, ((0.1, 0.9), (0.95, 0.05))),
]


def draws(model, n=90):
    """Gauss-Hermite nodes of the teacher's fields, with T and the Hessian of the loss at h = 0."""
    x, w = np.polynomial.hermite_e.hermegauss(n)
    y = model.sigma * np.stack(np.meshgrid(x, x, indexing="ij"), axis=-1).reshape(-1, 2)
    weight = np.outer(w, w).ravel() / w.sum() ** 2
    keep = weight > 1e-18
    y, weight = y[keep], weight[keep]
    T = target(y, model.omega, model.target.A)
    return y, weight, T


def hessian(T, sigma, step=1e-3):
    """Fourth-order central differences of the naive loss at the origin, shape (n, 2, 2)."""

    def value(h1, h2):
        return loss(np.broadcast_to([h1, h2], (len(T), 2)), T, sigma)

    def second(e1, e2):
        d = [value(k * step * e1, k * step * e2) for k in (-2, -1, 0, 1, 2)]
        return (-d[0] + 16 * d[1] - 30 * d[2] + 16 * d[3] - d[4]) / (12 * step**2)

    h11, h22 = second(1, 0), second(0, 1)
    h12 = (second(1, 1) - second(1, -1)) / 4
    return np.stack([np.stack([h11, h12], -1), np.stack([h12, h22], -1)], -2)


def push(T, w, V, sigma):
    """``g = (prox - w)/V`` for small fields w, shape (n, 2), by Newton's method from 0."""
    t1, t2 = contrasts(T).T
    c = sigma**2 / 2
    h = np.zeros_like(w)
    H = hessian(T, sigma)
    for _ in range(30):
        h1, h2 = h.T
        s1, s2 = np.tanh(h1 * (h1 - h2) / 2), np.tanh(h2 * (h2 - h1) / 2)
        r1, r2 = c * (s1 - t1) * (1 - s1**2), c * (s2 - t2) * (1 - s2**2)
        gradient = np.stack([r1 * (h1 - h2 / 2) - r2 * h2 / 2, r2 * (h2 - h1 / 2) - r1 * h1 / 2], 1)
        step = np.linalg.solve(np.eye(2) + V * H, (h - w + V * gradient)[..., None])[..., 0]
        h = h - step
    return (h - w) / V


@pytest.mark.parametrize("model", MODELS, ids=repr)
@pytest.mark.parametrize("fraction", [0.0, 0.4, 0.8])
def test_averages_are_those_of_brute_quadrature(model, fraction):
    V = fraction * instability_bound(model)
    _, weight, T = draws(model)
    H = hessian(T, model.sigma)
    B = H @ np.linalg.inv(np.eye(2) + V * H)
    averages, errors = origin_averages(model, V)
    # The differences that give H are good to 1e-9.
    assert averages.V_hat == pytest.approx(weight @ np.trace(B, axis1=1, axis2=2), abs=2e-7)
    assert averages.loss == pytest.approx(weight @ loss(np.zeros(2), T, model.sigma), abs=1e-9)
    assert max(errors.as_array()) < 1e-9
    assert averages.q_hat == averages.m_hat == averages.theta_hat == 0


@pytest.mark.parametrize("model", MODELS[:3], ids=repr)
def test_loss_omega_is_a_derivative(model):
    step = 1e-4
    up, down = (
        origin_averages(AttentionModel.mixture(omega, model.sigma, model.target.A), 0.0)[0].loss
        for omega in (model.omega + step, max(model.omega - step, 0.0))
    )
    width = step + min(step, model.omega)
    got = origin_averages(model, 0.0)[0].loss_omega
    # One-sided at omega = 0.
    assert got == pytest.approx((up - down) / width, abs=1e-9 if model.omega else 1e-5)


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_errors_bound_what_refinement_changes(model):
    for fraction in (0.3, 0.9, 0.999):
        V = fraction * instability_bound(model)
        best, _ = origin_averages(model, V, tol=1e-11)
        for tol in (1e-2, 1e-4, 1e-6):
            value, error = origin_averages(model, V, tol)
            assert np.all(abs(value.as_array() - best.as_array()) <= error.as_array() + 1e-11)


@pytest.mark.parametrize("model", MODELS[:3], ids=repr)
def test_growth_rates_are_those_of_the_map(model):
    """One step of the full map from a small perturbation, prox by Newton's method."""
    alpha, lam = 0.8, 3 * model.rho / instability_bound(model)
    solution = solve_origin(model, alpha, lam)
    V, rho = solution.V, model.rho
    y, weight, T = draws(model)

    m = 1e-4
    g = push(T, np.broadcast_to([m, -m], y.shape), V, model.sigma)
    m_hat = alpha * weight @ (g[:, 0] - g[:, 1])
    assert m_hat * V / rho / m == pytest.approx(solution.growth["m"], rel=1e-5)

    # On the edge of the domain, q = theta^2/rho, w is a function of y.
    theta = 1e-4 * rho
    g = push(T, theta / rho * y, V, model.sigma)
    V_hat = alpha * solution.averages.V_hat
    theta_hat = (alpha * weight @ (g * y).sum(axis=1) + theta * V_hat) / rho
    conjugates = Conjugates(0.0, 0.0, V_hat, theta_hat)
    grown = prior_overlaps(model, conjugates, lam).theta
    assert grown / theta == pytest.approx(solution.growth["theta"], rel=1e-5)

    q = 1e-8
    q_hat = 0.0
    for signs in ((1, 1), (1, -1)):  # two-point rule in each w_l: exact where g is linear
        g = push(T, math.sqrt(q) * np.broadcast_to(signs, y.shape), V, model.sigma)
        q_hat += alpha * weight @ (g**2).sum(axis=1) / 2
    grown = prior_overlaps(model, Conjugates(q_hat, 0.0, V_hat, 0.0), lam).q
    assert grown / q == pytest.approx(solution.growth["q"], rel=1e-5)


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_V_solves_the_prior_equation_and_grows_like_q(model):
    alpha, lam = 0.8, 3 * model.rho / instability_bound(model)
    solution = solve_origin(model, alpha, lam)

    def response(V):
        V_hat = alpha * origin_averages(model, V)[0].V_hat
        return prior_overlaps(model, Conjugates(0.0, 0.0, V_hat, 0.0), lam).V

    assert response(solution.V) == pytest.approx(solution.V, rel=1e-9)
    step = 1e-4 * solution.V
    slope = (response(solution.V + step) - response(solution.V - step)) / (2 * step)
    assert slope == pytest.approx(solution.growth["q"], rel=1e-5)


def test_a_ridge_of_a_tenth_has_the_solution():
    solution = solve_origin(MODELS[0], 1.5, 0.1)
    assert solution.exists
    assert solution.test_error == pytest.approx(0.0044146, abs=5e-8)
    assert solution.train_loss == 1.5 * solution.test_error
    assert solution.V_error < 1e-9
    # A semantic start falls back to it; a positional one leaves.
    assert solution.growth["theta"] < 1 < solution.growth["m"]


@pytest.mark.parametrize("alpha", [0.1, 0.5, 1.5])
def test_a_ridge_of_a_hundredth_has_not(alpha):
    solution = solve_origin(MODELS[0], alpha, 0.01)
    assert not solution.exists
    assert math.isnan(solution.V)
    assert solution.averages is None


def test_existence_is_lost_at_the_bound_or_at_a_fold():
    """At alpha = .1 V runs into the bound; a large alpha meets the second solution first."""
    model = MODELS[0]
    before, after = solve_origin(model, 0.1, 0.0495), solve_origin(model, 0.1, 0.048)
    assert before.exists
    assert not after.exists
    assert 0.98 < before.V / before.bound < 1
    assert before.growth["q"] < 0.05

    two = solve_origin(model, 16.0, 0.252)
    assert two.exists
    assert two.growth["q"] < 1
    assert two.V < two.other_V < two.bound
    # f is flat at the fold: both roots meet there.
    lo, hi = 0.25, 0.252
    while hi - lo > 1e-9:
        middle = 0.5 * (lo + hi)
        lo, hi = (lo, middle) if solve_origin(model, 16.0, middle).exists else (middle, hi)
    fold = solve_origin(model, 16.0, hi)
    assert fold.growth["q"] == pytest.approx(1, abs=1e-3)
    assert fold.other_V == pytest.approx(fold.V, rel=1e-3)


def test_the_bound_for_equal_contrasts():
    assert instability_bound(MODELS[0]) == pytest.approx(1 / (0.25 * (0.7 + 0.3 * 0.2)), rel=1e-14)
    # Where A repels strongly the worst draw is t = (1, -1), not (1, 1).
    model = AttentionModel.mixture(0.6, 0.5, ((0.0, 1.0), (1.0, 0.0)))
    strongest = -1.2 + 2 * math.hypot(0.4, 0.6)
    assert instability_bound(model) == pytest.approx(4 / (0.25 * strongest), rel=1e-14)


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_the_bound_is_the_supremum_over_draws(model):
    rng = np.random.default_rng(5)
    y = 40 * rng.standard_normal((40_000, 2))
    u = y[:, 0] - y[:, 1]
    s = np.stack([np.tanh(y[:, 0] * u / 2), np.tanh(-y[:, 1] * u / 2)])
    t = (1 - model.omega) * s + model.omega * np.array(model.target.contrasts)[:, None]
    strongest = (t.sum(axis=0) + math.sqrt(2) * np.hypot(*t)).max()
    assert strongest * model.rho / 4 == pytest.approx(1 / instability_bound(model), rel=1e-3)


def test_the_origin_is_the_global_prox_up_to_the_bound_of_each_draw():
    """No first-order jump away from 0: over all t, above the local bound and below it.

    With ``z_k = artanh s_k`` the distance is ``|h|^2 = 2 |z|^2/(z_1 + z_2)``, so the search is over
    the contrasts alone.
    """
    s = np.tanh(np.concatenate([-np.geomspace(1e-4, 9, 150)[::-1], np.geomspace(1e-4, 9, 150)]))
    s1, s2 = (x.ravel() for x in np.meshgrid(s, s, indexing="ij"))
    z1, z2 = np.arctanh(s1), np.arctanh(s2)
    keep = z1 + z2 > 1e-9
    s1, s2, z1, z2 = s1[keep], s2[keep], z1[keep], z2[keep]
    distance = (z1**2 + z2**2) / (z1 + z2)  # |h|^2/2
    for t1 in np.linspace(-1, 1, 21):
        for t2 in np.linspace(-1, 1, 21):
            strength = t1 + t2 + math.sqrt(2) * math.hypot(t1, t2)
            if strength < 1e-12:
                continue
            gain = t1 * s1 + t2 * s2 - (s1**2 + s2**2) / 2  # (l(0) - l)/c
            k = 2 / strength  # the local bound on V c
            assert (distance - 0.999 * k * gain).min() > 0
            if strength > 0.05:  # the new well is within reach of the grid
                assert (distance - 1.15 * k * gain).min() < 0


@pytest.mark.parametrize("A", [((0.6, 0.4), (0.4, 0.6)), SECOND])
def test_a_target_that_ignores_its_fields(A):
    """omega = 1: no average is left, and the equation for V has rational coefficients."""
    model = AttentionModel.mixture(1.0, 0.5, A)
    a1, a2 = model.target.contrasts
    eigenvalues = -0.125 / 2 * ((a1 + a2) + math.sqrt(2) * math.hypot(a1, a2) * np.array([1, -1]))
    V = 0.5 / -eigenvalues.min()
    averages, _ = origin_averages(model, V)
    assert averages.V_hat == pytest.approx((eigenvalues / (1 + V * eigenvalues)).sum(), rel=1e-12)
    assert averages.loss == pytest.approx(0.0625 * (a1**2 + a2**2), rel=1e-12)
    solution = solve_origin(model, 2.0, 0.3)
    v = eigenvalues * solution.V / (1 + eigenvalues * solution.V)
    assert 0.3 * solution.V / 0.25 + 2.0 * v.sum() == pytest.approx(1, rel=1e-12)
    assert solution.growth["q"] == pytest.approx(2.0 * (v**2).sum(), rel=1e-12)


@pytest.mark.parametrize("lam", [1e-6, 1e3, 1e12])
def test_a_ridge_of_any_size(lam):
    """With A uniform and omega = 1 the loss has no curvature, and V is that of the ridge alone."""
    model = AttentionModel.mixture(1.0, 0.5, ((0.5, 0.5), (0.5, 0.5)))
    got = solve_origin(model, 1.0, lam).V
    assert got == pytest.approx(0.25 / lam, rel=1e-12)
    if lam > 1:
        got = solve_origin(MODELS[0], 1.0, lam).V
        assert got == pytest.approx(0.25 / lam, rel=1e-3)


def test_a_target_that_only_repels_has_no_bound():
    model = AttentionModel.mixture(1.0, 0.5, ((0.4, 0.6), (0.6, 0.4)))
    assert math.isinf(instability_bound(model))
    assert origin_exists(model, 1e6)
    assert solve_origin(model, 0.5, 1e-3).exists
    # Without a ridge, f -> alpha - 1: the one positive eigenvalue has to fit all samples.
    assert solve_origin(model, 2.0, 0.0).exists
    assert not solve_origin(model, 0.5, 0.0).exists


def test_f_has_no_root_that_was_missed():
    """On a grid of (alpha, lam), against a scan of ``lam V/rho + alpha V E tr B - 1``."""
    model = MODELS[2]
    bound = instability_bound(model)
    grid = np.linspace(1e-3, 0.999, 60) * bound
    trace = np.array([V * origin_averages(model, V, 1e-8)[0].V_hat for V in grid])
    for alpha in (0.2, 2.0, 6.0, 12.0):
        for lam in (0.02, 0.06, 0.1, 0.2, 0.4):
            f = lam * grid / model.rho + alpha * trace - 1
            crossings = int((np.sign(f[1:]) != np.sign(f[:-1])).sum())
            solution = solve_origin(model, alpha, lam)
            found = [V for V in (solution.V, solution.other_V) if V is not None and grid[-1] >= V]
            if abs(f.max()) > 5e-3:  # not at a fold that the grid may step over
                assert len(found) == crossings


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: origin_averages(m, -1.0), r"V must lie in \[0, 5.26316\).*got -1.0"),
        (lambda m: origin_averages(m, 6.0), r"V must lie in \[0, 5.26316\).*got 6.0"),
        (lambda m: origin_averages(m, math.nan), "got nan"),
        (lambda m: origin_averages(m, 1.0, 0.0), "tol must be positive, got 0.0"),
        (lambda m: solve_origin(m, 0.0, 0.1), "alpha must be positive and finite, got 0.0"),
        (lambda m: solve_origin(m, 1.0, -0.1), "lam must be >= 0 and finite, got -0.1"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call(MODELS[0])
