"""Mechanisms of any size: values against a naive twin, derivatives against differences."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys

import numpy as np
import pytest

from gamp_theory.mechanisms import Softmax
from gamp_theory.token_mechanisms import (
    CompiledMechanism,
    FixedMixture,
    LinearAttention,
    RowSoftmax,
    SympyMechanism,
    attention,
    check_mechanism,
    is_even,
    is_rotation_invariant,
    pullback,
)

A3 = [[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.0, 0.5, 0.5]]


def naive_softmax(h, temperature, causal):
    L = h.shape[-2]
    z = np.einsum("...ia,...ja->...ij", h, h) / temperature
    weights = np.exp(z) * (np.tril(np.ones((L, L))) if causal else 1.0)
    return weights / weights.sum(axis=-1, keepdims=True)


def sympy_tanh(tokens=2, rank=1):
    sympy = pytest.importorskip("sympy")
    h = sympy.Matrix(tokens, rank, sympy.symbols(f"h:{tokens * rank}"))
    matrix = (h * h.T).applyfunc(sympy.tanh)
    return SympyMechanism(matrix, h)


def diagonal_value(h, params, S):
    for i in range(S.shape[0]):
        for j in range(S.shape[1]):
            S[i, j] = h[i, 0] if i == j else 0.0


def diagonal_first(h, params, S, dS):
    dS[:] = 0.0
    for i in range(S.shape[0]):
        for j in range(S.shape[1]):
            S[i, j] = h[i, 0] if i == j else 0.0
        dS[i, i, i * h.shape[1]] = 1.0


def diagonal_second(h, params, W, H):
    H[:] = 0.0


def wrong_first(h, params, S, dS):
    dS[:] = 0.0
    for i in range(S.shape[0]):
        for j in range(S.shape[1]):
            S[i, j] = h[i, 0] if i == j else 0.0
        dS[i, i, i * h.shape[1]] = 1.0
    dS[1, 0, 0] = 0.5


def nan_value(h, params, S):
    for i in range(S.shape[0]):
        for j in range(S.shape[1]):
            S[i, j] = math.nan if i == j == 1 else 0.0


ALL = [
    (RowSoftmax(), 3, 1),
    (RowSoftmax(temperature=0.6), 4, 2),
    (RowSoftmax(temperature=2.0, causal=True), 3, 2),
    (LinearAttention(0.7), 2, 2),
    (LinearAttention(causal=True), 3, 1),
    (FixedMixture(0.3, A3), 3, 2),
    (FixedMixture(0.4, A3, RowSoftmax(causal=True)), 3, 1),
    (CompiledMechanism(diagonal_value, diagonal_first, diagonal_second), 2, 2),
]


@pytest.mark.parametrize(("mechanism", "tokens", "rank"), ALL, ids=lambda x: str(x)[:30])
def test_derivatives_are_those_of_the_value(mechanism, tokens, rank):
    check_mechanism(mechanism, tokens, rank)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_softmax_is_the_formula(temperature, causal):
    h = np.random.default_rng(0).standard_normal((5, 4, 2))
    got = attention(RowSoftmax(temperature, causal), h)
    assert got == pytest.approx(naive_softmax(h, temperature, causal), rel=1e-13, abs=1e-300)
    if temperature == 1 and not causal:
        assert got == pytest.approx(Softmax().matrix(h), rel=1e-13)
    mixed = attention(FixedMixture(0.3, np.eye(4), RowSoftmax(temperature, causal)), h)
    assert mixed == pytest.approx(0.7 * got + 0.3 * np.eye(4), rel=1e-13)


def test_softmax_does_not_overflow():
    S = attention(RowSoftmax(), np.array([[40.0], [-39.0], [1.0]]))
    assert S.sum(axis=1) == pytest.approx(np.ones(3), rel=1e-14)


def test_linear_attention_is_the_formula():
    h = np.random.default_rng(0).standard_normal((3, 2))
    assert attention(LinearAttention(0.5), h) == pytest.approx(0.5 * h @ h.T, rel=1e-14)
    causal = attention(LinearAttention(0.5, causal=True), h)
    assert causal == pytest.approx(np.tril(0.5 * h @ h.T), rel=1e-14)


def test_pullback_is_the_chain_rule():
    mechanism = FixedMixture(0.3, A3)
    rng = np.random.default_rng(3)
    h, W = rng.standard_normal((2, 3, 2)), rng.standard_normal((2, 3, 3))
    got, step = pullback(mechanism, h, W), 1e-6
    for index in np.ndindex(3, 2):
        e = np.zeros((3, 2))
        e[index] = step
        slope = (attention(mechanism, h + e) - attention(mechanism, h - e)) / (2 * step)
        want = np.einsum("nij,nij->n", W, slope)
        assert got[:, *index] == pytest.approx(want, rel=1e-6, abs=1e-8)


def test_sympy_mechanism_is_its_expression():
    mechanism = sympy_tanh(2, 2)
    check_mechanism(mechanism, 2, 2)
    h = np.random.default_rng(0).standard_normal((2, 2))
    assert attention(mechanism, h) == pytest.approx(np.tanh(h @ h.T), rel=1e-14)
    copy = pickle.loads(pickle.dumps(mechanism))
    assert np.array_equal(attention(copy, h), attention(mechanism, h))


def test_sympy_softmax_is_the_compiled_one():
    sympy = pytest.importorskip("sympy")
    h = sympy.symbols("a b")
    rows = [[sympy.exp(x * y) for y in h] for x in h]
    mechanism = SympyMechanism([[y / sum(row) for y in row] for row in rows], [[x] for x in h])
    point = np.array([[0.4], [-1.3]])
    assert attention(mechanism, point) == pytest.approx(attention(RowSoftmax(), point), rel=1e-13)
    # naive exponentials overflow, and the check says so before any work is done with them
    with pytest.raises(ValueError, match="not finite in entry"):
        check_mechanism(mechanism, 2, 1)


def test_generated_code_is_found_again_by_another_process(tmp_path):
    code = (
        "import time, sympy, numpy as np\n"
        "from gamp_theory import token_mechanisms as t\n"
        "h = sympy.symbols('h0:2')\n"
        "m = t.SympyMechanism([[sympy.sin(a * b) for b in h] for a in h], [[x] for x in h])\n"
        "if {second}: t._source = None\n"
        "print(repr(t.attention(m, [[0.3], [0.7]]).tolist()))\n"
    )
    env = {"NUMBA_CACHE_DIR": str(tmp_path), "PATH": ""}
    answers = []
    for second in (False, True):
        run = subprocess.run(
            [sys.executable, "-c", code.format(second=second)],
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        answers.append(run.stdout)
    assert answers[0] == answers[1]


def test_a_wrong_derivative_is_named():
    mechanism = CompiledMechanism(diagonal_value, wrong_first, diagonal_second)
    with pytest.raises(ValueError, match=r"dS\[1, 0\]/dh\[0, 0\] = 0\.5, differences give 0"):
        check_mechanism(mechanism, 2, 1)


def test_a_wrong_second_derivative_is_named():
    from gamp_theory import token_mechanism_kernels as k

    mechanism = CompiledMechanism(k.linear_value, k.linear_first, diagonal_second, (1.0, 0.0))
    with pytest.raises(ValueError, match=r"second is wrong: the contraction d2/dh"):
        check_mechanism(mechanism, 2, 1)


def test_nan_is_named():
    mechanism = CompiledMechanism(nan_value, diagonal_first, diagonal_second)
    with pytest.raises(ValueError, match=r"S is not finite in entry \[1, 1\]"):
        check_mechanism(mechanism, 2, 1)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: RowSoftmax(temperature=0), "temperature must be positive"),
        (lambda: LinearAttention(0.0), "scale must be finite"),
        (lambda: FixedMixture(0.3, [[0.5, 0.6], [0.5, 0.5]]), "rows of A must sum to 1"),
        (lambda: FixedMixture(1.3), "omega must lie in"),
        (lambda: FixedMixture(0.1, A3, FixedMixture(0.1, A3)), "mixture of a mixture"),
        (lambda: FixedMixture(0.3, A3).functions(2, 1), "A must be 2 x 2, got 3 x 3"),
        (lambda: sympy_tanh().functions(3, 1), "fields of shape"),
    ],
)
def test_bad_mechanisms_are_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_sympy_refusals():
    sympy = pytest.importorskip("sympy")
    a, b, c = sympy.symbols("a b c")
    with pytest.raises(ValueError, match="symbols that are not fields"):
        SympyMechanism([[a, c], [b, a]], [[a], [b]])
    with pytest.raises(ValueError, match="one row for each row of fields"):
        SympyMechanism([[a]], [[a], [b]])


def test_symmetries_are_seen():
    diagonal = CompiledMechanism(diagonal_value, diagonal_first, diagonal_second)
    assert is_even(RowSoftmax(), 3, 2)
    assert not is_even(diagonal, 2, 1)
    assert is_rotation_invariant(FixedMixture(0.3, A3), 3, 2)
    assert not is_rotation_invariant(diagonal, 2, 2)
