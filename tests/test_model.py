"""The model refuses what it can not be, and is a plain value."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import contrasts, softmax, target

from gamp_theory.mechanisms import Softmax, SoftmaxMixture, softmax_contrasts
from gamp_theory.model import AttentionModel
from gamp_theory.spectrum import Isotropic


def test_worked_case():
    model = AttentionModel.mixture()
    assert (model.omega, model.sigma, model.rho) == (0.3, 0.5, 0.25)
    assert model.target.A == ((0.6, 0.4), (0.4, 0.6))
    assert model.target.contrasts == pytest.approx((0.2, 0.2))


def test_models_are_values():
    assert AttentionModel.mixture(A=np.array([[0.6, 0.4], [0.4, 0.6]])) == AttentionModel.mixture()
    assert len({AttentionModel.mixture(), AttentionModel.mixture(0.3)}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        AttentionModel.mixture().positions = (1.0, 1.0)  # type: ignore[misc]


def test_with_parameters_changes_only_those():
    model = AttentionModel.mixture(0.14, 0.7, ((0.3, 0.7), (0.8, 0.2)))
    assert model.with_parameters() == model
    moved = model.with_parameters(omega=0.0)
    assert (moved.omega, moved.sigma, moved.target.A) == (0.0, 0.7, model.target.A)
    assert model.with_parameters(sigma=1).sigma == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"omega": -0.1}, r"omega must lie in \[0, 1\], got -0.1"),
        ({"omega": 1.1}, r"omega must lie in \[0, 1\], got 1.1"),
        ({"omega": math.nan}, r"omega must lie in \[0, 1\], got nan"),
        ({"sigma": 0.0}, "sigma must be positive and finite, got 0.0"),
        ({"sigma": -1.0}, "sigma must be positive and finite, got -1.0"),
        ({"sigma": math.inf}, "sigma must be positive and finite, got inf"),
        ({"A": ((0.6, 0.4),)}, "A must be a square matrix, got shape"),
        ({"A": ((0.6, 0.4), (0.4,))}, "A must be a square matrix"),
        ({"A": ((0.6, 0.5), (0.4, 0.6))}, "rows of A must sum to 1"),
        ({"A": ((1.6, -0.6), (0.4, 0.6))}, "A must have finite, non-negative entries"),
        ({"A": ((math.nan, 1.0), (0.4, 0.6))}, "A must have finite, non-negative entries"),
        ({"A": np.eye(3)}, "A must be 2 x 2"),
        ({"A": (("a", "b"), ("c", "d"))}, "A must be a square matrix of numbers"),
    ],
)
def test_bad_models_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        AttentionModel.mixture(**arguments)


def test_other_positions_are_refused():
    with pytest.raises(ValueError, match="positions must be"):
        AttentionModel(SoftmaxMixture(0.3), positions=(1.0, 1.0))


def test_isotropic_variance():
    assert Isotropic(0.7).variance == pytest.approx(0.49)


field = st.floats(-4, 4)


@given(field, field, st.floats(0, 1))
def test_mechanisms_are_the_matrices(h1, h2, omega):
    h = np.array([h1, h2])
    np.testing.assert_allclose(Softmax().matrix(h[:, None]), softmax(h), atol=1e-14)
    np.testing.assert_allclose(softmax_contrasts(h), contrasts(softmax(h)), atol=1e-14)
    mixture = SoftmaxMixture(omega)
    np.testing.assert_allclose(mixture.matrix(h[:, None]), target(h, omega, mixture.A), atol=1e-14)


def test_contrasts_never_overflow():
    assert softmax_contrasts(np.array([1e3, -1e3])).tolist() == [1.0, 1.0]
