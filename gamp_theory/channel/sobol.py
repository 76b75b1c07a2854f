"""The channel averages by randomised Sobol points: slow, independent, with an honest error."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import qmc

from gamp_theory.channel.base import ChannelAverages
from gamp_theory.channel.sobol_kernels import (
    LEAF,
    STACK_ROWS,
    ChannelState,
    ProxProblem,
    global_prox,
    gradient_fails,
    sobol_sums,
)
from gamp_theory.model import AttentionModel
from gamp_theory.overlaps import Overlaps

__all__ = ["SobolEstimate", "global_proxes", "sobol_averages"]


@dataclass(frozen=True)
class SobolEstimate:
    """Channel averages with standard errors, from independent scrambles of a Sobol sequence.

    A deviation in units of its standard error follows Student's t with ``scrambles - 1`` degrees of
    freedom: with 8 scrambles one in 140 lies beyond 3.75.

    Attributes
    ----------
    averages : ChannelAverages
        Means over scrambles, per unit of alpha.
    standard_error : ChannelAverages
        Standard errors of these means, field by field.
    test_error : float
        ``eps_g = (1/L) E tr[(T - S(w)) rho (T - S(w))^T]`` at the cavity field w.
    test_error_standard_error : float
        Its standard error.
    samples : int
        Sobol points per scramble (two proxes each).
    scrambles : int
        Number of independent scrambles.
    prox_failures : int
        Proxes where the gradient did not vanish to its tolerance: 0, or do not trust the result.
    covariance : array, shape (7, 7)
        Covariance of the means: the fields of `averages` in their order, then `test_error`.
    """

    averages: ChannelAverages
    standard_error: ChannelAverages
    test_error: float
    test_error_standard_error: float
    samples: int
    scrambles: int
    prox_failures: int
    covariance: NDArray[np.float64] = field(compare=False, repr=False)


def sobol_averages(
    model: AttentionModel,
    overlaps: Overlaps,
    samples: int = 2**14,
    scrambles: int = 8,
    seed: int = 0,
) -> SobolEstimate:
    """Channel averages at `overlaps` by a rule that shares nothing with the main ones.

    Fields are drawn as ``y_l ~ N(0, rho)`` and ``w|y ~ N(mu, s**2 I)`` with
    ``mu = (m + theta y_1/rho, -m + theta y_2/rho)``, ``s**2 = q - theta**2/rho``; every prox is a
    branch-and-bound search over the plane (docs/theory.md, sections 2 and 4).

    Parameters
    ----------
    model : AttentionModel
        Two tokens, rank one.
    overlaps : Overlaps
        State, within ``theta**2 <= rho q``.
    samples : int
        Sobol points per scramble, a power of two.
    scrambles : int
        Independent scrambles, at least 2: their scatter is the error estimate.  On states with
        jumps, 8 give a rough one (true deviations scatter by up to 1.9 of it), 16 a fair one (1.2).
    seed : int
        The same seed gives the same numbers.

    Raises
    ------
    ValueError
        If `samples` is not a power of two, `scrambles` is below 2, or the state is outside its
        domain.
    """
    if samples < 1 or samples & (samples - 1):
        raise ValueError(f"samples must be a power of two, got {samples!r}")
    if scrambles < 2:
        raise ValueError(f"scrambles must be at least 2 (they give the error), got {scrambles!r}")
    rho = model.rho
    overlaps.check_domain(rho)
    a1, a2 = model.target.contrasts
    state = ChannelState(
        rho=rho,
        m=overlaps.m,
        theta=overlaps.theta,
        s=math.sqrt(max(0.0, overlaps.q - overlaps.theta**2 / rho)),
        V=overlaps.V,
        omega=model.omega,
        a1=a1,
        a2=a2,
        c=model.sigma**2 / 2,
    )
    streams = np.random.SeedSequence(seed).spawn(scrambles)
    sums = np.array([sobol_sums(_normal_points(samples, s), state, LEAF) for s in streams])
    q_hat, m_hat, V_hat, gy, loss, loss_omega, m_slope, along_y, test_error, failures = sums.T
    theta_hat = (gy + overlaps.theta * V_hat) / rho
    theta_slope = (along_y / rho + V_hat) / rho
    hats = (q_hat, m_hat, V_hat, theta_hat)
    values = np.stack([*hats, loss, loss_omega, m_slope, theta_slope, test_error])
    mean = values.mean(axis=1)
    covariance = np.cov(values) / scrambles
    error = np.sqrt(np.diag(covariance))
    return SobolEstimate(
        averages=ChannelAverages.from_array(mean[:-1]),
        standard_error=ChannelAverages.from_array(error[:-1]),
        test_error=float(mean[-1]),
        test_error_standard_error=float(error[-1]),
        samples=samples,
        scrambles=scrambles,
        prox_failures=int(failures.sum()),
        covariance=covariance,
    )


def global_proxes(
    w: NDArray[np.float64], t: NDArray[np.float64], V: float, sigma: float
) -> NDArray[np.float64]:
    """The minimisers of ``|h - w|**2/(2 V) + loss(h; t)``, global by construction.

    Parameters
    ----------
    w, t : array, shape (n, 2)
        Cavity fields, and target contrasts.
    V : float
        Variance of the cavity fields.
    sigma : float

    Returns
    -------
    array, shape (n, 2)

    Raises
    ------
    RuntimeError
        If the gradient does not vanish where a search has ended.
    """
    stack = np.empty((STACK_ROWS, 3))
    proxes = []
    for (w1, w2), (t1, t2) in zip(w.tolist(), t.tolist(), strict=True):
        problem = ProxProblem(w1, w2, t1, t2, V * sigma**2 / 2)
        h1, h2, _ = global_prox(problem, LEAF, stack)
        if gradient_fails(h1, h2, problem):
            raise RuntimeError(f"no prox was found for w = {(w1, w2)}, t = {(t1, t2)}, V = {V:g}")
        proxes.append((h1, h2))
    return np.array(proxes)


def _normal_points(samples: int, stream: np.random.SeedSequence) -> NDArray[np.float64]:
    """Scrambled Sobol points of four dimensions, shape (samples, 4), as standard normals."""
    bits = 52
    # seed=, not rng=: both are accepted, but rng only since scipy 1.15
    sobol = qmc.Sobol(d=4, scramble=True, bits=bits, seed=np.random.default_rng(stream))
    # centre each point in its cell of width 2**-bits: 0 would become -infinity
    return ndtri(sobol.random(samples) + 0.5 ** (bits + 1))
