"""Message passing at finite d, and the dynamics of state evolution that it follows."""

import numpy as np
import pytest
from scipy.optimize import minimize

from gamp_theory.channel.sobol_kernels import LEAF
from gamp_theory.empirical import gamp
from gamp_theory.empirical.gamp import GampStatus, message_passing
from gamp_theory.empirical.gamp_kernels import sentence_proxes
from gamp_theory.empirical.measure import mean_and_stderr
from gamp_theory.empirical.task import draw_task
from gamp_theory.empirical.training import train
from gamp_theory.model import AttentionModel
from gamp_theory.overlaps import Overlaps
from gamp_theory.state_evolution import solve
from gamp_theory.trajectory import trajectory

MODEL = AttentionModel.mixture(omega=0.3, sigma=0.5)


def contrasts(h):
    return np.tanh([h[0] * (h[0] - h[1]) / 2, h[1] * (h[1] - h[0]) / 2])


def prox_twin(w, t, V, c):
    """The lowest of many descents from a grid."""

    def objective(h):
        return np.sum((h - w) ** 2) / (2 * V) + c / 2 * np.sum((t - contrasts(h)) ** 2)

    starts = [np.array([a, b]) for a in np.linspace(-2, 2, 5) for b in np.linspace(-2, 2, 5)]
    found = [minimize(objective, w + s, method="BFGS", options={"gtol": 1e-9}) for s in starts]
    return min(found, key=lambda f: f.fun).x


@pytest.fixture(scope="module")
def easy():
    """Without jumps and with exact second moments: everything converges, to one point."""
    return draw_task(MODEL, d=200, alpha=1.5, lam=0.1, seed=(4, 1), bias_free=True)


def test_kernel_is_the_prox_of_the_twin():
    rng = np.random.default_rng(0)
    w, t, V, c = rng.standard_normal((6, 2)), rng.uniform(-0.8, 0.8, (6, 2)), 14.0, 0.125
    h, g, slope, failures = sentence_proxes(w, t, V, c, LEAF)
    expected = [prox_twin(*sentence, V, c) for sentence in zip(w, t, strict=True)]
    np.testing.assert_allclose(h, expected, atol=1e-5)
    np.testing.assert_allclose(g, (h - w) / V, atol=1e-12)
    assert failures == 0
    step = 1e-5
    quotient = 0
    for l in range(2):
        e = step * np.eye(2)[l]
        up, down = (sentence_proxes(w + s * e, t, V, c, LEAF)[1][:, l] for s in (1, -1))
        quotient = quotient + (up - down) / (2 * step)
    np.testing.assert_allclose(slope, quotient, rtol=1e-6)


def test_two_iterations_are_the_formulas(easy):
    rho, d, V0 = 0.25, 200, 3.0
    F = easy.tokens
    T = easy.model.target.matrix(easy.teacher_fields[..., None])
    t = np.stack([T[:, 0, 0] - T[:, 0, 1], T[:, 1, 1] - T[:, 1, 0]], axis=1)
    Q, g, V = easy.teacher, np.zeros_like(t), V0
    for _ in range(2):
        w = np.einsum("nld,d->nl", F, Q) - V * g
        h = sentence_proxes(w, t, V, rho / 2, LEAF)[0]
        g = (h - w) / V
        slope = sentence_proxes(w, t, V, rho / 2, LEAF)[2]
        R = -rho / d * slope.sum()
        Q = (np.einsum("nld,nl->d", F, g) + R * Q) / (0.1 + R)
        V = rho / (0.1 + R)
    found = message_passing(easy, "semantic", V0, onsager="pointwise", max_iterations=2)
    np.testing.assert_allclose(found.Q, Q, atol=1e-11)
    np.testing.assert_allclose(found.V, V, rtol=1e-12)
    np.testing.assert_allclose(found.trajectory.V[0], V0)
    assert (found.q, found.m, found.theta) == tuple(easy.overlaps(found.Q))


@pytest.mark.parametrize("onsager", gamp.ONSAGER)
def test_fixed_points_are_critical_points_of_the_risk(easy, onsager):
    found = message_passing(easy, "positional", damping=0.5, onsager=onsager)
    assert found.status is GampStatus.converged
    assert found.step <= 1e-10
    assert found.iterations == len(found.trajectory.q) - 1
    gradient = easy.risk_and_gradient(found.Q)[1]
    # The gradient is lam (Q - Q'), and |Q|_inf is of order 1.
    assert np.abs(gradient).max() < 1e-9
    np.testing.assert_allclose(easy.fields(found.Q), found.fields, atol=1e-8)
    trained = train(easy, found.Q, gradient_tol=1e-10)
    np.testing.assert_allclose(found.Q, trained.Q, atol=1e-7)


def test_with_true_gram_matrices_it_is_critical_up_to_their_noise():
    """|grad R| over |lam Q| falls like 1/sqrt(d): here by a factor of 4."""
    sizes = []
    for d in (100, 1600):
        task = draw_task(MODEL, d, alpha=1.5, lam=0.1, seed=5)
        found = message_passing(task, "positional", damping=0.5, tol=1e-8)
        assert found.status is GampStatus.converged
        gradient = task.risk_and_gradient(found.Q)[1]
        sizes.append(np.linalg.norm(gradient) / np.linalg.norm(0.1 * found.Q))
    assert 2 < sizes[0] / sizes[1] < 8


def test_same_task_same_numbers(easy):
    there, again = (message_passing(easy, max_iterations=5) for _ in range(2))
    assert np.array_equal(there.Q, again.Q)


def test_the_forms_of_the_onsager_term_differ_by_the_jumps():
    """At the positional state of alpha = 1.25, J = .047: V_hat differs by alpha J/V."""
    point = solve(MODEL, 1.25, 0.01, "positional")
    jumps, none = [], []
    for instance in range(10):
        task = draw_task(MODEL, 2000, 1.25, 0.01, (6, instance), bias_free=True)
        coefficient = point.overlaps.m
        width = np.sqrt(point.overlaps.q / 0.25 - coefficient**2)
        Q = coefficient + width * task.random_start()
        first = message_passing(task, Q, point.overlaps.V, max_iterations=1).trajectory
        jumps.append((first.response_pointwise - first.response_stein)[0])
        Q = 0.1 * task.teacher
        first = message_passing(task, Q, 1.0, max_iterations=1).trajectory
        none.append((first.response_pointwise - first.response_stein)[0])
    mean, stderr, _ = mean_and_stderr(jumps)
    expected = 0.25 * 1.25 * point.stability.jump_mass / point.overlaps.V
    assert abs(mean - expected) < 4 * stderr < 0.8 * expected
    mean, stderr, _ = mean_and_stderr(none)
    assert abs(mean) < 4 * stderr


def test_undamped_iterates_follow_state_evolution():
    """From Q = Q*, where the cavity field is a function of the teacher's, and V of one's own."""
    expected = np.array(
        [s.as_array() for s in trajectory(MODEL, 1.25, 0.01, Overlaps(0.25, 0, 10, 0.25), 3)]
    )
    seen = []
    for instance in range(6):
        task = draw_task(MODEL, 1500, 1.25, 0.01, (7, instance), bias_free=True)
        found = message_passing(task, "semantic", 10.0, max_iterations=3)
        path = found.trajectory
        seen.append(np.array([path.q, np.abs(path.m), path.V, path.theta]).T)
    seen = np.array(seen)
    stderr = seen.std(axis=0, ddof=1) / np.sqrt(6)
    assert np.all(stderr[1:, [0, 2, 3]] < 0.05 * expected[1:, [0, 2, 3]])
    z = (seen.mean(axis=0) - expected)[1:, [0, 2, 3]] / stderr[1:, [0, 2, 3]]
    assert np.abs(z).max() < 4.8  # two-sided 5e-3 of Student's t with 5 degrees of freedom


def test_trajectory_ends_at_the_fixed_point_where_that_attracts():
    point = solve(MODEL, 1.5, 0.1, "positional")
    assert point.stability.spectral_radius < 1
    start = Overlaps(0.02, 0.2, 3.0, 0.0)
    last = trajectory(MODEL, 1.5, 0.1, start, 40, tol=1e-7)[-1]
    np.testing.assert_allclose(last.as_array(), point.overlaps.as_array(), rtol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 0}, "alpha must be > 0"),
        ({"lam": -1}, "lam must be >= 0"),
        ({"iterations": 0}, "iterations must be at least 1"),
        ({"tol": 1}, "tol must be in"),
        ({"start": Overlaps(0.1, 0, 1, 0.3)}, "theta must satisfy"),
        ({"start": Overlaps(0.1, 0, 0, 0.1)}, "V must be positive"),
    ],
)
def test_bad_trajectories_are_refused(change, message):
    arguments = {"alpha": 1, "lam": 0.1, "start": Overlaps(0.1, 0, 1, 0), "iterations": 2}
    with pytest.raises(ValueError, match=message):
        trajectory(MODEL, **arguments | change)


def test_it_says_how_it_ended(easy):
    results = {
        "converged": message_passing(easy, "positional", damping=0.5),
        "iteration_limit": message_passing(easy, "positional", max_iterations=1),
        "non_finite": message_passing(easy, np.full(easy.d, 1e200), 1.0),
        # Without a ridge, a response that is negative as in `easy` leaves nothing to divide by.
        "left_domain": message_passing(
            draw_task(MODEL, d=200, alpha=1.5, lam=0.0, seed=(4, 1)), np.full(200, 0.05), 3.0
        ),
    }
    assert set(results) == set(GampStatus)
    for token, result in results.items():
        assert result.status == token
        assert result.message == GampStatus(token).sentence


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"damping": 1}, "damping must be in \\[0, 1\\), got 1"),
        ({"onsager": "none"}, "onsager must be one of"),
        ({"tol": 0}, "tol must be positive"),
        ({"max_iterations": 0}, "max_iterations must be at least 1"),
        ({"V": 0}, "V must be positive"),
        ({"start": "zero"}, "start must be one of"),
        ({"start": np.full(200, np.nan)}, "start must be finite"),
    ],
)
def test_bad_input_is_refused(easy, change, message):
    with pytest.raises(ValueError, match=message):
        message_passing(easy, **change)


def test_a_lagging_onsager_term_changes_no_fixed_point_and_nothing_undamped(easy):
    for damping in (0.0, 0.5):
        plain, lagging = (
            message_passing(easy, "positional", damping=damping, lagging=lagging)
            for lagging in (False, True)
        )
        assert {plain.status, lagging.status} == {GampStatus.converged}
        np.testing.assert_allclose(lagging.Q, plain.Q, atol=1e-8)
        same = np.array_equal(plain.trajectory.q, lagging.trajectory.q)
        assert same == (damping == 0)


def test_with_plain_damping_a_sentence_near_a_jump_flips_for_ever():
    """The lag of Q behind g pushes it back over the jump; with both lagging it stays."""
    task = draw_task(MODEL, 400, 1.5, 0.03, (5, 10), bias_free=True)
    start = np.full(task.d, 0.25)
    plain, lagging = (
        message_passing(task, start, damping=0.5, lagging=lagging, max_iterations=400)
        for lagging in (False, True)
    )
    assert lagging.status is GampStatus.converged
    assert plain.status is GampStatus.iteration_limit
    steps = plain.trajectory.step[-9:-1]
    assert steps.min() > 0.1
    np.testing.assert_allclose(steps[2:], steps[:-2], rtol=1e-6)  # period two
