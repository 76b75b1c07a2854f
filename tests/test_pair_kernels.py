"""Scalar kernels of two tokens against matrix-level twins."""

from __future__ import annotations

import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose

from gamp_theory.channel import pair_kernels
from gamp_theory.mechanisms import softmax_contrasts

A = ((0.9, 0.1), (0.35, 0.65))
A_CONTRASTS = (0.8, 0.3)


def draws(seed, n=40, scale=1.5):
    """Fields h and y, shape (n, 2) each."""
    rng = np.random.default_rng(seed)
    return scale * rng.standard_normal((2, n, 2))


@pytest.mark.parametrize("scale", [1e-3, 1.0, 3.0])
def test_contrasts_are_those_of_the_softmax(scale):
    h, _ = draws(1, scale=scale)
    got = [pair_kernels.contrasts(*x) for x in h]
    assert_allclose(got, reference.contrasts(reference.softmax(h)), rtol=1e-12, atol=1e-14)
    assert_allclose(softmax_contrasts(h), got, rtol=1e-12)


@pytest.mark.parametrize("omega", [0.0, 0.3, 1.0])
def test_target_contrasts_are_those_of_the_mixture(omega):
    _, y = draws(2)
    got = [pair_kernels.target_contrasts(*x, omega, *A_CONTRASTS) for x in y]
    assert_allclose(got, reference.contrasts(reference.target(y, omega, A)), rtol=1e-12, atol=1e-14)


def test_contrasts_do_not_overflow():
    s1, s2 = pair_kernels.contrasts(1e3, -1e3)
    assert (s1, s2) == (1.0, 1.0)
    assert np.all(np.isfinite(pair_kernels.contrast_derivatives(1e3, -1e3)))


def test_contrast_derivatives_match_the_complex_step():
    h, _ = draws(3)
    for x in h:
        got = np.reshape(pair_kernels.contrast_derivatives(*x), (2, 6))
        for k in range(2):
            value, first, second = derivatives(
                lambda z, k=k: reference.contrasts(reference.softmax(z))[k], x
            )
            assert_allclose(got[k, 0], value, rtol=1e-12, atol=1e-14)
            assert_allclose(got[k, 1:3], first, rtol=1e-12, atol=1e-12)
            assert_allclose(got[k, 3:], second, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("sigma", [0.5, 1.0])
def test_loss_derivatives_match_the_trace_formula(sigma):
    h, y = draws(4)
    T = reference.target(y, 0.3, A)
    t = reference.contrasts(T)
    for x, T_i, t_i in zip(h, T, t, strict=True):
        got = pair_kernels.loss_derivatives(*x, *t_i, sigma**2 / 2)
        value, first, second = derivatives(lambda z, T_i=T_i: reference.loss(z, T_i, sigma), x)
        assert_allclose(got[0], value, rtol=1e-12)
        assert_allclose(got[1:3], first, rtol=1e-12, atol=1e-12)
        assert_allclose(got[3:], second, rtol=1e-10, atol=1e-10)


def derivatives(f, x):
    """Value, gradient and Hessian ``11, 12, 22``."""
    (h11, h12), (_, h22) = reference.hessian(f, x)
    return f(x), reference.gradient(f, x), (h11, h12, h22)
