"""Transitions: every kind, the value, its bracket, and every way not to find one."""

from __future__ import annotations

import dataclasses
import math

import pytest

from gamp_theory import observables, solve, transition_search
from gamp_theory.branch_map import Place, place_at
from gamp_theory.expansions import origin_onsets
from gamp_theory.model import AttentionModel
from gamp_theory.transition_equations import EqualTrainLosses, NoRoot
from gamp_theory.transition_lines import trace_transition
from gamp_theory.transition_search import TransitionSearch
from gamp_theory.transitions import KINDS, Transition, TransitionStatus, find_transition

MODEL = AttentionModel.mixture()
TOL = 1e-5


def at(found, value, start):
    """The fixed point from a named start at a value of the parameter, more accurate than asked."""
    place = place_at(found.place, found.parameter, value)
    point = solve(
        place.model,
        place.alpha,
        place.lam,
        start,
        TOL / 10,
        with_stability=False,
        on_failure="return",
    )
    assert point.status.token in ("converged", "quadrature_limit")
    return point


def gap(found, value):
    """Difference of the training losses, and its error."""
    one, two = (at(found, value, start) for start in ("semantic", "positional"))
    assert (one.branch, two.branch) == ("semantic", "positional")
    bar = one.errors.train_loss_variational + two.errors.train_loss_variational
    return one.train_loss_variational - two.train_loss_variational, bar


def check(found, kind, parameter="alpha"):
    """What holds for every transition that is found."""
    assert found.status is TransitionStatus.CONVERGED
    assert (found.kind, found.parameter) == (kind, parameter)
    lo, hi = found.bracket
    assert lo < found.value < hi
    assert 0 < found.error <= (hi - lo) / 2
    owner = found.place if parameter in ("alpha", "lam") else found.place.model
    assert getattr(owner, parameter) == pytest.approx(found.value, rel=1e-12)
    assert found.sides
    for one in (found, *found.others):
        assert one.kind == kind
    values = [one.value for one in (found, *found.others)]
    assert values == sorted(values)


@pytest.fixture(scope="module")
def alpha_c():
    return find_transition(MODEL, "alpha_c", (1.24, 1.26), tol=TOL)


# ------------------------------------------------------------------------------ equal losses


def test_training_losses_cross(alpha_c):
    """alpha_c(.3) = 1.25154 was computed independently."""
    check(alpha_c, "alpha_c")
    assert alpha_c.value == pytest.approx(1.25154, rel=0, abs=5e-5)
    assert alpha_c.others == ()
    assert [side.branch for side in alpha_c.sides] == ["semantic", "positional"]
    for side in alpha_c.sides:
        assert side.alpha == alpha_c.bracket[0]
    # of the error bars to either side, each end widened once at most
    width = alpha_c.bracket[1] - alpha_c.bracket[0]
    assert width <= 2 * transition_search.BRACKET * transition_search.WIDER * alpha_c.error


def test_losses_at_the_ends_are_on_either_side(alpha_c):
    """From named starts: nothing of the search goes in.  Semantic wins above."""
    (below, bar), (above, bar_above) = (gap(alpha_c, end) for end in alpha_c.bracket)
    assert below > bar
    assert above < -bar_above


def test_the_range_may_be_omega(alpha_c):
    """The curve omega_c(alpha) is that of alpha_c(omega), read sideways."""
    alpha = alpha_c.value
    found = find_transition(MODEL, "alpha_c", alpha, omega=(0.29, 0.31), tol=TOL)
    check(found, "alpha_c", "omega")
    # d omega_c/d alpha from the exact slopes of the losses turns one error bar into the other
    one, two = (
        observables.loss_slopes(MODEL, side.averages, side.overlaps, alpha)
        for side in alpha_c.sides
    )
    slope = -(one["alpha"] - two["alpha"]) / (one["omega"] - two["omega"])
    assert abs(found.value - 0.3) <= 2 * (found.error + alpha_c.error * abs(slope))


def test_the_range_may_be_lam(alpha_c):
    found = find_transition(MODEL, "alpha_c", alpha_c.value, lam=(0.008, 0.0125), tol=TOL)
    check(found, "alpha_c", "lam")
    one, two = (
        observables.loss_slopes(MODEL, side.averages, side.overlaps, alpha_c.value)
        for side in alpha_c.sides
    )
    slope = -(one["alpha"] - two["alpha"]) / (one["lam"] - two["lam"])
    assert abs(found.value - 0.01) <= 2 * (found.error + alpha_c.error * abs(slope))


@pytest.mark.slow  # as those of omega and lam, at the same cost
def test_the_range_may_be_sigma(alpha_c):
    found = find_transition(MODEL, "alpha_c", alpha_c.value, sigma=(0.48, 0.52), tol=TOL)
    check(found, "alpha_c", "sigma")
    assert found.value == pytest.approx(0.5, rel=0, abs=1e-4)


def test_attention_overtakes_the_linear_model():
    found = find_transition(MODEL, "alpha_l", (1.48, 1.51), tol=TOL)
    check(found, "alpha_l")
    assert found.value == pytest.approx(1.49227, rel=0, abs=5e-5)
    (side,) = found.sides
    assert side.branch == "semantic"
    excess = []
    for end in found.bracket:
        point = at(found, end, "semantic")
        assert point.train_loss < at(found, end, "positional").train_loss
        assert abs(point.test_error - point.linear_error) > point.errors.test_error
        excess.append(point.test_error - point.linear_error)
    assert excess[0] > 0 > excess[1]


# ----------------------------------------------------------------------- onset, instability


@pytest.mark.parametrize(
    ("kind", "span", "branch", "towards", "value", "width"),
    [
        ("onset_semantic", (0.6, 0.8), "uninformed", "theta", 0.7192, 1e-3),
        ("onset_positional", (0.04, 0.08), "uninformed", "m", 0.0574, 5e-4),
        ("instability_semantic", (0.75, 0.9), "semantic", "m", 0.82647, 3e-4),
    ],
)
def test_an_eigenvalue_passes_one(kind, span, branch, towards, value, width):
    """The transverse eigenvalue of solves at some distance is on either side of 1."""
    found = find_transition(MODEL, kind, span, tol=1e-4)
    check(found, kind)
    assert found.value == pytest.approx(value, rel=0, abs=width)
    (side,) = found.sides
    assert side.overlaps is not None
    assert getattr(side.overlaps, towards) == 0
    less = []
    for factor in (0.97, 1.03):
        point = solve(MODEL, factor * found.value, 0.01, branch, 1e-3, on_failure="return")
        assert point.branch == branch
        less.append(point.stability.transverse[towards] - 1)
    assert less[0] * less[1] < 0


def test_an_onset_is_where_the_branch_begins():
    """The semantic start finds its branch above the onset, and the uninformed one below."""
    found = find_transition(MODEL, "onset_semantic", (0.6, 0.8), tol=1e-4)
    above, below = (
        solve(MODEL, factor * found.value, 0.01, "semantic", 1e-4, on_failure="return")
        for factor in (1.02, 0.98)
    )
    assert above.branch == "semantic"
    assert below.branch == "uninformed"


# --------------------------------------------------------------------------- nothing is there


@pytest.mark.parametrize(
    ("kind", "span"),
    [
        ("alpha_c", (1.27, 1.3)),
        ("alpha_l", (1.4, 1.45)),
        ("onset_semantic", (1.2, 1.25)),
        ("onset_positional", (1.2, 1.25)),
        ("spinodal_semantic", (1.2, 1.25)),
        ("spinodal_positional", (1.2, 1.25)),
        ("instability_semantic", (1.2, 1.25)),
        ("instability_positional", (1.2, 1.25)),
    ],
)
def test_none_in_the_range(kind, span):
    seen = []
    found = find_transition(MODEL, kind, span, tol=1e-3, progress=seen.append)
    assert found.status is TransitionStatus.DOES_NOT_EXIST
    assert found.kind == kind
    assert math.isnan(found.value)
    assert found.sides == found.others == ()
    assert found.status.token == "does_not_exist"
    assert "no such transition" in found.message
    assert "does_not_exist" in repr(found)
    # branches were looked at, over the whole range
    assert min(seen) == pytest.approx(span[0])
    assert max(seen) == pytest.approx(span[1])


@pytest.mark.parametrize(("kind", "overlap"), [("positional", "m"), ("semantic", "theta")])
def test_an_onset_may_be_from_zero(kind, overlap):
    """With lam = .1 there is no uninformed branch here: Q = 0 itself loses its stability."""
    want = next(one for one in origin_onsets(MODEL, 0.1) if one.kind == overlap)
    kind = f"onset_{kind}"
    found = find_transition(MODEL, kind, alpha=(0.9 * want.alpha, 1.1 * want.alpha), lam=0.1)
    assert found.status is TransitionStatus.CONVERGED
    assert abs(found.value - want.alpha) <= found.error
    assert found.error < 1e-6
    (side,) = found.sides
    assert side.branch == "zero"
    assert side.stability.transverse[overlap] == pytest.approx(1, abs=1e-5)
    # the same place from the side of the ridge
    again = find_transition(MODEL, kind, alpha=want.alpha, lam=(0.09, 0.11))
    assert again.value == pytest.approx(0.1, abs=1e-6)
    with pytest.raises(ValueError, match="is an onset from Q = 0"):
        trace_transition(found, "omega", 0.4)


def test_none_where_a_branch_is_missing():
    """At lam = .1 there is no semantic branch to compare."""
    found = find_transition(MODEL, "alpha_c", (1.4, 1.5), lam=0.1, tol=1e-3)
    assert found.status is TransitionStatus.DOES_NOT_EXIST


# ------------------------------------------------------------------------------- several, none


def stand_in(value):
    place = Place(MODEL, 1.0, 0.01)
    status = TransitionStatus.CONVERGED if value == value else TransitionStatus.SOLVE_FAILED
    bracket = (value - 1e-6, value + 1e-6)
    return Transition("alpha_c", "alpha", value, 1e-7, bracket, status, place)


@pytest.mark.parametrize(
    ("values", "kept"),
    [
        ([2.0, 1.0, 3.0], [1.0, 2.0, 3.0]),
        ([2.0, 1.0, 2.0 + 1e-7], [1.0, 2.0]),  # seen on two pieces of a branch
        ([math.nan, 2.0, 1.0], [1.0, 2.0, math.nan]),
    ],
)
def test_the_lowest_and_others(monkeypatch, values, kept):
    monkeypatch.setattr(TransitionSearch, "crossings", lambda _: map(stand_in, values))
    found = find_transition(MODEL, "alpha_c", (0.5, 4.0))
    listed = [found.value, *(other.value for other in found.others)]
    assert listed == pytest.approx(kept, nan_ok=True)


def test_a_point_beside_it_that_is_not_solved(monkeypatch):
    """The branches are there for the search, and not for the accuracy asked for."""
    solved = TransitionSearch.solved

    def lost(self, start, value, tol):
        return solved(self, start, value, tol) if isinstance(start, str) else None

    monkeypatch.setattr(TransitionSearch, "solved", lost)
    found = find_transition(MODEL, "alpha_c", (1.24, 1.26), tol=1e-3)
    assert found.status is TransitionStatus.SOLVE_FAILED
    assert found.sides == ()
    assert "could not be solved" in found.message


def test_equations_without_a_root(monkeypatch):
    def none(*_):
        raise NoRoot("no root near the guess")

    monkeypatch.setattr(EqualTrainLosses, "solve", none)
    found = find_transition(MODEL, "alpha_c", (1.24, 1.26), tol=1e-3)
    assert found.status is TransitionStatus.SOLVE_FAILED
    assert math.isnan(found.value)


def test_ends_that_can_not_be_told_apart(monkeypatch):
    """Error bars that cover the difference, however wide the bracket."""
    sample = transition_search._sample

    def blurred(*arguments):
        return dataclasses.replace(sample(*arguments), error=1.0)

    monkeypatch.setattr(transition_search, "_sample", blurred)
    found = find_transition(MODEL, "alpha_c", (1.24, 1.26), tol=1e-3)
    assert found.status is TransitionStatus.NOT_BRACKETED
    assert found.value == pytest.approx(1.2515, abs=5e-3)
    assert "could not be told apart" in found.message


# ---------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("alpha_x", {"alpha": (1.0, 2.0)}, "kind must be one of alpha_c, alpha_l, .*'alpha_x'"),
        (
            "alpha_c",
            {"alpha": (2.0, 1.0)},
            r"alpha must be a range with 0 < low < high, got \(2.0, 1.0\)",
        ),
        ("alpha_c", {"alpha": (0.0, 1.0)}, "alpha must be a range"),
        ("alpha_c", {"alpha": (1.0, math.inf)}, "alpha must be a range"),
        ("alpha_c", {"alpha": (math.nan, 1.0)}, "alpha must be a range"),
        (
            "alpha_c",
            {"alpha": 1.0, "omega": (0.5, 1.1)},
            "omega must be a range with 0 <= low < high <= 1",
        ),
        ("alpha_c", {"alpha": 1.0, "omega": (-0.1, 0.5)}, "omega must be a range"),
        ("alpha_c", {"alpha": 1.0, "lam": (0.0, 0.1)}, "lam must be a range with 0 < low"),
        ("alpha_c", {"alpha": 1.0, "sigma": (0.5, 0.5)}, "sigma must be a range"),
        ("alpha_c", {"alpha": 1.0}, "one of alpha, lam, omega and sigma .* got none"),
        ("alpha_c", {"alpha": (1.0, 2.0), "lam": (0.01, 0.1)}, "got alpha, lam"),
        ("alpha_c", {"alpha": (1.0, 2.0), "lam": -1.0}, "lam must be"),
        ("alpha_c", {"alpha": -1.0, "omega": (0.1, 0.5)}, "alpha must be"),
        ("alpha_c", {"alpha": (1.0, 2.0), "tol": 1e-12}, "tol must be"),
    ],
)
def test_bad_input(kind, options, message):
    with pytest.raises(ValueError, match=message):
        find_transition(MODEL, kind, **options)


def test_value_lies_in_its_bracket():
    with pytest.raises(ValueError, match="outside its bracket"):
        dataclasses.replace(stand_in(1.0), bracket=(1.1, 1.2))


def test_there_are_eight_kinds():
    assert len(set(KINDS)) == 8


def test_the_positional_branch_folds_in_omega():
    """.241286391(200) by tol 1e-6, and .241283 as a singular Jacobian: docs/branches.md."""
    found = find_transition(MODEL, "spinodal_positional", 2.5, tol=1e-4, omega=(0.235, 0.245))
    assert found.status is TransitionStatus.CONVERGED
    assert found.parameter == "omega"
    assert abs(found.value - 0.2412864) <= 2 * found.error < 1e-3
    assert found.bracket[0] < found.value < found.bracket[1]
    (side,) = found.sides
    assert side.branch == "positional"


def test_none_was_found_is_no_proof_where_a_branch_was_lost():
    # beside a reconnection: the branch from the top is lost, and there is a fold at 2.5
    model = AttentionModel.mixture(omega=0.2412864)
    found = find_transition(model, "spinodal_positional", (2.0, 2.8), 0.01)
    assert found.status is not TransitionStatus.DOES_NOT_EXIST
