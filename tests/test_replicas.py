"""The replicon as the growth of the difference of two replicas (docs/theory.md, section 6).

Two replicas see the same samples.  Their cavity fields are jointly Gaussian: the same means and
variances, and a covariance short of the variance by the gap.  One step of state evolution maps the
gap to ``(alpha/2) E |(prox - w)_1 - (prox - w)_2|**2``, here by randomised Sobol points in six
dimensions and a prox that is global by construction.
"""

import math

import numpy as np
import pytest
import reference
from scipy.special import ndtri
from scipy.stats import qmc

from gamp_theory.channel.sobol_kernels import LEAF, STACK_ROWS, ProxProblem, global_prox
from gamp_theory.model import AttentionModel
from gamp_theory.overlaps import Overlaps
from gamp_theory.state_evolution import solve

MODEL = AttentionModel.mixture(0.3, 0.5)
# alpha = 1.25, lam = .01: fixed points to six digits, and kappa as the slices have it
SEMANTIC = Overlaps(q=0.0816248, m=0.0, V=18.3211, theta=0.117926)
POSITIONAL = Overlaps(q=0.0471005, m=0.252411, V=14.9034, theta=0.0)


def normal_points(samples, dimension, stream):
    sobol = qmc.Sobol(dimension, bits=52, seed=np.random.default_rng(stream))
    return ndtri(sobol.random(samples) + 0.5**53)


def proxes(w, t, k):
    stack = np.empty((STACK_ROWS, 3))
    return np.array(
        [
            global_prox(ProxProblem(*w_i, *t_i, k), LEAF, stack)[:2]
            for w_i, t_i in zip(w, t, strict=True)
        ]
    )


def next_gap(x, alpha, gap, samples, scrambles=8, seed=0):
    """The gap after one step, and its standard error."""
    rho = MODEL.rho
    variance = x.q - x.theta**2 / rho
    means = []
    for stream in np.random.SeedSequence(seed).spawn(scrambles):
        z = normal_points(samples, 6, stream)
        y = MODEL.sigma * z[:, :2]
        t = reference.contrasts(reference.target(y, MODEL.omega, MODEL.target.A))
        common = np.array([x.m, -x.m]) + x.theta / rho * y
        common = common + math.sqrt(variance - gap / 2) * z[:, 2:4]
        half = math.sqrt(gap / 2) * z[:, 4:]
        one, two = (proxes(w, t, x.V * rho / 2) - w for w in (common + half, common - half))
        means.append(alpha * ((one - two) ** 2).sum(axis=1).mean() / 2)
    return np.mean(means), np.std(means, ddof=1) / math.sqrt(scrambles)


@pytest.mark.parametrize(
    ("alpha", "lam", "start", "samples"),
    # no jump at all; a jump mass of 1.5e-7
    [(1.5, 0.1, "positional", 2**12), (2.0, 0.01, "semantic", 2**12)],
)
def test_without_jumps_the_gap_grows_by_the_replicon(alpha, lam, start, samples):
    point = solve(MODEL, alpha, lam, start, tol=1e-5)
    kappa, uncertain = point.stability.replicon, point.stability.replicon_error
    gap = 1e-3 * point.overlaps.q
    grown, error = next_gap(point.overlaps, alpha, gap, samples)
    assert error / gap < 0.01 * kappa
    # the next order in the gap: kappa changes by a tenth or less as the gap grows to q/10
    assert grown / gap == pytest.approx(kappa, abs=4 * error / gap + 3 * uncertain)
    # and once more from where it has got to: it shrinks geometrically
    again, error_again = next_gap(point.overlaps, alpha, grown, samples, seed=1)
    assert again / gap == pytest.approx(kappa**2, abs=5 * kappa * (error_again / grown + uncertain))


def test_replicas_that_are_one_stay_one():
    assert next_gap(SEMANTIC, 1.25, 0.0, 64) == (0.0, 0.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("x", "kappa", "c"),
    # kappa from the slices; c as in docs/theory.md, from gaps of q/1000
    [(POSITIONAL, 0.47663, 0.031), (SEMANTIC, 0.37024, 0.0044)],
)
def test_with_jumps_it_grows_like_a_square_root(x, kappa, c):
    ratios = []
    for share in (1e-2, 1e-3):
        gap = share * x.q
        grown, error = next_gap(x, 1.25, gap, 2**15)
        ratios.append(grown / gap)
    # at q/100 the regular part is not linear in the gap any more
    coefficient, uncertain = (grown - kappa * gap) / math.sqrt(gap), error / math.sqrt(gap)
    assert coefficient == pytest.approx(c, abs=4 * uncertain)
    # without the jumps both would be kappa
    assert ratios[1] > 1.5 * ratios[0] > 1.5 * kappa


def test_the_square_root_is_that_of_the_jump():
    """At one draw, t = (1/2, 1/2), where symmetry puts the jump at ``w_1 = w_2``.

    The coefficient is ``int |jump of the prox|**2 p(w) ds/sqrt(pi)``, a line integral.
    """
    t, k, s = np.array([0.5, 0.5]), 18 * MODEL.rho / 2, 0.3
    b, weight = np.polynomial.hermite_e.hermegauss(60)
    line = s * np.outer(b, [1.0, 1.0]) / math.sqrt(2)
    off = 1e-7 * np.array([1.0, -1.0])
    ts = np.broadcast_to(t, line.shape)
    jump = proxes(line + off, ts, k) - proxes(line - off, ts, k)
    across = 1 / math.sqrt(2 * math.pi) / s
    expected = weight @ (jump**2).sum(axis=1) / weight.sum() * across / math.sqrt(math.pi)

    def grown(gap, stream):
        z = s * normal_points(2**13, 4, stream)
        common = math.sqrt(1 - gap / (2 * s * s)) * z[:, :2]
        half = math.sqrt(gap / 2) * z[:, 2:] / s
        ts = np.broadcast_to(t, common.shape)
        one, two = (proxes(w, ts, k) - w for w in (common + half, common - half))
        return ((one - two) ** 2).sum(axis=1).mean() / 2

    gap = 1e-2 * s * s
    # the linear part drops out of 4 grown(gap) - grown(4 gap)
    got = [
        (4 * grown(gap, stream) - grown(4 * gap, stream)) / (2 * math.sqrt(gap))
        for stream in np.random.SeedSequence(3).spawn(5)
    ]
    error = np.std(got, ddof=1) / math.sqrt(5)
    assert error < 0.05 * expected
    assert np.mean(got) == pytest.approx(expected, abs=4 * error + 0.02 * expected)
