"""Roots of functions with error bars: the bracket tells what is certain, and no more."""

import math

import numpy as np
import pytest

from gamp_theory.numerics.bracketing import Root, RootStatus, Sample, bracket_root, sign_changes


def exact(f):
    return lambda x: (f(x), 0.0)


@pytest.mark.parametrize(
    ("f", "lo", "hi", "root"),
    [
        (lambda x: x - 0.3, 0.0, 1.0, 0.3),
        (lambda x: math.cos(x) - x, 0.0, 1.0, 0.7390851332151607),
        (lambda x: x**9 - 0.1, 0.0, 2.0, 0.1 ** (1 / 9)),
        (lambda x: math.expm1(20 * (x - 0.9)), 0.0, 1.0, 0.9),
        (lambda x: -math.atan(50 * (x - 1e-3)), -1.0, 1.0, 1e-3),
    ],
)
def test_known_roots(f, lo, hi, root):
    found = bracket_root(exact(f), lo, hi, 1e-9)
    assert found.status is RootStatus.CONVERGED
    assert found.x == pytest.approx(root, abs=1e-9)
    assert found.bracket[0] <= root <= found.bracket[1]
    assert found.bracket[1] - found.bracket[0] <= 1e-9
    assert f(found.bracket[0]) * f(found.bracket[1]) < 0
    assert abs(found.x - root) <= found.error
    assert found.evaluations <= 40


def test_sign_changes_lie_between_points_of_a_grid():
    grid = [0.0, 1.0, 2.0, 3.0, 4.0]
    assert sign_changes(lambda x: x - 1.5, grid) == [(1.0, 2.0)]
    assert sign_changes(lambda x: (x - 0.5) * (x - 3.5), grid) == [(0.0, 1.0), (3.0, 4.0)]
    assert sign_changes(lambda x: 1.0 + x, grid) == []


@pytest.mark.parametrize("mirrored", [False, True])
def test_sign_changes_just_before_a_function_ends_are_seen(mirrored):
    """sqrt(2.3 - x) - .1 has its root at 2.29 and no values beyond 2.3."""
    sign = -1 if mirrored else 1

    def f(x):
        return math.sqrt(2.3 - sign * x) - 0.1 if sign * x <= 2.3 else math.nan

    ((lo, hi),) = sign_changes(f, sorted(sign * x for x in (1.0, 2.0, 3.0, 4.0)))
    assert f(lo) * f(hi) < 0
    assert lo < sign * 2.29 < hi
    assert max(sign * lo, sign * hi) == pytest.approx(2.3, abs=1e-5)


def test_a_nearly_straight_function_takes_few_evaluations():
    found = bracket_root(exact(lambda x: math.sin(x - 0.3)), 0.2, 0.5, 1e-6)
    assert found.evaluations <= 8
    assert found.slope == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("noise", [1e-3, 1e-6])
@pytest.mark.parametrize("seed", range(5))
def test_noise_widens_the_bracket_and_not_more(noise, seed):
    """Errors anywhere within the error bar: the bracket still holds the root."""
    rng = np.random.default_rng(seed)
    root, slope = 0.37, -2.5

    def f(x):
        return slope * (x - root) + noise * rng.uniform(-1, 1), noise

    found = bracket_root(f, 0.0, 1.0, 1e-9)
    assert found.status is RootStatus.CONVERGED
    lo, hi = found.bracket
    assert lo <= root <= hi
    assert lo <= found.x <= hi
    assert abs(found.x - root) <= 2 * found.error
    assert hi - lo < 40 * noise / abs(slope)
    assert found.error < 4 * noise / abs(slope)
    assert found.slope < 0


def test_known_ends_are_not_asked_for_again():
    asked = []

    def f(x):
        asked.append(x)
        return x - 0.3, 0.0

    found = bracket_root(f, Sample(0.0, -0.3, 0.0), Sample(1.0, 0.7, 0.0), 1e-6)
    assert found.x == pytest.approx(0.3, abs=1e-6)
    assert not {0.0, 1.0} & set(asked)
    assert found.evaluations == len(asked)


def test_signs_that_are_not_certain():
    same = bracket_root(exact(lambda x: 1 + x), 0.0, 1.0, 1e-6)
    assert same.status is RootStatus.NOT_BRACKETED
    assert same.bracket == (0.0, 1.0)
    assert math.isnan(same.x)
    lost = bracket_root(lambda x: (x - 0.5, 0.6), 0.0, 1.0, 1e-6)
    assert lost.status is RootStatus.NOT_BRACKETED
    undefined = bracket_root(lambda x: (math.nan, 0.0), 0.0, 1.0, 1e-6)
    assert undefined.status is RootStatus.NOT_BRACKETED


def test_a_function_with_a_gap():
    def f(x):
        return (x - 0.5 if abs(x - 0.4) > 0.3 else math.nan), 0.0

    found = bracket_root(f, 0.0, 1.0, 1e-6)
    assert found.status is RootStatus.UNDEFINED
    assert found.status.token == "undefined"


def test_evaluations_are_bounded():
    found = bracket_root(exact(lambda x: x**9 - 0.1), 0.0, 2.0, 1e-9, most=5)
    assert found.status is RootStatus.EVALUATION_LIMIT
    assert found.evaluations == 5
    assert found.bracket[0] < 0.1 ** (1 / 9) < found.bracket[1]


def test_bad_input():
    with pytest.raises(ValueError, match="ends must be in order"):
        bracket_root(exact(lambda x: x), 1.0, -1.0, 1e-6)
    with pytest.raises(ValueError, match="width > 0"):
        bracket_root(exact(lambda x: x), -1.0, 1.0, 0.0)
    with pytest.raises(ValueError, match="outside its bracket"):
        Root(1.0, 0.0, (2.0, 3.0), 1.0, RootStatus.CONVERGED, 0)
