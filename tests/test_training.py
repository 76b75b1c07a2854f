"""Three optimisers, one minimum."""

import numpy as np
import pytest

from gamp_theory.empirical.task import draw_task
from gamp_theory.empirical.training import OPTIMIZERS, TrainingStatus, start_weights, train
from gamp_theory.model import AttentionModel

MODEL = AttentionModel.mixture(omega=0.3, sigma=0.5)


@pytest.fixture(scope="module")
def task():
    return draw_task(MODEL, d=100, alpha=2.0, lam=0.1, seed=(1, 0))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimisers_reach_one_minimum(task, optimizer):
    found = train(task, "positional", optimizer)
    expected = train(task, "positional", "lbfgs", gradient_tol=1e-9)
    assert found.status is TrainingStatus.converged
    assert found.optimizer == optimizer
    # An error of 1e-7 in the gradient, over a curvature of about lam, is one of 1e-6 a weight.
    np.testing.assert_allclose(found.Q, expected.Q, rtol=0, atol=1e-5)


def test_descent_is_the_published_update(task):
    Q = start_weights(task, "semantic")[1]
    for _ in range(3):
        Q = Q - 0.15 * task.risk_and_gradient(Q)[1]
    found = train(task, "semantic", "gd", max_iterations=3)
    assert (found.status, found.iterations) == ("iteration_limit", 3)
    np.testing.assert_allclose(found.Q, Q, rtol=1e-13)


def test_adam_is_the_textbook_update_at_first(task):
    """Bias-corrected moments of one gradient are the gradient and its square: a step of sign."""
    Q = start_weights(task, "semantic")[1]
    found = train(task, "semantic", "adam", rate=0.01, max_iterations=1)
    gradient = task.risk_and_gradient(Q)[1]
    step = 0.01 / np.sqrt(1 + 1 / 100)
    np.testing.assert_allclose(found.Q, Q - step * np.sign(gradient), rtol=1e-7)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_history_is_what_happened(task, optimizer):
    found = train(task, "semantic", optimizer, max_iterations=8, record_every=4)
    history = found.history
    assert list(history.iteration) == [0, 4, 8]
    for array in vars(history).values():
        assert array.shape == (3,)
    for row, Q in ((0, task.teacher), (-1, found.Q)):
        risk, gradient = task.risk_and_gradient(Q)
        expected = (risk / task.d, np.abs(gradient).max(), *task.overlaps(Q))
        names = ("train_loss", "gradient_norm", "q", "m", "theta")
        got = [getattr(history, name)[row] for name in names]
        np.testing.assert_allclose(got, expected, rtol=1e-12)
    assert history.train_loss[-1] < history.train_loss[0]
    assert train(task, "semantic", optimizer, max_iterations=1).history is None


@pytest.mark.parametrize("optimizer", ["gd", "adam"])
def test_descents_say_how_they_ended(task, optimizer):
    assert train(task, np.full(task.d, 1e200), optimizer).status is TrainingStatus.non_finite
    assert train(task, "semantic", optimizer, max_iterations=5).status == "iteration_limit"
    at_minimum = train(task, "positional").Q
    again = train(task, at_minimum, optimizer)
    assert (again.status, again.iterations) == ("converged", 0)


def test_a_rate_that_is_too_large_is_seen(task):
    found = train(task, "semantic", "gd", rate=25.0, max_iterations=2000)
    assert found.status in ("non_finite", "iteration_limit")
    assert not found.gradient_norm <= found.gradient_tol


def test_progress_goes_to_stderr(task, capsys):
    train(task, "semantic", "gd", max_iterations=3, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "gd" in err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rate": 0.1}, "rate belongs to gd, adam; lbfgs has none"),
        ({"optimizer": "gd", "rate": 0}, "rate must be positive, got 0"),
        ({"optimizer": "gd", "rate": np.nan}, "rate must be finite, got nan"),
        ({"record_every": -1}, "record_every must be at least 0, got -1"),
        ({"start": np.full(100, np.nan)}, "start must be finite"),
    ],
)
def test_bad_input_is_refused(task, change, message):
    with pytest.raises(ValueError, match=message):
        train(task, **change)


def test_single_precision_reaches_the_minimum():
    arguments = (MODEL, 100, 2.0, 0.01, (2, 0))
    double, single = draw_task(*arguments), draw_task(*arguments, dtype="float32")
    expected = train(double, "semantic")
    found = train(single, "semantic", gradient_tol=1e-5)
    assert found.status is TrainingStatus.converged
    np.testing.assert_allclose(found.theta, expected.theta, rtol=1e-3)
    np.testing.assert_allclose(found.train_loss, expected.train_loss, rtol=1e-6)
