"""Newton's method with one Jacobian: roots that are known in closed form, and none."""

import math

import numpy as np
import pytest

from gamp_theory.numerics.newton import chord_newton


def test_linear_equations_take_one_jacobian():
    matrix = np.array([[2.0, 1.0, 0.0], [0.5, -3.0, 1.0], [0.0, 1.0, 4.0]])
    root = np.array([0.3, -0.2, 0.1])
    found = chord_newton(lambda x: matrix @ (x - root), np.zeros(3))
    assert found is not None
    assert found.x == pytest.approx(root, rel=0, abs=1e-12)
    assert found.jacobian == pytest.approx(matrix, rel=0, abs=1e-8)
    assert found.evaluations <= 1 + 3 + 3  # the guess, the differences, and steps
    assert found.last_step < 1e-7


def test_circle_and_line():
    """x**2 + y**2 = 2 and x = y: (1, 1)."""
    found = chord_newton(
        lambda z: np.array([z[0] ** 2 + z[1] ** 2 - 2, z[0] - z[1]]), np.array([1.1, 0.8])
    )
    assert found is not None
    assert found.x == pytest.approx([1, 1], rel=0, abs=1e-10)


@pytest.mark.parametrize(("guess", "root"), [(1.2, math.sqrt(2)), (-1.3, -math.sqrt(2))])
def test_the_root_near_the_guess(guess, root):
    found = chord_newton(lambda z: z**2 - 2, np.array([guess]))
    assert found is not None
    assert found.x[0] == pytest.approx(root, rel=0, abs=1e-10)


def test_evaluations_are_counted():
    calls = []

    def F(z):
        calls.append(z)
        return np.exp(z) - 2

    found = chord_newton(F, np.array([0.5]))
    assert found is not None
    assert found.x[0] == pytest.approx(math.log(2), rel=0, abs=1e-10)
    assert found.evaluations == len(calls)


def test_a_guess_that_is_the_root_stays():
    found = chord_newton(lambda z: z - 1, np.array([1.0]))
    assert found is not None
    assert (found.x[0], found.last_step) == (1.0, 0.0)


def test_nearly_singular_equations():
    """Slopes 1 and 1e-6: the small one is told from its difference quotient."""
    found = chord_newton(
        lambda z: np.array([z[0] + z[1] ** 2 - 0.01, 1e-6 * (z[1] + z[1] ** 3 - 0.1 - 0.1**3)]),
        np.array([0.1, 0.0]),
    )
    assert found is not None
    assert found.x == pytest.approx([0.0, 0.1], rel=0, abs=1e-10)


def test_a_singular_jacobian_is_no_root():
    assert chord_newton(lambda z: np.array([z[0] + z[1], z[0] + z[1] - 1]), np.zeros(2)) is None


@pytest.mark.parametrize(
    "F",
    [
        lambda z: z**2 + 1,
        lambda z: np.exp(-z),  # only at infinity
        lambda z: 1 + 0 * z,
    ],
)
def test_no_root(F):
    assert chord_newton(F, np.array([0.7])) is None


def test_a_root_that_is_far_is_none():
    assert chord_newton(lambda z: z - 3, np.array([0.0])) is None
    found = chord_newton(lambda z: z - 3, np.array([0.0]), largest=5.0)
    assert found is not None
    assert found.x[0] == pytest.approx(3, rel=0, abs=1e-10)


@pytest.mark.parametrize("edge", [0.0, 0.5 + 5e-6, 0.6])
def test_outside_the_domain(edge):
    """Not finite at the guess, at the point of a difference, or after a step."""

    def F(z):
        return z - 1 if z[0] < edge else np.array([math.nan])

    assert chord_newton(F, np.array([0.5])) is None


def test_steps_are_bounded():
    assert chord_newton(lambda z: np.exp(z) - 2, np.array([0.3]), most=2) is None
    assert chord_newton(lambda z: np.exp(z) - 2, np.array([0.3]), most=12) is not None
