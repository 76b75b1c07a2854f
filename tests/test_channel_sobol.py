"""The second opinion on the channel: the prox is global, the averages are the formulas."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from gamp_theory.channel import sobol_kernels as kernels
from gamp_theory.channel.base import ChannelAverages
from gamp_theory.channel.sobol import sobol_averages
from gamp_theory.model import AttentionModel
from gamp_theory.overlaps import Overlaps

MODEL = AttentionModel.mixture(omega=0.3, sigma=0.5)
# rows that differ: a_1 and a_2 can not be mixed up unnoticed
UNEVEN = AttentionModel.mixture(omega=0.3, sigma=0.5, A=((0.9, 0.1), (0.35, 0.65)))
LAM = 0.01
# docs/theory.md, section 5, alpha = 1.25; test error, training loss
STATES = {
    "semantic": (Overlaps(0.0816248, 0, 18.3211, 0.117926), 0.00234910, 0.00272106),
    "positional": (Overlaps(0.0471005, 0.252411, 14.9034, 0), 0.00339511, 0.00271980),
}
MIXED = Overlaps(0.09, 0.15, 16.0, 0.1)
STACK = np.empty((kernels.STACK_ROWS, 3))


def compiled_prox(w, T, V, sigma):
    """The branch-and-bound prox with the signature of its twin."""
    return minimiser(kernels.ProxProblem(*w, *reference.contrasts(T), V * sigma**2 / 2))[:2]


def minimiser(p):
    """``(h1, h2, E)`` of a prox problem."""
    return np.array(kernels.global_prox(p, kernels.LEAF, STACK))


def problems(seed, n, width=2.0, V=18.0, sigma=0.5):
    """Fields h, w, shape (n, 2), and target matrices, shape (n, 2, 2)."""
    h, w, y = width * np.random.default_rng(seed).standard_normal((3, n, 2))
    return h, w, reference.target(y * sigma / width, 0.3, MODEL.target.A)


# ---- the energy and its ranges


def test_energy_is_the_softmax_objective():
    V, sigma = 18.0, 0.5
    for h, w, T in zip(*problems(0, 40), strict=True):
        p = kernels.ProxProblem(*w, *reference.contrasts(T), V * sigma**2 / 2)

        def twin(x, w=w, T=T):
            return V * reference.objective(x, w, T, V, sigma)

        e, *first_and_second = kernels.energy_derivatives(*h, p)
        assert_allclose([e, kernels.energy(*h, p)], twin(h), rtol=1e-12)
        assert_allclose(
            first_and_second[:2], reference.complex_step(twin, h), rtol=1e-12, atol=1e-12
        )
        (h11, h12), (_, h22) = reference.hessian(twin, h)
        assert_allclose(first_and_second[2:], [h11, h12, h22], rtol=1e-10, atol=1e-9)
        g = kernels.force(*h, p.t1, p.t2, sigma**2 / 2)
        minus_loss = reference.complex_step(lambda x, T=T: -reference.loss(x, T, sigma), h)
        assert_allclose(g, minus_loss, rtol=1e-12, atol=1e-13)


def test_target_pair_is_that_of_the_mixture():
    y = np.random.default_rng(7).standard_normal((20, 2))
    a1, a2 = UNEVEN.target.contrasts
    got = [kernels.target_pair(*x, UNEVEN.omega, a1, a2) for x in y]
    expected = reference.contrasts(reference.target(y, UNEVEN.omega, UNEVEN.target.A))
    assert_allclose(got, expected, rtol=1e-12, atol=1e-14)


def test_descent_goes_down_to_a_stationary_point():
    for h, w, T in zip(*problems(8, 60), strict=True):
        p = kernels.ProxProblem(*w, *reference.contrasts(T), 2.3)
        for start in (h, w):
            h1, h2, e = kernels.descend(*start, p)
            assert e <= kernels.energy(*start, p)
            assert not kernels.gradient_fails(h1, h2, p)
        # no higher than from w or from a zero of the loss
        e = kernels.first_guess(p)[2]
        assert e <= kernels.energy(*w, p) * (1 + 1e-12)


def test_products_and_distances_of_intervals():
    rng = np.random.default_rng(10)
    for _ in range(50):
        (a0, a1), (b0, b1) = np.sort(rng.standard_normal((2, 2)), axis=1)
        product = np.linspace(a0, a1, 101)[:, None] * np.linspace(b0, b1, 101)
        got = kernels.product_range(a0, a1, b0, b1)
        assert_allclose(got, [product.min(), product.max()], rtol=1e-13)
        x = rng.standard_normal()
        distance = abs(np.clip(x, a0, a1) - x)
        assert kernels.outside(x, a0, a1) == pytest.approx(distance, abs=1e-15)


def test_first_guess_knows_the_zeros_of_the_loss():
    """In a large V the prox is next to an h with S(h) = T, far from w = 0."""
    h = np.array([1.1, -0.4])
    t = reference.contrasts(reference.softmax(h))
    h1, h2, e = kernels.first_guess(kernels.ProxProblem(0.2, 0.0, *t, 1e6))
    assert_allclose([h1, h2], h, atol=1e-4)
    assert e < 0.6 * h @ h


def test_a_point_that_is_not_stationary_is_seen():
    p = kernels.ProxProblem(0.3, -0.2, 0.4, 0.3, 2.3)
    h1, h2, _ = kernels.descend(0.3, -0.2, p)
    assert not kernels.gradient_fails(h1, h2, p)
    assert kernels.gradient_fails(h1 + 1e-7, h2, p)
    assert kernels.gradient_fails(np.nan, h2, p)


def test_ranges_hold_every_value_and_are_attained():
    rng = np.random.default_rng(1)
    unit = np.linspace(0, 1, 401)
    for _ in range(200):
        (x0, y0), (x1, y1) = np.sort(2 * rng.standard_normal((2, 2)), axis=0)
        x, y = x0 + (x1 - x0) * unit[:, None], y0 + (y1 - y0) * unit
        z = x * (x - y) / 2
        low, high = kernels.quadratic_range(x0, x1, y0, y1)
        assert low <= z.min() + 1e-12
        assert high >= z.max() - 1e-12
        assert_allclose([low, high], [z.min(), z.max()], atol=1e-3)
        t, (s0, s1) = rng.uniform(-1, 1), np.sort(rng.uniform(-1, 1, 2))
        s = s0 + (s1 - s0) * unit
        f = (t - s) * (1 - s**2)
        low, high = kernels.force_range(s0, s1, t)
        assert low <= f.min() + 1e-12
        assert high >= f.max() - 1e-12
        assert_allclose([low, high], [f.min(), f.max()], atol=1e-4)


def test_no_box_around_a_lower_minimum_is_dropped():
    rng = np.random.default_rng(2)
    for _, w, T in zip(*problems(2, 100), strict=True):
        p = kernels.ProxProblem(*w, *reference.contrasts(T), 5.0)
        h1, h2, e = minimiser(p)
        for width in (1e-3, 0.1, 1.0):
            l1, r1, l2, r2 = width * rng.uniform(0, 1, 4)
            box = h1 - l1, h1 + r1, h2 - l2, h2 + r2
            assert kernels.box_may_hold_minimum(*box, p, e * (1 + 1e-9) + 1e-12)


# ---- the prox

coordinate = st.floats(-3, 3)
prox_problems = st.builds(
    lambda w1, w2, y1, y2, omega, k: kernels.ProxProblem(
        w1, w2, *kernels.target_pair(y1, y2, omega, 0.2, 0.2), k
    ),
    *(coordinate, coordinate, coordinate, coordinate),
    st.floats(0, 1),
    st.floats(0.01, 30),
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(prox_problems, st.integers(0, 2**32 - 1))
def test_no_point_is_lower_than_the_prox(p, seed):
    h1, h2, e = minimiser(p)
    assert not kernels.gradient_fails(h1, h2, p)
    assert_allclose(e, kernels.energy(h1, h2, p), rtol=1e-12, atol=1e-14)
    rng = np.random.default_rng(seed)
    w = np.array([p.w1, p.w2])
    radius = np.sqrt(2 * kernels.energy(p.w1, p.w2, p))
    cloud = np.concatenate(
        [w + radius * rng.uniform(-1, 1, (2000, 2)), [h1, h2] + 0.1 * rng.standard_normal((200, 2))]
    )
    t = np.array([p.t1, p.t2])
    s = reference.contrasts(reference.softmax(cloud))
    energies = ((cloud - w) ** 2).sum(axis=1) / 2 + p.k / 2 * ((t - s) ** 2).sum(axis=1)
    assert e <= energies.min() * (1 + 1e-12) + 1e-14


@settings(max_examples=100, deadline=None, derandomize=True)
@given(prox_problems)
def test_energy_of_the_prox_is_even_and_symmetric_under_exchange_of_tokens(p):
    h1, h2, e = minimiser(p)
    even = minimiser(kernels.ProxProblem(-p.w1, -p.w2, p.t1, p.t2, p.k))
    swapped = minimiser(kernels.ProxProblem(p.w2, p.w1, p.t2, p.t1, p.k))
    assert_allclose([even[2], swapped[2]], e, rtol=1e-9, atol=1e-12)
    assert_allclose(
        kernels.energy(-h1, -h2, p._replace(w1=-p.w1, w2=-p.w2)), e, rtol=1e-9, atol=1e-12
    )


@pytest.mark.parametrize(("V", "sigma"), [(18.0, 0.5), (60.0, 0.5), (20.0, 1.0)])
def test_prox_is_that_of_the_dense_grid(V, sigma):
    for _, w, T in zip(*problems(3, 25, width=0.8, sigma=sigma), strict=True):
        expected = reference.prox(w, T, V, sigma)
        assert_allclose(compiled_prox(w, T, V, sigma), expected, atol=2e-6)
        p = kernels.ProxProblem(*w, *reference.contrasts(T), V * sigma**2 / 2)
        assert_allclose(minimiser(p)[2], V * reference.envelope(w, T, V, sigma), rtol=1e-9)


def test_finer_boxes_change_nothing():
    for _, w, T in zip(*problems(4, 500), strict=True):
        p = kernels.ProxProblem(*w, *reference.contrasts(T), 12.0)
        fine = kernels.global_prox(p, kernels.LEAF / 4, STACK)
        assert_allclose(minimiser(p)[2], fine[2], rtol=1e-12, atol=1e-14)


# ---- the averages


@pytest.mark.parametrize(
    ("model", "overlaps"),
    [
        (MODEL, STATES["semantic"][0]),
        (MODEL, STATES["positional"][0]),
        (MODEL, MIXED),
        (UNEVEN, MIXED),
    ],
    ids=["semantic", "positional", "mixed", "uneven rows"],
)
def test_averages_are_the_formulas_of_the_theory(model, overlaps):
    """Plain Monte Carlo with xi outside and y given xi: the other way to write every average."""
    xi, eta = np.random.default_rng(5).standard_normal((2, 20000, 2))
    q = overlaps.as_array()
    terms = reference.averages(xi, eta, q, model, prox=compiled_prox)
    terms = np.column_stack([terms, reference.test_error(xi, eta, q, model)])
    estimate = sobol_averages(model, overlaps, samples=2**11, seed=1)
    got = np.append(estimate.averages.as_array(), estimate.test_error)
    error = np.hypot(terms.std(axis=0) / np.sqrt(len(terms)), np.sqrt(np.diag(estimate.covariance)))
    assert np.all(abs(got - terms.mean(axis=0)) < 4 * error)
    assert estimate.prox_failures == 0


def test_plain_monte_carlo_with_the_slow_prox_agrees_draw_by_draw():
    xi, eta = np.random.default_rng(6).standard_normal((2, 40, 2))
    slow = reference.averages(xi, eta, MIXED.as_array(), MODEL)
    fast = reference.averages(xi, eta, MIXED.as_array(), MODEL, prox=compiled_prox)
    assert_allclose(fast, slow, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("overlaps", [MIXED, Overlaps(0.09, 0.05, 16.0, 0.15)])
def test_sums_are_those_of_the_slow_prox_draw_by_draw(overlaps):
    """The second state is on the edge theta**2 = rho q: V_hat is a quotient over a finite step."""
    q, m, V, theta = overlaps.as_array()
    rho, omega = UNEVEN.rho, UNEVEN.omega
    s = np.sqrt(max(q - theta**2 / rho, 0.0))
    state = kernels.ChannelState(rho, m, theta, s, V, omega, *UNEVEN.target.contrasts, rho / 2)
    points = np.random.default_rng(9).standard_normal((25, 4))
    got = kernels.sobol_sums(points, state, kernels.LEAF)

    step = max(s, kernels.SMALLEST_STEP)
    terms = []
    for point in points:
        y = UNEVEN.sigma * point[:2]
        mu = np.array([m, -m]) + theta / rho * y
        T = reference.target(y, omega, UNEVEN.target.A)

        def push(w, T=T):
            h = reference.prox(w, T, V, UNEVEN.sigma)
            return h, (h - w) / V

        for zeta in (point[2:], -point[2:]):
            w = mu + s * zeta
            h, g = push(w)
            away = push(mu + step * zeta)[1]
            slope = rho * ((T - reference.softmax(h)) * (UNEVEN.target.A - reference.softmax(y)))
            terms.append(
                [
                    g @ g,
                    g[0] - g[1],
                    -away @ zeta / step,
                    g @ y,
                    reference.loss(h, T, UNEVEN.sigma),
                    slope.sum(),
                    (away[0] - away[1]) * (zeta[0] - zeta[1]) / step,
                    (away @ y) * (zeta @ y) / step,
                    reference.loss(w, T, UNEVEN.sigma),
                ]
            )
    assert_allclose(got[:-1], np.mean(terms, axis=0), rtol=1e-6, atol=1e-8)
    assert got[-1] == 0


@pytest.mark.parametrize("branch", STATES)
def test_known_fixed_points_are_fixed(branch):
    alpha = 1.25
    overlaps, test_error, train_loss = STATES[branch]
    estimate = sobol_averages(MODEL, overlaps, samples=2**12, scrambles=16, seed=2)
    x = estimate.averages.as_array()

    def mapped(x):
        return reference.prior_map(*alpha * x[:4], MODEL.sigma, LAM)

    jacobian = reference.complex_step(mapped, x)
    error = np.sqrt(np.diag(jacobian @ estimate.covariance[:-1, :-1] @ jacobian.T))
    assert np.all(abs(mapped(x) - overlaps.as_array()) < 4 * error)
    assert np.all(error < [1e-4, 1e-3, 0.05, 1e-3])
    got = alpha * estimate.averages.loss + LAM * overlaps.q / (2 * MODEL.rho)
    assert abs(got - train_loss) < 4 * alpha * estimate.standard_error.loss
    assert abs(estimate.test_error - test_error) < 4 * estimate.test_error_standard_error


@pytest.mark.parametrize("model", [MODEL, UNEVEN], ids=["even rows", "uneven rows"])
def test_averages_are_derivatives_of_the_mean_envelope(model):
    """``d E[M]/d(q, m, V, theta, omega) = (V_hat/2, -m_hat, -q_hat/2, -theta_hat, loss_omega)``.

    The envelope theorem, draw by draw: exact with the same points on both sides, jumps included.
    """
    x, step = np.append(MIXED.as_array(), model.omega), 1e-6

    def averages(x):
        moved = AttentionModel.mixture(x[4], model.sigma, model.target.A)
        return sobol_averages(moved, Overlaps.from_array(x[:4]), samples=2**9, scrambles=2).averages

    def envelope(x):
        return averages(x).envelope(x[2])

    slopes = [(envelope(x + d) - envelope(x - d)) / (2 * step) for d in step * np.eye(5)]
    a = averages(x)
    expected = [a.V_hat / 2, -a.m_hat, -a.q_hat / 2, -a.theta_hat, a.loss_omega]
    assert_allclose(slopes, expected, rtol=1e-5, atol=1e-9)


def test_standard_errors_shrink_faster_than_plain_sampling():
    few = sobol_averages(MODEL, MIXED, samples=2**6, scrambles=16).standard_error.as_array()
    many = sobol_averages(MODEL, MIXED, samples=2**12, scrambles=16).standard_error.as_array()
    # 64 times the points: a factor of 8 for plain sampling
    assert np.all(many < few / 8)


def test_seed_decides_everything():
    first, again, other = (sobol_averages(MODEL, MIXED, 2**6, 2, seed) for seed in (7, 7, 8))
    assert first == again
    assert first.averages != other.averages


# ---- limits


def test_without_response_the_prox_is_the_cavity_field():
    zero = sobol_averages(MODEL, Overlaps(0.09, 0.15, 0.0, 0.1), samples=2**8, scrambles=2)
    small = sobol_averages(MODEL, Overlaps(0.09, 0.15, 1e-7, 0.1), samples=2**8, scrambles=2)
    assert zero.averages.loss == pytest.approx(zero.test_error, rel=1e-14)
    assert_allclose(small.averages.as_array(), zero.averages.as_array(), rtol=1e-6)


def test_zero_state_has_the_closed_form():
    """At Q = 0 the prox stays at 0 and ``V_hat = E tr[H (I + V H)^-1]`` with the Hessian H at 0."""
    V = 2.0
    estimate = sobol_averages(MODEL, Overlaps(0.0, 0.0, V, 0.0), samples=2**10)
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    y = MODEL.sigma * np.stack(np.meshgrid(nodes, nodes), axis=-1)
    T = reference.target(y, MODEL.omega, MODEL.target.A)
    t1, t2 = np.moveaxis(reference.contrasts(T), -1, 0)
    H = -MODEL.rho / 2 * np.stack([[t1, -(t1 + t2) / 2], [-(t1 + t2) / 2, t2]])
    H = np.moveaxis(H, (0, 1), (-2, -1))
    response = np.trace(H @ np.linalg.inv(np.eye(2) + V * H), axis1=-2, axis2=-1)
    V_hat = np.outer(weights, weights).ravel() @ response.ravel() / weights.sum() ** 2
    got = estimate.averages
    assert (got.q_hat, got.m_hat, got.theta_hat) == (0, 0, 0)
    assert abs(got.V_hat - V_hat) < 4 * estimate.standard_error.V_hat + 1e-6
    assert estimate.standard_error.V_hat < 0.02 * abs(V_hat)


def test_edge_of_the_domain_is_a_limit():
    """At ``theta**2 = rho q`` the fields are proportional; V_hat is then a difference quotient."""
    theta = 0.1
    edge, near = (
        sobol_averages(MODEL, Overlaps(theta**2 / MODEL.rho + excess, 0.0, 4.0, theta), 2**10)
        for excess in (0.0, 1e-7)
    )
    assert_allclose(edge.averages.as_array(), near.averages.as_array(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": 1000}, "power of two"),
        ({"samples": 0}, "power of two"),
        ({"scrambles": 1}, "at least 2"),
        ({"overlaps": Overlaps(0.01, 0, 1, 0.1)}, "theta"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        sobol_averages(MODEL, **({"overlaps": MIXED} | arguments))


def test_estimate_carries_named_averages():
    estimate = sobol_averages(MODEL, MIXED, 2**4, 2)
    assert isinstance(estimate.averages, ChannelAverages)
    assert_allclose(np.diag(estimate.covariance)[:-1], estimate.standard_error.as_array() ** 2)
