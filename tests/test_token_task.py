"""The general model at finite dimension: exact identities of risk, gradient and overlaps."""

from __future__ import annotations

import numpy as np
import pytest

from gamp_theory.empirical.task import draw_task
from gamp_theory.empirical.token_task import TokenTask, draw_token_task, train_tokens
from gamp_theory.model import AttentionModel
from gamp_theory.spectrum import JointLaw
from gamp_theory.token_mechanisms import FixedMixture, RowSoftmax, attention
from gamp_theory.token_model import GeneralModel

A3 = [[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.0, 0.5, 0.5]]


@pytest.fixture(scope="module")
def task():
    moments = np.eye(5) + 0.2
    law = JointLaw([0.5, 0.5], [[0.3, 0.2, 0.5], [0.1, 0.4, 0.2]], np.array([moments, moments]))
    model = GeneralModel(FixedMixture(0.3, A3), RowSoftmax(0.7, causal=True), law, rank=2)
    return draw_token_task(model, 20, 1.5, 0.1, 3)


def test_risk_is_its_definition(task):
    Q = np.random.default_rng(0).standard_normal((20, 2))
    z = np.sqrt(20) * task.tokens  # x + p
    x = z - task.tau.T / np.sqrt(20)
    T = attention(task.model.target, x @ task.teacher / np.sqrt(20))
    S = attention(task.model.student, z @ Q / np.sqrt(20))
    want = np.sum((T @ x - S @ z) ** 2) / (2 * 20) + 0.05 * np.sum(Q**2)
    risk, gradient = task.risk_and_gradient(Q)
    assert risk == pytest.approx(want, rel=1e-11)
    step = 1e-6
    for index in [(0, 0), (7, 1), (19, 0)]:
        e = np.zeros((20, 2))
        e[index] = step
        slope = (task.risk_and_gradient(Q + e)[0] - task.risk_and_gradient(Q - e)[0]) / (2 * step)
        assert gradient[index] == pytest.approx(slope, rel=1e-6)


def test_risk_of_two_tokens_is_the_pair_s():
    pair = draw_task(AttentionModel.mixture(), 30, 1.2, 0.01, 1)
    model = GeneralModel.from_pair(AttentionModel.mixture())
    general = TokenTask(
        model=model,
        lam=0.01,
        seed=(0,),
        bias_free=False,
        gamma=np.full((30, 2), 0.25),
        tau=np.ones((30, 1)) * [[1.0, -1.0]],
        teacher=pair.teacher[:, None],
        tokens=np.array(pair.tokens),
        gram=np.array(pair.gram),
        cross=np.array(pair.cross),
        target_square=pair.target_square,
    )
    Q = np.random.default_rng(0).standard_normal(30)
    risk, gradient = pair.risk_and_gradient(Q)
    got, slope = general.risk_and_gradient(Q[:, None])
    assert got == pytest.approx(risk, rel=1e-12)
    assert slope[:, 0] == pytest.approx(gradient, rel=1e-10, abs=1e-12)
    q, m, theta = general.overlaps(Q[:, None])
    want = pair.overlaps(Q)
    assert [q[0, 0, 0], m[0, 0], theta[1, 0, 0]] == pytest.approx(list(want), rel=1e-12)
    assert m[1, 0] == pytest.approx(-want.m, rel=1e-12)


def test_overlaps_are_matrix_products(task):
    Q = np.random.default_rng(1).standard_normal((20, 2))
    q, m, theta = task.overlaps(Q)
    for l in range(3):
        S = np.diag(task.gamma[:, l])
        assert q[l] == pytest.approx(Q.T @ S @ Q / 20, rel=1e-12)
        assert theta[l] == pytest.approx(Q.T @ S @ task.teacher / 20, rel=1e-12)
        assert m[l] == pytest.approx(Q.T @ (task.tau[:, l] / np.sqrt(20)) / np.sqrt(20), rel=1e-12)


def test_fields_and_their_transpose(task):
    x = task.tokens - task.tau.T / 20
    np.testing.assert_allclose(task.teacher_fields, x @ task.teacher, atol=1e-13)
    Q = np.random.default_rng(2).standard_normal((20, 2))
    u = np.random.default_rng(3).standard_normal((task.n, 3, 2))
    assert np.sum(task.fields(Q) * u) == pytest.approx(np.sum(Q * task.transposed(u)), rel=1e-12)


def test_what_the_positions_add(task):
    """The square of ``S p`` at finite d, and nothing in a bias-free task."""
    Q = np.random.default_rng(4).standard_normal((20, 2))
    S = attention(task.model.student, task.fields(Q))
    p = task.tau.T / np.sqrt(20)
    want = np.mean(np.sum((S @ p) ** 2, axis=(1, 2)))
    assert task.position_square(Q) == pytest.approx(want, rel=1e-12)
    found = task.error_estimate(Q, 2000)
    assert found.value == task.test_error(Q, 2000)
    assert found.samples == 2000
    # another set of sentences
    assert abs(found.position_square / want - 1) < 0.2
    assert abs(task.error_estimate(Q, 20_000).value - found.value) < 4 * found.stderr
    free = draw_token_task(task.model, 20, 1.5, 0.1, 3, bias_free=True)
    assert free.position_square(Q) == free.error_estimate(Q, 50).position_square == 0.0


def test_training_says_how_it_ended(task):
    converged = train_tokens(task, "mixed", gradient_tol=1e-4, test_samples=10)
    assert converged.status == "converged"
    assert converged.gradient_norm <= 1e-4
    limited = train_tokens(task, "mixed", max_iterations=1, test_samples=10)
    assert limited.status == "iteration_limit"
    assert limited.message == limited.status.sentence
    rounding = train_tokens(task, "mixed", gradient_tol=1e-300, test_samples=10)
    assert rounding.status == "line_search_failed"


def test_training_ends_at_a_critical_point(task):
    student = train_tokens(task, "mixed", test_samples=500)
    assert student.gradient_norm < 1e-5
    start = task.risk_and_gradient(task.start("mixed"))[0] / 20
    assert student.train_loss < start
    again = train_tokens(task, "mixed", test_samples=500)
    assert np.array_equal(again.Q, student.Q)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"d": 1}, "d must be at least 2"),
        ({"alpha": 0}, "alpha\\*d must round"),
        ({"lam": -1}, "lam must be >= 0"),
        ({"memory_limit": 100}, "memory_limit"),
    ],
)
def test_bad_tasks_are_refused(change, match):
    model = GeneralModel.from_pair(AttentionModel.mixture())
    with pytest.raises(ValueError, match=match):
        draw_token_task(**({"model": model, "d": 8, "alpha": 1, "lam": 0.1, "seed": 0} | change))


def test_a_rank_above_d_is_refused():
    law = JointLaw.isotropic(0.5, [[1.0], [-1.0]])
    model = GeneralModel(FixedMixture(0.3), RowSoftmax(), law, rank=3)
    with pytest.raises(ValueError, match="rank must be at most d = 2, got 3"):
        draw_token_task(model, 2, 1.0, 0.1, 0)
