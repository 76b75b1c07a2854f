"""The map in the coordinates of a branch: derivatives, symmetry, and frozen rules."""

from __future__ import annotations

import numpy as np
import pytest

from gamp_theory.branch_map import PARAMETERS, BranchMap, Place, place_at
from gamp_theory.channel.pair import PairChannel
from gamp_theory.model import AttentionModel
from gamp_theory.numerics.differences import jacobian as difference_jacobian
from gamp_theory.overlaps import Overlaps
from gamp_theory.state_evolution import Solver

MODEL = AttentionModel.mixture()
PLACE = Place(MODEL, 1.5, 0.1)
STATES = {
    (): Overlaps(0.0056, 0.0, 2.66, 0.0),
    ("m",): Overlaps(0.0056, 0.136, 2.66, 0.0),
    ("theta",): Overlaps(0.03, 0.0, 2.5, 0.05),
    ("m", "theta"): Overlaps(0.03, 0.1, 2.5, 0.05),
}


def prepared(parameter, broken, tol=1e-6):
    branch_map = BranchMap(PLACE, parameter, broken, tol)
    u = branch_map.coordinates(STATES[broken].as_array(), MODEL.rho)
    p = branch_map.coordinate(
        {"alpha": 1.5, "lam": 0.1, "omega": MODEL.omega, "sigma": MODEL.sigma}[parameter]
    )
    branch_map.prepare(u, p)
    return branch_map, u, p


@pytest.mark.parametrize("broken", STATES, ids="-".join)
def test_coordinates_and_back(broken):
    branch_map, u, p = prepared("alpha", broken)
    x = STATES[broken].as_array()
    assert branch_map.overlaps(u, MODEL.rho) == pytest.approx(x, rel=1e-12)
    assert branch_map.value(p) == pytest.approx(1.5)
    assert len(u) == 2 + len(broken)


@pytest.mark.parametrize("broken", STATES, ids="-".join)
@pytest.mark.parametrize("parameter", PARAMETERS)
def test_both_jacobians_are_derivatives_of_the_frozen_residual(parameter, broken):
    branch_map, u, p = prepared(parameter, broken)
    exact = difference_jacobian(
        lambda z: branch_map.residual(z[:-1], float(z[-1])), np.append(u, p), 0.0, floor=1e-4
    )
    value = branch_map.residual(u, p)
    assert branch_map.accurate(u, p, value) == pytest.approx(exact, abs=3e-4)
    assert branch_map.jacobian(u, p, value) == pytest.approx(exact, rel=5e-3, abs=5e-3)


@pytest.mark.parametrize("broken", STATES, ids="-".join)
def test_the_spectrum_comes_with_the_jacobian(broken):
    branch_map, u, p = prepared("alpha", broken)
    branch_map.jacobian(u, p, u)
    solver = Solver(MODEL, 1.5, 0.1, "given", 1e-6, 1.0, 1.0, True)
    expected = solver.jacobian(STATES[broken].as_array())
    got = branch_map.spectrum
    assert np.linalg.eigvals(got.matrix) == pytest.approx(
        np.linalg.eigvals(expected.matrix), rel=5e-3, abs=5e-3
    )
    for name, rate in expected.transverse.items():
        assert got.transverse[name] == (None if rate is None else pytest.approx(rate, abs=5e-3))


def test_alpha_and_lam_cost_no_evaluation():
    for parameter, maps in (("alpha", 3), ("lam", 3), ("omega", 4), ("sigma", 4)):
        branch_map, u, p = prepared(parameter, ("m",))
        branch_map.jacobian(u, p, u)
        assert branch_map.coarse_maps == 1 + maps
        assert branch_map.maps == 0


def test_equations_are_even_in_what_may_vanish():
    """The branch goes through m = 0, into its mirror image."""
    branch_map, u, p = prepared("alpha", ("m",))
    for c in (0.0, 0.01, 0.3):
        up, down = u.copy(), u.copy()
        up[1], down[1] = c, -c
        assert branch_map.residual(up, p) == pytest.approx(branch_map.residual(down, p), abs=1e-12)
    u[1] = 0.0
    assert np.all(np.isfinite(branch_map.residual(u, p)))


def test_outside_the_domain():
    branch_map, u, p = prepared("omega", ("m",))
    assert np.all(np.isnan(branch_map.residual(u, 1.1)))
    assert branch_map.refusal == "domain"
    u[2] = 40.0
    assert np.all(np.isnan(branch_map.residual(u, p)))
    branch_map.prepare(u, p)
    assert branch_map.rule is None
    assert np.all(np.isnan(branch_map.jacobian(u, p, u)))


@pytest.mark.parametrize("parameter", ["omega", "sigma"])
@pytest.mark.parametrize("kind", ["plane", "slices"])
def test_frozen_nodes_serve_a_model_nearby(parameter, kind):
    at = STATES["m",]
    channel = PairChannel(MODEL)
    rule = channel.rule(at, 1e-6) if kind == "plane" else channel.slices(at, 1e-5)
    moved = place_at(PLACE, parameter, getattr(MODEL, parameter) * 1.001).model
    remade = PairChannel(moved).rule(at, 1e-7).averages(at)
    got = rule.for_model(moved).averages(at)
    close = 3e-5
    assert got.as_array() == pytest.approx(remade.as_array(), rel=close)
    # and it does see the change
    assert abs(got.loss / rule.averages(at).loss - 1) > 5 * close
