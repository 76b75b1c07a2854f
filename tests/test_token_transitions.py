"""Transitions of the general model: against the two-token model, and how a search ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scaled_positions import fixed_point, growth_of_m, scaled_model
from scipy.optimize import brentq

from gamp_theory import AttentionModel, GeneralModel, JointLaw, find_transition, solve
from gamp_theory.branch_result import Stop
from gamp_theory.expansions import origin_onsets
from gamp_theory.token_line_result import GeneralBranch, GeneralTransition
from gamp_theory.token_mechanisms import FixedMixture, RowSoftmax
from gamp_theory.token_overlaps import TokenOverlaps
from gamp_theory.token_transition_equations import (
    EqualGeneralTrainLosses,
    GeneralPitchfork,
    GeneralRoot,
)
from gamp_theory.token_transitions import _roots, _Search, _train_slope
from gamp_theory.transitions import TransitionStatus

PAIR = AttentionModel.mixture()
MODEL = GeneralModel.from_pair(PAIR)
# of the two-token model, docs/phase_diagram.md
ALPHA_C, ALPHA_L, INSTABILITY = 1.25153566, 1.4922705, 0.826468


def search(kind="alpha_c", tol=0.01, span=(1.0, 2.0), lam=0.01):
    return _Search(MODEL, kind, "alpha", span, lam, tol, None)


def overlaps(start, alpha, lam=0.01):
    """Those of the two-token model."""
    x = solve(PAIR, alpha, lam, start, tol=1e-4, with_stability=False).overlaps
    return TokenOverlaps([[[x.q]]] * 2, [[x.m], [-x.m]], [[[x.V]]] * 2, [[[x.theta]]] * 2)


def check(found, kind, parameter="alpha"):
    """What holds for every transition that is found."""
    assert found.status is TransitionStatus.CONVERGED
    assert (found.kind, found.parameter) == (kind, parameter)
    lo, hi = found.bracket
    assert lo < found.value < hi
    assert 0 < found.error <= (hi - lo) / 2
    assert getattr(found, parameter) == found.value
    assert found.sides
    for side in found.sides:
        assert np.isfinite(side.train_loss)
    values = [one.value for one in (found, *found.others)]
    assert values == sorted(values)


# -------------------------------------------------------------------------------- closing in


class Line:
    """An equation whose answer is known: a line through `root`, with an error like 1/samples."""

    def __init__(self, root, *, noise=0.0, bend=0.0, sign=1):
        self.root, self.noise, self.bend, self.sign = root, noise, bend, sign
        self.samples = []

    def at(self, p, samples):
        self.samples.append(samples)
        x = p - self.root
        value = self.sign * (x + self.bend * x**2)
        return GeneralRoot(value, self.sign * (1 + 2 * self.bend * x), self.noise / samples)

    def sides(self):
        return ()


@pytest.mark.parametrize("sign", [1, -1])
def test_newton_finds_the_root_and_a_bracket_with_certain_signs(sign):
    line = Line(math.log(1.3), noise=0.5, bend=0.2, sign=sign)
    found = search(tol=1e-3).close_in(line, math.log(1.2))
    assert found.status is TransitionStatus.CONVERGED
    assert found.value == pytest.approx(1.3, rel=1e-4)
    off = 0.5 / 512
    assert found.error == pytest.approx(1.3 * off, rel=1e-3)
    lo, hi = found.bracket
    assert lo == pytest.approx(1.3 * math.exp(-3 * off), rel=1e-4)
    assert hi == pytest.approx(1.3 * math.exp(3 * off), rel=1e-4)
    assert found.samples == 512


def test_points_are_added_until_the_error_is_small():
    line = Line(math.log(1.3), noise=8.0)
    found = search(tol=1e-3).close_in(line, math.log(1.25))
    assert found.error / found.value <= 1e-3
    assert found.samples == max(line.samples) >= 8192
    assert sorted(line.samples) == line.samples


def test_an_error_out_of_reach_is_reported_as_it_is():
    found = search(tol=1e-5).close_in(Line(0.2, noise=64.0), 0.2)
    assert found.samples == 2**15
    assert found.error / found.value == pytest.approx(64 / 2**15)


def test_signs_that_are_never_certain_are_said():
    class Lost(Line):
        def at(self, p, samples):
            value, slope, error = super().at(p, samples)
            return GeneralRoot(1e-3 * value, slope, error)

    found = search(tol=0.5).close_in(Lost(0.2, noise=1.0), 0.2)
    assert found.status is TransitionStatus.NOT_BRACKETED


@pytest.mark.parametrize("value", [math.nan, 1.0])
def test_a_search_that_leads_nowhere_is_said(value):
    class Nowhere(Line):
        def at(self, p, samples):
            return GeneralRoot(value, 0.1, 1e-3)

    found = search().close_in(Nowhere(0.2), 0.2)
    assert found.status is TransitionStatus.SOLVE_FAILED
    assert math.isnan(found.value)
    assert "solve_failed" in repr(found)


@pytest.mark.parametrize(
    ("stop", "status"),
    [(Stop.REACHED, "does_not_exist"), (Stop.SMALLEST_STEP, "solve_failed")],
)
def test_none_was_found_is_no_proof_where_a_branch_was_lost(stop, status):
    one = search("spinodal_semantic")
    piece = GeneralBranch("alpha", (), np.empty(0), (), stop, 0, 0.0)
    one.followed = {"semantic": [piece]}
    assert one.run() == []
    assert one.why_none().token == status


def test_a_value_outside_its_bracket_is_refused():
    with pytest.raises(ValueError, match="outside its bracket"):
        GeneralTransition(
            "alpha_c", "alpha", 1.5, 0.1, (1.0, 1.2), TransitionStatus.CONVERGED, MODEL, 1.5, 0.01
        )


def test_a_root_just_outside_a_scan_of_few_points_gets_a_closer_look():
    p, doubt = np.array([0.0, 1.0, 2.0]), [0.1, 0.1]
    assert _roots(np.array([-1.0, 1.0, 3.0]), p, doubt) == [0.5]
    assert _roots(np.array([2.0, 1.0, 0.2]), p, doubt) == [2.0]
    assert _roots(np.array([0.25, 1.0, 0.28]), p, doubt) == [0.0]
    assert _roots(np.array([2.0, 1.0, 0.4]), p, doubt) == []


@pytest.mark.parametrize(("value", "kept"), [(1.5, 1), (0.9, 0), (2.1, 0), (math.nan, 1)])
def test_what_a_closer_look_puts_outside_the_range_is_none(value, kept):
    one = search(span=(1.0, 2.0))
    found = one.answer(value, 0.1, TransitionStatus.SOLVE_FAILED)
    assert len(list(one.in_range(found))) == kept


# ---------------------------------------------------------------------------- the equations


def test_losses_are_equal_where_those_of_two_tokens_are():
    """Few points: the difference is zero within its error, its slope the two-token one."""
    p = math.log(ALPHA_C)
    states = [search().tracked(overlaps(name, ALPHA_C), p) for name in ("semantic", "positional")]
    equation = EqualGeneralTrainLosses(states)
    value, slope, error = equation.at(p, 128)
    one, two = (state.answer for state in states)
    assert 0 < error < 0.02 * one.losses["train"]
    assert abs(value) < 4 * error
    # d eps_t/d log alpha = alpha E M, of the two-token model by differences
    wants = []
    for name in ("semantic", "positional"):
        losses = [
            solve(PAIR, ALPHA_C * f, 0.01, name, tol=1e-4, with_stability=False).train_loss
            for f in (0.99, 1.01)
        ]
        wants.append((losses[1] - losses[0]) / math.log(1.01 / 0.99))
    assert slope == pytest.approx(wants[0] - wants[1], rel=0.05)
    # what a point says of its own slope is the same
    point = states[0].point()
    assert _train_slope(point, "alpha") == pytest.approx(wants[0], rel=0.02)


@pytest.mark.parametrize(
    ("kind", "overlap"),
    [("positional", "m"), pytest.param("semantic", "theta", marks=pytest.mark.slow)],
)
def test_onsets_from_zero_are_those_of_two_tokens(kind, overlap):
    """The second is slow: the first is all that the default run has time for."""
    want = next(one for one in origin_onsets(PAIR, 0.1) if one.kind == overlap)
    span = (0.9 * want.alpha, 1.1 * want.alpha)
    (found,) = search(f"onset_{kind}", tol=1e-2, span=span, lam=0.1).from_zero(overlap)
    check(found, f"onset_{kind}")
    assert found.error < 1e-2 * found.value
    assert abs(found.value - want.alpha) < 4 * found.error
    (side,) = found.sides
    assert side.branch == "zero"
    rate, error = side.stability.transverse[overlap]
    assert abs(rate - 1) < 4 * error


# ------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"kind": "beta_c"}, "kind must be one of alpha_c"),
        ({"omega": (0.1, 0.2)}, "a general model has transitions in alpha and lam"),
        ({"alpha": 1.0}, "must be a range"),
        ({"alpha": (2.0, 1.0)}, "0 < low < high"),
        ({"lam": 0.0}, "lam must be > 0 for a general model"),
        ({"tol": 1e-7}, "tol must be in"),
    ],
)
def test_bad_input_is_refused(change, match):
    arguments = {"model": MODEL, "kind": "alpha_c", "alpha": (1.0, 2.0)} | change
    with pytest.raises(ValueError, match=match):
        find_transition(**arguments)


@pytest.mark.parametrize("kind", ["onset_semantic", "instability_semantic"])
def test_an_instability_needs_a_symmetry(kind):
    law = JointLaw.isotropic(0.5, [[1.0], [-1.0]], correlation=[[0.3], [-0.3]])
    model = GeneralModel(FixedMixture(0.3), RowSoftmax(), law)
    with pytest.raises(ValueError, match=f"{kind} needs a model in which a symmetry keeps m at 0"):
        find_transition(model, kind, alpha=(1.0, 2.0))


# ----------------------------------------------------------------------- against two tokens


@pytest.mark.slow
def test_alpha_c_is_that_of_two_tokens():
    """Slow: two branches with jumps, and both again with more points."""
    found = find_transition(MODEL, "alpha_c", alpha=(1.1, 1.4), lam=0.01, tol=2e-3)
    check(found, "alpha_c")
    assert found.error < 3e-3 * ALPHA_C
    assert abs(found.value - ALPHA_C) < 4 * found.error
    assert [side.branch for side in found.sides] == ["semantic", "positional"]
    assert found.others == ()


@pytest.mark.slow
def test_alpha_l_is_that_of_two_tokens():
    """Slow: two branches with jumps, and one of them again with more points."""
    found = find_transition(MODEL, "alpha_l", alpha=(1.35, 1.65), lam=0.01, tol=2e-3)
    check(found, "alpha_l")
    assert found.error < 3e-3 * ALPHA_L
    assert abs(found.value - ALPHA_L) < 4 * found.error
    assert [side.branch for side in found.sides] == ["semantic"]


@pytest.mark.slow
def test_an_instability_is_that_of_two_tokens():
    """Slow: derivatives of the map at each step.  From a guess: what closes in is tested."""
    p = math.log(0.85)
    one = search("instability_semantic", tol=0.03)
    equation = GeneralPitchfork(one.tracked(overlaps("semantic", 0.85), p), "m")
    found = one.close_in(equation, p)
    check(found, "instability_semantic")
    assert found.error < 0.03
    assert abs(found.value - INSTABILITY) < 4 * found.error


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "length", "lam", "span", "tol", "start"),
    [
        ("instability_semantic", 1.4, 0.03, (1.7, 2.2), 2e-3, [0.08, 0.0, 5.0, 0.1]),
        ("instability_semantic", 0.7, 0.05, (1.8, 2.4), 1e-2, [0.08, 0.0, 5.0, 0.1]),
        ("onset_positional", 0.65, 0.03, (0.3, 0.6), 5e-2, [0.06, 0.0, 8.0, 0.0]),
    ],
)
def test_branches_are_searched_for_instabilities(kind, length, lam, span, tol, start):
    """Slow: whole branches with their derivatives.  Positions of other lengths have other roots."""

    def excess(alpha):
        return growth_of_m(fixed_point(start, alpha, lam, length), alpha, lam, length) - 1

    want = brentq(excess, *span, xtol=1e-5)
    found = find_transition(scaled_model(length), kind, alpha=span, lam=lam, tol=tol)
    check(found, kind)
    assert found.error < 2 * tol * want
    assert abs(found.value - want) < 4 * found.error


@pytest.mark.slow
def test_what_is_not_there_does_not_exist():
    """Slow: starts at five places.  With lam = .1 there is no semantic branch."""
    found = find_transition(MODEL, "alpha_c", alpha=(1.3, 1.5), lam=0.1)
    assert found.status is TransitionStatus.DOES_NOT_EXIST
    assert math.isnan(found.value)
    assert found.sides == found.others == ()
