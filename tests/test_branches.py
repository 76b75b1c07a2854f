"""Branches: followed by their length, every special point located, and never left unnoticed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from invariants import check_branch
from scipy.optimize import brentq

from gamp_theory.branch_result import Stop
from gamp_theory.branches import emerging, follow, singular_fold
from gamp_theory.channel.origin import solve_origin
from gamp_theory.channel.pair import PairChannel
from gamp_theory.model import AttentionModel
from gamp_theory.overlaps import Overlaps
from gamp_theory.prior import prior_map
from gamp_theory.state_evolution import Status, solve
from gamp_theory.tracing import trace

MODEL = AttentionModel.mixture()


def start(name, alpha, lam, tol=1e-5, model=MODEL):
    return solve(model, alpha, lam, name, tol, with_stability=False)


def agree(one, other):
    for name in ("q", "m", "V", "theta"):
        gap = abs(getattr(one.overlaps, name) - getattr(other.overlaps, name))
        assert gap <= getattr(one.errors, name) + getattr(other.errors, name)


# ------------------------------------------------------------------------- along an easy stretch


@pytest.fixture(scope="module")
def semantic():
    return follow(start("semantic", 1.5, 0.01), "alpha", 1.0)


def test_points_are_those_of_cold_solves(semantic):
    assert semantic.stop is Stop.REACHED
    assert (semantic.values[0], semantic.values[-1]) == (1.5, 1.0)
    assert semantic.name == "semantic"
    assert semantic.special == ()
    for point in semantic.points[::3]:
        assert point.converged
        agree(point, start("semantic", point.alpha, 0.01))
    check_branch(semantic)


def test_cost_of_a_point(semantic):
    """Six maps: two residuals and a coarse Jacobian; three more are for the error bars."""
    cost = [point.map_evaluations for point in semantic.points[1:]]
    assert np.median(cost) <= 6 + 3
    assert np.median([point.iterations for point in semantic.points[1:]]) <= 2
    assert semantic.map_evaluations == sum(point.map_evaluations for point in semantic.points)


def test_forward_and_back(semantic):
    back = follow(semantic.points[-1], "alpha", 1.5)
    assert back.stop is Stop.REACHED
    check_branch(back, every=4)
    agree(back.points[-1], semantic.points[0])
    assert [point.branch for point in back.points] == ["semantic"] * len(back.points)


@pytest.mark.parametrize(
    ("parameter", "to"), [("omega", 0.2), ("omega", 0.34), ("lam", 0.013), ("sigma", 0.48)]
)
def test_along_the_other_parameters(parameter, to):
    branch = follow(start("positional", 1.25, 0.015), parameter, to)
    assert branch.stop is Stop.REACHED
    check_branch(branch)
    last = branch.points[-1]
    agree(last, start("positional", 1.25, last.lam, model=last.model))
    assert branch.values[-1] == to


def test_a_branch_lands_on_the_values_asked_for():
    seen = []
    branch = follow(
        start("positional", 1.5, 0.1),
        "alpha",
        1.2,
        through=[1.4, 1.3],
        on_point=lambda point: seen.append(point),
    )
    assert {1.5, 1.4, 1.3, 1.2} <= set(branch.values)
    assert tuple(seen) == branch.points
    known = [0.00561033, 0.136490, 2.65887, 0.0]  # measured, docs/theory.md
    assert branch.points[0].overlaps.as_array() == pytest.approx(known, rel=1e-5)
    check_branch(branch)


# ------------------------------------------------------------------------------- special points


@pytest.fixture(scope="module")
def losing_stability():
    return follow(start("semantic", 1.8, 0.03), "alpha", 1.45)


@pytest.fixture(scope="module")
def mixed(losing_stability):
    (pitchfork,) = losing_stability.special
    return emerging(pitchfork, (1.0, 2.5))


def test_a_pitchfork_is_where_the_transverse_eigenvalue_is_one(losing_stability):
    check_branch(losing_stability)
    (pitchfork,) = losing_stability.special
    assert (pitchfork.kind, pitchfork.direction) == ("pitchfork", "m")
    lo, hi = pitchfork.interval
    assert hi - lo < 1e-4
    sides = []
    for alpha in (pitchfork.value - 1e-3, pitchfork.value + 1e-3):
        point = solve(MODEL, alpha, 0.03, "semantic", 1e-6)
        sides.append(growth_of_m(point) - 1)
        assert point.stability.stable == (sides[-1] < 0)
    assert sides[0] > 0 > sides[1]
    # linearly between two solves that know nothing of the branch
    alpha = pitchfork.value - 1e-3 + 2e-3 * sides[0] / (sides[0] - sides[1])
    assert lo <= alpha <= hi
    # what bifurcates is m, and nothing else
    values = np.array(pitchfork.point.stability.eigenvalues)
    assert np.sum(abs(values - 1) < 0.02) == 1


def growth_of_m(point):
    """The transverse eigenvalue by a fine rule: what the map makes of a small m, over m."""
    x = point.overlaps.as_array()
    x[1] = 1e-3 * np.sqrt(x[0])
    off = Overlaps.from_array(x)
    averages = PairChannel(point.model).rule(off, 1e-7).averages(off)
    hats = averages.conjugates(point.alpha).as_array()
    return prior_map(point.model.rho, hats, point.lam)[1] / x[1]


def test_the_branch_that_leaves_a_pitchfork(losing_stability, mixed):
    check_branch(mixed)
    (pitchfork,) = losing_stability.special
    assert mixed.stop is Stop.REACHED
    assert {point.branch for point in mixed.points} == {"mixed"}
    assert mixed.special[0].kind == "merge"
    # m**2 is proportional to the distance, so it is the branch that leaves just there
    (m1, a1), (m2, a2) = [(point.overlaps.m, point.alpha) for point in mixed.points[:2]]
    assert a1 - m1**2 * (a2 - a1) / (m2**2 - m1**2) == pytest.approx(pitchfork.value, abs=1e-3)


def test_it_merges_where_it_came_from(losing_stability, mixed):
    (pitchfork,) = losing_stability.special
    back = follow(mixed.points[4], "alpha", 1.0, tol=1e-5)
    check_branch(back)
    assert back.stop is Stop.MERGED
    assert "meets" in back.message
    (merge,) = back.special
    assert (merge.kind, merge.direction) == ("merge", "m")
    assert abs(merge.value - pitchfork.value) <= merge.error + pitchfork.error
    agree(merge.point, pitchfork.point)
    assert merge.point.branch == "semantic"


def test_a_branch_ends_at_the_origin_where_that_becomes_unstable():
    branch = follow(start("positional", 1.5, 0.1), "alpha", 0.5)
    check_branch(branch)
    assert branch.stop is Stop.VANISHED
    (end,) = branch.special
    assert (end.kind, end.direction) == ("vanishing", "m")
    onset = brentq(lambda alpha: solve_origin(MODEL, alpha, 0.1).growth["m"] - 1, 1.0, 1.2)
    assert end.value == pytest.approx(onset, abs=1e-7)
    assert end.point.branch == "zero"
    # and by itself: near the end, alpha is a smooth function of q
    last = branch.points[-4:]
    alpha = np.polyfit([point.overlaps.q for point in last], [p.alpha for p in last], 3)[-1]
    assert alpha == pytest.approx(onset, abs=1e-5)


@pytest.fixture(scope="module")
def folding():
    model = AttentionModel.mixture(omega=0.3)
    first = start("positional", 2.5, 0.01, 2e-4, model)
    return follow(first, "omega", 0.2, on_point=lambda point: point.overlaps.m < 0.2)


def test_a_fold_is_found_twice(folding):
    check_branch(folding)
    assert folding.stop is Stop.ENDED
    (fold,) = folding.of_kind("fold")
    assert fold.value < folding.values.min()
    assert 0 < fold.error < 1e-5
    overlaps, omega = singular_fold(fold)
    assert fold.interval[0] <= omega <= fold.interval[1]
    # the parameter is stationary at a fold, the state is not: it is known to a square root
    assert overlaps.m == pytest.approx(fold.point.overlaps.m, abs=1e-3)
    assert abs(fold.tangent[4]) < 1e-6
    assert min(abs(np.array(fold.point.stability.eigenvalues) - 1)) < 0.02


def test_two_fixed_points_on_one_side_of_a_fold_and_none_on_the_other(folding):
    (fold,) = folding.of_kind("fold")
    m = [point.overlaps.m for point in folding.points]
    assert np.all(np.diff(m) < 0)  # through the fold, from one to the other
    first, last = folding.points[0], folding.points[-1]
    assert first.stability.stable
    assert not last.stability.stable
    beyond = folding.points[0].model.with_parameters(omega=fold.value - 0.003)
    point = solve(beyond, 2.5, 0.01, folding.points[fold.after].overlaps, 1e-3, on_failure="return")
    assert not point.converged or abs(point.overlaps.m - fold.point.overlaps.m) > 0.02


def test_back_through_a_fold(folding):
    back = follow(folding.points[-1], "omega", 0.2, back_to=0.3)
    assert back.stop is Stop.TURNED_BACK
    agree(back.points[-1], folding.points[0])
    (fold,), (known,) = back.of_kind("fold"), folding.of_kind("fold")
    assert abs(fold.value - known.value) <= 2 * (fold.error + known.error)


# -------------------------------------------------------------------------------- how it stops


def test_an_interrupt_loses_nothing():
    seen = []

    def interrupt(point):
        seen.append(point)
        if len(seen) == 3:
            raise KeyboardInterrupt

    branch = follow(start("positional", 1.5, 0.1), "alpha", 1.1, on_point=interrupt)
    assert branch.stop is Stop.INTERRUPTED
    assert branch.points == tuple(seen)
    assert len(branch.tangents) == 3


def test_other_ends():
    first = start("positional", 1.5, 0.1)
    few = follow(first, "alpha", 1.1, most_points=2)
    assert few.stop is Stop.POINT_LIMIT
    assert len(few.points) == 2
    ended = follow(first, "alpha", 1.1, on_point=lambda point: point.alpha < 1.49)
    assert ended.stop is Stop.ENDED
    assert ended.points[-1].alpha < 1.49 < ended.points[-2].alpha
    with pytest.raises(RuntimeError, match="mine"):
        follow(first, "alpha", 1.1, on_point=broken)


def broken(point):
    raise RuntimeError("mine")


def test_every_stop_is_a_sentence():
    for stop in Stop:
        assert stop.value.endswith(".")
        assert stop.token == stop.name.lower()


def test_a_branch_can_be_read(losing_stability, mixed):
    text = repr(losing_stability)
    assert "Branch semantic along alpha from 1.8 to 1.45" in text
    assert "pitchfork in m at alpha = 1.614" in text
    assert "stable" in text
    assert "unstable" in text
    assert repr(mixed).count("\n") == 2


def test_replicon_on_request():
    branch = follow(start("positional", 1.5, 0.1), "alpha", 1.45, with_replicon=True)
    assert all(np.isfinite(point.stability.replicon) for point in branch.points)
    assert all(point.stability.jump_mass < 1e-20 for point in branch.points)


@pytest.mark.parametrize(
    ("parameter", "options", "message"),
    [
        ("q", {"to": 1.0}, "parameter must be one of alpha, omega, lam, sigma, got 'q'"),
        ("alpha", {"to": 0.0}, r"to must be > 0 and finite along alpha, got 0\.0"),
        ("omega", {"to": 1.1}, r"to must be in \[0, 1\] along omega, got 1\.1"),
        ("lam", {"to": 0.2, "back_to": np.inf}, "back_to must be > 0 and finite along lam"),
        ("alpha", {"to": 1.5}, "to must differ from the alpha of the point, got 1.5"),
    ],
)
def test_follow_refuses(parameter, options, message):
    first = start("positional", 1.5, 0.1, 1e-3)
    with pytest.raises(ValueError, match=message):
        follow(first, parameter, **options)


def test_what_can_not_be_followed():
    zero = solve(MODEL, 1.5, 0.1, "zero")
    with pytest.raises(ValueError, match="from a fixed point with q > 0"):
        follow(zero, "alpha", 2.0)


def test_emerging_refuses(losing_stability):
    (pitchfork,) = losing_stability.special
    with pytest.raises(ValueError, match="between must hold"):
        emerging(pitchfork, (2.0, 3.0))
    with pytest.raises(ValueError, match="emerges from a pitchfork or merge"):
        emerging(replace(pitchfork, kind="fold"), (1.0, 3.0))
    with pytest.raises(ValueError, match="special must be a fold"):
        singular_fold(pitchfork)
    with pytest.raises(ValueError, match="is outside"):
        replace(pitchfork, interval=(2.0, 3.0))


# ------------------------------------------------------------------------------------- by values


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
    ("along", "values"),
    [("omega", [0.3, 0.35, 0.4]), ("lam", [0.01, 0.02]), ("sigma", [0.5, 0.51])],
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
