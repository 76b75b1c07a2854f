"""The rule "whole h-plane minus hole": convergence, identities, what it refuses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gamp_theory.channel.plane import PlaneUnusable, outer_folds, plane_averages, plane_rule
from gamp_theory.model import AttentionModel
from gamp_theory.overlaps import Overlaps

MODEL = AttentionModel.mixture()
LOPSIDED = AttentionModel.mixture(0.14, 0.5, ((0.3, 0.7), (0.8, 0.2)))
SEMANTIC = Overlaps(0.0816248, 0, 18.3211, 0.117926)
POSITIONAL = Overlaps(0.0471005, 0.252411, 14.9034, 0)
MIXED = Overlaps(0.06, 0.15, 15, 0.07)


def errors(got, expected):
    """Errors relative to each average; that of the small d/domega relative to the loss."""
    scale = abs(expected)
    scale[5] = max(scale[5], 0.3 * scale[4])
    return abs(got - expected)[scale > 0] / scale[scale > 0]


def evaluate(model, overlaps, level, **options):
    return plane_averages(model, overlaps, plane_rule(model, overlaps, level, **options))


@pytest.mark.parametrize("overlaps", [SEMANTIC, POSITIONAL, MIXED])
def test_levels_converge(overlaps):
    best = evaluate(MODEL, overlaps, 5)[0].as_array()
    worst = [
        errors(evaluate(MODEL, overlaps, level)[0].as_array(), best).max() for level in (0, 2, 4)
    ]
    assert worst[0] < 5e-3
    assert worst[1] < 3e-4
    assert worst[2] < 3e-6
    assert worst[2] < worst[1] < worst[0]


@pytest.mark.parametrize("overlaps", [SEMANTIC, POSITIONAL, MIXED])
def test_masses_vanish(overlaps):
    _, diagnostics = evaluate(MODEL, overlaps, 3)
    assert abs(diagnostics.mass) < 1e-7
    assert diagnostics.hole_mass < 1e-6
    assert diagnostics.failed == 0
    assert diagnostics.truncation < 1e-10
    assert diagnostics.holes > 0


@pytest.mark.parametrize("model", [MODEL, LOPSIDED])
@pytest.mark.parametrize("overlaps", [SEMANTIC, POSITIONAL, MIXED])
def test_symmetry_only_thins_the_nodes(model, overlaps):
    thin, few = evaluate(model, overlaps, 1)
    full, many = evaluate(model, overlaps, 1, swap=False, flip=False)
    expected = (2 if model is MODEL else 1) * (1 if overlaps is MIXED else 2)
    assert many.nodes == pytest.approx(expected * few.nodes, rel=0.05)
    np.testing.assert_allclose(thin.as_array(), full.as_array(), rtol=1e-5, atol=1e-9)


def test_zero_overlaps_have_zero_conjugates():
    averages, _ = evaluate(MODEL, Overlaps(0.08, 0, 20, 0), 0)
    assert averages.m_hat == 0
    assert averages.theta_hat == 0


@pytest.mark.parametrize(
    ("model", "overlaps"), [(MODEL, SEMANTIC), (MODEL, MIXED), (LOPSIDED, MIXED)]
)
def test_envelope_generates_the_conjugates(model, overlaps):
    """d(E M)/dm = -m_hat and d(E M)/dV = -q_hat/2, with the nodes frozen."""
    rule = plane_rule(model, overlaps, 4)
    averages, _ = plane_averages(model, overlaps, rule)

    def slope(name, step):
        values = []
        for sign in (1, -1):
            moved = replace(overlaps, **{name: getattr(overlaps, name) * (1 + sign * step)})
            values.append(plane_averages(model, moved, rule)[0].envelope(moved.V))
        return (values[0] - values[1]) / (2 * step * getattr(overlaps, name))

    assert slope("V", 1e-3) == pytest.approx(-averages.q_hat / 2, rel=3e-6)
    if overlaps.m:
        assert slope("m", 1e-3) == pytest.approx(-averages.m_hat, rel=3e-6)


def test_frozen_rule_is_smooth():
    """Eighth differences of V_hat along a line vanish to rounding."""
    rule = plane_rule(MODEL, SEMANTIC, 2)
    direction = np.array([1.0, 0.0, 1.0, 0.3])
    line = [SEMANTIC.as_array() * (1 + 1e-4 * j * direction) for j in range(-4, 5)]
    values = [plane_averages(MODEL, Overlaps.from_array(x), rule)[0].V_hat for x in line]
    assert abs(np.diff(values, 8)[0]) < 1e-11 * abs(values[4])


def test_rule_refuses_a_state_without_its_symmetry():
    rule = plane_rule(MODEL, POSITIONAL, 0)
    moved = replace(POSITIONAL, theta=1e-3)
    with pytest.raises(ValueError, match="flip=False"):
        plane_averages(MODEL, moved, rule)
    free = plane_rule(MODEL, POSITIONAL, 0, flip=False)
    assert plane_averages(MODEL, moved, free)[0].theta_hat != 0


@pytest.mark.parametrize(
    ("sigma", "overlaps", "message"),
    [
        (0.5, Overlaps(0.25, 0, 1, 0.25), "function of y"),
        (0.5, Overlaps(1e-8, 0, 20, 0), "almost a function"),
        (0.5, Overlaps(0.08, 0, 80, 0), "V sigma"),
        (1.0, Overlaps(0.4, 0, 15, 0.4), "third well"),
    ],
)
def test_unusable_states_are_refused(sigma, overlaps, message):
    with pytest.raises(PlaneUnusable, match=message):
        plane_rule(AttentionModel.mixture(0.3, sigma), overlaps, 1)


def test_outer_folds_are_seen():
    assert outer_folds(MODEL, POSITIONAL, plane_rule(MODEL, POSITIONAL, 0)) < 1e-12
    model, overlaps = AttentionModel.mixture(0.3, 0.7), Overlaps(0.2, 0, 12, 0.2)
    assert outer_folds(model, overlaps, plane_rule(model, overlaps, 0)) > 1e-10
