"""Message passing for the general model: the pair's where that applies, its formulas, its limit."""

import numpy as np
import pytest
from scipy.optimize import minimize

from gamp_theory.empirical.gamp import ONSAGER, GampStatus, message_passing
from gamp_theory.empirical.measure import mean_and_stderr
from gamp_theory.empirical.task import draw_task
from gamp_theory.empirical.token_gamp import TokenMessages
from gamp_theory.empirical.token_task import TokenTask, draw_token_task, train_tokens
from gamp_theory.model import AttentionModel
from gamp_theory.spectrum import JointLaw
from gamp_theory.state_evolution import solve
from gamp_theory.token_mechanisms import FixedMixture, RowSoftmax, attention
from gamp_theory.token_model import GeneralModel
from gamp_theory.token_overlaps import TokenOverlaps
from gamp_theory.trajectory import trajectory

PAIR = AttentionModel.mixture(omega=0.3, sigma=0.5)
A3 = [[0.6, 0.3, 0.1], [0.2, 0.6, 0.2], [0.1, 0.3, 0.6]]
THREE = GeneralModel(
    FixedMixture(0.3, A3), RowSoftmax(), JointLaw.isotropic(0.5, [[1.0], [0.0], [-1.0]])
)


def mixed_model():
    """Three tokens, both ranks 2, two groups of directions, covariances that differ by token."""
    moments = np.eye(5) + 0.2
    law = JointLaw([0.5, 0.5], [[0.3, 0.2, 0.5], [0.1, 0.4, 0.2]], np.array([moments, moments]))
    return GeneralModel(FixedMixture(0.3, A3), RowSoftmax(0.7, causal=True), law, rank=2)


def as_general(pair):
    """The same data as a task of the general model."""
    d = pair.d
    return TokenTask(
        model=GeneralModel.from_pair(pair.model),
        lam=pair.lam,
        seed=pair.seed,
        bias_free=pair.bias_free,
        gamma=np.full((d, 2), pair.model.rho),
        tau=np.ones((d, 1)) * [[1.0, -1.0]],
        teacher=np.array(pair.teacher)[:, None],
        tokens=np.array(pair.tokens),
        gram=np.array(pair.gram),
        cross=np.array(pair.cross),
        target_square=pair.target_square,
    )


@pytest.fixture(scope="module")
def general():
    return draw_token_task(mixed_model(), 60, 3.0, 0.05, 3, bias_free=True)


@pytest.mark.parametrize("onsager", ONSAGER)
@pytest.mark.parametrize(("damping", "lagging"), [(0.0, False), (0.5, True)])
@pytest.mark.parametrize("start", ["semantic", "positional"])  # Q = Q*: no spread given y
def test_two_tokens_are_the_pair_iterate_by_iterate(onsager, damping, lagging, start):
    """Different searches for the prox, with jumps at alpha = 1.25."""
    pair = draw_task(PAIR, 200, 1.25, 0.01, (3, 1), bias_free=True)
    Q = pair.teacher if start == "semantic" else np.full(200, 0.25)
    options = {"damping": damping, "lagging": lagging, "onsager": onsager, "max_iterations": 3}
    want = message_passing(pair, Q, 10.0, **options)
    got = message_passing(as_general(pair), Q[:, None], 10.0, **options)
    np.testing.assert_allclose(got.Q[:, 0], want.Q, atol=1e-10)
    np.testing.assert_allclose(got.fields[..., 0], want.fields, atol=1e-10)
    for name in ("q", "m", "theta", "V"):
        values = getattr(got.trajectory, name)
        assert values.shape == ((4, 2, 1) if name == "m" else (4, 2, 1, 1))
        first = values.reshape(4, 2)
        np.testing.assert_allclose(first[:, 0], getattr(want.trajectory, name), atol=1e-10)
        np.testing.assert_allclose(
            first[:, 1], -first[:, 0] if name == "m" else first[:, 0], atol=1e-10
        )
        assert np.array_equal(getattr(got, name), values[-1])
    np.testing.assert_allclose(got.trajectory.step, want.trajectory.step, rtol=1e-9)
    # the pair's R is sigma**2 times the sum over tokens
    for name in ("response_pointwise", "response_stein"):
        sums = 0.25 * getattr(got.trajectory, name).sum(axis=(1, 2, 3))
        np.testing.assert_allclose(sums, getattr(want.trajectory, name), rtol=1e-9)
    assert (got.status, got.start) == (want.status, want.start)


def test_proxes_are_those_of_the_definition(general):
    """The lowest of many descents; g and the response from differences of it."""
    messages = TokenMessages(general, 0.05)
    rng = np.random.default_rng(1)
    V = np.array([v @ v.T + 0.5 * np.eye(2) for v in rng.standard_normal((3, 2, 2))])
    w = rng.standard_normal((general.n, 3, 2))
    h, g, response, failures = messages.proxes(w, V, np.zeros_like(w))
    assert failures == 0
    np.testing.assert_allclose(np.einsum("lab,nlb->nla", V, g), h - w, atol=1e-10)
    variance, precision = general.gamma.mean(axis=0), np.linalg.inv(V)
    T = attention(general.model.target, general.teacher_fields)
    for i in range(3):

        def energy(x, i=i):
            gap = T[i] - attention(general.model.student, x.reshape(3, 2))
            away = x.reshape(3, 2) - w[i]
            return 0.5 * np.sum(gap**2 * variance) + 0.5 * np.einsum(
                "la,lab,lb", away, precision, away
            )

        starts = np.concatenate([w[i : i + 1], rng.standard_normal((20, 3, 2))])
        ends = [minimize(energy, s.ravel(), method="BFGS", options={"gtol": 1e-7}) for s in starts]
        best = min(ends, key=lambda end: end.fun)
        assert energy(h[i].ravel()) <= best.fun + 1e-10
        np.testing.assert_allclose(h[i].ravel(), best.x, atol=1e-4)
    step = 1e-5
    for l in range(3):
        for b in range(2):
            moved = [w.copy(), w.copy()]
            moved[0][:, l, b] += step
            moved[1][:, l, b] -= step
            up, down = (messages.proxes(x, V, h)[1][:, l].sum(axis=0) for x in moved)
            quotient = -(up - down) / (2 * step) / general.d
            np.testing.assert_allclose(response[l, :, b], quotient, rtol=1e-5, atol=1e-8)


def test_an_iteration_is_the_formulas(general):
    """Direction by direction, as docs/theory.md has them."""
    d, lam = general.d, general.lam
    V = np.array([[[3.0, 0.5], [0.5, 2.0]]] * 3)
    rng = np.random.default_rng(2)
    Q = rng.standard_normal((d, 2))
    messages = TokenMessages(general, 0.05)
    g = np.zeros((general.n, 3, 2))
    h = g
    start = Q, V
    for _ in range(2):
        w = np.stack([general.tokens[:, l] @ Q - g[:, l] @ V[l] for l in range(3)], axis=1)
        h, g, R, _ = messages.proxes(w, V, h)
        new_Q, new_V = np.empty_like(Q), np.zeros_like(V)
        for i in range(d):
            A = lam * np.eye(2) + sum(general.gamma[i, l] * R[l] for l in range(3))
            pull = sum(general.tokens[:, l, i] @ g[:, l] for l in range(3))
            pull = pull + sum(general.gamma[i, l] * R[l] @ Q[i] for l in range(3))
            new_Q[i] = np.linalg.solve(A, pull)
            for l in range(3):
                new_V[l] += general.gamma[i, l] * np.linalg.inv(A) / d
        Q, V = new_Q, new_V
    found = message_passing(general, *start, onsager="pointwise", max_iterations=2)
    np.testing.assert_allclose(found.Q, Q, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(found.V, V, rtol=1e-10)
    for got, want in zip((found.q, found.m, found.theta), general.overlaps(found.Q), strict=True):
        assert np.array_equal(got, want)


@pytest.mark.parametrize(
    "onsager",
    # eight seconds more, for a fixed point that the other forms find, too
    [pytest.param(name, marks=pytest.mark.slow if name == "stein" else ()) for name in ONSAGER],
)
def test_fixed_points_are_critical_points_of_the_risk(general, onsager):
    found = message_passing(
        general, "semantic", damping=0.5, lagging=True, onsager=onsager, tol=1e-5
    )
    assert found.status is GampStatus.converged
    assert found.step <= 1e-5
    # the gradient is lam (Q - Q'), the entries of Q are of order 1
    assert np.abs(general.risk_and_gradient(found.Q)[1]).max() < 0.05 * 1e-4
    np.testing.assert_allclose(general.fields(found.Q), found.fields, atol=1e-3)
    trained = train_tokens(general, found.Q, gradient_tol=1e-8, test_samples=10)
    np.testing.assert_allclose(found.Q, trained.Q, atol=1e-2)


def test_the_forms_of_the_response_agree_where_nothing_jumps():
    """One column has next to no spread given the teacher's fields, the other has."""
    model = mixed_model()
    gaps = []
    for instance in range(16):
        task = draw_token_task(model, 400, 2.0, 0.2, (6, instance), bias_free=True)
        Q = 0.3 * np.random.default_rng(instance).standard_normal((400, 2))
        Q[:, 0] = 0.3 * task.teacher[:, 1]
        path = message_passing(task, Q, 0.3, max_iterations=1).trajectory
        gaps.append(path.response_pointwise[0] - path.response_stein[0])
        np.testing.assert_allclose(
            path.response_stein[0], np.swapaxes(path.response_stein[0], 1, 2), rtol=1e-12
        )
        size = np.abs(path.response_pointwise[0]).max()
    mean = np.mean(gaps, axis=0)
    stderr = np.std(gaps, axis=0, ddof=1) / 4
    assert stderr.max() < 0.05 * size
    assert np.abs(mean / stderr).max() < 5  # twelve entries of Student's t, 15 degrees of freedom


def test_it_says_how_it_ended(general):
    bare = draw_token_task(GeneralModel.from_pair(PAIR), 200, 1.5, 0.0, (4, 1))
    results = {
        "converged": message_passing(
            general, "semantic", damping=0.5, lagging=True, onsager="pointwise", tol=1e-3
        ),
        "iteration_limit": message_passing(general, "semantic", max_iterations=1),
        "non_finite": message_passing(general, np.full((60, 2), 1e200), 1.0),
        "left_domain": message_passing(bare, np.full((200, 1), 0.05), 3.0),
    }
    assert set(results) == set(GampStatus)
    for token, result in results.items():
        assert result.status == token


def test_same_task_same_numbers(general):
    there, again = (message_passing(general, "semantic", max_iterations=3) for _ in range(2))
    assert np.array_equal(there.Q, again.Q)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"V": 0}, "V must be a positive number or 3 positive definite matrices"),
        ({"V": np.ones((3, 2, 2))}, "V must be a positive number or 3 positive definite"),
        ({"V": np.ones(3)}, "V must be"),
        ({"V": "one"}, "V must be"),
        ({"start": "zero"}, "start must be one of semantic, positional, mixed, uninformed, random"),
        ({"start": np.ones(60)}, r"start must be finite and of shape \(60, 2\), got \(60,\)"),
        ({"onsager": "none"}, "onsager must be one of"),
    ],
)
def test_bad_input_is_refused(general, change, message):
    with pytest.raises(ValueError, match=message):
        message_passing(general, **change)


# ---------------------------------------------------------------------------------- the dynamics


def test_the_trajectory_of_two_tokens_is_the_pair_s():
    pair = trajectory(PAIR, 1.5, 0.1, solve(PAIR, 1.5, 0.1, "positional", 1e-4).overlaps, 1)[1]
    start = TokenOverlaps(*_matrices(q=0.02, m=0.2, V=3.0, theta=0.0))
    states = trajectory(GeneralModel.from_pair(PAIR), 1.5, 0.1, start, 8)
    assert len(states) == 9
    last = states[-1]
    assert last.q[0, 0, 0] == pytest.approx(pair.q, rel=0.02)
    assert last.m[0, 0] == pytest.approx(pair.m, rel=0.01)
    assert last.V[1, 0, 0] == pytest.approx(pair.V, rel=0.01)
    assert not last.theta.any()  # by symmetry


def _matrices(q, m, V, theta):
    ones = np.ones((2, 1, 1))
    return q * ones, [[m], [-m]], V * ones, theta * ones


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tol": 1e-5}, r"tol must be in \[0.0001, 0.1\]"),
        ({"start": solve}, "start must be TokenOverlaps, got function"),
        (
            {"start": TokenOverlaps(*_matrices(0.25, 0.1, 3.0, 0.25))},
            "must be positive definite for every token",
        ),
    ],
)
def test_bad_trajectories_are_refused(change, message):
    start = TokenOverlaps(*_matrices(0.25, 0.1, 3.0, 0.1))
    arguments = {"alpha": 1, "lam": 0.1, "start": start, "iterations": 2}
    with pytest.raises(ValueError, match=message):
        trajectory(GeneralModel.from_pair(PAIR), **arguments | change)


def test_undamped_iterates_follow_state_evolution():
    """Three tokens, from a start whose overlaps are those of the limit exactly."""
    seen = []
    for instance in range(6):
        task = draw_token_task(THREE, 500, 1.5, 0.1, (7, instance), bias_free=True)
        Q = 0.2 * (task.tau[:, :1] - task.tau[:, 2:])
        path = message_passing(task, Q, 3.0, max_iterations=3).trajectory
        seen.append([path.q[:, 0, 0, 0], path.m[:, 0, 0], path.V[:, 2, 0, 0]])
    ones = np.ones((3, 1, 1))
    start = TokenOverlaps(0.04 * ones, [[0.4], [0.0], [-0.4]], 3 * ones, 0 * ones)
    states = trajectory(THREE, 1.5, 0.1, start, 3, 5e-3)
    expected = np.array(
        [
            [state.q[0, 0, 0] for state in states],
            [state.m[0, 0] for state in states],
            [state.V[2, 0, 0] for state in states],
        ]
    )
    np.testing.assert_allclose(np.array(seen)[:, :, 0], [expected[:, 0]] * 6, rtol=1e-10)
    mean, stderr = np.mean(seen, axis=0), np.std(seen, axis=0, ddof=1) / np.sqrt(6)
    expected, mean, stderr = expected[:, 1:], mean[:, 1:], stderr[:, 1:]
    assert np.all(stderr < 0.07 * abs(expected))
    # what the theory allows itself in a map is not added: it is well below
    assert np.abs((mean - expected) / stderr).max() < 4.8  # 5e-3 of Student's t


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "alpha", "lam"), [("semantic", 2.0, 0.01), ("positional", 1.5, 0.1)]
)
def test_fixed_points_of_three_tokens_are_those_of_state_evolution(start, alpha, lam):
    """At d = 1000, damped, eight instances; replica symmetry holds at both places."""
    point = solve(THREE, alpha, lam, start, 3e-3)
    assert point.stability.replicon < 0.5
    rows = []
    for instance in range(8):
        task = draw_token_task(THREE, 1000, alpha, lam, (8, instance), bias_free=True)
        found = message_passing(task, start, damping=0.5, lagging=True, tol=1e-6)
        assert found.status is GampStatus.converged
        rows.append(
            {
                "q": found.q[:, 0, 0].mean(),
                "V": found.V[:, 0, 0].mean(),
                "m": np.sqrt(np.sum(found.m**2) / 3),
                "theta": abs(found.theta[:, 0, 0].mean()),
                "train_loss": task.risk_and_gradient(found.Q)[0] / task.d,
                "test_error": task.test_error(found.Q, 5000),
            }
        )
    x, e = point.overlaps, point.errors
    expected = {
        "q": (x.q.mean(), e.q.mean()),
        "V": (x.V.mean(), e.V.mean()),
        "m": (np.sqrt(np.sum(x.m**2) / 3), e.m.max()),
        "theta": (abs(x.theta.mean()), e.theta.mean()),
        "train_loss": (point.train_loss, e.train_loss),
        "test_error": (point.test_error, e.test_error),
    }
    del expected["m" if start == "semantic" else "theta"]  # of order 1/sqrt(d) in an instance
    scores = {}
    for name, (value, bar) in expected.items():
        mean, stderr, _ = mean_and_stderr([row[name] for row in rows])
        scores[name] = (mean - value) / np.hypot(stderr, bar)
        print(f"{start} {name}: {value:.6g} +- {bar:.1g}, found {mean:.6g} +- {stderr:.1g}, "
              f"z = {scores[name]:.2f}")  # fmt: skip
    assert max(map(abs, scores.values())) < 4.0, scores
