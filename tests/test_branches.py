"""A branch point by point: warm starts change nothing but the time."""

from __future__ import annotations

import numpy as np
import pytest

from gamp_theory.branches import trace
from gamp_theory.model import AttentionModel
from gamp_theory.state_evolution import Status, solve

MODEL = AttentionModel.mixture()


@pytest.fixture(scope="module")
def semantic():
    seen = []
    branch = trace(MODEL, [1.2, 1.3, 1.4, 1.5], 0.01, "semantic", progress=seen.append)
    return branch, seen


def agree(one, other):
    for name in ("q", "m", "V", "theta"):
        gap = abs(getattr(one.overlaps, name) - getattr(other.overlaps, name))
        assert gap <= getattr(one.errors, name) + getattr(other.errors, name)


def test_points_are_those_of_cold_solves(semantic):
    branch, _ = semantic
    assert (branch.along, branch.start) == ("alpha", "semantic")
    assert [point.alpha for point in branch.points] == [1.2, 1.3, 1.4, 1.5]
    for point in branch.points:
        assert point.converged
        assert (point.branch, point.start) == ("semantic", "semantic")
        assert point.overlaps.m == 0
    cold = solve(MODEL, 1.5, 0.01, "semantic", with_stability=False)
    agree(branch.points[-1], cold)
    assert branch.points[-1].iterations <= cold.iterations


def test_overlaps_are_monotonic(semantic):
    points = semantic[0].points
    theta = [point.overlaps.theta for point in points]
    V = [point.overlaps.V for point in points]
    assert np.all(np.diff(theta) > 0)
    assert np.all(np.diff(V) < 0)


def test_progress_sees_every_point(semantic):
    branch, seen = semantic
    assert tuple(seen) == branch.points


def test_direction_does_not_matter(semantic):
    back = trace(MODEL, [1.5, 1.2], 0.01, "semantic")
    agree(back.points[1], semantic[0].points[0])


def test_along_omega():
    branch = trace(MODEL, [0.3, 0.35, 0.4], 0.01, "positional", alpha=1.25, along="omega")
    assert [point.model.omega for point in branch.points] == [0.3, 0.35, 0.4]
    assert {point.alpha for point in branch.points} == {1.25}
    assert all(point.converged and point.branch == "positional" for point in branch.points)
    assert np.all(np.diff([point.overlaps.m for point in branch.points]) > 0)


def test_a_value_may_be_repeated():
    points = trace(MODEL, [1.2, 1.2, 1.3], 0.01, "positional").points
    agree(points[0], points[1])
    assert points[2].converged


def test_failures_are_points_too():
    branch = trace(MODEL, [1.0, 1.5], 0.01, "zero")
    assert [point.status for point in branch.points] == [Status.DOES_NOT_EXIST] * 2
    assert np.isnan([point.train_loss for point in branch.points]).all()


def test_a_start_may_end_elsewhere():
    branch = trace(MODEL, [1.4, 1.5], 0.1, "semantic")
    assert [point.branch for point in branch.points] == ["zero", "zero"]
    assert branch.start == "semantic"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"along": "sigma"}, "along must be 'alpha' or 'omega', got 'sigma'"),
        ({"along": "omega"}, "alpha must be given along omega, got None"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        trace(MODEL, [0.3], 0.01, "semantic", **arguments)
