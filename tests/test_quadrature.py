import math

import numpy as np
import pytest
from scipy.special import eval_legendre
from scipy.stats import norm

from gamp_theory.numerics.quadrature import (
    Rule,
    gauss_hermite_normal,
    gauss_legendre,
    gauss_legendre_table,
    gauss_normal,
    trapezoid_normal,
)


def normal_moment(degree):
    """E x^degree = (degree - 1)!! for even degrees."""
    return 0.0 if degree % 2 else math.prod(range(1, degree, 2), start=1.0)


def legendre_moment(degree, lo, hi):
    return (hi ** (degree + 1) - lo ** (degree + 1)) / (degree + 1)


def relative_errors(rule, moment, degrees):
    """Errors of the monomials, relative to the sum of the terms' sizes."""
    for degree in degrees:
        terms = rule.weights * rule.nodes**degree
        yield abs(terms.sum() - moment(degree)) / (abs(terms).sum() or 1)


@pytest.mark.parametrize("n", [1, 2, 5, 10, 16])
@pytest.mark.parametrize(("lo", "hi"), [(-1, 1), (0, 3), (-2.5, 0.5)])
def test_gauss_legendre_is_exact_to_its_degree_and_no_further(n, lo, hi):
    rule = gauss_legendre(n, lo, hi)
    exact = list(
        relative_errors(rule, lambda k: legendre_moment(k, lo, hi), range(rule.degree + 1))
    )
    assert rule.degree == 2 * n - 1
    assert max(exact) < 1e-13
    # The squared node polynomial, of the next degree, is positive everywhere but at the nodes.
    node_polynomial = np.polynomial.Polynomial.fromroots(rule.nodes)
    antiderivative = (node_polynomial**2).integ()
    assert rule.weights @ node_polynomial(rule.nodes) ** 2 < 1e-3 * (
        antiderivative(hi) - antiderivative(lo)
    )


def test_the_table_holds_all_rules():
    table = gauss_legendre_table(80)
    assert table.shape == (81, 2, 81)
    assert not table[0].any()
    for n in range(1, 81):
        rule = gauss_legendre(n)
        np.testing.assert_allclose(table[n, 0, :n], rule.nodes, rtol=0, atol=3e-15)
        # near +-1 either one loses digits of its small weights (against 40 digits: 1e-12)
        np.testing.assert_allclose(table[n, 1, :n], rule.weights, rtol=0, atol=2e-14)
        np.testing.assert_allclose(table[n, 1, :n].sum(), 2, rtol=1e-14)
        assert not table[n, :, n:].any()


@pytest.mark.parametrize("n", [1, 2, 5, 10, 20])
def test_gauss_hermite_is_exact_to_its_degree_and_no_further(n):
    rule = gauss_hermite_normal(n)
    assert rule.degree == 2 * n - 1
    assert max(relative_errors(rule, normal_moment, range(rule.degree + 1))) < 1e-13
    assert next(relative_errors(rule, normal_moment, [rule.degree + 1])) > 1e-7


@pytest.mark.parametrize("n", [100, 360])
def test_large_gauss_hermite_rules_are_sound(n):
    rule = gauss_hermite_normal(n)
    assert rule.weights.min() > 0
    np.testing.assert_allclose(rule.weights @ np.cosh(rule.nodes), math.exp(0.5), rtol=1e-13)


@pytest.mark.parametrize("step", [1.5, 1.2, 1.0])
def test_trapezoid_has_the_error_its_docstring_states(step):
    rule = trapezoid_normal(step, 12)
    expected = 2 * math.exp(-2 * math.pi**2 / step**2)
    np.testing.assert_allclose(rule.weights.sum() - 1, expected, rtol=1e-2)
    assert rule.degree is None


def test_trapezoid_truncation_is_the_mass_beyond_the_cut():
    missing = 1 - trapezoid_normal(0.01, 3).weights.sum()
    np.testing.assert_allclose(missing, math.erfc(3 / math.sqrt(2)), rtol=0.03)


def test_trapezoid_converges_exponentially_for_a_function_with_a_pole_off_the_axis():
    # 1/(1 + x^2) has poles at +-i: the error falls like exp(-2 pi/step).
    exact = math.sqrt(math.pi / 2) * math.exp(0.5) * math.erfc(1 / math.sqrt(2))

    def error(step):
        rule = trapezoid_normal(step, 9)
        return abs(rule.weights @ (1 / (1 + rule.nodes**2)) - exact)

    assert error(0.2) < 1e-12
    np.testing.assert_allclose(
        math.log(error(0.8) / error(0.4)), 2 * math.pi / 0.4 - 2 * math.pi / 0.8, rtol=0.05
    )


def test_trapezoid_is_symmetric_and_ends_at_the_cut():
    rule = trapezoid_normal(0.1, 6)
    np.testing.assert_allclose(rule.nodes[[0, -1]], [-6, 6], rtol=1e-15)
    assert np.array_equal(rule.nodes, -rule.nodes[::-1])
    assert np.array_equal(rule.weights, rule.weights[::-1])


@pytest.mark.parametrize(
    ("n", "lo", "hi"), [(1, -1, 2), (5, 0, 6), (12, -0.3, 0.1), (16, 2, 6.5), (40, -7, 7)]
)
def test_gauss_for_a_piece_of_the_normal_density(n, lo, hi):
    """Exact to degree 2n - 1 and no further, against a fine rule for Legendre polynomials."""
    rule = gauss_normal(n, lo, hi)
    assert rule.degree == 2 * n - 1
    assert np.all(rule.weights > 0)
    assert np.all((rule.nodes > lo) & (rule.nodes < hi))
    probability = norm.cdf(hi) - norm.cdf(lo)
    fine = gauss_legendre(400, lo, hi)
    for degree in (0, 1, 2 * n - 1, 2 * n):

        def polynomial(x, degree=degree):
            return eval_legendre(degree, (2 * x - lo - hi) / (hi - lo))

        exact = fine.weights @ (polynomial(fine.nodes) * norm.pdf(fine.nodes))
        off = abs(rule.weights @ polynomial(rule.nodes) - exact)
        assert (off < 5e-13 * probability) == (degree < 2 * n)


def test_gauss_for_the_whole_density_is_that_of_hermite():
    whole, hermite = gauss_normal(20, -37, 37), gauss_hermite_normal(20)
    np.testing.assert_allclose(whole.nodes, hermite.nodes, atol=1e-12)
    np.testing.assert_allclose(whole.weights, hermite.weights, atol=1e-14)


def test_rules_are_read_only():
    rule = gauss_legendre(3)
    with pytest.raises(ValueError, match="read-only"):
        rule.nodes[0] = 0
    with pytest.raises(ValueError, match="read-only"):
        rule.weights[0] = 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: gauss_legendre(0), "n must be a positive integer, got 0"),
        (lambda: gauss_legendre(2.5), "n must be a positive integer, got 2.5"),
        (lambda: gauss_legendre_table(0), "largest must be a positive integer, got 0"),
        (lambda: gauss_legendre(3, 1, 1), "lo and hi must be finite with lo < hi"),
        (lambda: gauss_legendre(3, 0, math.inf), "lo and hi must be finite with lo < hi"),
        (lambda: gauss_hermite_normal(-1), "n must be a positive integer, got -1"),
        (lambda: gauss_hermite_normal(361), "n must be at most 360, got 361"),
        (lambda: gauss_normal(0, 0, 1), "n must be a positive integer, got 0"),
        (lambda: gauss_normal(201, 0, 1), "n must be at most 200, got 201"),
        (lambda: gauss_normal(3, 1, 0), "lo and hi must be finite with lo < hi"),
        (lambda: gauss_normal(3, 0, math.inf), "lo and hi must be finite with lo < hi"),
        (lambda: gauss_normal(3, 30, 40), "must be inside"),
        (lambda: trapezoid_normal(0, 6), "step and cut must be finite"),
        (lambda: trapezoid_normal(0.1, math.nan), "step and cut must be finite"),
        (lambda: trapezoid_normal(2, 1), "step and cut must be finite"),
        (lambda: Rule(np.zeros(2), np.zeros(3), None), "vectors of one length"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
