"""The second opinion agrees with what is right, and not with what is wrong."""

from __future__ import annotations

import dataclasses
import functools

import pytest

from gamp_theory.check import SIGMAS, Difference, check_point
from gamp_theory.model import AttentionModel
from gamp_theory.state_evolution import solve

MODEL = AttentionModel.mixture()
KEYS = {"q", "m", "V", "theta", "train_loss", "test_error"}


@functools.cache
def solved(branch, lam=0.01):
    return solve(MODEL, 1.25, lam, branch, with_stability=False)


@pytest.mark.parametrize("branch", ["semantic", "positional"])
def test_fixed_points_are_confirmed(branch):
    found = check_point(solved(branch), samples=2**11, scrambles=16, seed=1)
    assert set(found) == KEYS
    for name, difference in found.items():
        assert difference.agrees, (name, difference)
        assert difference.standard_error > 0
    assert found["test_error"].standard_error < 0.02 * solved(branch).test_error


@pytest.mark.parametrize(("name", "factor"), [("V", 1.3), ("q", 0.8), ("m", 1.2)])
def test_wrong_overlaps_are_not(name, factor):
    point = solved("positional")
    wrong = dataclasses.replace(
        point,
        overlaps=dataclasses.replace(
            point.overlaps, **{name: factor * getattr(point.overlaps, name)}
        ),
    )
    found = check_point(wrong, samples=2**11, scrambles=16)
    assert not all(difference.agrees for difference in found.values())


def test_wrong_losses_are_not():
    point = solved("semantic")
    wrong = dataclasses.replace(
        point, train_loss=1.1 * point.train_loss, test_error=0.9 * point.test_error
    )
    found = check_point(wrong, samples=2**11, scrambles=16)
    assert not found["train_loss"].agrees
    assert not found["test_error"].agrees
    assert found["train_loss"].difference < 0 < found["test_error"].difference


def test_same_seed_same_numbers():
    options = {"samples": 2**8, "scrambles": 4, "seed": 3}
    point = solved("positional")
    assert check_point(point, **options) == check_point(point, **options)


def test_nothing_to_check_at_zero():
    assert check_point(solve(MODEL, 1.5, 0.1, "zero")) == {}
    assert check_point(solve(MODEL, 1.5, 0.01, "zero", on_failure="return")) == {}


def test_agreement_is_four_combined_errors():
    assert Difference(SIGMAS * 5.0, 3.0, 4.0).agrees
    assert Difference(-SIGMAS * 5.0, 3.0, 4.0).agrees
    assert not Difference(SIGMAS * 5.01, 3.0, 4.0).agrees


def test_rounding_is_no_disagreement():
    """Where m vanishes by symmetry the pairs +-w cancel to rounding, which is not random."""
    point = solve(MODEL, 1.5, 0.01, "uninformed", 1e-3, with_stability=False)
    found = check_point(point, samples=2**8, scrambles=16)
    assert abs(found["m"].difference) < 1e-14
    assert found["m"].standard_error >= 1e-14
