"""Scalar kernels of two tokens against matrix-level twins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import reference
from numpy.testing import assert_allclose

import gamp_theory
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
            assert_allclose(got[k, 3:], second, rtol=1e-7, atol=1e-8)


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
        assert_allclose(got[3:], second, rtol=1e-7, atol=1e-8)


def derivatives(f, x, step=1e-5):
    """Value, gradient (complex step), Hessian ``11, 12, 22`` (differences of the gradient)."""
    hessian = [
        (reference.complex_step(f, x + step * e) - reference.complex_step(f, x - step * e))
        / (2 * step)
        for e in np.eye(2)
    ]
    (h11, h12), (_, h22) = hessian
    return f(x), reference.complex_step(f, x), (h11, h12, h22)


UNCOMPILED = """
import json
import numpy as np
from gamp_theory.channel import pair_kernels, sobol_kernels
p = sobol_kernels.ProxProblem(0.2, -0.3, 0.5, 0.4, 2.3)
print(json.dumps({
    "compiled": hasattr(pair_kernels.contrasts, "py_func"),
    "values": [
        *pair_kernels.contrasts(0.7, -0.4),
        *pair_kernels.target_contrasts(0.7, -0.4, 0.3, 0.2, 0.1),
        *pair_kernels.contrast_derivatives(0.7, -0.4),
        *pair_kernels.loss_derivatives(0.7, -0.4, 0.5, 0.4, 0.125),
        *sobol_kernels.energy_derivatives(0.7, -0.4, p),
        *sobol_kernels.global_prox(
            p, sobol_kernels.LEAF, np.empty((sobol_kernels.STACK_ROWS, 3))
        ),
    ],
}))
"""


def run_uncompiled(disable):
    root = str(Path(gamp_theory.__file__).parents[1])
    env = os.environ | {"NUMBA_DISABLE_JIT": disable, "PYTHONPATH": root}
    command = [sys.executable, "-c", UNCOMPILED]
    output = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    return json.loads(output.stdout)


def test_kernels_give_the_same_values_uncompiled():
    python, compiled = run_uncompiled("1"), run_uncompiled("0")
    assert compiled["compiled"]
    assert not python["compiled"]
    assert_allclose(python["values"], compiled["values"], rtol=1e-13, atol=1e-14)
