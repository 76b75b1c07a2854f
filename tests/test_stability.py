"""Eigenvalues of the map, in and out of the invariant subspaces; replicon; Q = 0."""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import pytest

from gamp_theory.channel.pair import PairChannel
from gamp_theory.model import AttentionModel
from gamp_theory.overlaps import Overlaps
from gamp_theory.prior import prior_map
from gamp_theory.stability import growth_rates, map_jacobian, origin_stability
from gamp_theory.state_evolution import solve

MODEL = AttentionModel.mixture()


@functools.cache
def solved(alpha, start, lam=0.01):
    return solve(MODEL, alpha, lam, start)


#: Computed independently: leading eigenvalue (None: within (-1, 1)), transverse one.
EIGENVALUES = {
    (1.00, "positional"): (-3.4, 0.27),
    (1.25, "positional"): (-4.0, 0.33),
    (2.00, "positional"): (-5.4, 0.48),
    (1.00, "semantic"): (None, -0.12),
    (1.25, "semantic"): (None, -1.02),
    (2.00, "semantic"): (None, -2.5),
}


@pytest.mark.parametrize(("alpha", "branch"), EIGENVALUES)
def test_known_eigenvalues(alpha, branch):
    leading, transverse = EIGENVALUES[alpha, branch]
    stability = solved(alpha, branch).stability
    out, inside = ("theta", "m") if branch == "positional" else ("m", "theta")
    assert stability.transverse[out] == pytest.approx(transverse, abs=0.05)
    assert stability.transverse[inside] is None
    values = np.array(stability.eigenvalues)
    assert np.all(np.diff(values.real) <= 0)
    assert min(abs(values - stability.transverse[out])) < 1e-12
    if leading is None:
        rest = values[abs(values - stability.transverse[out]) > 1e-12]
        assert np.all(abs(rest) < 1)
    else:
        assert values[-1] == pytest.approx(leading, abs=0.05)
        assert stability.spectral_radius == pytest.approx(-values[-1].real)
    assert stability.stable  # below -1 the iteration oscillates, the branch is none the worse


@pytest.mark.parametrize(
    ("alpha", "branch", "jump_mass"),
    [(1.25, "semantic", 0.0074), (1.25, "positional", 0.0473), (2.0, "positional", 0.020)],
)
def test_jump_mass_and_replicon(alpha, branch, jump_mass):
    stability = solved(alpha, branch).stability
    assert stability.jump_mass == pytest.approx(jump_mass, rel=0.03)
    assert 0 < stability.replicon < 1
    assert stability.replicon_error < 0.02 * stability.replicon


def test_jumps_vanish_with_many_samples_or_a_large_ridge():
    assert solved(2.0, "semantic").stability.jump_mass == pytest.approx(1.5e-7, rel=0.5)
    assert solved(1.5, "positional", 0.1).stability.jump_mass < 1e-30


def test_zero_is_unstable_towards_the_positional_branch_at_large_ridge():
    stability = solved(1.5, "zero", 0.1).stability
    assert stability.transverse["m"] > 1
    assert not stability.stable
    assert stability.replicon < 1
    assert solved(1.5, "positional", 0.1).stability.stable


def test_no_stability_is_not_computed():
    assert solve(MODEL, 1.25, 0.01, "semantic", with_stability=False).stability is None


def test_origin_growth_rates_are_the_eigenvalues():
    stability = origin_stability({"q": 0.1, "m": 1.2, "theta": -1.5})
    assert stability.eigenvalues == (1.2, 0.1, -1.5)
    assert stability.spectral_radius == 1.5
    assert stability.replicon == 0.1
    assert stability.transverse == {"m": 1.2, "theta": -1.5}
    assert not stability.stable


# ------------------------------------------------------- the differences, on maps that are known

MATRIX = np.array([[0.3, 0.1, 0.02, 0.2], [0.5, -2, 0.01, 0], [1, 3, 0.4, -2], [0.3, 0, 0.1, 0.7]])


def test_jacobian_of_a_linear_map():
    x = np.array([0.08, 0.2, 15.0, 0.05])
    found = map_jacobian(lambda z: MATRIX @ z, x, 0.25, {})
    np.testing.assert_allclose(found.matrix, MATRIX, atol=1e-9)
    assert found.transverse == {"m": None, "theta": None}
    assert found.evaluations == 8


@pytest.mark.parametrize("zeros", [(1,), (3,), (1, 3)])
def test_jacobian_in_a_subspace_has_blocks(zeros):
    """A map even in m and in theta: each leads out of its subspace only along itself."""
    rate = np.array([0.0, -1.1, 0.0, 0.4])

    def image(z):
        assert np.all(z[list(zeros)] == 0)  # rules may use the symmetry
        out = MATRIX @ np.where(np.isin(range(4), (1, 3)), z**2, z)
        return np.where(np.isin(range(4), (1, 3)), rate * z * (1 + z**2), out)

    x = np.array([0.08, 0.2, 15.0, 0.05])
    x[list(zeros)] = 0
    found = map_jacobian(image, x, 0.25, {"m": rate[1], "theta": rate[3]})
    for j, name in ((1, "m"), (3, "theta")):
        if j in zeros:
            assert found.matrix[j, j] == found.transverse[name] == rate[j]
            assert not np.any(np.delete(found.matrix[j], j))
            assert not np.any(np.delete(found.matrix[:, j], j))
        else:
            assert found.transverse[name] is None


def test_differences_stay_inside_the_domain():
    x = np.array([0.08, 0.2, 15.0, np.sqrt(0.25 * 0.08) * (1 - 1e-6)])

    def guarded(z):
        assert z[3] ** 2 < 0.25 * z[0]
        return MATRIX @ z

    np.testing.assert_allclose(map_jacobian(guarded, x, 0.25, {}).matrix, MATRIX, atol=1e-4)


@pytest.mark.parametrize(
    ("at", "name"),
    [
        (Overlaps(0.08, 0.0, 18.0, 0.11), "m"),
        (Overlaps(0.05, 0.25, 15.0, 0.0), "theta"),
        (Overlaps(0.05, 0.0, 12.0, 0.0), "m"),
        (Overlaps(0.05, 0.0, 12.0, 0.0), "theta"),
    ],
)
def test_growth_is_what_the_map_makes_of_a_small_overlap(at, name):
    alpha, lam, rho = 1.25, 0.01, MODEL.rho
    rule = PairChannel(MODEL).rule(at, 1e-6, even=False)
    expected = []
    for step in (2e-3, 4e-3):
        off = replace(at, **{name: step})
        image = prior_map(rho, rule.averages(off).conjugates(alpha).as_array(), lam)
        expected.append(image[1 if name == "m" else 3] / step)
    limit = (4 * expected[0] - expected[1]) / 3
    even = PairChannel(MODEL).rule(at, 1e-6)
    got = growth_rates(rho, even.averages(at), alpha, lam)[name]
    assert abs(limit - expected[0]) < 1e-3 * (1 + abs(limit))
    assert got == pytest.approx(limit, rel=1e-5, abs=1e-5)
