"""Lines of transitions: against searches, exact slopes, themselves backwards, and their ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.interpolate import CubicSpline

from gamp_theory import observables, solve
from gamp_theory.branch_map import Place, place_at
from gamp_theory.model import AttentionModel
from gamp_theory.transition_equations import NoRoot
from gamp_theory.transition_lines import equations_of, trace_transition
from gamp_theory.transitions import Transition, TransitionStatus, find_transition

MODEL = AttentionModel.mixture()


@pytest.fixture(scope="module")
def alpha_c():
    return find_transition(MODEL, "alpha_c", (1.24, 1.26), tol=1e-5)


@pytest.fixture(scope="module")
def line(alpha_c):
    return trace_transition(alpha_c, "omega", 0.32, back_to=0.29, largest_step=0.05)


@pytest.fixture(scope="module")
def onset():
    return find_transition(MODEL, "onset_semantic", (0.6, 0.8), tol=1e-4)


def check(line):
    """What holds for every line."""
    points = line.positions.size
    for array in (line.values, line.errors, line.meaningful):
        assert array.shape == (points,)
    assert len(line.states) == points
    assert np.all(np.isfinite(line.values))
    assert np.all(line.errors > 0)
    assert line.map_evaluations > points


def test_a_line_covers_its_range(line):
    check(line)
    assert (line.kind, line.parameter, line.along) == ("alpha_c", "alpha", "omega")
    assert line.positions[[0, -1]] == pytest.approx([0.29, 0.32], rel=0, abs=1e-12)
    assert np.all(np.diff(line.positions) > 0)
    assert np.all(np.diff(line.values) > 0)
    assert np.all(line.meaningful)
    assert line.ends == (
        "the end of the range, omega = 0.29",
        "the end of the range, omega = 0.32",
    )
    assert "alpha_c" in repr(line)


def test_points_that_are_filled_in_lie_on_the_line(line, alpha_c):
    """Where the line without them has its own, between them, and with error bars like theirs."""
    filled = trace_transition(
        alpha_c, "omega", 0.32, back_to=0.29, largest_step=0.05, least_points=12
    )
    check(filled)
    assert line.positions.size < 12 <= filled.positions.size <= 14
    assert np.all(np.diff(filled.positions) > 0)
    assert set(line.positions) <= set(filled.positions)
    gaps = np.diff(filled.positions)
    assert gaps.max() < 0.75 * np.diff(line.positions).max()
    new = ~np.isin(filled.positions, line.positions)
    expected = CubicSpline(line.positions, line.values)(filled.positions[new])
    assert filled.values[new] == pytest.approx(expected, rel=3e-5)
    assert filled.errors[new].max() < 5 * line.errors.max()
    assert filled.ends == line.ends


def test_a_line_goes_through_its_transition(line, alpha_c):
    k = int(np.argmin(abs(line.positions - 0.3)))
    assert line.positions[k] == pytest.approx(0.3, abs=1e-12)
    assert abs(line.values[k] - alpha_c.value) <= 2 * (line.errors[k] + alpha_c.error)


@pytest.mark.parametrize("which", ["inside", "end"])
def test_a_line_is_where_a_search_finds_it(line, which):
    k = -1 if which == "end" else len(line.positions) - 2
    omega, value = line.positions[k], line.values[k]
    span = (value - 0.02, value + 0.02)
    found = find_transition(AttentionModel.mixture(omega=omega), "alpha_c", span, tol=1e-5)
    assert abs(found.value - value) <= 2 * (found.error + line.errors[k])
    for side, state in zip(found.sides, line.states[k], strict=True):
        assert state.as_array() == pytest.approx(side.overlaps.as_array(), rel=1e-3)


def test_back_is_forth(line, alpha_c):
    """The line from its other end meets the transition it came from."""
    value = line.values[-1]
    there = find_transition(
        AttentionModel.mixture(omega=0.32), "alpha_c", (value - 0.02, value + 0.02), tol=1e-5
    )
    back = trace_transition(there, "omega", 0.3)
    check(back)
    assert back.positions[-1] == pytest.approx(0.3, abs=1e-12)
    assert abs(back.values[-1] - alpha_c.value) <= 2 * (back.errors[-1] + alpha_c.error)


def test_its_slope_is_that_of_clausius_and_clapeyron(line):
    """``d alpha_c/d omega = -[d eps_t/d omega]/[d eps_t/d alpha]``, of jumps between branches.

    The derivatives are averages at fixed points, without differences.
    """
    k = int(np.argmin(abs(line.positions - 0.3)))
    slopes = []
    for start in ("semantic", "positional"):
        point = solve(MODEL, float(line.values[k]), 0.01, start, 1e-5, on_failure="return")
        assert point.branch == start
        slopes.append(observables.loss_slopes(MODEL, point.averages, point.overlaps, point.alpha))
    one, two = slopes
    exact = -(one["omega"] - two["omega"]) / (one["alpha"] - two["alpha"])
    # the derivative at 0.3 of the polynomial through the points of the line
    x = line.positions - 0.3
    degree = min(4, x.size - 1)
    measured = np.polynomial.Polynomial.fit(x, line.values, degree).deriv()(0.0)
    assert measured == pytest.approx(exact, rel=2e-3)


# ------------------------------------------------------------------------ pitchforks and folds


def test_a_line_of_pitchforks(onset):
    line = trace_transition(onset, "omega", 0.28)
    check(line)
    assert line.positions[-1] == pytest.approx(0.28, abs=1e-12)
    value = line.values[-1]
    found = find_transition(
        AttentionModel.mixture(omega=0.28), "onset_semantic", (value - 0.05, value + 0.05), tol=1e-4
    )
    assert abs(found.value - value) <= 2 * (found.error + line.errors[-1])
    for (state,) in line.states:
        assert state.theta == state.m == 0


@pytest.fixture(scope="module")
def fold():
    return find_transition(MODEL, "spinodal_positional", 2.5, omega=(0.235, 0.245), tol=1e-4)


@pytest.mark.slow  # branches through a fold, twice
def test_a_line_of_folds(fold):
    line = trace_transition(fold, "alpha", 2.55, tol=1e-4)
    check(line)
    assert line.positions[-1] == pytest.approx(2.55, abs=1e-12)
    value = line.values[-1]
    found = find_transition(
        MODEL, "spinodal_positional", 2.55, omega=(value - 0.005, value + 0.005), tol=1e-4
    )
    assert found.status is TransitionStatus.CONVERGED
    assert abs(found.value - value) <= 2 * (found.error + line.errors[-1])


# ------------------------------------------------------------------------------------- its ends


def test_it_ends_where_it_leaves_the_range(alpha_c):
    line = trace_transition(alpha_c, "omega", 0.4, between=(1.0, 1.27), tol=1e-4)
    check(line)
    assert line.ends == ("where it was found", "alpha leaves the range 1 to 1.27")
    assert line.positions[-1] < 0.31
    assert np.all(line.values <= 1.27)


@pytest.mark.slow  # slices at every point, and two searches
def test_a_line_that_turns_ends_on_the_side_it_came_from():
    """The other target repels positional students: their onset is an arch over small omega."""
    model = AttentionModel.mixture(omega=0.05, A=((0.3, 0.7), (0.8, 0.2)))
    found = find_transition(model, "onset_positional", (0.05, 0.4), tol=1e-3)
    line = trace_transition(found, "omega", 0.5, back_to=0.0, tol=1e-3, largest_step=0.2)
    check(line)
    assert line.ends == ("the end of the range, omega = 0",) * 2
    assert line.positions[[0, -1]] == pytest.approx(0, abs=1e-12)
    assert line.positions.max() == pytest.approx(0.098, abs=2e-3)
    # at omega = 0 the matrix A is of no account: both ends are those of the standard target
    ends = find_transition(
        MODEL.with_parameters(omega=0.0), "onset_positional", (0.05, 2), tol=1e-3
    )
    for value, end in zip(line.values[[0, -1]], (ends, *ends.others), strict=True):
        assert value == pytest.approx(end.value, abs=3 * (line.errors[[0, -1]].max() + end.error))


def test_it_ends_where_what_it_is_about_goes_to_zero():
    """Along the ridge the uninformed branch goes to Q = 0, with a high power of the distance."""
    onset = find_transition(MODEL.with_parameters(omega=0.2), "onset_semantic", (0.4, 1), tol=1e-3)
    line = trace_transition(onset, "lam", 1.0, tol=1e-3)
    check(line)
    assert line.ends[1] == "the branch it is about is all but Q = 0: q < 0.0001 sigma^2"
    assert line.states[-1][0].q == pytest.approx(1e-4 * MODEL.rho, rel=0.5)


def test_points_are_told(alpha_c):
    told = []
    line = trace_transition(
        alpha_c, "omega", 0.302, tol=1e-4, on_point=lambda *point: told.append(point)
    )
    assert np.array(told) == pytest.approx(np.column_stack([line.positions, line.values]))


# ------------------------------------------------------------------------------------ bad input


def stand_in(status=TransitionStatus.CONVERGED):
    place = Place(MODEL, 1.0, 0.01)
    return Transition("alpha_c", "alpha", 1.0, 1e-7, (0.9, 1.1), status, place)


@pytest.mark.parametrize(
    ("along", "to", "options", "message"),
    [
        ("alpha", 2.0, {}, "along must be one of omega, lam, sigma, got 'alpha'"),
        ("beta", 2.0, {}, "along must be one of .* got 'beta'"),
        ("omega", 1.5, {}, r"to must be in \[0, 1\] along omega, got 1.5"),
        ("omega", math.nan, {}, "to must be in"),
        ("lam", 0.0, {}, "to must be > 0 and finite along lam"),
        ("sigma", math.inf, {}, "to must be > 0 and finite along sigma"),
        ("omega", 0.3, {}, "to must differ from the omega of the transition"),
        ("omega", 0.4, {"back_to": -0.1}, "back_to must be in"),
        (
            "lam",
            (0.01, 0.1),
            {},
            r"to must be one number > 0 and finite along lam, got \(0.01, 0.1",
        ),
        ("omega", (0.1, 0.4), {}, r"to must be one number in \[0, 1\] along omega, got \(0.1, 0.4"),
        ("omega", 0.4, {"back_to": "0.1"}, "back_to must be one number .* the two ends"),
    ],
)
def test_bad_input(along, to, options, message):
    with pytest.raises(ValueError, match=message):
        trace_transition(stand_in(), along, to, **options)


@pytest.mark.parametrize(
    "status", [status for status in TransitionStatus if status is not TransitionStatus.CONVERGED]
)
def test_only_what_is_there_is_followed(status):
    with pytest.raises(ValueError, match="begins at a converged transition"):
        trace_transition(stand_in(status), "omega", 0.4)


def test_equations_without_a_root_say_so(alpha_c):
    """Two states far from both branches."""
    equations, z = equations_of(alpha_c, 1e-6)
    assert equations.value(z) == pytest.approx(alpha_c.value, rel=1e-12)
    with pytest.raises(NoRoot):
        equations.solve(z + 3.0)


def test_the_second_parameter_has_a_domain(alpha_c):
    equations, z = equations_of(alpha_c, 1e-6, "omega")
    equations.prepare(z, 0.3)
    assert np.all(np.isfinite(equations.residual(z, 0.3)))
    assert np.all(np.isnan(equations.residual(z, 1.1)))
    assert place_at(alpha_c.place, "omega", 0.3) == alpha_c.place
