"""The general channel: against a literal twin, the pair channel, and its own symmetries."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from gamp_theory.channel import general
from gamp_theory.channel.general import general_rule, rule_bytes, token_linear_error
from gamp_theory.channel.pair import PairChannel
from gamp_theory.channel.sobol_kernels import LEAF, STACK_ROWS, ProxProblem, global_prox
from gamp_theory.model import AttentionModel
from gamp_theory.observables import linear_error
from gamp_theory.overlaps import Overlaps
from gamp_theory.spectrum import JointLaw
from gamp_theory.token_mechanisms import FixedMixture, RowSoftmax, attention
from gamp_theory.token_model import GeneralModel
from gamp_theory.token_overlaps import TokenOverlaps

A3 = [[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.0, 0.5, 0.5]]


def two_token_overlaps(q, m, V, theta):
    ones = np.ones((2, 1, 1))
    return TokenOverlaps(q * ones, [[m], [-m]], V * ones, theta * ones)


def as_pair(hats):
    """Conjugates of two tokens in the pair's form: sums, and a difference for m."""
    return np.array(
        [
            hats.q_hat.sum(),
            hats.m_hat[0, 0] - hats.m_hat[1, 0],
            hats.V_hat.sum(),
            hats.theta_hat.sum(),
        ]
    )


def flat(hats):
    return np.concatenate([x.ravel() for x in (hats.q_hat, hats.m_hat, hats.V_hat, hats.theta_hat)])


def with_errors(averages, function):
    """Mean over scrambles and standard error of `function` of the conjugates, and the losses."""
    rows = [
        np.concatenate([function(averages.conjugates(1.0, values)), [loss, test]])
        for values, loss, test in zip(
            averages.values, averages.loss, averages.test_error, strict=True
        )
    ]
    return np.mean(rows, axis=0), np.std(rows, axis=0, ddof=1) / np.sqrt(len(rows))


def spd(rng, *shape):
    x = rng.standard_normal((*shape, shape[-1]))
    return x @ np.swapaxes(x, -1, -2) / shape[-1] + 0.3 * np.eye(shape[-1])


def rank_two_model(seed=0):
    rng = np.random.default_rng(seed)
    law = JointLaw([0.4, 0.6], rng.uniform(0.2, 0.9, (2, 2)), spd(rng, 2, 4))
    model = GeneralModel(FixedMixture(0.3), RowSoftmax(0.8), law, rank=2)
    theta = 0.1 * rng.standard_normal((2, 2, 2))
    q = 0.2 * spd(rng, 2, 2) + theta @ np.linalg.solve(law.rho, np.swapaxes(theta, 1, 2))
    q = 0.5 * (q + np.swapaxes(q, 1, 2))
    return model, TokenOverlaps(q, 0.3 * rng.standard_normal((2, 2)), 2 * spd(rng, 2, 2), theta)


def naive_averages(model, x, points):
    """docs/theory.md, section 2, one sample after another and every sum an einsum."""
    L, r, t = model.tokens, model.rank, model.teacher_rank
    rho, variance = model.law.rho, model.law.weights @ model.law.gamma
    precision = np.linalg.inv(x.V)
    sums = {"q": 0.0, "m": 0.0, "V": 0.0, "y": 0.0, "loss": 0.0, "test": 0.0}
    for point in points:
        z, zeta = point[: L * t].reshape(L, t), point[L * t :].reshape(L, r)
        y = np.stack([np.linalg.cholesky(rho[l]) @ z[l] for l in range(L)])
        w, inverse_noise = np.empty((L, r)), np.empty((L, r, r))
        for l in range(L):
            noise = np.linalg.cholesky(x.q[l] - x.theta[l] @ np.linalg.inv(rho[l]) @ x.theta[l].T)
            w[l] = x.m[l] + x.theta[l] @ np.linalg.inv(rho[l]) @ y[l] + noise @ zeta[l]
            inverse_noise[l] = np.linalg.inv(noise)
        T = attention(model.target, y)

        def loss(h, T=T):
            D = T - attention(model.student, h.reshape(L, r))
            return 0.5 * np.trace(D @ np.diag(variance) @ D.T)

        def objective(h, w=w, loss=loss):
            gap = h.reshape(L, r) - w
            return 0.5 * np.einsum("la,lab,lb->", gap, precision, gap) + loss(h)

        starts = [w.ravel(), np.zeros(L * r), -w.ravel(), y[:, :r].ravel(), -y[:, :r].ravel()]
        options = {"gtol": 1e-10}
        ends = [minimize(objective, s, method="BFGS", options=options) for s in starts]
        h = min(ends, key=lambda end: end.fun).x.reshape(L, r)
        g = np.einsum("lab,lb->la", precision, h - w)
        sums["q"] += np.einsum("la,lb->lab", g, g)
        sums["m"] += g
        sums["V"] -= np.einsum("la,lb,lbc->lac", g, zeta, inverse_noise)
        sums["y"] += np.einsum("la,lb->lab", g, y)
        sums["loss"] += loss(h.ravel())
        sums["test"] += 2 * loss(w.ravel()) / L
    means = {name: value / len(points) for name, value in sums.items()}
    # the better of the two estimates of an entry off the diagonal weighs more
    V_hat = np.empty((L, r, r))
    for l in range(L):
        C = x.q[l] - x.theta[l] @ np.linalg.inv(rho[l]) @ x.theta[l].T
        s2, U = np.linalg.eigh(C)
        X = U.T @ means["V"][l] @ U
        for a in range(r):
            for b in range(r):
                V_hat[l, a, b] = (s2[b] * X[a, b] + s2[a] * X[b, a]) / (s2[a] + s2[b])
        V_hat[l] = U @ V_hat[l] @ U.T
    theta_hat = np.einsum(
        "lab,lbc->lac", means["y"] + np.einsum("lab,lbc->lac", V_hat, x.theta), np.linalg.inv(rho)
    )
    hats = [means["q"], means["m"], V_hat, theta_hat]
    return np.concatenate([v.ravel() for v in hats]), means["loss"], means["test"]


def test_averages_are_the_formulas():
    model, overlaps = rank_two_model()
    rule = general_rule(model, overlaps, 4, scrambles=2, audit=False)
    averages = rule.averages(overlaps)
    hats, loss, test = naive_averages(model, overlaps, np.concatenate(rule.points))
    assert flat(averages.conjugates(1.0)) == pytest.approx(hats, rel=1e-6, abs=1e-8)
    assert averages.loss.mean() == pytest.approx(loss, rel=1e-7)
    assert averages.test_error.mean() == pytest.approx(test, rel=1e-12)


def test_envelope_is_the_mean_of_the_minimum():
    """Its derivative in V is ``-q_hat/2``: (2.7), at frozen points."""
    model, x = rank_two_model()
    rule = general_rule(model, x, 64, scrambles=2, audit=False)
    step = 1e-4 * np.array([[1.0, 0.3], [0.3, -0.5]])

    def mean(sign):
        V = x.V + sign * np.array([step, 0 * step])
        return rule.averages(TokenOverlaps(x.q, x.m, V, x.theta)).envelope.mean()

    hats = rule.averages(x).conjugates(1.0)
    want = -0.5 * np.sum(hats.q_hat[0] * step)
    assert (mean(1) - mean(-1)) / 2 == pytest.approx(want, rel=1e-5)


def pair_scores(states, largest_V, tol, samples):
    """Deviations from the pair channel in standard errors, at random states."""
    rng = np.random.default_rng(0)
    scores = []
    for k in range(states):
        pair = AttentionModel.mixture(omega=rng.uniform(0, 0.8), sigma=rng.uniform(0.3, 0.7))
        q = rng.uniform(0.1, 0.6) * pair.rho
        theta = 0.8 * np.sqrt(q * pair.rho) * rng.choice([0.0, rng.uniform()])
        V = rng.uniform(0.02, 1) * largest_V / pair.rho
        state = Overlaps(q, rng.uniform(0, 0.4), V, theta)
        want = PairChannel(pair).rule(state, tol).averages(state)
        exact = np.array([want.q_hat, want.m_hat, want.V_hat, want.theta_hat, want.loss])
        x = two_token_overlaps(state.q, state.m, state.V, state.theta)
        model = GeneralModel.from_pair(pair)
        averages = general_rule(model, x, samples, seed=k, audit=False).averages(x)
        mean, error = with_errors(averages, as_pair)
        known = error[:5] > 0  # theta_hat is 0 by symmetry at theta = 0
        assert np.all(exact[:5][~known] == 0)
        scores.append(((mean[:5] - exact) / np.where(known, error[:5], 1.0))[known])
    return np.concatenate(scores)


def check_scores(scores):
    """No bias, and no error bar that promises too much; 1.07 is expected of 16 scrambles.

    The scores of one state are correlated: the mean of twenty states spreads by .23 (eight seeds,
    whose own mean is -.01(8)).
    """
    assert np.max(abs(scores)) < 5
    assert abs(scores.mean()) < 0.75
    assert 0.8 < scores.std() < 1.35


def test_scores_against_the_pair_channel_are_standard_normal():
    check_scores(pair_scores(20, largest_V=1.2, tol=1e-3, samples=64))


@pytest.mark.slow
def test_scores_against_the_pair_channel_at_heavy_jumps():
    """Slow because the pair channel is, at such V and to such accuracy."""
    check_scores(pair_scores(20, largest_V=4.5, tol=1e-4, samples=1024))


def test_prox_is_the_lowest_that_branch_and_bound_finds():
    """The state with the most jumps of the reference table: few samples may miss, none by much."""
    pair = AttentionModel.mixture()
    overlaps = two_token_overlaps(0.0434472, 0.248241, 16.4294, 0.0)
    model = GeneralModel.from_pair(pair)
    rule = general_rule(model, overlaps, 256, scrambles=2, audit=False)
    root = np.sqrt(0.0434472)
    missed = 0
    stack = np.empty((STACK_ROWS, 3))
    for points, wells in zip(rule.points, rule.wells, strict=True):
        y = pair.sigma * points[:, :2]
        w = np.array([0.248241, -0.248241]) + root * points[:, 2:]
        T = attention(model.target, y[:, :, None])
        t = np.stack([T[:, 0, 0] - T[:, 0, 1], T[:, 1, 1] - T[:, 1, 0]], axis=1)
        for k in range(len(points)):
            p = ProxProblem(w[k, 0], w[k, 1], t[k, 0], t[k, 1], 16.4294 * 0.125)
            h1, h2, _ = global_prox(p, LEAF, stack)
            missed += not np.allclose(wells[k, 0].ravel(), [h1, h2], atol=1e-6)
    assert missed <= 1  # of 1024


def test_rotations_exchanges_and_labels_change_nothing():
    """Q -> Q O, tokens exchanged: independent points, so equal within error bars."""
    model, x = rank_two_model()
    O = np.array([[0.6, -0.8], [0.8, 0.6]])
    turned = x.rotated(O)
    law = model.law
    order = [1, 0, 2, 3]
    swapped_law = JointLaw(law.weights, law.gamma[:, ::-1], law.moments[:, order][:, :, order])
    swapped_model = GeneralModel(model.target, model.student, swapped_law, rank=2)
    swapped = TokenOverlaps(x.q[::-1], x.m[::-1], x.V[::-1], x.theta[::-1])

    def invariants(turn, flip):
        def function(hats):
            q, V = (turn @ z[flip] @ turn.T for z in (hats.q_hat, hats.V_hat))
            m, theta = hats.m_hat[flip] @ turn.T, turn @ hats.theta_hat[flip]
            return np.concatenate([z.ravel() for z in (q, m, V, theta)])

        return function

    same = slice(None)
    answers = [
        with_errors(general_rule(mod, at, 128, seed=seed, audit=False).averages(at), function)
        for seed, (mod, at, function) in enumerate(
            [
                (model, x, invariants(np.eye(2), same)),
                (model, turned, invariants(O, same)),
                (swapped_model, swapped, invariants(np.eye(2), slice(None, None, -1))),
            ]
        )
    ]
    for other in (1, 2):
        scores = (answers[0][0] - answers[other][0]) / np.hypot(answers[0][1], answers[other][1])
        assert np.max(abs(scores)) < 4.5
        assert 0.5 < np.sqrt(np.mean(scores**2)) < 1.6


def test_symmetric_states_stay_symmetric():
    model = GeneralModel.from_pair(AttentionModel.mixture())
    semantic = two_token_overlaps(0.08, 0.0, 10.0, 0.1)
    hats = general_rule(model, semantic, 8, audit=False).averages(semantic).conjugates(1.0)
    assert not np.any(hats.m_hat)
    assert np.all(hats.theta_hat > 0)
    positional = two_token_overlaps(0.08, 0.2, 10.0, 0.0)
    hats = general_rule(model, positional, 8, audit=False).averages(positional).conjugates(1.0)
    assert not np.any(hats.theta_hat)
    assert np.any(hats.m_hat)


def test_a_rule_is_a_function_of_the_state(monkeypatch):
    model, x = rank_two_model()
    rule = general_rule(model, x, 16, scrambles=3, audit=False)
    near = TokenOverlaps(1.02 * x.q, x.m, 1.05 * x.V, x.theta)
    first = rule.averages(near).values
    rule.averages(x)
    assert np.array_equal(rule.averages(near).values, first)
    monkeypatch.setattr(general, "THREADS", 1)
    again = general_rule(model, x, 16, scrambles=3, audit=False)
    assert np.array_equal(again.averages(near).values, first)
    # wells followed are wells found
    fresh = general_rule(model, near, 16, scrambles=3, audit=False).averages(near).values
    assert first[:, :-1] == pytest.approx(fresh[:, :-1], rel=1e-7, abs=1e-9)


def test_more_points_begin_with_the_fewer_and_their_wells():
    model, x = rank_two_model()
    few = general_rule(model, x, 8, scrambles=2, audit=False)
    many = general_rule(model, x, 16, scrambles=2, audit=False, previous=few, brief=True)
    assert np.array_equal(many.points[0][:16], few.points[0])
    assert many.wells[0][:16, 0] == pytest.approx(few.wells[0][:, 0], abs=1e-7)


def test_points_have_the_moments_of_normals():
    model, x = rank_two_model()
    rule = general_rule(model, x, 64, scrambles=2, audit=False)
    for points in rule.points:
        assert points.mean(axis=0) == pytest.approx(np.zeros(8), abs=1e-13)
        assert points.T @ points / 128 == pytest.approx(np.eye(8), abs=1e-12)
        assert np.array_equal(points[::2, 4:], -points[1::2, 4:])


def test_derivatives_are_those_of_g_where_nothing_jumps():
    """With V small: the pointwise average and Stein's form agree within error bars."""
    model, x = rank_two_model()
    x = TokenOverlaps(x.q, x.m, 0.1 * x.V, x.theta)
    rule = general_rule(model, x, 512, audit=False)
    averages = rule.averages(x)
    diagonal, square = rule.derivatives(x)
    gap = np.array(
        [
            averages.conjugates(1.0, values).V_hat + D
            for values, D in zip(averages.values, diagonal, strict=True)
        ]
    )
    scores = gap.mean(axis=0) / (gap.std(axis=0, ddof=1) / 4)
    assert np.max(abs(scores)) < 4.5
    assert np.max(abs(gap.mean(axis=0))) < 0.05 * np.max(abs(diagonal))
    # the square at equal indices is a mean of squares, so at least the square of the mean
    entry = square.mean(axis=0)[0, 0]
    assert entry >= diagonal.mean(axis=0)[0, 0, 0] ** 2


def test_linear_baseline_is_the_pair_s():
    pair = AttentionModel.mixture()
    value, error = token_linear_error(GeneralModel.from_pair(pair), samples=2**8)
    assert abs(value - linear_error(pair)) < 5 * error
    assert error < 0.01 * value


def test_memory_is_what_is_stated_and_refused_before_it_is_taken():
    law = JointLaw.isotropic(0.5, np.eye(3))
    model = GeneralModel(FixedMixture(0.3, A3), RowSoftmax(), law, rank=2)
    overlaps = TokenOverlaps(
        np.tile(0.1 * np.eye(2), (3, 1, 1)),
        np.zeros((3, 2)),
        np.tile(np.eye(2), (3, 1, 1)),
        np.full((3, 2, 1), 0.05),
    )
    rule = general_rule(model, overlaps, 8, scrambles=2, audit=False)
    held = sum(x.nbytes for x in (*rule.points, *rule.wells, *rule.counts))
    assert held <= rule_bytes(model, 8, 2) <= 1.4 * held
    with pytest.raises(ValueError, match=r"samples take .* MiB"):
        general_rule(model, overlaps, 2**10, memory_limit=10**6)


@pytest.mark.parametrize(
    ("change", "match"),
    [({"samples": 12}, "power of two"), ({"scrambles": 1}, "at least 2")],
)
def test_bad_rules_are_refused(change, match):
    model, x = rank_two_model()
    with pytest.raises(ValueError, match=match):
        general_rule(model, x, **({"samples": 8, "scrambles": 2} | change))


def test_singular_states_are_refused():
    model = GeneralModel.from_pair(AttentionModel.mixture())
    with pytest.raises(ValueError, match="must be positive definite"):
        general_rule(model, two_token_overlaps(0.25, 0.0, 1.0, 0.25), 8)
