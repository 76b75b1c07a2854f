"""The rule for the average over the teacher's fields."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose

from gamp_theory.channel import outer
from gamp_theory.model import AttentionModel
from gamp_theory.overlaps import Overlaps

CUT = 6.0
V = 16.0
EVEN = AttentionModel.mixture(0.3)
UNEVEN = AttentionModel.mixture(0.2, A=((0.3, 0.7), (0.8, 0.2)))


def averages(model, y, weight):
    """Of smooth functions that the symmetries of the rule leave alone."""
    y1, y2 = (y / model.sigma).T
    return weight @ np.stack(
        [np.ones_like(y1), y1**2 + y2**2, y1 * y2, (y1 * y2) ** 2, np.cos(y1) * np.cos(y2)], axis=-1
    )


@pytest.mark.parametrize("model", [EVEN, UNEVEN])
@pytest.mark.parametrize("flip", [True, False])
@pytest.mark.parametrize("swap", [True, False])
def test_averages_over_independent_normals(model, flip, swap):
    y, weight = outer.outer_rule(model, V, outer.Counts(28, 28), 8.0, flip=flip, swap=swap)
    assert weight.min() > 0
    assert np.linalg.norm(y / model.sigma, axis=1).max() < 8
    assert_allclose(averages(model, y, weight), [1, 2, 0, 1, np.exp(-1)], atol=1e-8)
    u, w = y[:, 0] - y[:, 1], y[:, 0] + y[:, 1]
    assert (u.min() > 0) == flip
    assert (w.min() > 0) == swap


@pytest.mark.parametrize("model", [EVEN, UNEVEN])
@pytest.mark.parametrize("V", [10.0, 40.0])
def test_pieces_end_where_the_origin_becomes_a_double_well(model, V):
    """What is smooth but for a kink of third order at the onsets converges as if it were smooth."""

    a1, a2 = model.target.contrasts

    def average(count):
        counts = outer.Counts(2 * count, count)
        y, weight = outer.outer_rule(model, V, counts, CUT, flip=True, swap=a1 == a2)
        return weight @ np.maximum(outer.instability(model, V, y), 0) ** 3

    exact = average(36)
    errors = [abs(average(count) / exact - 1) for count in (6, 12, 24)]
    assert errors[2] < 1e-4
    assert all(fine < max(0.3 * coarse, 1e-9) for coarse, fine in itertools.pairwise(errors))


def test_onsets_are_those_of_the_lowest_eigenvalue():
    for u in (0.3, 0.9, 1.4, 3.0):
        w = np.linspace(-CUT, CUT, 20_001)
        fields = outer.teacher_fields(UNEVEN, np.hypot(u, w), np.arctan2(w, u))
        signs = outer.instability(UNEVEN, V, fields) > 0
        expected = w[1:][signs[1:] != signs[:-1]]
        assert_allclose(outer.onsets(UNEVEN, V, u, CUT, swap=False), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("overlaps", "model", "expected"),
    [
        (Overlaps(0.1, 0, 9, 0.1), EVEN, (True, True)),
        (Overlaps(0.1, 0.1, 9, 0), UNEVEN, (True, False)),
        (Overlaps(0.1, 0.1, 9, 0.1), EVEN, (False, True)),
    ],
)
def test_symmetries(overlaps, model, expected):
    assert outer.symmetries(model, overlaps) == expected
    assert outer.symmetries(model, overlaps, even=False) == (False, expected[1])
    assert outer.symmetry(model, overlaps) == (1 + expected[0]) * (1 + expected[1])
