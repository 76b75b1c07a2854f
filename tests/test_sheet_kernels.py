"""Panels along a sheet, against the same sums written out node by node."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.integrate import quad
from scipy.stats import norm

from gamp_theory.channel import search_kernels, sheet_kernels

T = (0.35, 0.25, -0.1, 0.2)
K, C = 2.3, 0.125
V = K / C
GAUSS = (
    [0.5 * (1 + x) for x in np.polynomial.legendre.leggauss(8)[0]],
    (0.5 * np.polynomial.legendre.leggauss(8)[1]),
)
NODES, WEIGHTS = np.array(GAUSS[0]), GAUSS[1]


def line(b, tolerance=1e-6):
    return sheet_kernels.Slice(
        T, (0.4, -0.2), b, K, C, V, 0.6, 1.0, 0.3, 0.1, -3.0, 3.0, 2.0, tolerance
    )


def point(U, b, W=0.0):
    W, _, a, dW, bend, ok = search_kernels.settle(U, W, b, T, K)
    assert ok
    return U, W, a, dW, bend


@pytest.mark.parametrize("b", [-0.4, 0.1, 0.8])
def test_nodes_are_on_the_sheet(b):
    left, right = point(0.9, b), point(1.6, b)
    lanes = np.empty((sheet_kernels.LANES, sheet_kernels.MOST_NODES))
    assert sheet_kernels.follow(left, right, line(b), NODES, lanes)
    assert_allclose(lanes[0], 0.9 + 0.7 * NODES)
    assert_allclose(lanes[1], [point(U, b, W)[1] for U, W in lanes[:2].T], atol=1e-8)


def test_nodes_off_a_convex_sheet_are_refused():
    """A point of W at which ``A - b W`` is not convex in W."""
    left, right = (1.2, 5.0, 0.0, 0.0, 1.0), (1.6, -5.0, 0.0, 0.0, 1.0)
    lanes = np.empty((sheet_kernels.LANES, sheet_kernels.MOST_NODES))
    assert not sheet_kernels.follow(left, right, line(0.1)._replace(k=40.0), NODES, lanes)


@pytest.mark.parametrize("b", [-0.4, 0.1, 0.8])
@pytest.mark.parametrize(("lo", "hi"), [(0.9, 1.3), (1.2, 1.5), (-1.15, -0.8)])
def test_panel_sums_node_by_node(b, lo, hi):
    slice_ = line(b)
    local = np.empty(sheet_kernels.SUMS)
    left, right = point(lo, b), point(hi, b)
    assert sheet_kernels.panel_in_U(left, right, slice_, NODES, WEIGHTS, False, local) == 0
    expected = np.zeros(sheet_kernels.SUMS)
    for x, weight in zip(NODES, WEIGHTS, strict=True):
        U = lo + (hi - lo) * x
        _, W, a, _, bend = point(U, b)
        f = search_kernels.energy(U, W, T[0], T[1], K)
        hessian = np.array([[f[3], f[4]], [f[4], f[5]]])
        slope = np.linalg.inv(hessian) - np.eye(2)
        g = np.array([U - a, W - b]) / V
        r = np.array(T[:2]) - f[6:8]
        density = (hi - lo) * weight * bend * norm.pdf(a, slice_.centre, slice_.s)
        expected += density * np.array(
            [
                1,
                g @ g,
                g[0],
                g[1],
                r @ r,
                r @ T[2:],
                -np.trace(slope),
                (slope**2).sum(),
                g[0] * (a - slice_.centre),
                g[1] * (a - slice_.centre),
            ]
        )
    assert_allclose(local, expected, rtol=1e-7, atol=1e-11)


def test_a_panel_is_an_integral_over_the_field():
    """``da = B'' dU``: the mean of g_U over fields, each with its own prox."""
    b = 0.1
    left, right = point(0.9, b), point(1.2, b)
    local = np.empty(sheet_kernels.SUMS)
    slice_ = line(b)
    assert sheet_kernels.panel_in_U(left, right, slice_, NODES, WEIGHTS, False, local) == 0

    def integrand(a):
        U, W = 1.2, 0.0
        for _ in range(60):
            U, W, here, _, bend = point(U, b, W)
            U += (a - here) / bend
        return (U - a) / V * norm.pdf(a, slice_.centre, slice_.s)

    exact, _ = quad(integrand, left[2], right[2], epsabs=1e-13)
    assert local[2] == pytest.approx(exact, rel=1e-7)


def test_verdicts_of_a_panel():
    b = 0.1
    local = np.empty(sheet_kernels.SUMS)
    left, right = point(0.9, b), point(1.5, b)
    for tolerance, verdict in ((1e-6, 0), (0.0, 1)):
        found = sheet_kernels.panel_in_U(
            left, right, line(b, tolerance), NODES, WEIGHTS, False, local
        )
        assert found == verdict
    # across the barrier between the wells the prox turns back; folded, the signed integral is right
    left, right = point(-0.6, b), point(0.6, b)
    assert min(point(U, b)[4] for U in np.linspace(-0.6, 0.6, 41)) < 0
    folded = sheet_kernels.panel_in_U(left, right, line(b), NODES, WEIGHTS, True, local)
    assert sheet_kernels.panel_in_U(left, right, line(b), NODES, WEIGHTS, False, local) == 2
    slice_ = line(b)
    exact = norm.cdf(right[2], slice_.centre, slice_.s) - norm.cdf(left[2], slice_.centre, slice_.s)
    assert local[0] == pytest.approx(exact, abs=1e-5)
    assert folded == (abs(local[0] - exact) > slice_.tolerance)
    assert math.isfinite(local.sum())
