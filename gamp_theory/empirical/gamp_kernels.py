"""The prox of many sentences: what message passing does n times an iteration.

The prox is that of the theory's independent rule: branch and bound, hence global by construction.
"""

from __future__ import annotations

import numpy as np

from gamp_theory.channel.sobol_kernels import (
    STACK_ROWS,
    ProxProblem,
    energy_derivatives,
    force,
    global_prox,
    gradient_fails,
)
from gamp_theory.numerics.jit import kernel

__all__ = ["sentence_proxes"]


@kernel
def sentence_proxes(w, t, V, c, leaf):
    """Proxes of n sentences.

    Parameters
    ----------
    w, t : array, shape (n, 2)
        Cavity fields and target contrasts.
    V : float
        Variance of the cavity fields.
    c : float
        ``sigma**2/2``.
    leaf : float
        Width of the smallest boxes of the search, see `sobol_kernels.LEAF`.

    Returns
    -------
    h : array, shape (n, 2)
        The global minimisers.
    g : array, shape (n, 2)
        ``(h - w)/V``, as ``-grad loss(h)``: no cancellation.
    slope : array, shape (n,)
        Trace of dg/dw at fixed t, as if the prox did not jump: ``tr[(1 + V H)^-1 - 1]/V``, with H
        the Hessian of the loss.
    failures : int
        Proxes whose gradient does not vanish.
    """
    n = w.shape[0]
    h = np.empty((n, 2))
    g = np.empty((n, 2))
    slope = np.empty(n)
    stack = np.empty((STACK_ROWS, 3))
    failures = 0
    for i in range(n):
        p = ProxProblem(w[i, 0], w[i, 1], t[i, 0], t[i, 1], V * c)
        h1, h2, _ = global_prox(p, leaf, stack)
        h[i, 0] = h1
        h[i, 1] = h2
        g[i, 0], g[i, 1] = force(h1, h2, t[i, 0], t[i, 1], c)
        _, _, _, a11, a12, a22 = energy_derivatives(h1, h2, p)
        slope[i] = ((a11 + a22) / (a11 * a22 - a12 * a12) - 2) / V
        failures += gradient_fails(h1, h2, p)
    return h, g, slope, failures
