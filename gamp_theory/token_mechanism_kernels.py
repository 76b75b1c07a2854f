"""Attention matrices of L tokens with their derivatives, in the form that kernels call.

A mechanism is three functions of fields h of shape (L, r) and a vector of parameters:

    value(h, params, S)            S[i, j]
    first(h, params, S, dS)        S and dS[i, j, l r + a] = dS[i, j]/dh[l, a]
    second(h, params, W, H)        H = sum_ij W[i, j] d^2 S[i, j], shape (L r, L r)

They fill every entry of the arrays S (L, L), dS (L, L, L r) and H (L r, L r).
"""

from __future__ import annotations

import math

import numpy as np

from gamp_theory.numerics.jit import kernel

__all__ = [
    "batch_pullback",
    "batch_value",
    "linear_first",
    "linear_second",
    "linear_value",
    "single_derivatives",
    "softmax_first",
    "softmax_second",
    "softmax_value",
]


@kernel
def softmax_value(h, params, S):
    """Row softmax of ``beta h h^T``; ``params = (beta, causal)``, causal rows end at j = i."""
    L, r = h.shape
    for i in range(L):
        n = i + 1 if params[1] > 0 else L
        top = -np.inf
        for j in range(n):
            z = 0.0
            for a in range(r):
                z += h[i, a] * h[j, a]
            z *= params[0]
            S[i, j] = z
            top = max(top, z)
        total = 0.0
        for j in range(n):
            S[i, j] = math.exp(S[i, j] - top)
            total += S[i, j]
        for j in range(n):
            S[i, j] /= total
        for j in range(n, L):
            S[i, j] = 0.0


@kernel
def add_score(h, i, j, factor, out):
    """Add ``factor d(h_i . h_j)/dh`` to the flat vector `out`."""
    r = h.shape[1]
    for a in range(r):
        out[i * r + a] += factor * h[j, a]
        out[j * r + a] += factor * h[i, a]


@kernel
def softmax_first(h, params, S, dS):
    """With ``z = beta h_i.h_j``: ``dS_ij = S_ij (dz_ij - sum_k S_ik dz_ik)``."""
    L, r = h.shape
    softmax_value(h, params, S)
    mean = np.empty(L * r)
    for i in range(L):
        mean[:] = 0.0
        for k in range(L):
            add_score(h, i, k, params[0] * S[i, k], mean)
        for j in range(L):
            for x in range(L * r):
                dS[i, j, x] = -S[i, j] * mean[x]
            add_score(h, i, j, params[0] * S[i, j], dS[i, j])


@kernel
def add_score_square(h, i, j, factor, H):
    """Add ``factor dz dz^T``, ``z = h_i . h_j``, to H."""
    r = h.shape[1]
    for a in range(r):
        for b in range(r):
            H[i * r + a, i * r + b] += factor * h[j, a] * h[j, b]
            H[i * r + a, j * r + b] += factor * h[j, a] * h[i, b]
            H[j * r + a, i * r + b] += factor * h[i, a] * h[j, b]
            H[j * r + a, j * r + b] += factor * h[i, a] * h[i, b]


@kernel
def softmax_second(h, params, W, H):
    """Second derivative of :func:`softmax_value`, contracted.

    With ``c_ij = S_ij (W_ij - sum_k S_ik W_ik)``, row by row::

        sum_j c_ij (dz_ij dz_ij^T + d^2 z_ij) - u v^T - v u^T,
        u = sum_j c_ij dz_ij,    v = sum_j S_ij dz_ij
    """
    L, r = h.shape
    S = np.empty((L, L))
    softmax_value(h, params, S)
    H[:] = 0.0
    u = np.empty(L * r)
    v = np.empty(L * r)
    beta = params[0]
    for i in range(L):
        mean = 0.0
        for k in range(L):
            mean += S[i, k] * W[i, k]
        u[:] = 0.0
        v[:] = 0.0
        for j in range(L):
            if S[i, j] == 0.0:
                continue
            c = S[i, j] * (W[i, j] - mean)
            add_score(h, i, j, beta * c, u)
            add_score(h, i, j, beta * S[i, j], v)
            add_score_square(h, i, j, beta * beta * c, H)
            for a in range(r):
                H[i * r + a, j * r + a] += beta * c
                H[j * r + a, i * r + a] += beta * c
        for x in range(L * r):
            for y in range(L * r):
                H[x, y] -= u[x] * v[y] + v[x] * u[y]


@kernel
def linear_value(h, params, S):
    """``S = beta h h^T``, without a normalisation; ``params = (beta, causal)``."""
    L, r = h.shape
    for i in range(L):
        for j in range(L):
            z = 0.0
            if not (params[1] > 0 and j > i):
                for a in range(r):
                    z += h[i, a] * h[j, a]
            S[i, j] = params[0] * z


@kernel
def linear_first(h, params, S, dS):
    """Derivative of :func:`linear_value`."""
    linear_value(h, params, S)
    dS[:] = 0.0
    L = h.shape[0]
    for i in range(L):
        for j in range(L):
            if not (params[1] > 0 and j > i):
                add_score(h, i, j, params[0], dS[i, j])


@kernel
def linear_second(h, params, W, H):
    """Second derivative of :func:`linear_value`, contracted."""
    L, r = h.shape
    H[:] = 0.0
    for i in range(L):
        for j in range(L):
            if not (params[1] > 0 and j > i):
                for a in range(r):
                    H[i * r + a, j * r + a] += params[0] * W[i, j]
                    H[j * r + a, i * r + a] += params[0] * W[i, j]


@kernel
def batch_value(value, h, params, out):
    """Attention matrices of many fields: h (n, L, r), out (n, L, L)."""
    for k in range(h.shape[0]):
        value(h[k], params, out[k])


@kernel
def batch_pullback(first, h, params, W, out):
    """``out[k, l r + a] = sum_ij W[k, i, j] dS[i, j]/dh[l, a]`` at the fields ``h[k]``."""
    n, L, r = h.shape
    S = np.empty((L, L))
    dS = np.empty((L, L, L * r))
    for k in range(n):
        first(h[k], params, S, dS)
        for x in range(L * r):
            total = 0.0
            for i in range(L):
                for j in range(L):
                    total += W[k, i, j] * dS[i, j, x]
            out[k, x] = total


@kernel
def single_derivatives(first, second, h, params, W, S, dS, H):
    """Both derivatives at one h."""
    first(h, params, S, dS)
    second(h, params, W, H)
