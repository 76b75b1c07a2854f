"""The prox of many sentences of any number of tokens: what message passing does each iteration.

The search is that of the theory, Newton descents from many starts, on fields that are given instead
of drawn.
"""

from __future__ import annotations

import math

import numpy as np

from gamp_theory.channel.general_kernels import (
    UNSTABLE_STARTS,
    assign,
    descend,
    fill_starts,
    loss_derivatives,
    make_work,
    prox_derivative,
)
from gamp_theory.numerics.jit import kernel

__all__ = ["token_proxes"]


@kernel
def token_proxes(y, w, T, state, student, random, before):
    """Proxes of n sentences.

    Parameters
    ----------
    y : array, shape (n, L, t)
        The teacher's fields, which serve as starts.
    w : array, shape (n, L, r)
        Cavity fields.
    T : array, shape (n, L, L)
        Target attention.
    state : TokenState
        Its `precision`, `root_V` and `variance` are used.
    student : Mechanism
    random : array, shape (R, L, r)
        Standard normals for R random starts a sentence.
    before : array, shape (n, L, r)
        One more start for each sentence: its last prox.

    Returns
    -------
    h : array, shape (n, L, r)
        The lowest minimisers that were found.
    g : array, shape (n, L, r)
        ``V_l^-1 (h_l - w_l)``, as ``-grad loss(h)``: no cancellation.
    slope : array, shape (L, r, r)
        Sum over sentences of ``dg_la/dw_lb``, as if the prox did not jump.
    failures : int
        Sentences for which no descent has converged.
    """
    n, L, r = w.shape
    work = make_work(L, r)
    h = np.empty((n, L, r))
    g = np.empty((n, L, r))
    slope = np.zeros((L, r, r))
    trial = np.empty((L, r))
    D = np.empty((L * r, L * r))
    starts = np.empty((6 + 2 * UNSTABLE_STARTS + random.shape[0], L, r))
    failures = 0
    for i in range(n):
        count = fill_starts(y[i], w[i], T[i], state, student, random, work, starts)
        assign(starts[count], 1.0, before[i])
        count += 1
        assign(h[i], 1.0, w[i])
        lowest = math.inf
        for k in range(count):
            assign(trial, 1.0, starts[k])
            e, fine = descend(trial, w[i], T[i], state, student, work)
            if fine and e < lowest:
                lowest = e
                assign(h[i], 1.0, trial)
        failures += lowest == math.inf
        loss_derivatives(h[i], T[i], state.variance, student, work)
        for x in range(L * r):
            g[i, x // r, x % r] = -work.loss_gradient[x]
        prox_derivative(h[i], w[i], T[i], state, student, work, D)
        for l in range(L):
            for a in range(r):
                for b in range(r):
                    slope[l, a, b] += D[l * r + a, l * r + b]
    return h, g, slope, failures
