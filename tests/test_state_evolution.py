"""Fixed points: independent values, identities, exact limits, every way to end."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest

from gamp_theory import identities, observables, pair_search, state_evolution
from gamp_theory.channel.base import ChannelAverages
from gamp_theory.channel.pair import PairRule
from gamp_theory.model import AttentionModel
from gamp_theory.overlaps import Overlaps
from gamp_theory.state_evolution import ConvergenceError, FixedPoint, Status, solve

MODEL = AttentionModel.mixture()
NUMBERS = ("q", "m", "V", "theta", "test_error", "train_loss")

#: Computed independently: q, m, V, theta, test_error, train_loss; good to about 1e-5.
VALUES = {
    (1.00, "semantic"): (0.0680892, 0, 21.6195, 0.0945874, 0.00285575, 0.00232886),
    (1.00, "positional"): (0.0434472, 0.248241, 16.4294, 0, 0.00333265, 0.00216816),
    (1.25, "semantic"): (0.0816248, 0, 18.3211, 0.117926, 0.00234910, 0.00272106),
    (1.25, "positional"): (0.0471005, 0.252411, 14.9034, 0, 0.00339511, 0.00271980),
    (1.50, "semantic"): (0.0939554, 0, 16.0190, 0.134547, 0.00196067, 0.00305369),
    (1.50, "positional"): (0.0494713, 0.254733, 13.5928, 0, 0.00343976, 0.00329662),
    (2.00, "semantic"): (0.114817, 0, 12.6684, 0.158159, 0.00140420, 0.00359062),
    # The independent program had q = .0510654, m = .258238, V = 11.3677 here, 1e-4 away.  Our two
    # rules agree on these to 1e-6, and with 2**25 Sobol points one map moves them by 0.2 standard
    # errors, chi2(3) = 0.9, and the others by 3.9, chi2(3) = 17.1.
    (2.00, "positional"): (0.0510709, 0.258229, 11.36878, 0, 0.00347304, 0.00451277),
}


@functools.cache
def solved(alpha, start, lam=0.01, model=MODEL, tol=1e-6):
    return solve(model, alpha, lam, start, tol, with_stability=False)


def numbers(point):
    overlaps = [getattr(point.overlaps, name) for name in NUMBERS[:4]]
    return np.array([*overlaps, point.test_error, point.train_loss])


def errors(point):
    return np.array([getattr(point.errors, name) for name in NUMBERS])


# --------------------------------------------------------------------------- known values


@pytest.mark.parametrize(("alpha", "branch"), VALUES)
def test_independent_values(alpha, branch):
    point = solved(alpha, branch)
    got, expected = numbers(point), np.array(VALUES[alpha, branch])
    np.testing.assert_allclose(got, expected, rtol=5e-5, atol=1e-6 * (expected == 0).max())
    assert np.all(errors(point) <= 1e-5 * abs(got))
    assert point.branch == point.start == branch
    assert point.iterations <= 15
    assert point.residual < point.residual_tol


def test_large_ridge():
    """At lam = .1 a semantic start runs to Q = 0, a positional one stays."""
    semantic, positional = solved(1.5, "semantic", 0.1), solved(1.5, "positional", 0.1)
    assert semantic.branch == "zero"
    assert semantic.overlaps.q == 0
    assert semantic.test_error == pytest.approx(0.0044146, rel=2e-5)
    expected = (0.00561033, 0.136490, 2.65887, 0, 0.00375867, 0.00643105)
    np.testing.assert_allclose(numbers(positional), expected, rtol=5e-6)
    assert identities.jump_mass(positional).direct < 1e-30


def test_a_start_that_leaves_its_branch_says_so():
    point = solved(1.5, "semantic", 0.1)
    assert point.converged
    assert point.start == "semantic"
    assert "semantic start ended on the zero branch" in point.message


# ----------------------------------------------------------------------------- identities


@pytest.mark.parametrize(
    ("alpha", "branch", "lam"),
    [*((alpha, branch, 0.01) for alpha, branch in VALUES), (1.5, "positional", 0.1)],
)
def test_free_entropy_is_stationary_and_both_losses_agree(alpha, branch, lam):
    point = solved(alpha, branch, lam)
    found = identities.stationarity(point)
    assert set(found) == {"q", "V", "theta" if branch == "semantic" else "m"}
    assert max(comparison.relative for comparison in found.values()) < 1e-5
    difference = point.train_loss - point.train_loss_variational
    assert abs(difference) <= 10 * point.errors.train_loss


@pytest.mark.parametrize(
    ("alpha", "branch", "lam"),
    [
        (1.5, "positional", 0.1),
        (1.25, "positional", 0.01),
        (1.25, "semantic", 0.01),
        pytest.param(1.0, "semantic", 0.01, marks=pytest.mark.slow),  # 12 solves each
        pytest.param(1.0, "positional", 0.01, marks=pytest.mark.slow),
        pytest.param(1.5, "semantic", 0.01, marks=pytest.mark.slow),
        pytest.param(1.5, "positional", 0.01, marks=pytest.mark.slow),
    ],
)
def test_slopes_of_the_training_loss(alpha, branch, lam):
    found = identities.train_loss_slopes(solved(alpha, branch, lam))
    assert set(found) == {"alpha", "lam", "omega"}
    assert max(comparison.relative for comparison in found.values()) < 1e-5


@pytest.mark.parametrize(("branch", "expected"), [("semantic", 0.0074), ("positional", 0.0473)])
def test_jump_mass_is_what_pointwise_derivatives_miss(branch, expected):
    found = identities.jump_mass(solved(1.25, branch))
    assert found.direct == pytest.approx(expected, rel=0.01)
    assert found.relative < 5e-4


def test_identities_need_a_solution():
    point = solve(MODEL, 1.5, 0.01, "zero", on_failure="return")
    with pytest.raises(ValueError, match="solved fixed point"):
        identities.stationarity(point)


# --------------------------------------------------------------------------- exact limits


def test_zero_exists_only_at_large_ridge():
    point = solved(1.5, "zero", 0.1)
    assert point.branch == "zero"
    assert point.message == Status.CONVERGED.value
    assert numbers(point)[[0, 1, 3]].tolist() == [0, 0, 0]
    # Q = 0 attends uniformly: eps_t = alpha E loss(0), and eps_g = E loss(0)
    assert point.train_loss == pytest.approx(1.5 * point.test_error, rel=1e-9)
    assert point.train_loss == pytest.approx(point.train_loss_variational, rel=1e-10)
    nothing = solve(MODEL, 1.5, 0.01, "zero", on_failure="return")
    assert nothing.status is Status.DOES_NOT_EXIST
    assert nothing.overlaps is None
    assert math.isnan(nothing.train_loss)


def test_constant_target():
    """At omega = 1 there is nothing semantic to learn, and the linear model is exact."""
    model = AttentionModel.mixture(1.0)
    semantic = solved(1.25, "semantic", model=model)
    positional = solved(1.25, "positional", model=model)
    assert semantic.branch == "uninformed"
    assert semantic.overlaps.theta == 0
    assert positional.branch == "positional"
    assert positional.linear_error == pytest.approx(0, abs=1e-16)
    assert positional.train_loss < semantic.train_loss
    uninformed = solved(1.25, "uninformed", model=model)
    np.testing.assert_allclose(numbers(uninformed), numbers(semantic), rtol=1e-6)
    assert max(c.relative for c in identities.stationarity(positional).values()) < 1e-5


def test_few_samples():
    """eps_t/alpha -> E loss(0) as alpha -> 0, with the slope E M."""
    few, fewer = solved(1e-3, "semantic", 0.1), solved(1e-4, "semantic", 0.1)
    assert few.branch == fewer.branch == "zero"
    assert fewer.train_loss / 1e-4 == pytest.approx(fewer.test_error, rel=1e-9)
    assert pytest.approx(10 * MODEL.rho, rel=1e-2) == few.overlaps.V
    assert pytest.approx(10 * MODEL.rho, rel=1e-3) == fewer.overlaps.V


def test_small_tokens():
    """As sigma -> 0 the fields vanish, T -> (1 - omega)/2 + omega A, and Q = 0 is the answer."""
    distance = []
    for sigma in (0.1, 0.02):
        point = solved(1.25, "semantic", model=AttentionModel.mixture(0.3, sigma))
        limit = 1.25 * sigma**2 / 4 * 2 * (0.3 * 0.2) ** 2
        assert point.branch == "zero"
        distance.append(point.train_loss / limit - 1)
    assert 0 < distance[1] < 0.01
    assert distance[0] / distance[1] == pytest.approx(25, rel=0.2)  # order sigma^2


def test_linear_baseline():
    assert solved(1.25, "semantic").linear_error == pytest.approx(0.0019713843347, abs=1e-10 / 500)


# ------------------------------------------------------------------- tolerances and starts


def test_a_tighter_tolerance_gives_smaller_error_bars_and_the_same_values():
    points = [solved(1.25, "semantic", tol=tol) for tol in (1e-4, 1e-6, 1e-7)]
    bars = np.array([errors(point) for point in points])
    used = bars[0] > 0
    assert np.all(bars[1, used] < bars[0, used])
    assert np.all(bars[2, used] < bars[1, used])
    best = numbers(points[-1])
    for point, bar in zip(points[:-1], bars[:-1], strict=True):
        assert np.all(abs(numbers(point) - best) <= bar + bars[-1])
        assert np.all(bar[:4] <= point.tol * abs(best[:4]))


@pytest.mark.parametrize("branch", ["semantic", "positional", "uninformed"])
def test_symmetric_starts_stay_in_their_subspace(branch):
    point = solved(1.25, branch)
    assert (point.overlaps.m == 0) == (branch != "positional")
    assert (point.overlaps.theta == 0) == (branch != "semantic")
    assert point.branch == branch


@pytest.mark.parametrize(
    ("branch", "start"),
    [
        ("semantic", Overlaps(0.08, 0, 18, 0.11)),
        ("semantic", Overlaps(0.08, 0, 18, -0.11)),
        ("semantic", Overlaps(0.25, 0, 18, 0.25)),  # Q = Q*: on the edge theta^2 = rho q
        ("semantic", Overlaps(0.08, 0.05, 18, 0.1)),  # the map draws m to 0
        ("positional", Overlaps(0.047, 0.25, 15, 0)),
        ("positional", Overlaps(0.047, -0.25, 15, 0)),
    ],
)
def test_given_starts_reach_the_canonical_fixed_point(branch, start):
    point, known = solved(1.25, start), solved(1.25, branch)
    assert point.start == "given"
    assert point.branch == branch
    assert point.message == Status.CONVERGED.value
    assert np.all(abs(numbers(point) - numbers(known)) <= errors(point) + errors(known))


# ---------------------------------------------------------------------- ways to end, words


def force_iteration_limit(monkeypatch):
    whole = pair_search.solve_fixed_point

    def cut_short(*args, **options):
        return whole(*args, **{**options, "max_evaluations": 2})

    monkeypatch.setattr(pair_search, "solve_fixed_point", cut_short)
    monkeypatch.setattr(pair_search, "GLIDES", 0)  # these would find it
    return "semantic"


def force_left_domain(monkeypatch):
    return Overlaps(0.08, 0.0, 1e6, 0.1)  # V beyond all reason


def force_non_finite(monkeypatch):
    monkeypatch.setattr(pair_search, "prior_map", lambda *_: np.full(4, np.nan))
    return "semantic"


def force_quadrature_limit(monkeypatch):
    def error(rule, overlaps, averages):
        return ChannelAverages.from_array(0.01 * averages.as_array())

    monkeypatch.setattr(PairRule, "error", error)
    monkeypatch.setattr(state_evolution, "ROUNDS", 1)
    return "positional"


def force_does_not_exist(monkeypatch):
    return "zero"


FORCED = {
    Status.ITERATION_LIMIT: force_iteration_limit,
    Status.LEFT_DOMAIN: force_left_domain,
    Status.NON_FINITE: force_non_finite,
    Status.QUADRATURE_LIMIT: force_quadrature_limit,
    Status.DOES_NOT_EXIST: force_does_not_exist,
}


@pytest.mark.parametrize("status", FORCED)
def test_failures_raise_with_their_result_or_return_it(monkeypatch, status):
    start = FORCED[status](monkeypatch)
    with pytest.raises(ConvergenceError) as caught:
        solve(MODEL, 1.25, 0.01, start, with_stability=False)
    result = caught.value.result
    assert isinstance(result, FixedPoint)
    assert result.status is status
    assert not result.converged
    assert status.value in str(caught.value)
    assert status.token in repr(result)
    again = solve(MODEL, 1.25, 0.01, start, with_stability=False, on_failure="return")
    assert again.status is status
    assert again.message == status.value
    if status is Status.QUADRATURE_LIMIT:
        # the numbers are returned, with error bars that say why
        assert again.errors.q > 1e-6 * again.overlaps.q
    else:
        assert math.isnan(again.train_loss)


def test_every_status_is_forced():
    assert set(FORCED) | {Status.CONVERGED} == set(Status)
    assert all(status.token == status.token.lower() for status in Status)
    assert Status.QUADRATURE_LIMIT.token == "quadrature_limit"


def test_repr_is_for_people():
    text = repr(solved(1.25, "positional"))
    for part in ("positional", "alpha=1.25", "omega=0.3", "converged", "q=0.0471", "+-", "theta="):
        assert part in text
    assert "replicon" in repr(solved(1.5, "zero", 0.1))


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ({"alpha": 0.0}, ["alpha", "> 0", "0.0"]),
        ({"alpha": -1.0}, ["alpha", "> 0", "-1.0"]),
        ({"alpha": math.inf}, ["alpha", "finite", "inf"]),
        ({"alpha": math.nan}, ["alpha", "finite", "nan"]),
        ({"lam": -0.1}, ["lam", ">= 0", "-0.1"]),
        ({"lam": math.nan}, ["lam", "finite", "nan"]),
        ({"tol": 0.0}, ["tol", "1e-9", "0.0"]),
        ({"tol": 0.5}, ["tol", "0.01", "0.5"]),
        ({"residual_tol": 0.0}, ["residual_tol", "> 0", "0.0"]),
        ({"residual_tol": math.nan}, ["residual_tol", "finite", "nan"]),
        ({"quadrature_tol": -1.0}, ["quadrature_tol", "> 0", "-1.0"]),
        ({"start": "somewhere"}, ["start", "semantic", "uninformed", "'somewhere'"]),
        ({"start": Overlaps(0.1, 0, 1, 0.2)}, ["theta", "rho*q", "0.2"]),
        ({"start": Overlaps(0.0, 0, 1, 0.0)}, ["start", "q > 0", "0.0"]),
        ({"start": Overlaps(0.1, 0, 0, 0.0)}, ["start", "V > 0", "0.0"]),
        ({"on_failure": "ignore"}, ["on_failure", "'raise'", "'return'", "'ignore'"]),
    ],
)
def test_bad_input_is_refused_before_any_work(monkeypatch, arguments, parts):
    monkeypatch.setattr(state_evolution, "Solver", None)  # any work would fail
    with pytest.raises(ValueError, match=parts[0]) as caught:
        solve(MODEL, **{"alpha": 1.25, "lam": 0.01, **arguments})
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_loss_slopes_are_attributes_of_the_point():
    point = solved(1.25, "semantic")
    slopes = observables.loss_slopes(MODEL, point.averages, point.overlaps, 1.25)
    assert slopes["lam"] == pytest.approx(point.overlaps.q / (2 * MODEL.rho))
    # eps_t is alpha E M less what the prior gives back
    assert 0 < slopes["alpha"] < point.train_loss / 1.25 * 2


def test_past_the_end_of_a_branch_its_ghost_does_not_hold_the_solve_up():
    """At omega = .2 the positional branch ends at alpha = 1.7652, where m falls from .14 to 0."""
    model = AttentionModel.mixture(0.2)
    point = solve(model, 1.8, 0.01, "positional", 1e-4, with_stability=False)
    assert point.branch == "uninformed"
    direct = solve(model, 1.8, 0.01, "uninformed", 1e-4, with_stability=False)
    assert point.overlaps.as_array() == pytest.approx(direct.overlaps.as_array(), rel=1e-4)


def test_a_long_step_goes_downstream():
    """Near a saddle along the direction that grows, else towards the fixed point."""
    solver = state_evolution.Solver(MODEL, 1.5, 0.01, "semantic", 1e-4, 1e-5, 3e-5, False, False)
    end = solve(MODEL, 1.5, 0.01, "semantic", 1e-4, with_stability=False).overlaps.as_array()
    x = end * np.array([1.1, 1, 0.9, 1.02])
    known = [0, 2, 3]
    closer = solver.glide(x)
    assert np.max(abs(closer - end)[known] / end[known]) < 0.03
    # beside the uninformed saddle, in the direction of m that the map amplifies
    saddle = solve(MODEL, 1.5, 0.01, "uninformed", 1e-4).overlaps.as_array()
    beside = saddle + np.array([0, 1e-3, 0, 0])
    gone = solver.glide(beside)
    assert gone[1] > beside[1]
    assert solver.admissible(gone)
