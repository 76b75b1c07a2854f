"""Losses, test error and baseline against brute quadrature and exact cases."""

from __future__ import annotations

import numpy as np
import pytest
import reference

from gamp_theory.channel.pair import PairChannel
from gamp_theory.model import AttentionModel
from gamp_theory.observables import (
    NARROW,
    free_entropy,
    linear_error,
    test_error,
    train_loss,
    train_loss_variational,
)
from gamp_theory.overlaps import Conjugates, Overlaps
from gamp_theory.prior import prior_overlaps

SECOND = ((0.3, 0.7), (0.8, 0.2))
MODELS = [AttentionModel.mixture(), AttentionModel.mixture(0.14, 0.5, SECOND)]


def normal(dimensions, n):
    """Tensor Gauss-Hermite nodes and weights, shapes (n**dimensions, dimensions) and (...)."""
    x, w = np.polynomial.hermite_e.hermegauss(n)
    nodes = np.stack(np.meshgrid(*[x] * dimensions, indexing="ij"), -1).reshape(-1, dimensions)
    weight = np.stack(np.meshgrid(*[w] * dimensions, indexing="ij"), -1).reshape(-1, dimensions)
    weight = weight.prod(axis=1)
    keep = weight > 1e-16 * weight.max()
    return nodes[keep], weight[keep] / weight.sum()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "overlaps",
    [
        Overlaps(0.0816248, 0, 18.3, 0.117926),
        Overlaps(0.0471005, 0.252411, 14.9, 0),
        Overlaps(0.06, 0.15, 15, 0.07),
        Overlaps(0.06, -0.15, 15, 0.07),
        Overlaps(0.06, 0.1, 15, 0.9999 * np.sqrt(0.25 * 0.06)),  # a narrow cloud
    ],
)
def test_test_error_is_the_four_fold_average(model, overlaps):
    nodes, weight = normal(4, 22)
    terms = reference.test_error(nodes[:, :2], nodes[:, 2:], overlaps.as_array(), model)
    assert test_error(model, overlaps) == pytest.approx(weight @ terms, rel=1e-6)


def test_both_rules_of_the_test_error_meet():
    """Where the cloud around the mean field becomes narrow, another rule takes over."""
    model, q = AttentionModel.mixture(), 0.09
    gap = (NARROW * model.sigma) ** 2  # q - theta^2/rho where the rules meet
    values = [
        test_error(model, Overlaps(q, 0.1, 1, np.sqrt(model.rho * (q - gap * factor))))
        for factor in (1 - 1e-9, 1 + 1e-9)
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-8)


def test_the_teacher_itself_makes_no_error():
    model = AttentionModel.mixture(omega=0.0)
    assert test_error(model, Overlaps(0.25, 0, 1, 0.25)) == pytest.approx(0, abs=1e-15)
    assert test_error(model, Overlaps(0.25, 0, 1, -0.25)) == pytest.approx(0, abs=1e-15)


def test_a_zero_student_attends_uniformly():
    for model in MODELS:
        y, weight = normal(2, 80)
        T = reference.target(model.sigma * y, model.omega, model.target.A)
        expected = model.rho / 2 * ((T - 0.5) ** 2).sum(axis=(1, 2)) @ weight
        assert test_error(model, Overlaps(0, 0, 1, 0)) == pytest.approx(expected, rel=1e-9)


def test_linear_baseline():
    assert linear_error(AttentionModel.mixture()) == pytest.approx(0.0019713843347, abs=1e-12)


@pytest.mark.parametrize("sigma", [0.3, 0.5, 1.0])
@pytest.mark.parametrize("omega", [0.0, 0.3, 1.0])
def test_linear_baseline_is_a_variance(omega, sigma):
    """``(1/L) E tr[(T - E T) rho (T - E T)^T]``, whatever A is."""
    y, weight = normal(2, 80)
    T = reference.target(sigma * y, omega, SECOND)
    mean = np.einsum("n,nij->ij", weight, T)
    expected = sigma**2 / 2 * np.einsum("n,nij->", weight, (T - mean) ** 2)
    for A in (SECOND, ((0.6, 0.4), (0.4, 0.6))):
        got = linear_error(AttentionModel.mixture(omega, sigma, A))
        assert got == pytest.approx(expected, rel=1e-5, abs=1e-15)


@pytest.mark.parametrize("model", MODELS)
def test_free_entropy_is_stationary_in_the_conjugates(model):
    """At any conjugates, if the overlaps come from them by the prior."""
    hats = np.array([0.02, 0.01, 0.04, 0.05])
    x = prior_overlaps(model, Conjugates.from_array(hats), 0.01)
    for j in range(4):
        step = 1e-4 * hats[j] * np.eye(4)[j]
        up, down = (
            free_entropy(model, Conjugates.from_array(hats + sign * step), 0.1, x, 1.0, 0.01)
            for sign in (1, -1)
        )
        assert abs(up - down) / 2e-4 < 1e-7 * abs(hats[j] * x.as_array()[j])


def test_both_losses_agree_wherever_the_overlaps_are_those_of_the_conjugates():
    """Which is why their agreement proves little: no fixed point is needed for it."""
    model, alpha, lam = AttentionModel.mixture(), 1.25, 0.01
    at = Overlaps(0.06, 0.15, 15, 0.07)
    averages = PairChannel(model).rule(at, 1e-5).averages(at)
    x = prior_overlaps(model, averages.conjugates(alpha), lam)
    direct = train_loss(model, averages, x, alpha, lam)
    # the envelope is that of the averages, at the V of the conjugates
    assert train_loss_variational(model, averages, x, alpha, lam) == pytest.approx(
        direct, rel=1e-12
    )
