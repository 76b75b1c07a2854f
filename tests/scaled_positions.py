"""Two tokens whose positions have another length, by the deterministic rules.

The channel does not know the positions: only the prior does, where a length c multiplies ``m_hat``,
and m once more.
"""

import numpy as np

from gamp_theory import AttentionModel, GeneralModel, JointLaw
from gamp_theory.channel.pair import PairChannel
from gamp_theory.overlaps import Overlaps
from gamp_theory.token_mechanisms import FixedMixture, RowSoftmax

PAIR = AttentionModel.mixture()
MAPS, MIXING = 300, 0.5
SMALL = 0.01  # of the natural size of m, for its growth rate


def scaled_model(length):
    law = JointLaw.isotropic(PAIR.sigma, [[length], [-length]])
    return GeneralModel(FixedMixture(PAIR.omega), RowSoftmax(), law)


def image(x, alpha, lam, length, *, even=True):
    """The map of (q, m, V, theta)."""
    overlaps = Overlaps(*x)
    averages = PairChannel(PAIR).rule(overlaps, 1e-5, even=even).averages(overlaps)
    q_hat, m_hat, V_hat, theta_hat = averages.conjugates(alpha).as_array()
    v = PAIR.rho
    D = lam + v * V_hat
    signal = (length * m_hat) ** 2 + (v * theta_hat) ** 2
    return np.array(
        [v * (v * q_hat + signal) / D**2, length**2 * m_hat / D, v / D, v**2 * theta_hat / D]
    )


def fixed_point(x, alpha, lam, length):
    """By damped iteration from x = (q, m, V, theta)."""
    x = np.array(x, dtype=float)
    for _ in range(MAPS):
        there = image(x, alpha, lam, length)
        step = MIXING * (there - x)
        x = x + step
        if np.all(abs(step) <= 1e-6 * abs(x)):
            return x
    raise AssertionError(f"no fixed point near {x}")


def growth_of_m(x, alpha, lam, length):
    """Eigenvalue towards m at a fixed point with m = 0."""
    small = SMALL * np.sqrt(x[0])
    moved = np.array([x[0], small, x[2], x[3]])
    return image(moved, alpha, lam, length, even=False)[1] / small
