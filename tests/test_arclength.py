"""Continuation on normal forms: every special point is known in closed form."""

from itertools import pairwise

import normal_forms as forms
import numpy as np
import pytest

from gamp_theory.numerics.arclength import follow_curve
from gamp_theory.numerics.curves import CurvePoint, Problem, SpecialPoint, StepControl, Stop
from gamp_theory.numerics.special_points import crossing_curve, singular_point

KNOWN = 1e-8  # accuracy of special points
KINDS = pytest.mark.parametrize("analytic", [True, False], ids=["analytic", "differences"])


def check_curve(form, curve):
    """What holds on every curve: small residuals, unit tangents forward, points in order."""
    points = curve.points
    for point in points:
        assert np.max(abs(form.residual(point.x, point.p))) <= StepControl().tol
        assert np.linalg.norm(point.tangent) == pytest.approx(1)
        # the tangent belongs to the prediction
        exact = form.jacobian(point.x, point.p, None)
        assert np.max(abs(exact @ point.tangent)) < 0.2
    for left, right in pairwise(points):
        assert left.tangent @ right.tangent > np.cos(StepControl().angle + 1e-9)
        assert (right.z - left.z) @ left.tangent > 0
    for special in curve.special:
        assert special.interval[0] <= special.p <= special.interval[1]
    counted = sum(point.evaluations for point in points)
    assert counted <= curve.evaluations


def found(curve, kind):
    return [special for special in curve.special if special.kind == kind]


@KINDS
def test_fold(analytic):
    form = forms.FOLD
    curve = follow_curve(form.problem(analytic), form.at(1.0, 1.2), 1.2, 0.0, back_to=1.5)
    check_curve(form, curve)
    assert curve.stop is Stop.REACHED
    assert (curve.p[0], curve.p[-1]) == (1.2, 1.5)
    assert curve.x[-1, 0] == pytest.approx(-np.sqrt(1.3), abs=1e-8)
    (fold,) = curve.special
    assert fold.kind == "fold"
    assert fold.p == pytest.approx(0.2, abs=KNOWN)
    assert fold.x[0] == pytest.approx(0, abs=1e-6)
    assert curve.p[fold.after] > fold.p
    x, p, step = singular_point(form.problem(analytic), fold.x, fold.p)
    assert p == pytest.approx(0.2, abs=KNOWN)
    assert step < 1e-8


@pytest.mark.parametrize("shift", [-0.05, -0.02, 0.02, 0.05])
def test_a_fold_that_rough_jacobians_put_elsewhere(shift):
    form = forms.FOLD

    def rough(x, p, value):
        return form.jacobian(x + np.array([shift, 0.0]), p, value)

    curve = follow_curve(
        Problem(form.residual, rough, form.jacobian),
        form.at(1.0, 1.2),
        1.2,
        0.0,
        back_to=1.5,
        control=StepControl(tol=1e-8, corrections=30),
    )
    (fold,) = curve.special
    assert curve.unlocated == 0
    assert fold.p == pytest.approx(0.2, abs=KNOWN)
    # between its neighbours, not where the signs of the rough tangents change
    assert curve.x[fold.after, 0] * curve.x[fold.after + 1, 0] < 0


@KINDS
def test_pitchfork_and_the_curve_that_leaves_it(analytic):
    form = forms.PITCHFORK
    problem = form.problem(analytic)
    curve = follow_curve(problem, form.at(0.0, -1.0), -1.0, 1.0)
    check_curve(form, curve)
    assert curve.stop is Stop.REACHED
    assert np.max(abs(curve.x[:, 0])) < 1e-8
    (point,) = curve.special
    assert point.kind == "branch point"
    assert point.p == pytest.approx(0, abs=KNOWN)
    for side in (0.1, -0.1):
        z, direction = crossing_curve(problem, point, side)
        branch = follow_curve(problem, z[:-1], z[-1], 1.0, tangent=direction)
        check_curve(form, branch)
        assert branch.p[-1] == 1
        assert abs(branch.x[-1, 0]) == pytest.approx(1, abs=1e-8)
        assert np.sign(branch.x[-1, 0]) == np.sign(z[0])


@KINDS
def test_transcritical(analytic):
    form = forms.TRANSCRITICAL
    problem = form.problem(analytic)
    curve = follow_curve(problem, form.at(0.0, -1.0), -1.0, 1.0)
    check_curve(form, curve)
    (point,) = curve.special
    assert (point.kind, point.p) == ("branch point", pytest.approx(0.1, abs=KNOWN))
    z, direction = crossing_curve(problem, point, 0.1)
    assert z[0] == pytest.approx(z[2] - 0.1, abs=1e-8)  # the other line, u = p - .1
    branch = follow_curve(problem, z[:-1], z[-1], 2.0, tangent=direction, back_to=-2.0)
    check_curve(form, branch)
    assert branch.x[-1, 0] == pytest.approx(branch.p[-1] - 0.1, abs=1e-8)


@KINDS
def test_s_curve_forward_and_back(analytic):
    form = forms.S_CURVE
    problem = form.problem(analytic)
    start = -1.5
    p0 = start**3 - start
    curve = follow_curve(problem, form.at(start, p0), p0, 1.5)
    check_curve(form, curve)
    assert curve.stop is Stop.REACHED
    assert [special.kind for special in curve.special] == ["fold", "fold"]
    for special, (u, p) in zip(curve.special, form.folds, strict=True):
        assert special.p == pytest.approx(p, abs=KNOWN)
        x, p_singular, _ = singular_point(problem, special.x, special.p)
        assert p_singular == pytest.approx(p, abs=KNOWN)
        assert x[0] == pytest.approx(u, abs=KNOWN)
    back = follow_curve(problem, curve.x[-1], curve.p[-1], p0)
    check_curve(form, back)
    assert back.x[-1, 0] == pytest.approx(start, abs=1e-8)
    assert [special.p for special in back.special] == pytest.approx(
        [special.p for special in curve.special[::-1]], abs=KNOWN
    )


def test_an_isola_is_not_on_the_line_that_passes_it():
    form = forms.ISOLA
    line = follow_curve(form.problem(), form.at(-2.0, -1.0), -1.0, 1.0)
    check_curve(form, line)
    assert line.stop is Stop.REACHED
    assert line.special == ()
    assert line.x[:, 0] == pytest.approx(-2, abs=1e-8)


@KINDS
def test_an_isola_closes(analytic):
    form = forms.ISOLA
    problem = form.problem(analytic)
    control = StepControl(first=0.02, largest=0.1)
    curve = follow_curve(problem, form.at(0.3, 0.0), 0.0, 1.0, control=control)
    assert curve.stop is Stop.CLOSED
    assert [special.kind for special in curve.special] == ["fold", "fold"]
    assert [special.p for special in curve.special] == pytest.approx([0.3, -0.3], abs=KNOWN)
    assert np.hypot(curve.x[:, 0], curve.p) == pytest.approx(0.3, abs=1e-8)


def test_steps_adapt_and_are_refused():
    """A sharp corner after a straight line: long steps before it, short ones in it."""
    sharpness = 60.0
    problem = Problem(
        lambda x, p: np.array([x[0] - np.tanh(sharpness * (p - 2))]),
        lambda x, p, value: np.array([[1.0, -sharpness / np.cosh(sharpness * (p - 2)) ** 2]]),
    )
    curve = follow_curve(problem, [-1.0], 0.0, 4.0)
    steps = np.linalg.norm(np.diff(np.column_stack([curve.x, curve.p]), axis=0), axis=1)
    assert curve.stop is Stop.REACHED
    assert steps.max() == pytest.approx(StepControl().largest, rel=0.3)
    assert steps.min() < 0.1 * StepControl().largest
    assert curve.x[:, 0] == pytest.approx(np.tanh(sharpness * (curve.p - 2)), abs=1e-8)


def test_two_near_curves_are_not_confused():
    """Two parabolas a hundredth apart, with the residual of their product: it stays on one."""

    def residual(x, p):
        return np.array([(x[0] - p**2) * (x[0] - p**2 - 0.01) * 100])

    curve = follow_curve(Problem(residual), [4.0], -2.0, 2.0)
    assert curve.stop is Stop.REACHED
    assert curve.x[:, 0] == pytest.approx(curve.p**2, abs=1e-7)
    assert curve.special == ()


def test_a_curve_that_runs_out_of_the_domain():
    problem = Problem(lambda x, p: np.array([x[0] - np.sqrt(p)]) if p > 0 else np.array([np.nan]))
    curve = follow_curve(problem, [1.0], 1.0, -1.0)
    assert curve.stop is Stop.SMALLEST_STEP
    assert 0 < curve.p[-1] < 1e-3


def test_limits():
    form = forms.FOLD
    start = (form.at(1.0, 1.2), 1.2, 3.0)
    few = follow_curve(form.problem(), *start, control=StepControl(points=3))
    assert few.stop is Stop.POINT_LIMIT
    assert len(few.points) == 3
    seen = []
    ended = follow_curve(
        form.problem(), *start, on_point=lambda point: seen.append(point) or len(seen) == 4
    )
    assert ended.stop is Stop.ENDED
    assert list(ended.points) == seen
    assert ended.stop.token == "ended"


def test_the_residual_is_prepared_before_each_step():
    """A residual that is frozen at the prediction, as a quadrature rule is."""
    calls = []
    form = forms.FOLD
    problem = Problem(form.residual, prepare=lambda x, p: calls.append(p))
    curve = follow_curve(problem, form.at(1.0, 1.2), 1.2, 2.0)
    assert len(calls) >= len(curve.points)


def test_cost_of_a_point():
    """Prediction, one Jacobian, and a correction or two: with differences, 6 to 7 for n = 2."""
    form = forms.S_CURVE
    p0 = -(1.5**3) + 1.5
    curve = follow_curve(
        form.problem(False), form.at(-1.5, p0), p0, 1.5, control=StepControl(tol=1e-6)
    )
    assert np.median([point.evaluations for point in curve.points[1:]]) <= 7


def test_bad_input():
    form = forms.FOLD
    with pytest.raises(ValueError, match=r"starts at p = 1\.2 and is to end there"):
        follow_curve(form.problem(), form.at(1.0, 1.2), 1.2, 1.2)
    with pytest.raises(ValueError, match="no solution near the start at p = -1"):
        follow_curve(form.problem(), form.at(1.0, -1.0), -1.0, 1.2)
    nothing = np.zeros(3)
    with pytest.raises(ValueError, match="outside"):
        SpecialPoint("fold", np.zeros(2), 1.0, (2.0, 3.0), 0, nothing, nothing)
    line = Problem(lambda x, p: np.array([x[0] - p]))
    with pytest.raises(ValueError, match="no singular point"):
        singular_point(line, [0.0], 0.0)
    point = SpecialPoint("branch point", np.zeros(1), 0.0, (0.0, 0.0), 0, *np.eye(2))
    with pytest.raises(ValueError, match="no curve crosses"):
        crossing_curve(Problem(lambda x, p: np.array([x[0] ** 2 + p**2 + 1])), point, 0.1)


def test_orientation_changes_at_a_branch_point_alone():
    form = forms.TRANSCRITICAL
    curve = follow_curve(form.problem(), form.at(0.0, -1.0), -1.0, 1.0)
    signs = np.array([point.orientation for point in curve.points])
    assert np.all(signs[curve.p < 0.05] == signs[0])
    assert np.all(signs[curve.p > 0.15] == -signs[0])
    assert isinstance(curve.points[0], CurvePoint)
