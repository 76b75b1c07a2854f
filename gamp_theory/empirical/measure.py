"""From instances to numbers that can be held against the theory."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

__all__ = ["Mean", "mean_and_stderr", "test_error_bias", "train_loss_bias", "z_score"]


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
