"""From instances to numbers that can be held against the theory."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import erf
from scipy.stats import chi2, f, norm, t

__all__ = [
    "Extrapolation",
    "JointTest",
    "Mean",
    "extrapolate",
    "folded_mean",
    "joint_test",
    "mean_and_stderr",
    "test_error_bias",
    "train_loss_bias",
    "z_limit",
    "z_score",
]

#: Powers of 1/d that an extrapolation weighs against each other.
POWERS = (0.5, 1.0, 1.5)


class Mean(NamedTuple):
    """Mean over instances.

    Attributes
    ----------
    mean, stderr : float
        Mean and its standard error ``std/sqrt(instances)``, the standard deviation with
        instances - 1.
    instances : int
        Number of instances.
    """

    mean: float
    stderr: float
    instances: int


def mean_and_stderr(values: Iterable[float]) -> Mean:
    """Mean of independent instances and its standard error.

    Raises
    ------
    ValueError
        If there are fewer than two values: one instance has no error bar.
    """
    x = np.array(list(values), dtype=float)
    if x.ndim != 1 or x.size < 2:
        raise ValueError(f"values must be two numbers or more, got shape {x.shape}")
    return Mean(float(x.mean()), float(x.std(ddof=1) / math.sqrt(x.size)), x.size)


def train_loss_bias(position_square: float, alpha: float, d: int) -> float:
    """What finite d adds to the training loss (docs/theory.md, section 7).

    The student multiplies x + p and the target x, so the output carries ``S p``, whose square is
    of relative order 1/d: ``(alpha/2) E sum_i |sum_j S_ij(prox) p_j|**2 / d``.  The proxes are
    the fields of the training sentences at the minimum, so the average can be measured on the
    trained student itself, by :meth:`Task.position_square`; that is a plug-in estimate, itself off
    by a relative 1/sqrt(d), which changes the loss at order d**(-3/2) only.

    Parameters
    ----------
    position_square : float
        ``E sum_i |sum_j S_ij p_j|**2`` over training sentences.
    alpha : float
        Sample ratio n/d.
    d : int
        Embedding dimension.

    Returns
    -------
    float
        To be subtracted from ``R/d`` before it is compared with the limit.
    """
    return alpha * position_square / (2 * d)


def test_error_bias(position_square: float, d: int, tokens: int = 2) -> float:
    """The matching term of the test error, ``E sum_i |sum_j S_ij(w) p_j|**2 / (d L)``.

    Here w are fields of fresh sentences (:attr:`ErrorEstimate.position_square`).  There are
    further terms of the same order 1/d, which this leaves in place (docs/theory.md, section 7).

    Parameters
    ----------
    position_square : float
        ``E sum_i |sum_j S_ij p_j|**2`` over fresh sentences.
    d : int
        Embedding dimension.
    tokens : int
        L.

    Returns
    -------
    float
        To be subtracted from the test error before it is compared with the limit.
    """
    return position_square / (d * tokens)


def z_score(sim_mean: float, sim_stderr: float, theory: float, theory_error: float) -> float:
    """Deviation in combined standard errors, positive where the simulation is higher.

    With the standard error estimated from n instances and a negligible theory error, this follows
    Student's t with n - 1 degrees of freedom, not a normal law.

    Returns
    -------
    float
        ``(sim_mean - theory)/sqrt(sim_stderr**2 + theory_error**2)``; NaN if an input is NaN.

    Raises
    ------
    ValueError
        If an error is negative, or both are zero.
    """
    if sim_stderr < 0 or theory_error < 0 or sim_stderr == theory_error == 0:
        raise ValueError(
            "sim_stderr and theory_error must be >= 0 and not both 0, "
            f"got {sim_stderr!r} and {theory_error!r}"
        )
    return (sim_mean - theory) / math.hypot(sim_stderr, theory_error)


def z_limit(instances: int, sigmas: float = 4.0) -> float:
    """The |z| that is as improbable, with a standard error from `instances`, as `sigmas` normally.

    A quantile of Student's t with ``instances - 1`` degrees of freedom: 5.0 for 20 instances and
    4 sigmas, 4 for infinitely many.

    Raises
    ------
    ValueError
        If there are fewer than two instances.
    """
    if instances < 2:
        raise ValueError(f"instances must be at least 2, got {instances!r}")
    return float(t.isf(norm.sf(sigmas), instances - 1))


class JointTest(NamedTuple):
    """Several quantities of the same instances against the theory, at once.

    Attributes
    ----------
    statistic : float
        Hotelling's T**2; chi-squared with `quantities` degrees of freedom for many instances.
    p_value : float
        Probability of a larger one, if the theory is right, by its exact law for normal samples.
    quantities, instances : int
        What was tested, and on how many instances.
    """

    statistic: float
    p_value: float
    quantities: int
    instances: int


def joint_test(samples: ArrayLike, theory: ArrayLike) -> JointTest:
    """Hotelling's test of a vector of means, correlations between its entries included.

    Parameters
    ----------
    samples : array, shape (instances, quantities)
        More instances than quantities.
    theory : array, shape (quantities,)
        Values whose own error is negligible.

    Raises
    ------
    ValueError
        On other shapes.
    """
    x, expected = np.asarray(samples, dtype=float), np.asarray(theory, dtype=float)
    if x.ndim != 2 or expected.shape != x.shape[1:] or x.shape[0] <= x.shape[1]:
        raise ValueError(
            "samples must be (instances, quantities) with more instances than quantities, and "
            f"theory (quantities,), got {x.shape} and {expected.shape}"
        )
    n, k = x.shape
    spread = x.std(axis=0, ddof=1)
    z = (x.mean(axis=0) - expected) / spread  # in units that make the covariance well scaled
    covariance = np.cov(x.T / spread[:, None]).reshape(k, k)
    statistic = float(n * z @ np.linalg.solve(covariance, z))
    p_value = float(f.sf(statistic * (n - k) / (k * (n - 1)), k, n - k))
    return JointTest(statistic, p_value, k, n)


def folded_mean(mean: float, spread: float) -> float:
    """``E|x|`` of a normal x: what averaging |m| over instances makes of an overlap m.

    An overlap of mean 0 with a spread of order 1/sqrt(d) becomes ``spread sqrt(2/pi)``, a floor
    that is no sign of anything; where the sign is fixed by the start, average x itself.
    """
    if spread == 0:
        return abs(mean)
    ratio = mean / (spread * math.sqrt(2))
    return spread * math.sqrt(2 / math.pi) * math.exp(-(ratio**2)) + mean * float(erf(ratio))


class Extrapolation(NamedTuple):
    """A limit d to infinity from means at finite d.

    Attributes
    ----------
    value, stderr : float
        The limit, averaged over the powers by their evidence, and its standard error, the
        disagreement between powers included.
    power : float
        The power of 1/d with the highest evidence.
    coefficient : float
        Its coefficient: ``mean(d) = value + coefficient/d**power``.
    weights : tuple of float
        Evidence for each of `POWERS`, adding up to 1.
    p_value : float
        Probability of a worse fit than that of `power`; NaN with two sizes, which fit exactly.
    """

    value: float
    stderr: float
    power: float
    coefficient: float
    weights: tuple[float, ...]
    p_value: float


def extrapolate(
    sizes: Sequence[float], means: Sequence[float], stderrs: Sequence[float]
) -> Extrapolation:
    """Weighted fit of ``mean(d) = value + coefficient/d**power``, the power chosen by evidence.

    Every power has two parameters, so that the evidence is ``exp(-chi**2/2)``.

    Raises
    ------
    ValueError
        If there are fewer than two distinct sizes, the lengths differ, or a standard error is not
        positive.
    """
    d, y, e = (np.asarray(x, dtype=float) for x in (sizes, means, stderrs))
    if not (d.ndim == 1 and d.shape == y.shape == e.shape and np.unique(d).size >= 2):
        raise ValueError(
            "sizes, means and stderrs must be equally long with two distinct sizes or more, got "
            f"shapes {d.shape}, {y.shape}, {e.shape}"
        )
    if not (np.all(e > 0) and np.all(d > 0)):
        raise ValueError("sizes and stderrs must be positive")
    fits = []
    for power in POWERS:
        design = np.stack([np.ones_like(d), d**-power], axis=1) / e[:, None]
        covariance = np.linalg.inv(design.T @ design)
        value, coefficient = covariance @ design.T @ (y / e)
        misfit = float(np.sum((y / e - design @ [value, coefficient]) ** 2))
        fits.append((value, math.sqrt(covariance[0, 0]), coefficient, misfit))
    values, errors, coefficients, misfits = np.array(fits).T
    weights = np.exp(-0.5 * (misfits - misfits.min()))
    weights /= weights.sum()
    value = float(weights @ values)
    best = int(np.argmax(weights))
    dof = d.size - 2
    return Extrapolation(
        value=value,
        stderr=math.sqrt(float(weights @ (errors**2 + (values - value) ** 2))),
        power=POWERS[best],
        coefficient=float(coefficients[best]),
        weights=tuple(float(w) for w in weights),
        p_value=float(chi2.sf(misfits[best], dof)) if dof else math.nan,
    )
