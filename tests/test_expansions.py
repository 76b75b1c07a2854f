"""Limits with known answers, derived from the symbolic loss: against the solver and brute force."""

import math

import numpy as np
import pytest
import reference

from gamp_theory.channel.origin import instability_bound, solve_origin
from gamp_theory.expansions import (
    constant_target,
    expand_origin,
    large_ridge,
    origin_bound,
    origin_onsets,
    population_limit,
    small_sigma,
)
from gamp_theory.expansions.population import _loss_functions
from gamp_theory.model import AttentionModel
from gamp_theory.overlaps import Overlaps
from gamp_theory.state_evolution import Status, solve

SECOND = ((0.3, 0.7), (0.8, 0.2))
REPELS = ((0.1, 0.9), (0.95, 0.05))
MODEL = AttentionModel.mixture(0.3, 0.5)
MODELS = [
    MODEL,
    AttentionModel.mixture(0.0, 0.6),
    AttentionModel.mixture(0.14, 0.5, SECOND),
    AttentionModel.mixture(0.6, 1.0, REPELS),
]
#: Within this of each other, relative: two derivations of one number.
SAME = 1e-9


def test_the_symbolic_loss_is_the_matrix_formula():
    rng = np.random.default_rng(0)
    h = rng.normal(size=(20, 2))
    T = reference.target(rng.normal(size=(20, 2)), 0.3, SECOND)
    t = reference.contrasts(T).T
    loss, g1, g2, h11, h12, h22 = _loss_functions()(0.49, *t, *h.T)

    def naive(x):
        return reference.loss(x, T, 0.7)

    np.testing.assert_allclose(loss, naive(h), rtol=1e-12)
    np.testing.assert_allclose(
        np.stack([g1, g2], -1), reference.gradient(naive, h), rtol=1e-10, atol=1e-13
    )
    H = reference.hessian(naive, h)
    np.testing.assert_allclose(h11, H[:, 0, 0], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(h12, H[:, 0, 1], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(h22, H[:, 1, 1], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_the_origin_is_that_of_the_solver(model):
    """The solver knows H by hand and Stein's form of theta_hat, this one neither."""
    assert origin_bound(model) == pytest.approx(instability_bound(model), rel=1e-12)
    for fraction, alphas in ((0.3, (5.0,)), (0.9, (0.1,))):
        lam = model.rho / (fraction * instability_bound(model))
        for alpha in alphas:
            expected = solve_origin(model, alpha, lam)
            got = expand_origin(model, alpha, lam)
            assert (got is not None) == expected.exists
            if got is None:
                continue
            assert pytest.approx(expected.V, rel=SAME) == got.V
            assert got.train_loss == pytest.approx(expected.train_loss, rel=SAME)
            assert got.growth == pytest.approx(expected.growth, rel=SAME, abs=SAME)
            assert abs(got.V - expected.V) < got.V_error + expected.V_error + 1e-13 * got.V
            assert max(got.growth_error.values()) < 1e-8


@pytest.mark.parametrize(
    ("omega", "sigma", "lam"),
    [
        *((omega, 0.5, lam) for omega in (0.0, 0.3, 0.6) for lam in (0.06, 0.1)),
        pytest.param(0.3, 0.3, 0.01296, marks=pytest.mark.slow),
        pytest.param(0.3, 0.7, 0.38416, marks=pytest.mark.slow),
        pytest.param(0.3, 1.0, 1.6, marks=pytest.mark.slow),
    ],
)
def test_rates_cross_1_at_the_onsets(omega, sigma, lam):
    model = AttentionModel.mixture(omega, sigma)
    onsets = origin_onsets(model, lam)
    if not onsets:
        assert expand_origin(model, 1e-3, lam) is None
        return
    for onset in onsets:
        assert onset.alpha_error < 1e-9 * onset.alpha
        if onset.kind in ("m", "theta"):
            point = solve(model, onset.alpha, lam, "zero")
            assert point.stability.transverse[onset.kind] == pytest.approx(1, abs=1e-8)
            assert pytest.approx(onset.V, rel=1e-8) == point.overlaps.V
            others = {"m", "theta"} - {onset.kind}
            for name in others:
                assert point.stability.transverse[name] == pytest.approx(onset.growth[name])
        else:
            below, above = (
                solve(model, onset.alpha * (1 + x), lam, "zero", on_failure="return")
                for x in (-1e-6, 1e-6)
            )
            assert below.converged
            assert above.status is Status.DOES_NOT_EXIST
            if onset.kind == "bound":
                assert origin_bound(model) == onset.V
                assert below.stability.replicon < 1
            else:
                assert onset.growth["q"] == pytest.approx(1, abs=1e-9)
    # Between onsets no rate is at 1: each is on the side that the onsets passed say.
    end = onsets[-1].alpha
    for alpha in np.linspace(0.05, 0.98, 4) * end:
        growth = expand_origin(model, alpha, lam).growth
        for name in ("m", "theta"):
            passed = any(o.kind == name and o.alpha < alpha for o in onsets)
            assert (growth[name] > 1) == passed


def test_a_positional_branch_begins_at_the_onset():
    """The pitchfork, confirmed by the branch that leaves it: alpha as a polynomial in m**2."""
    onset = next(o for o in origin_onsets(MODEL, 0.1) if o.kind == "m")
    alphas = onset.alpha * np.array([1.01, 1.02, 1.03, 1.04])
    points = [solve(MODEL, alpha, 0.1, "positional", with_stability=False) for alpha in alphas]
    assert {point.branch for point in points} == {"positional"}
    square = np.array([point.overlaps.m for point in points]) ** 2
    assert np.polyfit(square, alphas, 3)[-1] == pytest.approx(onset.alpha, abs=1e-6)


@pytest.mark.slow
def test_a_semantic_branch_begins_at_the_onset():
    """Here alpha is not analytic in theta**2, and has to be followed closer to the onset."""
    onset = next(o for o in origin_onsets(MODEL, 0.1) if o.kind == "theta")
    alphas = onset.alpha * np.array([1.001, 1.0015, 1.002])
    points = [
        solve(MODEL, alpha, 0.1, "semantic", with_stability=False, on_failure="return")
        for alpha in alphas
    ]
    assert {point.branch for point in points} == {"semantic"}
    square = np.array([point.overlaps.theta for point in points]) ** 2
    assert np.polyfit(square, alphas, 2)[-1] == pytest.approx(onset.alpha, rel=1e-6)


def test_a_repelling_target_loses_the_origin_on_neither_side():
    """A positive mean curvature: V falls with alpha, and the solution stays."""
    model = AttentionModel.mixture(1.0, 0.5, ((0.4, 0.6), (0.6, 0.4)))
    assert math.isinf(origin_bound(model))
    assert origin_onsets(model, 0.1) == []
    got, expected = expand_origin(model, 3.0, 0.1), solve_origin(model, 3.0, 0.1)
    assert pytest.approx(expected.V, rel=SAME) == got.V
    assert got.growth == pytest.approx(expected.growth, rel=SAME, abs=SAME)


def test_with_a_repelling_target_the_origin_begins_at_the_bound():
    """V falls with alpha; the worst draw is t near the corner (1, -1)."""
    model = AttentionModel.mixture(0.6, 0.5, REPELS)
    (onset,) = origin_onsets(model, 0.002)
    assert onset.kind == "bound"
    assert not solve_origin(model, onset.alpha * (1 - 1e-6), 0.002).exists
    assert solve_origin(model, onset.alpha * (1 + 1e-6), 0.002).exists


@pytest.mark.parametrize("lam", [0.02, 0.05, 0.2, 1.0])
@pytest.mark.parametrize("a", [0.2, 0.7])
def test_a_constant_target_is_a_formula(a, lam):
    model = AttentionModel.mixture(
        1.0, 0.5, (((1 + a) / 2, (1 - a) / 2), ((1 - a) / 2, (1 + a) / 2))
    )
    got = constant_target(model, lam)
    rho = model.rho
    assert got.alpha_positional == pytest.approx(lam / (rho * a * (2 + rho)) - rho / 2, rel=1e-12)
    onsets = {o.kind: o for o in origin_onsets(model, lam)}
    if math.isnan(got.alpha_fold):
        assert lam <= rho**2 * a
        assert not onsets
        return
    assert got.alpha_fold == pytest.approx((math.sqrt(lam / (rho**2 * a)) - 1) ** 2, rel=1e-12)
    assert onsets["fold"].alpha == pytest.approx(got.alpha_fold, rel=SAME)
    assert ("m" in onsets) == got.onset_reached
    if got.onset_reached:
        assert onsets["m"].alpha == pytest.approx(got.alpha_positional, rel=SAME)
        assert pytest.approx(got.V_positional, rel=SAME) == onsets["m"].V
        point = solve(model, got.alpha_positional, lam, "zero")
        assert point.stability.transverse["m"] == pytest.approx(1, abs=1e-8)
        assert point.stability.transverse["theta"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("model", MODELS, ids=repr)
def test_a_large_ridge_is_a_series(model):
    """The error falls by 1000 as lam grows tenfold; at lam = 1000 it is below 1e-6."""
    errors = []
    for lam in (100.0, 1000.0):
        got, exact = large_ridge(model, 1.5, lam), solve_origin(model, 1.5, lam)
        difference = [got.growth[name] - exact.growth[name] for name in ("q", "m", "theta")]
        errors.append(np.array([got.V - exact.V, *difference]))
    assert errors[1] == pytest.approx(errors[0] / 1000, rel=0.1, abs=1e-13)
    assert pytest.approx(exact.V, rel=1e-6) == got.V
    assert got.growth == pytest.approx(exact.growth, abs=1e-6)


def as_overlaps(limit, alpha):
    return Overlaps(
        q=limit.q[0] + limit.q[1] / alpha,
        m=limit.m[0] + limit.m[1] / alpha,
        V=limit.V / alpha,
        theta=limit.theta[0] + limit.theta[1] / alpha,
    )


@pytest.mark.parametrize(("m", "theta"), [(0.25, 0.0), (0.0, 0.2)])
def test_many_samples_approach_the_population(m, theta):
    """Differences to the two orders fall like alpha**-2."""
    limit = population_limit(MODEL, 0.01, m, theta)
    assert limit.minimum
    assert limit.error < 1e-8
    scaled = []
    for alpha in (300.0, 1500.0):
        expected = as_overlaps(limit, alpha)
        point = solve(MODEL, alpha, 0.01 * alpha, expected, with_stability=False)
        x = point.overlaps
        loss = point.train_loss / alpha - limit.loss[0] - limit.loss[1] / alpha
        scaled.append(
            alpha**2
            * np.array([x.q - expected.q, x.m - expected.m, x.theta - expected.theta, loss])
        )
        assert x.V * alpha == pytest.approx(limit.V, rel=0.2 / alpha)
    assert abs(scaled[1] / alpha**2).max() < 1e-6
    # quadrature errors of 1e-8 or so are multiplied by alpha**2 as well
    assert scaled[1] == pytest.approx(scaled[0], rel=0.1, abs=2e-2)


@pytest.mark.slow
def test_population_has_a_mixed_saddle_between_its_minima():
    limit = population_limit(MODEL, 0.01, 0.17, 0.09)
    assert not limit.minimum
    alpha = 1000.0
    expected = as_overlaps(limit, alpha)
    point = solve(MODEL, alpha, 0.01 * alpha, expected)
    assert point.branch == "mixed"
    assert not point.stability.stable
    got, want = point.overlaps, expected
    assert (got.q, got.m, got.theta) == pytest.approx((want.q, want.m, want.theta), abs=1e-6)
    # V is known to leading order only
    assert pytest.approx(want.V, rel=0.2 / alpha) == got.V


def test_at_omega_0_the_population_minimum_is_the_teacher():
    """Without a ridge nothing is left to correct: the loss vanishes at Q = Q*."""
    model = AttentionModel.mixture(0.0, 0.5)
    limit = population_limit(model, 0.0, 0.0, 0.2)
    # the correction of order 1/alpha is a difference quotient
    assert limit.theta == pytest.approx((0.25, 0.0), abs=1e-7)
    assert limit.q == pytest.approx((0.25, 0.0), abs=1e-7)
    assert limit.loss == pytest.approx((0.0, 0.0), abs=1e-15)
    assert limit.minimum


def test_population_onset_is_that_of_the_origin():
    """A branch begins where its rate at Q = 0 reaches 1, for alpha to infinity at fixed lam/alpha.

    Only ``E tr H = -(rho/2) E S`` counts there: ``V = rho/(lam + alpha rho E tr H)``, and the rate
    is ``alpha V E S``.  The large ridge has E S.
    """
    rho = MODEL.rho
    mean = large_ridge(MODEL, 1.0, 1e9).growth["m"] * 1e9 / rho
    edge = rho * mean * (1 + rho / 2)
    shares = np.array([0.97, 0.98, 0.99])
    squares = [population_limit(MODEL, x * edge, 0.05, 0.0).m[0] ** 2 for x in shares]
    assert np.polyfit(squares, shares, 2)[-1] == pytest.approx(1, abs=1e-6)


def test_small_sigma_is_a_series():
    """At fixed lam/sigma**2; relative errors fall by 16 as sigma is halved."""
    errors = []
    for sigma in (0.04, 0.02, 0.01):
        model = AttentionModel.mixture(0.3, sigma)
        lam = 0.1 * sigma**2
        got = small_sigma(model, 1.5, lam)
        point = solve(model, 1.5, lam, "positional", tol=1e-7, with_stability=False)
        x = point.overlaps
        errors.append(
            np.array([got.m / x.m, got.V / x.V, got.q / x.q, got.train_loss / point.train_loss]) - 1
        )
    assert errors[1] == pytest.approx(errors[0] / 16, rel=0.05)
    assert abs(errors[2]) == pytest.approx(abs(errors[1]) / 16, abs=1e-7)
    assert abs(errors[2][:3]).max() < 1e-6


def test_small_sigma_with_unequal_contrasts():
    sigma = 0.01
    model = AttentionModel.mixture(0.5, sigma, ((0.9, 0.1), (0.5, 0.5)))
    got = small_sigma(model, 2.0, 0.3 * sigma**2)
    point = solve(model, 2.0, 0.3 * sigma**2, "positional", with_stability=False)
    assert got.m == pytest.approx(point.overlaps.m, rel=1e-6)
    assert got.q == pytest.approx(point.overlaps.q, rel=1e-6)
    assert pytest.approx(point.overlaps.V, rel=1e-6) == got.V


def test_small_sigma_below_the_onset_is_nothing():
    # alpha omega (a_1 + a_2) = .18 < lam/sigma**2
    assert small_sigma(AttentionModel.mixture(0.3, 0.01), 1.5, 0.19 * 0.01**2) is None
    assert small_sigma(AttentionModel.mixture(0.3, 0.01), 1.5, 0.17 * 0.01**2) is not None


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: expand_origin(MODEL, 0.0, 0.1), "alpha must be > 0 and finite, got 0.0"),
        (lambda: origin_onsets(MODEL, 0.0), "lam must be > 0 and finite, got 0.0"),
        (lambda: large_ridge(MODEL, 1.0, math.inf), "lam must be > 0 and finite, got inf"),
        (lambda: constant_target(MODEL, 0.1), "must have omega = 1 and equal positive contrasts"),
        (lambda: population_limit(MODEL, -1.0, 0.1, 0.0), "ridge must be >= 0"),
        (lambda: population_limit(MODEL, 0.1, 0.0, 0.0), "m and theta must not both be 0"),
        (lambda: small_sigma(MODEL, math.nan, 0.1), "alpha must be > 0 and finite, got nan"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_newton_that_finds_nothing_says_so():
    """Above the onset the population has no positional minimum; m shrinks for ever."""
    with pytest.raises(RuntimeError, match="no stationary point found near"):
        population_limit(MODEL, 1.0, 0.2, 0.0)
