"""Statistics of instances, on samples whose law is known; second derivatives of the risk."""

import numpy as np
import pytest
from scipy.stats import norm, t

from gamp_theory.empirical import measure
from gamp_theory.empirical.curvature import curvature, hessian
from gamp_theory.empirical.task import draw_task
from gamp_theory.empirical.training import train
from gamp_theory.model import AttentionModel

MODEL = AttentionModel.mixture(omega=0.3, sigma=0.5)


def test_z_limit_is_the_quantile():
    assert measure.z_limit(10**9) == pytest.approx(4, abs=1e-4)
    assert t.sf(measure.z_limit(6, 3), 5) == pytest.approx(norm.sf(3))
    with pytest.raises(ValueError, match="instances must be at least 2, got 1"):
        measure.z_limit(1)


def test_joint_test_has_its_level_and_its_power():
    rng = np.random.default_rng(0)
    mixing = rng.standard_normal((3, 3)) * [1.0, 1e-3, 1e3]  # correlated, badly scaled
    theory = np.array([1.0, 2.0, 3.0]) @ mixing
    samples = (np.array([1.0, 2.0, 3.0]) + rng.standard_normal((2000, 8, 3))) @ mixing
    p_values = np.array([measure.joint_test(x, theory).p_value for x in samples])
    assert abs(np.mean(p_values < 0.1) - 0.1) < 4 * np.sqrt(0.09 / 2000)
    many = measure.joint_test(samples.reshape(-1, 3), theory + 0.1 * mixing[0])
    assert many.p_value < 1e-4
    assert (many.quantities, many.instances) == (3, 16000)


def test_joint_test_of_one_quantity_is_the_square_of_z():
    x = np.random.default_rng(1).standard_normal((9, 1)) + 5
    sample = measure.mean_and_stderr(x[:, 0])
    z = measure.z_score(sample.mean, sample.stderr, 4.5, 0.0)
    found = measure.joint_test(x, [4.5])
    assert found.statistic == pytest.approx(z**2)
    assert found.p_value == pytest.approx(2 * t.sf(abs(z), 8))


@pytest.mark.parametrize("mean", [0.0, 0.5, -3.0])
def test_folded_mean(mean):
    x = mean + 0.7 * np.random.default_rng(2).standard_normal(400_000)
    assert measure.folded_mean(mean, 0.7) == pytest.approx(np.abs(x).mean(), abs=0.005)
    assert measure.folded_mean(mean, 0.0) == abs(mean)


@pytest.mark.parametrize("power", measure.POWERS)
def test_extrapolation_of_exact_means_finds_limit_and_power(power):
    sizes = np.array([100, 200, 400, 800, 1600])
    found = measure.extrapolate(sizes, 2 - 3 / sizes**power, np.full(5, 1e-5))
    assert found.power == power
    assert found.value == pytest.approx(2, abs=1e-10)
    assert found.coefficient == pytest.approx(-3)
    assert found.weights[measure.POWERS.index(power)] > 0.999
    assert found.p_value > 0.999


def test_extrapolation_covers_the_limit():
    """Powers that can not be told apart widen the error bar, not narrow it."""
    rng = np.random.default_rng(3)
    sizes, error = np.array([250, 500, 1000, 2000]), 0.01
    z = []
    for _ in range(400):
        means = 1 + 8 / sizes + error * rng.standard_normal(4)
        found = measure.extrapolate(sizes, means, np.full(4, error))
        z.append((found.value - 1) / found.stderr)
    assert np.mean(np.abs(z) > 2) < 0.06
    assert np.isnan(measure.extrapolate([1, 2], [1, 2], [1, 1]).p_value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 1], [1, 2], [1, 1]), "two distinct sizes"),
        (([1, 2], [1, 2], [1]), "equally long"),
        (([1, 2], [1, 2], [1, 0]), "must be positive"),
    ],
)
def test_bad_extrapolations_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        measure.extrapolate(*arguments)


def test_bad_joint_tests_are_refused():
    with pytest.raises(ValueError, match="more instances than quantities"):
        measure.joint_test(np.ones((2, 2)), [1, 1])


@pytest.mark.parametrize("bias_free", [False, True])
def test_hessian_is_the_derivative_of_the_gradient(bias_free):
    task = draw_task(MODEL, 25, alpha=1.5, lam=0.02, seed=1, bias_free=bias_free)
    Q = np.random.default_rng(4).standard_normal(25)
    step = 1e-5
    rows = [
        (task.risk_and_gradient(Q + e)[1] - task.risk_and_gradient(Q - e)[1]) / (2 * step)
        for e in step * np.eye(25)
    ]
    found = hessian(task, Q)
    np.testing.assert_allclose(found, rows, rtol=0, atol=1e-8 * np.abs(found).max())


def test_hessian_does_not_depend_on_the_blocks(monkeypatch):
    task = draw_task(MODEL, 25, alpha=1.5, lam=0.02, seed=1)
    whole = hessian(task, task.teacher)
    monkeypatch.setattr("gamp_theory.empirical.curvature._BLOCK_BYTES", 3 * 8 * 2 * 25)
    np.testing.assert_allclose(hessian(task, task.teacher), whole, rtol=0, atol=1e-13)


def test_curvature_tells_minimum_from_saddle():
    task = draw_task(MODEL, 60, alpha=1.5, lam=0.02, seed=2)
    minimum = curvature(task, train(task, "semantic").Q)
    assert minimum.lowest > 0
    assert minimum.negative == 0
    inverse = np.linalg.inv(hessian(task, train(task, "semantic").Q))
    assert minimum.response == pytest.approx(0.25 / 60 * np.trace(inverse))
    origin = curvature(task, np.zeros(60))  # critical by symmetry, not a minimum at this ridge
    assert origin.negative > 0
    assert np.isnan(origin.response)
    with pytest.raises(ValueError, match=r"a Hessian at d = 60 needs 5.76e\+04 bytes"):
        hessian(task, task.teacher, memory_limit=1e4)
