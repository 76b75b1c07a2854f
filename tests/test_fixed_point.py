import math

import numpy as np
import pytest

from gamp_theory.numerics.differences import NoDifferenceQuotient, jacobian
from gamp_theory.numerics.fixed_point import FixedPointStatus, solve_fixed_point

CONVERGED = FixedPointStatus.CONVERGED
SIZES = np.array([0.05, 0.25, 18.0, 0.1])  # components of unlike size, as overlaps are


class Counted:
    """A map that counts its calls and remembers where they were."""

    def __init__(self, F):
        self.F = F
        self.points = []

    def __call__(self, x):
        self.points.append(x)
        return self.F(x)


def linear_map(eigenvalues, seed=0):
    """``F(x) = SIZES + B (x - SIZES)`` with the given eigenvalues, pairs (a, b) being a +- ib."""
    rng = np.random.default_rng(seed)
    blocks = np.zeros((4, 4))
    k = 0
    for value in eigenvalues:
        if isinstance(value, complex):
            blocks[k : k + 2, k : k + 2] = [[value.real, value.imag], [-value.imag, value.real]]
            k += 2
        else:
            blocks[k, k] = value
            k += 1
    S = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    B = (S @ blocks @ S.T) * SIZES[:, None] / SIZES
    return lambda x: SIZES + B @ (x - SIZES)


def bent_map(x):
    """Smooth, nonlinear, with eigenvalues -3.4, .27, .1, -.5 at its fixed point SIZES."""
    rng = np.random.default_rng(3)
    S = rng.normal(size=(4, 4))
    B = S @ np.diag([-3.4, 0.27, 0.1, -0.5]) @ np.linalg.inv(S)
    C = 0.3 * rng.normal(size=(4, 4, 4))
    z = (x - SIZES) / SIZES
    return SIZES * (1 + B @ z + np.einsum("ijk,j,k", C, z, z) / (1 + z @ z))


@pytest.mark.parametrize(
    "eigenvalues",
    [
        (0.9, 0.5, -0.3, 0.1),  # a contraction
        (-5.0, 0.5, 0.3, 0.1),  # plain iteration oscillates and diverges, damped by .4 too
        (0.6 + 1.4j, 0.5, 0.2),  # a complex pair outside the unit circle
        (-5.4, -1.0 + 2.0j, 0.48),
        (3.0, -2.0, 0.5, 0.1),  # unstable even if damped
        (0.0, 0.0, 0.0, 0.0),
    ],
)
def test_linear_maps_take_no_more_than_one_secant_a_variable(eigenvalues):
    F = Counted(linear_map(eigenvalues))
    got = solve_fixed_point(F, 1.2 * SIZES, atol=1e-10, rtol=1e-8)
    assert got.status is CONVERGED
    # Relative tolerance times the conditioning of I - F', at most 10 here.
    np.testing.assert_allclose(got.x, SIZES, rtol=1e-7)
    assert got.evaluations == len(F.points) <= 8


def test_a_decent_start_takes_about_ten_evaluations():
    evaluations = []
    for seed in range(60):
        start = SIZES * (1 + 0.05 * np.random.default_rng(seed).normal(size=4))
        got = solve_fixed_point(bent_map, start, atol=1e-9, rtol=1e-7)
        assert got.status is CONVERGED
        np.testing.assert_allclose(got.x, SIZES, rtol=1e-6)
        evaluations.append(got.evaluations)
    assert np.median(evaluations) <= 10
    # A few starts are far enough for the secants to mislead, and end with Newton's method.
    assert np.quantile(evaluations, 0.9) <= 15


def test_cosine():
    got = solve_fixed_point(np.cos, [1.0], atol=1e-14, rtol=0)
    np.testing.assert_allclose(got.x, 0.7390851332151607, rtol=1e-13)


def test_result_is_consistent_and_residual_undamped():
    got = solve_fixed_point(bent_map, 1.1 * SIZES, atol=1e-9, rtol=1e-7, mixing=0.1)
    assert np.array_equal(got.value, bent_map(got.x))
    np.testing.assert_allclose(got.residual, abs(bent_map(got.x) - got.x), rtol=1e-5)
    scaled = max(got.residual / (1e-9 + 1e-7 * abs(got.x)))
    np.testing.assert_allclose(got.history[-1], scaled, rtol=1e-5)
    assert len(got.history) == got.iterations + 1
    assert scaled <= 1


def test_every_component_meets_its_own_tolerance():
    atol = np.array([1e-3, 1e-6, 1e-9, 1e-12])
    got = solve_fixed_point(bent_map, 1.1 * SIZES, atol=atol, rtol=0)
    assert got.status is CONVERGED
    assert np.all(got.residual <= atol)


def test_a_tighter_tolerance_gives_a_smaller_error():
    errors = [
        max(abs(solve_fixed_point(bent_map, 1.1 * SIZES, atol=tol, rtol=tol).x / SIZES - 1))
        for tol in (1e-2, 1e-5, 1e-8, 1e-11)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-10


def test_answer_does_not_depend_on_units():
    units = np.array([1e-3, 1.0, 1e4, 10.0])
    got = solve_fixed_point(
        lambda x: units * bent_map(x / units), 1.1 * SIZES * units, atol=1e-9 * units, rtol=1e-7
    )
    expected = solve_fixed_point(bent_map, 1.1 * SIZES, atol=1e-9, rtol=1e-7)
    assert got.evaluations == expected.evaluations
    np.testing.assert_allclose(got.x / units, expected.x, rtol=1e-9)


@pytest.mark.parametrize("mu", [1e-2, 1e-4, 1e-6])
def test_near_a_fold(mu):
    # x' = mu - x^2 at rest: fixed points +-sqrt(mu), slope 1 - 2 sqrt(mu) at the upper one
    got = solve_fixed_point(lambda x: x + mu - x**2, [0.5], atol=1e-3 * mu, rtol=0)
    assert got.status is CONVERGED
    np.testing.assert_allclose(abs(got.x), math.sqrt(mu), rtol=1e-3)


def test_at_a_fold_the_residual_still_converges():
    got = solve_fixed_point(lambda x: x - x**2, [0.5], atol=1e-10, rtol=0)
    assert got.status is CONVERGED
    assert abs(got.x[0]) <= 1e-5


def test_newton_rescues_what_damping_can_not():
    # Memory 0 leaves damped iteration, and 1 - .4 (1 + 9) = -3: a cycle, as the slope saturates.
    def F(x):
        return SIZES * (1 - 9 * np.tanh(x / SIZES - 1))

    start = SIZES * np.array([1.1, 0.9, 1.2, 0.8])
    without = solve_fixed_point(F, start, atol=1e-9, rtol=1e-7, memory=0, newton=False)
    assert without.status.token == "iteration_limit"
    got = solve_fixed_point(F, start, atol=1e-9, rtol=1e-7, memory=0)
    assert got.status is CONVERGED
    np.testing.assert_allclose(got.x, SIZES, rtol=1e-7)


@pytest.mark.parametrize("memory", [0, 6])
def test_an_invariant_subspace_is_never_left(memory):
    # Odd in x_1: x_1 = 0 stays 0, though it is unstable (slope 3) and the map is otherwise bent.
    def F(x):
        return np.array([0.4 + 0.3 * math.sin(9 * x[2]), 3 * x[1] + x[0] * x[1], -4 * x[2] + x[0]])

    counted = Counted(F)
    got = solve_fixed_point(counted, [1.0, 0.0, 1.0], atol=1e-10, rtol=1e-8, memory=memory)
    assert got.status is CONVERGED
    assert got.x[1] == 0
    assert all(point[1] == 0 for point in counted.points)


def test_callback_sees_every_iterate():
    seen = []
    got = solve_fixed_point(
        bent_map, 1.1 * SIZES, atol=1e-9, rtol=1e-7, callback=lambda x, Fx: seen.append((x, Fx))
    )
    assert len(seen) == len(got.history)
    assert np.array_equal(seen[-1][0], got.x)
    np.testing.assert_allclose(seen[-1][1], got.value, rtol=1e-15)


STATUSES = {
    "converged": (np.cos, [1.0], {}),
    # x^2 + 1 = x has no real solution
    "iteration_limit": (lambda x: x**2 + 1, [0.3], {}),
    # the solution, 4, lies outside; below, likewise
    "left_domain": (lambda x: 0.5 * x + 2, [0.0], {"admissible": lambda x: x[0] <= 1}),
    "non_finite": (lambda x: np.where(x > 1, np.nan, 0.5 * x + 2), [0.0], {}),
}


@pytest.mark.parametrize("token", STATUSES)
@pytest.mark.parametrize("newton", [True, False])
def test_every_status_can_be_reached(token, newton):
    F, start, options = STATUSES[token]
    counted = Counted(F)
    got = solve_fixed_point(
        counted, start, atol=1e-8, rtol=1e-8, max_evaluations=150, newton=newton, **options
    )
    assert got.status.token == token
    assert got.status.value.endswith(".")
    assert got.evaluations == len(counted.points) <= 150
    assert np.all(np.isfinite(got.x))
    np.testing.assert_allclose(got.residual, abs(F(got.x) - got.x), rtol=1e-6)
    assert np.min(got.history) == got.history.min()


def test_all_statuses_are_forced_above():
    assert {status.token for status in FixedPointStatus} == set(STATUSES)


def test_failure_returns_the_best_iterate():
    got = solve_fixed_point(lambda x: x**2 + 1, [0.3], atol=1e-8, rtol=0, max_evaluations=60)
    # |x^2 - x + 1| has its minimum, 3/4, at 1/2
    np.testing.assert_allclose(got.residual, 0.75, rtol=1e-3)
    np.testing.assert_allclose(got.residual / 1e-8, got.history.min(), rtol=1e-6)


def test_a_bad_start_is_answered_not_iterated():
    def never(x):
        raise AssertionError("called outside its domain")

    outside = solve_fixed_point(never, [2.0], atol=1, rtol=0, admissible=lambda x: x[0] < 1)
    assert outside.status.token == "left_domain"
    assert outside.evaluations == 0

    not_a_number = solve_fixed_point(lambda x: x * np.nan, [2.0], atol=1, rtol=0)
    assert not_a_number.status.token == "non_finite"
    assert not_a_number.evaluations == 1
    for got in (outside, not_a_number):
        assert got.x == 2
        assert np.isnan(got.residual)
        assert got.history.size == 0


def test_the_map_is_never_called_outside_its_domain():
    # Secants overshoot here: the solution of sqrt(x)/2 + .01 is close to the edge, 0.
    F = Counted(lambda x: 0.01 - 3 * np.sqrt(x) + 6 * x)
    got = solve_fixed_point(F, [0.5], atol=1e-12, rtol=1e-9, admissible=lambda x: x[0] >= 0)
    assert min(point[0] for point in F.points) >= 0
    assert got.status is CONVERGED


def test_start_on_the_edge_of_a_closed_domain():
    got = solve_fixed_point(
        lambda x: 0.5 * x, [1.0], atol=1e-10, rtol=0, admissible=lambda x: x[0] <= 1
    )
    assert got.status is CONVERGED


def test_evaluations_are_bounded_exactly():
    for limit in (1, 2, 7, 40):
        F = Counted(lambda x: x**2 + 1)
        got = solve_fixed_point(F, [0.3], atol=1e-8, rtol=0, max_evaluations=limit)
        assert got.status.token == "iteration_limit"
        assert len(F.points) == got.evaluations == limit


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x0": [math.nan]}, "x0 must be finite"),
        ({"x0": 1.0}, "x0 must be a non-empty vector"),
        ({"atol": 0}, "atol must be positive"),
        ({"rtol": -1}, "rtol must be finite and >= 0"),
        ({"mixing": 0}, r"mixing must lie in \(0, 1\], got 0"),
        ({"memory": -1}, "memory must be >= 0, got -1"),
        ({"max_evaluations": 0}, "max_evaluations must be at least 1, got 0"),
        ({"F": lambda x: np.zeros(2)}, r"F must return shape \(1,\), got \(2,\)"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"F": np.cos, "x0": [1.0], "atol": 1e-8, "rtol": 0} | change
    with pytest.raises(ValueError, match=message):
        solve_fixed_point(arguments.pop("F"), arguments.pop("x0"), **arguments)


def polynomial(x):
    return np.array([x[0] ** 3 * x[1], x[1] ** 2 - 5 * x[0], x[0] * x[1] * x[2] ** 4])


def polynomial_jacobian(x):
    a, b, c = x
    return np.array(
        [
            [3 * a**2 * b, a**3, 0],
            [-5, 2 * b, 0],
            [b * c**4, a * c**4, 4 * a * b * c**3],
        ]
    )


POINT = np.array([0.7, -1.3, 0.9])


def test_jacobian_of_a_polynomial():
    np.testing.assert_allclose(jacobian(polynomial, POINT), polynomial_jacobian(POINT), atol=1e-8)


def test_forward_jacobian_is_first_order_and_cheaper():
    F = Counted(polynomial)
    got = jacobian(F, POINT, method="forward", value=polynomial(POINT))
    np.testing.assert_allclose(got, polynomial_jacobian(POINT), atol=2e-4)
    assert len(F.points) == 3


@pytest.mark.parametrize("side", [-1, 1])
def test_jacobian_at_the_edge_of_the_domain_keeps_its_order(side):
    def inside(x):
        return side * (x[1] - POINT[1]) <= 0

    F = Counted(polynomial)
    got = jacobian(F, POINT, admissible=inside)
    np.testing.assert_allclose(got, polynomial_jacobian(POINT), atol=1e-8)
    assert all(inside(point) for point in F.points)
    forward = jacobian(F, POINT, method="forward", admissible=inside)
    np.testing.assert_allclose(forward, polynomial_jacobian(POINT), atol=2e-4)
    assert all(inside(point) for point in F.points)


def test_jacobian_of_chosen_components():
    got = jacobian(polynomial, POINT, components=np.array([True, False, True]))
    np.testing.assert_allclose(got, polynomial_jacobian(POINT)[:, [0, 2]], atol=1e-8)


def test_jacobian_at_zero_uses_the_floor():
    got = jacobian(lambda x: np.sin(3 * x), np.zeros(2))
    np.testing.assert_allclose(got, 3 * np.eye(2), atol=1e-8)


def test_jacobian_says_what_is_wrong():
    with pytest.raises(NoDifferenceQuotient, match="component 0"):
        jacobian(polynomial, POINT, admissible=lambda x: x[0] == POINT[0])
    with pytest.raises(ValueError, match="not both 0"):
        jacobian(polynomial, POINT, 0, floor=0)
    with pytest.raises(ValueError, match="component 1 is 0"):
        jacobian(polynomial, [1.0, 0.0, 1.0], floor=0)
    with pytest.raises(ValueError, match="'central' or 'forward'"):
        jacobian(polynomial, POINT, method="backward")
