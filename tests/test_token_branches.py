"""Branches of the general model: the equations followed, and what the two-token model says."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from gamp_theory import AttentionModel, GeneralModel, JointLaw, follow, solve
from gamp_theory.branch_result import Stop
from gamp_theory.numerics.differences import jacobian
from gamp_theory.token_branch_map import BranchCoordinates, TokenBranchMap
from gamp_theory.token_branches import follow_general, trace_general
from gamp_theory.token_mechanisms import FixedMixture, RowSoftmax
from gamp_theory.token_overlaps import Coordinates, TokenOverlaps

PAIR = AttentionModel.mixture()
MODEL = GeneralModel.from_pair(PAIR)
NAMES = ("q", "m", "V", "theta")
# no jumps: lam = .1, of docs/theory.md
SMOOTH = TokenOverlaps(
    [[[0.00561033]]] * 2, [[0.136490], [-0.136490]], [[[2.65887]]] * 2, [[[0.0]]] * 2
)


def agree(one, other, sigmas=4.0):
    """Two points of one place are one, within their standard errors."""
    for name in NAMES:
        gap = abs(getattr(one.overlaps, name) - getattr(other.overlaps, name))
        bar = np.hypot(getattr(one.errors, name), getattr(other.errors, name))
        assert np.all(gap <= sigmas * bar + 1e-9), name


def agree_with_pair(point, omega=0.3, sigmas=4.0):
    """A point is that of the two-token model, within its standard errors."""
    model = AttentionModel.mixture(omega=omega)
    want = solve(model, point.alpha, point.lam, point.branch, tol=1e-4, with_stability=False)
    for name in NAMES:
        got, bar = getattr(point.overlaps, name).flat[0], getattr(point.errors, name).flat[0]
        assert abs(got - getattr(want.overlaps, name)) <= sigmas * bar + 1e-9, name
    gap = abs(point.train_loss - want.train_loss)
    assert gap <= sigmas * point.errors.train_loss + want.errors.train_loss


# ------------------------------------------------------------------------------ the equations


def rank_two():
    """Three tokens of two kinds, rank 2, teacher rank 2: everything there is in coordinates."""
    law = JointLaw.isotropic((0.5, 0.5, 0.7), np.eye(3), np.eye(2))
    rng = np.random.default_rng(3)
    blocks = rng.standard_normal((2, 2, 2))
    q, V = blocks @ np.swapaxes(blocks, 1, 2) + 0.1 * np.eye(2)
    m, theta = 0.1 * rng.standard_normal((3, 2)), 0.02 * rng.standard_normal((2, 2, 2))
    x = TokenOverlaps(np.array([q, q, 2 * q]), m, np.array([V, V, 0.5 * V]), theta[[0, 0, 1]])
    return GeneralModel(FixedMixture(0.3, np.full((3, 3), 1 / 3)), RowSoftmax(), law, rank=2), x


def test_coordinates_come_back():
    model, overlaps = rank_two()
    inner = Coordinates.of(model.law, 2)
    x = inner.pack(overlaps)
    coordinates = BranchCoordinates(inner, np.ones(len(x), dtype=bool))
    assert coordinates.back(coordinates.of(x)) == pytest.approx(x, rel=1e-12)


def test_coordinates_have_natural_units():
    """A student ten times as long, as sure of itself as before, is log 10 away, in its length."""
    model, overlaps = rank_two()
    inner = Coordinates.of(model.law, 2)
    larger = TokenOverlaps(
        100 * overlaps.q, 10 * overlaps.m, overlaps.V, 10 * np.asarray(overlaps.theta)
    )
    coordinates = BranchCoordinates(inner, np.ones(inner.size, dtype=bool))
    gap = coordinates.of(inner.pack(larger)) - coordinates.of(inner.pack(overlaps))
    diagonal = gap[inner.slices["noise"]][[0, 2, 3, 5]]
    assert diagonal == pytest.approx(math.log(10), rel=1e-12)
    assert np.sum(gap**2) == pytest.approx(4 * math.log(10) ** 2, rel=1e-12)


def test_what_a_symmetry_keeps_at_zero_takes_no_part():
    map_ = TokenBranchMap(MODEL, "alpha", 1.5, 0.1, 0.05, samples=32)
    u = map_.begin(SMOOTH, math.log(1.5))
    assert u.shape == (3,)  # q, m and V
    x = map_.state(u)
    assert np.all(x[map_.coordinates.coordinates.slices["theta"]] == 0)
    assert map_.coordinates.coordinates.unpack(x).q == pytest.approx(SMOOTH.q, rel=1e-9)


@pytest.mark.parametrize("parameter", ["alpha", "lam"])
def test_the_jacobian_is_that_of_the_residual(parameter):
    """Where no sample changes wells: differences of 2 % against small ones."""
    map_ = TokenBranchMap(MODEL, parameter, 1.5, 0.1, 0.05, samples=64)
    p = math.log(1.5 if parameter == "alpha" else 0.1)
    u = map_.begin(SMOOTH, p)
    map_.prepare(u, p)
    R = map_.residual(u, p)
    assert np.max(abs(R)) < 0.05  # the solution, to within the error of so few points
    got = map_.jacobian(u, p, R)
    want = jacobian(lambda z: map_.residual(z[:-1], float(z[-1])), np.append(u, p), 0.0, floor=1e-4)
    assert got == pytest.approx(want, abs=2e-3)


def test_rotations_of_the_student_are_fixed():
    """At rank two a solution is an orbit: the equations for it are regular all the same."""
    law = JointLaw.isotropic(0.5, [[1.0], [-1.0]])
    model = GeneralModel(FixedMixture(0.3), RowSoftmax(), law, rank=2)
    q, V = np.diag([0.03, 0.02]), np.diag([3.0, 2.5])
    x = TokenOverlaps([q, q], [[0.15, 0.0], [-0.15, 0.0]], [V, V], [[[0.0], [0.05]]] * 2)
    map_ = TokenBranchMap(model, "alpha", 1.5, 0.1, 0.05, samples=32)
    u = map_.begin(x, math.log(1.5))
    map_.prepare(u, math.log(1.5))
    assert map_.turns.shape == (len(u), 1)
    turned = u + 0.01 * map_.turns[:, 0]
    straight = map_.residual(u, math.log(1.5))
    assert map_.turns[:, 0] @ straight == pytest.approx(0, abs=1e-12)
    assert map_.turns[:, 0] @ map_.residual(turned, math.log(1.5)) == pytest.approx(0.01, rel=1e-9)
    slope = map_.jacobian(u, math.log(1.5), straight)
    assert np.linalg.svd(slope[:, :-1])[1][-1] > 0.02


# --------------------------------------------------------------------------------- a branch


@pytest.fixture(scope="module")
def down():
    """An easy stretch, with few points."""
    first = solve(MODEL, 1.5, 0.1, "positional", tol=0.05, with_stability=False)
    return follow_general(first, "alpha", 1.3, through=[1.42], samples=128)


def test_a_branch_is_that_of_two_tokens(down):
    assert down.stop is Stop.REACHED
    assert (down.values[0], down.values[-1]) == (1.5, 1.3)
    assert 1.42 in down.values
    assert down.name == "positional"
    assert down.special == ()
    for point in down.points:
        assert point.converged
        assert point.stability.stable
        assert math.isnan(point.stability.replicon)
        assert not np.any(point.overlaps.theta)
    agree_with_pair(down.points[-1])
    assert "reached the end of the range. (alpha = 1.3)" in down.message
    assert "5 points, stable" in repr(down) or f"{len(down.points)} points, stable" in repr(down)
    assert down.map_evaluations == sum(point.map_evaluations for point in down.points)
    assert np.all(down.slopes < 0)


def test_forward_and_back(down):
    back = follow_general(down.points[-1], "alpha", 1.5, samples=128)
    assert back.stop is Stop.REACHED
    agree(back.points[-1], down.points[0])


def test_the_caller_can_end_it(down):
    seen = []

    def enough(point):
        seen.append(point)
        return True

    branch = follow(down.points[-1], "lam", 0.09, on_point=enough)
    assert branch.stop is Stop.ENDED
    assert [point.lam for point in seen] == [0.1]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"parameter": "omega"}, "parameter must be one of alpha, lam for a general model"),
        ({"to": 0.0}, "to must be > 0 and finite along alpha"),
        ({"back_to": -1.0}, "back_to must be > 0"),
        ({"to": 1.3}, "to must differ from the alpha of the point"),
        ({"tol": 1e-9}, "tol must be in"),
    ],
)
def test_bad_input_is_refused(down, change, match):
    arguments = {"point": down.points[-1], "parameter": "alpha", "to": 1.0} | change
    with pytest.raises(ValueError, match=match):
        follow(**arguments)


def test_a_point_that_has_failed_is_refused(down):
    failed = replace(down.points[0], train_loss=math.nan)
    with pytest.raises(ValueError, match="a branch is followed from a fixed point"):
        follow(failed, "alpha", 1.0)


@pytest.mark.parametrize(
    ("change", "match"),
    [({"along": "omega"}, "along must be one of alpha, lam"), ({"along": "lam"}, "alpha must be")],
)
def test_a_trace_refuses_bad_input(change, match):
    with pytest.raises(ValueError, match=match):
        trace_general(MODEL, [1.0, 2.0], 0.1, "semantic", **change)


@pytest.mark.slow
def test_a_branch_of_the_smooth_case_shrinks_to_nothing():
    """Slow: a dozen points.  docs/theory.md, section 5: below alpha = 1.05 there is Q = 0 only."""
    first = solve(MODEL, 1.5, 0.1, "positional", tol=0.02, with_stability=False)
    branch = follow(first, "alpha", 0.8)
    assert branch.stop is Stop.VANISHED
    for point in branch.points[::2]:
        agree_with_pair(point)


@pytest.mark.slow
def test_a_branch_at_rank_two():
    """Slow: rank two, where the student can be rotated."""
    law = JointLaw.isotropic(0.5, [[1.0], [-1.0]])
    model = GeneralModel(FixedMixture(0.3), RowSoftmax(), law, rank=2)
    first = solve(model, 2.0, 0.01, "mixed", tol=0.05)
    branch = follow(first, "alpha", 1.8)
    assert branch.stop is Stop.REACHED
    assert all(point.stability.orbit_directions == 1 for point in branch.points)
    again = solve(model, 1.8, 0.01, branch.points[-1].overlaps, tol=0.05)
    agree(branch.points[-1], again)


@pytest.mark.slow
def test_a_trace_lands_on_its_values_and_begins_again():
    """Slow: two solves and the points between; below 1.05 only Q = 0 is left."""
    values = [1.3, 1.2, 0.9]
    points = trace_general(MODEL, values, 0.1, "positional", tol=0.05)
    assert [point.alpha for point in points] == values
    assert [point.branch for point in points] == ["positional", "positional", "zero"]
    assert all(point.converged for point in points)
    assert points[2].stability.stable
    for point in points[:2]:
        agree_with_pair(point)
