"""The training loss as a function of the overlaps (docs/theory.md, section 6)."""

import math

import numpy as np
import pytest

from gamp_theory.channel.pair import PairChannel
from gamp_theory.landscape import curvature, reduced_loss
from gamp_theory.model import AttentionModel
from gamp_theory.overlaps import Overlaps
from gamp_theory.prior import prior_map
from gamp_theory.stability import map_jacobian
from gamp_theory.state_evolution import solve

MODEL = AttentionModel.mixture(0.3, 0.5)
ALPHA, LAM = 1.25, 0.01
MIXED = Overlaps(q=0.0704507, m=0.131901, V=22.2376, theta=0.0583663)
UNINFORMED = Overlaps(q=0.0785537, m=0.0, V=27.7809, theta=0.0)
#: A state that is no fixed point, with a smooth prox.
ANYWHERE = Overlaps(q=0.03, m=0.12, V=3.0, theta=0.03)


def loss_at(rule, x, alpha, lam):
    at = Overlaps.from_array(x)
    return reduced_loss(MODEL, at, rule.averages(at).envelope(at.V), alpha, lam)


@pytest.fixture(scope="module", params=["semantic", "positional", "mixed", "uninformed"])
def point(request):
    start = {"mixed": MIXED, "uninformed": UNINFORMED}.get(request.param, request.param)
    found = solve(MODEL, ALPHA, LAM, start, tol=1e-4, with_stability=False)
    assert found.branch == request.param
    return found


def jacobian(point):
    x = point.overlaps.as_array()
    rule = PairChannel(MODEL).rule(point.overlaps, 3e-5, even=False, checked=False)

    def step(z):
        averages = rule.averages(Overlaps.from_array(z))
        return prior_map(MODEL.rho, averages.conjugates(ALPHA).as_array(), LAM)

    off = {}
    for j, name in ((1, "m"), (3, "theta")):
        out = x + 1e-3 * math.sqrt(x[0]) * (np.arange(4) == j)
        off[name] = step(out)[j] / out[j]
    return map_jacobian(step, x, MODEL.rho, off).matrix


def derivative_of_coordinates(x, rho):
    """Of ``(-1/(2 V), rho m/V, B/(2 V**2), theta/(rho V))`` in (q, m, V, theta)."""
    q, m, V, theta = x
    B = q - rho * m**2 - theta**2 / rho
    return np.array(
        [
            [0, 0, 0.5 / V**2, 0],
            [0, rho / V, -rho * m / V**2, 0],
            [0.5 / V**2, -rho * m / V**2, -B / V**3, -theta / (rho * V**2)],
            [0, 0, -theta / (rho * V**2), 1 / (rho * V)],
        ]
    )


def test_hessian_is_that_of_the_map(point):
    """``f'' = C (1 - J)``: two ways to all second derivatives, and J is symmetric up to C."""
    x = point.overlaps.as_array()
    C = derivative_of_coordinates(x, MODEL.rho)
    assert np.linalg.det(C) == pytest.approx(-1 / (4 * x[2] ** 6), rel=1e-10)
    units = np.array([x[0], math.sqrt(x[0] / MODEL.rho), x[2], math.sqrt(MODEL.rho * x[0])])
    scale = np.outer(units, units)
    expected = C @ (np.eye(4) - jacobian(point)) * scale
    got = curvature(point)
    np.testing.assert_allclose(got.hessian * scale, expected, atol=2e-3 * abs(expected).max())


def test_minima_and_saddles(point):
    got = curvature(point)
    index = {"semantic": 0, "positional": 0, "mixed": 1, "uninformed": 2}[point.branch]
    assert got.index == index
    assert got.kind == ("saddle" if index else "minimum")
    # one minus for V, one more for each direction of descent (Haynsworth)
    assert (np.linalg.eigvalsh(got.hessian) < 0).sum() == index + 1
    values = np.linalg.eigvals(jacobian(point))
    assert np.linalg.det(np.eye(4) - jacobian(point)) * (-1) ** index > 0
    assert (values.real >= 1).sum() % 2 == index % 2


def test_it_is_the_training_loss_at_a_fixed_point(point):
    got = reduced_loss(MODEL, point.overlaps, point.averages.envelope(point.overlaps.V), ALPHA, LAM)
    # V comes from q_hat and V_hat to within the residual of the solve
    assert got == pytest.approx(point.train_loss, rel=1e-4)


@pytest.mark.parametrize("at", [ANYWHERE, MIXED, Overlaps(0.05, 0.2, 15.0, 0.0)], ids=repr)
def test_gradient_is_the_residual_of_the_map(at):
    """(6.7), also where nothing is stationary."""
    rule = PairChannel(MODEL).rule(at, 1e-5, even=False, checked=False)
    x, rho = at.as_array(), MODEL.rho
    image = prior_map(rho, rule.averages(at).conjugates(ALPHA).as_array(), LAM)

    def coordinates(z):
        q, m, V, theta = z
        B = q - rho * m**2 - theta**2 / rho
        return np.array([-1 / (2 * V), rho * m / V, B / (2 * V**2), theta / (rho * V)])

    expected = coordinates(x) - coordinates(image)
    for j in np.flatnonzero(x):
        h = 1e-3 * x[j] * (np.arange(4) == j)
        d1, d2 = (
            (loss_at(rule, x + k * h, ALPHA, LAM) - loss_at(rule, x - k * h, ALPHA, LAM))
            / (2 * k * h[j])
            for k in (1, 2)
        )
        size = max(abs(expected[j]), abs(coordinates(x)[j]))
        assert (4 * d1 - d2) / 3 == pytest.approx(expected[j], abs=1e-3 * size)


@pytest.mark.parametrize("at", [ANYWHERE, MIXED, Overlaps(0.05, 0.2, 15.0, 0.0)], ids=repr)
def test_it_is_concave_in_the_inverse_response(at):
    """Over a decade of V, at fixed q, m, theta; no fixed point is needed."""
    channel = PairChannel(MODEL)
    s = np.linspace(0.5, 5, 10) / at.V
    f = []
    for s_i in s:
        there = Overlaps(at.q, at.m, 1 / s_i, at.theta)
        envelope = channel.rule(there, 1e-5, checked=False).averages(there).envelope(there.V)
        f.append(reduced_loss(MODEL, there, envelope, ALPHA, LAM))
    assert np.all(np.diff(f, 2) < 0)


def test_no_curvature_at_the_origin():
    zero = solve(MODEL, 1.5, 0.1, "zero")
    with pytest.raises(ValueError, match="needs a fixed point with q > 0"):
        curvature(zero)
