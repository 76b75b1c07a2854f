"""Overlaps per token, their coordinates, and the ridge prior against a literal twin."""

from __future__ import annotations

import numpy as np
import pytest

from gamp_theory.model import AttentionModel
from gamp_theory.overlaps import Conjugates
from gamp_theory.prior import prior_energy, prior_overlaps
from gamp_theory.spectrum import JointLaw
from gamp_theory.token_overlaps import Coordinates, TokenConjugates, TokenOverlaps
from gamp_theory.token_prior import token_prior_energy, token_prior_norm, token_prior_overlaps

L, R, T = 3, 2, 2


def spd(rng, *shape):
    x = rng.standard_normal((*shape, shape[-1]))
    return x @ np.swapaxes(x, -1, -2) + 0.1 * np.eye(shape[-1])


def some_law(seed=0, atoms=4):
    rng = np.random.default_rng(seed)
    w = rng.uniform(0.5, 1.5, atoms)
    return JointLaw(w / w.sum(), rng.uniform(0.1, 1.0, (atoms, L)), spd(rng, atoms, L + T))


def some_hats(seed=1):
    rng = np.random.default_rng(seed)
    return TokenConjugates(
        spd(rng, L, R), rng.standard_normal((L, R)), spd(rng, L, R), rng.standard_normal((L, R, T))
    )


def naive_prior(law, hats, lam):
    """docs/theory.md, (2.17), direction by direction, with draws of u that have the moments."""
    q, V = np.zeros((L, R, R)), np.zeros((L, R, R))
    m, theta = np.zeros((L, R)), np.zeros((L, R, T))
    energy = norm = 0.0
    for w, gamma, moments in zip(law.weights, law.gamma, law.moments, strict=True):
        A = lam * np.eye(R) + sum(gamma[k] * hats.V_hat[k] for k in range(L))
        Ai = np.linalg.inv(A)
        noise = sum(gamma[k] * hats.q_hat[k] for k in range(L))
        draws = np.sqrt(L + T) * np.linalg.cholesky(moments).T  # rows whose mean square is E u u^T
        for u in draws:
            tau, pi = u[:L], u[L:]
            share = w / len(draws)
            b = sum(tau[k] * hats.m_hat[k] + gamma[k] * hats.theta_hat[k] @ pi for k in range(L))
            square = Ai @ (noise + np.outer(b, b)) @ Ai
            for k in range(L):
                q[k] += share * gamma[k] * square
                V[k] += share * gamma[k] * Ai
                m[k] += share * tau[k] * Ai @ b
                theta[k] += share * gamma[k] * np.outer(Ai @ b, pi)
            energy += 0.5 * share * np.trace(Ai @ (noise + np.outer(b, b)))
            norm += share * np.trace(square)
    return q, m, V, theta, energy, norm


def test_prior_is_the_formula():
    law, hats = some_law(), some_hats()
    got = token_prior_overlaps(law, hats, 0.3)
    q, m, V, theta, energy, norm = naive_prior(law, hats, 0.3)
    assert got.q == pytest.approx(q, rel=1e-12)
    assert got.m == pytest.approx(m, rel=1e-12)
    assert pytest.approx(V, rel=1e-12) == got.V
    assert got.theta == pytest.approx(theta, rel=1e-12)
    assert token_prior_energy(law, hats, 0.3) == pytest.approx(energy, rel=1e-12)
    assert token_prior_norm(law, hats, 0.3) == pytest.approx(norm, rel=1e-12)
    got.check_domain(law.rho)


def test_prior_of_two_tokens_is_the_pair_prior():
    model = AttentionModel.mixture(sigma=0.7)
    pair = Conjugates(0.3, 0.2, 1.7, 0.4)
    law = JointLaw.isotropic(0.7, [[1.0], [-1.0]])
    hats = TokenConjugates(  # unequal shares of the two tokens: only the sums matter
        [[[0.1]], [[0.2]]], [[0.15], [-0.05]], [[[0.7]], [[1.0]]], [[[0.5]], [[-0.1]]]
    )
    want = prior_overlaps(model, pair, 0.02)
    got = token_prior_overlaps(law, hats, 0.02)
    assert got.q.ravel() == pytest.approx([want.q] * 2, rel=1e-13)
    assert got.V.ravel() == pytest.approx([want.V] * 2, rel=1e-13)
    assert got.m.ravel() == pytest.approx([want.m, -want.m], rel=1e-13)
    assert got.theta.ravel() == pytest.approx([want.theta] * 2, rel=1e-13)
    assert token_prior_energy(law, hats, 0.02) == pytest.approx(prior_energy(model, pair, 0.02))


def test_prior_without_a_minimum_is_refused():
    law, hats = some_law(), some_hats()
    bad = TokenConjugates(hats.q_hat, hats.m_hat, -hats.V_hat, hats.theta_hat)
    with pytest.raises(ValueError, match="positive definite in every atom"):
        token_prior_overlaps(law, bad, 0.01)


def test_energy_slopes_are_the_overlaps():
    """d(energy)/d(m_hat) = m and the like: the prior's part of a stationary free entropy."""
    law, hats = some_law(2), some_hats(3)
    overlaps = token_prior_overlaps(law, hats, 0.3)
    step = 1e-5
    for name, index, want in [
        ("m_hat", (1, 0), overlaps.m[1, 0]),
        ("theta_hat", (2, 1, 0), overlaps.theta[2, 1, 0]),
        ("V_hat", (0, 1, 1), -overlaps.q[0, 1, 1] / 2),
        ("q_hat", (0, 0, 0), overlaps.V[0, 0, 0] / 2),
    ]:
        moved = []
        for sign in (1, -1):
            fields = {n: np.array(getattr(hats, n)) for n in vars(hats)}
            fields[name][index] += sign * step
            moved.append(token_prior_energy(law, TokenConjugates(**fields), 0.3))
        assert (moved[0] - moved[1]) / (2 * step) == pytest.approx(want, rel=1e-7)


@pytest.mark.parametrize("law", [some_law(), JointLaw.isotropic(0.5, np.eye(3)[:, :2], np.eye(2))])
def test_coordinates_round_trip_on_what_the_prior_returns(law):
    coordinates = Coordinates.of(law, R)
    overlaps = token_prior_overlaps(law, some_hats(), 0.3)
    x = coordinates.pack(overlaps)
    assert x.shape == (coordinates.size,)
    back = coordinates.unpack(x)
    for name in ("q", "m", "V", "theta"):
        assert getattr(back, name) == pytest.approx(getattr(overlaps, name), rel=1e-10, abs=1e-12)


def test_coordinates_leave_out_what_the_law_makes_equal():
    assert Coordinates.of(JointLaw.isotropic(0.5, [[1.0], [-1.0]]), 1).size == 4
    assert Coordinates.of(JointLaw.isotropic(0.5, np.zeros((4, 1))), 1).size == 3
    two = JointLaw.isotropic((0.5, 0.5, 0.6), np.eye(3))
    assert Coordinates.of(two, 1).labels.tolist() == [0, 0, 1]
    assert Coordinates.of(two, 2).size == 2 * 3 + 3 * 2 + 2 * 3 + 2 * 2


def test_any_vector_is_in_the_domain():
    law = some_law()
    coordinates = Coordinates.of(law, R)
    for seed in range(20):
        x = np.random.default_rng(seed).standard_normal(coordinates.size)
        coordinates.unpack(x).check_domain(law.rho)


def test_canonical_representative_is_one_for_the_whole_orbit():
    law = some_law()
    overlaps = token_prior_overlaps(law, some_hats(), 0.3)
    want = overlaps.canonical()
    total = want.q.sum(axis=0)
    assert total == pytest.approx(np.diag(np.diag(total)), abs=1e-12)
    for seed in range(4):
        O = np.linalg.qr(np.random.default_rng(seed).standard_normal((R, R)))[0]
        got = overlaps.rotated(O).canonical()
        for name in ("q", "m", "V", "theta"):
            assert getattr(got, name) == pytest.approx(getattr(want, name), rel=1e-9, abs=1e-11)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"q": -np.ones((2, 1, 1))}, "q must be positive semi-definite"),
        ({"V": np.ones((2, 2, 2))}, "must be"),
        ({"m": [[np.nan], [0.0]]}, "m must be finite"),
        ({"theta": [[0.0], [0.0]]}, "theta must have 3 dimensions"),
    ],
)
def test_bad_overlaps_are_refused(change, match):
    good = {"q": np.ones((2, 1, 1)), "m": np.zeros((2, 1)), "V": np.ones((2, 1, 1))}
    good["theta"] = np.full((2, 1, 1), 0.5)
    TokenOverlaps(**good).check_domain(np.full((2, 1, 1), 0.25))
    with pytest.raises(ValueError, match=match):
        TokenOverlaps(**(good | change))


def test_outside_the_domain_is_said_with_numbers():
    overlaps = TokenOverlaps([[[1.0]]], [[0.0]], [[[1.0]]], [[[0.6]]])
    with pytest.raises(ValueError, match="positive semi-definite for every token"):
        overlaps.check_domain(np.array([[[0.25]]]))
