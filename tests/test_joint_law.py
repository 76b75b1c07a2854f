"""The joint law of covariances, positions and teacher: constructors, refusals, samples."""

from __future__ import annotations

import numpy as np
import pytest

from gamp_theory.spectrum import JointLaw


def matrices(seed=0, tokens=3, d=12, rank=2, values=3):
    """Commuting covariances with few distinct joint eigenvalues, positions and a teacher."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((d, d)))[0]
    gamma = rng.uniform(0.2, 1.5, (values, tokens))[np.arange(d) % values]
    S = np.einsum("ia,al,ja->lij", basis, gamma, basis)
    return S, rng.standard_normal((tokens, d)) / np.sqrt(d), rng.standard_normal((d, rank)), gamma


def test_matrices_give_their_own_moments():
    S, p, Q, gamma = matrices()
    law = JointLaw.from_matrices(S, p, Q)
    assert len(law.weights) == 3  # directions with equal eigenvalues are one atom
    assert law.rho == pytest.approx(np.einsum("it,lij,ju->ltu", Q, S, Q) / 12, rel=1e-12)
    assert law.position_gram == pytest.approx(p @ p.T, rel=1e-12, abs=1e-14)
    assert law.variance == pytest.approx(np.trace(S, axis1=1, axis2=2) / 12, rel=1e-12)
    cross = np.einsum("k,kl,kmt->lmt", law.weights, law.gamma, law.moments[:, :3, 3:])
    want = np.einsum("mi,lij,jt->lmt", p, S, Q) / np.sqrt(12)
    assert cross == pytest.approx(want, rel=1e-11, abs=1e-14)


def test_matrices_with_all_directions_different_equal_discrete_atoms():
    S, p, Q, gamma = matrices(values=12)
    law = JointLaw.from_matrices(S, p, Q)
    basis = np.linalg.eigh(S[0])[1]
    atoms = JointLaw.discrete(
        np.full(12, 1 / 12),
        np.einsum("ia,lij,ja->al", basis, S, basis),
        np.sqrt(12) * basis.T @ p.T,
        basis.T @ Q,
    )
    for name in ("rho", "position_gram", "variance"):
        assert getattr(law, name) == pytest.approx(getattr(atoms, name), rel=1e-11, abs=1e-14)


def test_covariances_that_do_not_commute_are_named():
    S, p, Q, _ = matrices()
    S[2] = np.diag(np.linspace(0.5, 1.5, 12))
    with pytest.raises(ValueError, match=r"covariances must commute.*Sigma_0, Sigma_2"):
        JointLaw.from_matrices(S, p, Q)


def test_power_law_has_its_moments():
    law = JointLaw.power_law(0.6, (0.5, 0.8), [[1.0], [-1.0]], alignment=0.3)
    assert law.variance == pytest.approx([0.25, 0.64], rel=1e-13)
    # int gamma pi^2 with gamma = (1-a) u^-a, pi^2 = (1-b) u^-b: (1-a)(1-b)/(1-a-b)
    assert law.rho[:, 0, 0] == pytest.approx(np.array([0.25, 0.64]) * 0.4 * 0.7 / 0.1, rel=1e-6)
    trailing = JointLaw.power_law(0.6, 0.5, [[1.0], [-1.0]], alignment=-2.0)
    assert trailing.rho[0, 0, 0] == pytest.approx(0.25 * 0.4 * 3 / 2.4, rel=1e-6)
    assert trailing.position_gram == pytest.approx(np.array([[1, -1], [-1, 1]]), rel=1e-12)


def test_power_law_nodes_do_not_matter_for_a_ridge_average():
    def ridge(law):
        return law.weights @ (law.gamma[:, 0] / (0.01 + 0.2 * law.gamma[:, 0]))

    few = JointLaw.power_law(0.6, 0.5, [[1.0]])
    many = JointLaw.power_law(0.6, 0.5, [[1.0]], nodes=60)
    assert ridge(few) == pytest.approx(ridge(many), rel=1e-10)
    assert ridge(JointLaw.power_law(0.0, 0.5, [[1.0]])) == pytest.approx(0.25 / 0.06, rel=1e-13)


def test_correlation_and_length_of_positions():
    law = JointLaw.isotropic(0.5, [[1.0, 0.5], [-1.0, 0.0]], correlation=[[0.4], [0.0]])
    assert law.position_gram == pytest.approx(np.array([[1.25, -1], [-1, 1]]))
    assert law.moments[0, 0, 2] == 0.4


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"weights": [0.5, 0.4]}, "weights must be positive and sum to 1"),
        ({"weights": [1.0]}, "one entry per atom"),
        ({"gamma": [[1.0, -0.1], [1.0, 1.0]]}, "gamma must be >= 0"),
        ({"gamma": [[1.0, np.nan], [1.0, 1.0]]}, "gamma must be finite"),
        ({"moments": np.ones((2, 2, 2))}, "moments must have shape"),
        ({"moments": np.array([np.diag([1.0, 1, -1])] * 2)}, "positive semi-definite"),
        ({"moments": np.array([np.diag([1.0, 1, 0])] * 2)}, "positive definite"),
        ({"moments": np.triu(np.ones((2, 3, 3)))}, "symmetric"),
    ],
)
def test_bad_laws_are_refused(change, match):
    good = {"weights": [0.5, 0.5], "gamma": np.ones((2, 2)), "moments": np.array([np.eye(3)] * 2)}
    JointLaw(**good)
    with pytest.raises(ValueError, match=match):
        JointLaw(**(good | change))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: JointLaw.isotropic(-1.0, [[1.0]]), "sigma must be a positive number"),
        (lambda: JointLaw.isotropic((1.0, 2.0), [[1.0]]), "one for each of 1 tokens"),
        (lambda: JointLaw.isotropic(1.0, [1.0]), "positions must have 2 dimensions"),
        (lambda: JointLaw.isotropic(1.0, [[1.0]], correlation=[[2.0]]), "semi-definite"),
        (lambda: JointLaw.isotropic(1.0, [[1.0]], teacher=[[1.0, 0.0]]), "square"),
        (lambda: JointLaw.power_law(1.0, 0.5, [[1.0]]), "exponent must lie in"),
        (lambda: JointLaw.power_law(0.5, 0.5, [[1.0]], alignment=0.5), "alignment must be"),
    ],
)
def test_bad_arguments_are_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_samples_have_the_second_moments_of_their_atoms():
    moments = np.array([np.diag([1.0, 2.0, 0.5]), [[1, 0.5, 0.2], [0.5, 1, 0], [0.2, 0, 1]]])
    law = JointLaw([0.25, 0.75], [[1.0, 0.5], [0.2, 0.3]], moments)
    gamma, tau, pi = law.sample(400, np.random.default_rng(1))
    assert gamma[:100].tolist() == [[1.0, 0.5]] * 100
    assert gamma[100:].tolist() == [[0.2, 0.3]] * 300
    u = np.concatenate([tau, pi], axis=1)
    assert u[:100].T @ u[:100] / 100 == pytest.approx(moments[0], rel=1e-12, abs=1e-12)
    assert u[100:].T @ u[100:] / 300 == pytest.approx(moments[1], rel=1e-12, abs=1e-12)
