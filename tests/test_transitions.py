"""Transitions: the value, its bracket, and every way not to find one."""

from __future__ import annotations

import math

import pytest

from gamp_theory import transitions
from gamp_theory.model import AttentionModel
from gamp_theory.transitions import (
    SCAN_TOL,
    Transition,
    TransitionStatus,
    _Sample,
    find_transition,
)

MODEL = AttentionModel.mixture()


@pytest.fixture
def short_scan(monkeypatch):
    monkeypatch.setattr(transitions, "SCAN", 5)


def test_losses_cross(short_scan):
    """alpha_c(.3) = 1.25154 was computed independently."""
    seen = []
    found = find_transition(MODEL, "alpha_c", (1.2, 1.3), progress=seen.append)
    assert found.status is TransitionStatus.CONVERGED
    assert found.value == pytest.approx(1.25154, rel=0, abs=5e-5)
    lo, hi = found.bracket
    assert lo < found.value < hi
    assert hi - lo <= 1e-5
    assert 0 < found.error <= (hi - lo) / 2
    assert found.others == ()
    semantic, positional = found.sides
    assert (semantic.branch, positional.branch) == ("semantic", "positional")
    gap = semantic.train_loss - positional.train_loss
    assert abs(gap) <= semantic.errors.train_loss + positional.errors.train_loss
    assert len(seen) == 5
    assert seen[0] == pytest.approx(1.2)
    assert seen[-1] == pytest.approx(1.3)


def test_attention_overtakes_the_linear_model(short_scan):
    found = find_transition(MODEL, "alpha_l", (1.48, 1.51))
    assert found.status is TransitionStatus.CONVERGED
    best = min(found.sides, key=lambda point: point.train_loss)
    assert best.branch == "semantic"
    assert best.test_error == pytest.approx(best.linear_error, abs=5 * best.errors.test_error)
    assert found.bracket[0] < found.value < found.bracket[1]
    assert found.bracket[1] - found.bracket[0] < 1e-4


@pytest.mark.slow  # 50 points of a scan over four hundredfold in alpha
def test_default_range():
    found = find_transition(MODEL, "alpha_c", (0.5, 4.0))
    assert found.value == pytest.approx(1.25154, rel=0, abs=5e-5)
    assert found.others == ()


def test_none_in_the_range(short_scan):
    found = find_transition(MODEL, "alpha_c", (1.3, 1.4))
    assert found.status is TransitionStatus.DOES_NOT_EXIST
    assert math.isnan(found.value)
    assert found.sides == found.others == ()
    assert found.status.token == "does_not_exist"
    assert "no such transition" in found.message


def test_none_where_a_branch_is_missing(short_scan):
    """At lam = .1 there is no semantic branch to compare."""
    found = find_transition(MODEL, "alpha_c", (1.4, 1.5), lam=0.1)
    assert found.status is TransitionStatus.DOES_NOT_EXIST


@pytest.mark.parametrize(
    ("kind", "alpha", "message"),
    [
        ("alpha_x", (1.0, 2.0), "kind must be one of alpha_c, alpha_l, got 'alpha_x'"),
        ("alpha_c", (2.0, 1.0), r"alpha must be a range with 0 < low < high, got \(2.0, 1.0\)"),
        ("alpha_c", (0.0, 1.0), "alpha must be a range"),
        ("alpha_c", (1.0, math.inf), "alpha must be a range"),
        ("alpha_c", (math.nan, 1.0), "alpha must be a range"),
    ],
)
def test_bad_input(kind, alpha, message):
    with pytest.raises(ValueError, match=message):
        find_transition(MODEL, kind, alpha)


def test_value_lies_in_its_bracket():
    with pytest.raises(ValueError, match="outside its bracket"):
        Transition("alpha_c", "alpha", 1.0, 0.1, (1.1, 1.2), TransitionStatus.CONVERGED)


# ------------------------------------------------------- the search alone, on known functions


def search_for(monkeypatch, f):
    """`find_transition` of the zeros of ``f(alpha, tol)``; the solver is not called."""

    def sample(self, alpha, tol, near):
        return _Sample(alpha, {}, f(alpha, tol), 1e-7)

    monkeypatch.setattr(transitions._Search, "sample", sample)
    return find_transition(MODEL, "alpha_l", (1.0, 3.0))


def test_others_are_listed_upwards(monkeypatch):
    found = search_for(monkeypatch, lambda alpha, tol: math.sin(3 * alpha))
    assert found.value == pytest.approx(math.pi / 3, abs=1e-8)
    assert [other.value for other in found.others] == pytest.approx([2 * math.pi / 3], abs=1e-8)
    for each in (found, *found.others):
        assert each.bracket[0] < each.value < each.bracket[1]


def test_lost_on_the_way(monkeypatch):
    """The branch exists for the scan, and not for the accuracy asked for."""
    found = search_for(
        monkeypatch, lambda alpha, tol: alpha - 2.003 if tol == SCAN_TOL else math.nan
    )
    assert found.status is TransitionStatus.SOLVE_FAILED
    assert math.isnan(found.value)
    assert found.bracket[0] < 2.003 < found.bracket[1]


def test_ends_that_can_not_be_told_apart(monkeypatch):
    """The sign of the scan is not confirmed by accurate solves."""
    found = search_for(monkeypatch, lambda alpha, tol: alpha - 2.003 if tol == SCAN_TOL else 1.0)
    assert found.status is TransitionStatus.NOT_BRACKETED
    assert math.isnan(found.value)


def test_a_gap_is_not_a_crossing(monkeypatch):
    """Between neighbours of which one has no branches nothing is claimed."""

    def f(alpha, tol):
        return math.nan if 1.8 < alpha < 2.2 else alpha - 2

    assert search_for(monkeypatch, f).status is TransitionStatus.DOES_NOT_EXIST
