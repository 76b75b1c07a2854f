"""Fixed points of the general model: limits in which the answer is known otherwise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scaled_positions import fixed_point, growth_of_m, scaled_model
from scipy.optimize import fsolve

from gamp_theory import (
    AttentionModel,
    ConvergenceError,
    GeneralModel,
    JointLaw,
    solve,
    token_evolution,
    token_search,
)
from gamp_theory.channel.general import general_rule
from gamp_theory.overlaps import Overlaps
from gamp_theory.result import Status
from gamp_theory.token_evolution import GeneralSolver, solve_general
from gamp_theory.token_mechanisms import CompiledMechanism, FixedMixture, RowSoftmax
from gamp_theory.token_overlaps import TokenOverlaps
from gamp_theory.token_prior import token_prior_overlaps
from gamp_theory.token_search import SEARCH_SAMPLES

A3 = [[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.0, 0.5, 0.5]]
A4 = np.random.default_rng(7).dirichlet(np.ones(4), 4)
OPPOSITE = [[1.0], [-1.0]]
# docs/theory.md's case without jumps: lam = .1, alpha = 1.5, positional
SMOOTH = {"q": 0.00561033, "m": 0.136490, "V": 2.65887}
SMOOTH_TRAIN, SMOOTH_TEST = 0.00643105, 0.00375867


def within(value, want, error, sigmas=4.0):
    assert 0 <= error < 0.05 * abs(want)
    assert abs(value - want) < sigmas * error + 2e-6 * abs(want)


def block_value(h, params, S):
    """Softmax of column 1 on tokens 1 and 2; further tokens attend to themselves."""
    for i in range(S.shape[0]):
        for j in range(S.shape[0]):
            S[i, j] = 1.0 if i == j else 0.0
    for i in range(2):
        # S_ii is a logistic function of h_i (h_i - h_j)
        S[i, i] = 1 / (1 + math.exp(h[i, 0] * (h[1 - i, 0] - h[i, 0])))
        S[i, 1 - i] = 1 - S[i, i]


def block_first(h, params, S, dS):
    r = h.shape[1]
    for i in range(S.shape[0]):
        for j in range(S.shape[0]):
            S[i, j] = 1.0 if i == j else 0.0
            for x in range(dS.shape[2]):
                dS[i, j, x] = 0.0
    for i in range(2):
        j = 1 - i
        S[i, i] = 1 / (1 + math.exp(h[i, 0] * (h[j, 0] - h[i, 0])))
        S[i, j] = 1 - S[i, i]
        c = S[i, i] * S[i, j]
        dS[i, i, i * r] = c * (2 * h[i, 0] - h[j, 0])
        dS[i, i, j * r] = -c * h[i, 0]
        dS[i, j, i * r] = -dS[i, i, i * r]
        dS[i, j, j * r] = -dS[i, i, j * r]


def block_second(h, params, W, H):
    r = h.shape[1]
    for x in range(H.shape[0]):
        for y in range(H.shape[0]):
            H[x, y] = 0.0
    for i in range(2):
        j = 1 - i
        f = 1 / (1 + math.exp(h[i, 0] * (h[j, 0] - h[i, 0])))
        c = (W[i, i] - W[i, j]) * f * (1 - f)
        k = c * (1 - 2 * f)
        u, v = 2 * h[i, 0] - h[j, 0], -h[i, 0]
        H[i * r, i * r] += k * u * u + 2 * c
        H[i * r, j * r] += k * u * v - c
        H[j * r, i * r] += k * u * v - c
        H[j * r, j * r] += k * v * v


def diagonal_value(h, params, S):
    for i in range(S.shape[0]):
        for j in range(S.shape[1]):
            S[i, j] = h[i, 0] if i == j else 0.0


def diagonal_first(h, params, S, dS):
    dS[:] = 0.0
    for i in range(S.shape[0]):
        for j in range(S.shape[1]):
            S[i, j] = h[i, 0] if i == j else 0.0
        dS[i, i, i] = 1.0


def diagonal_second(h, params, W, H):
    H[:] = 0.0


@pytest.fixture(scope="module")
def smooth():
    """The two-token model by the general route, where nothing jumps."""
    model = GeneralModel.from_pair(AttentionModel.mixture())
    return solve(model, 1.5, 0.1, "positional", tol=0.01, with_stability=False)


def test_two_tokens_are_the_pair(smooth):
    x, e = smooth.overlaps, smooth.errors
    assert smooth.converged
    assert smooth.branch == "positional"
    for name, want in SMOOTH.items():
        within(getattr(x, name).ravel()[0], want, getattr(e, name).ravel()[0])
    assert x.m[1, 0] == pytest.approx(-x.m[0, 0], rel=1e-12)
    assert not np.any(x.theta)
    within(smooth.train_loss, SMOOTH_TRAIN, e.train_loss)
    within(smooth.test_error, SMOOTH_TEST, e.test_error)
    within(smooth.linear_error, 0.00197138433, e.linear_error)
    assert smooth.train_loss == pytest.approx(smooth.train_loss_variational, rel=1e-3)
    assert smooth.missed_wells == 0
    assert "positional" in repr(smooth)


@pytest.mark.slow
def test_stability_is_the_pair_s():
    """Slow: the pair's replicon has kernels of its own to compile."""
    pair = solve(AttentionModel.mixture(), 1.5, 0.1, "positional")
    got = solve(GeneralModel.from_pair(pair.model), 1.5, 0.1, "positional", tol=0.01).stability
    for mine, theirs in zip(got.eigenvalues, pair.stability.eigenvalues, strict=True):
        assert mine == pytest.approx(theirs, abs=0.03)
    within(got.replicon, pair.stability.replicon, got.replicon_error)
    assert abs(got.jump_mass) < 4 * got.jump_mass_error
    assert got.stable is pair.stability.stable
    assert got.orbit_directions == 0


def test_a_token_that_is_known_adds_nothing():
    """Softmax on two tokens, S = T = 1 on the third: same training loss, 2/3 of the test error."""
    block = CompiledMechanism(block_value, block_first, block_second)
    law = JointLaw.isotropic(0.5, [[1.0], [-1.0], [0.0]])
    A = [[0.6, 0.4, 0.0], [0.4, 0.6, 0.0], [0.0, 0.0, 1.0]]
    model = GeneralModel(FixedMixture(0.3, A, block), block, law)
    point = solve(model, 1.5, 0.1, "positional", tol=0.02, with_stability=False)
    x, e = point.overlaps, point.errors
    for name, want in SMOOTH.items():
        within(getattr(x, name).ravel()[0], want, getattr(e, name).ravel()[0])
    within(point.train_loss, SMOOTH_TRAIN, e.train_loss)
    within(point.test_error, SMOOTH_TEST * 2 / 3, e.test_error)


@pytest.mark.slow
def test_a_column_that_is_ignored_stays_empty():
    """Slow: another fixed point, of a mechanism that is compiled for it."""
    student = CompiledMechanism(block_value, block_first, block_second)
    law = JointLaw.isotropic(0.5, OPPOSITE)
    model = GeneralModel(FixedMixture(0.3), student, law, rank=2)
    assert not model.rotation_invariant
    point = solve(model, 1.5, 0.1, "positional", tol=0.02, with_stability=False)
    x, e = point.overlaps, point.errors
    for name, want in SMOOTH.items():
        within(getattr(x, name).ravel()[0], want, getattr(e, name).ravel()[0])
    assert x.q[0, 1, 1] < 2e-6 * x.q[0, 0, 0]  # the floor of coordinates
    assert x.V[0, 1, 1] == pytest.approx(0.25 / 0.1, rel=2e-5)  # the same floor
    within(point.train_loss, SMOOTH_TRAIN, e.train_loss)


def test_attention_linear_in_the_fields_is_ridge_regression():
    """S = diag(h), T = diag(y): everything is Gaussian, and a few equations give the answer."""
    diagonal = CompiledMechanism(diagonal_value, diagonal_first, diagonal_second)
    model = GeneralModel(diagonal, diagonal, JointLaw.isotropic(0.5, OPPOSITE))
    alpha, lam, v = 1.5, 0.1, 0.25

    def equations(z):
        q, m, V, theta = z
        # prox of |h-w|^2/2V + v (y-h)^2/2: g = v (y - w)/(1 + v V), and the rest by (2.4), (2.5)
        c = v / (1 + v * V)
        q_hat = 2 * alpha * c**2 * (v - 2 * theta + q + m * m)
        m_hat, V_hat, theta_hat = -2 * alpha * c * m, 2 * alpha * c, 2 * alpha * c
        D = lam + v * V_hat
        q_new = v * (v * q_hat + m_hat**2 + (v * theta_hat) ** 2) / D**2
        return [q_new - q, m_hat / D - m, v / D - V, v * v * theta_hat / D - theta]

    q, m, V, theta = fsolve(equations, [0.1, 0.0, 1.0, 0.1], xtol=1e-13)
    point = solve(model, alpha, lam, "semantic", tol=1e-5, with_stability=False)
    x, e = point.overlaps, point.errors
    for got, want, error in (
        (x.q[0, 0, 0], q, e.q[0, 0, 0]),
        (x.V[0, 0, 0], V, e.V[0, 0, 0]),
        (x.theta[0, 0, 0], theta, e.theta[0, 0, 0]),
        (point.test_error, 0.25 * (v - 2 * theta + q), e.test_error),
    ):
        assert error < 1e-5 * abs(want)
        assert abs(got - want) < 1e-6 * abs(want)
    assert abs(m) < 1e-9


def test_matrices_give_the_map_of_their_atoms():
    d = 40
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((d, d)))[0]
    gamma = np.where(np.arange(d)[:, None] < 10, [[0.9, 0.2]], [[0.1, 0.3]])
    u = np.concatenate(
        [np.sqrt(d) * rng.standard_normal((d, 2)) / 6, rng.standard_normal((d, 1))], 1
    )
    atoms = JointLaw(
        [0.25, 0.75],
        [[0.9, 0.2], [0.1, 0.3]],
        np.array([part.T @ part / len(part) for part in (u[:10], u[10:])]),
    )
    given = JointLaw.from_matrices(
        np.einsum("ia,al,ja->lij", basis, gamma, basis),
        (basis @ u[:, :2]).T / np.sqrt(d),
        basis @ u[:, 2:],
    )
    x = TokenOverlaps([[[0.1]], [[0.05]]], [[0.2], [-0.1]], [[[3.0]], [[2.0]]], [[[0.05]], [[0.0]]])
    answers = []
    for law in (atoms, given):
        model = GeneralModel(FixedMixture(0.3), RowSoftmax(), law)
        hats = general_rule(model, x, 16, scrambles=2, audit=False).averages(x).conjugates(1.5)
        answers.append(token_prior_overlaps(law, hats, 0.01))
    for name in ("q", "m", "V", "theta"):
        got, want = getattr(answers[1], name), getattr(answers[0], name)
        assert got == pytest.approx(want, rel=1e-8, abs=1e-12)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"alpha": 0.0}, "alpha must be > 0"),
        ({"lam": 0.0}, "lam must be > 0 for a general model"),
        ({"tol": 1e-7}, "tol must be in"),
        ({"start": "nowhere"}, "start must be one of semantic"),
        ({"start": Overlaps(0.1, 0.0, 1.0, 0.0)}, "starts from TokenOverlaps"),
        ({"residual_tol": 1e-3}, "takes tol only"),
        ({"on_failure": "ignore"}, "on_failure must be"),
        (
            {"start": TokenOverlaps([[[0.1]]], [[0.0]], [[[1.0]]], [[[0.0]]])},
            r"the start has \(L, r, t\) = \(1, 1, 1\), the model \(2, 1, 1\)",
        ),
    ],
)
def test_bad_input_is_refused(change, match):
    model = GeneralModel.from_pair(AttentionModel.mixture())
    with pytest.raises(ValueError, match=match):
        solve(**({"model": model, "alpha": 1.0, "lam": 0.1} | change))


def test_a_bad_mechanism_is_refused_with_its_side():
    law = JointLaw.isotropic(0.5, OPPOSITE)
    with pytest.raises(ValueError, match="target: A must be 2 x 2, got 3 x 3"):
        GeneralModel(FixedMixture(0.3, A3), RowSoftmax(), law)
    wrong = CompiledMechanism(diagonal_value, diagonal_first, block_second)
    with pytest.raises(ValueError, match="student: the mechanism's"):
        GeneralModel(FixedMixture(0.3), wrong, law)
    with pytest.raises(ValueError, match="rank must be at least 1"):
        GeneralModel(FixedMixture(0.3), RowSoftmax(), law, rank=0)


@pytest.mark.slow
def test_a_tolerance_out_of_reach_is_said(monkeypatch):
    """Slow: a fixed point, and its polishing in vain."""
    monkeypatch.setattr(token_evolution, "MOST_SAMPLES", token_evolution.FIRST_SAMPLES)
    model = GeneralModel.from_pair(AttentionModel.mixture())
    point = solve_general(model, 1.5, 0.1, "positional", 1e-5, with_stability=False)
    assert point.status is Status.QUADRATURE_LIMIT
    assert np.isfinite(point.train_loss)


def test_a_search_that_fails_is_said(monkeypatch):
    model = GeneralModel.from_pair(AttentionModel.mixture())
    monkeypatch.setattr(token_search, "ATTEMPTS", ((1, 0, 0.1),))
    with pytest.raises(ConvergenceError, match="used up") as caught:
        solve(model, 1.5, 0.1, "semantic")
    assert caught.value.result.status is Status.ITERATION_LIMIT
    assert np.isnan(caught.value.result.train_loss)


def test_a_student_that_shrinks_to_nothing_ends_at_zero():
    """docs/theory.md, section 5: with lam = .1, alpha = 1.5 a semantic start runs to Q = 0."""
    model = GeneralModel.from_pair(AttentionModel.mixture())
    point = solve(model, 1.5, 0.1, "semantic")
    assert point.converged
    assert (point.start, point.branch) == ("semantic", "zero")
    assert "ended on the zero branch" in point.message
    assert not point.stability.stable  # towards m


def test_a_student_that_shrinks_where_zero_is_no_solution_is_said(monkeypatch):
    model = GeneralModel.from_pair(AttentionModel.mixture())
    monkeypatch.setattr(token_search, "VANISHING", 1.0)  # so that any is on its way
    point = solve(model, 1.5, 0.01, "semantic", with_stability=False, on_failure="return")
    assert point.status is Status.LEFT_DOMAIN
    assert np.isnan(point.train_loss)


def test_an_overlap_that_only_a_few_jumps_keep_is_none():
    """At |p| = .7, alpha = 1.6 the map of a positional start stops at m = .004."""
    alpha, lam, length = 1.6, 0.01, 0.7
    x = fixed_point([0.092, 0.0, 25.9, 0.0], alpha, lam, length)
    want = growth_of_m(x, alpha, lam, length)
    assert 0.8 < want < 0.95
    point = solve(scaled_model(length), alpha, lam, "positional")
    assert point.branch == "uninformed"
    assert not np.any(point.overlaps.m)
    rate, error = point.stability.transverse["m"]
    assert abs(rate - want) < 4 * error
    for name, value in (("q", x[0]), ("V", x[2])):
        within(getattr(point.overlaps, name)[0, 0, 0], value, getattr(point.errors, name).max())


@pytest.mark.parametrize(("rate", "kept"), [((1.3, 0.1), True), ((1.1, 0.1), False)])
def test_a_small_overlap_is_kept_where_zero_is_unstable(monkeypatch, rate, kept):
    model = GeneralModel.from_pair(AttentionModel.mixture())
    solver = GeneralSolver(model, 1.5, 0.1, "given", 0.01)
    monkeypatch.setattr(solver, "transverse", lambda name, slopes: rate)
    monkeypatch.setattr(solver, "approach", lambda x, rule: x)
    monkeypatch.setattr(token_search, "SEARCH_TOL", 10.0)  # it need not be a fixed point
    one = np.ones((2, 1, 1))
    small = TokenOverlaps(0.01 * one, [[1e-3], [-1e-3]], 2.0 * one, 0 * one)
    x = solver.coordinates.pack(small)
    rule = solver.make(x, SEARCH_SAMPLES)
    assert solver.kept_by_symmetry() == ["m", "theta"]
    there = solver.coordinates.unpack(solver.without_remnant(x, "m", rule))
    assert np.any(there.m) == kept
    assert solver.without_remnant(x, "theta", rule) is x


def test_a_branch_that_large_steps_miss_is_found():
    """At omega = .22, alpha = 1.7 they end uninformed; the branch has its fold at 1.927."""
    pair = AttentionModel.mixture(omega=0.22)
    solver = GeneralSolver(GeneralModel.from_pair(pair), 1.7, 0.01, "positional", 0.05)
    x0 = solver.coordinates.pack(solver.first_state())
    missed, status = solver.descend(x0, token_search.ATTEMPTS)
    assert status is Status.CONVERGED
    assert not solver.reached(missed)
    x, status = solver.search(x0)
    assert status is Status.CONVERGED
    assert solver.reached(x)
    # with few points, and near the fold: q = .0663, m = .2156 in truth
    assert 0.1 < abs(solver.coordinates.unpack(x).m[0, 0]) < 0.3


def test_a_start_without_an_image_gets_noise_until_it_has_one():
    model = GeneralModel(
        FixedMixture(0.3, [[0.6, 0.4], [0.4, 0.6]]),
        RowSoftmax(),
        JointLaw.isotropic(0.5, OPPOSITE),
        rank=2,
    )
    solver = GeneralSolver(model, 1.5, 0.01, "semantic", 0.1)
    start = solver.first_state()
    thin = np.diag([1.0, math.sqrt(0.1)])  # the second column is little but noise
    start = TokenOverlaps(thin @ start.q @ thin, start.m @ thin, start.V, thin @ start.theta)
    x = solver.coordinates.pack(start)
    with pytest.raises(ValueError, match="positive definite"):
        solver.map(x, solver.make(x, SEARCH_SAMPLES))
    found = solver.coordinates.unpack(solver.mapped(x))
    assert solver.maps == 2
    for name in ("m", "V", "theta"):
        assert getattr(found, name) == pytest.approx(getattr(start, name), abs=1e-12)
    rho = model.law.rho
    assert found.noise(rho) == pytest.approx(2 * start.noise(rho), rel=1e-5)
    image = solver.map(solver.coordinates.pack(found), solver.rule).value
    assert np.all(np.isfinite(image))


@pytest.mark.slow
def test_rotated_starts_end_on_one_representative():
    """Slow: two fixed points at rank two, with jumps."""
    law = JointLaw.isotropic(0.5, OPPOSITE)
    model = GeneralModel(FixedMixture(0.3), RowSoftmax(), law, rank=2)
    first = solve(model, 2.0, 0.01, "mixed", tol=0.02)
    assert first.stability.orbit_directions == 1
    assert first.stability.stable
    O = np.array([[0.6, 0.8], [-0.8, 0.6]])
    second = solve(model, 2.0, 0.01, first.overlaps.rotated(O), tol=0.02)
    for name in ("q", "m", "V", "theta"):
        gap = abs(getattr(first.overlaps, name) - getattr(second.overlaps, name))
        assert np.all(gap <= 2 * getattr(first.errors, name) + 1e-6)
    assert second.train_loss == pytest.approx(first.train_loss, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["semantic", "positional"])
def test_reference_values_with_jumps(start):
    """Slow: the jumps of the worked case ask for many samples."""
    want = solve(AttentionModel.mixture(), 1.5, 0.01, start)
    model = GeneralModel.from_pair(AttentionModel.mixture())
    point = solve(model, 1.5, 0.01, start, tol=0.005)
    for name in ("q", "m", "V", "theta"):
        error = getattr(point.errors, name).ravel()[0]
        value = getattr(point.overlaps, name).ravel()[0]
        assert abs(value - getattr(want.overlaps, name)) < 4 * error + 1e-6
    within(point.train_loss, want.train_loss, point.errors.train_loss)
    within(point.test_error, want.test_error, point.errors.test_error)
    jumps = point.stability
    assert abs(jumps.jump_mass - want.stability.jump_mass) < 4 * jumps.jump_mass_error


@pytest.mark.slow
def test_losses_have_the_slopes_of_a_stationary_free_entropy():
    """d eps_t/d alpha = E M and d eps_t/d lam = |Q|^2/2d, at L = 3 with two covariances.

    Slow: five fixed points.
    """
    law = JointLaw.isotropic((0.5, 0.5, 0.7), np.eye(3))
    model = GeneralModel(FixedMixture(0.3, A3), RowSoftmax(0.8), law)

    def loss(alpha, lam):
        return solve(model, alpha, lam, "semantic", tol=0.003, with_stability=False)

    here = loss(1.5, 0.1)
    by_alpha = (loss(1.55, 0.1).train_loss - loss(1.45, 0.1).train_loss) / 0.1
    by_lam = (loss(1.5, 0.104).train_loss - loss(1.5, 0.096).train_loss) / 0.008
    rule = general_rule(model, here.overlaps, 512, audit=False)
    assert by_alpha == pytest.approx(rule.averages(here.overlaps).envelope.mean(), rel=5e-3)
    size = float(np.mean(here.overlaps.q[:2]) / 0.25)  # q_l = gamma_l |Q|^2/d
    assert by_lam == pytest.approx(size / 2, rel=2e-2)
