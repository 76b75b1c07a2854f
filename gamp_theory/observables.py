"""Losses, test error, linear baseline, and the identities that every fixed point must obey."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from gamp_theory.channel.base import ChannelAverages
from gamp_theory.mechanisms import softmax_contrasts
from gamp_theory.model import AttentionModel
from gamp_theory.numerics.quadrature import gauss_hermite_normal, trapezoid_normal
from gamp_theory.overlaps import Conjugates, Overlaps
from gamp_theory.prior import prior_energy

__all__ = [
    "free_entropy",
    "linear_error",
    "loss_slopes",
    "test_error",
    "train_loss",
    "train_loss_variational",
]

CUT = 8.0  # of the Gaussian integrals, in standard deviations: they are good to 1e-13
NARROW = 0.05  # width of the cavity field, given the teacher's, below which it is a small cloud
CLOUD = 12  # Gauss-Hermite nodes of that cloud


def train_loss(
    model: AttentionModel, averages: ChannelAverages, overlaps: Overlaps, alpha: float, lam: float
) -> float:
    """Training loss per dimension, ``eps_t = alpha E loss(prox) + lam q/(2 sigma**2)``.

    The direct form (docs/theory.md, section 2).
    """
    return alpha * averages.loss + lam * overlaps.q / (2 * model.rho)


def train_loss_variational(
    model: AttentionModel, averages: ChannelAverages, overlaps: Overlaps, alpha: float, lam: float
) -> float:
    """Training loss as minus the free entropy, stationary in every overlap."""
    hats = averages.conjugates(alpha)
    return -free_entropy(model, hats, averages.envelope(overlaps.V), overlaps, alpha, lam)


def free_entropy(
    model: AttentionModel,
    conjugates: Conjugates,
    mean_envelope: float,
    overlaps: Overlaps,
    alpha: float,
    lam: float,
) -> float:
    """The replica-symmetric free entropy Phi at zero temperature (docs/theory.md, section 2).

    ``Phi = (V_hat q - q_hat V)/2 - m_hat m - theta_hat theta + prior energy - alpha E M``, a
    function of overlaps and conjugates; stationary in all of them at a fixed point.

    Parameters
    ----------
    model : AttentionModel
    conjugates : Conjugates
    mean_envelope : float
        ``E M`` at `overlaps`, per sample.
    overlaps : Overlaps
    alpha, lam : float
    """
    hats, x = conjugates, overlaps
    return (
        0.5 * (hats.V_hat * x.q - hats.q_hat * x.V)
        - hats.m_hat * x.m
        - hats.theta_hat * x.theta
        + prior_energy(model, hats, lam)
        - alpha * mean_envelope
    )


def loss_slopes(
    model: AttentionModel, averages: ChannelAverages, overlaps: Overlaps, alpha: float
) -> dict[str, float]:
    """Derivatives of the training loss along a branch, without differences.

    ``d eps_t/d alpha = E M``, ``d eps_t/d lam = q/(2 sigma**2)``, ``d eps_t/d omega = alpha E
    d loss/d omega``: eps_t is stationary in the overlaps.
    """
    return {
        "alpha": averages.envelope(overlaps.V),
        "lam": overlaps.q / (2 * model.rho),
        "omega": alpha * averages.loss_omega,
    }


def linear_error(model: AttentionModel) -> float:
    """Test error of the best token-mixing matrix, ``W = E T``: the linear baseline.

    ``eps_lin = (sigma**2/4) sum_k Var(t_k)`` for two tokens; A drops out but for its weight.
    """
    y, weight = _plane(model.sigma, math.inf)
    t = _contrasts(y, y)
    mean = np.einsum("i,j,ijk->k", weight, weight, t)
    square = np.einsum("i,j,ijk->k", weight, weight, (t - mean) ** 2)
    return float((1 - model.omega) ** 2 * model.rho / 4 * square.sum())


def test_error(model: AttentionModel, overlaps: Overlaps) -> float:
    """Test error per token, ``eps_g = E loss(w; y)`` at the cavity field w.

    In rotated coordinates the pairs ``(y_1 - y_2, w_1 - w_2)`` and ``(y_1 + y_2, w_1 + w_2)`` are
    independent, so the four-fold average of ``t s`` is two matrix products.
    """
    variance = max(overlaps.q - overlaps.theta**2 / model.rho, 0.0)
    width = math.sqrt(variance)
    tilt = overlaps.theta / model.rho
    shift = math.sqrt(2) * overlaps.m
    a = np.array(model.target.contrasts)
    if width <= NARROW * max(math.sqrt(overlaps.q), model.sigma):
        # the cavity field is a small cloud around its mean: Gauss-Hermite follows it
        y, weight = _plane(model.sigma, math.inf)
        cloud = gauss_hermite_normal(CLOUD)
        around = (tilt * y[:, None] + width * cloud.nodes).ravel()
        s = _contrasts(around + shift, around)
        joint = (weight[:, None] * cloud.weights).ravel()
        target = (1 - model.omega) * _contrasts(y, y) + model.omega * a
        target = np.repeat(np.repeat(target, CLOUD, axis=0), CLOUD, axis=1)
        loss = np.einsum("i,j,ijk->", joint, joint, (target - s) ** 2)
        return float(model.rho / 4 * loss)
    y, weight = _plane(model.sigma, width / max(abs(tilt), width / 8))
    target = (1 - model.omega) * _contrasts(y, y) + model.omega * a
    step = min(width / 2, 0.125)
    n = math.ceil(CUT * math.sqrt(overlaps.q) / step)
    w = np.arange(-n, n + 1) * step
    s = _contrasts(w + shift, w)
    density = np.exp(-0.5 * ((w - tilt * y[:, None]) / width) ** 2) / math.sqrt(2 * math.pi)
    joint = weight[:, None] * density * (step / width)
    marginal = joint.sum(axis=0)
    square_t = weight @ (target**2).sum(axis=-1) @ weight
    square_s = marginal @ (s**2).sum(axis=-1) @ marginal
    cross = sum(np.sum(target[..., k] * (joint @ s[..., k] @ joint.T)) for k in range(2))
    return float(model.rho / 4 * (square_t - 2 * cross + square_s))


test_error.__test__ = False  # type: ignore[attr-defined]  # not one for pytest to collect


def _plane(sigma: float, width: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Nodes and weights of one rotated teacher field; structure of `width` is resolved as well."""
    rule = trapezoid_normal(min(0.5, 0.125 / sigma, width / sigma / 2), CUT)
    return sigma * rule.nodes, rule.weights


def _contrasts(u: NDArray[np.floating], w: NDArray[np.floating]) -> NDArray[np.float64]:
    """Contrasts at the rotated fields ``u`` (difference, first axis) and ``w`` (sum, second)."""
    difference, total = np.meshgrid(u, w, indexing="ij")
    fields = np.stack([total + difference, total - difference], axis=-1) * math.sqrt(0.5)
    return softmax_contrasts(fields)
