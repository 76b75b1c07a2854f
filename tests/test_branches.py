"""Branches: followed by their length, every special point located, and never left unnoticed."""

from __future__ import annotations

import numpy as np
import pytest

from gamp_theory.branches import Stop, follow, trace
from gamp_theory.model import AttentionModel
from gamp_theory.state_evolution import Status, solve

MODEL = AttentionModel.mixture()


@pytest.fixture(scope="module")
def semantic():
    start = solve(MODEL, 1.5, 0.01, "semantic", 1e-5, with_stability=False)
    return follow(start, "alpha", 0.84)


def agree(one, other):
    for name in ("q", "m", "V", "theta"):
        gap = abs(getattr(one.overlaps, name) - getattr(other.overlaps, name))
        assert gap <= getattr(one.errors, name) + getattr(other.errors, name)


def test_points_are_those_of_cold_solves(semantic):
    assert semantic.stop is Stop.REACHED
    assert (semantic.values[0], semantic.values[-1]) == (1.5, 0.84)
    assert semantic.name == "semantic"
    for point in semantic.points[::3]:
        cold = solve(MODEL, point.alpha, 0.01, "semantic", 1e-5, with_stability=False)
        agree(point, cold)


def test_cost_of_a_point(semantic):
    """Prediction, Jacobian and a correction or two: three more maps are for the error bars."""
    assert np.median([point.map_evaluations for point in semantic.points[1:]]) <= 9


def test_forward_and_back(semantic):
    back = follow(semantic.points[-1], "alpha", 1.5)
    assert back.stop is Stop.REACHED
    agree(back.points[-1], semantic.points[0])


@pytest.fixture(scope="module")
def traced():
    seen = []
    points = trace(MODEL, [1.2, 1.3, 1.4, 1.5], 0.01, "semantic", progress=seen.append)
    return points, seen


def test_trace_lands_on_the_values(traced):
    points, seen = traced
    assert tuple(seen) == points
    assert [point.alpha for point in points] == [1.2, 1.3, 1.4, 1.5]
    for point in points:
        assert point.converged
        assert (point.branch, point.start) == ("semantic", "semantic")
        assert point.overlaps.m == 0
        assert np.isfinite(point.stability.replicon)
    agree(points[-1], solve(MODEL, 1.5, 0.01, "semantic", with_stability=False))


def test_overlaps_are_monotonic(traced):
    points, _ = traced
    assert np.all(np.diff([point.overlaps.theta for point in points]) > 0)
    assert np.all(np.diff([point.overlaps.V for point in points]) < 0)


@pytest.mark.parametrize(
    ("along", "values"), [("omega", [0.3, 0.35, 0.4]), ("lam", [0.01, 0.02]), ("sigma", [0.5, 0.51])]
)
def test_trace_along_the_others(along, values):
    points = trace(MODEL, values, 0.01, "positional", alpha=1.25, along=along, tol=1e-4)
    where = [point.lam if along == "lam" else getattr(point.model, along) for point in points]
    assert where == values
    assert {point.alpha for point in points} == {1.25}
    assert all(point.converged and point.branch == "positional" for point in points)
    last = points[-1]
    agree(last, solve(last.model, 1.25, last.lam, "positional", 1e-4, with_stability=False))


def test_a_value_may_be_repeated():
    points = trace(MODEL, [1.2, 1.2, 1.3, 1.2], 0.01, "positional", tol=1e-5)
    assert [point.alpha for point in points] == [1.2, 1.2, 1.3, 1.2]
    agree(points[0], points[1])
    agree(points[0], points[3])


def test_failures_are_points_too():
    points = trace(MODEL, [1.0, 1.5], 0.01, "zero")
    assert [point.status for point in points] == [Status.DOES_NOT_EXIST] * 2
    assert np.isnan([point.train_loss for point in points]).all()


def test_a_start_may_end_elsewhere():
    points = trace(MODEL, [1.4, 1.5], 0.1, "semantic")
    assert [point.branch for point in points] == ["zero", "zero"]
    assert {point.start for point in points} == {"semantic"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"along": "q"}, "along must be one of alpha, omega, lam, sigma, got 'q'"),
        ({"along": "omega"}, "alpha must be given along omega, got None"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        trace(MODEL, [0.3], 0.01, "semantic", **arguments)
