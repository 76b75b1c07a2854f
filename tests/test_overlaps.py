"""Overlaps and conjugates: round trips and their domain."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import prior_map as naive_prior_map

from gamp_theory.model import AttentionModel
from gamp_theory.overlaps import Conjugates, Overlaps
from gamp_theory.prior import prior_energy, prior_overlaps

real = st.floats(-1e6, 1e6)
positive = st.floats(0, 1e6)


@given(positive, real, positive, real)
def test_overlaps_round_trip(q, m, V, theta):
    overlaps = Overlaps(q, m, V, theta)
    assert overlaps.as_array().tolist() == [q, m, V, theta]
    assert Overlaps.from_array(overlaps.as_array()) == overlaps


@given(real, real, real, real)
def test_conjugates_round_trip(q_hat, m_hat, V_hat, theta_hat):
    values = [q_hat, m_hat, V_hat, theta_hat]
    hats = Conjugates(*values)
    assert Conjugates.from_array(hats.as_array()) == hats
    assert hats.as_array().tolist() == values


@given(positive, real, positive, real)
def test_canonical_is_idempotent_and_changes_signs_only(q, m, V, theta):
    canonical = Overlaps(q, m, V, theta).canonical()
    assert canonical.m >= 0
    assert canonical.theta >= 0
    assert canonical == Overlaps(q, abs(m), V, abs(theta)) == canonical.canonical()
    assert canonical == Overlaps(q, -m, V, -theta).canonical()


@given(st.floats(1e-3, 10), st.floats(1e-6, 10), st.floats(-1, 1))
def test_domain_is_closed(rho, q, cosine):
    Overlaps(q, 0, 1, cosine * math.sqrt(rho * q)).check_domain(rho)
    with pytest.raises(ValueError, match="theta must satisfy"):
        Overlaps(q, 0, 1, math.copysign(1.001, cosine) * math.sqrt(rho * q)).check_domain(rho)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((-0.1, 0, 1, 0), r"q must be >= 0, got -0\.1"),
        ((0.1, 0, -1, 0), r"V must be >= 0, got -1\.0"),
        ((math.nan, 0, 1, 0), "q must be finite, got nan"),
        ((0.1, math.inf, 1, 0), "m must be finite, got inf"),
        ((0.1, 0, math.inf, 0), "V must be finite, got inf"),
        ((0.1, 0, 1, math.nan), "theta must be finite, got nan"),
    ],
)
def test_values_outside_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Overlaps(*values)


def test_overlaps_are_not_conjugates():
    assert Overlaps(1, 0, 1, 0) != Conjugates(1, 0, 1, 0)


@given(
    st.floats(0, 2), st.floats(-1, 1), st.floats(0, 2), st.floats(-1, 1),
    st.floats(0.1, 2), st.floats(1e-3, 1),
)  # fmt: skip
def test_prior_is_the_spectral_average(q_hat, m_hat, V_hat, theta_hat, sigma, lam):
    hats = Conjugates(q_hat, m_hat, V_hat, theta_hat)
    got = prior_overlaps(AttentionModel.mixture(sigma=sigma), hats, lam)
    expected = naive_prior_map(q_hat, m_hat, V_hat, theta_hat, sigma, lam)
    np.testing.assert_allclose(got.as_array(), expected, rtol=1e-12)
    got.check_domain(sigma**2)


def test_prior_energy_generates_the_overlaps():
    """d/dq_hat = V/2, d/dm_hat = m, d/dV_hat = -q/2, d/dtheta_hat = theta."""
    model, lam = AttentionModel.mixture(), 0.01
    hats = np.array([0.02, 0.01, 0.04, 0.05])
    q, m, V, theta = prior_overlaps(model, Conjugates.from_array(hats), lam).as_array()
    for j, expected in enumerate((V / 2, m, -q / 2, theta)):
        step = 1e-5 * hats[j] * np.eye(4)[j]
        up, down = (
            prior_energy(model, Conjugates.from_array(hats + sign * step), lam) for sign in (1, -1)
        )
        assert (up - down) / (2 * step[j]) == pytest.approx(expected, rel=1e-7)


def test_prior_without_a_mode_is_refused():
    with pytest.raises(ValueError, match=r"lam \+ sigma\*\*2 V_hat must be positive"):
        prior_overlaps(AttentionModel.mixture(), Conjugates(0.1, 0, -1, 0), 0.01)
